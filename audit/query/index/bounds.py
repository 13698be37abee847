"""Whether a look-up that goes by the manifest, and by the bounds that the files tell, comes to everything that is in the files.

A look-up opens the files that should have a term, bisects among their row groups by their bounds, and among a group's rows by the
term. So a file that is left out of the manifest, out of order, or that tells wrong bounds hides what it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit.query.index.layout import DayFile, LogIndex, Run
from audit.query.index.sums import Rotted, require_sound


def require_findable(folder: Path, index: LogIndex) -> Iterator[str]:
    """What keeps a look-up from what the index has of a log. Raises OSError, pyarrow's errors."""
    yield from _gaps(index)
    for run in index.runs:
        for number, path in enumerate(run.paths(folder)):
            low, high = (number << 64) // run.slices, ((number + 1 << 64) // run.slices) - 1
            yield from _of_postings(path, run, low, high)
    for day in index.days:
        yield from _of_rows(day.path(folder), day)


def _gaps(index: LogIndex) -> Iterator[str]:
    """The runs are of all pieces, in order."""
    expected = index.pieces[0].first if index.pieces else 0
    for run in index.runs:
        if run.first != expected:
            yield f"its postings go on at record {run.first}, not at {expected}"
        expected = run.next
    if index.pieces and expected != index.pieces[-1].next:
        yield f"its postings end before record {expected}, its pieces before {index.pieces[-1].next}"


def _sums(path: Path) -> Iterator[str]:
    try:
        require_sound(path)
    except Rotted as error:
        yield str(error)


def _of_postings(path: Path, run: Run, low: int, high: int) -> Iterator[str]:
    yield from _sums(path)
    file = pq.ParquetFile(str(path))
    last: tuple[int, int] = (low, -1)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["term", "record"], use_threads=False)
        yield from _wrong_bounds(path, file, group, table)
        pairs = list(zip(table["term"].to_pylist(), table["record"].to_pylist(), strict=True))
        if not pairs:
            continue
        if any(before > after for before, after in zip([last, *pairs], pairs, strict=False)) or pairs[-1][0] > high:
            yield f"{path.name}: its postings are not sorted, or of another slice"
        if not all(run.first <= record < run.next for _, record in pairs):
            yield f"{path.name}: it has postings of records that it is not of"
        last = pairs[-1]


def _of_rows(path: Path, day: DayFile) -> Iterator[str]:
    yield from _sums(path)
    file = pq.ParquetFile(str(path))
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, use_threads=False)
        yield from _wrong_bounds(path, file, group, table)
        found = pc.min_max(table["record"]).as_py()
        if table.num_rows and not (day.first <= found["min"] and found["max"] < day.next):
            yield f"{path.name}: it has rows of records that it is not of"
    if file.metadata.num_rows != day.records:
        yield f"{path.name}: it has {file.metadata.num_rows} rows, by the manifest {day.records}"


def _wrong_bounds(path: Path, file: pq.ParquetFile, group: int, table: pa.Table) -> Iterator[str]:
    """A value outside the bounds that the file tells of its row group is passed over by whoever goes by them."""
    metadata = file.metadata.row_group(group)
    for column in (metadata.column(number) for number in range(metadata.num_columns)):
        name, told = column.path_in_schema, column.statistics
        if name not in table.column_names or told is None:  # a part of a list or a map: nobody goes by its bounds
            continue
        values = table[name]
        if told.has_null_count and told.null_count != values.null_count:
            yield f"{path.name}: it tells a wrong number of empty values of {name}"
        if told.has_min_max and len(values) > values.null_count:
            found = pc.min_max(values).as_py()
            if _bytes(told.min) > _bytes(found["min"]) or _bytes(told.max) < _bytes(found["max"]):
                yield f"{path.name}: it tells wrong bounds of {name}"


def _bytes(value: Any) -> Any:
    """Texts are in the order of their bytes. Any: a value of whatever type the column is of."""
    return value.encode() if isinstance(value, str) else value
