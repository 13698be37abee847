"""`verify` on honest logs: it passes, and says what it did not check."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from audit.commit import BlockingLog, LogPlace
from audit.record import AuditRecord, Phase, UserIdentity
from audit.report import Verdict
from audit.sealing.process import seal_once
from audit.segments import segment_name
from audit.verify import verify
from audit.verifying.titles import TITLES
from tests.audit.forge import Forge
from tests.audit.verifying.verdicts import failed, only, places, verdicts


def test_an_honest_log_passes_every_step_that_has_something_to_check(forge: Forge) -> None:
    read: list[tuple[int, int]] = []
    saved = forge.latest
    report = verify(forge.instance.data, [forge.verifier], [saved], lambda done, total: read.append((done, total)))
    log = only(report)
    assert report.passed and not report.faults
    assert (log.log, log.records, log.sealed, log.unsealed) == ("admin", 35, 31, 4)
    assert [step.number for step in log.steps] == list(TITLES)
    assert {number for number, verdict in verdicts(report).items() if verdict is Verdict.NOT_CHECKED} == {
        8,
        10,
        11,
        12,
        13,
        14,
    }  # no mutating call, no receipt, no policy, no certificates, no heartbeat, no maximum age
    size = sum(path.stat().st_size for path in forge.folder.glob("*.jsonl"))
    assert read[-1] == (size, size)


def test_nothing_is_said_to_have_passed_that_was_not_checked(empty: Forge) -> None:
    report = empty.verify()
    assert report.passed
    assert [number for number, verdict in verdicts(report).items() if verdict is Verdict.PASSED] == [1]
    assert "empty" in only(report).steps[0].detail
    assert not (empty.folder / segment_name(0)).exists()


def test_the_report_as_json(forge: Forge) -> None:
    forge.write(0, forge.lines(0)[1:])
    document = orjson.loads(forge.verify().to_json())
    (log,) = document["logs"]
    assert document["passed"] is False
    assert (log["records"], log["sealed"], log["unsealed"]) == (35, 0, 35)
    assert log["steps"][2] == {"number": 3, "title": TITLES[3], "verdict": "failed", "detail": "1 fault", "passed": False}
    assert log["faults"][0] == {
        "step": 3,
        "log": "admin",
        "segment": segment_name(0),
        "line": 1,
        "reason": "record 0 is missing: here stands record 1",
        "finding": "",
    }


def commit_from(log: BlockingLog, first: int, count: int, *, time_us: int = 0, **change: Any) -> None:
    """Commit `count` records by the code that serves. Any: whatever field of a record."""
    for number in range(first, first + count):
        facts: dict[str, Any] = {
            "time_us": time_us + number,
            "event_id": f"e{number}",
            "event_name": "Encrypt",
            "event_source": "kms.amazonaws.com",
            "event_type": "AwsApiCall",
            "identity": UserIdentity("IAMUser"),
            "aws_region": "eu-central-1",
            "source_ip": "192.0.2.1",
        }
        log.commit(AuditRecord(**{**facts, **change}))


def test_a_log_written_and_sealed_by_the_real_code(empty: Forge) -> None:
    place = LogPlace(empty.folder, empty.checkpoints, "eu-central-1", "111122223333", max_segment_bytes=4_000)
    with BlockingLog(place) as log:
        commit_from(log, 0, 30)
        seal_once(empty.instance)
        commit_from(log, 30, 1, event_id="i1", phase=Phase.INTENT)
        report = empty.verify(empty.latest)
        assert report.passed, "an intent of a log that is being written may be under way"
        assert (only(report).records, only(report).sealed) == (31, 30)
        commit_from(log, 31, 1, phase=Phase.OUTCOME, intent_id="i1")
        seal_once(empty.instance)
    report = empty.verify(empty.latest)
    assert report.passed
    assert (only(report).records, only(report).sealed) == (32, 32)
    assert [number for number, verdict in verdicts(report).items() if verdict is not Verdict.PASSED] == [10, 11, 12, 13, 14]
    segments = sorted(empty.folder.glob("*.jsonl"))
    assert len(segments) > 3
    second = segments[1].read_bytes()
    segments[1].write_bytes(second.replace(b'"Encrypt"', b'"Decrypt"', 1))
    assert places(empty.verify(), 5) == [(segments[1].name, 1)]


def test_what_recovery_leaves_is_an_honest_log(empty: Forge) -> None:
    place = LogPlace(empty.folder, empty.checkpoints, "eu-central-1", "111122223333", max_segment_bytes=4_000)
    with BlockingLog(place) as log:
        commit_from(log, 0, 8)
        commit_from(log, 8, 1, event_id="i1", phase=Phase.INTENT)
    seal_once(empty.instance)
    (last,) = sorted(empty.folder.glob("*.jsonl"))[-1:]
    with last.open("ab") as file:
        file.write(b'{"torn')
    assert failed(empty.verify()) == {8}, "recovery is due: the torn tail is no fault, the lost outcome is"
    BlockingLog(place).close()
    seal_once(empty.instance)
    report = empty.verify()
    assert report.passed
    assert verdicts(report)[8] is Verdict.PASSED
    assert only(report).records == 11, "what was recovered, and an outcome that is unknown"


SEC = 1_000_000


@pytest.mark.parametrize(("age_s", "is_young"), [(0, True), (9, True), (11, False), (-11, False)])
def test_a_log_that_no_checkpoint_could_be_signed_for_yet(empty: Forge, age_s: int, is_young: bool) -> None:
    now_us = 1_800_000_000 * SEC
    place = LogPlace(empty.folder, empty.checkpoints, "eu-central-1", "111122223333")
    with BlockingLog(place) as log:
        commit_from(log, 0, 3, time_us=now_us - age_s * SEC)
        commit_from(log, 3, 1, time_us=max(now_us, now_us - age_s * SEC))
    report = verify(empty.instance.data, now_us=lambda: now_us)
    assert report.passed is is_young
    assert verdicts(report)[4] is (Verdict.NOT_CHECKED if is_young else Verdict.FAILED)
    assert ("not yet sealed" in only(report).steps[3].detail) is is_young
    assert verdicts(report)[5] is Verdict.NOT_CHECKED


def test_young_records_are_no_excuse_where_there_were_checkpoints(empty: Forge) -> None:
    now_us = 1_800_000_000 * SEC
    place = LogPlace(empty.folder, empty.checkpoints, "eu-central-1", "111122223333")
    with BlockingLog(place) as log:
        commit_from(log, 0, 3, time_us=now_us)
    seal_once(empty.instance)
    for name in ("history", "latest", "frontier"):
        report = verify(empty.instance.data, now_us=lambda: now_us)
        assert report.passed is (name == "history"), name
        (empty.checkpoints / name).unlink()
