"""Findings that are acknowledged: told, and no faults, where the receipt is given; they hide nothing, and excuse nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from audit import cli
from audit.errors import QueryError, ReceiptInvalid
from audit.host_events import commit_host_event
from audit.instance import ADMIN_LOG, Instance
from audit.log import Mark
from audit.merkle import leaf_hash, root_of
from audit.receipts import ClaimedReceipt, read_receipts
from audit.report import Report, Verdict
from audit.sealing.keys import create_key
from audit.sealing.log_sealer import LogSealer
from audit.segments import list_segments
from audit.verify import verify
from audit.verifying.acknowledged import Finding, read_acknowledgement
from tests.audit.forge import Forge
from tests.audit.worker import Worker

REASON = "The machine slept while it was moved: CHG-4711"
#: Two hours of silence before record 2, and before record 5 the clock is set back by one.
LIFE = (
    *((0, "StartServing"), (30, "Encrypt"), (7_230, "Decrypt"), (7_290, "Heartbeat"), (7_350, "Heartbeat")),
    *((3_750, "Encrypt"), (3_800, "Heartbeat"), (3_860, "StopServing")),
)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    (tmp_path / "data").mkdir()
    instance = Instance.create(tmp_path / "data", "111122223333", "eu-central-1", "2026-01-02T03:04:05Z").with_logs(["w0"])
    create_key(instance)
    made = Forge(instance, "w0")
    Worker(made).run(*LIFE)
    made.seal()
    return made


def keytrail(forge: Forge, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [*arguments, "--data", str(forge.instance.data)])


def findings(forge: Forge) -> list[str]:
    return [fault.finding for fault in verify(forge.instance.data).faults]


def acknowledge(forge: Forge, finding: str, reason: str = REASON) -> ClaimedReceipt:
    done = keytrail(forge, "acknowledge", finding, "--reason", reason)
    assert done.exit_code == 0, done.output
    (receipt,) = read_receipts(done.stdout, "stdout")
    return receipt


def seal(forge: Forge, log: str) -> None:
    folders = forge.instance.log_folder(log), forge.instance.checkpoint_folder(log)
    assert LogSealer(*folders, forge.instance.origin(log), forge.key).seal() is not None


def admin_lines(instance: Instance) -> list[bytes]:
    return [line for one in list_segments(instance.log_folder(ADMIN_LOG)) for line in one.path.read_bytes().splitlines()]


def step(report: Report, number: int) -> tuple[Verdict, str]:
    (found,) = [one for log in report.logs if log.log == "w0" for one in log.steps if one.number == number]
    return found.verdict, found.detail


def failed(report: Report) -> set[tuple[str, int]]:
    return {(log.log, one.number) for log in report.logs for one in log.steps if one.verdict is Verdict.FAILED}


# --- what is acknowledged


def test_a_finding_is_named_by_its_record_and_the_tree_up_to_it(forge: Forge) -> None:
    lines = [line for one in list_segments(forge.folder) for line in one.path.read_bytes().splitlines()]
    leaves = [leaf_hash(line) for line in lines]
    assert findings(forge) == [str(Finding("w0", 2, root_of(leaves[:3]))), str(Finding("w0", 5, root_of(leaves[:6])))]


def test_what_is_acknowledged_is_told_and_is_no_fault(forge: Forge) -> None:
    silence, set_back = findings(forge)
    receipts = [acknowledge(forge, silence), acknowledge(forge, set_back, "  The battery of its clock was empty. ")]
    assert not verify(forge.instance.data).passed  # the records alone excuse nothing
    report = verify(forge.instance.data, acknowledged=receipts)
    assert report.passed and not report.faults
    assert step(report, 13) == (Verdict.PASSED, "5 heartbeats, starts and stops; 2 acknowledged")
    assert step(report, 7) == (Verdict.PASSED, "2 acknowledgements")
    first, second = report.acknowledged
    assert (first.fault.finding, first.fault.line, first.reason) == (silence, 3, REASON)
    assert (second.fault.finding, second.reason) == (set_back, "The battery of its clock was empty.")
    assert first.at <= second.at and "silent for 2 h" in str(first) and "the clock was set back" in str(second)


def test_each_finding_needs_its_own_acknowledgement(forge: Forge) -> None:
    silence, set_back = findings(forge)
    report = verify(forge.instance.data, acknowledged=[acknowledge(forge, silence)])
    assert [fault.finding for fault in report.faults] == [set_back]
    assert [one.fault.finding for one in report.acknowledged] == [silence]
    assert failed(report) == {("w0", 13)}


def test_the_record_says_who_acknowledged_what_and_why(forge: Forge) -> None:
    receipt = acknowledge(forge, findings(forge)[0])
    line = admin_lines(forge.instance)[receipt.sequence]
    record = orjson.loads(line)
    assert (receipt.origin, receipt.leaf) == (forge.instance.origin(ADMIN_LOG), leaf_hash(line))
    assert (record["eventSource"], record["eventName"]) == ("keytrail", "AcknowledgeFinding")
    told = record["requestParameters"]
    assert (told["finding"], told["reason"]) == (findings(forge)[0], REASON)
    assert told["fault"].startswith("w0/00000000000000000000.jsonl line 3: before this record the log is silent for 2 h")
    assert told["fault"].endswith(" (step 13)")
    (one,) = verify(forge.instance.data, acknowledged=[receipt]).acknowledged
    identity = record["userIdentity"]
    assert one.by == f"{identity['userName']} ({identity['principalId']})" and identity["principalId"].startswith("host:")
    assert one.at == record["additionalEventData"]["keytrail"]["time"]


def test_the_commands_do_it_with_a_file(forge: Forge, tmp_path: Path) -> None:
    for finding in findings(forge):
        assert f"(step 13; finding {finding})" in keytrail(forge, "verify").stdout
        with (tmp_path / "kept").open("a") as kept:
            kept.write(keytrail(forge, "acknowledge", finding, "--reason", "slept\x1b[2J").stdout)
    done = keytrail(forge, "verify", "--acknowledged", str(tmp_path / "kept"))
    assert done.exit_code == 0 and "Verified." in done.stdout
    assert "(step 13), acknowledged by " in done.stdout and "slept" in done.stdout and "\x1b" not in done.stdout
    document = json.loads(keytrail(forge, "verify", "--acknowledged", str(tmp_path / "kept"), "--json").stdout)
    (w0,) = [log for log in document["logs"] if log["log"] == "w0"]
    assert document["passed"] and [one["fault"]["finding"] for one in w0["acknowledged"]] == findings(forge)


def test_a_report_goes_by_the_same_file(forge: Forge, tmp_path: Path) -> None:
    kept = [keytrail(forge, "acknowledge", finding, "--reason", REASON).stdout for finding in findings(forge)]
    (tmp_path / "kept").write_text("".join(kept))
    without = keytrail(forge, "report", "key-usage", "--json", "-")
    assert without.exit_code == 1 and json.loads(without.stdout)["verification"]["state"] == "failed"
    done = keytrail(forge, "report", "key-usage", "--json", "-", "--acknowledged", str(tmp_path / "kept"))
    verification = json.loads(done.stdout)["verification"]
    assert done.exit_code == 0 and (verification["state"], verification["faults"]) == ("passed", [])
    assert [REASON in one for one in verification["acknowledged"]] == [True, True]


def test_a_log_that_goes_on_keeps_its_acknowledgements(forge: Forge) -> None:
    receipts = [acknowledge(forge, finding) for finding in findings(forge)]
    Worker(forge).run((9_000, "StartServing"), (9_060, "Heartbeat"))
    forge.seal()
    seal(forge, ADMIN_LOG)
    assert verify(forge.instance.data, acknowledged=receipts).passed
    Worker(forge).write(9_999)
    report = verify(forge.instance.data, acknowledged=receipts)
    assert [fault.line for fault in report.faults] == [1] and failed(report) == {("w0", 13)}  # one more, and it counts


# --- what the command refuses


@pytest.mark.parametrize(
    "text", ["", "w0", "w0:2", "w0:2:AAAA", f"w0:02:{'A' * 43}=", f"w0:2:{'A' * 42}B=", f"w/0:2:{'A' * 43}="]
)
def test_what_is_no_finding(forge: Forge, text: str) -> None:
    with pytest.raises(QueryError, match="not a finding: it is LOG:RECORD:ROOT"):
        Finding.parse(text)
    assert keytrail(forge, "acknowledge", text, "--reason", REASON).exit_code == 2


@given(st.sampled_from(["admin", "w0", "w12", "trail"]), st.integers(0, 10**18 - 1), st.binary(min_size=32, max_size=32))
def test_a_finding_is_read_as_it_is_written(log: str, record: int, root: bytes) -> None:
    assert Finding.parse(str(Finding(log, record, root))) == Finding(log, record, root)


def refusal(forge: Forge, finding: str, reason: str = REASON) -> str:
    before = len(admin_lines(forge.instance))
    done = keytrail(forge, "acknowledge", finding, "--reason", reason)
    assert (done.exit_code, done.stdout, len(admin_lines(forge.instance))) == (2, "", before)
    return done.stderr


def test_only_what_verify_finds_is_acknowledged(forge: Forge) -> None:
    silence, set_back = (Finding.parse(text) for text in findings(forge))
    for other in (Finding("w0", 2, set_back.root), Finding("w0", 3, silence.root), Finding("w7", 2, silence.root)):
        assert f"`keytrail verify` has no such finding in the log {other.log}" in refusal(forge, str(other))


def test_a_reason_is_needed(forge: Forge) -> None:
    for reason in ("", "  ", "x" * 1_001):
        assert "--reason: from 1 to 1000 characters" in refusal(forge, findings(forge)[0], reason)


def test_what_is_not_sealed_yet_waits(forge: Forge) -> None:
    Worker(forge).run((9_000, "StartServing"), (9_999, "Encrypt"))
    finding = findings(forge)[-1]
    assert "no checkpoint covers the finding yet" in refusal(forge, finding)
    forge.seal()
    acknowledge(forge, finding)


def test_a_log_with_other_faults_has_nothing_to_acknowledge(forge: Forge) -> None:
    finding = findings(forge)[0]
    forge.write(0, [*forge.lines(0)[:6], forge.lines(0)[7]])
    assert "the log w0 has faults that nobody can acknowledge; see to these first: w0/" in refusal(forge, finding)


# --- what is no acknowledgement


def test_a_receipt_has_to_be_of_an_acknowledgement(forge: Forge) -> None:
    receipt = acknowledge(forge, findings(forge)[0])
    other = commit_host_event(forge.instance, "SearchLog", {"finding": findings(forge)[0], "reason": REASON})
    with pytest.raises(ReceiptInvalid, match=r"record 1 of keytrail/.*/admin: the record that it is of acknowledges nothing"):
        verify(forge.instance.data, acknowledged=[ClaimedReceipt(receipt.origin, other.sequence, other.leaf)])
    for origin in (forge.instance.origin("w0"), "keytrail/0123456789abcdef/admin"):
        with pytest.raises(ReceiptInvalid, match="acknowledgements here are in keytrail/"):
            verify(forge.instance.data, acknowledged=[ClaimedReceipt(origin, 0, receipt.leaf)])


@pytest.mark.parametrize(
    "told", [None, {}, {"finding": "w0:2", "reason": "x"}, {"finding": 7, "reason": "x"}, {"finding": "w0:2"}]
)
def test_an_acknowledgement_of_another_making_is_refused(forge: Forge, told: dict[str, Any] | None) -> None:
    made = commit_host_event(forge.instance, "AcknowledgeFinding", told or {})
    with pytest.raises(ReceiptInvalid, match="not as this version writes it"):
        read_acknowledgement(admin_lines(forge.instance)[made.sequence])


def test_a_caller_cannot_acknowledge_by_a_call(forge: Forge) -> None:
    receipt = acknowledge(forge, findings(forge)[0])
    line = admin_lines(forge.instance)[receipt.sequence]
    assert read_acknowledgement(line).reason == REASON
    record = orjson.loads(line) | {"eventSource": "kms.amazonaws.com"}
    with pytest.raises(ReceiptInvalid, match="acknowledges nothing"):
        read_acknowledgement(orjson.dumps(record))


def test_an_acknowledgement_that_is_gone_counts_no_more(forge: Forge) -> None:
    receipts = [acknowledge(forge, finding) for finding in findings(forge)]
    (segment,) = list_segments(forge.instance.log_folder(ADMIN_LOG))
    text = admin_lines(forge.instance)[0] + b"\n"
    segment.path.write_bytes(text)
    (forge.instance.log_folder(ADMIN_LOG) / "mark").write_bytes(Mark(1, 0, len(text), 0).encode())
    report = verify(forge.instance.data, acknowledged=receipts)
    assert failed(report) == {("w0", 13), (ADMIN_LOG, 10)}
    assert [one.fault.finding for one in report.acknowledged] == findings(forge)[:1]


def test_an_acknowledgement_that_is_rewritten_counts_no_more(forge: Forge) -> None:
    silence, set_back = findings(forge)
    receipt = acknowledge(forge, silence)
    (segment,) = list_segments(forge.instance.log_folder(ADMIN_LOG))
    text = segment.path.read_bytes().replace(silence.encode(), set_back.encode())
    segment.path.write_bytes(text)
    (forge.instance.log_folder(ADMIN_LOG) / "mark").write_bytes(Mark(1, 0, len(text), 0).encode())
    report = verify(forge.instance.data, acknowledged=[receipt])
    assert failed(report) == {("w0", 13), (ADMIN_LOG, 10)} and not report.acknowledged


def test_an_acknowledgement_of_a_log_that_is_not_here_is_a_fault(forge: Forge) -> None:
    told = {"finding": str(Finding("w9", 3, bytes(32))), "reason": REASON}
    made = commit_host_event(forge.instance, "AcknowledgeFinding", told)
    report = verify(forge.instance.data, acknowledged=[ClaimedReceipt(forge.instance.origin(ADMIN_LOG), *made[1:])])
    assert ("w9", 1) in failed(report)


# --- it hides nothing


def deleted(lines: list[bytes]) -> list[bytes]:
    return [*lines[:1], *lines[2:]]


def changed(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"192.0.2.1", b"192.0.2.9"), *lines[2:]]


def swapped(lines: list[bytes]) -> list[bytes]:
    return [lines[1], lines[0], *lines[2:]]


def cut(lines: list[bytes]) -> list[bytes]:
    return lines[:2]


def later(lines: list[bytes]) -> list[bytes]:
    """The silence is made longer: the record before it is dated back."""
    return [lines[0], lines[1].replace(b"T08:00:30", b"T08:00:05"), *lines[2:]]


TAMPERINGS: list[Callable[[list[bytes]], list[bytes]]] = [deleted, changed, swapped, cut, later]


@pytest.mark.parametrize("tamper", TAMPERINGS)
@pytest.mark.parametrize("is_signed_anew", [False, True])
def test_no_tampering_is_hidden(forge: Forge, tamper: Callable[[list[bytes]], list[bytes]], is_signed_anew: bool) -> None:
    receipts = [acknowledge(forge, finding) for finding in findings(forge)]
    seal(forge, ADMIN_LOG)
    saved = forge.latest
    before = forge.lines(0)
    after = tamper(before)
    assert after != before
    forge.write(0, after)
    (forge.folder / "mark").write_bytes(Mark(len(after), 0, sum(map(len, after)), 0).encode())
    if is_signed_anew:
        for name in ("history", "latest", "leaves", "frontier"):
            (forge.checkpoints / name).unlink(missing_ok=True)
        forge.seal()
    plain, with_them = verify(forge.instance.data), verify(forge.instance.data, acknowledged=receipts)
    assert failed(plain) - {("w0", 13)} <= failed(with_them)
    assert ("w0", 7) in failed(with_them)  # they fix what was before them, as the saved checkpoint does
    assert failed(verify(forge.instance.data, saved=[saved])) - {("w0", 13)} <= failed(with_them)
    if is_signed_anew:
        assert not with_them.acknowledged
