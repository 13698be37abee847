"""A command line as a table: each command is imported when it is asked for, so that nobody waits for what another one needs.

DuckDB, Arrow, Iceberg, Sigma and boto3 take seconds to import; `serve` and `init` need none of them. A help of all commands
imports all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

import typer
from typer.core import TyperGroup

#: Of a command, or of a group of them: the Typer app that it is in, as `module:name`.
Places = Mapping[str, str]
Prepare = Callable[[typer.Typer], None]


def table_of(places: Places, prepare: Prepare = lambda app: None) -> type[TyperGroup]:
    """The group of these commands, in this order; each app is given to `prepare` before a command of it is made."""

    class CommandTable(TyperGroup):
        def __init__(self, **how: Any) -> None:  # Any: typer's own click has no public type
            super().__init__(**how)
            self.commands = _Commands(places, prepare)  # type: ignore[assignment]  # nobody adds to it

    return CommandTable


class _Commands(Mapping[str, Any]):
    """Commands by name, each imported and made when it is looked up."""

    def __init__(self, places: Places, prepare: Prepare) -> None:
        self._places = places
        self._prepare = prepare

    def __getitem__(self, name: str) -> Any:
        app = resolve_name(self._places[name])
        self._prepare(app)
        group = typer.main.get_group(app)
        return group.commands.get(name, group)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
