"""Another implementation of C2SP tlog-witness, `aics-witness`: our log before its witness, and its client before ours.

Installed by tests/integration/components/install.sh; without it, skipped.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.checkpoint import claimed_checkpoint
from audit.cosignature import WitnessKey
from audit.policy_file import Policy
from audit.witnessing.courier import Courier
from audit.witnessing.submission import open_session
from tests.audit.forge import Forge
from tests.integration.conftest import LIMIT_S, wait_until
from tests.integration.test_witnessing import WitnessProcess

OTHERS = Path(__file__).parent / "components" / "witness" / ".wheels"
pytestmark = pytest.mark.skipif(not (OTHERS / ".installed").exists(), reason="make servers installs aics-witness")

#: Verifies a cosigned note: arguments are the file, the log's key, and the witness's.
VERIFY = """
import sys
from aics_tlog.checkpoint import verify_checkpoint
from aics_tlog.note import parse_note, parse_vkey
note, log, witness = open(sys.argv[1], encoding="utf-8").read(), parse_vkey(sys.argv[2]), parse_vkey(sys.argv[3])
result = verify_checkpoint(parse_note(note), log, [witness], 1, expected_origin=log.name, max_age_seconds=600)
print(result.ok, result.size, result.error)
"""

#: Submits each note of a history to a witness, with proofs of its own over the log's lines.
SUBMIT = """
import sys
from pathlib import Path
from aics_tlog.checkpoint import parse_checkpoint
from aics_tlog.note import parse_note
from aics_tlog.tree import MerkleTree
from aics_witness.feeder import WitnessClient, WitnessRejected
url, key, history, log = sys.argv[1:]
tree = MerkleTree(line for path in sorted(Path(log).glob("*.jsonl")) for line in path.read_bytes().splitlines())
notes = Path(history).read_text("utf-8").split("\\n\\nkeytrail/")
with WitnessClient(url, key) as client:
    for note in ["keytrail/" + note.removeprefix("keytrail/").rstrip("\\n") + "\\n" for note in notes]:
        try:
            client.submit(note, lambda old, new: tree.consistency_proof(old, new) if old else [])
            print(parse_checkpoint(parse_note(note).text).size, "cosigned")
        except WitnessRejected as error:
            print(error.status, "rejected")
"""


def run_other(program: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(OTHERS)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    (tmp_path / "data").mkdir()
    return Forge.create(tmp_path / "data")


class OtherWitness:
    """`aics-witness serve`, on a port that it chose."""

    def __init__(self, folder: Path, forge: Forge) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = self._command("init", "--name", "other.example/w1").stdout.split()[-1]
        origin = forge.instance.origin(forge.log)
        self._command("add-log", "--origin", origin, "--vkey", str(forge.verifier))
        self.starts = 0

    def _command(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self._argv(*words), env=self._environment, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        return done

    def _argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "aics_witness", *words, "--config", str(self.folder / "witness.json")]

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(OTHERS)}

    def start(self) -> str:
        """Its URL."""
        self.starts += 1
        output = self.folder / f"output-{self.starts}"
        with output.open("wb") as file:
            argv = self._argv("serve", "--listen", "127.0.0.1:0")
            self.process = subprocess.Popen(argv, env=self._environment, stdout=file, stderr=subprocess.STDOUT)
        wait_until(lambda: re.search(r"127\.0\.0\.1:[1-9]\d*", output.read_text()) is not None, "it listens")
        found = re.search(r"127\.0\.0\.1:([1-9]\d*)", output.read_text())
        assert found is not None
        return f"http://127.0.0.1:{found[1]}"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT_S)


@pytest.fixture
def other(tmp_path: Path, forge: Forge) -> Iterator[OtherWitness]:
    other = OtherWitness(tmp_path / "other", forge)
    yield other
    if other.starts:
        other.stop()


async def witness_once(forge: Forge, policy: Policy) -> Courier:
    async with open_session() as session:
        courier = Courier(forge.instance, forge.log, policy, session)
        courier.step()
        await courier.finish()
    return courier


async def test_our_log_before_their_witness(forge: Forge, other: OtherWitness, tmp_path: Path) -> None:
    policy = Policy.parse(f"witness other {WitnessKey.parse(other.key)} {other.start()}\nquorum other\n".encode())
    for count in (1, 6, 13, 300, 1):
        forge.grow(count)
        forge.seal()
        courier = await witness_once(forge, policy)
        assert courier.cosigned_size == forge.records, courier.slight_faults()
    note = forge.witnessed / "cosigned"
    assert run_other(VERIFY, str(note), str(forge.verifier), other.key) == [f"True {forge.records} None"]

    (forge.witnessed / "cosignatures").unlink()
    note.unlink()
    forge.grow(3)
    forge.seal()
    courier = await witness_once(forge, policy)  # it knows no size any more: a 409 tells it
    assert courier.cosigned_size == forge.records, courier.slight_faults()


async def test_a_rewritten_log_before_their_witness(forge: Forge, other: OtherWitness) -> None:
    policy = Policy.parse(f"witness other {WitnessKey.parse(other.key)} {other.start()}\nquorum other\n".encode())
    forge.grow(10)
    forge.seal()
    await witness_once(forge, policy)
    forge.write(0, [line.replace(b"Encrypt", b"Decrypt") for line in forge.lines(0)])
    for path in (*forge.checkpoints.iterdir(), *forge.witnessed.iterdir()):
        path.unlink()
    for count in (0, 4):  # the same size, and a larger one
        forge.grow(count)
        forge.seal()
        courier = await witness_once(forge, policy)
        assert not courier.cosigned_s
        assert "INCIDENT" in courier.grave_faults(time.time())[0]


def test_their_client_and_verifier_before_our_witness(forge: Forge, tmp_path: Path) -> None:
    witness = WitnessProcess(tmp_path / "ours", "ours.example/w1", f"{forge.verifier}\n").start()
    try:
        for count in (1, 6, 13, 300):
            forge.grow(count)
            forge.seal()
        told = run_other(
            SUBMIT,
            f"http://{witness.address}",
            witness.key,
            str(forge.checkpoints / "history"),
            str(forge.folder),
        )
        assert told == [f"{size} cosigned" for size in (1, 7, 20, 320)]
        forge.write(0, [line.replace(b"Encrypt", b"Decrypt") for line in forge.lines(0)])
        for name in ("history", "latest", "leaves", "frontier"):
            (forge.checkpoints / name).unlink()
        forge.grow(1)
        forge.seal()
        told = run_other(
            SUBMIT,
            f"http://{witness.address}",
            witness.key,
            str(forge.checkpoints / "history"),
            str(forge.folder),
        )
        assert told == ["422 rejected"]
    finally:
        assert witness.stop() == 0
    assert claimed_checkpoint(forge.latest).size == 321
