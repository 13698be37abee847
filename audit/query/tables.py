"""Lines of the log as a table that DuckDB reads where it lies."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from audit.query.scan import Chunk


def lines_table(chunk: Chunk) -> pa.Table:
    """`lines(n, stop, size, line)`: the lines of `chunk` by number from 0, where each stops in it, and its size with its newline.

    A line that is not UTF-8 becomes empty, which is no JSON.
    """
    buffers = [None, pa.py_buffer(chunk.bounds), pa.py_buffer(chunk.data)]
    raw = pa.Array.from_buffers(pa.binary(), chunk.lines, buffers)
    try:
        text = raw.cast(pa.string())
    except pa.ArrowInvalid:
        text = pa.array([_text(line) for line in raw.to_pylist()], pa.string())
    numbers = pa.array(range(chunk.lines), pa.int64())
    bounds = pa.Array.from_buffers(pa.int32(), chunk.lines + 1, buffers[:2])
    return pa.table({"n": numbers, "stop": bounds[1:], "size": pc.subtract(bounds[1:], bounds[:-1]), "line": text})


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return ""
