"""How many records a second one core seals: `python -m bench.sealing [--records 500000] [--seconds 8] [--rounds 3]`.

Alone: a log of `bench.history`, sealed from its first record on: in steps of as many records as come in two seconds at the
target, as the sealer does it (read, hash, leaves and levels synced, sign, state and history synced); the figure is of the core's
time too. Beside a serving worker: the sealer of one data folder catches up with such a log on the core of a keytrail that answers
calls as fast as it can, with its own sealer at work; the calls are measured with and without. Rounds go in turn, and medians
count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audit.instance import Instance
from audit.log import Mark
from audit.sealing.keys import KeyPlace, create_key
from audit.sealing.log_sealer import LogSealer
from audit.sealing.rotation import open_current
from audit.sealing.state import SealerState
from audit.segments import list_segments, read_mark
from bench import servers
from bench.__main__ import Figures, measure, median, prepare
from bench.history import LOG, write

TARGET = 10_000  # records a second
_STEP = 2 * TARGET


def make(folder: Path, records: int) -> Instance:
    """A data folder with a log of so many records, and a sealer's key."""
    folder.mkdir()
    instance = Instance.create(folder, "111122223333", "us-east-1", "2026-01-01T00:00:00Z")
    create_key(instance)
    write(folder, records)
    instance = replace(instance, logs=(*instance.logs, LOG))
    instance.checkpoint_folder(LOG).mkdir()
    instance.save()
    return instance


def marks(instance: Instance) -> Iterator[Mark]:
    """The marks that such a log had when it grew, a step at a time."""
    folder = instance.log_folder(LOG)
    whole = read_mark(folder)
    assert whole is not None
    for segment in list_segments(folder):
        offset, records = 0, segment.first_index
        with segment.path.open("rb") as file:
            for line in file:
                offset, records = offset + len(line), records + 1
                if not records % _STEP:
                    yield Mark(records, segment.first_index, offset, 0)
    yield whole


def seal(instance: Instance, steps: list[Mark]) -> tuple[float, float]:
    """Seal all of the log, a step for each mark; gives the records a second, of the clock and of the core's time."""
    shutil.rmtree(instance.checkpoint_folder(LOG))
    instance.checkpoint_folder(LOG).mkdir()
    state_file = KeyPlace().state_file(instance)
    state_file.unlink(missing_ok=True)
    key, chain = open_current(instance, KeyPlace())
    state = SealerState(state_file, instance.id)
    sealer = LogSealer(
        instance.log_folder(LOG), instance.checkpoint_folder(LOG), instance.origin(LOG), key, chain=chain, state=state
    )
    began, cpu = time.perf_counter(), time.process_time()
    for mark in steps:
        (instance.log_folder(LOG) / "mark").write_bytes(mark.encode())
        assert sealer.seal() is not None
    records = steps[-1].records
    return records / (time.perf_counter() - began), records / (time.process_time() - cpu)


def seal_again_and_again(data: Path, steps: list[Mark], core: int, rate: multiprocessing.Queue[float]) -> None:
    """Seal the log in `data`, and again from its first record on, until the process is ended; tells each time how fast."""
    os.sched_setaffinity(0, {core})
    instance = Instance.load(data)
    while True:
        rate.put(seal(instance, steps)[0])


@contextmanager
def beside(instance: Instance, steps: list[Mark], rates: list[float]) -> Iterator[None]:
    """That, on the server's core; `rates` gets what it told."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    arguments = (instance.data, steps, int(servers.SERVER_CORE), told)
    process = context.Process(target=seal_again_and_again, args=arguments, daemon=True)
    process.start()
    try:
        yield
        rates.append(told.get(timeout=120))
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sealing", description=__doc__)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement of calls")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[Figures]] = defaultdict(list)
    sealed: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        instance = make(folder / "log", options.records)
        steps = list(marks(instance))
        for _ in range(options.rounds):
            of_clock, of_core = seal(instance, steps)
            sealed["alone"].append(of_clock)
            sealed["a second of one core's time"].append(of_core)
        with servers.keytrail(5640, folder) as server:
            for _ in range(options.rounds):
                requests = prepare(server, "GenerateDataKey", folder)
                measure(server, requests, 16, 2)
                found["with its own sealer alone"].append(measure(server, requests, 16, options.seconds))
                with beside(instance, steps, sealed["beside a worker that is fully busy, on its core"]):
                    found["and another sealer catching up"].append(measure(server, requests, 16, options.seconds))
    table = Table("sealing", "records/s", f"÷ {TARGET:,}", title=f"{options.records:,} records, steps of {_STEP:,}")
    for what, rates in sealed.items():
        table.add_row(what, f"{statistics.median(rates):,.0f}", f"{statistics.median(rates) / TARGET:.1f}")
    calls = Table("GenerateDataKey, 16 connections, on one core", "rps", "p50 ms", "p99 ms")
    for what, figures in found.items():
        one = median(figures)
        calls.add_row(what, f"{one.rps:,.0f}", f"{one.p50_us / 1e3:.2f}", f"{one.p99_us / 1e3:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(calls)
    console.print(f"{os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
