"""`keytrail ship status`: how far shipping to each sink has come, by the settings of `serve`."""

from __future__ import annotations

import json as json_text
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from audit.shipping.cursor import CursorFile
from audit.shipping.plan import Shipping, Target
from audit.shipping.process import logs_of
from audit.shipping.standing import LogStanding, standing_of
from proxy.command_line import ConfigOption, DataOption, errors, opened_instance
from proxy.companions import shipping_plan, ships
from proxy.errors import SetupError

app = typer.Typer(
    name="ship", no_args_is_help=True, help="Every record to sinks beside the log: OpenTelemetry, syslog, NATS JetStream."
)


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """A sink, how many records it refused, and how far each log has come."""

    sink: str
    address: str
    refused: int
    logs: tuple[LogStanding, ...]


@app.callback()
def _ship() -> None:
    """Every record to sinks beside the log: OpenTelemetry, syslog, NATS JetStream."""


@app.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False, data: DataOption = None, config: ConfigOption = None
) -> None:
    """Tell how far shipping has come, and how far it is behind."""
    with errors(), opened_instance(config, data) as (_, chosen):
        if not ships(chosen):
            raise SetupError("nothing is shipped: set `ship_otlp`, `ship_syslog` or `ship_nats`")
        found = [_status(chosen.data, target) for target in Shipping.of(shipping_plan(chosen)).targets]
        if json:
            sys.stdout.write(json_text.dumps([asdict(one) for one in found], indent=2) + "\n")
            return
        for one in found:
            typer.echo(f"{one.sink} ({one.address}): {one.refused} records refused")
            for log in one.logs:
                behind = f", {log.lag_s} s behind" if log.lag_s else ""
                typer.echo(
                    f"  log {log.log}: {log.shipped} of {log.durable} records{behind}{f': {log.fault}' if log.fault else ''}"
                )


def _status(data: Path, target: Target) -> SinkStatus:
    cursor = CursorFile(data / "shipping", target.name, target.address)
    known = cursor.load().next
    logs = [standing_of(name, folder, known.get(name, 0), time.time()) for name, folder in sorted(logs_of(data)().items())]
    return SinkStatus(target.name, target.address, cursor.refused(), tuple(logs))
