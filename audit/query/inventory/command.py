"""The command `inventory`: options to values, objects to the terminal as they come; no decision about them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from audit.errors import QueryError
from audit.query.commands import DEFAULT_DATA, Data, NoIndex, note_index_fault
from audit.query.inventory import tell
from audit.query.inventory.crawl import crawl
from audit.query.inventory.keys import KeyRing
from audit.query.inventory.status import KmsKey
from audit.query.inventory.take import StoredObject, take
from audit.query.inventory.uses import Snapshot
from audit.query.render import make_console
from audit.query.terminal import errors, exit_with, progress_bar, warn_of

app = typer.Typer()


@app.command()
def inventory(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PATH|s3://BUCKET/PREFIX/", help="A folder, one file, or a prefix of a bucket.", show_default=False
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option(
            help="Only objects under this KMS key (ARN or id): what its deletion would take. Those of which nobody knows too."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List objects without a data key too, not only count them.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines: one object a line, the summary last.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV: one data key a row; the summary on standard error.")] = False,
    s3_endpoint: Annotated[str | None, typer.Option(help="URL of an S3 that is not AWS's.")] = None,
    no_index: NoIndex = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Tell of each object of a store which of its data keys were unwrapped, by whom and when last, which were never; which are
    under old key material; and which objects are lost with a KMS key that was deleted, is to be, or (--key) might be.

    Exits 1 where there is a finding: an object is damaged or cannot be read; is lost, wholly or in part, by a deletion that was
    done or scheduled; would be by that of --key, or may be; or lines of the log were damaged, so that the answer may lack uses.
    Objects of no known format are searched whole for data keys, up to 1 GiB each.
    """
    with errors():
        if json and csv:
            raise QueryError("--json and --csv: one of both")
        wanted = KmsKey.parse(key) if key is not None else None
        with progress_bar("reading the log") as progress:
            snapshot = Snapshot(data, use_index=not no_index, progress=progress)
            ring = KeyRing(snapshot, datetime.now(UTC))
            summary = tell.Summary(is_asked=wanted is not None)

            def listed() -> Iterator[StoredObject]:
                for one in take(crawl(place, sys.stdin.buffer, s3_endpoint), snapshot, ring, wanted):
                    progress.stop()
                    summary.add(one)
                    if tell.is_listed(one, is_asked=wanted is not None, everything=everything):
                        yield one

            console = make_console(sys.stdout)
            if json:
                tell.write_lines(listed(), sys.stdout)
            elif csv:
                tell.write_csv(listed(), sys.stdout)
            else:
                tell.write_text(listed(), console)
        if not summary.objects["crawled"]:
            raise QueryError(f"there is nothing in {place}")
        if json:
            tell.write_summary_line(summary, snapshot, sys.stdout)
        else:
            tell.write_summary(summary, snapshot, make_console(sys.stderr) if csv else console)
        sys.stdout.flush()
        note_index_fault(snapshot.index_fault)
        exit_with(max(warn_of(list(snapshot.damaged)), tell.exit_code(summary)))
