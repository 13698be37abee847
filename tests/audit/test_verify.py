"""`verify` on honest logs, and on every way of tampering: it fails, and names the place."""

from __future__ import annotations

import base64
import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from audit import cli
from audit.checkpoint import Checkpoint, VerifierKey, sign
from audit.commit import BlockingLog, LogPlace
from audit.errors import CheckpointInvalid
from audit.instance import Instance, NoInstance
from audit.log import Mark
from audit.merkle import leaf_hash, root_of
from audit.record import AuditRecord, Phase, UserIdentity
from audit.report import Fault, LogReport, Report, Verdict
from audit.sealing.keys import create_key, load_key
from audit.sealing.log_sealer import LogSealer
from audit.sealing.process import seal_once
from audit.segments import segment_name
from audit.verify import verify
from audit.verifying.titles import TITLES

SEGMENT = 10  # records in each


def line(sequence: int, log: str = "admin", *, phase: str = "outcome", intent: str = "", word: str = "") -> bytes:
    extension = {"log": log, "sequence": sequence, "phase": phase}
    if intent:
        extension["intent"] = intent
    record = {
        "eventVersion": "1.11",
        "userIdentity": {"type": "IAMUser"},
        "eventTime": "2026-01-02T03:04:05Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": word or "Encrypt",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "192.0.2.1",
        "requestParameters": None,
        "responseElements": None,
        "additionalEventData": {"keytrail": extension},
        "eventID": f"e{sequence}",
        "eventType": "AwsApiCall",
        "eventCategory": "Management",
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


@dataclass
class Forge:
    """An honest instance with one log, and the means to tamper with it."""

    instance: Instance
    log: str = "admin"
    records: int = 0

    @property
    def folder(self) -> Path:
        return self.instance.log_folder(self.log)

    @property
    def checkpoints(self) -> Path:
        return self.instance.checkpoint_folder(self.log)

    @property
    def key(self) -> Ed25519PrivateKey:
        return load_key(self.instance.sealer_key)

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.of(self.instance.origin(self.log), self.key)

    @property
    def latest(self) -> str:
        return (self.checkpoints / "latest").read_text("utf-8")

    def segment(self, number: int) -> Path:
        return self.folder / segment_name(number * SEGMENT)

    def append(self, *lines: bytes) -> None:
        """Write as the proxy does: segments of ten records, then the mark."""
        for text in lines:
            with self.segment(self.records // SEGMENT).open("ab") as file:
                file.write(text)
            self.records += 1
        last = self.segment((self.records - 1) // SEGMENT)
        segment = int(last.name[:20])
        (self.folder / "mark").write_bytes(Mark(self.records, segment, last.stat().st_size, 0).encode())

    def seal(self) -> None:
        origin = self.instance.origin(self.log)
        assert LogSealer(self.folder, self.checkpoints, origin, self.key).seal() is not None

    def grow(self, count: int) -> None:
        self.append(*(line(self.records + offset, self.log) for offset in range(count)))

    def lines(self, number: int) -> list[bytes]:
        return self.segment(number).read_bytes().splitlines(keepends=True)

    def write(self, number: int, lines: list[bytes]) -> None:
        self.segment(number).write_bytes(b"".join(lines))

    def verify(self, *saved: str) -> Report:
        return verify(self.instance.data, saved=saved)


@pytest.fixture
def empty(tmp_path: Path) -> Forge:
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
    create_key(instance)
    instance.save()
    return Forge(instance)


@pytest.fixture
def forge(empty: Forge) -> Forge:
    """35 records in four segments, sealed at 7, 20, 26 and 31."""
    for sealed in (7, 20, 26, 31):
        empty.grow(sealed - empty.records)
        empty.seal()
    empty.grow(4)
    return empty


def only(report: Report) -> LogReport:
    (log,) = report.logs
    return log


def verdicts(report: Report) -> dict[int, Verdict]:
    return {step.number: step.verdict for step in only(report).steps}


def failed(report: Report) -> set[int]:
    return {number for number, verdict in verdicts(report).items() if verdict is Verdict.FAILED}


def faults(report: Report, step: int) -> list[Fault]:
    return [fault for fault in report.faults if fault.step == step]


def places(report: Report, step: int) -> list[tuple[str, int]]:
    return [(fault.segment, fault.line) for fault in faults(report, step)]


# --- honest logs


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


# --- tampering with lines


def test_a_changed_byte(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    report = forge.verify(forge.latest)
    assert failed(report) == {5, 7}
    assert places(report, 5) == [(segment_name(10), 5)]
    assert faults(report, 5)[0].reason.startswith("record 14 is not the one that checkpoint 1 of the history")
    assert places(report, 7) == [(segment_name(10), 5)]
    assert only(report).sealed == 7


def test_every_byte_of_a_line_counts_and_so_does_its_newline(forge: Forge) -> None:
    whole = forge.segment(1).read_bytes()
    start = len(b"".join(forge.lines(1)[:4]))
    for position in range(start, start + len(forge.lines(1)[4])):
        for byte in (whole[position] ^ 1, 0x20 if whole[position] == 0x0A else 0x0A):
            forge.segment(1).write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
            report = forge.verify()
            where = sorted({fault.line for fault in report.faults if fault.segment == segment_name(10)})
            assert where and where[0] == 5, (position, byte, where)
    forge.segment(1).write_bytes(whole)
    assert forge.verify().passed


def test_many_changed_lines_are_counted_and_a_few_are_named(empty: Forge) -> None:
    empty.grow(200)
    empty.seal()
    for number in range(20):
        empty.write(number, [text.replace(b"Encrypt", b"Decrypt") for text in empty.lines(number)])
    report = empty.verify()
    assert only(report).steps[4].detail == "200 faults"
    assert places(report, 5) == [(segment_name(index // 10 * 10), index % 10 + 1) for index in range(50)]


def test_two_changed_bytes_far_apart_are_both_named(forge: Forge) -> None:
    for number, position in ((0, 2), (2, 8)):
        lines = forge.lines(number)
        lines[position] = lines[position].replace(b"Encrypt", b"Decrypt")
        forge.write(number, lines)
    assert places(forge.verify(), 5) == [(segment_name(0), 3), (segment_name(20), 9)]


def test_a_changed_byte_without_leaves_is_narrowed_down(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    (forge.checkpoints / "leaves").unlink()
    report = forge.verify()
    assert failed(report) == {5}
    assert "they differ between records 7 and 19" in faults(report, 5)[0].reason


def test_leaves_that_were_changed_along_are_not_believed(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    leaves = bytearray((forge.checkpoints / "leaves").read_bytes())
    leaves[14 * 32 : 15 * 32] = leaf_hash(lines[4][:-1])
    (forge.checkpoints / "leaves").write_bytes(leaves)
    report = forge.verify()
    assert failed(report) == {5}
    assert "they differ between records 7 and 19" in faults(report, 5)[0].reason


def test_damaged_leaves_alone_are_no_fault(forge: Forge) -> None:
    (forge.checkpoints / "leaves").write_bytes(bytes(31 * 32))
    assert forge.verify(forge.latest).passed


def test_a_changed_number(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b'"sequence":14', b'"sequence":17')
    forge.write(1, lines)
    report = forge.verify()
    assert {3, 5} <= failed(report)
    assert faults(report, 3) == [
        Fault(3, "admin", segment_name(10), 5, "record 14 should stand here: the line says that it is record 17")
    ]
    assert places(report, 5) == [(segment_name(10), 5)]


@pytest.mark.parametrize("number", [*(str(2**power) for power in (31, 58, 59, 63, 64, 99)), "-1", "14.0", '"14"', "null", "true"])
@pytest.mark.parametrize("has_leaves", [True, False])
def test_a_number_that_no_file_could_hold(forge: Forge, number: str, has_leaves: bool) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b'"sequence":14', b'"sequence":' + number.encode())
    forge.write(1, lines)
    if not has_leaves:
        (forge.checkpoints / "leaves").unlink()
    report = forge.verify()
    assert {3, 5} <= failed(report)
    assert places(report, 3)[0] == (segment_name(10), 5)


def test_a_segment_of_a_number_that_no_file_could_hold(forge: Forge) -> None:
    (forge.folder / ("9" * 20 + ".jsonl")).write_bytes(line(35))
    report = forge.verify()
    assert 2 in failed(report)
    assert places(report, 2) == [("9" * 20 + ".jsonl", 0)]


@pytest.mark.parametrize("name", ["eventVersion", "userIdentity", "eventTime", "sourceIPAddress", "eventID", "responseElements"])
def test_a_record_without_what_cloudtrail_requires(forge: Forge, name: str) -> None:
    record = orjson.loads(line(35))
    del record[name]
    forge.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    reason = f"record 35 lacks what CloudTrail requires of every record: {name}"
    assert forge.verify().faults == (Fault(3, "admin", segment_name(30), 6, reason),)


def test_a_log_with_a_record_taken_out_and_the_rest_renumbered(forge: Forge) -> None:
    saved = forge.latest
    kept = [text for number in range(4) for text in forge.lines(number)]
    del kept[14]
    renumbered = [text.replace(b'"sequence":%d,' % (i + (i >= 14)), b'"sequence":%d,' % i) for i, text in enumerate(kept)]
    for path in forge.folder.glob("*.jsonl"):
        path.unlink()
    forge.records = 0
    forge.append(*renumbered)
    report = forge.verify(saved)
    assert failed(report) == {5, 7}
    assert places(report, 5)[0] == (segment_name(10), 5)
    assert places(report, 7) == [(segment_name(10), 5)]
    assert only(report).sealed == 7


@pytest.mark.parametrize("text", [b"not JSON\n", b"{}\n", b"\n", line(14, "w0")])
def test_a_line_that_is_no_record_of_this_log(forge: Forge, text: bytes) -> None:
    lines = forge.lines(1)
    lines[4] = text
    forge.write(1, lines)
    report = forge.verify()
    assert {3, 5} <= failed(report)
    assert places(report, 3) == places(report, 5) == [(segment_name(10), 5)]


def test_a_deleted_line(forge: Forge) -> None:
    lines = forge.lines(1)
    del lines[4]
    forge.write(1, lines)
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    assert faults(report, 3) == [Fault(3, "admin", segment_name(10), 5, "record 14 is missing: here stands record 15")]
    assert len(faults(report, 5)) == 1
    assert only(report).sealed == 7


def test_the_last_line_of_a_segment_deleted(forge: Forge) -> None:
    forge.write(1, forge.lines(1)[:-1])
    report = forge.verify()
    assert {2, 5} <= failed(report)
    assert faults(report, 2) == [Fault(2, "admin", segment_name(20), 0, "record 19 is missing before this segment")]


def test_a_duplicated_line(forge: Forge) -> None:
    lines = forge.lines(1)
    forge.write(1, [*lines[:5], lines[4], *lines[5:]])
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    reason = "record 14 stands here a second time; record 15 should"
    assert faults(report, 3) == [Fault(3, "admin", segment_name(10), 6, reason)]


def test_two_swapped_lines(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4], lines[5] = lines[5], lines[4]
    forge.write(1, lines)
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    assert faults(report, 3) == [
        Fault(3, "admin", segment_name(10), 5, "record 14 is missing: here stands record 15"),
        Fault(3, "admin", segment_name(10), 6, "record 14 stands behind record 15: out of order"),
    ]


def test_an_inserted_line(forge: Forge) -> None:
    lines = forge.lines(1)
    forge.write(1, [*lines[:4], line(14, word="Forged"), *lines[4:]])
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    assert places(report, 3)[0] == (segment_name(10), 6)
    assert (segment_name(10), 5) in places(report, 5)


@pytest.mark.parametrize("has_leaves", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_deleted_segment(forge: Forge, number: int, has_leaves: bool) -> None:
    forge.segment(number).unlink()
    if not has_leaves:
        (forge.checkpoints / "leaves").unlink()
    report = forge.verify(forge.latest)
    assert {2, 5, 7} <= failed(report)
    first = number * SEGMENT
    reason = f"records {first}–{first + 9} are missing before this segment"
    assert faults(report, 2) == [Fault(2, "admin", segment_name(first + SEGMENT), 0, reason)]


def test_a_deleted_last_segment(forge: Forge) -> None:
    forge.segment(3).unlink()
    report = forge.verify(forge.latest)
    assert failed(report) == {5, 7, 9}
    assert places(report, 5) == [(segment_name(20), 10)]
    assert "the log ends with record 29, but checkpoint 3 of the history (31 records)" in faults(report, 5)[0].reason


def test_all_segments_deleted(forge: Forge) -> None:
    for segment in forge.folder.glob("*.jsonl"):
        segment.unlink()
    report = forge.verify(forge.latest)
    assert {5, 7, 9} <= failed(report)
    assert "the log is empty" in faults(report, 5)[0].reason


def test_a_renamed_segment(forge: Forge) -> None:
    forge.segment(2).rename(forge.folder / segment_name(21))
    report = forge.verify()
    assert 2 in failed(report)
    assert faults(report, 2)[0] == Fault(2, "admin", segment_name(21), 0, "record 20 is missing before this segment")


def test_a_segment_that_overlaps_the_one_before(forge: Forge) -> None:
    forge.segment(1).rename(forge.folder / segment_name(9))
    report = forge.verify()
    reason = "its name says that it begins with record 9, but 10 comes next"
    assert faults(report, 2) == [Fault(2, "admin", segment_name(9), 0, reason)]
    assert failed(report) == {2}


def test_a_closed_segment_without_its_last_newline(forge: Forge) -> None:
    forge.segment(1).write_bytes(forge.segment(1).read_bytes()[:-1])
    report = forge.verify()
    assert {2, 3, 5} <= failed(report)
    assert faults(report, 3)[0].line == 10


def test_a_forged_line_before_the_mark(forge: Forge) -> None:
    lines = forge.lines(3)
    forge.write(3, [*lines[:3], line(33, word="Forged"), *(line(sequence) for sequence in (34, 35))])
    report = forge.verify()
    assert failed(report) == {9}
    assert "the mark says that record 34 ends" in faults(report, 9)[0].reason


def test_a_mark_that_counts_otherwise(forge: Forge) -> None:
    (forge.folder / "mark").write_bytes(Mark(34, 30, forge.segment(3).stat().st_size, 0).encode())
    reason = "the mark says that record 33 ends here, but record 34 does"
    assert forge.verify().faults == (Fault(9, "admin", segment_name(30), 5, reason),)


@pytest.mark.parametrize(("position", "has_mark"), [(0, False), (0, True), (3, True)])
def test_in_the_last_segment_what_was_signed_for_or_marked_is_not_in_flight(forge: Forge, position: int, has_mark: bool) -> None:
    lines = forge.lines(3)
    lines[position] = b"x" * (len(lines[position]) - 1) + b"\n"
    forge.write(3, lines)
    if not has_mark:
        (forge.folder / "mark").unlink()
    report = forge.verify()
    assert 3 in failed(report)
    assert places(report, 3) == [(segment_name(30), position + 1)]


# --- tampering with the whole


def roll_back(forge: Forge, records: int, checkpoints: int) -> None:
    """Cut the log and everything that speaks of it, as root can."""
    forge.segment(3).unlink()
    forge.write(2, forge.lines(2)[: records - 20])
    (forge.folder / "mark").write_bytes(Mark(records, 20, forge.segment(2).stat().st_size, 0).encode())
    notes = (forge.checkpoints / "history").read_text("utf-8").split("\n\n")
    history = "\n\n".join(notes[: 2 * checkpoints]) + "\n"
    (forge.checkpoints / "history").write_text(history, "utf-8")
    (forge.checkpoints / "latest").write_text("\n\n".join(notes[2 * checkpoints - 2 : 2 * checkpoints]) + "\n", "utf-8")
    leaves = (forge.checkpoints / "leaves").read_bytes()
    (forge.checkpoints / "leaves").write_bytes(leaves[: 26 * 32])


def test_a_consistent_rollback_is_told_by_a_saved_checkpoint_alone(forge: Forge) -> None:
    saved = forge.latest
    roll_back(forge, 26, 3)
    assert forge.verify().passed, "nothing on this host tells"
    report = forge.verify(saved)
    assert failed(report) == {7}
    reason = "the log ends with record 25, but the saved checkpoint of 31 records was signed for records up to 30"
    assert faults(report, 7) == [Fault(7, "admin", segment_name(20), 6, reason)]


def test_the_tail_cut_behind_the_history(forge: Forge) -> None:
    forge.write(3, [])
    report = forge.verify()
    assert failed(report) == {5, 9}


def test_a_log_that_was_rewritten_whole(forge: Forge) -> None:
    saved = forge.latest
    for number in range(4):
        forge.write(number, [text.replace(b"Encrypt", b"Decrypt") for text in forge.lines(number)])
    report = forge.verify(saved)
    assert failed(report) == {5, 7}
    assert faults(report, 5)[0].reason.startswith("record 0 is not the one")


def test_a_log_that_was_rewritten_and_sealed_anew_with_the_same_key(forge: Forge) -> None:
    saved = forge.latest
    for number in range(4):
        forge.write(number, [text.replace(b"Encrypt", b"Decrypt") for text in forge.lines(number)])
    for path in forge.checkpoints.iterdir():
        path.unlink()
    forge.seal()
    assert forge.verify().passed, "nothing on this host tells"
    report = forge.verify(saved)
    assert failed(report) == {7}
    assert "the lines do not have the root of the saved checkpoint of 31 records" in faults(report, 7)[0].reason


# --- the checkpoints


def test_a_wrong_key(forge: Forge) -> None:
    wrong = VerifierKey.of(forge.instance.origin("admin"), Ed25519PrivateKey.generate())
    report = verify(forge.instance.data, [wrong], [forge.latest])
    assert failed(report) == {4, 7}
    assert len(faults(report, 4)) == 4
    assert "not signed by" in faults(report, 4)[0].reason
    assert verdicts(report)[5] is Verdict.NOT_CHECKED
    assert only(report).sealed == 0


def test_the_key_in_the_data_folder_was_replaced(forge: Forge) -> None:
    forge.instance.sealer_public_key.write_text("A" * 43 + "=\n")
    assert 4 in failed(forge.verify())
    forge.instance.sealer_public_key.unlink()
    report = forge.verify()
    assert failed(report) == {4}
    assert "no key" in faults(report, 4)[0].reason
    assert verify(forge.instance.data, [forge.verifier]).passed


def edit_history(forge: Forge, change: Callable[[str], str]) -> Report:
    history = forge.checkpoints / "history"
    text = history.read_text("utf-8")
    assert change(text) != text
    history.write_text(change(text), "utf-8")
    return forge.verify()


def test_an_edited_checkpoint(forge: Forge) -> None:
    report = edit_history(forge, lambda text: text.replace("\n20\n", "\n21\n"))
    assert failed(report) == {4}
    assert faults(report, 4)[0].reason.startswith("checkpoint 1 of the history: the signature of")


def test_checkpoints_out_of_order(forge: Forge) -> None:
    report = edit_history(forge, lambda text: text + "\n" + "\n\n".join(text.split("\n\n")[:2]) + "\n")
    assert failed(report) == {4}
    assert faults(report, 4)[0].reason == "checkpoint 4 of the history: it is for 7 records, the one before it for 31"


def test_the_same_checkpoint_twice(forge: Forge) -> None:
    report = edit_history(forge, lambda text: text + "\n" + forge.latest)
    assert failed(report) == {4}
    assert "it is for 31 records, the one before it for 31" in faults(report, 4)[0].reason


def test_a_checkpoint_of_another_tree_by_the_right_key(forge: Forge) -> None:
    fork = sign(Checkpoint(forge.instance.origin("admin"), 33, bytes(32)), forge.key)
    report = edit_history(forge, lambda text: text + "\n" + fork)
    assert failed(report) == {5}
    assert "checkpoint 4 of the history (33 records)" in faults(report, 5)[0].reason
    assert only(report).sealed == 31


def test_a_checkpoint_of_another_log_by_the_right_key(forge: Forge) -> None:
    root = root_of([leaf_hash(text[:-1]) for number in range(4) for text in forge.lines(number)])
    checkpoint = Checkpoint(forge.instance.origin("w0"), 35, root)
    by_its_own_name = sign(checkpoint, forge.key)
    signature = base64.b64encode(forge.verifier.key_id + forge.key.sign(checkpoint.text().encode())).decode()
    by_this_name = f"{checkpoint.text()}\n\u2014 {forge.verifier.name} {signature}\n"
    history = (forge.checkpoints / "history").read_text("utf-8")
    for note, reason in ((by_its_own_name, "not signed by"), (by_this_name, "it is for keytrail/")):
        (forge.checkpoints / "history").write_text(history + "\n" + note, "utf-8")
        report = forge.verify()
        assert failed(report) == {4}
        assert reason in faults(report, 4)[0].reason


def test_a_log_without_checkpoints(forge: Forge) -> None:
    (forge.checkpoints / "history").unlink()
    report = forge.verify()
    assert failed(report) == {4}
    assert "no checkpoint was ever signed for its 35 records" in faults(report, 4)[0].reason


def test_a_torn_note_at_the_end_of_the_history_was_never_published(forge: Forge) -> None:
    note = sign(Checkpoint(forge.instance.origin("admin"), 35, bytes(32)), forge.key)
    report = edit_history(forge, lambda text: text + "\n" + note[:-1])
    assert report.passed
    assert f"{len(note.encode())} bytes behind them are torn" in only(report).steps[3].detail


def test_every_byte_of_the_history_and_of_latest_counts(forge: Forge) -> None:
    for path in (forge.checkpoints / "history", forge.checkpoints / "latest"):
        whole = path.read_bytes()
        for position in range(0, len(whole), 5):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            assert failed(forge.verify()) & {4, 6}, position
        path.write_bytes(whole)
    assert forge.verify().passed


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_checkpoint_taken_out_of_the_history_takes_nothing_out_of_the_proof(forge: Forge, number: int) -> None:
    def take_out(text: str) -> str:
        notes = text.split("\n\n")
        return "\n\n".join(notes[: 2 * number] + notes[2 * number + 2 :])

    report = edit_history(forge, take_out)
    assert report.passed and only(report).sealed == 31, "those behind it cover the same records"


def test_latest(forge: Forge) -> None:
    latest = forge.checkpoints / "latest"
    notes = (forge.checkpoints / "history").read_text("utf-8").split("\n\n")
    latest.write_text("\n\n".join(notes[4:6]) + "\n", "utf-8")
    report = forge.verify()
    assert report.passed and "one behind" in only(report).steps[5].detail
    latest.write_text("\n\n".join(notes[2:4]) + "\n", "utf-8")
    assert failed(forge.verify()) == {6}
    latest.write_text(sign(Checkpoint(forge.instance.origin("admin"), 35, bytes(32)), forge.key), "utf-8")
    assert "not in the history" in faults(forge.verify(), 6)[0].reason
    latest.unlink()
    assert failed(forge.verify()) == {6}


@pytest.mark.parametrize("origin", ["keytrail/0123456789abcdef/admin", "sum.golang.org", "../admin"])
def test_a_saved_checkpoint_of_a_log_that_is_not_here(forge: Forge, origin: str) -> None:
    note = sign(Checkpoint(origin, 1, bytes(32)), forge.key)
    report = forge.verify(note + "\n" + forge.latest)
    honest, other = report.logs
    assert not report.passed
    assert not [fault for fault in report.faults if fault.log == "admin"]
    assert honest.steps[6].passed
    assert other.log == origin
    assert {step.number for step in other.steps if step.verdict is Verdict.FAILED} == {1, 7}


def test_a_saved_checkpoint_or_a_key_of_a_log_that_vanished(forge: Forge) -> None:
    origin = forge.instance.origin("w7")
    by_checkpoint = forge.verify(sign(Checkpoint(origin, 5, bytes(32)), forge.key))
    by_key = verify(forge.instance.data, [VerifierKey.of(origin, forge.key)])
    assert [(fault.step, fault.log) for fault in by_checkpoint.faults] == [(1, "w7"), (7, "w7")]
    assert [(fault.step, fault.log) for fault in by_key.faults] == [(1, "w7")]


@pytest.mark.parametrize("text", ["", "\n", "nonsense"])
def test_a_saved_file_without_a_checkpoint_is_refused(forge: Forge, text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        forge.verify(forge.latest, text)


def test_a_folder_that_is_no_instance(tmp_path: Path) -> None:
    with pytest.raises(NoInstance):
        verify(tmp_path)


# --- the folders


def test_a_log_that_has_vanished(forge: Forge) -> None:
    forge.folder.rename(forge.instance.data / "elsewhere")
    report = forge.verify()
    assert {1, 5} <= failed(report)
    assert "has vanished" in faults(report, 1)[0].reason


def test_a_log_struck_off_the_list(forge: Forge) -> None:
    document = orjson.loads((forge.instance.data / "keytrail.json").read_bytes())
    (forge.instance.data / "keytrail.json").write_bytes(orjson.dumps({**document, "logs": []}))
    report = forge.verify()
    assert faults(report, 1)[0].reason == "keytrail.json does not list it"


def test_an_instance_without_logs_is_not_verified(forge: Forge) -> None:
    document = orjson.loads((forge.instance.data / "keytrail.json").read_bytes())
    (forge.instance.data / "keytrail.json").write_bytes(orjson.dumps({**document, "logs": []}))
    shutil.rmtree(forge.folder)
    shutil.rmtree(forge.checkpoints)
    report = forge.verify()
    assert [(fault.step, fault.log) for fault in report.faults] == [(1, "admin")]


def test_every_log_is_verified_and_one_fault_does_not_hide_another(forge: Forge) -> None:
    second = Forge(forge.instance.with_logs(["w0"]), "w0")
    second.grow(12)
    second.seal()
    assert forge.verify(forge.latest + "\n" + second.latest).passed
    for each in (forge, second):
        lines = each.lines(0)
        each.write(0, [lines[0], *lines[2:]])
    report = forge.verify()
    assert [(fault.log, fault.segment, fault.line) for fault in report.faults if fault.step == 3] == [
        ("admin", segment_name(0), 2),
        ("w0", segment_name(0), 2),
    ]


# --- while it is being written


@pytest.mark.parametrize("tail", [b'{"torn', b"\0\0\n\0", line(36), line(35)[:-1]])
def test_what_is_in_flight_is_no_fault(forge: Forge, tail: bytes) -> None:
    with forge.segment(3).open("ab") as file:
        file.write(tail)
    report = forge.verify()
    assert report.passed
    assert only(report).records == 35
    assert f"{len(tail)} bytes behind them are torn" in only(report).steps[2].detail


def test_lines_behind_the_mark_count_as_records(forge: Forge) -> None:
    with forge.segment(3).open("ab") as file:
        file.write(line(35))
    report = forge.verify()
    assert report.passed and only(report).records == 36


def test_records_and_checkpoints_that_come_while_it_reads_are_no_fault(forge: Forge) -> None:
    grown: list[int] = []

    def grow(done: int, total: int) -> None:
        if not grown:
            grown.append(done)
            for _ in range(3):
                forge.grow(12)
                forge.seal()

    report = verify(forge.instance.data, saved=[forge.latest], progress=grow)
    assert grown and report.passed
    assert only(report).sealed == 31
    assert forge.verify().passed and only(forge.verify()).sealed == 71


def test_a_log_whose_first_checkpoint_comes_while_it_reads(empty: Forge) -> None:
    empty.grow(5)

    def seal(done: int, total: int) -> None:
        if not (empty.checkpoints / "history").exists():
            empty.seal()

    report = verify(empty.instance.data, progress=seal)
    assert report.passed and only(report).sealed == 5


def test_a_call_without_outcome_is_a_finding_unless_it_may_be_under_way(forge: Forge) -> None:
    forge.append(line(35, phase="intent"), line(36, intent="e35"))
    forge.append(line(37, phase="intent"), line(38, phase="unknown", intent="e37"))
    assert verdicts(forge.verify())[8] is Verdict.PASSED
    forge.append(line(39, phase="intent"))
    report = forge.verify()
    assert failed(report) == {8}
    assert places(report, 8) == [(segment_name(30), 10)]
    with (forge.folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = forge.verify()
        assert report.passed
        assert "1 of them under way" in only(report).steps[7].detail


def test_a_writer_that_came_and_went_while_it_read(forge: Forge) -> None:
    forge.append(line(35, phase="intent"))

    def finish(done: int, total: int) -> None:
        if forge.records == 36:
            forge.segment(4).write_bytes(line(40))

    assert verdicts(verify(forge.instance.data, progress=finish))[8] is Verdict.PASSED


def test_the_mark_is_an_aid_and_may_be_missing(forge: Forge) -> None:
    (forge.folder / "mark").write_bytes(b"damaged")
    report = forge.verify()
    assert report.passed and verdicts(report)[9] is Verdict.NOT_CHECKED


# --- the command


def run(forge: Forge, *arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(cli.app, ["verify", "--data", str(forge.instance.data), *arguments], input=given)


def test_the_command_prints_the_numbered_steps_and_what_is_wrong(forge: Forge) -> None:
    result = run(forge)
    assert result.exit_code == 0
    steps = result.stdout.splitlines()[1:-1]
    assert [text.split()[:2] for text in steps] == [
        ["\u2013" if n in (7, 8, 10, 11, 12, 13, 14) else "\u2713", f"{n}."] for n in TITLES
    ]
    assert result.stdout.splitlines()[-1] == "Verified."

    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    result = run(forge)
    assert result.exit_code == 1
    faults = result.stdout.splitlines()[-2:]
    assert faults[0].startswith(f"admin/{segment_name(10)} line 5: record 14 is not the one that checkpoint 1 of the history")
    assert faults[1] == "VERIFICATION FAILED."
    assert orjson.loads(run(forge, "--json").stdout)["passed"] is False


def test_the_command_takes_saved_checkpoints_and_keys(forge: Forge, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.write_bytes(forge.latest.encode().replace(b"\n", b"\r\n"))  # it went by mail
    key = str(forge.verifier)
    assert run(forge, "--checkpoint", str(saved), "--checkpoint", "-", "--key", key, given=forge.latest.encode()).exit_code == 0
    wrong = VerifierKey.of(forge.instance.origin("admin"), Ed25519PrivateKey.generate())
    assert run(forge, "--checkpoint", str(saved), "--key", str(wrong)).exit_code == 1


def test_the_exits_of_the_command(forge: Forge, tmp_path: Path) -> None:
    assert run(forge, "--key", "mistyped").exit_code == 2
    assert run(forge, "--checkpoint", str(tmp_path / "none")).exit_code == 3
    refused = run(forge, "--checkpoint", "-", given=b"\xff\xfe\x00")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: not a signed note")
    (forge.instance.data / "keytrail.json").unlink()
    assert run(forge).exit_code == 3


@pytest.mark.parametrize("evil", ["\x1b[31m", "\u009b31m", "\u202e", "\x07"])
def test_the_log_cannot_command_the_terminal(forge: Forge, evil: str) -> None:
    record = orjson.loads(line(35, phase="intent"))
    forge.append(orjson.dumps({**record, "eventID": evil}, option=orjson.OPT_APPEND_NEWLINE))
    for arguments in ((), ("--json",)):
        result = run(forge, *arguments)
        assert result.exit_code == 1
        assert evil not in result.stdout


def test_the_log_cannot_pass_for_markup(forge: Forge) -> None:
    record = orjson.loads(line(35, phase="intent"))
    forge.append(orjson.dumps({**record, "eventID": "[red]x[/red]"}, option=orjson.OPT_APPEND_NEWLINE))
    assert "(event [red]x[/red])" in run(forge).stdout
