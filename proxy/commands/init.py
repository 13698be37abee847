"""`keytrail init`."""

from __future__ import annotations

import typer

from audit.sealing.keys import KeyPlace
from audit.sealing.process import seal_once
from proxy import host
from proxy.command_line import ConfigOption, DataOption, chosen_settings, errors
from proxy.companions import sealing_plan

app = typer.Typer()


@app.command()
def init(data: DataOption = None, config: ConfigOption = None) -> None:
    """Make the data folder: keys, callers, an empty log; with a first key, alias/demo, and a first caller. What a shared
    key store (keystore_url) has already stays as it is."""
    with errors():
        chosen = chosen_settings(config, data)
        instance = host.initialise(chosen)
        seal_once(instance, KeyPlace.of(sealing_plan(chosen)))
    typer.echo(f"Made {chosen.data} for account {instance.account_id}, region {instance.region}.")
    if instance.credentials.exists():
        typer.echo(f"The first caller's credentials are in {instance.credentials}. Next: keytrail serve")
    else:
        typer.echo("The key store was there: its callers are those that it has. Next: keytrail serve")
