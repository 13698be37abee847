"""`verify` on a log's times: silences, outages, a clock that was set back (step 13), and a maximum age (step 14)."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.canonical import timestamp
from audit.instance import Instance
from audit.report import LogReport, Report, Verdict
from audit.sealing.keys import create_key
from audit.sealing.log_sealer import LogSealer
from audit.verify import verify
from tests.audit.forge import Forge, line
from tests.audit.verifying.verdicts import run
from tests.audit.worker import START_S, Worker


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z").with_logs(["w0"])
    create_key(instance)
    commands = Forge(instance)
    commands.grow(1)
    commands.seal()
    return Forge(instance, "w0")


@pytest.fixture
def worker(forge: Forge) -> Worker:
    return Worker(forge)


def judged(forge: Forge, at_s: float = 0, max_age_s: float | None = None) -> Report:
    LogSealer(forge.folder, forge.checkpoints, forge.instance.origin(forge.log), forge.key).seal()
    return verify(forge.instance.data, now_us=lambda: int((START_S + at_s) * 1_000_000), max_age_s=max_age_s)


def log(report: Report, name: str = "w0") -> LogReport:
    (found,) = [log for log in report.logs if log.log == name]
    return found


def step(report: Report, number: int) -> tuple[Verdict, str]:
    (found,) = [step for step in log(report).steps if step.number == number]
    return found.verdict, found.detail


def reasons(report: Report, number: int) -> list[tuple[int, str]]:
    assert {fault.step for fault in report.faults} <= {number}, report.faults
    return [(fault.line, fault.reason) for fault in report.faults]


# --- silence


def test_a_life_with_its_heartbeats_passes(forge: Forge, worker: Worker) -> None:
    worker.run(
        (0, "StartServing"), (20, "Encrypt"), (81, "Heartbeat"), (142, "Heartbeat"), (143, "Decrypt"), (150, "StopServing")
    )
    report = judged(forge)
    assert report.passed and step(report, 13) == (Verdict.PASSED, "4 heartbeats, starts and stops")


def test_a_log_without_heartbeats_is_not_checked(forge: Forge, worker: Worker) -> None:
    worker.run((0, "Encrypt"), (9_000, "Encrypt"), (5, "Encrypt"))
    assert step(judged(forge), 13) == (Verdict.NOT_CHECKED, "it has no heartbeats")


@pytest.mark.parametrize("event", ["Encrypt", "Heartbeat", "StopServing"])
def test_a_silence_in_a_life_is_a_fault(forge: Forge, worker: Worker, event: str) -> None:
    worker.run((0, "StartServing"), (30, "Encrypt"), (110, event))
    assert reasons(judged(forge), 13) == [
        (3, "before this record the log is silent for 80 s, though a heartbeat is due every 60 s, and nothing was stopped")
    ]


def test_a_silence_that_is_a_little_late_is_none(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (30, "Encrypt"), (99, "Heartbeat"))
    assert judged(forge).passed


def test_a_call_that_took_long_was_no_silence(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (40, "Heartbeat"))
    worker.write(45, latency_s=50)
    worker.run((156, "Heartbeat"))
    assert judged(forge).passed
    worker.write(160, latency_s=70)
    assert len(reasons(judged(forge), 13)) == 1  # it was written at 230, and nothing before it since 156


def test_what_comes_after_a_stop_may_be_silent(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (30, "StopServing"), (90_000, "StartServing"), (90_050, "Encrypt"))
    report = judged(forge)
    assert step(report, 13) == (Verdict.PASSED, "3 heartbeats, starts and stops")


@pytest.mark.parametrize("event", ["StartServing", "RecoverLog"])
def test_an_outage_is_told_with_its_length(forge: Forge, worker: Worker, event: str) -> None:
    worker.run((0, "StartServing"), (7_530, event), (7_531, "StartServing"), (7_540, "StopServing"))
    assert step(judged(forge), 13) == (
        Verdict.PASSED,
        f"{4 if event == 'StartServing' else 3} heartbeats, starts and stops; "
        "1 outages that nothing announced, the longest of 2 h 5 min",
    )


def test_what_recovery_says_of_a_lost_call_ends_an_outage(forge: Forge, worker: Worker) -> None:
    worker.write(0, "StartServing")
    worker.write(900, phase="unknown")
    worker.write(900, "StartServing")
    assert "1 outages that nothing announced, the longest of 15 min" in step(judged(forge), 13)[1]


def test_heartbeats_that_were_turned_off_are_told(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (30, "StopServing"), (100, "Encrypt"), (5_000, "Encrypt"))
    assert step(judged(forge), 13) == (Verdict.PASSED, "2 heartbeats, starts and stops; from record 2 on it has none")


def test_heartbeats_that_are_turned_off_while_it_serves(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (60, "Heartbeat"))
    worker.write(90, "Heartbeat", interval_s=0)
    worker.run((9_000, "Encrypt"), (20_000, "Encrypt"))
    assert step(judged(forge), 13) == (Verdict.PASSED, "3 heartbeats, starts and stops; from record 3 on it has none")


def test_a_clock_that_was_set_back(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (1, "Encrypt"), (-3_600, "Encrypt"), (-3_590, "Encrypt"), (-3_540, "Heartbeat"))
    assert reasons(judged(forge), 13) == [
        (3, "its time is 1 h before that of an earlier record: the clock was set back"),
    ]


def test_records_of_calls_at_once_are_out_of_order_by_little(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (40, "Encrypt"), (20, "Encrypt"), (39, "Encrypt"), (70, "StopServing"))
    assert judged(forge).passed


def test_a_time_that_is_none_is_passed_over(forge: Forge, worker: Worker) -> None:
    worker.write(0, "StartServing")
    forge.append(line(1, "w0"))
    worker.write(30, "StopServing")
    assert judged(forge).passed


# --- a maximum age


def test_a_fresh_log_passes(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (50, "Heartbeat"))
    report = judged(forge, at_s=60, max_age_s=60)
    assert report.passed
    assert step(report, 14) == (
        Verdict.PASSED,
        f"the newest record is of {timestamp((START_S + 50) * 1_000_000)}, 2 of 2 are covered",
    )
    assert step(judged(forge, at_s=60), 14) == (Verdict.NOT_CHECKED, "not asked for: no maximum age was given")


def test_a_stale_log_fails(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (50, "Heartbeat"))
    assert reasons(judged(forge, at_s=111, max_age_s=60), 14) == [
        (0, "its newest record is of 2027-01-15T08:00:50.000000Z, and it is 2027-01-15T08:01:51Z here: the maximum age is 60 s")
    ]


def test_an_empty_log_fails(forge: Forge) -> None:
    report = verify(forge.instance.data, max_age_s=60)
    assert [fault.log for fault in report.faults if fault.step == 14] == ["w0"]


def test_an_empty_log_of_commands_fails(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"))
    assert judged(forge, max_age_s=60).passed
    for folder in (forge.instance.log_folder("admin"), forge.instance.checkpoint_folder("admin")):
        for path in folder.iterdir():
            if path.is_file() and path.name != "lock":
                path.unlink()
    report = judged(forge, max_age_s=60)
    assert [(fault.log, fault.step) for fault in report.faults] == [("admin", 14)]


def test_a_log_of_the_future_fails(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"))
    assert judged(forge, at_s=-299, max_age_s=60).passed
    assert not judged(forge, at_s=-301, max_age_s=60).passed


def test_a_stopped_log_is_stale_too(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (30, "StopServing"))
    assert len(reasons(judged(forge, at_s=1_000, max_age_s=60), 14)) == 1


def test_a_stopped_worker_is_excused_where_another_goes_on(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (30, "StopServing"))
    forge.seal()
    other = Forge(forge.instance.with_logs(["w1"]), "w1")
    Worker(other).run((0, "StartServing"), (990, "StopServing"))
    report = judged(other, at_s=1_000, max_age_s=60)
    assert [fault for fault in report.faults if fault.step == 14] == []
    other.append(line(2, "w1"))  # not a stop
    Worker(other).write(995, "StartServing")
    worker.write(40, "StartServing")
    forge.seal()
    assert [fault.log for fault in judged(other, at_s=1_000, max_age_s=60).faults if fault.step == 14] == ["w0"]


def test_a_sealer_that_stands_still(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"), (50, "Heartbeat"))
    forge.seal()
    worker.run((110, "Heartbeat"), (170, "Heartbeat"))
    report = verify(forge.instance.data, now_us=lambda: (START_S + 171) * 1_000_000, max_age_s=60)
    assert reasons(report, 14) == [
        (0, "no checkpoint that agrees covers record 2, of 2027-01-15T08:01:50.000000Z: the maximum age is 60 s")
    ]
    assert verify(forge.instance.data, now_us=lambda: (START_S + 171) * 1_000_000, max_age_s=61).passed


def test_the_command_takes_a_maximum_age_alone(forge: Forge, worker: Worker) -> None:
    worker.run((0, "StartServing"))
    forge.seal()
    result = run(forge, "--max-age", "10m")  # by the clock of today
    assert result.exit_code == 1 and "(step 14)" in result.stdout
