"""Questions to a large log, with the index and by scanning its Parquet: `python -m bench.queries [--records 5000000]`.

A log is made by `bench.history`, compacted, and asked for data keys, context pairs and request ids, each time for another one
that stands in it. *Scan* is DuckDB on the index's own events, with as many threads as there are cores. Prints one table;
`--folder` keeps the log, or takes one that was kept.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
from rich.console import Console
from rich.table import Table

from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.index.compact import Compactor
from audit.query.index.layout import index_folder
from bench.history import LOG, write

ASKED, SCANNED = 25, 5  # how often


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question: of a record, the filter that finds it, and the condition on `events` that does."""

    name: str
    filter: Callable[[dict[str, Any]], Filter]
    condition: Callable[[dict[str, Any]], tuple[str, list[str]]]


def _fingerprint(record: dict[str, Any]) -> str:
    part = record["additionalEventData"]["keytrail"]
    found: str = (part.get("fingerprintsIn") or part.get("fingerprintsOut"))[0]
    return found


def _object(record: dict[str, Any]) -> str:
    found: str = record["requestParameters"]["encryptionContext"]["object"]
    return found


KINDS = (
    Kind(
        "data key",
        lambda record: Filter(fingerprints=(_fingerprint(record),)),
        lambda record: (
            "list_contains(fingerprints_in, ?) OR list_contains(fingerprints_out, ?)",
            [_fingerprint(record)] * 2,
        ),
    ),
    Kind(
        "context pair",
        lambda record: Filter(context=(("object", _object(record)),)),
        lambda record: ("context['object'] = ?", [_object(record)]),
    ),
    Kind(
        "request id",
        lambda record: Filter(ids=(record["requestID"],)),
        lambda record: ("request_id = ?", [record["requestID"]]),
    ),
)


def samples(data: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Records of the closed segments, at random, each with a data key."""
    chance = random.Random(seed)
    segments = sorted((data / "log" / LOG).glob("*.jsonl"))[:-1]
    while True:
        with chance.choice(segments).open("rb") as file:
            file.seek(chance.randrange(os.fstat(file.fileno()).st_size - 16_384))
            file.readline()
            record: dict[str, Any] = orjson.loads(file.readline())
        if "encryptionContext" in (record["requestParameters"] or {}):
            yield record


def ask(data: Path, kind: Kind, seed: int) -> tuple[list[float], list[int]]:
    """Seconds of each question, the first one's too, and how many records answered it."""
    seconds, counts = [], []
    for record, _ in zip(samples(data, seed), range(ASKED), strict=False):
        began = time.perf_counter()
        with search(data, [kind.filter(record)]) as result:
            counts.append(sum(1 for _ in result.records()))
        seconds.append(time.perf_counter() - began)
    return seconds, counts


def scan(data: Path, kind: Kind, seed: int) -> tuple[list[float], list[int]]:
    """The same by DuckDB on the events."""
    database = duckdb.connect()
    files = f"{index_folder(data)}/events/*/*.parquet"
    seconds, counts = [], []
    for record, _ in zip(samples(data, seed), range(SCANNED), strict=False):
        condition, parameters = kind.condition(record)
        began = time.perf_counter()
        rows = database.execute(f"SELECT log, record FROM read_parquet(?) WHERE {condition}", [files, *parameters])  # noqa: S608 - ours
        counts.append(len(rows.fetchall()))
        seconds.append(time.perf_counter() - began)
    return seconds, counts


def compact(data: Path) -> tuple[int, float, float]:
    """Records that were compacted, CPU seconds, and wall seconds."""
    done = 0

    def told(records: int) -> None:
        nonlocal done
        done += records

    cpu, wall = time.process_time(), time.perf_counter()
    with Compactor(data, told=told) as compactor:
        compactor.run()
    return done, time.process_time() - cpu, time.perf_counter() - wall


@contextmanager
def _log(folder: Path | None, records: int) -> Iterator[Path]:
    if folder is not None:
        if not (folder / "log").exists():
            write(folder, records)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        write(Path(name), records)
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.queries", description=__doc__)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    console = Console()
    with _log(options.folder, options.records) as data:
        records, cpu_s, wall_s = compact(data)
        if records:
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
            console.print(
                f"compaction: {records:,} records in {wall_s:.0f} s: {records / cpu_s:,.0f} for each second of one core's time; "
                f"{peak_mb:,.0f} MiB at most"
            )
        log_bytes = sum(path.stat().st_size for path in (data / "log" / LOG).glob("*.jsonl"))
        index_bytes = sum(path.stat().st_size for path in index_folder(data).rglob("*.parquet"))
        console.print(f"log: {log_bytes / 1e9:.1f} GB, index: {100 * index_bytes / log_bytes:.1f} % of that")
        console.print(_table(data))
        began = time.perf_counter()
        rows = duckdb.sql(
            f"SELECT caller, event_name, count(*) FROM read_parquet('{index_folder(data)}/events/*/*.parquet', "  # noqa: S608 - ours
            "hive_partitioning = true) WHERE day BETWEEN '2026-01-05' AND '2026-02-03' GROUP BY ALL"
        ).fetchall()
        console.print(f"a month's count by caller and operation: {time.perf_counter() - began:.2f} s, {len(rows):,} rows")
    console.print(
        f"{os.cpu_count()} cores; Python {platform.python_version()}; DuckDB {duckdb.__version__}; {platform.platform()}"
    )
    return 0


def _table(data: Path) -> Table:
    table = Table(title="one record's question, milliseconds")
    for name in ("question", "first", "p50", "p95", "records", "scan p50", "scan ÷ index"):
        table.add_column(name)
    for seed, kind in enumerate(KINDS):
        seconds, counts = ask(data, kind, seed)
        scanned, same = scan(data, kind, seed)
        if any(found < there for found, there in zip(counts, same, strict=False)):
            raise AssertionError(f"{kind.name}: the index led to {counts[: len(same)]}, and there are {same}")
        first, warm = seconds[0], sorted(seconds[1:])
        p50, p95, slow = statistics.median(warm), warm[int(len(warm) * 0.95)], statistics.median(scanned)
        milliseconds = [f"{1_000 * value:,.0f}" for value in (first, p50, p95)]
        table.add_row(kind.name, *milliseconds, str(sum(counts)), f"{1_000 * slow:,.0f}", f"{slow / p50:.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
