"""One SELECT of a user's, over the views of `audit.query.events`: admitted, explained, run for a limited time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb
import orjson

from audit.errors import QueryError

#: Functions that a table may be made by. Others read files, run what a text says, or change how DuckDB works.
TABLE_FUNCTIONS = frozenset(("generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"))


def admit(database: duckdb.DuckDBPyConnection, text: str) -> None:
    """Raises `QueryError` where `text` is anything but one SELECT that only reads tables, as DuckDB's own parser sees it."""
    [(tree,)] = database.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    parsed = orjson.loads(tree)
    if parsed["error"]:
        if parsed["error_type"] == "not implemented":
            raise QueryError("not accepted; accepted: one SELECT, which may begin with WITH, FROM, DESCRIBE or SUMMARIZE")
        raise QueryError(parsed["error_message"])
    if len(parsed["statements"]) != 1:
        raise QueryError(f"{len(parsed['statements'])} statements; accepted: one SELECT")
    refused = sorted({name for name in _table_functions(parsed["statements"]) if name not in TABLE_FUNCTIONS})
    if refused:
        raise QueryError(
            f"not accepted as a table: {', '.join(refused)}; accepted: events, calls, {', '.join(sorted(TABLE_FUNCTIONS))}"
        )


@contextmanager
def limited(database: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[None]:
    """What runs within is interrupted after `seconds`. Raises `QueryError` then, and for what DuckDB
    refuses; KeyboardInterrupt."""
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        database.interrupt()

    timer = threading.Timer(seconds, stop) if seconds is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    except duckdb.Error as error:
        if expired.is_set():
            raise QueryError(f"interrupted after {seconds:g} s, its time limit") from error
        raise QueryError(str(error).strip()) from error
    except RuntimeError as error:  # so DuckDB says that it saw the signal of Ctrl-C
        raise KeyboardInterrupt from error
    finally:
        if timer is not None:
            timer.cancel()


def explain(database: duckdb.DuckDBPyConnection, text: str, values: Mapping[str, object]) -> str:
    """DuckDB's plan of an admitted statement."""
    return "".join(f"{plan}\n" for _, plan in database.execute(f"EXPLAIN {text}", values or None).fetchall())


def _table_functions(node: object) -> Iterator[str]:
    """The functions that a table is made by, anywhere in DuckDB's syntax tree."""
    if isinstance(node, dict):
        if node.get("type") == "TABLE_FUNCTION":
            yield str(node["function"]["function_name"]).lower()
        for part in node.values():
            yield from _table_functions(part)
    elif isinstance(node, list):
        for part in node:
            yield from _table_functions(part)
