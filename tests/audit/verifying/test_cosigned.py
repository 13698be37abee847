"""Step 11 of `verify`: the newest cosigned checkpoint fulfils the policy, is of this tree, and is not too old."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.canonical import timestamp
from audit.checkpoint import Checkpoint, VerifierKey, claimed_checkpoint, sign
from audit.cosignature import WitnessKey, cosign
from audit.policy_file import Policy
from audit.report import Report, Verdict
from audit.verify import verify
from audit.witnessed import Demand
from tests.audit.forge import SEGMENT, Forge, line
from tests.audit.verifying.verdicts import run

NOW_S = 1_800_000_000
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in range(3)]
NAMES = ["a.example", "b.example", "c.example"]
WITNESSES = [WitnessKey.of(name, key) for name, key in zip(NAMES, KEYS, strict=True)]
POLICY = Policy.parse(
    "".join(f"witness {key.name[0]} {key}\n" for key in WITNESSES).encode() + b"group two 2 a b c\nquorum two\n"
)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    forge = Forge.create(tmp_path)
    forge.grow(30)
    forge.seal()
    witness(forge, {0: NOW_S - 60, 1: NOW_S - 30})
    forge.grow(5)
    forge.seal()
    return forge


def witness(forge: Forge, times: dict[int, int], note: str | None = None) -> None:
    """Put the newest checkpoint at `cosigned`, with cosignatures of these witnesses."""
    note = note or forge.latest
    text = claimed_checkpoint(note).text()
    lines = [cosign(text, NAMES[number], KEYS[number], time_s) for number, time_s in times.items()]
    (forge.witnessed / "cosigned").write_text(note + "".join(lines), "utf-8")


def judged(forge: Forge, policy: Policy = POLICY, max_age_s: float | None = None, **given: list[VerifierKey]) -> Report:
    demand = Demand(policy, max_age_s)
    return verify(forge.instance.data, given.get("keys", []), now_us=lambda: NOW_S * 1_000_000, demand=demand)


def step(report: Report) -> tuple[Verdict, str]:
    (log,) = report.logs
    (found,) = [step for step in log.steps if step.number == 11]
    return found.verdict, found.detail


def reasons(report: Report) -> list[str]:
    assert {fault.step for fault in report.faults} == {11}, report.faults
    assert step(report)[0] is Verdict.FAILED and not report.passed
    return [fault.reason for fault in report.faults]


def test_a_quorum_of_this_tree_passes(forge: Forge) -> None:
    assert step(judged(forge)) == (Verdict.PASSED, "30 records, cosigned by a, b, 60 s ago")
    assert step(judged(forge, max_age_s=60)) == (Verdict.PASSED, "30 records, cosigned by a, b, 60 s ago")


def test_a_cosignature_more_than_is_needed_may_be_old(forge: Forge) -> None:
    witness(forge, {0: NOW_S - 9_000, 1: NOW_S - 30, 2: NOW_S - 20})
    assert step(judged(forge, max_age_s=60))[0] is Verdict.PASSED


def test_without_a_policy_it_is_not_checked(forge: Forge) -> None:
    assert step(verify(forge.instance.data)) == (Verdict.NOT_CHECKED, "not asked for: no policy was given")


def test_stale_is_a_failure(forge: Forge) -> None:
    assert reasons(judged(forge, max_age_s=59)) == [
        "the newest cosigned checkpoint, of 30 records: its quorum's cosignatures are 60 s old, more than 59 s"
    ]


def test_missing_is_a_failure(forge: Forge) -> None:
    (forge.witnessed / "cosigned").unlink()
    assert reasons(judged(forge)) == ["there is no cosigned checkpoint of its 35 records"]


def test_too_few_are_a_failure(forge: Forge) -> None:
    witness(forge, {2: NOW_S})
    assert reasons(judged(forge)) == ["the newest cosigned checkpoint, of 35 records: it has no quorum (two): cosigned by c"]
    witness(forge, {})
    assert "cosigned by none of the policy's witnesses" in reasons(judged(forge))[0]


def test_one_witness_twice_is_one(forge: Forge) -> None:
    text = claimed_checkpoint(forge.latest).text()
    lines = [cosign(text, NAMES[0], KEYS[0], NOW_S - age) for age in range(3)]
    (forge.witnessed / "cosigned").write_text(forge.latest + "".join(lines), "utf-8")
    assert "cosigned by a" in reasons(judged(forge))[0]


def test_those_of_the_future_are_a_failure(forge: Forge) -> None:
    witness(forge, {0: NOW_S + 1_000, 1: NOW_S + 1_000})
    assert "of a time that is 1000 s ahead" in reasons(judged(forge))[0]


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"\xff\xfe", b"a\n1\n\n\xe2\x80\x94 a AAAA\n"])
def test_what_is_no_note_is_a_failure(forge: Forge, damage: bytes) -> None:
    (forge.witnessed / "cosigned").write_bytes(damage)
    assert reasons(judged(forge))


def test_a_cosignature_of_another_checkpoint_is_a_failure(forge: Forge) -> None:
    other = Checkpoint(forge.instance.origin(forge.log), 34, bytes(32)).text()
    lines = [cosign(other, NAMES[number], KEYS[number], NOW_S) for number in (0, 1)]
    (forge.witnessed / "cosigned").write_text(forge.latest + "".join(lines), "utf-8")
    assert "the cosignature of a.example is not genuine" in reasons(judged(forge))[0]


def test_one_of_another_log_is_a_failure(forge: Forge) -> None:
    other = sign(Checkpoint(f"{forge.instance.origin(forge.log)}2", 30, bytes(32)), forge.key)
    witness(forge, {0: NOW_S, 1: NOW_S}, other)
    assert reasons(judged(forge))


def test_one_that_another_key_signed_is_a_failure(forge: Forge) -> None:
    forged = sign(claimed_checkpoint(forge.latest), KEYS[2])
    witness(forge, {0: NOW_S, 1: NOW_S}, forged)
    assert "not signed by" in reasons(judged(forge))[0]


def test_a_log_that_was_rewritten_since_is_a_failure(forge: Forge) -> None:
    """Root puts other records in place, and signs them anew with the log's key. What was cosigned still speaks of the others."""
    lines = forge.lines(1)
    lines[3] = line(SEGMENT + 3, forge.log, word="Decrypt")
    forge.write(1, lines)
    for name in ("history", "latest", "leaves", "frontier"):
        (forge.checkpoints / name).unlink()
    forge.seal()
    assert verify(forge.instance.data).passed, "on this host everything fits"
    (reason,) = reasons(judged(forge))
    assert "do not have the root of the newest cosigned checkpoint (30 records)" in reason


def test_a_log_that_was_cut_since_is_a_failure(forge: Forge) -> None:
    for number in (2, 3):
        forge.segment(number).unlink()
    for name in ("history", "latest", "leaves", "frontier", "../../log/admin/mark"):
        (forge.checkpoints / name).unlink()
    forge.records = 2 * SEGMENT
    forge.append(*(line(2 * SEGMENT + offset, forge.log) for offset in range(4)))
    forge.seal()
    assert verify(forge.instance.data).passed, "on this host everything fits"
    (reason,) = reasons(judged(forge))
    assert (
        "the log ends with record 23, but the newest cosigned checkpoint (30 records) was signed for records up to 29" in reason
    )


def test_a_folder_put_back_as_it_was_is_too_old(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> None:
    backup = tmp_path_factory.mktemp("backup") / "data"
    shutil.copytree(forge.instance.data, backup)
    witness(forge, {0: NOW_S + 3_600, 1: NOW_S + 3_600})
    shutil.rmtree(forge.instance.data)
    shutil.copytree(backup, forge.instance.data)
    later = lambda: (NOW_S + 3_600) * 1_000_000  # noqa: E731
    report = verify(forge.instance.data, now_us=later, demand=Demand(POLICY, 600))
    assert "cosignatures are 3660 s old" in reasons(report)[0]


def test_an_empty_log_has_nothing_to_cosign(forge: Forge) -> None:
    forge.instance.with_logs(["w0"])
    (log,) = [log for log in judged(forge).logs if log.log == "w0"]
    (found,) = [step for step in log.steps if step.number == 11]
    assert (found.verdict, found.detail) == (Verdict.NOT_CHECKED, "there is none")


def test_the_log_of_the_commands_is_never_empty(tmp_path: Path) -> None:
    """`init` writes its first record: who empties it, takes all away that speaks of it."""
    assert reasons(judged(Forge.create(tmp_path))) == ["there is no cosigned checkpoint of its 0 records"]


def test_records_that_say_that_they_are_young_are_no_excuse(tmp_path: Path) -> None:
    forge = Forge.create(tmp_path)
    young = orjson.loads(line(0))
    young["additionalEventData"]["keytrail"]["time"] = timestamp((NOW_S - 1) * 1_000_000)
    forge.append(orjson.dumps(young, option=orjson.OPT_APPEND_NEWLINE))
    assert verify(tmp_path, now_us=lambda: NOW_S * 1_000_000).passed, "it is not sealed yet"
    assert reasons(judged(forge)) == ["there is no cosigned checkpoint of its 1 records"]


def test_a_note_longer_than_any_is_not_read_whole(forge: Forge) -> None:
    for path in (forge.witnessed / "cosigned", forge.checkpoints / "latest"):
        with path.open("r+b") as file:
            file.truncate(1 << 36)  # a hole: it has no blocks
    report = judged(forge)
    assert {fault.step for fault in report.faults} == {6, 11}
    assert "not a signed note" in next(fault.reason for fault in report.faults if fault.step == 11)


def test_a_policy_without_witnesses(forge: Forge) -> None:
    none = Policy.parse(b"quorum none\n")
    assert step(judged(forge, none)) == (Verdict.PASSED, "30 records, cosigned by nobody, as the policy has it")
    assert "nothing tells its age" in reasons(judged(forge, none, 60))[0]
    (forge.witnessed / "cosigned").unlink()
    assert step(judged(forge, none))[0] is Verdict.NOT_CHECKED
    assert reasons(judged(forge, none, 60)) == ["there is no cosigned checkpoint of its 35 records"]


def test_a_log_of_the_policy_is_trusted_by_its_key_there(forge: Forge) -> None:
    policy = Policy.parse(f"log {forge.verifier}\n".encode() + POLICY.encode())
    assert judged(forge, policy).passed
    other = VerifierKey.of(forge.verifier.name, KEYS[2])
    report = judged(forge, Policy.parse(f"log {other}\n".encode() + POLICY.encode()))
    assert {4, 11} <= {fault.step for fault in report.faults}


# --- the command


def test_the_command(forge: Forge, tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_bytes(POLICY.encode())
    now_s = int(time.time())
    witness(forge, {0: now_s - 900, 1: now_s - 900})
    result = run(forge, "--policy", str(file), "--max-age", "2 hours")
    assert result.exit_code == 0 and "\u2713 11. the newest cosigned checkpoint fulfils the policy" in result.stdout
    result = run(forge, "--policy", str(file), "--max-age", "10m")
    assert result.exit_code == 1 and "VERIFICATION FAILED" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-age", "soon"], "not a span of time: 'soon'"),
        (["--policy", "POLICY", "--max-age", "soon"], "not a span of time: 'soon'"),
        (["--policy", "POLICY", "--max-age", "2 days ago"], "not a span of time"),
        (["--policy", "BAD"], "policy, line 1: 'quorums' is no log, witness, group or quorum line"),
    ],
)
def test_what_is_mistyped_is_told(forge: Forge, tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "POLICY").write_bytes(POLICY.encode())
    (tmp_path / "BAD").write_bytes(b"quorums none\n")
    result = run(forge, *(str(tmp_path / text) if text.isupper() else text for text in arguments))
    assert result.exit_code == 2 and told in result.stderr


def test_a_policy_that_is_not_there(forge: Forge, tmp_path: Path) -> None:
    assert run(forge, "--policy", str(tmp_path / "none")).exit_code == 3
