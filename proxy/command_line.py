"""What the commands on the data folder share: their options, the settings, and errors as one line and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from audit.errors import AuditError
from audit.instance import Instance
from proxy import settings
from proxy.errors import ProxyError

DataOption = Annotated[Path | None, typer.Option("--data", help="The data folder [default: ./keytrail-data].")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="The settings file [default: config/keytrail.toml].")]


def chosen_settings(config: Path | None, data: Path | None) -> settings.Settings:
    return settings.load(config, os.environ, data=data)


@contextmanager
def opened_instance(config: Path | None, data: Path | None) -> Iterator[tuple[Instance, settings.Settings]]:
    """The instance and its settings; what goes wrong within ends the command."""
    with errors():
        chosen = chosen_settings(config, data)
        instance = Instance.load(chosen.data)
        instance.require_logs()
        yield instance, chosen


@contextmanager
def errors() -> Iterator[None]:
    """Turn what the libraries raise into one line and an exit code."""
    try:
        yield
    except (ProxyError, AuditError, OSError) as error:
        typer.echo(f"keytrail: {error}", err=True)
        raise typer.Exit(3) from error
