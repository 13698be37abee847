"""A console script's exit codes, and its three streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OK, FINDINGS, USAGE, IO = 0, 1, 2, 3
CUT_OFF = 141  # as of any program whose reader went away (128 and SIGPIPE): nobody takes it for a verdict


@contextmanager
def standard_streams() -> Iterator[None]:
    """For a console script, around all of it: the three streams are there, and what was printed is out, or it is known that it is
    not.

    A stream that was closed (`>&-`) is /dev/null, so that no file of the log gets its number. A reader that went away (`| head`)
    ends the command quietly; a verdict or an error that was reached before keeps its exit code.
    """
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(lowest, True)
    os.close(lowest)
    sys.stdin, sys.stdout, sys.stderr = (
        sys.stdin or os.fdopen(0),
        sys.stdout or os.fdopen(1, "w"),
        sys.stderr or os.fdopen(2, "w"),
    )
    code: object = OK
    try:
        yield
    except SystemExit as end:
        code = end.code
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered has nowhere to go
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"error: standard output: {error.strerror}\n")
        code = code or (CUT_OFF if isinstance(error, BrokenPipeError) else IO)
    raise SystemExit(code)
