"""Questions to a large log, with the index and by scanning its Parquet: `python -m bench.queries [--records 5,10,20]` (millions).

A log is made by `bench.history`; its first so many millions of records are a log of their own each time (its segments are links).
Each is compacted, and asked for data keys, context pairs and request ids, each time for another one that stands in it. *Cold* is
the first question of a process, with nothing of log and index in the page cache; *scan* is DuckDB on the index's own events, with
as many threads as there are cores. `--folder` keeps the logs, or takes those that were kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson
from rich.console import Console
from rich.table import Table

from audit.log import Mark
from audit.query.engine import search
from audit.query.events import open_events
from audit.query.filters import Filter
from audit.query.index.compact import Compactor
from audit.query.index.layout import Manifest, index_folder
from audit.query.trace import trace
from audit.segments import create_log, list_segments
from bench.history import LOG, write

ASKED, SCANNED = 40, 5  # how often
MONTH = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 2, 4, tzinfo=UTC)
_MILLION = 1_000_000

Record = dict[str, Any]  # a parsed line


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question: of a record, how it is asked (giving how many records answer), and the condition on `events`."""

    name: str
    ask: Callable[[Path, Record], int]
    condition: Callable[[Record], tuple[str, list[str]]]


def fingerprint(record: Record) -> str:
    part = record["additionalEventData"]["keytrail"]
    found: str = (part.get("fingerprintsIn") or part.get("fingerprintsOut"))[0]
    return found


def of_object(record: Record) -> Filter:
    return Filter(context=(("object", record["requestParameters"]["encryptionContext"]["object"]),))


def _search(data: Path, wanted: Filter) -> int:
    with search(data, [wanted]) as result:
        return sum(1 for _ in result.records())


KINDS = (
    Kind(
        "trace of a data key",
        lambda data, record: len(trace(data, fingerprint(record)).entries),
        lambda record: ("list_contains(fingerprints_in, ?) OR list_contains(fingerprints_out, ?)", [fingerprint(record)] * 2),
    ),
    Kind(
        "context pair",
        lambda data, record: _search(data, of_object(record)),
        lambda record: ("context['object'] = ?", [record["requestParameters"]["encryptionContext"]["object"]]),
    ),
    Kind(
        "request id",
        lambda data, record: _search(data, Filter(ids=(record["requestID"],))),
        lambda record: ("request_id = ?", [record["requestID"]]),
    ),
)


def samples(data: Path, seed: int) -> Iterator[Record]:
    """Records of the closed segments, at random, each with a data key."""
    chance = random.Random(seed)
    segments = sorted((data / "log" / LOG).glob("*.jsonl"))[:-1]
    while True:
        with chance.choice(segments).open("rb") as file:
            file.seek(chance.randrange(os.fstat(file.fileno()).st_size - 16_384))
            file.readline()
            record: Record = orjson.loads(file.readline())
        if "encryptionContext" in (record["requestParameters"] or {}):
            yield record


@dataclass(frozen=True, slots=True)
class Asked:
    """Seconds of the first question, of the others, and how many records answered each."""

    cold_s: float
    warm_s: list[float]
    counts: list[int]


def ask(data: Path, number: int) -> Asked:
    """Questions of the kind `number`, the first of them cold."""
    records = [record for record, _ in zip(samples(data, number), range(ASKED), strict=False)]
    forget(data)
    seconds, counts = [], []
    for record in records:
        began = time.perf_counter()
        counts.append(KINDS[number].ask(data, record))
        seconds.append(time.perf_counter() - began)
    return Asked(seconds[0], sorted(seconds[1:]), counts)


def scan(data: Path, number: int) -> list[float]:
    """Seconds of the same questions by DuckDB on the events."""
    database = duckdb.connect()
    database.execute("SET enable_progress_bar = false")  # on in a process that was spawned
    files = [
        str(path) for path in Manifest.load(index_folder(data)).paths(index_folder(data)) if path.match("events/*/*.parquet")
    ]
    seconds = []
    for record, _ in zip(samples(data, number), range(SCANNED), strict=False):
        condition, parameters = KINDS[number].condition(record)
        began = time.perf_counter()
        rows = database.execute(f"SELECT log, record FROM read_parquet(?) WHERE {condition}", [files, *parameters]).fetchall()  # noqa: S608 - ours
        seconds.append(time.perf_counter() - began)
        if not rows:
            raise AssertionError(f"{KINDS[number].name}: not in the events")
    return seconds


def month(data: Path) -> tuple[float, int]:
    """Seconds of a month's count by caller and operation, and its rows."""
    began = time.perf_counter()
    with open_events(data, since=MONTH[0], until=MONTH[1]) as events:
        rows = events.database.execute("SELECT caller, event_name, count(*) FROM calls GROUP BY ALL").fetchall()
    return time.perf_counter() - began, len(rows)


def compact(data: Path) -> tuple[int, float, float]:
    """Records that were compacted, seconds of one core's time, and MiB at most."""
    done = 0

    def told(records: int) -> None:
        nonlocal done
        done += records

    began = time.process_time()
    with Compactor(data, told=told) as compactor:
        compactor.run()
    return done, time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


def parse(data: Path) -> float:
    """Lines a second that this core parses with orjson: what the rate of compaction is to be seen against."""
    segment = min((data / "log" / LOG).glob("*.jsonl"))
    lines = segment.read_bytes().splitlines()
    began = time.process_time()
    for line in lines:
        orjson.loads(line)
    return len(lines) / (time.process_time() - began)


def part_of(whole: Path, data: Path, records: int) -> None:
    """A log in `data` of about the first `records` of `whole`; its last segment is its open one, all of it durable."""
    folder = data / "log" / LOG
    folder.parent.mkdir(parents=True)
    create_log(folder)
    segments = list_segments(whole / "log" / LOG)
    kept = [segment for segment in segments if segment.first_index < records]
    for segment in kept:
        (folder / segment.path.name).hardlink_to(segment.path)
    last = kept[-1]
    lines = last.path.read_bytes().count(b"\n")
    (folder / "mark").write_bytes(Mark(last.first_index + lines, last.first_index, last.path.stat().st_size, 0).encode())


def forget(data: Path) -> None:
    """Take log and index out of the page cache."""
    os.sync()
    for path in (path for path in data.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def _alone(function: Callable[..., Any], *arguments: object) -> Any:  # what `function` gives
    """In a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.queries", description=__doc__)
    parser.add_argument("--records", default="5,10,20", help="millions, with commas")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    sizes = sorted(int(float(text) * _MILLION) for text in options.records.split(","))
    console = Console(width=130)
    questions = Table(title="one question, milliseconds")
    for name in ("records", "question", "cold", "p50", "p95", "records found", "scan p50", "scan ÷ p50"):
        questions.add_column(name, justify="right")
    logs = Table(title="the index")
    for name in (
        "records",
        "log GB",
        "index ÷ log",
        "compacted/s of a core",
        "orjson parses/s",
        "MiB at most",
        "a month's count, s",
        "its rows",
    ):
        logs.add_column(name, justify="right")
    with _folder(options.folder) as folder:
        whole = folder / "whole"
        if not (whole / "log").exists():
            write(whole, sizes[-1])
        for size in sizes:
            data = folder / f"first-{size}"
            if not data.exists():
                part_of(whole, data, size)
            records, cpu_s, peak_mib = _alone(compact, data)
            parses = _alone(parse, data)
            log_bytes = sum(path.stat().st_size for path in (data / "log" / LOG).glob("*.jsonl"))
            index = index_folder(data)
            index_bytes = sum(path.stat().st_size for path in Manifest.load(index).paths(index))
            month_s, rows = _alone(month, data)
            logs.add_row(
                f"{size:,}",
                f"{log_bytes / 1e9:.1f}",
                f"{index_bytes / log_bytes:.3f}",
                f"{records / cpu_s:,.0f}",
                f"{parses:,.0f}",
                f"{peak_mib:,.0f}",
                f"{month_s:.2f}",
                f"{rows:,}",
            )
            for number, kind in enumerate(KINDS):
                asked: Asked = _alone(ask, data, number)
                scanned = statistics.median(_alone(scan, data, number))
                p50, p95 = statistics.median(asked.warm_s), asked.warm_s[int(len(asked.warm_s) * 0.95)]
                milliseconds = [f"{1_000 * value:,.0f}" for value in (asked.cold_s, p50, p95)]
                questions.add_row(
                    f"{size:,}",
                    kind.name,
                    *milliseconds,
                    str(sum(asked.counts)),
                    f"{1_000 * scanned:,.0f}",
                    f"{scanned / p50:.0f}",
                )
    console.print(logs)
    console.print(questions)
    console.print(
        f"{os.cpu_count()} cores; Python {platform.python_version()}; DuckDB {duckdb.__version__}; {platform.platform()}"
    )


if __name__ == "__main__":
    main()
