"""Guardrails before they are in force: `keytrail policy check` says what is wrong with documents, `keytrail policy simulate` whom
they would have denied.

A simulation takes the calls from the audit log that went through, and asks the proposed documents for each what the proxy would
have asked them then. Calls that were refused at the time, by whomever, are not asked again. Nothing is known of a call but its
record: parameters that were too large for it are missing, and where they would decide, the call is counted as undecided.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from audit.query import commands
from audit.query.engine import Progress, search
from audit.query.filters import Filter, Record, extension, named_keys, private_names
from audit.query.lines import Damage
from audit.query.render import make_console, plain, print_table, short_caller, short_key
from audit.query.terminal import FINDINGS, IO, OK, errors, exit_with, note, progress_bar, warn_of
from audit.query.times import parse_time
from audit.record import IdentityProof, Phase
from proxy.domain import Principal
from proxy.errors import ProxyError, SetupError
from proxy.kms.operations import OPERATIONS
from proxy.policy import lint
from proxy.policy.access import STS_OPERATIONS, AuthorizationRequest
from proxy.policy.document import Finding, Severity
from proxy.policy.evaluate import Decision, Guardrails, load
from proxy.policy.folder import read_folder

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Maps in requestParameters whose keys are the caller's own, by the API's names.
_FREE_MAPS = ("EncryptionContext", "EncryptionContextSubset", "EncryptionContextEquals")
_TIMES = ("ValidTo",)
_SOURCES = ("kms.amazonaws.com", "sts.amazonaws.com")


@dataclass(slots=True)
class Row:
    """Calls that would have been denied alike: `times` of them, from `first` to `last` (as recorded, UTC).

    `policy` and `statement` are the guardrail's; both are "" where none would have allowed them. `in_doubt` names what a request
    does not tell, where that decides. `undecided`: so does what the record has left out, so the proxy may have known better.
    """

    caller: str
    operation: str
    action: str
    key: str
    policy: str
    statement: str
    in_doubt: tuple[str, ...]
    undecided: bool
    times: int = 0
    first: str = ""
    last: str = ""


@dataclass(slots=True)
class Simulation:
    """What came of a simulation: `calls` were asked; `rows` are those that would not have gone through, most frequent first."""

    calls: int = 0
    rows: list[Row] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)

    @property
    def denied(self) -> int:
        return sum(row.times for row in self.rows if not row.undecided)

    @property
    def undecided(self) -> int:
        return sum(row.times for row in self.rows if row.undecided)


def read_policies(paths: Iterable[Path]) -> list[tuple[str, bytes]]:
    """The documents that `paths` name: files, and all ``*.json`` of folders. Raises SetupError."""
    files: list[tuple[str, bytes]] = []
    for path in paths:
        if path.is_dir():
            files += read_folder(path)
            continue
        try:
            files.append((path.name, path.read_bytes()))
        except OSError as error:
            raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    return files


def check(paths: Iterable[Path]) -> list[Finding]:
    """What is wrong with the documents that `paths` name. Raises SetupError where they cannot be read."""
    return [finding for name, content in read_policies(paths) for finding in lint.check(name, content)]


def simulate(
    data: Path,
    paths: Iterable[Path],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Whom the documents that `paths` name would have denied, by the logs in the data folder.

    Raises SetupError for documents with errors, QueryError, DamagedLog, OSError.
    """
    guardrails = load(read_policies(paths))
    wanted = Filter(since=since, until=until, error="none", phases=frozenset({Phase.OUTCOME}))
    with search(data, [wanted], progress=progress) as result:
        simulation = replay(guardrails, (found.record for found in result.records()))
        simulation.damaged = list(result.damaged)
    return simulation


def replay(guardrails: Guardrails, records: Iterable[Record]) -> Simulation:
    """Ask `guardrails` about each call in `records`, which come in the order of time."""
    simulation = Simulation()
    rows: dict[tuple[Any, ...], Row] = {}  # by what makes calls alike
    for record, request in _requests(records):
        simulation.calls += 1
        if not guardrails.concerns(request.operation):
            continue
        decision = guardrails.decide(request)
        if decision.allowed:
            continue
        fresh = _row(record, request, decision)
        row = rows.setdefault(
            (fresh.caller, fresh.action, fresh.key, fresh.policy, fresh.statement, fresh.in_doubt, fresh.undecided), fresh
        )
        row.times += 1
        row.last = str(extension(record)["time"])
        row.first = row.first or row.last
    simulation.rows = sorted(rows.values(), key=lambda row: (row.undecided, -row.times, row.first))
    return simulation


def _row(record: Record, request: AuthorizationRequest, decision: Decision) -> Row:
    by, access = decision.denied_by, decision.access
    return Row(
        caller=request.principal.arn or request.principal.access_key_id or request.principal.type,
        operation=request.operation,
        action="" if access is None else access.action,
        key=next(iter(named_keys(record)), ""),
        policy="" if by is None else by.policy,
        statement="" if by is None else by.statement,
        in_doubt=decision.in_doubt,
        undecided=request.parameters is None and bool(decision.in_doubt),
    )


# --- From a record back to what was asked -------------------------------------------------------------------------------


def _requests(records: Iterable[Record]) -> Iterator[tuple[Record, AuthorizationRequest]]:
    """The calls in `records`, without what keytrail recorded of itself and of commands on its host."""
    for record in records:
        if record.get("eventSource") in _SOURCES and extension(record).get("topology") != "host":
            yield record, request_of(record)


def request_of(record: Record) -> AuthorizationRequest:
    """What guardrails would have been told of the call in `record`."""
    identity = record.get("userIdentity") or {}
    text = {name: str(identity.get(name) or "") for name in ("type", "arn", "accountId", "accessKeyId", "principalId")}
    principal = Principal(
        text["type"], text["arn"], text["accountId"], text["accessKeyId"], text["principalId"], identity.get("userName")
    )
    agent = record.get("userAgent")
    arrived = datetime.fromisoformat(str(extension(record)["time"]))
    return AuthorizationRequest(
        operation=str(record.get("eventName")),
        region=str(record.get("awsRegion")),
        account_id=_account_of(record, principal),
        parameters=_parameters(record),
        principal=principal,
        source_ip=str(record.get("sourceIPAddress")),
        secure="tlsDetails" in record,
        now_us=(arrived - _EPOCH) // timedelta(microseconds=1),
        headers=() if agent is None else ((b"user-agent", str(agent).encode("utf-8", "replace")),),
    )


def _account_of(record: Record, principal: Principal) -> str:
    """The account that key ids without one are of: in pass-through the caller's (`proxy.assembly`), else the instance's."""
    is_theirs = extension(record).get("identityProof") in (IdentityProof.CLAIMED.value, IdentityProof.UPSTREAM.value)
    return (is_theirs and principal.account_id) or str(record.get("recipientAccountId") or principal.account_id)


def _parameters(record: Record) -> Mapping[str, Any] | None:
    """The request's members by the API's names; None where the record has left them out, or has some of them in a private form,
    or does not know the operation's."""
    recorded = record.get("requestParameters") or {}
    if private_names(record) or recorded.get("omitted") is True or record.get("eventName") not in (*OPERATIONS, *STS_OPERATIONS):
        return None
    return {_upper_camel(name): _member(_upper_camel(name), value) for name, value in recorded.items()}


def _member(name: str, value: Any) -> Any:  # Any: JSON of the record
    """`value` as the API has it: the reverse of what `proxy.recording` writes."""
    if name in _TIMES and isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    if isinstance(value, dict):
        if name.endswith(_FREE_MAPS):
            return value
        return {_upper_camel(key): _member(_upper_camel(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_member(name, item) for item in value]
    return value


def _upper_camel(name: str) -> str:
    return name[:1].upper() + name[1:]


# --- Commands -----------------------------------------------------------------------------------------------------------

app = typer.Typer(
    name="policy", no_args_is_help=True, help="Guardrails: IAM policy documents that the proxy evaluates before each call."
)
Policies = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Policy documents, or folders of them.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command("check")
def check_command(files: Policies, json: Json = False) -> None:
    """Say what is wrong with policy documents. Exits 1 for errors, which keep a document from being loaded."""
    with _errors():
        findings = check(files)
    if json:
        told = [{**asdict(finding), "severity": finding.severity.value} for finding in findings]
        sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        console = make_console(sys.stdout)
        for finding in findings:
            console.print(plain(str(finding), "red" if finding.severity is Severity.ERROR else "yellow"), soft_wrap=True)
    wrong = sum(finding.severity is Severity.ERROR for finding in findings)
    note(f"{wrong} error(s), {len(findings) - wrong} warning(s)")
    exit_with(FINDINGS if wrong else OK)


@app.command("simulate")
def simulate_command(
    files: Policies,
    since: Annotated[str, typer.Option(help="Calls from this time on: 30d, '2 hours ago', 2026-01-31.")] = "30d",
    until: commands.Until = None,
    json: Json = False,
    data: commands.Data = commands.DEFAULT_DATA,
) -> None:
    """Replay the calls in the log against proposed documents: who would have been denied, how often, by which statement.

    The documents are taken alone, without those that are in force. Exits 0 also where calls would have been denied; 1 where
    lines of the log were damaged.
    """
    now = datetime.now(UTC)
    with _errors():
        from_time, to_time = parse_time(since, now), None if until is None else parse_time(until, now)
        with progress_bar("replaying") as progress:
            found = simulate(data, files, since=from_time, until=to_time, progress=progress)
            progress.stop()
        if json:
            told = {"calls": found.calls, "denied": found.denied, "undecided": found.undecided, "rows": found.rows}
            sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
        elif found.rows:
            print_table(_table(found.rows), make_console(sys.stdout))
        note(
            f"{found.calls} calls; {found.denied} would have been denied, {found.undecided} cannot be decided from their records"
        )
        exit_with(warn_of(found.damaged))


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("times", justify="right")
    for heading in ("caller", "operation", "key", "denied by", "first (UTC)", "last (UTC)"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        by = f"{row.policy} {row.statement}" if row.policy else "nothing allows it"
        if row.in_doubt:
            by += f" ({'cannot be decided' if row.undecided else 'not told by the request'}: {', '.join(row.in_doubt)})"
        action = row.action.removeprefix("kms:")
        operation = row.operation if action in ("", row.operation) else f"{row.operation} ({action})"
        times = (row.first[:19].replace("T", " "), row.last[:19].replace("T", " "))
        table.add_row(str(row.times), *map(plain, (short_caller(row.caller), operation, short_key(row.key), by, *times)))
    return table


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what the libraries raise into one line and an exit code."""
    with errors():
        try:
            yield
        except ProxyError as error:
            note(f"error: {error}")
            raise typer.Exit(IO) from error
