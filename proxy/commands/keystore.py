"""`keytrail keystore …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy import keystore, restoring, rewrapping
from proxy.command_line import ConfigOption, DataOption, opened_instance

app = typer.Typer(
    name="keystore", no_args_is_help=True, help="The key store: copies of it, another master key, and whether all of it opens."
)


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="A new file.")], data: DataOption = None, config: ConfigOption = None
) -> None:
    """Copy the key store as it is at this moment, sealed, also while it is served. The master key is not in it."""
    with opened_instance(config, data) as (instance, chosen):
        made = keystore.backup(instance, chosen, file)
    typer.echo(f"Made {file}: {_told(made)}.")
    typer.echo(f"Only the master key {made.master_key_id} opens it: keep that apart from it.")


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `keytrail keystore backup` made.")],
    replace: Annotated[bool, typer.Option("--replace", help="Also where there is a store; that is moved aside.")] = False,
    even_newer: Annotated[bool, typer.Option("--even-newer", help="Also where that has later changes.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Put a copy in the key store's place, which must not be served. All of the copy must open with the master key."""
    with opened_instance(config, data) as (instance, chosen):
        made = restoring.restore(instance, chosen, file, replace=replace, even_newer=even_newer)
    typer.echo(f"Restored {file}: {_told(made)}.")


@app.command("rewrap")
def rewrap(
    new: Annotated[
        Path | None, typer.Option("--new", help="A file with the new key, where the setting master_key is used.")
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="The new key is in place: the old one opens the store no more.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Change the master key, also while the store is served; where it was interrupted, it goes on. Copies made before open with
    the old key only."""
    with opened_instance(config, data) as (instance, chosen):
        made = rewrapping.rewrap(instance, chosen, new, finish=finish)
    begun = "The change that was begun is finished: " if made.was_begun else ""
    typer.echo(f"{begun}the master key {made.key_id} opens the key store{', and no other does' if not made.also else ''}.")
    for other in made.also:
        typer.echo(f"The master key {other} opens it, too: put it in place, and run `keytrail keystore rewrap --finish`.")


@app.command("check")
def check(data: DataOption = None, config: ConfigOption = None) -> None:
    """Open every row of the key store, and tell what is damaged. Exits 1 where something is."""
    with opened_instance(config, data) as (instance, chosen):
        standing, found = keystore.check(instance, chosen)
    typer.echo(f"{_told(standing)}; the master key {standing.master_key_id} opens it.")
    for one in found:
        typer.echo(one)
    raise typer.Exit(1 if found else 0)


def _told(standing: keystore.Standing) -> str:
    rows = ", ".join(f"{number:,} {kind}" for kind, number in standing.rows.items())
    return f"generation {standing.generation}; rows: {rows or 'none'}"
