"""The command `index publish`."""

from __future__ import annotations

import importlib.resources
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import orjson
import typer

from audit import s3
from audit.errors import QueryError
from audit.instance import Instance
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.publish.place import Choice, Place
from audit.query.terminal import FINDINGS, OK, errors, exit_with, note, progress_bar

if TYPE_CHECKING:
    from audit.query.publish.publication import Published

app = typer.Typer()


class Dialect(StrEnum):
    """Whom `--ddl` is for."""

    ATHENA = "athena"
    TRINO = "trino"
    SPARK = "spark"
    DUCKDB = "duckdb"


#: What every engine takes in a path as it stands, and no SQL text has to quote.
_PREFIX = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_=.-]*(/[A-Za-z0-9_=-][A-Za-z0-9_=.-]*)*")
_TABLE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")
_CATALOGUE = "Where the table is known (default: beside its data)"


@app.command()
def publish(
    url: Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="A prefix that nothing else uses.")],
    s3_endpoint: Annotated[str | None, typer.Option(help="URL of an S3 that is not AWS's.")] = None,
    catalog: Annotated[
        str | None, typer.Option(help="A catalogue by its name in .pyiceberg.yaml.", rich_help_panel=_CATALOGUE)
    ] = None,
    catalog_type: Annotated[
        str | None, typer.Option(help="glue, rest, … as pyiceberg names them.", rich_help_panel=_CATALOGUE)
    ] = None,
    catalog_uri: Annotated[str | None, typer.Option(help="URL of a REST catalogue.", rich_help_panel=_CATALOGUE)] = None,
    catalog_property: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A property of pyiceberg's; repeat for more.", rich_help_panel=_CATALOGUE),
    ] = None,
    table: Annotated[
        str, typer.Option(metavar="NAMESPACE.NAME", help="Its name in that catalogue.", rich_help_panel=_CATALOGUE)
    ] = "keytrail.published",
    keep: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="So long, what was replaced is kept for those who still read it.")
    ] = 24.0,
    ddl: Annotated[
        Dialect | None, typer.Option(help="Print what an engine has to be told of the table instead; publish nothing.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Publish the events of the index to S3 as an Iceberg table, for Athena, Trino, Spark and DuckDB.

    Only what is new is uploaded; run it again whenever the table should follow. Exits 1 where lines of the log could not be read
    when they were indexed, so that the table lacks them.
    """
    with errors():
        place = _place(url)
        if not _TABLE.fullmatch(table):
            raise QueryError(f"no name of a table: {table!r}; accepted: NAMESPACE.NAME")
        if ddl is not None:
            sys.stdout.write(ddl_of(ddl, place, table))
            return
        choice = _choice(catalog, catalog_type, catalog_uri, catalog_property or [])
        _refuse_credentials(s3_endpoint)
        _refuse_credentials(catalog_uri)
        instance = Instance.load(data)
        from audit.query.publish.catalogue import failures, open_catalogue  # here: no other command waits for pyiceberg
        from audit.query.publish.publication import Publication
        from audit.query.publish.storage import S3Store, connect

        store = S3Store(place.bucket, connect(s3_endpoint))
        with progress_bar("uploading") as progress, failures(choice):
            publication = Publication(
                instance,
                place,
                store,
                lambda: open_catalogue(choice, place.location, store, s3_endpoint),
                tuple(table.split(".")),
                keep=timedelta(hours=keep),
                progress=progress,
            )
            published = publication.run(datetime.now(UTC))
        if json:
            sys.stdout.write(orjson.dumps(published.to_json(), option=_JSON).decode() + "\n")
        else:
            _tell(published)
        sys.stdout.flush()
        if published.left is not None:
            note(f"WARNING: what nothing names any more is still there: {published.left}")
        if published.unread_lines:
            note(
                f"WARNING: the table lacks {published.unread_lines} lines that cannot be read; `keytrail index status` names them"
            )
        exit_with(FINDINGS if published.unread_lines else OK)


_JSON = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z


def ddl_of(dialect: Dialect, place: Place, table: str) -> str:
    """What `dialect` has to be told of the table at `place`, known as `table`."""
    text = importlib.resources.files(__package__).joinpath("ddl", f"{dialect}.sql").read_text()
    namespace, _, name = table.rpartition(".")
    for placeholder, value in (("s3://BUCKET/PREFIX/events", place.location), ("NAMESPACE", namespace), ("NAME", name)):
        text = text.replace(placeholder, value)
    return text


def _tell(published: Published) -> None:
    for log in published.logs:
        until = f"up to {log.until:%Y-%m-%d %H:%M:%S}Z" if log.until is not None else "none with a time"
        typer.echo(f"log {log.log}: {log.records} records, {until}; what follows record {log.next - 1} is not in the index yet")
    typer.echo(
        f"{published.location}: {published.added_files} files added ({published.uploaded_bytes} bytes uploaded), "
        f"{published.removed_files} removed, {published.deleted_objects} objects deleted that nothing named"
    )


def _place(url: str) -> Place:
    """Raises `QueryError`."""
    if not s3.is_url(url):
        raise QueryError(f"not a place in S3: {url!r}; accepted: s3://BUCKET/PREFIX")
    bucket, prefix = s3.split(url)
    prefix = prefix.strip("/")
    if not _PREFIX.fullmatch(prefix):
        raise QueryError(
            f"no prefix for a table: {prefix!r}; accepted: names of letters, digits and _ = - . with slashes between"
        )
    return Place(bucket, prefix)


def _choice(name: str | None, kind: str | None, uri: str | None, properties: list[str]) -> Choice:
    """Raises `QueryError`."""
    given = {"type": kind, "uri": uri} | dict(map(_pair, properties))
    return Choice(name, {key: value for key, value in given.items() if value is not None})


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise QueryError("a property of a catalogue is NAME=VALUE")
    return name, value


def _refuse_credentials(url: str | None) -> None:
    """Raise `QueryError` for a URL with a password in it: it would stand in every error."""
    if url is not None and "@" in urlsplit(url).netloc:
        raise QueryError("no credentials in a URL: boto3 and .pyiceberg.yaml have places for them")
