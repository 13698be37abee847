"""What the sealer signed last, kept beside its key: out of reach of whoever can put the data folder back as it was last week.

A step is remembered here, durable, before it stands in the history. So at each start the history ends with what is remembered,
or, after a crash between the two, with what was signed before that. With any other history nothing is signed.

Format: docs/log-format.md, "The sealer's state".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson

from audit import durable
from audit.errors import CheckpointInvalid

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Remembered:
    """The notes that were signed for a log: the last one, and the one before, "" where there was none."""

    previous: str
    note: str


class SealerState:
    """The state in the file at `path`, of the instance with this id. For one process and thread at a time.

    Where there is none, one begins with the next step. Raises `CheckpointInvalid` where it cannot be read, OSError.
    """

    def __init__(self, path: Path, instance: str) -> None:
        self.path = path
        self._instance = instance
        self._logs = self._read()

    def of(self, log: str) -> Remembered | None:
        """What was signed last for `log`; None where nothing is remembered."""
        return self._logs.get(log)

    def remember(self, log: str, previous: str, note: str) -> None:
        """Durable when this returns."""
        logs = self._logs | {log: Remembered(previous, note)}
        document = {
            "format": _FORMAT,
            "instance": self._instance,
            "logs": {name: {"previous": one.previous, "note": one.note} for name, one in logs.items()},
        }
        durable.replace(self.path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        self._logs = logs

    def _read(self) -> dict[str, Remembered]:
        try:
            document = orjson.loads(self.path.read_bytes())
            facts = document["format"], document["instance"]
            logs = {str(log): Remembered(str(one["previous"]), str(one["note"])) for log, one in document["logs"].items()}
        except FileNotFoundError:
            return {}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointInvalid(f"{self.path} is not a sealer's state: {error}") from error
        if facts != (_FORMAT, self._instance):
            raise CheckpointInvalid(f"{self.path} is the state of another instance's sealer, or of another version")
        return logs
