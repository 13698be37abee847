"""The process that keeps the index up to date beside a running keytrail: `python -m audit.query.index.follow DATA`.

It takes only the processor's time that nobody else wants, and ends at once when its standard input does: what it leaves is what a
crash may leave. What goes wrong is reported, as a JSON line on standard output, and tried again.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from audit.companion import Reporter, Status
from audit.errors import AuditError
from audit.query import scan
from audit.query.index.layout import LogIndex, Manifest, index_folder
from audit.query.index.pieces import pending
from audit.query.modesty import be_modest
from audit.segments import read_mark

_LOOK_S = 5.0
_AFTER_FAULT_S = 60.0


def is_behind(data: Path) -> bool:
    """Whether there is anything to index. Raises `IndexFault`, `QueryError`, OSError."""
    manifest = Manifest.load(index_folder(data))
    return any(
        pending(manifest.logs.get(log, LogIndex()), scan.find_parts(data, log)[0], read_mark(data / "log" / log))
        for log in scan.find_logs(data)[0]
    )


def catch_up(data: Path) -> None:
    """Compact whatever there is. Raises `AuditError`, OSError, duckdb.Error."""
    from audit.query.index.compact import Compactor  # here: DuckDB takes memory, and most of the time there is nothing to do

    with Compactor(data) as compactor:
        compactor.run()


def follow(data: Path, stopped: threading.Event) -> None:
    """Look for what is new until `stopped`."""
    report = Reporter()
    while True:
        fault = None
        try:
            if is_behind(data):
                catch_up(data)
        except (AuditError, OSError) as error:
            fault = str(error)
        except Exception as error:  # DuckDB's and Arrow's: of many kinds, and none ends this process
            fault = f"{type(error).__name__}: {error}"
        report(Status(fault is None, fault))
        if stopped.wait(_LOOK_S if fault is None else _AFTER_FAULT_S):
            return


def _end_with(stream: int) -> None:
    while os.read(stream, 4_096):
        pass
    os._exit(0)  # in the middle of whatever it is: see above


def main(data: str) -> int:
    """The process: standard input ends when it should."""
    be_modest()
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    follow(Path(data), threading.Event())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
