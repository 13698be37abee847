"""The commands of the evidence side: asking the logs, and proving them. They only read the data folder, but for the index,
what is imported, and what is acknowledged; where `serve` runs, asking is itself on record.

`COMMANDS` is for the top-level `keytrail` app as well. Exits: 0 ok (a query that finds nothing is ok), 1 verification
failed or findings (trace: not found; any: damage was met), 2 usage, 3 I/O. Errors are one line on standard error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from audit.command_table import Places, table_of
from audit.streams import standard_streams

if TYPE_CHECKING:
    from audit.query.searches import EffectIn

COMMANDS: Places = {
    **dict.fromkeys(("query", "trace", "tail"), "audit.query.commands:app"),
    "inventory": "audit.query.inventory.command:app",
    "sql": "audit.query.sql_command:app",
    "detect": "audit.query.detections.command:app",
    "reconcile": "audit.reconcile.command:app",
    **dict.fromkeys(("attest-absence", "verify-attestation"), "audit.attest.command:app"),
    **dict.fromkeys(("checkpoint", "verify"), "audit.verify_command:app"),
    "acknowledge": "audit.acknowledge_command:app",
    **dict.fromkeys(("prove", "verify-proof"), "audit.proofs.command:app"),
    "witness": "audit.witnessing.command:app",
    "report": "audit.report_command:app",
    "index": "audit.query.index.commands:app",
    "import": "audit.imports.command:app",
}
#: Commands that tell what is in the log, and leave a record of being asked.
SEARCHES = {
    *("query", "trace", "tail", "inventory", "sql", "detect", "reconcile", "attest-absence", "prove"),
    *("key-usage", "access-review", "quarterly", "incident", "show", "bypasses", "publish"),
}


def put_searches_on_record(app: typer.Typer, effect_in: EffectIn | None = None) -> None:
    """Have those of the commands of `app` that search leave a record first. `effect_in`: see `audit.query.searches.on_record`."""
    for command in app.registered_commands:
        if command.callback is None or hasattr(command.callback, "__wrapped__"):  # which it is once it leaves one
            continue
        name = command.name or command.callback.__name__.replace("_", "-")
        if name in SEARCHES:
            from audit.query.searches import on_record  # here: the other commands do not need it

            command.callback = on_record(name, command.callback, effect_in)


app = typer.Typer(
    name="audit", cls=table_of(COMMANDS, put_searches_on_record), no_args_is_help=True, help="Ask the audit log, and verify it."
)


@app.callback()
def _audit() -> None:
    """Ask the audit log, and verify it."""


def run(top: typer.Typer, obj: object) -> None:
    """The console script of `top`, whose commands get `obj`. What was printed is out when it ends, or its exit code says no."""
    with standard_streams():
        top(obj=obj)
