"""The commands `index status`, `index update` and `index rebuild`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from audit.query import scan
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.index.compact import Compactor, take_lock
from audit.query.index.layout import LogIndex, Manifest, index_folder
from audit.query.index.pieces import Covered
from audit.query.lines import Damage
from audit.query.publish.command import publish
from audit.query.terminal import errors, exit_with, note, warn_of

app = typer.Typer(name="index", no_args_is_help=True, help="The index, which makes questions fast. It can be deleted.")
app.command()(publish)


@dataclass(frozen=True, slots=True)
class LogStatus:
    """How far the index of one log has come: closed segments that it has of how many, records, bytes of the log behind it."""

    log: str
    indexed_segments: int
    closed_segments: int
    records: int
    files: int
    index_bytes: int
    log_bytes: int
    damaged: tuple[Damage, ...]

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "damaged"}
        return plain | {"damaged": [str(damage) for damage in self.damaged]}


def status_of(data: Path) -> list[LogStatus]:
    """The status of each log's index. Raises `IndexFault`, `QueryError`, OSError."""
    folder = index_folder(data)
    manifest = Manifest.load(folder)
    statuses = []
    for name in scan.find_logs(data)[0]:
        log = manifest.logs.get(name, LogIndex())
        parts = scan.find_parts(data, name)[0]
        covered = Covered.of(log, parts)
        closed = [part for part in parts if not part.is_last]
        behind = {part.first_index for part in covered.rest}
        paths = [path for run in log.runs for path in run.files(folder)] + [
            path for day in log.days for path in day.files(folder)
        ]
        statuses.append(
            LogStatus(
                name,
                sum(part.first_index not in behind for part in closed),
                len(closed),
                sum(day.records for day in log.days),
                sum(run.slices for run in log.runs) + len(log.days),
                sum(path.stat().st_size for path in paths if path.exists()),
                sum(piece.stop - piece.start for piece in log.pieces),
                tuple(covered.damaged),
            )
        )
    return statuses


@app.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Tell how far the index has come. Exits 1 where lines could not be read when they were indexed."""
    with errors():
        statuses = status_of(data)
        if json:
            text = orjson.dumps([one.to_json() for one in statuses], option=orjson.OPT_INDENT_2).decode()
            sys.stdout.write(text + "\n")
        else:
            for one in statuses:
                share = f", {100 * one.index_bytes / one.log_bytes:.0f} % of their size" if one.log_bytes else ""
                typer.echo(
                    f"log {one.log}: {one.indexed_segments} of {one.closed_segments} closed segments, {one.records} records, "
                    f"in {one.files} files{share}"
                )
        exit_with(warn_of([damage for one in statuses for damage in one.damaged]))


@app.command()
def update(data: Data = DEFAULT_DATA) -> None:
    """Index what the logs have got since. `keytrail serve` does so by itself."""
    with errors():
        _compact(data)


@app.command()
def rebuild(data: Data = DEFAULT_DATA) -> None:
    """Delete the index and make it anew. Nothing is lost: all of it is made of the log."""
    with errors():
        scan.find_logs(data)  # before anything is deleted: whether this is a data folder at all
        folder = index_folder(data)
        folder.mkdir(mode=0o700, exist_ok=True)
        with take_lock(folder):
            (folder / "manifest.json").unlink(missing_ok=True)  # first: what it does not name is no index
            for part in ("postings", "events", "spill"):
                shutil.rmtree(folder / part, ignore_errors=True)
        _compact(data)


def _compact(data: Path) -> None:
    done = 0

    def told(records: int) -> None:
        nonlocal done
        done += records

    with Compactor(data, told=told) as compactor:
        compactor.run()
    note(f"{done} records were indexed")
