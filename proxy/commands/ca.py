"""`keytrail ca …`: the CA of the forward proxy."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from proxy import host
from proxy.command_line import ConfigOption, DataOption, chosen_settings, errors
from proxy.commands.opened import opened_host
from proxy.errors import SetupError

app = typer.Typer(name="ca", no_args_is_help=True, help="The CA of the forward proxy, for the names of KMS and for nothing else.")

#: The metadata services of hosts and containers, and this host: what must not go by a proxy.
_NEVER_BY_PROXY = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "localhost", "127.0.0.1", "::1")


@app.command("init")
def init_ca(data: DataOption = None, config: ConfigOption = None) -> None:
    """Make the CA: its certificate and its key. Clients that trust it trust it for the names of KMS only."""
    with opened_host(config, data) as opened:
        certificate, key = opened.settings.ca_files
        opened.make_ca(certificate, key)
    typer.echo(f"Made a CA for the names of KMS: {certificate}; its key is in {key}.")


@app.command("export")
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
