"""Private contexts, whole: nothing is written in clear, what is asked for is found, what is shredded is gone, and proofs stay."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import LIMIT_S, Server, keytrail, keytrail_command, wait_until

SETTING = "patient=hmac, note=encrypted:patient"
ANNA = {"patient": "canary-anna", "note": "canary-asthma"}
BEN = {"patient": "canary-ben", "note": "canary-gout"}


@pytest.fixture(scope="module")
def private_server(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers; the setting was changed midway, so that the log has values in clear of before."""
    data = tmp_path_factory.mktemp("private") / "data"
    shutil.copytree(initialised, data)
    running = Server(data, {"KEYTRAIL_WORKERS": "2"}).start()
    assert running.post("GenerateDataKey", data_key({"patient": "before", "note": "old"})).status == 200
    assert running.stop() == 0
    running.settings["KEYTRAIL_CONTEXT_PRIVACY"] = SETTING
    running.start()
    yield running
    assert running.stop() == 0


def data_key(context: dict[str, str]) -> dict[str, Any]:
    return {"KeyId": "alias/demo", "KeySpec": "AES_256", "EncryptionContext": context}


def run(server: Server, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [keytrail_command(), *argv],
        env=server.environment,
        cwd=server.data.parent,
        capture_output=True,
        text=True,
        timeout=3 * LIMIT_S,
    )
    assert done.returncode == code, done.stderr
    return done


def found(server: Server, *argv: str) -> list[dict[str, Any]]:
    done = run(server, "query", "--format", "json", *argv)
    return [json.loads(line) for line in done.stdout.splitlines()]


def everything_written(server: Server) -> Iterator[tuple[Path, bytes]]:
    """Each file of the data folder, but for the key store, and what the processes printed."""
    for path in [*server.data.rglob("*"), *server.outputs]:
        if path.is_file() and not path.name.startswith("keystore."):
            yield path, path.read_bytes()


def test_a_private_value_is_found_revealed_shredded_and_nowhere_in_clear(private_server: Server) -> None:
    server = private_server
    for context in (ANNA, BEN, ANNA):
        for _ in range(3):  # connections of their own: both workers
            assert server.post("GenerateDataKey", data_key(context)).status == 200
    grant = {
        "KeyId": server.demo_key_id(),
        "GranteePrincipal": "arn:aws:iam::111122223333:user/demo",
        "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextSubset": ANNA},
    }
    assert server.post("CreateGrant", grant).status == 200
    assert server.post("Encrypt", data_key(ANNA)).status == 400  # no Plaintext
    assert server.post("GenerateDataKey", {"KeyId": "alias/none", "KeySpec": "AES_256", "EncryptionContext": BEN}).status == 400
    wait_until(lambda: server.count_records("w0") + server.count_records("w1") > 12, "all are recorded")

    calls = found(server, "--context", "patient=canary-anna")
    assert [record["eventName"] for record in calls].count("GenerateDataKey") == 6
    assert {record["errorCode"] for record in calls if "errorCode" in record} == {"ValidationException"}
    assert len(found(server, "--context", "patient=canary-anna", "--no-index")) == len(calls)
    assert found(server, "--context", "patient=before")[0]["requestParameters"]["encryptionContext"]["note"] == "old"
    assert found(server, "--context", "note=canary-asthma") == []
    digest = run(server, "stored-form", "patient=canary-anna").stdout.strip()
    asked = f"SELECT count(*) FROM calls WHERE context['patient'] = '{digest}' AND private_context['patient'] = 'hmac'"  # noqa: S608
    assert run(server, "sql", "--format", "csv", asked).stdout.split() == ["count_star()", str(len(calls))]

    shown = found(server, "--context", "patient=canary-anna", "--event", "GenerateDataKey", "--reveal")
    assert {record["requestParameters"]["encryptionContext"]["note"] for record in shown} == {"canary-asthma"}
    [revealing] = [
        record
        for record in server.records("admin")
        if record["eventName"] == "SearchLog" and record["requestParameters"]["question"].get("reveal")
    ]
    assert revealing["requestParameters"]["question"]["context"] == [f"patient={digest}"]
    assert keytrail(revealing)["privateContext"] == {"patient": "hmac"}

    before = {
        path: content for path, content in everything_written(server) if path.suffix == ".jsonl" and "admin" not in str(path)
    }
    run(server, "shred", "--subject", "patient=canary-anna")
    run(server, "shred", "--subject", "patient=canary-anna", code=1)
    assert all(path.read_bytes().startswith(content) for path, content in before.items())
    assert server.post("GenerateDataKey", data_key(ANNA | {"note": "canary-later"})).status == 200
    notes = [
        record["requestParameters"]["encryptionContext"]["note"]
        for record in found(server, "--context", "patient=canary-anna", "--event", "GenerateDataKey", "--reveal")
    ]
    assert notes == ["[shredded]"] * 6 + ["canary-later"]
    bens = found(server, "--context", "patient=canary-ben", "--event", "GenerateDataKey", "--error", "none", "--reveal")
    assert {record["requestParameters"]["encryptionContext"]["note"] for record in bens} == {"canary-gout"}
    shredded = [record for record in server.records("admin") if record["eventName"] == "ShredSubject"]
    assert [keytrail(record)["phase"] for record in shredded] == ["intent", "outcome"] * 2
    assert {record["requestParameters"]["subject"] for record in shredded} == {f"patient={digest}"}

    run(server, "verify")
    for path, content in everything_written(server):
        assert b"canary" not in content, path


def test_an_attestation_speaks_of_private_values_too(private_server: Server) -> None:
    server = private_server
    assert server.post("GenerateDataKey", data_key({"patient": "canary-cleo"})).status == 200
    wait_until(lambda: b"Verified" in run(server, "verify").stdout.encode(), "it is sealed")
    present = run(server, "attest-absence", "--context", "patient=canary-cleo", code=1)
    assert "NOT ABSENT: 1 record" in present.stderr
    document = server.data.parent / "absent.json"
    run(server, "attest-absence", "--context", "patient=canary-nobody", "--out", str(document))
    told = json.loads(run(server, "verify-attestation", str(document), "--data", str(server.data), "--json").stdout)
    question = told["statement"]["predicate"]["question"]
    assert question["context"] == [["patient", "canary-nobody"]]
    assert question["digests"] == [run(server, "stored-form", "patient=canary-nobody").stdout.strip()]
    key = server.data / "privacy.key"
    key.rename(key.with_name("aside"))
    try:
        unable = run(server, "attest-absence", "--context", "patient=canary-cleo", code=1)
    finally:
        key.with_name("aside").rename(key)
    assert "private values are not searched" in unable.stderr
    assert "in a form that is not searched" in unable.stderr


def test_the_setting_is_changed_while_it_serves(own_server: Server) -> None:
    config = own_server.data.parent / "keytrail.toml"
    config.write_text("")
    own_server.settings["KEYTRAIL_CONFIG"] = str(config)
    own_server.start()
    assert own_server.post("GenerateDataKey", data_key({"patient": "clear", "note": "clear"})).status == 200
    config.write_text('context_privacy = ["patient=hmac", "note=encrypted:patient"]')
    own_server.process.send_signal(signal.SIGHUP)

    def form() -> str | None:
        assert own_server.post("GenerateDataKey", data_key(ANNA)).status == 200
        told: str | None = keytrail(own_server.records()[-1]).get("privateContext", {}).get("note")
        return told

    wait_until(lambda: form() == "encrypted", "the new setting is followed")
    assert found(own_server, "--context", "patient=clear")
    hidden = found(own_server, "--context", "patient=canary-anna")
    assert hidden[-1]["requestParameters"]["encryptionContext"]["patient"].startswith("hmac-sha256:")
    config.write_text('context_privacy = ["note=encrypted:patient"]')
    own_server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: any("is a subject, so it needs" in path.read_text() for path in own_server.outputs), "it is refused")
    assert form() == "encrypted"  # as before


def test_reveal_is_refused_where_it_cannot_be_recorded(own_server: Server) -> None:
    own_server.settings["KEYTRAIL_CONTEXT_PRIVACY"] = SETTING
    own_server.start()
    assert own_server.post("GenerateDataKey", data_key(ANNA)).status == 200
    assert own_server.stop() == 0
    folder = own_server.data / "log" / "admin"
    shutil.rmtree(folder)
    done = run(own_server, "query", "--reveal", code=1)
    assert done.stdout == ""
    assert "canary" not in done.stderr


def test_a_setting_that_cannot_be_followed_is_refused(own_server: Server) -> None:
    own_server.settings["KEYTRAIL_CONTEXT_PRIVACY"] = "note=encrypted:patient"
    done = run(own_server, "serve", code=3)
    assert "`context_privacy`: 'patient' is a subject, so it needs patient=hmac" in done.stderr
