"""Whoever asks a served log is on record before the answer; a folder that nobody serves is not written to."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import pwd
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from audit import cli, host_events
from audit.commit import BlockingLog, LogPlace
from audit.instance import ADMIN_LOG, Instance
from audit.query import searches
from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.index.compact import Compactor
from audit.query.lines import Found
from audit.query.tail import Follower
from audit.sealing.keys import create_key
from audit.sealing.process import seal_once
from audit.segments import list_segments
from audit.subjects import make_privacy_key
from audit.verify import verify


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T00:00:00Z")
    instance.save()
    return instance


@pytest.fixture(autouse=True)
def modest(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have made this process modest for good."""
    said: list[str] = []
    monkeypatch.setattr(searches, "be_modest", lambda: said.append("modest"))
    return said


@contextmanager
def served(instance: Instance) -> Iterator[None]:
    with (instance.data / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(instance: Instance, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [*arguments, "--data", str(instance.data)])


def searched(instance: Instance) -> list[dict[str, Any]]:
    lines = [line for path in sorted(instance.log_folder(ADMIN_LOG).glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [record for record in map(orjson.loads, lines) if record["eventName"] == searches.EVENT]


def test_where_anything_was_private_what_is_asked_for_is_recorded_as_its_hmac(instance: Instance) -> None:
    key = make_privacy_key(instance, os.urandom)
    with served(instance):
        run(instance, "query", "--context", "Patient=anna", "--context", "nonsense-anna")
        (instance.data / "privacy.key").write_bytes(b"damaged")
        run(instance, "query", "--context", "patient=anna")
        run(instance, "attest-absence", "--context", "patient=anna")
    first, *others = searched(instance)
    assert first["requestParameters"]["question"]["context"] == [f"Patient={key.digest('patient', 'anna')}", "[withheld]"]
    assert first["additionalEventData"]["keytrail"]["privateContext"] == {"Patient": "hmac", "*": "withheld"}
    assert len(others) == 2
    for record in others:
        assert record["requestParameters"]["question"]["context"] == ["patient=[withheld]"]
        assert record["additionalEventData"]["keytrail"]["privateContext"] == {"patient": "withheld"}


def test_what_reveals_is_on_record_also_where_nobody_serves(instance: Instance) -> None:
    make_privacy_key(instance, os.urandom)
    assert "nothing encrypted can be read" in run(instance, "query", "--reveal").output
    [record] = searched(instance)
    assert record["requestParameters"] == {"command": "query", "question": {"reveal": True}}


def test_a_search_is_on_record_before_it_is_answered(instance: Instance, modest: list[str]) -> None:
    with served(instance):
        result = run(instance, "query", "--event", "SearchLog", "--context", "tenant=acme", "--since", "7d", "--format", "json")
    assert modest == ["modest"]  # calls come first
    (record,) = searched(instance)
    assert record["requestParameters"] == {
        "command": "query",
        "question": {"since": "7d", "event": ["SearchLog"], "context": ["tenant=acme"]},
    }
    assert record["eventSource"] == "keytrail" and record["userIdentity"]["userName"]
    assert record["additionalEventData"]["keytrail"]["identityProof"] == "host-operator"
    assert (result.exit_code, result.stderr) == (0, "")
    assert orjson.loads(run(instance, "query", "--event", "SearchLog", "--format", "json").stdout) == record


def test_a_folder_that_is_not_served_is_not_written_to(instance: Instance, modest: list[str]) -> None:
    (instance.data / "serve.lock").touch()
    before = {path: path.stat().st_mtime_ns for path in sorted(instance.data.rglob("*"))}
    assert run(instance, "sql", "SELECT count(*) FROM events").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in sorted(instance.data.rglob("*"))} == before
    assert modest == []


def test_where_it_cannot_be_recorded_that_is_said_and_the_search_goes_on(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "lock")

    monkeypatch.setattr(host_events, "BlockingLog", refuse)
    with served(instance):
        result = run(instance, "sql", "SELECT 'answered' AS a", "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, "a\nanswered\n")
    assert result.stderr.startswith("this search is not on record: ")
    assert searched(instance) == []


def test_it_waits_for_another_command_that_writes(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    place = LogPlace(instance.log_folder(ADMIN_LOG), instance.checkpoint_folder(ADMIN_LOG), "eu-central-1", "111122223333")
    other = BlockingLog(place)
    waited = []

    def wait(_: float) -> None:
        waited.append(1)
        if len(waited) == 20:
            other.close()

    monkeypatch.setattr("audit.commit.time.sleep", wait)
    with served(instance):
        searches.record_search(instance.data, "query", {"key": "alias/a"})
    assert len(waited) >= 20
    assert [record["requestParameters"]["question"] for record in searched(instance)] == [{"key": "alias/a"}]


def test_a_question_of_any_length_is_on_record(instance: Instance) -> None:
    with served(instance):
        searches.record_search(instance.data, "query", {"fingerprint": ["a" * 64] * 1_000, "since": None, "place": Path("x")})
        searches.record_search(instance.data, "inventory", {"place": Path("x"), "no_index": True})
    asked = orjson.dumps({"fingerprint": ["a" * 64] * 1_000, "place": "x"}).decode()
    assert len(asked) == 67_029
    assert [record["requestParameters"]["question"] for record in searched(instance)] == [
        {
            "omitted": True,
            "originalSize": len(asked),
            "beginning": asked[:1_024],
            "sha256": hashlib.sha256(asked.encode()).hexdigest(),
        },
        {"place": "x"},
    ]


def test_no_ciphertext_and_no_password_is_on_record(instance: Instance, tmp_path: Path) -> None:
    blob = base64.b64encode(b"CIPHERTEXT-OR-A-PLAINTEXT-KEY").decode()
    with served(instance):
        for artefact in (blob, "no such file", str(tmp_path), "odd/\udcff.bin"):
            options = {"artifact": artefact, "s3_endpoint": "http://user:secret@127.0.0.1:1"}
            searches.record_search(instance.data, "trace", options)
    assert [record["requestParameters"]["question"] for record in searched(instance)] == [
        {"artifact": hashlib.sha256(b"CIPHERTEXT-OR-A-PLAINTEXT-KEY").hexdigest()},
        {"artifact": "neither a place nor a ciphertext"},
        {"artifact": str(tmp_path)},
        {"artifact": "neither a place nor a ciphertext"},
    ]


def test_no_credentials_of_a_catalogue_are_on_record(instance: Instance) -> None:
    options = {
        "url": "s3://key:secret@lake/audit",
        "catalog_uri": "https://user:secret@example.com",
        "catalog_property": ["credential=secret"],
        "keep": 24.0,
    }
    with served(instance):
        searches.record_search(instance.data, "publish", options)
    assert [one["requestParameters"]["question"] for one in searched(instance)] == [{"url": "s3://…@lake/audit", "keep": 24.0}]


def test_fifty_searches_make_one_segment_and_nobody_who_reads_it_minds_that_it_grows(instance: Instance) -> None:
    """Each is a command of its own, and the writer has gone when the next one comes."""
    create_key(instance)
    follower = Follower(instance.data, Filter())
    follower.last(0)
    followed = []
    for number in range(50):
        with served(instance):
            searches.record_search(instance.data, "query", {"key": f"alias/{number}"})
        followed += [one.line for one in follower.poll() if isinstance(one, Found)]
        if number % 10 == 3:
            seal_once(instance)
            with Compactor(instance.data, open_bytes=1) as compactor:
                compactor.run()
            assert verify(instance.data).passed
    (segment,) = list_segments(instance.log_folder(ADMIN_LOG))
    assert segment.path.read_bytes().splitlines() == followed
    assert [one["requestParameters"]["question"]["key"] for one in searched(instance)] == [f"alias/{n}" for n in range(50)]
    with search(instance.data, [Filter()]) as result:
        assert (sorted(one.line for one in result.records()), result.damaged) == (sorted(followed), [])
    seal_once(instance)
    report = verify(instance.data)
    assert report.passed
    assert [log.records for log in report.logs] == [50]


def test_what_is_asked_by_standard_input_is_on_record(instance: Instance) -> None:
    with served(instance):
        command = ["sql", "-", "--format", "csv", "--data", str(instance.data)]
        result = CliRunner().invoke(cli.app, command, input="SELECT 43 AS answer")
    assert (result.exit_code, result.stdout) == (0, "answer\n43\n")
    assert [record["requestParameters"]["question"] for record in searched(instance)] == [{"statement": "SELECT 43 AS answer"}]


def test_the_environment_does_not_say_who_asks(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "innocent")
    with served(instance):
        searches.record_search(instance.data, "query", {})
    assert [record["userIdentity"]["userName"] for record in searched(instance)] == [pwd.getpwuid(os.getuid()).pw_name]


def test_looking_whether_it_is_served_does_not_keep_serve_out(instance: Instance) -> None:
    """It takes the lock for a moment, in which `hold` must not fail."""
    looked, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            instance.is_served  # noqa: B018 - see above
            looked.set()

    os.close(instance.hold())
    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert looked.wait(30)
        for _ in range(200):
            held = instance.hold()
            assert instance.is_served
            os.close(held)
        assert looking.is_alive()
    finally:
        ended.set()
        looking.join()


def test_every_command_that_tells_what_is_in_the_log_is_on_record() -> None:
    others = {
        "checkpoint",
        "verify",
        "verify-attestation",
        "verify-proof",
        "acknowledge",
        "status",
        "update",
        "rebuild",
        "cloudtrail",
        "list",
        "remove",
        *("init", "serve", "evidence", "submit"),  # of a witness, which has no log; and what goes to one is no record
    }
    groups = [resolve_name(place) for place in set(cli.COMMANDS.values())]
    found = {
        command.name or command.callback.__name__.replace("_", "-")
        for group in groups
        for command in group.registered_commands
        if command.callback is not None
    }
    assert found - others == cli.SEARCHES
