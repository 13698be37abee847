"""How many records a second `keytrail verify` checks: `python -m bench.verifying [--records 500000] [--rounds 3]`.

A log of `bench.history`, sealed by the real sealer in steps of two seconds at 10,000 records a second; all steps of logs, and a
saved checkpoint. By the clock, and by the CPU time of the one process that verifies, which is what a core does in a second.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audit.verify import verify
from bench.history import LOG
from bench.sealing import make, marks, seal

TARGET = 300_000  # records a second on a core


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.verifying", description=__doc__)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    clock_s, core_s = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        instance = make(Path(name) / "log", options.records)
        checkpoints = sum(1 for _ in seal(instance, list(marks(instance))))
        saved = (instance.checkpoint_folder(LOG) / "latest").read_text("utf-8")
        size = sum(path.stat().st_size for path in instance.log_folder(LOG).glob("*.jsonl"))
        for _ in range(options.rounds):
            began, cpu = time.perf_counter(), time.process_time()
            report = verify(instance.data, saved=[saved])
            clock_s.append(time.perf_counter() - began)
            core_s.append(time.process_time() - cpu)
            (log,) = [log for log in report.logs if log.log == LOG]
            assert report.passed and log.sealed == log.records == options.records, report.faults
    table = Table("verify", "records/s", "MB/s", f"÷ {TARGET:,}")
    for what, times in (("by the clock", clock_s), ("the core's own time", core_s)):
        rate = options.records / statistics.median(times)
        table.add_row(what, f"{rate:,.0f}", f"{rate * size / options.records / 1e6:,.0f}", f"{rate / TARGET:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"{options.records:,} records of {size / options.records:,.0f} bytes, {checkpoints} checkpoints")
    console.print(platform.platform())


if __name__ == "__main__":
    main()
