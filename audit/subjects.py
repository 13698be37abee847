"""`privacy.key` and `privacy/subjects.db`: the keys that private values of encryption contexts are under.

A subject is known by the digest of its name and value (`audit.privacy`); what it is called stands nowhere here. Its key is
random, sealed under the privacy key, and durable before `make` returns, so before a record can use it. Workers and commands share
the file: SQLite in WAL mode, each change is synced. Two that make the same subject's key at once get the same one.

`shred` deletes it: SQLite overwrites the row (`secure_delete`), and the write-ahead log is emptied before `shred` returns. Copies
that were made before (backups, snapshots of a file system, what a disk keeps of overwritten blocks) are not reached.
A worker forgets a shredded key at the next look at any, and by `forget_shredded`.

Threads: one instance belongs to one thread; but `make` may be called from another, one at a time.
"""

from __future__ import annotations

import base64
import binascii
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from audit import durable
from audit.errors import AuditError
from audit.instance import Instance
from audit.private_keys import KEY_BYTES, NONCE_BYTES, PrivacyKey, SubjectKey

_PATIENCE_S = 5.0
_AT_HAND = 10_000
_CHECK = "keytrail privacy key"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS privacy (one INTEGER PRIMARY KEY CHECK (one = 1), sealed BLOB NOT NULL, shreds INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS subjects (id TEXT PRIMARY KEY, subject TEXT NOT NULL UNIQUE, sealed BLOB NOT NULL)"""


class PrivacyFault(AuditError):
    """The privacy key or the subjects' keys cannot be used; nothing secret is in the message."""


def key_path(instance: Instance) -> Path:
    return instance.data / "privacy.key"


def subjects_path(instance: Instance) -> Path:
    return instance.data / "privacy" / "subjects.db"


def is_private(instance: Instance) -> bool:
    """Whether its records may hold private values: whether a key for them was ever made."""
    return key_path(instance).exists() or subjects_path(instance).parent.exists()  # within it only its owner may look


def load_privacy_key(instance: Instance) -> PrivacyKey:
    """Raises `PrivacyFault` where there is none, or none that can be read."""
    path = key_path(instance)
    try:
        return PrivacyKey(base64.b64decode(path.read_bytes().strip(), validate=True))
    except OSError as error:
        raise PrivacyFault(f"{path} cannot be read: {error.strerror}") from error
    except (binascii.Error, ValueError) as error:
        raise PrivacyFault(f"{path} does not hold {KEY_BYTES} bytes in base64") from error


def make_privacy_key(instance: Instance, random: Callable[[int], bytes]) -> PrivacyKey:
    """The privacy key, made where the instance never had one; durable when this returns. For several processes at once.

    Raises `PrivacyFault`: also where it is gone, and subjects' keys under it are there. It is not made anew then.
    """
    path = key_path(instance)
    if not path.exists():
        if subjects_path(instance).exists():
            raise PrivacyFault(f"{path} has vanished; it is not made anew: restore it")
        fresh = path.with_name(f"{path.name}.{random(8).hex()}")
        try:
            durable.create(fresh, base64.b64encode(random(KEY_BYTES)) + b"\n")
            try:
                with suppress(FileExistsError):  # another process was first
                    os.link(fresh, path)  # whole, or not at all
            finally:
                fresh.unlink()
            durable.sync_folder(path.parent)
        except OSError as error:
            raise PrivacyFault(f"{path} cannot be made: {error.strerror}") from error
    return load_privacy_key(instance)


class Subjects:
    """The subjects' keys of an instance, open. Raises `PrivacyFault`, as every method does; a missing file is made.

    `random` gives as many random bytes as it is asked for.
    """

    def __init__(self, path: Path, key: PrivacyKey, random: Callable[[int], bytes]) -> None:
        self._path = path
        self._key = key
        self._random = random
        self._at_hand: OrderedDict[str, SubjectKey] = OrderedDict()
        self._seen = (0, 0)  # data_version, number of shreds
        self._making = threading.Lock()
        with _faults(path):
            path.parent.mkdir(0o700, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._reader = _connect(path)
            self._writer = _connect(path)
            try:
                self._prove_key()
                durable.sync_folder(path.parent)
                durable.sync_folder(path.parent.parent)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self._reader.close()
        with self._making:
            self._writer.close()

    def find(self, subject: str) -> SubjectKey | None:
        """The key of the subject with this digest; None where it has none."""
        self.forget_shredded()
        if (found := self._at_hand.get(subject)) is not None:
            self._at_hand.move_to_end(subject)
            return found
        with _faults(self._path):
            row = self._reader.execute("SELECT id, sealed FROM subjects WHERE subject = ?", (subject,)).fetchone()
        if row is None:
            return None
        found = self._at_hand[subject] = self._opened(row[0], subject, row[1])
        if len(self._at_hand) > _AT_HAND:
            self._at_hand.popitem(last=False)
        return found

    def by_id(self, id: str) -> SubjectKey | None:
        """The key with this id; None where it is there no more."""
        with _faults(self._path):
            row = self._reader.execute("SELECT subject, sealed FROM subjects WHERE id = ?", (id,)).fetchone()
        return None if row is None else self._opened(id, row[0], row[1])

    def make(self, subject: str) -> None:
        """Give the subject a key, unless it has one; durable when this returns. It blocks."""
        with self._making, _faults(self._path):
            id, secret = self._random(8).hex(), self._random(KEY_BYTES)
            sealed = self._key.seal(secret, _about(id, subject), self._random(NONCE_BYTES))
            with self._writer:
                self._writer.execute("INSERT OR IGNORE INTO subjects VALUES (?, ?, ?)", (id, subject, sealed))

    def shred(self, subject: str) -> bool:
        """Delete the subject's key; whether it had one. Not in the files any more when this returns."""
        with self._making, _faults(self._path):
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                gone = self._writer.execute("DELETE FROM subjects WHERE subject = ?", (subject,)).rowcount
                self._writer.execute("UPDATE privacy SET shreds = shreds + 1")
            is_held, _, _ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_held:
            raise PrivacyFault(f"{self._path}: the key is deleted, but its write-ahead log is in use and holds it: shred again")
        return gone > 0

    def forget_shredded(self) -> None:
        """Have no key at hand that was shredded by now."""
        with _faults(self._path):
            [version] = self._reader.execute("PRAGMA data_version").fetchone()
            if version != self._seen[0]:
                [shreds] = self._reader.execute("SELECT shreds FROM privacy").fetchone()
                if shreds != self._seen[1]:
                    self._at_hand.clear()
                self._seen = version, shreds

    def _prove_key(self) -> None:
        """Raise `PrivacyFault` where the keys here are under another privacy key."""
        with self._writer:
            sealed = self._key.seal(b"", _CHECK, self._random(NONCE_BYTES))
            self._writer.execute("INSERT OR IGNORE INTO privacy VALUES (1, ?, 0)", (sealed,))
        [sealed] = self._reader.execute("SELECT sealed FROM privacy").fetchone()
        if self._key.open(sealed, _CHECK) is None:
            raise PrivacyFault(f"{self._path} is not of this privacy key")

    def _opened(self, id: str, subject: str, sealed: bytes) -> SubjectKey:
        secret = self._key.open(sealed, _about(id, subject))
        if secret is None:
            raise PrivacyFault(f"{self._path}: the key {id} was altered")
        return SubjectKey.of(id, secret)


def _about(id: str, subject: str) -> str:
    return f"{id} {subject}"


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.executescript(_SCHEMA)
    return connection


class _faults:
    """SQLite's faults, and the disk's, as `PrivacyFault`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error | OSError):
            raise PrivacyFault(f"{self._path} cannot be used: {error}") from error
