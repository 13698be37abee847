"""The commands `query`, `trace` and `tail`: options to values, answers to the terminal; no decision about records."""

from __future__ import annotations

import json as json_text
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import QueryError
from audit.query import blob, render
from audit.query.artifacts.recognise import Contents, lone_contents
from audit.query.artifacts.recognise import read as recognise
from audit.query.artifacts.sources import ArtifactUnavailable, find_artifacts, is_place
from audit.query.engine import search
from audit.query.filters import DEFAULT_PHASES, Filter, KeyName, parse_pair
from audit.query.lines import Damage, Found
from audit.query.standing import Standing, WhoCan, wrapping
from audit.query.tail import Follower, follow
from audit.query.terminal import FINDINGS, OK, errors, exit_with, note, progress_bar, warn_of
from audit.query.times import parse_time
from audit.query.told import tell, write_told
from audit.query.trace import Story
from audit.query.trace import trace as trace_story
from audit.record import Phase

if TYPE_CHECKING:
    from audit.query.private import Revealer

_POLL_S = 0.25
_PRIVATE = "not known: its encryption context is private in the log"
_FINGERPRINT_BYTES = 100  # of a file that holds the 64 digits of one, and white space

app = typer.Typer()


class Format(StrEnum):
    """How records are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    OCSF = "ocsf"


class PhaseName(StrEnum):
    """The phases that `--phase` takes."""

    INTENT = "intent"
    OUTCOME = "outcome"
    UNKNOWN = "unknown"


_ASK = "Which records"
Data = Annotated[Path, typer.Option("--data", envvar="KEYTRAIL_DATA", help="The data folder.", show_default=True)]
Since = Annotated[
    str | None,
    typer.Option(
        help="From this time on: 7d, '2 days ago', 2026-01-31, 2026-01-31T08:30Z (UTC where no zone).",
        rich_help_panel=_ASK,
    ),
]
Until = Annotated[str | None, typer.Option(help="Before this time, exclusive; a date is its first moment.", rich_help_panel=_ASK)]
Event = Annotated[
    list[str] | None,
    typer.Option(help="Operation, such as Decrypt or 'GenerateDataKey*'; repeat for alternatives.", rich_help_panel=_ASK),
]
Key = Annotated[
    str | None,
    typer.Option(help="Key ARN, key id, alias/NAME or alias ARN: as resolved, or as the caller wrote it.", rich_help_panel=_ASK),
]
Caller = Annotated[
    str | None,
    typer.Option(help="ARN, user name, or as tables show it: user/alice; * stands for any text.", rich_help_panel=_ASK),
]
AccessKey = Annotated[str | None, typer.Option(help="Access key id.", rich_help_panel=_ASK)]
Context = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE of an encryption context; repeat: all must hold.", rich_help_panel=_ASK),
]
Fingerprint = Annotated[
    list[str] | None,
    typer.Option(help="SHA-256 (hex) of a CiphertextBlob; repeat for alternatives.", rich_help_panel=_ASK),
]
Ids = Annotated[
    list[str] | None, typer.Option("--id", help="A request id or an event id; repeat for alternatives.", rich_help_panel=_ASK)
]
Error = Annotated[str | None, typer.Option(help="Error code, any, or none.", rich_help_panel=_ASK)]
Source = Annotated[str | None, typer.Option(help="Source address, or network such as 10.0.0.0/8.", rich_help_panel=_ASK)]
Phases = Annotated[
    list[PhaseName] | None,
    typer.Option("--phase", help="Only this phase; repeatable. Default: outcome and unknown.", rich_help_panel=_ASK),
]
Intents = Annotated[bool, typer.Option("--intents", help="Intents of changes too.", rich_help_panel=_ASK)]
Log = Annotated[str | None, typer.Option(help="This log only.", rich_help_panel=_ASK)]
NoIndex = Annotated[
    bool, typer.Option("--no-index", help="Read the whole log, and do not believe the index about where to look.")
]
Reveal = Annotated[
    bool,
    typer.Option("--reveal", help="Show encrypted values of contexts in clear: not as the log has them. Always on record."),
]
DEFAULT_DATA = Path("keytrail-data")


@app.command()
def query(
    since: Since = None,
    until: Until = None,
    event: Event = None,
    key: Key = None,
    caller: Caller = None,
    access_key: AccessKey = None,
    context: Context = None,
    fingerprint: Fingerprint = None,
    id: Ids = None,
    error: Error = None,
    source: Source = None,
    phase: Phases = None,
    intents: Intents = False,
    log: Log = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest N only.")] = None,
    format: Annotated[
        Format,
        typer.Option(
            "--format", help="table; json: the lines as they stand in the log; ocsf: events of OCSF 1.5, one a line; csv."
        ),
    ] = Format.TABLE,
    reveal: Reveal = False,
    no_index: NoIndex = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Find records, in the order of time.

    Exits 0 also where nothing matches; 1 where lines of the log were damaged, so that the answer may lack some.
    """
    with errors():
        wanted = _filter(since, until, event, key, caller, access_key, context, fingerprint, id, error, source, phase, intents)
        with (
            _revealer(data, reveal) as revealer,
            progress_bar("searching") as progress,
            search(data, [_with_digests(wanted, data)], log=log, progress=progress, use_index=not no_index) as result,
        ):
            progress.stop()
            records: Iterable[Found] = result.records(newest=limit)
            if revealer is not None:
                records = revealer.revealed(records)
            match format:
                case Format.TABLE:
                    render.write_table(records, render.make_console(sys.stdout))
                case Format.JSON:
                    render.write_lines(records, sys.stdout.buffer)
                case Format.OCSF:
                    render.write_ocsf(records, sys.stdout.buffer)
                case Format.CSV:
                    render.write_csv(records, sys.stdout)
            sys.stdout.flush()
            if limit is not None and result.count > limit:
                note(f"the newest {limit} of {result.count} records")
            elif format is Format.TABLE:
                note(f"{result.count} {'record' if result.count == 1 else 'records'}")
            note_index_fault(result.index_fault)
            exit_with(warn_of(result.damaged))


@app.command()
def trace(
    ctx: typer.Context,
    artifact: Annotated[str, typer.Argument(help=f"{blob.ACCEPTED[0].upper()}{blob.ACCEPTED[1:]}.", metavar="ARTEFACT")],
    json: Annotated[
        bool, typer.Option("--json", help="As JSON: of a lone ciphertext its story, else a list of artefacts.")
    ] = False,
    s3_endpoint: Annotated[str | None, typer.Option(help="URL of an S3 that is not AWS's.")] = None,
    reveal: Reveal = False,
    no_index: NoIndex = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Tell the story of each data key in an artefact: made, unwrapped, refused, re-encrypted, by whom and when; and who can
    unwrap it now.

    Exits 1 where the logs do not know one, or are damaged, or the artefact is.
    """
    with errors(), _revealer(data, reveal) as revealer:

        def story_of(fingerprint: str) -> Story:
            with progress_bar("searching") as progress:
                story = trace_story(data, fingerprint, progress=progress, use_index=not no_index)
            return story if revealer is None else revealer.story(story)

        who_can: WhoCan | None = ctx.obj  # given by the proxy's command line

        def standing_of(story: Story) -> Standing | None:
            found = wrapping(story)
            if found is None or who_can is None:
                return None
            key, context = found
            return who_can(data, key, context) if context is not None else Standing(key, reason=_PRIVATE)

        told = [tell(contents, story_of, standing_of) for contents in _contents(artifact, s3_endpoint)]
        if not told:
            raise QueryError(f"there is nothing in {artifact}")
        if json:
            document = (told[0].lone_json() if len(told) == 1 else None) or [one.to_json() for one in told]
            sys.stdout.write(json_text.dumps(document, indent=2) + "\n")  # ASCII: text from a record stays text on a terminal
        else:
            console = render.make_console(sys.stdout)
            for one in told:
                write_told(one, console)
        sys.stdout.flush()
        note_index_fault(next((fault for one in told for story in one.stories.values() if (fault := story.index_fault)), None))
        damaged = list(dict.fromkeys(damage for one in told for story in one.stories.values() for damage in story.damaged))
        exit_with(max(warn_of(damaged), OK if all(one.is_known for one in told) else FINDINGS))


@app.command()
def tail(
    event: Event = None,
    key: Key = None,
    caller: Caller = None,
    access_key: AccessKey = None,
    context: Context = None,
    fingerprint: Fingerprint = None,
    id: Ids = None,
    error: Error = None,
    source: Source = None,
    phase: Phases = None,
    intents: Intents = False,
    log: Log = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="Begin with the last N that match in each log's newest segment.")
    ] = 10,
    json: Annotated[bool, typer.Option("--json", help="The lines as they stand in the log.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Follow all logs as they are written; end with Ctrl-C."""
    with errors():
        wanted = _filter(None, None, event, key, caller, access_key, context, fingerprint, id, error, source, phase, intents)
        console = render.make_console(sys.stdout)
        try:
            for news in follow(Follower(data, _with_digests(wanted, data), log), lines, _wait):
                if isinstance(news, Damage):
                    note(f"damaged: {news}")
                elif json:
                    render.write_lines([news], sys.stdout.buffer)
                    sys.stdout.flush()
                else:
                    console.print(render.record_line(news), soft_wrap=True)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            return


def _with_digests(wanted: Filter, data: Path) -> Filter:
    """`wanted`, finding private values of contexts as well."""
    if not wanted.context:
        return wanted
    from audit.query.private import with_digests  # here: it needs ciphers, which most questions do not

    return with_digests(wanted, data)


def _revealer(data: Path, reveal: bool) -> AbstractContextManager[Revealer | None]:
    """What shows private values, where they were asked for."""
    if not reveal:
        return nullcontext()
    from audit.query.private import Revealer

    return Revealer(data)


def note_index_fault(fault: str | None) -> None:
    """Say that the index was of no use, which costs time and nothing else."""
    if fault is not None:
        note(f"the index cannot be read, and everything was read instead (`keytrail index rebuild` makes it anew): {fault}")


def _wait() -> None:
    time.sleep(_POLL_S)


def whole_arn(caller: str | None) -> str | None:
    """A caller as the tables show it (`user/alice`, `assumed-role/ROLE/SESSION`) as a pattern for its ARN."""
    is_short = caller is not None and "/" in caller and not caller.startswith(("arn:", "*"))
    return f"*:{caller}" if is_short else caller


def interval(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """What `--since` and `--until` name. Raises `QueryError`."""
    now = datetime.now(UTC)
    return parse_time(since, now) if since is not None else None, parse_time(until, now) if until is not None else None


def _filter(
    since: str | None,
    until: str | None,
    event: list[str] | None,
    key: str | None,
    caller: str | None,
    access_key: str | None,
    context: list[str] | None,
    fingerprint: list[str] | None,
    ids: list[str] | None,
    error: str | None,
    source: str | None,
    phase: list[PhaseName] | None,
    intents: bool,
) -> Filter:
    first, last = interval(since, until)
    phases = frozenset(Phase(name.value) for name in phase) if phase else DEFAULT_PHASES
    return Filter(
        since=first,
        until=last,
        events=tuple(event or ()),
        key=KeyName.parse(key) if key is not None else None,
        caller=whole_arn(caller),
        access_key=access_key,
        context=tuple(map(parse_pair, context or ())),
        fingerprints=tuple(text.lower() for text in fingerprint or ()),
        ids=tuple(ids or ()),
        error=error,
        source=source,
        phases=phases | {Phase.INTENT} if intents else phases,
    )


def _contents(artifact: str, s3_endpoint: str | None) -> Iterator[Contents]:
    """What is in the artefact, or in each of a folder; or the ciphertext that the argument itself is, or names."""
    if not is_place(artifact):
        yield lone_contents(artifact, blob.fingerprint_of_text(artifact))
        return
    for found in find_artifacts(artifact, sys.stdin.buffer, s3_endpoint):
        try:
            text = found.read(0, min(found.size_bytes, _FINGERPRINT_BYTES))
            fingerprint = blob.fingerprint_in(text) if found.size_bytes <= _FINGERPRINT_BYTES else None
            yield recognise(found) if fingerprint is None else lone_contents(found.name, fingerprint)
        except (OSError, ArtifactUnavailable) as error:
            if found.name == artifact:
                raise
            yield Contents(found.name, (), f"it cannot be read: {error}")  # the others of its folder can be
