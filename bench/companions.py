"""What the companions cost the calls: `python -m bench.companions [--seconds 8] [--rounds 5]`.

Three keytrails, each with one worker and its sealer: one with nothing besides, one that also delivers to a folder and has one
witness cosign each checkpoint, and one that ships to an OpenTelemetry collector stand-in. All of a keytrail runs on core 0; wrk,
the witness and the collector on core 1; rounds go through the three in turn, and the ratio of their medians is what counts. A
segment is filled in some seconds of this load, and is delivered then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audit.query.modesty import be_modest
from bench import servers
from bench.__main__ import CONNECTIONS, Figures, measure, median, prepare
from bench.servers import LOAD_CORE, Server
from tests.integration.components.collector import collector

ALONE, WITH_ALL, SHIPPING = "worker and sealer", "… delivery and a witness", "… shipping (OTLP)"
_PORT, _WITNESS_PORT, _SHIPPING_PORT = 5720, 5740, 5750


@contextmanager
def with_companions(folder: Path, evidence: Path) -> Iterator[Server]:
    """A keytrail that delivers to `evidence`, and a witness of its log."""
    command = str(Path(sys.executable).with_name("keytrail"))
    witness, policy = folder / "witness", folder / "witnesses.policy"
    made = [command, "witness", "init", "--name", "witness.example.org/1", "--state", str(witness)]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    policy.write_text(f"witness first {key} http://127.0.0.1:{_WITNESS_PORT}\nquorum first\n")
    further = {"KEYTRAIL_DELIVERY": str(evidence), "KEYTRAIL_WITNESS_POLICY": str(policy)}
    with servers.keytrail(_PORT, folder, further=further) as server:
        keys = folder / "verifier-keys.txt"
        data = str(folder / f"data-{_PORT}")
        keys.write_bytes(subprocess.run([command, "checkpoint", "--key", "--data", data], check=True, capture_output=True).stdout)
        argv = [command, "witness", "serve", "--state", str(witness), "--logs", str(keys)]
        argv += ["--listen", f"127.0.0.1:{_WITNESS_PORT}"]
        with servers.started(argv, _WITNESS_PORT, folder, {}, core=LOAD_CORE):  # another host's
            yield server


def collect(told: SimpleQueue[str], received: Synchronized[int]) -> None:
    """A collector, whose URL is told, until the process is ended. It takes the time that wrk leaves: another host has its own."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    be_modest()
    with collector() as sink:
        told.put(sink.url)
        while True:
            sink.asked.wait()
            sink.asked.clear()
            received.value = len(sink.records)


@contextmanager
def shipping(folder: Path, received: Synchronized[int]) -> Iterator[Server]:
    """A keytrail that ships to a collector."""
    context = multiprocessing.get_context("spawn")
    told: SimpleQueue[str] = context.SimpleQueue()
    process = context.Process(target=collect, args=(told, received), daemon=True)
    process.start()
    try:
        with servers.keytrail(_SHIPPING_PORT, folder, further={"KEYTRAIL_SHIP_OTLP": told.get()}) as server:
            yield server
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.companions", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[tuple[int, str], list[Figures]] = defaultdict(list)
    received = multiprocessing.get_context("spawn").Value("q", 0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd())))
        evidence = folder / "evidence"
        evidence.mkdir()
        running = {
            ALONE: stack.enter_context(servers.keytrail(_PORT + 10, folder)),
            WITH_ALL: stack.enter_context(with_companions(folder, evidence)),
            SHIPPING: stack.enter_context(shipping(folder, received)),
        }
        for number in range(options.rounds):
            for connections in CONNECTIONS:
                for what in sorted(running, reverse=number % 2 == 1):
                    requests = prepare(running[what], "GenerateDataKey", folder)
                    found[connections, what].append(measure(running[what], requests, connections, options.seconds))
        files = len(list(evidence.rglob("*.json.gz")))
    table = Table("connections", "processes", "rps", "p50 ms", "p99 ms", "rps ÷ alone", title="GenerateDataKey on one core")
    for (connections, what), figures in found.items():
        one, alone = median(figures), statistics.median(each.rps for each in found[connections, ALONE])
        shown = [f"{one.rps:,.0f}", f"{one.p50_us / 1e3:.2f}", f"{one.p99_us / 1e3:.2f}", f"{one.rps / alone:.2f}"]
        table.add_row(str(connections), what, *shown)
    console = Console(width=120)
    console.print(table)
    console.print(f"{files} files were delivered and {received.value:,} records shipped meanwhile")
    console.print(f"{os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
