"""What compaction and questions cost the calls that are served meanwhile: `python -m bench.beside [--seconds 5] [--rounds 15]`.

Everything but wrk runs on core 0: keytrail, and beside it the indexing of another large log, as `serve` does it, again and again;
and then questions to that log too, as commands ask a log that is being served. They are held (SIGSTOP) while it is not their
turn, and go on where they were, so that the measurements see all of a compaction and not its beginning only: batches are smaller,
and three files become one. Rounds go through the three in turn, and each ratio is to the calls alone of the same round; the
median of each counts. With `--folder /dev/shm` the disk has no part in it, and what is left is the processor's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import shutil
import signal
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audit.query.index.compact import Compactor
from audit.query.index.layout import index_folder
from audit.query.modesty import be_modest
from bench import servers
from bench.__main__ import Figures, measure, median, prepare
from bench.history import write
from bench.queries import KINDS, samples

ALONE, INDEXING, ASKING = "alone", "indexing beside", "indexing and questions beside"
CONNECTIONS = (1, 16)
_BATCH_BYTES, _FANOUT = 128 << 20, 3


def index_again_and_again(data: Path) -> None:
    """Compact all of `data`, and begin anew, until the process is ended."""
    os.sched_setaffinity(0, {int(servers.SERVER_CORE)})
    be_modest()
    while True:
        shutil.rmtree(index_folder(data), ignore_errors=True)
        with Compactor(data, batch_bytes=_BATCH_BYTES, fanout=_FANOUT) as compactor:
            compactor.run()


def ask_again_and_again(data: Path) -> None:
    """Ask `data`, which is indexed, for one record after another, until the process is ended."""
    os.sched_setaffinity(0, {int(servers.SERVER_CORE)})
    be_modest()
    chance = random.Random(1)
    for record in samples(data, 1):
        chance.choice(KINDS).ask(data, record)


class Held:
    """A process that runs only while it is let: a context manager within which it is."""

    def __init__(self, target: Callable[[Path], None], data: Path) -> None:
        self._process = multiprocessing.get_context("spawn").Process(target=target, args=(data,), daemon=True)
        self._process.start()
        os.kill(self._pid, signal.SIGSTOP)

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def __exit__(self, *_: object) -> None:
        if not self._process.is_alive():
            raise RuntimeError("what should run beside the calls has ended")
        os.kill(self._pid, signal.SIGSTOP)

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.beside", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where the logs go: the disk that is measured")
    parser.add_argument("--records", type=int, default=300_000, help="of the log that is indexed")
    options = parser.parse_args()
    found: dict[tuple[int, str], list[Figures]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder)))
        backlog, indexed = folder / "backlog", folder / "indexed"
        for data in (backlog, indexed):
            write(data, options.records)
        with Compactor(indexed) as compactor:
            compactor.run()
        with servers.keytrail(5630, folder) as server:
            indexing, asking = Held(index_again_and_again, backlog), Held(ask_again_and_again, indexed)
            stack.callback(indexing.end)
            stack.callback(asking.end)
            beside: dict[str, list[Held]] = {ALONE: [], INDEXING: [indexing], ASKING: [indexing, asking]}
            for number in range(-1, options.rounds):  # the first only lets everything come to work
                for connections in CONNECTIONS:
                    for what, processes in beside.items():
                        with ExitStack() as running:
                            for process in processes:
                                running.enter_context(process)
                            requests = prepare(server, "GenerateDataKey", folder)
                            seen = measure(server, requests, connections, options.seconds)
                        if number >= 0:
                            found[connections, what].append(seen)
    table = Table(
        "connections", "calls", "rps", "p50 ms", "p99 ms", "p99 ÷ alone", "quartiles", title="GenerateDataKey on one core"
    )
    for (connections, what), each in found.items():
        ratios = [one.p99_us / alone.p99_us for one, alone in zip(each, found[connections, ALONE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        one = median(each)
        table.add_row(
            str(connections),
            what,
            f"{one.rps:,.0f}",
            f"{one.p50_us / 1e3:.2f}",
            f"{one.p99_us / 1e3:.2f}",
            f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"{os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
