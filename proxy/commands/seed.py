"""`keytrail seed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy import seeding
from proxy.command_line import ConfigOption, DataOption, opened_instance

app = typer.Typer()


@app.command()
def seed(
    file: Annotated[Path, typer.Argument(help="A TOML or JSON file; config/seed.example.toml shows one.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make keys with given ids and material, for tests that repeat. What is there already as in the file stays as it is; where
    anything differs, nothing is made."""
    with opened_instance(config, data) as (instance, chosen):
        made = seeding.seed(instance, chosen, file)
    others = "; the others were there" if made.there else ""
    typer.echo(f"{made.made} of {made.made + made.there} keys were made{others}.")
