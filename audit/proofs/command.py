"""The commands `prove` and `verify-proof`: options to values, files in and out, and what is proved in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from audit import durable
from audit.canonical import timestamp
from audit.checkpoint import Checkpoint, VerifierKey
from audit.errors import CheckpointInvalid, ProofInvalid, QueryError
from audit.instance import Instance
from audit.keychain import KeyChain, LogKeys
from audit.policy_file import Policy, Quorum
from audit.proofs.proving import Located, find_event, find_record, prove
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.filters import Record, extension
from audit.query.lines import Damage
from audit.query.render import clean, short_caller
from audit.query.terminal import check_target, errors, exit_with, warn_of
from audit.query.trace import caller_of
from audit.tlog_proof import TlogProof

PROOF, RECORD = ".tlog-proof", ".json"
_MAX_FILE_BYTES = 16 << 20

app = typer.Typer()


@app.command("prove")
def prove_record(
    event_id: Annotated[str | None, typer.Argument(help="The record's eventID, as `query --format json` shows it.")] = None,
    log: Annotated[str | None, typer.Option(help="Its log, in place of an event id; with --sequence.")] = None,
    sequence: Annotated[int | None, typer.Option(min=0, help="Its number in that log.")] = None,
    out: Annotated[Path, typer.Option(help="The folder that the two files go to.")] = Path(),
    data: Data = DEFAULT_DATA,
) -> None:
    """Prove that a record is in the log: its line, and a C2SP tlog-proof of it under the newest checkpoint, as two files.

    `verify-proof` checks them, or any other program that knows the format. Exits 1 where there is no such record, or no proof.
    """
    with errors():
        if (event_id is None) is (log is None) or (log is None) is not (sequence is None):
            raise QueryError("name the record by its event id, or by --log and --sequence")
        files = out.resolve()
        check_target(files / PROOF, data)
        instance = Instance.load(data)
        damaged: list[Damage] = []
        if log is not None and sequence is not None:
            record = find_record(instance, log, sequence)
        else:
            record, damaged = find_event(data, event_id or "")
        proof = prove(instance, record)
        durable.replace(files / (record.name + RECORD), record.line, mode=0o644)
        durable.replace(files / (record.name + PROOF), proof.text().encode(), mode=0o644)
        _tell_made(out, record, proof.claimed)
        exit_with(warn_of(damaged))


@app.command("verify-proof")
def verify_proof(
    file: Annotated[Path, typer.Argument(help="The proof. The record is looked for beside it: the same name with .json.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="A verifier key that is trusted (`keytrail checkpoint --key`). Repeatable."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="A C2SP tlog-policy: its logs are trusted too, and enough of its witnesses must have cosigned."),
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option("--keys", help="The changes of the sealer's key (`keytrail sealer keys`), if the key given is another one."),
    ] = None,
    record: Annotated[Path | None, typer.Option(help="The file with the record, where it is another.")] = None,
) -> None:
    """Check a proof, offline, and say what is proved. It needs no data folder: these two files, and keys that you trust."""
    with errors():
        trusted = None if policy is None else Policy.parse(_read(policy))
        keys = [_verifier_key(text) for text in key or []] + [log.key for log in (trusted.logs if trusted else ())]
        if not keys:
            raise QueryError("give a verifier key that is trusted, by --key, or a --policy that names the log's")
        proof = TlogProof.parse(_read(file).decode("utf-8", "replace"))
        if changes is not None:
            keys = _vouched(proof, keys, _read(changes).decode("utf-8", "replace"))
        line = _read(record or file.with_suffix(RECORD)).removesuffix(b"\n")
        checkpoint, signer = proof.check(line, keys)
        quorum = None if trusted is None else _quorum(trusted, proof)
        _tell_proved(_own(line, proof, checkpoint), proof, checkpoint, signer, quorum)


def _vouched(proof: TlogProof, keys: list[VerifierKey], changes: str) -> list[VerifierKey]:
    """The keys that are valid for the proof's checkpoint, as those that are trusted vouch for them. Raises
    `CheckpointInvalid`."""
    claimed = proof.claimed
    of_this_log = [key for key in keys if key.name == claimed.origin and key.name.count("/") == 2]
    chains = [(key, KeyChain.read(changes, key.name.split("/")[1])) for key in of_this_log]
    return [LogKeys(key, chain).at(claimed.size) for key, chain in chains]


def _own(line: bytes, proof: TlogProof, checkpoint: Checkpoint) -> Record:
    """The record, which must say of itself that it stands where the proof leads to. Raises `ProofInvalid`."""
    try:
        record: Record = orjson.loads(line)
        told = extension(record)["log"], extension(record)["sequence"]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ProofInvalid("it is in the log, but is no record of keytrail") from error
    if told != (checkpoint.origin.rpartition("/")[2], proof.index):
        raise ProofInvalid(
            f"it is number {proof.index} of {checkpoint.origin}, but says that it is number {told[1]} of the log {told[0]}"
        )
    return record


def _tell_made(folder: Path, record: Located, checkpoint: Checkpoint) -> None:
    name = folder / record.name
    typer.echo(clean(f"{name}{RECORD}: the record, number {record.sequence} of log {record.log}"))
    typer.echo(clean(f"{name}{PROOF}: its proof, under the checkpoint of {checkpoint.size} records of {checkpoint.origin}"))
    typer.echo(f"Check it with: keytrail verify-proof {name}{PROOF} --key VERIFIER-KEY")


def _quorum(policy: Policy, proof: TlogProof) -> Quorum:
    """Who of the policy's witnesses cosigned the checkpoint. Raises `ProofInvalid` where they are not enough."""
    quorum = policy.judge(proof.checkpoint)
    if not quorum.is_fulfilled:
        by = ", ".join(quorum.cosigners) or "none"
        raise ProofInvalid(f"the policy's quorum is not there: of its witnesses, {by} cosigned this checkpoint")
    return quorum


def _tell_proved(record: Record, proof: TlogProof, checkpoint: Checkpoint, signer: VerifierKey, quorum: Quorum | None) -> None:
    part = extension(record)
    error = f", refused with {record['errorCode']}" if record.get("errorCode") else ""
    phase = "" if part.get("phase") == "outcome" else f" ({part.get('phase')})"
    caller = short_caller(caller_of(record))
    for text in (
        f"Proved: this record is number {proof.index} of the log {checkpoint.origin}, byte by byte as it is here.",
        f"  It says: {record.get('eventName')}{phase} by {caller}, {part.get('time')}{error}, event {record.get('eventID')}.",
        f"  It is among the {checkpoint.size} records that {signer.name} (key id {signer.key_id.hex()}) signed for.",
        _witnessed(quorum),
    ):
        typer.echo(clean(text))


def _witnessed(quorum: Quorum | None) -> str:
    if quorum is None or not quorum.cosigners:
        return "  Not proved: that the host's clock was right, and that nobody who holds the key signed another history as well."
    since = "" if quorum.time_s is None else f", the last that was needed at {timestamp(quorum.time_s * 1_000_000)[:19]}Z"
    names = ", ".join(quorum.cosigners)
    return f"  Witnessed by {names}{since}: they saw no other history. Not proved: that the host's clock was right."


def _verifier_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except CheckpointInvalid as error:
        raise QueryError(f"--key: {error}") from error  # mistyped: nothing was checked yet


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ProofInvalid(f"{path} is longer than any record or proof")
    return data
