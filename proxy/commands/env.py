"""`keytrail env`."""

from __future__ import annotations

import os
import shlex

import typer

from audit.instance import Instance
from proxy.command_line import ConfigOption, DataOption, chosen_settings, errors

#: What would win over the credentials file, and is therefore taken out of the environment.
_CONTRADICTING = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")

app = typer.Typer()


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
