"""What root can do to a data folder: change any file, and sign anew with whatever key is there.

Nothing here asks keytrail for leave: files are read and written. With the sealer's key an attack leaves a folder in which all
agrees.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from audit import cli
from audit.checkpoint import claimed_checkpoint, split_notes
from audit.instance import Instance
from audit.log import Mark
from audit.sealing.keys import load_key
from audit.sealing.log_sealer import LogSealer
from audit.segments import list_segments, segment_name

Record = dict[str, Any]  # JSON


class Root:
    """Root on the host of the instance in `data`; `log` is the one that is attacked."""

    def __init__(self, data: Path, log: str = "w0") -> None:
        self.data = data
        self.log = log
        self.instance = Instance.load(data)

    @property
    def folder(self) -> Path:
        return self.data / "log" / self.log

    @property
    def checkpoints(self) -> Path:
        return self.data / "checkpoints" / self.log

    @property
    def witnessed(self) -> Path:
        return self.data / "witnessed" / self.log

    @property
    def key(self) -> Ed25519PrivateKey:
        return load_key(self.instance.sealer_key)

    def segments(self) -> list[Path]:
        return [segment.path for segment in list_segments(self.folder)]

    def lines(self) -> list[bytes]:
        """All lines of the log, without their newlines."""
        return [line for path in self.segments() for line in path.read_bytes().split(b"\n")[:-1]]

    def records(self) -> list[Record]:
        return [orjson.loads(line) for line in self.lines()]

    def calls(self) -> list[int]:
        """The numbers of the records of calls."""
        return [number for number, record in enumerate(self.records()) if record["eventName"] == "GenerateDataKey"]

    def change(self, edit: Callable[[list[bytes]], list[bytes]], path: Path) -> None:
        """Edit the lines of one segment where it lies."""
        lines = path.read_bytes().split(b"\n")[:-1]
        path.write_bytes(b"".join(line + b"\n" for line in edit(lines)))

    def replace(self, lines: Sequence[bytes]) -> None:
        """The whole log becomes these lines, renumbered, with a mark that fits."""
        for path in self.segments():
            path.unlink()
        text = b"".join(renumbered(line, self.log, number) + b"\n" for number, line in enumerate(lines))
        (self.folder / segment_name(0)).write_bytes(text)
        (self.folder / "mark").write_bytes(Mark(len(lines), 0, len(text), 0).encode())

    def sign_anew(self, key: Ed25519PrivateKey | None = None) -> None:
        """Forget what was signed, and sign the log as it is: with the sealer's key, or with this one."""
        for path in self.checkpoints.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        origin = self.instance.origin(self.log)
        assert LogSealer(self.folder, self.checkpoints, origin, key or self.key).seal() is not None

    def cut(self, size: int) -> None:
        """Cut the log behind `size` records, and whatever was signed for more; nothing is signed for it."""
        self.replace(self.lines()[:size])
        for notes, newest in (
            (self.checkpoints / "history", self.checkpoints / "latest"),
            (self.witnessed / "cosignatures", self.witnessed / "cosigned"),
        ):
            kept = [note for note in split_notes(notes.read_text("utf-8")) if claimed_checkpoint(note).size <= size]
            notes.write_text("\n".join(kept), "utf-8")
            newest.write_text(kept[-1], "utf-8")
        for path in (*self.checkpoints.glob("hashes-*"), self.checkpoints / "leaves"):
            path.unlink(missing_ok=True)


def renumbered(line: bytes, log: str, number: int) -> bytes:
    """The line, as if it had always been record `number`."""
    record = orjson.loads(line)
    record["additionalEventData"]["keytrail"] |= {"log": log, "sequence": number}
    return orjson.dumps(record)


def verify(data: Path, *options: str) -> tuple[int, set[int]]:
    """`keytrail verify`: its exit code, and the steps that failed."""
    done = CliRunner().invoke(cli.app, ["verify", "--data", str(data), "--json", *options])
    assert done.exit_code in (0, 1), done.output
    report = json.loads(done.stdout)
    parts = [*report["logs"], *(report[name] for name in ("delivery", "index") if name in report)]
    failed = {step["number"] for part in parts for step in part["steps"] if step["verdict"] == "failed"}
    assert report["passed"] is not bool(failed)
    return done.exit_code, failed


PASSED: tuple[int, set[int]] = (0, set())


def assert_passes(data: Path, *options: str) -> None:
    """Not caught: no step fails."""
    assert verify(data, *options) == PASSED


def assert_caught(data: Path, step: int, *options: str) -> None:
    """Caught: this step fails, and with it the whole."""
    code, failed = verify(data, *options)
    assert code == 1 and step in failed, failed
