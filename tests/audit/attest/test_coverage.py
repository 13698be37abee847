"""What an attestation covers, what it excepts, and what is not attested at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.attest.check import check
from audit.checkpoint import Checkpoint
from audit.checkpoint import sign as sign_checkpoint
from audit.errors import CheckpointInvalid, LogIncident, QueryError
from audit.merkle import EMPTY_ROOT
from audit.sealing.log_sealer import LogSealer
from tests.audit.attest.builder import House, time_at
from tests.audit.attest.verdicts import reasons, verdicts
from tests.audit.query.builder import at


def test_an_interval_before_the_logs_begin_is_not_covered(house: House) -> None:
    with pytest.raises(QueryError, match=r"nothing of the interval \(from their beginning to .*\) is covered: the logs begin at"):
        house.attest(until=at(0))
    finding, document = house.attest(since=at(-60), until=at(20))
    assert finding.statement.covered == (time_at(0), time_at(20))
    assert list(finding.statement.limits()) == [f"the logs begin at {time_at(0)}: before that nothing was recorded"]
    report = check(document, [house.verifier])
    assert verdicts(report) == "pppp-F--"
    assert not report.passed


def test_without_bounds_it_covers_what_there_is(house: House) -> None:
    statement = house.attest()[0].statement
    assert statement.covered == (time_at(0), time_at(3_600))
    assert (statement.recorded_until, statement.settled_until) == (time_at(50), time_at(3_600 - 900))
    assert statement.is_complete
    assert [(log.log, log.records, log.in_interval, log.first) for log in statement.logs] == [
        ("admin", 1, 1, time_at(0)),
        ("w0", 3, 3, time_at(10)),
        ("w1", 2, 2, time_at(20)),
    ]


def test_it_ends_at_the_first_record_without_a_checkpoint(house: House) -> None:
    house.add(70, log="w1")
    house.add(65, log="w1")
    finding, document = house.attest(until=at(100))
    assert finding.statement.covered == (time_at(0), time_at(65))
    assert list(finding.statement.limits()) == [
        f"it holds up to {time_at(65)}: later records were not yet under a checkpoint, or the interval was not over"
    ]
    assert verdicts(check(document, [house.verifier], data=house.data)) == "pppp-Fpp"
    assert house.attest(until=at(65))[0].statement.is_complete
    with pytest.raises(QueryError, match="not sealed yet"):
        house.attest(since=at(66))


def test_a_log_of_which_nothing_is_signed_covers_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    with pytest.raises(QueryError, match="no record is under a checkpoint yet"):
        house.attest()
    house.add(0)
    with pytest.raises(QueryError, match="no record is under a checkpoint yet"):
        house.attest()


def test_a_damaged_line_is_excepted(house: House) -> None:
    house.logs["w1"].raw(b"{broken\n")
    house.seal()
    finding, document = house.attest()
    (one,) = finding.statement.logs[2].excepted
    assert (one.record, one.line, one.reason) == (2, 3, "not JSON")
    report = check(document, [house.verifier], data=house.data)
    assert verdicts(report) == "pppp-Fpp"
    assert reasons(report, 6) == ["not for w1/00000000000000000000.jsonl line 3 (record 2): not JSON"]


def test_a_damaged_line_behind_the_checkpoint_is_excepted(house: House) -> None:
    house.logs["w1"].raw(b"{broken\n")
    finding, document = house.attest()
    assert [one.record for one in finding.statement.logs[2].excepted] == [2]
    assert verdicts(check(document, [house.verifier], data=house.data)) == "pppp-Fpp"


def test_a_clock_set_back_limits_only_the_times_that_it_puts_in_doubt(house: House) -> None:
    house.add(3_000, log="admin")
    house.add(1_000, log="admin")
    house.seal()
    finding, document = house.attest(since=at(100), until=at(2_000))
    (back,) = finding.statement.logs[0].set_back
    assert (back.record, back.time, back.before) == (2, time_at(1_000), time_at(3_000))
    assert verdicts(check(document, [house.verifier], data=house.data)) == "pppp-Fpp"
    assert house.attest(since=at(100), until=at(1_000))[0].statement.is_complete
    assert house.attest(since=at(3_000.1), until=at(3_500))[0].statement.is_complete


def test_torn_tails_are_counted(house: House) -> None:
    (house.logs["w0"].folder / "torn" / "00000000000000000000.jsonl-9.0").write_bytes(b"torn")
    house.logs["w0"].raw(b'{"half')
    facts = house.attest()[0].statement.logs[1]
    assert (facts.torn_bytes, facts.aside_files, facts.aside_bytes) == (6, 1, 4)
    assert house.attest()[0].statement.is_complete


# --- what is not attested at all


def test_an_edited_line_is_an_incident(house: House) -> None:
    house.edit(b"AKIAALICE", b"AKIAALICF")
    with pytest.raises(LogIncident, match="w0: its lines are not those that its newest checkpoint was signed for"):
        house.attest()


def test_a_cut_log_is_an_incident(house: House) -> None:
    path = house.logs["w0"].segment
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(LogIncident, match="w0: it has 2 records, but 3 were signed for"):
        house.attest()


def test_a_vanished_log_is_an_incident(house: House) -> None:
    house.logs["w1"].folder.rename(house.data / "elsewhere")
    with pytest.raises(LogIncident, match=r"w1: .* has vanished"):
        house.attest()


def test_a_log_that_is_not_listed_is_an_incident(house: House) -> None:
    folder = house.data / "log" / "w9"
    folder.mkdir()
    assert house.attest()[0].is_absent  # nothing was ever written to it
    (folder / f"{0:020d}.jsonl").touch()
    with pytest.raises(LogIncident, match=r"w9: keytrail\.json does not list it"):
        house.attest()


def test_a_checkpoint_by_another_key_is_refused(house: House) -> None:
    folder = house.instance.checkpoint_folder("w0")
    for name in ("history", "latest", "frontier", "leaves"):
        (folder / name).unlink()
    LogSealer(house.logs["w0"].folder, folder, house.instance.origin("w0"), Ed25519PrivateKey.generate()).seal()
    with pytest.raises(CheckpointInvalid, match="not signed by"):
        house.attest()


def test_saved_checkpoints_are_held_against_the_log(house: House) -> None:
    old = house.latest()
    house.add(60)
    house.seal()
    newer = house.latest()
    origin = house.instance.origin("w0")
    finding, _ = house.attest(old, newer + "\n" + house.latest("w1"))
    assert [len(log.extends) for log in finding.statement.logs] == [0, 2, 1]
    for note, reason in (
        (sign_checkpoint(Checkpoint(origin, 3, EMPTY_ROOT), house.key), "its first 3 lines are not those"),
        (sign_checkpoint(Checkpoint(origin, 5, EMPTY_ROOT), house.key), "a saved checkpoint is of 5 records, its newest of 4"),
        (sign_checkpoint(Checkpoint(origin, 3, EMPTY_ROOT), Ed25519PrivateKey.generate()), "not signed by"),
        (sign_checkpoint(Checkpoint("keytrail/other/w0", 3, EMPTY_ROOT), house.key), "this instance has no such log"),
        (" \n", "holds no checkpoint"),
    ):
        with pytest.raises((LogIncident, CheckpointInvalid), match=reason):
            house.attest(note)
