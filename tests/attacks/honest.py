"""A real instance with all that this project has against its own root: witnesses, delivery, index, heartbeats, receipts.

It served twice. A copy of the folder was taken between the two; a checkpoint of all logs was saved in the middle of the second
time, and what came behind it is known by receipts. It is everyone's: an attack is made on a copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from audit.checkpoint import VerifierKey, claimed_checkpoint, split_notes
from tests.integration.conftest import Server, wait_until
from tests.integration.test_serve import run_keytrail
from tests.integration.test_witnessing import WitnessProcess, cosigned_size, worker_key, write_policy

_CALLS = 6
_QUIET_BEATS = 14  # at the end nothing is called for so many heartbeats, a second each


@dataclass(frozen=True)
class Honest:
    """The instance in `data`, stopped; and what others have of it, as files; `keys` are options of `verify`."""

    folder: Path
    data: Path
    backup: Path
    saved: Path
    receipts: Path
    policy: Path
    delivered: Path
    keys: tuple[str, ...]
    saved_size: int
    witness: WitnessProcess


@contextmanager
def serve_honestly(initialised: Path, folder: Path) -> Iterator[Honest]:
    """Make it in `folder`; its witness goes on until the end."""
    data, delivered = folder / "data", folder / "trail"
    shutil.copytree(initialised, data)
    delivered.mkdir()
    keys = run_keytrail(folder, "checkpoint", "--key", "--data", str(data)).stdout + worker_key(data)
    witness = WitnessProcess(folder / "witness", "witness.example", keys)
    try:
        write_policy(folder / "policy", 1, witness.start())
        server = Server(
            data,
            {
                "KEYTRAIL_HEARTBEAT_S": "1",
                "KEYTRAIL_SEGMENT_MAX_BYTES": "8192",
                "KEYTRAIL_WITNESS_POLICY": str(folder / "policy"),
                "KEYTRAIL_DELIVERY": str(delivered),
                "KEYTRAIL_DELIVERY_INTERVAL_S": "1",
                "KEYTRAIL_DELIVERY_DIGEST_S": "4",
            },
        )
        _call(server.start())
        assert server.stop() == 0
        shutil.copytree(data, folder / "backup")
        _call(server.start())
        called = server.count_records()  # a heartbeat may come behind the last call, and be among them
        wait_until(lambda: _covered(server) >= called, "the calls are sealed")
        saved = run_keytrail(folder, "checkpoint", "--data", str(data)).stdout
        (folder / "saved").write_text(saved)
        saved_size = next(
            claimed.size for claimed in map(claimed_checkpoint, split_notes(saved)) if claimed.origin.endswith("/w0")
        )
        (folder / "receipts").write_text("\n".join(_call(server)) + "\n")
        wait_until(lambda: _quiet_beats(server) >= _QUIET_BEATS, "nothing is called for a while", 60)
        wait_until(lambda: len(list(delivered.rglob("*_CloudTrail-Digest_*.json.gz"))) > 3, "there are some digests")
        assert server.stop() == 0
        assert cosigned_size(data) == server.count_records(), "the last checkpoint is cosigned too"
        done = run_keytrail(folder, "index", "update", "--data", str(data))
        assert done.returncode == 0, done.stderr
        options = tuple(word for key in keys.splitlines() for word in ("--key", str(VerifierKey.parse(key))))
        kept = (folder / "saved", folder / "receipts", folder / "policy", delivered)
        yield Honest(folder, data, folder / "backup", *kept, options, saved_size, witness)
    finally:
        witness.stop()


def _call(server: Server) -> list[str]:
    """Some calls, and the receipts for them."""
    answers = [
        server.client().generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext={"tenant": f"t{number}"})
        for number in range(_CALLS)
    ]
    return [answer["ResponseMetadata"]["HTTPHeaders"]["x-keytrail-receipt"] for answer in answers]


def _covered(server: Server) -> int:
    latest = server.data / "checkpoints" / "w0" / "latest"
    return int(latest.read_text().split("\n")[1]) if latest.exists() else 0


def _quiet_beats(server: Server) -> int:
    """How many heartbeats are at the end of the log."""
    events = [record["eventName"] for record in server.records()]
    return next((number for number, event in enumerate(reversed(events)) if event != "Heartbeat"), 0)
