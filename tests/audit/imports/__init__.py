"""Imports for tests: files of AWS's, and what the tables have of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audit.imports.reading import How, Report, import_files
from audit.imports.store import Import
from audit.query.events import open_events
from tests.audit.fixtures.reconcile import packed

#: Columns that say where a row is kept, and not what it is.
PLACES = ("record", "start", "size", "log")
THEIRS = "SELECT * FROM events WHERE origin = 'cloudtrail'"


def imported(data: Path, where: Path | str, name: str = "trail", how: How | None = None, **limits: int) -> Report:
    with Import(data, name, **limits) as store:
        return import_files(store, str(where), how or How())


def write(folder: Path, *files: list[Any]) -> Path:
    """`files`, each of some events, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, events in enumerate(files):
        (folder / f"{number:04d}.json.gz").write_bytes(packed(events))
    return folder


def rows(data: Path, statement: str = THEIRS) -> list[dict[str, Any]]:
    """The answer as dictionaries; nothing may be damaged."""
    with open_events(data) as events:
        assert events.damaged == ()
        answer = events.database.execute(statement)
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def said(data: Path) -> list[str]:
    """What the rows of imported events say, in an order of their own; each is at a place of its own."""
    found = rows(data)
    for log in {row["log"] for row in found}:
        assert sorted(row["record"] for row in found if row["log"] == log) == list(range(sum(row["log"] == log for row in found)))
    return sorted(repr({name: value for name, value in row.items() if name not in PLACES}) for row in found)
