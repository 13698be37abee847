"""The commands of the evidence side: `query`, `trace`, `tail`, `verify`, `checkpoint`. They only read the data folder.

`add_to` gives them to the top-level `keytrail` app. Exits: 0 ok (a query that finds nothing is ok), 1 verification
failed or findings (trace: not found; any: damage was met), 2 usage, 3 I/O. Errors are one line on standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from audit.errors import QueryError
from audit.instance import Instance
from audit.query import commands
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.terminal import errors
from audit.sealer import verifier_keys

app = typer.Typer(name="audit", no_args_is_help=True, help="Ask the audit log, and verify it.")
app.registered_commands += commands.app.registered_commands


def add_to(top: typer.Typer) -> None:
    """Register these commands at the top level of `top`."""
    top.registered_commands += app.registered_commands


@app.command()
def checkpoint(
    key: Annotated[bool, typer.Option("--key", help="The verifier keys instead, one a line.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print the newest signed checkpoint of every log, to be kept where nobody who can change this host can change it.

    Hand it to `verify --checkpoint` later. Notes are divided by an empty line.
    """
    with errors():
        instance = Instance.load(data)
        sys.stdout.write(_verifier_keys(instance) if key else _latest_checkpoints(instance))


def _latest_checkpoints(instance: Instance) -> str:
    notes = []
    for log in instance.logs:
        latest = instance.checkpoint_folder(log) / "latest"
        if latest.exists():
            notes.append(latest.read_text("utf-8").strip("\n") + "\n")
    if not notes:
        raise QueryError(f"no checkpoint was signed yet in {instance.data}")
    return "\n".join(notes)


def _verifier_keys(instance: Instance) -> str:
    return "".join(f"{key}\n" for key in verifier_keys(instance).values())
