"""The commands `keytrail witness …`: a witness of other hosts' logs (`init`, `serve`, `evidence`), and `submit` for one's own."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import orjson
import typer
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from audit.canonical import timestamp
from audit.checkpoint import VerifierKey
from audit.errors import CheckpointInvalid, QueryError
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.render import clean
from audit.query.terminal import FINDINGS, OK, errors, exit_with
from audit.witnessing.evidence import Evidence, EvidenceInvalid
from audit.witnessing.judgement import LogKeys
from audit.witnessing.memory import Memory, read_evidence
from audit.witnessing.process import Witnessing, WitnessPlan, only_one
from audit.witnessing.server import serve as serve_witness
from audit.witnessing.submission import open_session
from audit.witnessing.witness import Witness

app = typer.Typer(
    name="witness",
    no_args_is_help=True,
    help="Witnesses: others that remember what a log's checkpoints were, so that its host cannot take them back.",
)

State = Annotated[Path, typer.Option("--state", help="The witness's folder: its key, and what it remembers.", show_default=True)]
_STATE = Path("keytrail-witness")


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The witness's name: a URL without a scheme, such as witness.example.org/1.")],
    ml_dsa: Annotated[
        bool,
        typer.Option("--ml-dsa-44", help="A key that no quantum computer is known to break; few implementations know it yet."),
    ] = False,
    state: State = _STATE,
) -> None:
    """Make a witness: its key, and an empty memory. Prints its verifier key, for policies."""
    with errors():
        try:
            private = MLDSA44PrivateKey.generate() if ml_dsa else None
            key = Memory.create(state, name, timestamp(time.time_ns() // 1_000), private)
        except CheckpointInvalid as error:
            raise QueryError(f"--name: {name!r:.60} cannot be the name of a key: no spaces, no +") from error
    typer.echo(f"Made the witness in {state}. Its key, for policies, is on standard output.", err=True)
    typer.echo(str(key))


@app.command()
def serve(
    listen: Annotated[str, typer.Option(help="Where logs submit their checkpoints; IPv6 as [::1]:4600.")] = "127.0.0.1:4600",
    log: Annotated[
        list[str] | None, typer.Option("--log", help="The verifier key of a log that is witnessed. Repeatable.")
    ] = None,
    logs: Annotated[list[Path] | None, typer.Option("--logs", help="A file of such keys, one a line. Repeatable.")] = None,
    state: State = _STATE,
) -> None:
    """Cosign checkpoints that extend what was seen of their log before (C2SP tlog-witness). Runs until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with errors():
        host, port = _address(listen)
        keys = _log_keys([*(log or []), *(line for path in logs or [] for line in path.read_text("utf-8").splitlines())])
        memory = Memory(state)
        try:
            typer.echo(f"The witness {memory.public_key}")
            asyncio.run(_serve(Witness(memory, keys, time.time), host, port))
        finally:
            memory.close()


@app.command()
def evidence(
    json: Annotated[bool, typer.Option("--json", help="All of it, as a JSON list.")] = False, state: State = _STATE
) -> None:
    """Show what this witness was given that contradicts what it had cosigned. Exits 1 where there is any."""
    with errors():
        found = read_evidence(state)
        shown = [{"file": str(path), "shows": _what_it_shows(data), "evidence": _document(data)} for path, data in found]
    if json:
        sys.stdout.buffer.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        for one in shown:
            typer.echo(clean(f"{one['file']}: {one['shows']}"))
        if not shown:
            typer.echo("No log has contradicted itself before this witness.")
    exit_with(FINDINGS if shown else OK)


@app.command()
def submit(
    policy: Annotated[Path, typer.Option(help="The policy file: the witnesses, their URLs, and the quorum.")],
    data: Data = DEFAULT_DATA,
) -> None:
    """Have the newest checkpoint of every log witnessed now, where `serve` does not. Exits 1 where a quorum is not reached."""
    with errors():
        try:
            with only_one(data, waits=False):
                is_fulfilled = asyncio.run(_submit(data, policy))
        except BlockingIOError as error:
            raise QueryError("`keytrail serve` submits by itself (setting `witness_policy`): see its /health/ready") from error
    exit_with(OK if is_fulfilled else FINDINGS)


async def _serve(witness: Witness, host: str, port: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    def announce(host: str, port: int) -> None:
        typer.echo(f"listens at http://{f'[{host}]' if ':' in host else host}:{port}")
        sys.stdout.flush()

    await serve_witness(witness, host, port, announce, stopping)


async def _submit(data: Path, policy: Path) -> bool:
    async with open_session() as session:
        witnessing = Witnessing(data, WitnessPlan(policy), session)
        await witnessing.step()
        await witnessing.finish()
    status = witnessing.status()
    for courier in witnessing.couriers.values():
        done = sum(errand.fault is None and errand.size > 0 for errand in courier.errands)
        time_s = timestamp(courier.cosigned_s * 1_000_000) if courier.cosigned_s else "never"
        typer.echo(
            f"log {courier.log}: {done} of {len(courier.errands)} witnesses cosigned; "
            f"the quorum stands by {courier.cosigned_size} records ({time_s})"
        )
    if status.reason is not None:
        for fault in status.reason.split("; "):
            typer.echo(clean(fault), err=True)
    return status.ready


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise QueryError(f"--listen: {listen!r:.60} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _log_keys(lines: Iterable[str]) -> LogKeys:
    keys: dict[str, list[VerifierKey]] = {}
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                key = VerifierKey.parse(line)
            except CheckpointInvalid as error:
                raise QueryError(f"--log: {error}") from error
            keys.setdefault(key.name, []).append(key)
    if not keys:
        raise QueryError("which logs? --log VKEY, or --logs FILE: `keytrail checkpoint --key` prints them on the log's host")
    return keys


def _what_it_shows(data: bytes) -> str:
    try:
        return Evidence.parse(data).check()
    except EvidenceInvalid as error:
        return f"nothing: {error}"


def _document(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
