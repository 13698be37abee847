"""One SELECT of a user's, over the views of `audit.query.events`: admitted, explained, run within limits of time and memory."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import duckdb
import orjson

from audit.errors import QueryError

TABLES = frozenset(("calls", "events"))
#: Functions that a table may be made by. Others read files, run what a text says, or change how DuckDB works.
TABLE_FUNCTIONS = frozenset(("generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"))
#: Functions that look into a statement that was not admitted.
_FORBIDDEN = frozenset(("json_serialize_plan",))
#: What a statement may take of the process's address space, beyond what is taken already.
MEMORY_BYTES = 3 << 30
#: What no file can be at fault for.
_OF_THE_STATEMENT = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.OutOfMemoryException)
#: How long a statement that was interrupted has to end.
_GRACE_S = 5.0


def admit(database: duckdb.DuckDBPyConnection, text: str, further: frozenset[str] = frozenset()) -> None:
    """Raises `QueryError` where `text` is anything but one SELECT that only reads `TABLES`, as DuckDB's own parser sees it;
    `further` are tables that it may read besides."""
    try:
        [(tree,)] = database.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
        parsed = orjson.loads(tree)
    except orjson.JSONDecodeError as error:
        raise QueryError("not accepted: it is nested too deeply") from error
    if parsed["error"]:
        if parsed["error_type"] == "not implemented":
            raise QueryError("not accepted; accepted: one SELECT, which may begin with WITH, FROM, DESCRIBE or SUMMARIZE")
        raise QueryError(parsed["error_message"])
    if len(parsed["statements"]) != 1:
        raise QueryError(f"{len(parsed['statements'])} statements; accepted: one SELECT")
    nodes = list(_nodes(parsed["statements"]))
    refused = sorted(_functions(nodes, "TABLE_FUNCTION") - TABLE_FUNCTIONS) + sorted(_functions(nodes, "FUNCTION") & _FORBIDDEN)
    if refused:
        accepted = ", ".join(sorted(TABLES | TABLE_FUNCTIONS))
        raise QueryError(f"not accepted: {', '.join(refused)}; accepted as a table: {accepted}")
    if odd := sorted(name for name in _defined(nodes) if not name.isidentifier()):
        raise QueryError(f"not accepted: WITH {odd[0]!r}; accepted as its name: letters, digits and _")
    if unknown := sorted(_tables(nodes) - TABLES - further):
        raise QueryError(f"Catalog Error: no table {unknown[0]!r}; there are: {', '.join(sorted(TABLES))}")


@contextmanager
def limited(
    database: duckdb.DuckDBPyConnection, seconds: float | None, require_sound: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """What runs within is interrupted after `seconds`. Raises `QueryError` then, and for what DuckDB refuses; duckdb.Error for
    files, memory and disk. `require_sound` is called where DuckDB failed, and raises if what it read was at fault."""
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        database.interrupt()

    timer = _started(seconds, stop)
    try:
        yield
    except duckdb.Error as error:
        if expired.is_set():
            raise QueryError(f"interrupted after {seconds:g} s, its time limit") from error
        if not isinstance(error, _OF_THE_STATEMENT):
            require_sound()
        if isinstance(error, duckdb.OperationalError):
            raise
        raise QueryError(str(error).strip()) from error
    finally:
        timer.cancel()


@contextmanager
def confined(seconds: float, gave_up: Callable[[], None]) -> Iterator[None]:
    """What runs within has `MEMORY_BYTES` more of address space, which DuckDB's own limit does not wholly hold: a text made long
    is not counted. Where it does not end within `seconds` and a while, since some functions cannot be interrupted, `gave_up`
    is called, and has to end the process. For the main thread of a command."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as taken:
        wanted = int(taken.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    timer = _started(seconds + _GRACE_S, gave_up)
    try:
        yield
    finally:
        timer.cancel()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def explain(database: duckdb.DuckDBPyConnection, text: str, values: Mapping[str, object]) -> str:
    """DuckDB's plan of an admitted statement."""
    return "".join(f"{plan}\n" for _, plan in database.execute(f"EXPLAIN {text}", values or None).fetchall())


def _started(seconds: float | None, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds if seconds is not None else 0, action)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    return timer


def _nodes(node: object) -> Iterator[dict[str, object]]:
    """All nodes of DuckDB's syntax tree. Its parser bounds the depth."""
    if isinstance(node, dict):
        yield node
        for part in node.values():
            yield from _nodes(part)
    elif isinstance(node, list):
        for part in node:
            yield from _nodes(part)


def _functions(nodes: list[dict[str, object]], type: str) -> set[str]:
    """The functions called in nodes of `type`: a table's stand one deeper."""
    called = [node.get("function", node) for node in nodes if node.get("type") == type]
    return {str(one.get("function_name")).lower() for one in called if isinstance(one, dict)}


def _tables(nodes: list[dict[str, object]]) -> set[str]:
    """The tables that are named, but for those that the statement itself defines, anywhere."""
    return {str(node["table_name"]).lower() for node in nodes if node.get("type") == "BASE_TABLE"} - _defined(nodes)


def _defined(nodes: list[dict[str, object]]) -> set[str]:
    """What the statement defines (WITH). Outside of its part of the statement such a name means something else to DuckDB: what is
    no identifier would be a file there."""
    return {str(entry["key"]).lower() for node in nodes for entry in _common(node)}


def _common(node: dict[str, object]) -> list[dict[str, object]]:
    tables = node.get("cte_map")
    found: list[dict[str, object]] = tables.get("map", []) if isinstance(tables, dict) else []
    return found
