"""Faults under the companions of a served instance: their disk fills, they are killed between any two steps. Calls go on, and
what is found in the end is whole: under checkpoints, cosigned, delivered once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audit.checkpoint import VerifierKey
from tests.integration.conftest import Server, wait_until
from tests.integration.test_serve import run_keytrail
from tests.integration.test_witnessing import WitnessProcess, cosigned_size, worker_key, write_policy

MODULES = {"sealer": b"audit.sealing", "witnesses": b"audit.witnessing", "delivery": b"audit.delivery"}


@dataclass
class Watched:
    """An instance with a witness and a delivery, and the receipts of its calls."""

    folder: Path
    server: Server
    witness: WitnessProcess
    keys: str
    receipts: list[str] = field(default_factory=list)

    @property
    def delivered(self) -> Path:
        return self.folder / "trail"

    def call(self, count: int = 5) -> None:
        client = self.server.client()
        for number in range(count):
            context = {"number": str(number)}
            answer = client.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext=context)
            self.receipts.append(answer["ResponseMetadata"]["HTTPHeaders"]["x-keytrail-receipt"])

    def child(self, name: str) -> int | None:
        """The process id of a companion; None where it is being started anew."""
        children = Path(f"/proc/{self.server.process.pid}/task/{self.server.process.pid}/children")
        for pid in children.read_text().split():
            try:
                if MODULES[name] in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return int(pid)
            except OSError:
                continue
        return None

    def is_ready(self, *names: str) -> bool:
        processes = self.server.health()[1]["processes"]
        return all(processes[name]["ready"] for name in names)

    def settle(self, limit_s: float = 90) -> None:
        """Wait until all that is written is sealed and cosigned, and every companion says that it does its work."""
        wait_until(lambda: cosigned_size(self.server.data) >= self.server.count_records(), "all is cosigned", limit_s)
        wait_until(lambda: self.is_ready(*MODULES), "all are well", limit_s)

    def require_whole(self) -> None:
        """After a stop: nothing is missing, nothing is there twice."""
        (self.folder / "receipts").write_text("\n".join(self.receipts) + "\n")
        keys = [word for key in self.keys.splitlines() for word in ("--key", str(VerifierKey.parse(key)))]
        asked = ["--policy", str(self.folder / "policy"), "--receipts", str(self.folder / "receipts")]
        command = ["verify", "--data", str(self.server.data), "--delivery", str(self.delivered), *asked, *keys]
        done = run_keytrail(self.folder, *command)
        assert done.returncode == 0, done.stdout
        log_files = [path.name for path in self.delivered.rglob("*_CloudTrail_*.json.gz")]
        assert log_files and len(log_files) == len(set(log_files))


@pytest.fixture
def watched(initialised: Path, tmp_path: Path) -> Iterator[Watched]:
    """Not started yet."""
    data = tmp_path / "data"
    shutil.copytree(initialised, data)
    (tmp_path / "trail").mkdir()
    keys = run_keytrail(tmp_path, "checkpoint", "--key", "--data", str(data)).stdout + worker_key(data)
    witness = WitnessProcess(tmp_path / "witness", "witness.example", keys)
    settings = {
        "KEYTRAIL_SEGMENT_MAX_BYTES": "65536",
        "KEYTRAIL_WITNESS_POLICY": str(tmp_path / "policy"),
        "KEYTRAIL_DELIVERY": str(tmp_path / "trail"),
        "KEYTRAIL_DELIVERY_INTERVAL_S": "1",
        "KEYTRAIL_DELIVERY_DIGEST_S": "5",
    }
    made = Watched(tmp_path, Server(data, settings), witness, keys)
    write_policy(tmp_path / "policy", 1, witness.start())
    try:
        yield made
    finally:
        if made.server.starts:
            made.server.kill_all()
        witness.stop()


def mounted(folder: Path) -> None:
    """A file system of a megabyte in the place of `folder`, with the same in it; skips where that is not permitted."""
    kept = folder.with_name(f"{folder.name}.kept")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, kept)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0750", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    shutil.copytree(kept, folder, dirs_exist_ok=True)


def filled(folder: Path) -> Path:
    """Fill its file system to the last byte; gives what is to be deleted again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1_024)):
                continue
        except OSError:
            return filler
    raise AssertionError("it does not get full")


@pytest.fixture
def disks(watched: Watched) -> Iterator[dict[str, Path]]:
    """What each companion writes on a small disk of its own, by its name, and the witness's memory."""
    data = watched.server.data
    places = {
        "sealer": data / "checkpoints",
        "delivery": data / "delivery",
        "destination": watched.delivered,
        "memory": watched.folder / "witness" / "keytrail-witness",
    }
    watched.witness.stop()
    done: list[Path] = []
    try:
        for place in places.values():
            mounted(place)
            done.append(place)
        watched.witness.start()
        yield places
    finally:
        if watched.server.starts:
            watched.server.kill_all()
        watched.witness.stop()
        for place in done:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_under_a_companion_holds_up_that_one_alone_until_there_is_room(
    watched: Watched, disks: dict[str, Path]
) -> None:
    watched.server.start()
    watched.call()
    watched.settle()
    for name, place in disks.items():
        filler = filled(place)
        told = {"sealer": "sealer", "memory": "witnesses"}.get(name, "delivery")
        watched.call()
        if name == "memory":
            wait_until(lambda: "it answers 500" in str(processes(watched)["witnesses"]["reason"]), name)
        else:
            wait_until(lambda told=told: not watched.is_ready(told), name)  # type: ignore[misc] # mypy: of a default
            assert "No space left on device" in str(processes(watched)[told]["reason"])
        watched.call()
        filler.unlink()
        watched.call()
        watched.settle()
    assert watched.server.stop() == 0
    watched.require_whole()


def processes(watched: Watched) -> dict[str, dict[str, object]]:
    told: dict[str, dict[str, object]] = watched.server.health()[1]["processes"]
    return told


def test_companions_that_are_killed_again_and_again_lose_nothing(watched: Watched) -> None:
    chance = random.Random(6)
    watched.server.start()
    for _ in range(16):
        watched.call(chance.randrange(1, 150))
        victim = chance.choice([*MODULES, "witness"])
        if victim == "witness":
            watched.witness.kill()
            watched.witness.start()
        elif (pid := watched.child(victim)) is not None:
            os.kill(pid, signal.SIGKILL)
    watched.settle()
    assert watched.server.stop() == 0
    watched.require_whole()
