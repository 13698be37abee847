"""Attacks with a whole folder: one that is put back, and two histories that are shown to two sides."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.checkpoint import VerifierKey
from audit.instance import Instance
from audit.policy_file import Policy
from audit.report import Verdict
from audit.sealing.keys import verifier_keys
from audit.verify import verify
from audit.witnessed import Demand
from tests.attacks.honest import Honest
from tests.attacks.root import Root, assert_caught, assert_passes
from tests.integration.test_serve import run_keytrail
from tests.integration.test_witnessing import WitnessProcess


def test_a_folder_that_is_put_back(honest: Honest, tmp_path: Path) -> None:
    shutil.copytree(honest.backup, tmp_path / "data")
    data = tmp_path / "data"
    assert_passes(data, *honest.keys)
    assert_passes(data, "--policy", str(honest.policy))
    assert_caught(data, 7, "--checkpoint", str(honest.saved))
    assert_caught(data, 10, "--receipts", str(honest.receipts))


def test_a_folder_that_is_put_back_is_stale(honest: Honest, tmp_path: Path) -> None:
    """The honest one is as old as its last second of service; the one that was put back, some twenty seconds more."""
    shutil.copytree(honest.backup, tmp_path / "data")
    now_s = time.time()
    age_s = round(now_s - (honest.data / "witnessed" / "w0" / "cosigned").stat().st_mtime + 5)
    assert failed_but_for_admin(honest, age_s, now_s).isdisjoint({11, 14})
    stale = ("--policy", str(honest.policy), "--max-age", f"{age_s}s")
    assert_caught(tmp_path / "data", 14, *stale)
    assert_caught(tmp_path / "data", 11, *stale)


def failed_but_for_admin(honest: Honest, max_age_s: float, now_s: float) -> set[int]:
    """Failed steps of the log w0, as of `now_s`: no command was run while it served, so `admin` is older."""
    demand = Demand(Policy.parse(honest.policy.read_bytes()), max_age_s)
    report = verify(honest.data, demand=demand, max_age_s=max_age_s, now_us=lambda: int(now_s * 1_000_000))
    (log,) = [log for log in report.logs if log.log == "w0"]
    return {step.number for step in log.steps if step.verdict is Verdict.FAILED}


def test_a_folder_that_is_put_back_is_known_to_its_witness(honest: Honest, tmp_path: Path) -> None:
    shutil.copytree(honest.backup, tmp_path / "data")
    done = run_keytrail(tmp_path, "witness", "submit", "--policy", str(honest.policy), "--data", str(tmp_path / "data"))
    assert done.returncode == 1 and "INCIDENT" in done.stderr


@pytest.fixture
def histories(honest: Honest, tmp_path: Path) -> tuple[Root, Root]:
    """Two histories with the same beginning: one is what was, in the other two calls that nobody is to know of are gone."""
    for name in ("one", "other"):
        shutil.copytree(honest.data, tmp_path / name)
    one, other = Root(tmp_path / "one"), Root(tmp_path / "other")
    hidden = [number for number in other.calls() if number >= honest.saved_size][-2:]
    other.replace([line for number, line in enumerate(other.lines()) if number not in hidden])
    other.sign_anew()
    return one, other


def test_two_histories_for_two_auditors(honest: Honest, histories: tuple[Root, Root], tmp_path: Path) -> None:
    one, other = histories
    for root in histories:  # each auditor has the same key, and the same checkpoint from before
        assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved))
    for mine, theirs in ((one, other), (other, one)):  # they tell each other what they were shown
        assert_caught(mine.data, 7, "--checkpoint", str(theirs.checkpoints / "latest"))


@pytest.fixture
def fresh_witness(honest: Honest, tmp_path: Path) -> Iterator[WitnessProcess]:
    """A witness that knows nothing of the instance yet but its keys."""
    instance = Instance.load(honest.data)
    keys = verifier_keys(instance)
    texts = [str(VerifierKey(instance.origin(log), key.public_key)) for log, key in keys.items()]
    witness = WitnessProcess(tmp_path / "witness", "fresh.example", "".join(f"{text}\n" for text in texts)).start()
    yield witness
    witness.stop()


def test_two_histories_leave_a_contradiction_with_a_witness(
    histories: tuple[Root, Root], fresh_witness: WitnessProcess, tmp_path: Path
) -> None:
    one, other = histories
    policy = tmp_path / "policy"
    lines = (f"witness w {fresh_witness.key} http://{fresh_witness.address}", "quorum w", "")
    policy.write_text("\n".join(lines))
    done = run_keytrail(tmp_path, "witness", "submit", "--policy", str(policy), "--data", str(one.data))
    assert done.returncode == 0, done.stderr
    assert_passes(one.data, "--policy", str(policy))
    done = run_keytrail(tmp_path, "witness", "submit", "--policy", str(policy), "--data", str(other.data))
    assert done.returncode == 1 and "INCIDENT" in done.stderr
    assert_caught(other.data, 11, "--policy", str(policy))
