"""The command `keytrail`: `init`, `serve`, `env`, `caller …`, and the commands of the evidence side. Wiring, and no decisions.

Exit codes: 0 ok, 1 verification failed or findings, 2 usage, 3 I/O and set-up. An error is one line on standard error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import audit.cli
from audit.instance import Instance
from audit.sealing.process import seal_once
from proxy import doctor, explaining, host, keystore_commands, settings, simulation, supervisor
from proxy.command_line import ConfigOption, DataOption, chosen_settings, errors, opened_instance
from proxy.errors import SetupError
from proxy.unwrapping import who_can_unwrap

app = typer.Typer(
    name="keytrail",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An audit-logging proxy for AWS KMS: every call is on record before it is answered.",
)
callers = typer.Typer(no_args_is_help=True, help="Who may call: access keys and the principals that they stand for.")
app.add_typer(callers, name="caller")
roles = typer.Typer(no_args_is_help=True, help="The roles that callers may assume, by STS's AssumeRole.")
app.add_typer(roles, name="role")
ca = typer.Typer(no_args_is_help=True, help="The CA of the forward proxy, for the names of KMS and for nothing else.")
app.add_typer(ca, name="ca")
app.add_typer(simulation.app, name="policy")
app.command("explain")(explaining.command)
app.add_typer(keystore_commands.app, name="keystore")
app.command()(keystore_commands.seed)
audit.cli.add_to(app)

ProfileOption = Annotated[str | None, typer.Option(help="The profile in the file `credentials` [default: the name in the ARN].")]
AccessKey = Annotated[str, typer.Argument(help="The access key id.")]

#: The metadata services of hosts and containers, and this host: what must not go by a proxy.
_NEVER_BY_PROXY = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "localhost", "127.0.0.1", "::1")

#: What would win over the credentials file, and is therefore taken out of the environment.
_CONTRADICTING = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")


def main() -> None:
    """The console script."""
    audit.cli.run(app, who_can_unwrap)


@app.command()
def init(data: DataOption = None, config: ConfigOption = None) -> None:
    """Make the data folder: keys, callers, an empty log; with a first key, alias/demo, and a first caller."""
    with errors():
        chosen = chosen_settings(config, data)
        instance = host.initialise(chosen)
        seal_once(instance)
    typer.echo(f"Made {chosen.data} for account {instance.account_id}, region {instance.region}.")
    typer.echo(f"The first caller's credentials are in {instance.credentials}. Next: keytrail serve")


@app.command()
def serve(
    data: DataOption = None, config: ConfigOption = None, without_syncing: Annotated[bool, typer.Option(hidden=True)] = False
) -> None:
    """Answer KMS calls, each one on record before it is answered. Runs until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if without_syncing:
        logging.warning("WITHOUT SYNCING: records are not safe on disk. This is for the benchmark only.")
    with errors():
        chosen = chosen_settings(config, data)

        async def run() -> None:
            await supervisor.Supervisor(
                chosen,
                lambda urls: _announce(urls, chosen),
                reread=lambda: chosen_settings(config, data),
                syncing=not without_syncing,
            ).run()

        asyncio.run(run())


@app.command()
def env(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print what a shell needs so that aws, boto3 and other SDKs call this keytrail: eval "$(keytrail env)"."""
    with errors():
        chosen = chosen_settings(config, data)
        instance = Instance.load(chosen.data)
    variables = {
        "AWS_ENDPOINT_URL_KMS": f"http://{chosen.listen}",
        **({"AWS_ENDPOINT_URL_STS": f"http://{chosen.listen}"} if chosen.backend == "local" else {}),
        "AWS_SHARED_CREDENTIALS_FILE": str(instance.credentials.absolute()),
        "AWS_REGION": instance.region,
        "AWS_DEFAULT_REGION": instance.region,  # boto3 and version 1 of the aws CLI read this one only
    }
    for name in _CONTRADICTING:
        if name in os.environ:
            typer.echo(f"unset {name}")
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command("doctor")
def diagnose(data: DataOption = None, config: ConfigOption = None) -> None:
    """Look for what stands in the way of calls: names, certificates, clock, proxies, rights, disk. Exits 1 where it found any."""
    with errors():
        checks = doctor.run(chosen_settings(config, data), os.environ)
    styles = {doctor.Verdict.OK: "green", doctor.Verdict.WARNING: "yellow", doctor.Verdict.FAILED: "red"}
    console = Console(width=None if sys.stdout.isatty() else 160)
    for number, check in enumerate(checks, 1):
        seen = check.seen + (f" → {check.advice}" if check.advice else "")
        console.print(Text(f"{number:2}. {check.verdict.value:14} {check.name}: {seen}", styles.get(check.verdict, "dim")))
    raise typer.Exit(1 if any(check.verdict is doctor.Verdict.FAILED for check in checks) else 0)


@callers.command("add")
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
    with _host(config, data) as opened:
        documents = {path.stem: path.read_text() for path in policy or ()}
        made = opened.add_caller(arn, None, profile or arn.rpartition("/")[2], documents)
    _tell_saved(made.principal.access_key_id, profile or arn.rpartition("/")[2], config, data)


@callers.command("list")
def list_callers(data: DataOption = None, config: ConfigOption = None) -> None:
    """Show the access keys and their principals."""
    table = Table("access key", "principal", "type", "state")
    with _host(config, data) as opened:
        for one in opened.callers.list():
            state = "enabled" if one.enabled else "disabled"
            table.add_row(one.principal.access_key_id, one.principal.arn, one.principal.type, state)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@callers.command("disable")
def disable_caller(access_key_id: AccessKey, data: DataOption = None, config: ConfigOption = None) -> None:
    """Refuse an access key from the next call on."""
    with _host(config, data) as opened:
        opened.disable_caller(access_key_id)
    typer.echo(f"{access_key_id} is disabled.")


@callers.command("enable")
def enable_caller(access_key_id: AccessKey, data: DataOption = None, config: ConfigOption = None) -> None:
    """Accept a disabled access key again."""
    with _host(config, data) as opened:
        opened.enable_caller(access_key_id)
    typer.echo(f"{access_key_id} is enabled.")


@callers.command("rotate")
def rotate_caller(
    access_key_id: AccessKey,
    profile: ProfileOption = None,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Leave the old access key enabled.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Give the same principal a new access key, and disable the old one."""
    with _host(config, data) as opened:
        chosen = profile or host.profile_of(opened.instance.credentials, access_key_id)
        made = opened.rotate_caller(access_key_id, chosen, keep_old=keep_old)
    _tell_saved(made.principal.access_key_id, chosen, config, data)


@callers.command("policy")
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
    with _host(config, data) as opened:
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


@roles.command("add")
def add_role(
    arn: Annotated[str, typer.Argument(help="arn:aws:iam::ACCOUNT:role/NAME")],
    trust: Annotated[Path, typer.Option("--trust", help="The trust policy, JSON: who may assume the role.")],
    max_session_s: Annotated[int, typer.Option("--max-session-s", help="How long its sessions may last, in seconds.")] = 3_600,
    replace: Annotated[bool, typer.Option("--replace", help="Give a role that is there this trust policy instead.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a role that callers may assume, or give it another trust policy."""
    with _host(config, data) as opened:
        made = opened.add_role(arn, trust.read_text(), max_session_s, replace=replace)
    typer.echo(f"{made.arn} may be assumed, for {made.max_session_s} s at a time.")


@roles.command("list")
def list_roles(
    trust: Annotated[bool, typer.Option("--trust", help="Their trust policies too, as JSON lines.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the roles, and how long their sessions may last."""
    with _host(config, data) as opened:
        found = opened.roles.list()
    if trust:
        for role in found:
            typer.echo(
                orjson.dumps({"role": role.arn, "maxSessionS": role.max_session_s, "trust": orjson.loads(role.trust)}).decode()
            )
        return
    table = Table("role", "id", "longest session")
    for role in found:
        table.add_row(role.arn, role.role_id, f"{role.max_session_s} s")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@roles.command("remove")
def remove_role(
    arn: Annotated[str, typer.Argument(help="The role's ARN.")], data: DataOption = None, config: ConfigOption = None
) -> None:
    """Take a role away, and end its sessions with the next call."""
    with _host(config, data) as opened:
        opened.remove_role(arn)
    typer.echo(f"{arn} is gone, and its sessions have ended.")


@ca.command("init")
def init_ca(data: DataOption = None, config: ConfigOption = None) -> None:
    """Make the CA: its certificate and its key. Clients that trust it trust it for the names of KMS only."""
    with _host(config, data) as opened:
        certificate, key = opened.settings.ca_files
        opened.make_ca(certificate, key)
    typer.echo(f"Made a CA for the names of KMS: {certificate}; its key is in {key}.")


@ca.command("export")
def export_ca(
    bundle: Annotated[
        Path | None, typer.Option(help="Where the bundle goes [default: ca/bundle.pem in the data folder].")
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the bundle that clients are to trust, and print what a shell needs to go by way of keytrail: eval "$(…)"."""
    with errors():
        chosen = chosen_settings(config, data)
        if not chosen.forward_listen:
            raise SetupError("there is no forward proxy: set forward_listen")
        path = (bundle or chosen.data / "ca" / "bundle.pem").absolute()
        host.write_bundle(path, chosen.ca_files[0])
    for name, value in client_environment(f"http://{chosen.forward_listen}", path).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def client_environment(proxy: str, bundle: Path) -> dict[str, str]:
    """What clients' environments need to go by `proxy` and to trust `bundle`, and which of them reads it."""
    return {
        "HTTPS_PROXY": proxy,  # all of them; Node's SDK by a request handler that it is given
        "NO_PROXY": ",".join(_NEVER_BY_PROXY),
        "AWS_CA_BUNDLE": str(bundle),  # boto3, the aws CLI, the SDKs for Ruby, PHP and C++
        "REQUESTS_CA_BUNDLE": str(bundle),  # Python's requests
        "NODE_EXTRA_CA_CERTS": str(bundle),  # Node
        "SSL_CERT_FILE": str(bundle),  # Go, Rust, and what goes by OpenSSL's default
    }


def _announce(urls: Mapping[str, str], chosen: settings.Settings) -> None:
    data = "" if chosen.data == settings.Settings.model_fields["data"].default else f" --data {shlex.quote(str(chosen.data))}"
    typer.echo(f"keytrail answers KMS calls at {urls['listen']}; health at {urls['admin_listen']}/health/ready")
    if "tls_listen" in urls:
        typer.echo(f"With TLS at {urls['tls_listen']}")
    if "forward_listen" in urls:
        typer.echo(f"As a forward proxy (HTTPS_PROXY) at {urls['forward_listen']}")
    typer.echo("Next, in another shell:")
    typer.echo(f'  eval "$(keytrail env{data})"')
    typer.echo("  aws kms generate-data-key --key-id alias/demo --key-spec AES_256 --encryption-context tenant=acme")
    typer.echo(f"  keytrail query{data} --since 1h")
    sys.stdout.flush()


def _tell_saved(access_key_id: str, profile: str, config: Path | None, data: Path | None) -> None:
    path = Instance.load(chosen_settings(config, data).data).credentials
    typer.echo(f"{access_key_id}: its credentials are in {path}, profile {profile}.")


@contextmanager
def _host(config: Path | None, data: Path | None) -> Iterator[host.Host]:
    with opened_instance(config, data) as (instance, chosen), host.Host(instance, chosen) as opened:
        yield opened


if __name__ == "__main__":
    main()
