"""What compaction and questions cost the calls that are served meanwhile: `python -m bench.beside [--seconds 5] [--rounds 5]`.

Everything but wrk runs on core 0: keytrail, and beside it the indexing of another large log, as `serve` does it, again and again;
and then questions to that log too, as commands ask a log that is being served. Rounds go through the three in turn; the median
of each figure counts, and each ratio is to the calls alone, in the same run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
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


def index_again_and_again(data: Path) -> None:
    """Compact all of `data`, and begin anew, until the process is ended."""
    os.sched_setaffinity(0, {int(servers.SERVER_CORE)})
    be_modest()
    while True:
        shutil.rmtree(index_folder(data), ignore_errors=True)
        with Compactor(data) as compactor:
            compactor.run()


def ask_again_and_again(data: Path) -> None:
    """Ask `data`, which is indexed, for one record after another, until the process is ended."""
    os.sched_setaffinity(0, {int(servers.SERVER_CORE)})
    be_modest()
    chance = random.Random(1)
    for record in samples(data, 1):
        chance.choice(KINDS).ask(data, record)


@contextmanager
def beside(what: str, backlog: Path, indexed: Path) -> Iterator[None]:
    """The processes that run beside the calls."""
    context = multiprocessing.get_context("spawn")
    processes = []
    if what in (INDEXING, ASKING):
        processes.append(context.Process(target=index_again_and_again, args=(backlog,), daemon=True))
    if what == ASKING:
        processes.append(context.Process(target=ask_again_and_again, args=(indexed,), daemon=True))
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.beside", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=300_000, help="of the log that is indexed")
    options = parser.parse_args()
    found: dict[tuple[int, str], list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        backlog, indexed = folder / "backlog", folder / "indexed"
        for data in (backlog, indexed):
            write(data, options.records)
        with Compactor(indexed) as compactor:
            compactor.run()
        with servers.keytrail(5630, folder) as server:
            for _ in range(options.rounds):
                for connections in CONNECTIONS:
                    for what in (ALONE, INDEXING, ASKING):
                        with beside(what, backlog, indexed):
                            requests = prepare(server, "GenerateDataKey", folder)
                            measure(server, requests, connections, 2)  # until everything beside is at work
                            found[connections, what].append(measure(server, requests, connections, options.seconds))
    table = Table("connections", "calls", "rps", "p50 ms", "p99 ms", "p99 ÷ alone", title="GenerateDataKey on one core")
    for (connections, what), figures in found.items():
        one = median(figures)
        alone = statistics.median(each.p99_us for each in found[connections, ALONE])
        table.add_row(
            str(connections),
            what,
            f"{one.rps:,.0f}",
            f"{one.p50_us / 1e3:.2f}",
            f"{one.p99_us / 1e3:.2f}",
            f"{one.p99_us / alone:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"{os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
