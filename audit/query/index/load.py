"""Lines of the log → the table `rows` of a database, which `audit.query.index.rows` makes events and postings of."""

from __future__ import annotations

import duckdb
import orjson
import pyarrow as pa

from audit.errors import DamagedLog
from audit.query.index import rows
from audit.query.lines import Damage, Place, parse
from audit.query.scan import Chunk
from audit.query.tables import lines_table

_NO_LINES = pa.table(
    {
        "n": pa.array([], pa.int64()),
        "stop": pa.array([], pa.int32()),
        "size": pa.array([], pa.int32()),
        "line": pa.array([], pa.string()),
    }
)


class Rows:
    """The table `rows` of `database`: a row for each line that was added and is a record."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._database.register("lines", _NO_LINES)
        self.clear()

    def clear(self) -> None:
        """No rows, as at first."""
        self._database.execute(f"CREATE OR REPLACE TABLE rows AS {rows.LOAD} LIMIT 0", {"first": 0, "offset": 0})

    def add(self, chunk: Chunk, damaged: list[Damage]) -> None:
        """The sound lines of `chunk`; those that are not go to `damaged`."""
        lines = lines_table(chunk)
        first = chunk.part.first_index + chunk.first_line - 1
        try:
            self._insert(lines, first, chunk.offset)
            [(in_place,)] = self._database.execute(rows.IN_PLACE, [first]).fetchall()
            if in_place == chunk.lines:
                return
            self._database.execute("DELETE FROM rows WHERE record >= ?", [first])
        except duckdb.Error:  # a line that is no JSON, or JSON that DuckDB does not take: none of the chunk was inserted
            pass
        self._add_each(chunk, lines, first, damaged)

    def _add_each(self, chunk: Chunk, lines: pa.Table, first: int, damaged: list[Damage]) -> None:
        """The sound lines of a chunk that has others too, written anew as plain JSON, in which no name stands twice."""
        for number in range(chunk.lines):
            place = Place(chunk.part.log, chunk.part.path.name, chunk.first_line + number)
            line = lines.slice(number, 1)
            try:
                record = parse(chunk.data[chunk.bounds[number] : chunk.bounds[number + 1] - 1], place)
                text = pa.array([orjson.dumps(record).decode()], pa.string())
                self._insert(line.set_column(line.schema.get_field_index("line"), "line", text), first, chunk.offset)
            except DamagedLog as error:
                damaged.append(Damage(place.log, place.segment, place.line, error.reason))
            except duckdb.Error:
                damaged.append(Damage(place.log, place.segment, place.line, "a record that cannot be indexed"))

    def _insert(self, lines: pa.Table, first: int, offset: int) -> None:
        self._database.register("lines", lines)
        self._database.execute(f"INSERT INTO rows {rows.LOAD}", {"first": first, "offset": offset})
