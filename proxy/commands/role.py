"""`keytrail role …`: the roles that callers may assume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.table import Table

from audit.query.render import make_console, print_table
from proxy.command_line import ConfigOption, DataOption
from proxy.commands.opened import opened_host

app = typer.Typer(name="role", no_args_is_help=True, help="The roles that callers may assume, by STS's AssumeRole.")


@app.command("add")
def add_role(
    arn: Annotated[str, typer.Argument(help="arn:aws:iam::ACCOUNT:role/NAME")],
    trust: Annotated[Path, typer.Option("--trust", help="The trust policy, JSON: who may assume the role.")],
    max_session_s: Annotated[int, typer.Option("--max-session-s", help="How long its sessions may last, in seconds.")] = 3_600,
    replace: Annotated[bool, typer.Option("--replace", help="Give a role that is there this trust policy instead.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a role that callers may assume, or give it another trust policy."""
    with opened_host(config, data) as opened:
        made = opened.add_role(arn, trust.read_text(), max_session_s, replace=replace)
    typer.echo(f"{made.arn} may be assumed, for {made.max_session_s} s at a time.")


@app.command("list")
def list_roles(
    trust: Annotated[bool, typer.Option("--trust", help="Their trust policies too, as JSON lines.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the roles, and how long their sessions may last."""
    with opened_host(config, data) as opened:
        found = opened.roles.list()
    if trust:
        for role in found:
            typer.echo(
                orjson.dumps({"role": role.arn, "maxSessionS": role.max_session_s, "trust": orjson.loads(role.trust)}).decode()
            )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("role", "id", "longest session"):
        table.add_column(heading, overflow="fold")
    for role in found:
        table.add_row(role.arn, role.role_id, f"{role.max_session_s} s")
    print_table(table, make_console(sys.stdout))


@app.command("remove")
def remove_role(
    arn: Annotated[str, typer.Argument(help="The role's ARN.")], data: DataOption = None, config: ConfigOption = None
) -> None:
    """Take a role away, and end its sessions with the next call."""
    with opened_host(config, data) as opened:
        opened.remove_role(arn)
    typer.echo(f"{arn} is gone, and its sessions have ended.")
