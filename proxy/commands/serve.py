"""`keytrail serve`."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from proxy.command_line import ConfigOption, DataOption, chosen_settings, errors
from proxy.settings import Settings
from proxy.supervisor import Supervisor

app = typer.Typer()


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
            await Supervisor(
                chosen,
                lambda urls: _announce(urls, chosen),
                reread=lambda: chosen_settings(config, data),
                syncing=not without_syncing,
            ).run()

        asyncio.run(run())


def _announce(urls: Mapping[str, str], chosen: Settings) -> None:
    data = "" if chosen.data == Settings.model_fields["data"].default else f" --data {shlex.quote(str(chosen.data))}"
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
