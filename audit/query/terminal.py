"""What the commands share: notes and warnings on standard error, a progress bar, errors as one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from audit.errors import (
    AuditError,
    CheckpointInvalid,
    DamagedLog,
    LogIncident,
    NotProvable,
    ProofInvalid,
    QueryError,
    ReceiptInvalid,
    TreeDamaged,
)
from audit.query.lines import Damage
from audit.query.render import clean
from audit.streams import CUT_OFF
from audit.streams import FINDINGS as FINDINGS
from audit.streams import IO as IO
from audit.streams import OK as OK
from audit.streams import USAGE as USAGE

#: What is wrong with the evidence, and not with the question or the disk.
_FOUND_WRONG = (DamagedLog, LogIncident, CheckpointInvalid, TreeDamaged, ProofInvalid, NotProvable, ReceiptInvalid)
_INTERRUPTED = "Query interrupted"  # so DuckDB says that it saw the signal of Ctrl-C


class Bar:
    """A progress bar on standard error that appears when there is a terminal and more than a moment to wait."""

    def __init__(self, what: str) -> None:
        columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=None)
        self._started = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if not self._shown and sys.stderr.isatty() and time.monotonic() - self._started > 0.5:
            self._shown = True
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        if self._shown:
            self._shown = False
            self._progress.stop()


@contextmanager
def progress_bar(what: str) -> Iterator[Bar]:
    bar = Bar(what)
    try:
        yield bar
    finally:
        bar.stop()


def warn_of(damaged: Sequence[Damage]) -> int:
    """Name what was damaged on standard error; returns the exit code that it means."""
    if not damaged:
        return OK
    places = "place" if len(damaged) == 1 else "places"
    note(f"WARNING: {len(damaged)} damaged {places} in the log; the answer may lack records:")
    for one in damaged:
        note(f"  {one}")
    return FINDINGS


def note(text: str) -> None:
    sys.stderr.write("\n".join(map(clean, text.split("\n"))) + "\n")


def check_target(file: Path, data: Path) -> None:
    """Raise `QueryError` where a document cannot go to `file`, or must not: into the data folder `data`. For before the work."""
    if file.is_relative_to(data.resolve()):
        raise QueryError(f"{file.name}: a document is not written into the data folder")
    if file.exists() and not file.is_file():
        raise QueryError(f"{file} is not a file; - is standard output")


def exit_with(code: int) -> None:
    if code != OK:
        raise typer.Exit(code)


@contextmanager
def errors() -> Iterator[None]:
    """Translate errors into one line and an exit code."""
    try:
        yield
    except QueryError as error:
        note(f"error: {error}")
        raise typer.Exit(USAGE) from error
    except _FOUND_WRONG as error:
        note(f"error: {error}")
        raise typer.Exit(FINDINGS) from error
    except BrokenPipeError as error:  # `keytrail query | head`
        raise typer.Exit(CUT_OFF) from error
    except (AuditError, OSError, duckdb.Error) as error:
        note(f"error: {error}")
        raise typer.Exit(IO) from error
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
