"""`prove` and `verify-proof`: a record's proof, made here and checked from its two files alone; and what has none, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from audit import cli
from audit.checkpoint import VerifierKey
from audit.cosignature import WitnessKey, cosign
from audit.sealing import rotation
from audit.sealing.keys import read_chain
from audit.sealing.process import Sealer
from tests.audit.attest.builder import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    (tmp_path / "data").mkdir()
    house = House(tmp_path / "data")
    house.add(0, "Init", log="admin", user="root", key=None, eventID="event-0")
    for number in range(600):
        house.add(number, eventID=f"event-{number + 1}", requestID=f"request-{number + 1}", context={"object": str(number)})
    house.seal()
    return house


def run(house: House, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [*arguments], env={"KEYTRAIL_DATA": str(house.data), "COLUMNS": "200"})


def key_of(house: House, log: str = "w0") -> str:
    return str(VerifierKey.of(house.instance.origin(log), house.key))


def proved(house: House, folder: Path, *arguments: str) -> Path:
    """The proof's file."""
    before = set(folder.glob("*.tlog-proof"))
    result = run(house, "prove", *arguments, "--out", str(folder))
    assert result.exit_code == 0, result.output
    (made,) = set(folder.glob("*.tlog-proof")) - before
    assert f"keytrail verify-proof {made} --key VERIFIER-KEY" in result.stdout
    return made


def test_a_record_is_proved_by_its_event_id_and_checked_by_its_files_alone(house: House, tmp_path: Path) -> None:
    proof = proved(house, tmp_path, "event-301")
    assert proof.name == "w0-300.tlog-proof"
    assert proof.with_suffix(".json").read_bytes() == house.logs["w0"].lines[300]
    assert proof.read_text().startswith("c2sp.org/tlog-proof@v1\nindex 300\n")
    key = key_of(house)
    house.data.rename(tmp_path / "gone")
    result = run(house, "verify-proof", str(proof), "--key", key)
    assert result.exit_code == 0, result.output
    assert "Proved: this record is number 300 of the log keytrail/" in result.stdout
    assert "It says: Decrypt by user/alice, 2026-01-02T00:05:00.000000Z, event event-301." in result.stdout
    assert "among the 600 records that keytrail/" in result.stdout
    assert "Not proved: that the host's clock was right" in result.stdout


@pytest.mark.parametrize("number", [0, 255, 256, 511, 512, 599])
def test_a_record_is_proved_by_its_place(house: House, tmp_path: Path, number: int) -> None:
    proof = proved(house, tmp_path, "--log", "w0", "--sequence", str(number))
    assert run(house, "verify-proof", str(proof), "--key", key_of(house)).exit_code == 0


def test_the_record_may_lie_elsewhere_and_end_in_a_newline(house: House, tmp_path: Path) -> None:
    proof = proved(house, tmp_path, "event-5")
    elsewhere = tmp_path / "record"
    elsewhere.write_bytes(proof.with_suffix(".json").read_bytes() + b"\n")
    proof.with_suffix(".json").unlink()
    assert run(house, "verify-proof", str(proof), "--key", key_of(house)).exit_code == 3
    assert run(house, "verify-proof", str(proof), "--key", key_of(house), "--record", str(elsewhere)).exit_code == 0


def test_a_cosigned_checkpoint_is_preferred_where_it_covers_the_record(house: House, tmp_path: Path) -> None:
    keep_cosigned(house, house.latest())
    for number in range(5):
        house.add(1_000 + number, eventID=f"later-{number}")
    house.seal()
    assert "\n600\n" in proved(house, tmp_path, "event-1").read_text()
    assert "\n605\n" in proved(house, tmp_path, "later-4").read_text()


# --- witnesses

WITNESSES = {name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number, name in enumerate(("oslo", "lima"), 7)}


def policy_of(house: House, folder: Path, quorum: str, log: str = "w0") -> Path:
    """A policy file for the log, with both witnesses; `quorum` is the number that is needed, or none."""
    keys = [f"witness {name} {WitnessKey.of(f'{name}.example', key)}" for name, key in WITNESSES.items()]
    group = f"group both {quorum} {' '.join(WITNESSES)}\nquorum both\n" if quorum != "none" else "quorum none\n"
    path = folder / "policy"
    path.write_text(f"log {key_of(house, log)}\n" + "\n".join(keys) + f"\n{group}")
    return path


def cosigned(house: House, *names: str) -> None:
    """As the process that asks witnesses leaves it."""
    note = house.latest()
    text = note.rpartition("\n\n")[0] + "\n"
    lines = [cosign(text, f"{name}.example", WITNESSES[name], 1_767_323_045) for name in names]
    keep_cosigned(house, note + "".join(lines))


def keep_cosigned(house: House, note: str) -> None:
    house.instance.make_witnessed_folder("w0")
    (house.instance.witnessed_folder("w0") / "cosigned").write_text(note)


def test_a_policy_brings_the_logs_key_and_asks_for_witnesses(house: House, tmp_path: Path) -> None:
    cosigned(house, "oslo", "lima")
    proof = proved(house, tmp_path, "event-7")
    result = run(house, "verify-proof", str(proof), "--policy", str(policy_of(house, tmp_path, "2")))
    assert result.exit_code == 0, result.output
    assert (
        "Witnessed by oslo, lima, the last that was needed at 2026-01-02T03:04:05Z: they saw no other history." in result.stdout
    )


def test_too_few_witnesses_are_no_proof(house: House, tmp_path: Path) -> None:
    cosigned(house, "lima")
    proof = proved(house, tmp_path, "event-7")
    result = run(house, "verify-proof", str(proof), "--policy", str(policy_of(house, tmp_path, "all")))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the policy's quorum is not there: of its witnesses, lima cosigned this checkpoint" in result.stderr
    assert run(house, "verify-proof", str(proof), "--policy", str(policy_of(house, tmp_path, "any"))).exit_code == 0


def test_a_policy_without_a_quorum_and_one_of_another_log(house: House, tmp_path: Path) -> None:
    proof = proved(house, tmp_path, "event-7")
    result = run(house, "verify-proof", str(proof), "--policy", str(policy_of(house, tmp_path, "none")))
    assert result.exit_code == 0 and "nobody who holds the key signed another history" in result.stdout
    policy = policy_of(house, tmp_path, "none", log="admin")
    assert "no key was given for" in run(house, "verify-proof", str(proof), "--policy", str(policy)).stderr
    assert run(house, "verify-proof", str(proof), "--policy", str(policy), "--key", key_of(house)).exit_code == 0
    policy.write_text("quorum\n")
    result = run(house, "verify-proof", str(proof), "--policy", str(policy))
    assert result.exit_code in (1, 2, 3) and "error: policy, line 1: " in result.stderr


# --- a key that was changed


def rotate(house: House, compromised_since: str | None = None) -> None:
    number = len(read_chain(house.instance).rotations) + 1
    rotation.ask(house.instance, rotation.Request(number, compromised_since=compromised_since))
    Sealer(house.data, lambda status: None).seal_all()
    for log in house.logs:
        house.add(5_000 + number, log=log, eventID=f"{log}-after-{number}")
    house.seal()


def test_a_key_from_before_a_change_leads_to_the_one_after_it(house: House, tmp_path: Path) -> None:
    first, old_proof = key_of(house), proved(house, tmp_path, "event-7")
    rotate(house)
    changes = str(house.instance.key_chain)
    proof = proved(house, tmp_path, "w0-after-1")
    assert run(house, "verify-proof", str(proof), "--key", key_of(house)).exit_code == 0
    result = run(house, "verify-proof", str(proof), "--key", first)
    assert result.exit_code == 1 and "not signed by" in result.stderr
    for key, file in ((first, proof), (key_of(house), old_proof), (first, old_proof)):
        result = run(house, "verify-proof", str(file), "--key", key, "--keys", changes)
        assert result.exit_code == 0, result.stderr
    assert run(house, "verify-proof", str(proof), "--key", key_of(house, "admin"), "--keys", changes).exit_code == 1


def test_a_key_that_was_given_up_as_stolen_vouches_for_nothing_after_it(house: House, tmp_path: Path) -> None:
    first = key_of(house)
    rotate(house, compromised_since="2026-01-02T00:00:00Z")
    proof = proved(house, tmp_path, "w0-after-1")
    result = run(house, "verify-proof", str(proof), "--key", first, "--keys", str(house.instance.key_chain))
    assert result.exit_code == 1 and "the key that is trusted was given up" in result.stderr


# --- what does not hold


def test_an_altered_record_or_proof_is_refused(house: House, tmp_path: Path) -> None:
    proof = proved(house, tmp_path, "event-7")
    record = proof.with_suffix(".json")
    right = record.read_bytes()
    record.write_bytes(right.replace(b"alice", b"carol"))
    result = run(house, "verify-proof", str(proof), "--key", key_of(house))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the record is not number 6 of the 600" in result.stderr
    record.write_bytes(right)
    proof.write_text(proof.read_text().replace("index 6", "index 7"))
    assert run(house, "verify-proof", str(proof), "--key", key_of(house)).exit_code == 1


def test_the_key_is_the_readers(house: House, tmp_path: Path) -> None:
    proof = proved(house, tmp_path, "event-7")
    forged = str(VerifierKey.of(house.instance.origin("w0"), Ed25519PrivateKey.generate()))
    for key, code, reason in (
        (forged, 1, "not signed by"),
        (key_of(house, "admin"), 1, "no key was given for"),
        (key_of(house)[:-3], 2, "--key: "),
    ):
        result = run(house, "verify-proof", str(proof), "--key", key)
        assert result.exit_code == code and reason in result.stderr
    assert run(house, "verify-proof", str(proof)).exit_code == 2


def test_a_record_that_says_it_stands_elsewhere(house: House, tmp_path: Path) -> None:
    house.logs["w0"].raw(house.logs["w0"].lines[3] + b"\n")  # the sealer signs for lines as they are
    house.seal()
    proof = proved(house, tmp_path, "--log", "w0", "--sequence", "600")
    result = run(house, "verify-proof", str(proof), "--key", key_of(house))
    assert result.exit_code == 1 and "it is number 600 of keytrail/" in result.stderr
    assert "but says that it is number 3 of the log w0" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("event-999",), 1, "no record has the event id event-999"),
        (("request-9",), 1, "request-9 is the id of a request; each of its records is proved by its own event id: event-9"),
        (("--log", "w9", "--sequence", "0"), 2, "no log 'w9'; there are admin, w0"),
        (("--log", "w0", "--sequence", "600"), 1, "record 600 is not there"),
        (("--log", "w0"), 2, "by its event id, or by --log and --sequence"),
        ((), 2, "by its event id, or by --log and --sequence"),
        (("event-1", "--log", "w0", "--sequence", "0"), 2, "by its event id, or by --log and --sequence"),
    ],
)
def test_what_cannot_be_found(house: House, tmp_path: Path, arguments: tuple[str, ...], code: int, reason: str) -> None:
    result = run(house, "prove", *arguments, "--out", str(tmp_path))
    assert result.exit_code == code and reason in result.stderr
    assert not list(tmp_path.glob("*.tlog-proof"))


def test_an_event_id_that_two_records_have_is_no_name(house: House, tmp_path: Path) -> None:
    house.add(1, log="admin", eventID="event-7")
    house.seal()
    result = run(house, "prove", "event-7", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "several records have the event id event-7: admin/00000000000000000000.jsonl:2, w0/00000000000000000000.jsonl:7" in (
        result.stderr
    )
    proved(house, tmp_path, "--log", "admin", "--sequence", "1")


def test_damage_elsewhere_is_told_and_hinders_no_proof(house: House, tmp_path: Path) -> None:
    house.edit(house.logs["w0"].lines[9], b"x" * len(house.logs["w0"].lines[9]))
    result = run(house, "prove", "event-301", "--out", str(tmp_path))
    assert result.exit_code == 1 and "WARNING: 1 damaged place in the log" in result.stderr
    assert run(house, "verify-proof", str(tmp_path / "w0-300.tlog-proof"), "--key", key_of(house)).exit_code == 0
    result = run(house, "prove", "event-10", "--out", str(tmp_path))
    assert result.exit_code == 1 and "damage was met on the way, and the record may be there" in result.stderr


def test_what_is_not_sealed_yet(house: House, tmp_path: Path) -> None:
    house.add(2_000, eventID="young")
    result = run(house, "prove", "young", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "record 600 of w0 is under no checkpoint yet (the newest is of 600 records)" in result.stderr


def test_a_record_that_was_changed_has_no_proof(house: House, tmp_path: Path) -> None:
    house.edit(b'"eventID":"event-301"', b'"eventID":"event-x01"')
    result = run(house, "prove", "event-x01", "--out", str(tmp_path))
    assert result.exit_code == 1 and "record 300 of w0 is not the one that was signed for: it was changed" in result.stderr


def test_damaged_levels_are_told_from_a_changed_record_and_made_anew(house: House, tmp_path: Path) -> None:
    leaves = house.instance.checkpoint_folder("w0") / "hashes-1"
    right = leaves.read_bytes()
    leaves.write_bytes(bytes(32) + right[32:])
    result = run(house, "prove", "event-301", "--out", str(tmp_path))
    assert result.exit_code == 1 and "cannot be proved: it, or " in result.stderr and "the levels are derived" in result.stderr
    leaves.unlink()
    result = run(house, "prove", "event-301", "--out", str(tmp_path))
    assert result.exit_code == 1 and "hashes-1: it is missing" in result.stderr
    house.seal()  # a sealer that starts mends them
    assert leaves.read_bytes() == right
    proved(house, tmp_path, "event-301")


def test_nothing_is_written_into_the_data_folder(house: House) -> None:
    result = run(house, "prove", "event-1", "--out", str(house.data))
    assert result.exit_code == 2 and "not written into the data folder" in result.stderr
