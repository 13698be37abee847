"""The command `keytrail`: the table of its commands. Wiring, and no decisions.

Exit codes: 0 ok, 1 verification failed or findings, 2 usage, 3 I/O and set-up. An error is one line on standard error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import audit.cli
from audit.command_table import Places, table_of
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from audit.commit import Known
    from audit.instance import Instance
    from audit.record import AuditRecord

COMMANDS: Places = {
    **{name: f"proxy.commands.{name}:app" for name in ("init", "serve", "env", "doctor", "caller", "role", "ca")},
    "policy": "proxy.simulation:app",
    "explain": "proxy.explaining.command:app",
    **{name: f"proxy.commands.{name}:app" for name in ("keystore", "seed", "seal", "sealer", "deliver", "ship", "shred")},
    "stored-form": "proxy.commands.shred:app",
    **audit.cli.COMMANDS,
}

app = typer.Typer(
    name="keytrail",
    cls=table_of(COMMANDS, lambda app: audit.cli.put_searches_on_record(app, _known_effect)),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An audit-logging proxy for AWS KMS: every call is on record before it is answered.",
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"keytrail {metadata.version('keytrail')}")
        raise typer.Exit


def _known_effect(instance: Instance, intent: AuditRecord) -> Known | None:
    """What the key store knows of a lost outcome that a search finds in the log `admin`."""
    from proxy import settings  # here: few searches find one
    from proxy.host_log import known_effect

    try:
        chosen = settings.load(None, os.environ, data=instance.data)
    except ProxyError:
        return None
    return known_effect(instance, chosen, intent)


@app.callback()
def _keytrail(
    version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """An audit-logging proxy for AWS KMS: every call is on record before it is answered."""


def main() -> None:
    """The console script."""
    audit.cli.run(app, _who_can_unwrap)


def _who_can_unwrap(data: Path, key: str, context: Mapping[str, str]) -> Any:  # Any: a Standing, for the command that asks
    from proxy.unwrapping import who_can_unwrap  # here: only `trace` asks

    return who_can_unwrap(data, key, context)


if __name__ == "__main__":
    main()
