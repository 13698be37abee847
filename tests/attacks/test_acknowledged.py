"""Attacks by acknowledgement: to have a silence of one's own excused, or something taken out under one that is."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from audit import cli
from audit.sealing.log_sealer import LogSealer
from audit.verify import verify as verify_logs
from tests.attacks.honest import Honest
from tests.attacks.root import Root, assert_caught, assert_passes
from tests.attacks.test_times import quiet, without


def keytrail(root: Root, *arguments: str) -> str:
    done = CliRunner().invoke(cli.app, [*arguments, "--data", str(root.data)])
    assert done.exit_code == 0, done.output
    return done.stdout


def acknowledge(root: Root, receipts: Path) -> None:
    """Every finding there is, by a command on the host; what it prints goes to `receipts`, which root cannot write."""
    findings = [fault.finding for fault in verify_logs(root.data).faults]
    assert findings
    receipts.write_text("".join(keytrail(root, "acknowledge", one, "--reason", "It slept: CHG-4711") for one in findings))
    seal(root, "admin")


def seal(root: Root, log: str) -> None:
    folders = root.instance.log_folder(log), root.instance.checkpoint_folder(log)
    assert LogSealer(*folders, root.instance.origin(log), root.key).seal() is not None


@pytest.fixture
def slept(root: Root) -> Root:
    """The host slept for some seconds: no heartbeats, and that is how it is; nobody took anything out."""
    root.replace(without(root.lines(), quiet(root)))
    root.sign_anew()
    return root


@pytest.fixture
def receipts(slept: Root, tmp_path: Path) -> Path:
    """It was acknowledged, and the auditor has the receipts."""
    acknowledge(slept, tmp_path / "acknowledged")
    assert_passes(slept.data, "--acknowledged", str(tmp_path / "acknowledged"))
    return tmp_path / "acknowledged"


def test_a_silence_that_its_maker_acknowledges(honest: Honest, slept: Root, tmp_path: Path) -> None:
    """What is on record alone excuses nothing. Who takes a receipt from the one who made the silence, believes him."""
    acknowledge(slept, tmp_path / "his own")
    assert_caught(slept.data, 13)
    assert_passes(slept.data, "--acknowledged", str(tmp_path / "his own"))


def test_another_silence_beside_an_acknowledged_one(honest: Honest, slept: Root, receipts: Path, tmp_path: Path) -> None:
    """It is acknowledged by its maker as well; the auditor has no receipt for that."""
    last = orjson.loads(slept.lines()[-1])
    lines = [*slept.lines(), *honest_tail(last)]
    slept.replace(lines)
    seal(slept, "w0")
    acknowledge(slept, tmp_path / "his own")
    assert_caught(slept.data, 13, "--acknowledged", str(receipts))


def honest_tail(last: dict[str, object]) -> list[bytes]:
    """One more life behind the last record, with a silence in it."""
    return [at_year(last, "2031", "StartServing"), at_year(last, "2032", "Heartbeat")]


def at_year(record: dict[str, object], year: str, event: str) -> bytes:
    made = orjson.loads(orjson.dumps(record))
    made["eventName"], made["eventTime"] = event, f"{year}-01-02T03:04:05Z"
    made["additionalEventData"]["keytrail"]["time"] = f"{year}-01-02T03:04:05.000006Z"
    return orjson.dumps(made)


def test_more_taken_out_under_an_acknowledged_silence(honest: Honest, slept: Root, receipts: Path) -> None:
    """The calls before it go too, so that it grows; the log is renumbered, and signed anew."""
    slept.replace(without(slept.lines(), slept.calls()[-2:]))
    slept.sign_anew()
    assert_caught(slept.data, 7, "--acknowledged", str(receipts))


def test_an_edit_before_an_acknowledged_silence(honest: Honest, slept: Root, receipts: Path) -> None:
    number = slept.calls()[0]
    lines = slept.lines()
    lines[number] = lines[number].replace(b'"tenant":"t0"', b'"tenant":"t9"')
    assert lines != slept.lines()
    slept.replace(lines)
    assert_caught(slept.data, 5, "--acknowledged", str(receipts))
    slept.sign_anew()
    assert_caught(slept.data, 7, "--acknowledged", str(receipts))


def test_a_log_cut_behind_an_acknowledged_silence(honest: Honest, slept: Root, receipts: Path, tmp_path: Path) -> None:
    """The acknowledgement says nothing of what came after the silence; what does, says it as before."""
    (tmp_path / "saved").write_text(keytrail(slept, "checkpoint"))
    slept.replace(slept.lines()[:-1])
    slept.sign_anew()
    assert_caught(slept.data, 7, "--acknowledged", str(receipts), "--checkpoint", str(tmp_path / "saved"))


def test_a_log_cut_with_its_acknowledged_silence(honest: Honest, slept: Root, receipts: Path) -> None:
    slept.replace(slept.lines()[: slept.calls()[-1]])
    slept.sign_anew()
    assert_caught(slept.data, 7, "--acknowledged", str(receipts))


def test_an_acknowledgement_that_is_rewritten(honest: Honest, slept: Root, receipts: Path, tmp_path: Path) -> None:
    """More is taken out, and the record that the auditor has the receipt of names the new silence."""
    slept.replace(without(slept.lines(), slept.calls()[-2:]))
    slept.sign_anew()
    (finding,) = [fault.finding for fault in verify_logs(slept.data).faults]
    admin = Root(slept.data, "admin")
    record = orjson.loads(admin.lines()[-1])
    record["requestParameters"]["finding"] = finding
    admin.replace([*admin.lines()[:-1], orjson.dumps(record)])
    admin.sign_anew()
    assert_caught(slept.data, 10, "--acknowledged", str(receipts))
    assert_caught(slept.data, 13, "--acknowledged", str(receipts))
