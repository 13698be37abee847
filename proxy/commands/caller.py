"""`keytrail caller …`: who may call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from audit.instance import Instance
from audit.query.render import make_console, print_table
from proxy import host
from proxy.command_line import ConfigOption, DataOption, chosen_settings
from proxy.commands.opened import opened_host

app = typer.Typer(name="caller", no_args_is_help=True, help="Who may call: access keys and the principals that they stand for.")
ProfileOption = Annotated[str | None, typer.Option(help="The profile in the file `credentials` [default: the name in the ARN].")]
AccessKey = Annotated[str, typer.Argument(help="The access key id.")]


@app.command("add")
def add_caller(
    arn: Annotated[str, typer.Argument(help="arn:aws:iam::ACCOUNT:user/NAME or arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION")],
    profile: ProfileOption = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="A file with an identity policy, in place of KMSFullAccess; may be repeated."),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Give a principal an access key; its credentials go to a profile of the file `credentials`, never to the terminal."""
    with opened_host(config, data) as opened:
        documents = {path.stem: path.read_text() for path in policy or ()}
        made = opened.add_caller(arn, None, profile or arn.rpartition("/")[2], documents)
    _tell_saved(made.principal.access_key_id, profile or arn.rpartition("/")[2], config, data)


@app.command("list")
def list_callers(data: DataOption = None, config: ConfigOption = None) -> None:
    """Show the access keys and their principals."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("access key", "principal", "type", "state"):
        table.add_column(heading, overflow="fold")
    with opened_host(config, data) as opened:
        for one in opened.callers.list():
            state = "enabled" if one.enabled else "disabled"
            table.add_row(one.principal.access_key_id, one.principal.arn, one.principal.type, state)
    print_table(table, make_console(sys.stdout))


@app.command("disable")
def disable_caller(access_key_id: AccessKey, data: DataOption = None, config: ConfigOption = None) -> None:
    """Refuse an access key from the next call on."""
    with opened_host(config, data) as opened:
        opened.disable_caller(access_key_id)
    typer.echo(f"{access_key_id} is disabled.")


@app.command("enable")
def enable_caller(access_key_id: AccessKey, data: DataOption = None, config: ConfigOption = None) -> None:
    """Accept a disabled access key again."""
    with opened_host(config, data) as opened:
        opened.enable_caller(access_key_id)
    typer.echo(f"{access_key_id} is enabled.")


@app.command("rotate")
def rotate_caller(
    access_key_id: AccessKey,
    profile: ProfileOption = None,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Leave the old access key enabled.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Give the same principal a new access key, and disable the old one."""
    with opened_host(config, data) as opened:
        chosen = profile or host.profile_of(opened.instance.credentials, access_key_id)
        made = opened.rotate_caller(access_key_id, chosen, keep_old=keep_old)
    _tell_saved(made.principal.access_key_id, chosen, config, data)


@app.command("policy")
def caller_policy(
    caller: Annotated[str, typer.Argument(help="The ARN of a user, a role or a session, or an access key id.")],
    put: Annotated[
        Path | None, typer.Option("--set", help="A file with an identity policy to give it, or to put in place.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="With --set: the policy's name [default: the file's, without .json].")
    ] = None,
    remove: Annotated[str | None, typer.Option("--remove", help="The name of a policy to take away.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the built-in KMSFullAccess, and no other.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show its policies; so does no option at all.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Show or change what a user or role may do: its identity policies. Those of a role are those of all its sessions."""
    if (put is not None) + (remove is not None) + reset + show > 1 or (name is not None and put is None):
        typer.echo("keytrail: one of --set FILE (with --name), --remove NAME, --reset and --show", err=True)
        raise typer.Exit(2)
    with opened_host(config, data) as opened:
        owner = opened.owner_of(caller)
        if put is not None:
            for warning in opened.put_policy(owner, name or put.stem, put.read_text()):
                typer.echo(f"keytrail: {warning}", err=True)
        elif remove is not None:
            opened.remove_policy(owner, remove)
        elif reset:
            opened.reset_policies(owner)
        held = opened.permissions.held().of(owner)
    if put is None and remove is None and not reset:
        for title, document in held.items():
            typer.echo(f"{title}:\n{document}")
    typer.echo(f"{owner} has {', '.join(held) or 'no identity policy: only key policies and grants can allow it anything'}.")


def _tell_saved(access_key_id: str, profile: str, config: Path | None, data: Path | None) -> None:
    path = Instance.load(chosen_settings(config, data).data).credentials
    typer.echo(f"{access_key_id}: its credentials are in {path}, profile {profile}.")
