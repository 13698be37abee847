"""Proofs from a running server, checked by Go's sumdb packages too; and receipts, collected by boto3, held against the log."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.checkpoint import claimed_checkpoint
from audit.instance import Instance
from audit.levels import LevelFiles
from audit.log import Mark
from audit.merkle import leaf_hash
from audit.sealing.keys import KeyPlace
from audit.sealing.process import seal_once
from audit.tiles import consistency_proof
from tests.integration.components.go_checker import GoChecker
from tests.integration.conftest import LIMIT_S, Server, keytrail, wait_until
from tests.integration.test_serve import run_keytrail

CALLS = 300
DATA_KEY = {"KeyId": "alias/demo", "KeySpec": "AES_256"}


@pytest.fixture(scope="module")
def sealed(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose log has more records than a tile, all under checkpoints; the first of them is kept in `early`."""
    data = tmp_path_factory.mktemp("sealed") / "data"
    shutil.copytree(initialised, data)
    running = Server(data, {"KEYTRAIL_TLOG_ENTRIES": "true"}).start()
    connection = running.connect()
    assert running.post("GenerateDataKey", DATA_KEY, connection).status == 200
    wait_until(lambda: sealed_records(running) >= 1, "the first record is sealed")
    (data.parent / "early").write_text(checkpoint(running))
    for _ in range(CALLS):
        assert running.post("GenerateDataKey", DATA_KEY, connection).status == 200
    connection.close()
    wait_until(lambda: sealed_records(running) > CALLS, "all are sealed")
    yield running
    assert running.stop() == 0


def checkpoint(server: Server) -> str:
    path = server.data / "checkpoints/w0/latest"
    return path.read_text() if path.exists() else ""


def sealed_records(server: Server) -> int:
    note = checkpoint(server)
    return claimed_checkpoint(note).size if note else 0


def key_of(server: Server, log: str = "w0") -> str:
    keys = run_keytrail(server.data.parent, "checkpoint", "--key", "--data", str(server.data)).stdout.split()
    return next(key for key in keys if f"/{log}+" in key)


def proved(server: Server, folder: Path, number: int) -> Path:
    """The proof of record `number`, by its event id; the record beside it."""
    event_id = server.records()[number]["eventID"]
    done = run_keytrail(server.data.parent, "prove", event_id, "--out", str(folder), "--data", str(server.data))
    assert done.returncode == 0, done.stderr
    return folder / f"w0-{number}.tlog-proof"


def get(url: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as response:  # noqa: S310 - http
            return response.status, response.read(), response.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["Content-Type"]


# --- proofs


def test_a_proof_is_checked_without_the_data_folder(sealed: Server, tmp_path: Path) -> None:
    proof = proved(sealed, tmp_path, 123)
    done = run_keytrail(tmp_path, "verify-proof", proof.name, "--key", key_of(sealed))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Proved: this record is number 123 of the log keytrail/")
    record = proof.with_suffix(".json")
    record.write_bytes(record.read_bytes().replace(b"AES_256", b"AES_128"))
    done = run_keytrail(tmp_path, "verify-proof", proof.name, "--key", key_of(sealed))
    assert (done.returncode, done.stdout) == (1, "")


def test_who_proves_is_on_record(sealed: Server, tmp_path: Path) -> None:
    proved(sealed, tmp_path, 5)
    searched = [record for record in sealed.records("admin") if record["eventName"] == "SearchLog"]
    assert searched[-1]["requestParameters"]["command"] == "prove"
    assert searched[-1]["requestParameters"]["question"] == {"event_id": sealed.records()[5]["eventID"]}


def test_go_agrees(sealed: Server, tmp_path: Path) -> None:
    """An implementation that is not ours: checkpoint, inclusion, consistency; and what is altered is refused."""
    go = GoChecker(key_of(sealed))
    early, late = sealed.data.parent / "early", tmp_path / "late"
    late.write_text(checkpoint(sealed))
    for note in (early, late):
        assert go.check("checkpoint", note).returncode == 0
    for number in (0, 123, 255, 256, CALLS):
        proof = proved(sealed, tmp_path, number)
        done = go.check("inclusion", proof, proof.with_suffix(".json"))
        assert (done.returncode, done.stdout.startswith(f"record {number} is in a tree of ")) == (0, True), done.stderr
    record = proof.with_suffix(".json")
    record.write_bytes(record.read_bytes().replace(b"AES_256", b"AES_128"))
    assert go.check("inclusion", proof, record).returncode == 1

    sizes = [claimed_checkpoint(note.read_text()).size for note in (early, late)]
    instance = Instance.load(sealed.data)
    hashes = consistency_proof(LevelFiles(instance.checkpoint_folder("w0")).read, *sizes)
    consistency = tmp_path / "consistency"
    consistency.write_text("".join(f"{base64.b64encode(one).decode()}\n" for one in hashes))
    assert go.check("consistency", early, late, consistency).returncode == 0
    consistency.write_text("".join(f"{base64.b64encode(one).decode()}\n" for one in reversed(hashes)))
    assert go.check("consistency", early, late, consistency).returncode == 1


def test_go_takes_a_checkpoint_of_no_other_key(sealed: Server, tmp_path: Path) -> None:
    late = tmp_path / "late"
    late.write_text(checkpoint(sealed))
    assert GoChecker(key_of(sealed, "admin")).check("checkpoint", late).returncode == 1
    late.write_text(checkpoint(sealed).replace("\n30", "\n31", 1))
    assert GoChecker(key_of(sealed)).check("checkpoint", late).returncode == 1


def test_go_makes_its_own_proof_from_the_tiles(sealed: Server, tmp_path: Path) -> None:
    go, prefix = GoChecker(key_of(sealed)), f"{sealed.admin_url}/tlog/w0"
    lines = sealed.segments()[0].read_bytes().split(b"\n")
    record = tmp_path / "record"
    for number in (3, 255, 256, CALLS):
        record.write_bytes(lines[number])
        done = go.check("tiles", prefix, number, record)
        assert done.returncode == 0, done.stderr
    record.write_bytes(lines[CALLS].replace(b"AES_256", b"AES_128"))
    assert go.check("tiles", prefix, CALLS, record).returncode == 1


def test_the_tree_is_served(sealed: Server) -> None:
    prefix = f"{sealed.admin_url}/tlog/w0"
    assert get(f"{prefix}/checkpoint")[::2] == (200, "text/plain; charset=utf-8")
    status, tile, kind = get(f"{prefix}/tile/0/000")
    assert (status, len(tile), kind) == (200, 8_192, "application/octet-stream")
    status, bundle, kind = get(f"{prefix}/tile/entries/000")
    assert (status, kind) == (200, "application/octet-stream")
    size = int.from_bytes(bundle[:2], "big")
    assert leaf_hash(bundle[2 : 2 + size]) == tile[:32]
    for path in ("tile/0/001", "tile/0/x000/000", "tile/9/000", "latest", "tile/0/../../../../sealer.key"):
        assert get(f"{prefix}/{path}")[0] == 404
    assert get(f"{sealed.admin_url}/tlog/w9/checkpoint")[0] == 404


def test_records_are_served_by_setting_only(server: Server) -> None:
    assert server.post("GenerateDataKey", DATA_KEY).status == 200
    wait_until(lambda: sealed_records(server) >= 1, "the record is sealed")
    status, body, _ = get(f"{server.admin_url}/tlog/w0/tile/entries/000.p/1")
    assert (status, body) == (403, b"Entries are not served: the setting is `tlog_entries`.\n")
    assert get(f"{server.admin_url}/tlog/w0/tile/0/000.p/1")[0] == 200


# --- receipts


def test_receipts_are_collected_by_boto3_and_a_cut_tail_shows(own_server: Server, tmp_path: Path) -> None:
    own_server.start()
    file = tmp_path / "receipts.txt"
    kms = own_server.client()

    def keep(parsed: Any, **_: object) -> None:  # Any: what botocore read from an answer
        with file.open("a") as receipts:
            receipts.write(parsed["ResponseMetadata"]["HTTPHeaders"]["x-keytrail-receipt"] + "\n")

    kms.meta.events.register("after-call.kms", keep)
    made = kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256")
    told = made["ResponseMetadata"]["HTTPHeaders"]["x-keytrail-receipt"]
    kms.decrypt(CiphertextBlob=made["CiphertextBlob"])
    kms.create_key()
    with pytest.raises(kms.exceptions.NotFoundException):
        kms.describe_key(KeyId="alias/none")
    kms.close()
    assert own_server.stop() == 0
    receipts = file.read_text().splitlines()
    assert receipts[0] == told and len(receipts) == 4
    lines = own_server.segments()[0].read_bytes().split(b"\n")
    outcomes = [line for line in lines[:-1] if keytrail(orjson.loads(line))["phase"] == "outcome"]
    expected = [(keytrail(json.loads(line))["sequence"], base64.b64encode(leaf_hash(line)).decode()) for line in outcomes]
    assert [(int(receipt.split()[1]), receipt.split()[2]) for receipt in receipts] == expected

    def verify() -> subprocess.CompletedProcess[str]:
        return run_keytrail(tmp_path, "verify", "--receipts", str(file), "--data", str(own_server.data))

    done = verify()
    assert done.returncode == 0, done.stdout
    assert "every receipt that was given is of a record that is here, under a checkpoint: 4 given" in done.stdout

    # As root would: the last record goes, and everything that tells of it; what is left is signed anew.
    segment = own_server.segments()[0]
    segment.write_bytes(b"\n".join(lines[:-2]) + b"\n")
    shutil.rmtree(own_server.data / "checkpoints/w0")
    (own_server.data / "checkpoints/w0").mkdir()
    first = int(segment.stem)
    (own_server.data / "log/w0/mark").write_bytes(Mark(first + len(lines) - 2, first, segment.stat().st_size, first).encode())
    instance = Instance.load(own_server.data)
    KeyPlace().state_file(instance).unlink()
    seal_once(instance)
    done = verify()
    assert done.returncode == 1
    assert f"w0: a receipt was given for record {len(lines) - 2}: the log ends with record {len(lines) - 3}" in done.stdout
