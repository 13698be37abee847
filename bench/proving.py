"""A proof of one record of a large log: `python -m bench.proving LOG [--records 10]` (millions).

LOG is a folder that `bench.history` wrote; the first so many of its records are a log of their own here (its segments are links).
That is indexed, and its tree is made and signed; then records at random are found by their event ids, or by their places, and
proved, and each proof is checked. *Cold* is the first one of a process, with nothing of log, index and tree in the page cache;
the process's own start is not counted. `--folder` keeps what was made, or takes what was kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from rich.console import Console
from rich.table import Table

from audit.checkpoint import VerifierKey
from audit.instance import Instance
from audit.proofs.proving import find_event, find_record, prove
from audit.query.index.compact import Compactor
from audit.sealing.keys import create_key, load_key, verifier_keys
from audit.sealing.log_sealer import LogSealer
from audit.segments import list_segments
from bench.history import LOG
from bench.queries import forget, part_of


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds of each proof by event id, and by place; the first ones cold."""

    by_event: list[float]
    by_place: list[float]
    proof_bytes: int


def prepare(source: Path, data: Path, records: int) -> tuple[int, float]:
    """A data folder around the first `records` of the log in `source`; gives how many it has, and the seconds of sealing them."""
    part_of(source, data, records)
    instance = Instance(data, "0" * 16, "111122223333", "us-east-1", "2026-01-01T00:00:00Z", (LOG,))
    instance.checkpoint_folder(LOG).mkdir(parents=True)
    create_key(instance)
    with Compactor(data) as compactor:
        compactor.run()
    began = time.process_time()
    folders = instance.log_folder(LOG), instance.checkpoint_folder(LOG)
    checkpoint = LogSealer(*folders, instance.origin(LOG), load_key(instance.sealer_key)).seal()
    if checkpoint is None:
        raise AssertionError("there was nothing to seal")
    instance.save()  # last: what has it is whole
    return checkpoint.size, time.process_time() - began


def measure(data: Path, proofs: int) -> Figures:
    """In a process of its own."""
    instance = Instance.load(data)
    key: VerifierKey = verifier_keys(instance)[LOG]
    events = _events(data, proofs)
    forget(data)
    by_event, by_place, size = [], [], 0
    for event, _ in events:
        began = time.perf_counter()
        record, damaged = find_event(data, event)
        proof = prove(instance, record)
        by_event.append(time.perf_counter() - began)
        assert not damaged
        proof.check(record.line, [key])
        size = max(size, len(proof.text()))
    forget(data)
    for _, sequence in events:
        began = time.perf_counter()
        record = find_record(instance, LOG, sequence)
        proof = prove(instance, record)
        by_place.append(time.perf_counter() - began)
        proof.check(record.line, [key])
    return Figures(by_event, by_place, size)


def _events(data: Path, count: int) -> list[tuple[str, int]]:
    """Event ids and numbers of records at random."""
    chance = random.Random(1)
    segments = list_segments(data / "log" / LOG)
    found: list[tuple[str, int]] = []
    while len(found) < count:
        with chance.choice(segments).path.open("rb") as file:
            file.seek(chance.randrange(max(1, os.fstat(file.fileno()).st_size - 16_384)))
            file.readline()
            line = file.readline()
        if line.endswith(b"\n"):
            record = orjson.loads(line)
            found.append((record["eventID"], record["additionalEventData"]["keytrail"]["sequence"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.proving", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--records", type=float, default=10, help="millions")
    parser.add_argument("--proofs", type=int, default=40)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    console = Console(width=120)
    table = Table(title="one proof, milliseconds")
    for name in ("found by", "cold", "p50", "p95", "bytes of the proof"):
        table.add_column(name, justify="right")
    with TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        data = options.folder or Path(name) / "data"
        if not (data / "keytrail.json").exists():
            records, seconds = prepare(options.log, data, int(options.records * 1_000_000))
            console.print(f"{records:,} records; one core sealed {records / seconds:,.0f} of them a second")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures = pool.apply(measure, (data, options.proofs))
    for how, taken in (("event id", figures.by_event), ("log and number", figures.by_place)):
        warm = sorted(taken[1:])
        shown = [f"{1_000 * one:,.1f}" for one in (taken[0], statistics.median(warm), warm[int(len(warm) * 0.95)])]
        table.add_row(how, *shown, f"{figures.proof_bytes:,}")
    console.print(table)
    console.print(f"{os.cpu_count()} cores; Python {platform.python_version()}; {platform.platform()}")


if __name__ == "__main__":
    main()
