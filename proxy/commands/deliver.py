"""`keytrail deliver …`: CloudTrail delivery by hand, by the settings of `serve`, and the key of its digests."""

from __future__ import annotations

import json as json_text
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from audit.delivery.digest import PublicKey
from audit.delivery.keys import DigestKeyInvalid, rotate_key
from audit.delivery.layout import timestamp
from audit.delivery.logs import Logs
from audit.delivery.opening import Delivery, delivery_folder, held, load_state, open_deliverer
from audit.delivery.state import State
from audit.errors import LogIncident
from proxy.command_line import ConfigOption, DataOption, opened_instance
from proxy.companions import delivery_plan
from proxy.domain import Answer, Operation
from proxy.errors import SetupError
from proxy.host_log import HostLog
from proxy.separation import acting_as
from proxy.settings import Settings

_ROTATE = Operation("RotateDigestKey", mutates=True, response=("keyId",))
app = typer.Typer(name="deliver", no_args_is_help=True, help="The log as CloudTrail's files and digests, in a folder or in S3.")


@dataclass(frozen=True, slots=True)
class LogStatus:
    """How much of a log is delivered, and how much of it there is to deliver: what is sealed."""

    log: str
    delivered: int
    sealed: int


@app.command()
def once(data: DataOption = None, config: ConfigOption = None) -> None:
    """Deliver now what is sealed, and the digests that are due. `keytrail serve` does so by itself, at intervals."""
    with opened_instance(config, data) as (_, chosen):
        delivery = _delivery(chosen)
        with held(chosen.data, wait=False):
            deliverer = open_deliverer(chosen.data, delivery, time.time)
            before = deliverer.state
            while deliverer.step():
                pass
            after = deliverer.state
        files, digests = after.files - before.files, after.digests - before.digests
        typer.echo(f"{delivery.address.text}: {files} log files and {digests} digests were delivered.")
        for name, reason in deliverer.incidents.items():
            raise LogIncident(name, reason)


@app.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False, data: DataOption = None, config: ConfigOption = None
) -> None:
    """Tell how far delivery has come."""
    with opened_instance(config, data) as (_, chosen):
        delivery = _delivery(chosen)
        state = load_state(chosen.data, delivery.address)
        known = state.next if state is not None else {}
        logs = [LogStatus(name, known.get(name, 0), log.sealed()) for name, log in sorted(Logs(chosen.data)().items())]
        write = _write_json if json else _write
        write(delivery.address.text, state, logs)


@app.command("rotate-key")
def rotate(data: DataOption = None, config: ConfigOption = None) -> None:
    """Sign digests with a new key from the next one on, also while keytrail serves. What the old one signed stays valid.

    On record in the log `admin`. Hand out `delivery/digest.pub` anew to whoever keeps a copy: it has one more key.
    """
    with opened_instance(config, data) as (instance, chosen):
        owner = chosen.data.stat()  # whoever delivers has to read the key, also where root made it
        with acting_as(owner.st_uid, owner.st_gid), HostLog(instance, chosen) as log:
            exchange, rotated = log.exchange(_ROTATE, {}), partial(_rotated, chosen.data)
            made = log.recorded(exchange, "keytrail", rotated, lambda key: Answer({"keyId": key.fingerprint}))
    typer.echo(f"Digests are signed with the key {made.fingerprint} from the next one on.")


def _rotated(data: Path) -> PublicKey:
    try:
        return rotate_key(delivery_folder(data), int(time.time())).public
    except (DigestKeyInvalid, OSError) as error:
        raise SetupError(f"the key was not changed: {error}") from error


def _write(destination: str, state: State | None, logs: list[LogStatus]) -> None:
    if state is None:
        typer.echo(f"{destination}: nothing was delivered yet.")
    else:
        typer.echo(f"{destination}: trail {state.trail}, {state.files} log files and {state.digests} digests.")
        typer.echo(
            f"The last log files were delivered {_time(state.delivered_at)}; the last digest ends {_time(state.digested_at)}."
        )
    for one in logs:
        typer.echo(f"log {one.log}: {one.delivered} of {one.sealed} sealed records")
    if state is not None and state.begun is not None:
        typer.echo("A step was begun and is not finished: the next one finishes it.")


def _write_json(destination: str, state: State | None, logs: list[LogStatus]) -> None:
    document = {
        "destination": destination,
        "trail": None if state is None else state.trail,
        "logFiles": 0 if state is None else state.files,
        "digests": 0 if state is None else state.digests,
        "deliveredAt": None if state is None or state.delivered_at is None else timestamp(state.delivered_at),
        "digestedUntil": None if state is None or state.digested_at is None else timestamp(state.digested_at),
        "isUnfinished": state is not None and state.begun is not None,
        "logs": [asdict(one) for one in logs],
    }
    sys.stdout.write(json_text.dumps(document, indent=2) + "\n")


def _delivery(settings: Settings) -> Delivery:
    """Raises `SetupError`."""
    if not settings.delivery:
        raise SetupError("nothing is delivered: set `delivery` to a folder or to s3://BUCKET/PREFIX")
    return Delivery.of(delivery_plan(settings))


def _time(time: int | None) -> str:
    return "never" if time is None else f"at {timestamp(time)}"
