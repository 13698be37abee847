"""Real processes and real faults: whatever happens, every answer that a client received is on record."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.integration.conftest import LIMIT_S, Reply, Server, forms, is_running, keytrail, keytrail_command, wait_until

CALLERS = 4


class Callers:
    """Calls in a few threads until they are stopped, whatever becomes of them; `answered` counts those with success."""

    limit_s = LIMIT_S

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(CALLERS)]
        self.answered = 0

    def _call(self, caller: int) -> None:
        """What the thread `caller` does, until `_stopping` is set."""
        raise NotImplementedError

    def wait_for(self, more: int) -> None:
        """Until so many more calls are answered with success."""
        before = self.answered
        wait_until(lambda: self.answered >= before + more, f"{more} more answers", self.limit_s)

    @contextmanager
    def running(self) -> Iterator[Self]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join(LIMIT_S)
            assert not any(thread.is_alive() for thread in self._threads), "a call hangs"


class Load(Callers):
    """Calls in a few threads: reads, and changes among them. `replies` is everything that was received whole."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.replies: list[Reply] = []
        self._key_id = server.demo_key_id()

    def _call(self, caller: int) -> None:
        connection = self._server.connect()
        for number in itertools.count():
            if self._stopping.is_set():
                break
            operation = "GenerateDataKey"
            parameters: dict[str, object] = {"KeyId": "alias/demo", "KeySpec": "AES_256"}
            if number % 10 == caller:
                operation = "TagResource"
                parameters = {"KeyId": self._key_id, "Tags": [{"TagKey": "t", "TagValue": f"{caller}-{number}"}]}
            try:
                reply = self._server.post(operation, parameters, connection)
                self.replies.append(reply)
                self.answered += reply.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = self._server.connect()
                self._stopping.wait(0.01)  # it is down: no need to hurry
        connection.close()


def require_recorded(server: Server, replies: list[Reply]) -> None:
    """Every answer has its outcome in the log; every intent has one too."""
    records = server.records()
    outcomes = {record.get("requestID") for record in records if keytrail(record)["phase"] == "outcome"}
    missing = [reply for reply in replies if reply.request_id not in outcomes]
    assert not [reply for reply in missing if reply.status not in (500, 503)]
    intents = {record["eventID"] for record in records if keytrail(record)["phase"] == "intent"}
    assert intents == {keytrail(record)["intent"] for record in records if "intent" in keytrail(record)}
    assert len({record["eventID"] for record in records}) == len(records)


def require_no_key_material(reply: Reply) -> None:
    assert reply.status in (500, 503)
    assert set(json.loads(reply.body)) == {"__type", "message"}


def test_a_killed_worker_is_replaced_and_no_answer_is_without_its_record(own_server: Server) -> None:
    own_server.start()
    killed = own_server.children()["worker"]
    with Load(own_server).running() as load:
        load.wait_for(100)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: own_server.children().get("worker", killed) != killed and own_server.is_ready(), "a new worker")
        load.wait_for(100)
    assert own_server.stop() == 0
    require_recorded(own_server, load.replies)


def test_when_everything_is_killed_the_next_start_has_it_all(own_server: Server) -> None:
    own_server.start()
    with Load(own_server).running() as load:
        load.wait_for(100)
        own_server.kill_all()
    torn = b'{"eventVersion":"1.11","userIdentity":{"type":"IAMU'
    last = own_server.segments()[-1]
    with last.open("ab") as file:
        file.write(torn)
    before = own_server.count_records()
    own_server.start()
    assert own_server.post("ListKeys", {}).status == 200
    assert own_server.stop() == 0
    require_recorded(own_server, load.replies)
    recovered = [record for record in own_server.records()[before:] if record["eventName"] == "RecoverLog"]
    (tail,) = recovered[0]["serviceEventDetails"]["tornTails"]
    assert (own_server.data / "log" / "w0" / tail["movedTo"]).read_bytes() == torn


class Changes(Callers):
    """Keys and aliases that are made, moved and deleted, one call after another."""

    limit_s = 3 * LIMIT_S

    def _call(self, caller: int) -> None:
        key_id = self._server.demo_key_id()
        for number in itertools.count():
            alias = f"alias/{caller}-{number // 4}"
            for operation, parameters in (
                ("CreateKey", {"Description": f"{caller}-{number}"}),
                ("CreateAlias", {"AliasName": alias, "TargetKeyId": key_id}),
                ("UpdateAlias", {"AliasName": alias, "TargetKeyId": key_id}),
                ("DeleteAlias", {"AliasName": f"alias/{caller}-{number // 4 - 1}"}),
            ):
                if self._stopping.is_set():
                    return
                try:
                    reply = self._server.post(operation, parameters)
                except (OSError, http.client.HTTPException):
                    self._stopping.wait(0.01)  # it is down: no need to hurry
                    continue
                if reply.status == 200:
                    self.answered += 1
                    if operation == "CreateKey":
                        key_id = json.loads(reply.body)["KeyMetadata"]["KeyId"]


def kill_worker(server: Server) -> None:
    killed = server.children()["worker"]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: server.children().get("worker", killed) != killed, "a new worker", 3 * LIMIT_S)


def require_agreement(server: Server) -> None:
    """What the store has is on record, and what is on record as done is in the store."""
    records = [*server.records("admin"), *server.records("w0")]
    lost = [record for record in records if keytrail(record)["phase"] == "unknown"]
    assert all(keytrail(record)["effect"] in ("made", "none") for record in lost)
    done = [
        record
        for record in records
        if record.get("eventSource") == "kms.amazonaws.com"
        and (keytrail(record).get("effect") == "made" or (keytrail(record)["phase"] == "outcome" and "errorCode" not in record))
    ]

    def named(*events: str) -> set[str]:
        return {resource["ARN"] for record in done if record["eventName"] in events for resource in record["resources"]}

    kms = server.client()
    keys = {key["KeyArn"] for page in kms.get_paginator("list_keys").paginate() for key in page["Keys"]}
    assert keys == {arn for arn in named("CreateKey") if ":key/" in arn}
    aliases = {alias["AliasArn"] for page in kms.get_paginator("list_aliases").paginate() for alias in page["Aliases"]}
    made, deleted = ({arn for arn in named(f"{verb}Alias") if ":alias/" in arn} for verb in ("Create", "Delete"))
    assert aliases <= made
    assert made - deleted <= aliases


def test_whenever_a_worker_is_killed_the_store_and_the_log_agree(own_server: Server) -> None:
    own_server.start()
    moments = random.Random(7)
    with Changes(own_server).running() as changes:
        for _ in range(4):  # each one is started anew after twice the pause of the one before
            changes.wait_for(20)
            threading.Event().wait(moments.random() / 20)  # at any point of a call
            kill_worker(own_server)
    wait_until(own_server.is_ready, "it is ready", 3 * LIMIT_S)
    require_agreement(own_server)
    assert own_server.stop() == 0
    verified = subprocess.run(
        [keytrail_command(), "verify", "--data", str(own_server.data)], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_sigterm_finishes_what_is_under_way_and_signs_for_it(own_server: Server) -> None:
    own_server.start()
    children = own_server.children()
    with Load(own_server).running() as load:
        load.wait_for(100)
        assert own_server.stop() == 0
    assert not any(map(is_running, children.values()))
    require_recorded(own_server, load.replies)
    assert {reply.code for reply in load.replies} == {None}
    records = own_server.records()
    assert not [record for record in records if record["eventName"] == "RecoverLog" or keytrail(record)["phase"] == "unknown"]
    latest = (own_server.data / "checkpoints" / "w0" / "latest").read_text()
    assert int(latest.split("\n")[1]) == len(records)


def test_workers_do_not_outlive_a_supervisor_that_was_killed(own_server: Server) -> None:
    own_server.start()
    children = own_server.children()
    assert set(children) == {"worker", "sealer", "indexer"}
    with Load(own_server).running() as load:
        load.wait_for(50)
        os.kill(own_server.process.pid, signal.SIGKILL)
        own_server.process.wait(LIMIT_S)
        wait_until(lambda: not any(map(is_running, children.values())), "the children are gone")
    require_recorded(own_server, load.replies)


def test_a_log_that_vanishes_while_serving_stops_the_answers(own_server: Server) -> None:
    own_server.start()
    assert own_server.post("ListKeys", {}).status == 200
    folder = own_server.data / "log" / "w0"
    shutil.rmtree(folder)
    require_no_key_material(own_server.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}))
    wait_until(lambda: not own_server.is_ready(), "it is not ready")
    assert "vanished" in own_server.health()[1]["processes"]["w0"]["reason"]
    for _ in range(3):
        require_no_key_material(own_server.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}))
    wait_until(lambda: "cannot be recovered" in own_server.outputs[0].read_text(), "recovery was tried")
    assert not folder.exists()
    own_server.stop()
    own_server.spawn()
    assert own_server.process.wait(LIMIT_S) == 3
    assert "INCIDENT" in own_server.outputs[-2].read_text()
    assert not folder.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_answers_until_there_is_room(small_disk: Path, initialised: Path, tmp_path: Path) -> None:
    data = small_disk / "data"
    shutil.copytree(initialised, data)
    server = Server(data)
    replies: list[Reply] = []

    def call() -> Reply:
        replies.append(server.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}))
        return replies[-1]

    server.start()
    try:
        assert call().status == 200
        free = os.statvfs(small_disk)
        filler = small_disk / "filler"
        filler.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 40_000))
        wait_until(lambda: call().status != 200, "the disk is full")
        require_no_key_material(replies[-1])
        wait_until(lambda: not server.is_ready(), "it is not ready")
        require_no_key_material(call())
        filler.unlink()
        wait_until(server.is_ready, "it is ready again")
        assert call().status == 200
        assert server.stop() == 0
        require_recorded(server, replies)
    finally:
        server.kill_all()


def test_no_secret_is_in_any_file_or_output(own_server: Server) -> None:
    own_server.start()
    kms = own_server.client()
    secrets = {"master key": (own_server.data / "master.key").read_bytes().strip()}
    secrets["master key, decoded"] = base64.b64decode(secrets["master key"])
    access_key_id, secret_access_key = own_server.credentials()
    secrets["secret access key"] = secret_access_key.encode()
    for number in range(3):
        made = kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext={"tenant": "acme"})
        secrets[f"data key {number}"] = made["Plaintext"]
        opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"tenant": "acme"})
        assert opened["Plaintext"] == made["Plaintext"]
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"tenant": "other"})
        secrets[f"ciphertext {number}"] = made["CiphertextBlob"]
    secrets["message"] = b"a message that nobody else is to read"
    blob = kms.encrypt(KeyId="alias/demo", Plaintext=secrets["message"])["CiphertextBlob"]
    secrets["moved"] = kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId="alias/demo")["CiphertextBlob"]
    secrets["random"] = kms.generate_random(NumberOfBytes=32)["Plaintext"]

    def attempt(operation: str, secret: str, **parameters: object) -> Mapping[str, Any]:  # Any: members of an answer
        """An answer whose member `secret` is to be found nowhere; {} where this version does not do the operation."""
        try:
            answer: Mapping[str, Any] = getattr(kms, operation)(**parameters)
        except kms.exceptions.UnsupportedOperationException:
            return {}
        if secret:
            secrets[secret] = answer[secret]
        return answer

    message = secrets["message"]
    attempt("generate_data_key_pair", "PrivateKeyPlaintext", KeyId="alias/demo", KeyPairSpec="ECC_NIST_P256")
    if made_key := attempt("create_key", "", KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY"):
        key_id = made_key["KeyMetadata"]["KeyId"]
        attempt("sign", "Signature", KeyId=key_id, Message=message, SigningAlgorithm="ECDSA_SHA_256")
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    if made_key := attempt("create_key", "", KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC"):
        attempt("generate_mac", "Mac", KeyId=made_key["KeyMetadata"]["KeyId"], Message=message, MacAlgorithm="HMAC_SHA_256")
    own_server.post("Encrypt", {"KeyId": 1, "Plaintext": "YSBtZXNzYWdlIHRoYXQgbm9ib2R5IGVsc2UgaXMgdG8gcmVhZA=="})
    own_server.post("Encrypt", b'{"KeyId": "1", "Plaintext": "YSBtZXNzYWdlIHRoYXQgbm9ib2R5IGVsc2UgaXMgdG8gcmVhZA==", ')
    assert own_server.stop() == 0

    private = {own_server.data / name for name in ("master.key", "credentials", "sealer.key")}
    files = [path for path in own_server.data.rglob("*") if path.is_file() and path not in private]
    assert len(files) > 5
    for path in [*files, *own_server.outputs]:
        content = path.read_bytes()
        for what, secret in secrets.items():
            assert not any(form in content for form in forms(secret)), f"the {what} is in {path.name}"
    assert access_key_id.encode() in b"".join(path.read_bytes() for path in own_server.segments())
    require_recorded(own_server, [])
