"""`keytrail sealer …`: the life of the sealer's key, and whose it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from audit.errors import AuditError
from audit.instance import Instance
from audit.record import JsonValue
from audit.sealing import rotation
from audit.sealing.keys import read_chain
from proxy.command_line import ConfigOption, DataOption, opened_instance
from proxy.companions import COMPANIONS
from proxy.domain import Answer, Operation
from proxy.errors import SetupError
from proxy.host_log import HostLog
from proxy.separation import acting_as, separate
from proxy.settings import Settings

app = typer.Typer(name="sealer", no_args_is_help=True, help="The sealer's key: its changes, and whose it is.")
_PATIENCE_S, _LOOK_S = 30.0, 0.1
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@app.command("rotate")
def rotate(
    new: Annotated[
        str,
        typer.Option(
            "--new", help="Where the new key is, as for the setting sealer_key [default: a new one in the old one's file]."
        ),
    ] = "",
    compromised: Annotated[
        str | None,
        typer.Option(
            "--compromised",
            help="The old key may have been in other hands since then (2026-01-31T08:30:00Z, or now): it vouches for nothing.",
        ),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Change the sealer's key: both keys sign the change, and what the old one signed last. Also while it seals."""
    with opened_instance(config, data) as (instance, chosen):
        request = rotation.Request(len(read_chain(instance).rotations) + 1, new, _since(compromised))
        number = _on_record(instance, chosen, request)
        chain = read_chain(instance)
    if not new:
        typer.echo(f"Change {number} of the sealer's key is made; the old key is gone.")
    else:
        typer.echo(f"Change {number} of the sealer's key is made. Set sealer_key to {new} now; then destroy the old key.")
    if chain.rotations[number - 1].compromised_since is not None:
        typer.echo("Give everybody who verifies the new key, by a way that they trust: `keytrail checkpoint --key`.")


def _since(text: str | None) -> str | None:
    told = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if text == "now" else text
    if told is not None and not _TIME.fullmatch(told):
        raise SetupError(f"--compromised: {text!r} is no time like 2026-01-31T08:30:00Z, nor `now`")
    return told


def _on_record(instance: Instance, chosen: Settings, request: rotation.Request) -> int:
    """The change, in the log `admin`; gives its number."""
    parameters: dict[str, JsonValue] = {"generation": request.number}
    if request.compromised_since is not None:
        parameters["reason"] = f"compromised since {request.compromised_since}"
    operation = Operation("RotateSealerKey", mutates=True, request=("generation", "reason"), response=("generation", "keyId"))

    def answer(public_key: str) -> Answer:
        return Answer({"generation": request.number, "keyId": public_key})

    def rotated() -> str:
        try:
            with acting_as(os.getuid(), os.getgid()):  # the checkpoints may be another user's
                return _rotated(instance, chosen, request)
        except (AuditError, OSError) as error:
            raise SetupError(f"the key was not changed: {error}") from error

    owner = chosen.data.stat()
    with acting_as(owner.st_uid, owner.st_gid), HostLog(instance, chosen) as log:
        log.recorded(log.exchange(operation, parameters), "keytrail", rotated, answer)
    return request.number


def _rotated(instance: Instance, chosen: Settings, request: rotation.Request) -> str:
    """Ask the sealer for it, and wait; gives the new public key, base64. Where none runs, one is run for it."""
    owner = instance.key_chain.parent.stat()
    with acting_as(owner.st_uid, owner.st_gid):  # as root, nothing is written where another user may have put a link
        rotation.ask(instance, request)  # in the place of one that was given up
    try:
        reason = _seal_once(chosen) if not rotation.is_sealed(instance) else "the sealer did not do it in time"
        deadline = time.monotonic() + _PATIENCE_S
        while rotation.asked(instance) is not None and rotation.is_sealed(instance) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    finally:
        rotation.withdraw(instance)
    chain = read_chain(instance)
    if len(chain.rotations) < request.number:
        raise SetupError(f"the key was not changed: {reason}")
    made = chain.rotations[request.number - 1]
    if made.compromised_since != request.compromised_since:
        raise SetupError("somebody else changed the key at the same time: see `keytrail sealer keys`")
    return rotation.encoded(made.new_key)


def _seal_once(chosen: Settings) -> str:
    """Run the sealer for one step; gives what it said."""
    row = next(row for row in COMPANIONS if row.name == "sealer")
    command, plan = row.command(chosen), row.encode_plan(chosen)
    done = subprocess.run(command, input=plan, stdout=subprocess.PIPE, check=False)  # noqa: S603 - our own program
    return done.stdout.decode("utf-8", "replace").strip()[-1_000:]


@app.command("keys")
def keys(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print the changes of the sealer's key, signed notes by both keys: an auditor checks them from the first key on."""
    with opened_instance(config, data) as (instance, _):
        read_chain(instance)  # what is not whole is not printed
        if instance.key_chain.exists():
            sys.stdout.write(instance.key_chain.read_text("utf-8"))


@app.command("separate")
def separate_users(data: DataOption = None, config: ConfigOption = None) -> None:
    """Run by root: give `sealer_user` the checkpoints and the key, and let it read the logs; nobody else can write or read
    them."""
    with opened_instance(config, data) as (instance, chosen):
        separate(instance, chosen)
    typer.echo(f"{chosen.sealer_user} owns the checkpoints and the key of {chosen.data}, and may read the logs.")
