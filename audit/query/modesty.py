"""Asking and indexing must not slow the calls that are being recorded: they take the processor's time that nobody else wants."""

from __future__ import annotations

import os


def be_modest() -> None:
    """Run only while no other process wants to, from now on.

    Linux's autogroups set that aside between sessions: processes of two terminals share a processor that both want by halves.
    So `serve` starts its processes in its own session, and a command from another terminal can be held off no further.
    """
    os.nice(19)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:  # a container may forbid it; nice it is then
        return
