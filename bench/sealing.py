"""How many records a second one core seals: `python -m bench.sealing [--records 500000] [--seconds 8] [--rounds 3]`.

Alone: a log of `bench.history`, sealed from its first record on, as the sealer does it: in steps of as many records as come in
two seconds at the target (read, hash, leaves and levels synced, sign, state and history synced). Beside a serving worker: one
such step every two seconds, on the core of a keytrail that answers calls as fast as it can and has its own sealer at work; how
long a step takes then, and what it costs the calls. Rounds go in turn, and medians count.
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
from audit.sealing.process import INTERVAL_S
from audit.sealing.rotation import open_current
from audit.sealing.state import SealerState
from audit.segments import list_segments, read_mark
from bench import servers
from bench.__main__ import Figures, measure, median, prepare
from bench.history import LOG, write

TARGET = 10_000  # records a second
STEP = int(INTERVAL_S * TARGET)


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
                if not records % STEP:
                    yield Mark(records, segment.first_index, offset, 0)
    if whole.records % STEP:
        yield whole


def seal(instance: Instance, steps: list[Mark]) -> Iterator[tuple[float, float]]:
    """Seal all of the log, a step for each mark; gives how long each took, by the clock and by the core's time."""
    shutil.rmtree(instance.checkpoint_folder(LOG))
    instance.checkpoint_folder(LOG).mkdir()
    state_file = KeyPlace().state_file(instance)
    state_file.unlink(missing_ok=True)
    key, chain = open_current(instance, KeyPlace())
    state = SealerState(state_file, instance.id)
    folders = instance.log_folder(LOG), instance.checkpoint_folder(LOG)
    sealer = LogSealer(*folders, instance.origin(LOG), key, chain=chain, state=state)
    for mark in steps:
        (instance.log_folder(LOG) / "mark").write_bytes(mark.encode())
        began, cpu = time.perf_counter(), time.process_time()
        assert sealer.seal() is not None
        yield time.perf_counter() - began, time.process_time() - cpu


def seal_at_the_target(data: Path, steps: list[Mark], core: int, took: multiprocessing.Queue[float]) -> None:
    """Seal the log in `data` a step every two seconds, and again from its first record on, until the process is ended."""
    os.sched_setaffinity(0, {core})
    instance = Instance.load(data)
    while True:
        for clock_s, _ in seal(instance, steps):
            took.put(clock_s)
            time.sleep(max(0.0, INTERVAL_S - clock_s))


@contextmanager
def beside(instance: Instance, steps: list[Mark], took: list[float]) -> Iterator[None]:
    """That, on the server's core; `took` gets how long its steps took."""
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[float] = context.Queue()
    arguments = (instance.data, steps, int(servers.SERVER_CORE), told)
    process = context.Process(target=seal_at_the_target, args=arguments, daemon=True)
    process.start()
    try:
        told.get(timeout=60)  # it has begun
        yield
        while not told.empty():
            took.append(told.get())
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
    alone: list[tuple[float, float]] = []
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        instance = make(folder / "log", options.records)
        steps = list(marks(instance))
        for _ in range(options.rounds):
            alone += seal(instance, steps)
        with servers.keytrail(5640, folder) as server:
            for _ in range(options.rounds):
                requests = prepare(server, "GenerateDataKey", folder)
                measure(server, requests, 16, 2)
                found["by its own sealer"].append(measure(server, requests, 16, options.seconds))
                with beside(instance, steps, took):
                    found[f"and {TARGET:,} records/s of another log"].append(measure(server, requests, 16, options.seconds))
    table = Table(f"a step of {STEP:,} records", "median ms", "longest ms", "records/s", f"÷ {TARGET:,}")
    for what, times in (
        ("alone", [clock_s for clock_s, _ in alone]),
        ("alone, the core's own time", [core_s for _, core_s in alone]),
        ("beside a worker that is fully busy", took),
    ):
        median_s = statistics.median(times)
        rate = STEP / median_s
        table.add_row(what, f"{median_s * 1e3:.0f}", f"{max(times) * 1e3:.0f}", f"{rate:,.0f}", f"{rate / TARGET:.1f}")
    calls = Table("GenerateDataKey, 16 connections, on one core; sealed", "rps", "p50 ms", "p99 ms")
    for what, figures in found.items():
        one = median(figures)
        calls.add_row(what, f"{one.rps:,.0f}", f"{one.p50_us / 1e3:.2f}", f"{one.p99_us / 1e3:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(calls)
    console.print(f"{os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
