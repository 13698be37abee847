"""The data folder of one instance: where everything in it lies, and the facts in its `keytrail.json`.

The list of logs there is what tells a log that was never made from one that has vanished. Format: docs/log-format.md.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from audit import durable
from audit.errors import AuditError, LogIncident
from audit.segments import create_log, is_locked, take_lock

ADMIN_LOG = "admin"
_FORMAT = 1
_ID = re.compile(r"[0-9a-f]{16}")
_LOG = re.compile(r"(?!(?:keys|lock|rotation|sealer-keys)\Z)[a-z][a-z0-9-]{0,31}")  # those four have other meanings


class NoInstance(AuditError):
    """The folder was never initialised, or its keytrail.json cannot be read."""


def host_user() -> str:
    """Who runs this command: by the system, and not by the environment, which anyone sets."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True, slots=True)
class Instance:
    """An initialised data folder. `id` is 16 hex digits; `created` is ISO 8601, UTC; `logs` are names."""

    data: Path
    id: str
    account_id: str
    region: str
    created: str
    logs: tuple[str, ...]

    @property
    def master_key(self) -> Path:
        return self.data / "master.key"

    @property
    def keystore(self) -> Path:
        return self.data / "keystore.db"

    @property
    def maintenance(self) -> Path:
        """The lock of the worker whose turn it is to do what time does to keys."""
        return self.data / "maintenance.lock"

    @property
    def credentials(self) -> Path:
        return self.data / "credentials"

    @property
    def sealer_key(self) -> Path:
        return self.data / "sealer.key"

    @property
    def sealer_public_key(self) -> Path:
        return self.data / "sealer.pub"

    @property
    def key_chain(self) -> Path:
        """The changes of the sealer's key."""
        return self.data / "checkpoints" / "keys"

    def log_folder(self, log: str) -> Path:
        return self.data / "log" / log

    def checkpoint_folder(self, log: str) -> Path:
        return self.data / "checkpoints" / log

    def witnessed_folder(self, log: str) -> Path:
        """What witnesses and time-stamping authorities gave for a log's checkpoints. Not among these, which may be another
        user's: theirs is to sign, and the serving user's to ask."""
        return self.data / "witnessed" / log

    @property
    def witnessing_lock(self) -> Path:
        return self.data / "witnessed" / "lock"

    def make_witnessed_folder(self, log: str | None = None) -> None:
        """Make it where it is not there, for `log`, or for all of them together; durable when this returns. Raises OSError."""
        for path in (self.witnessing_lock.parent, *([] if log is None else [self.witnessed_folder(log)])):
            with suppress(FileExistsError):
                durable.create_folder(path, 0o750)

    def origin(self, log: str) -> str:
        """The log's name in checkpoints, and its verifier key's."""
        return f"keytrail/{self.id}/{log}"

    @classmethod
    def create(cls, data: Path, account_id: str, region: str, created: str) -> Instance:
        """Make the folders of a new instance in `data`, with the log `admin`; its `keytrail.json` is written by `save`.

        Raises FileExistsError where something of the kind is there already.
        """
        durable.create_folder(data / "log", 0o750)
        durable.create_folder(data / "checkpoints", 0o750)
        instance = cls(data, secrets.token_hex(8), account_id, region, created, ())
        return instance._with_new_log(ADMIN_LOG)

    @classmethod
    def load(cls, data: Path) -> Instance:
        """The instance in `data`. Raises `NoInstance`."""
        try:
            document = orjson.loads((data / "keytrail.json").read_bytes())
            if document["format"] != _FORMAT:
                raise NoInstance(f"{data}: its format is {document['format']}, this version reads {_FORMAT}")
            facts = (document["instance"], document["account"], document["region"], document["created"])
            logs = tuple(document["logs"])
            # The names that checkpoints are signed under are made of these; who writes this file may not have the key.
            if not _ID.fullmatch(facts[0]) or not all(_LOG.fullmatch(log) for log in logs):
                raise NoInstance(f"{data / 'keytrail.json'} is damaged: its id, or a log's name, is none")
            return cls(data, *facts, logs=logs)
        except FileNotFoundError as error:
            raise NoInstance(f"{data} was never initialised: run `keytrail init --data {data}`") from error
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise NoInstance(f"{data / 'keytrail.json'} is damaged: {error}") from error

    def save(self) -> None:
        """Write `keytrail.json`; durable when this returns."""
        document = {
            "format": _FORMAT,
            "instance": self.id,
            "account": self.account_id,
            "region": self.region,
            "created": self.created,
            "logs": self.logs,
        }
        durable.replace(self.data / "keytrail.json", orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n", mode=0o640)

    @property
    def is_served(self) -> bool:
        """Whether `serve` runs on it, on this host. Raises OSError."""
        return self._serve_lock.exists() and is_locked(self._serve_lock)

    def hold(self) -> int:
        """Serve it: a file descriptor, which holds it for this process alone until it is closed.

        Raises BlockingIOError where another process does, OSError.
        """
        fd = os.open(self._serve_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take_lock(fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    @property
    def _serve_lock(self) -> Path:
        return self.data / "serve.lock"

    def require_logs(self) -> None:
        """Raise `LogIncident` where a log that was made is not there any more."""
        for log in self.logs:
            if not (self.log_folder(log) / "lock").exists():
                raise LogIncident(log, f"{self.log_folder(log)} has vanished; it is not made anew, restore it or investigate")

    def with_logs(self, names: list[str]) -> Instance:
        """This instance with those of the logs `names` made that it never had; saved and durable when this returns."""
        instance = self
        for name in names:
            if name not in instance.logs:
                instance = instance._with_new_log(name)
                instance.save()
        return instance

    def _with_new_log(self, name: str) -> Instance:
        # A folder without its name in keytrail.json is left from a crash right here: nothing was ever written to it.
        if not self.log_folder(name).exists():
            create_log(self.log_folder(name))
        if not self.checkpoint_folder(name).exists():
            with suppress(PermissionError):  # the sealer's own, where it is another user: it makes the folder itself
                durable.create_folder(self.checkpoint_folder(name), 0o750)
        return replace(self, logs=(*self.logs, name))
