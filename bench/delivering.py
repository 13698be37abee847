"""CloudTrail delivery of a large log to a folder, and its comparison: `python -m bench.delivering LOG [--records 1]` (millions).

LOG is a folder that `bench.history` wrote; the first so many of its records are a log of their own here (its segments are links).
Figures are of one core's time: S3's answers are waited for, and the process takes what nobody else wants. Memory is the process's
most, what it had before any record taken away.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from audit.delivery.comparing import compare_delivery
from audit.delivery.opening import Delivery, held, open_deliverer
from audit.instance import Instance
from audit.sealing.keys import create_key
from audit.sealing.process import seal_once
from bench.history import LOG
from bench.queries import part_of


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one process: seconds of one core, and its memory in bytes."""

    seconds: float
    memory_bytes: int


def prepare(source: Path, data: Path, records: int) -> Instance:
    """A sealed data folder around the first `records` of the log in `source`."""
    part_of(source, data, records)
    instance = Instance(data, "0" * 16, "111122223333", "us-east-1", "2026-01-01T00:00:00Z", (LOG,))
    instance.checkpoint_folder(LOG).mkdir(parents=True)
    create_key(instance)
    instance.save()
    seal_once(instance)
    return instance


def deliver(data: Path, folder: Path) -> None:
    with held(data, wait=False):
        deliverer = open_deliverer(data, Delivery(str(folder)), time.time)
        while deliverer.step():
            pass


def compare(data: Path, folder: Path) -> None:
    report = compare_delivery(data, str(folder), None)
    if report.faults:
        raise AssertionError(report.faults)


def measure(work: Callable[[Path, Path], None], data: Path, folder: Path) -> Figures:
    """In a process of its own."""
    before = _memory_bytes()
    began = time.process_time()
    work(data, folder)
    return Figures(time.process_time() - began, _memory_bytes() - before)


def _memory_bytes() -> int:
    """The most that this process ever had; getrusage would tell its parent's."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1_024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.delivering", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--records", type=float, default=1, help="millions")
    options = parser.parse_args()
    console = Console(width=120)
    table = Table(title="by one core")
    for name in ("", "records/s", "MB/s of log", "MB of memory"):
        table.add_column(name, justify="right")
    with TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        data, folder = Path(name) / "data", Path(name) / "evidence"
        folder.mkdir()
        prepare(options.log, data, int(options.records * 1_000_000))
        logged = sum(path.stat().st_size for path in (data / "log" / LOG).glob("*.jsonl"))
        records = sum(path.read_bytes().count(b"\n") for path in (data / "log" / LOG).glob("*.jsonl"))
        for title, work in (("delivered", deliver), ("compared", compare)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                taken = pool.apply(measure, (work, data, folder))
            rate = records / taken.seconds
            table.add_row(title, f"{rate:,.0f}", f"{logged / taken.seconds / 1e6:,.0f}", f"{taken.memory_bytes / 1e6:,.0f}")
        files = list(folder.rglob("*.json.gz"))
        size = sum(path.stat().st_size for path in files)
    console.print(table)
    console.print(f"{records:,} records in {len(files):,} files, {size / logged:.1%} of the log's size")
    console.print(f"{os.cpu_count()} cores; Python {platform.python_version()}; {platform.platform()}")


if __name__ == "__main__":
    main()
