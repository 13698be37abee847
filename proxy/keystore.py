"""The key store as a whole: a copy of it as a file, and whether all of it opens; `proxy.restoring` puts a copy back,
`proxy.rewrapping` changes the master key. On record, as every command on the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from audit import durable
from audit.instance import Instance
from audit.record import JsonValue
from proxy.backends.local.keys import ALIAS, KEY, key_of
from proxy.domain import Answer, Operation
from proxy.errors import SealBroken, SetupError
from proxy.host_log import HostLog
from proxy.opening import open_store
from proxy.sealed_store import SealedStore, StoreFailed
from proxy.settings import Settings

T = TypeVar("T")
_SQLITE_FILES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Standing:
    """A store: the id of the master key that opens it, the generation of its last change, how many rows of each kind it has."""

    master_key_id: str
    generation: int
    rows: dict[str, int]

    def told(self) -> dict[str, JsonValue]:
        """As records say it."""
        return {"masterKeyId": self.master_key_id, "generation": self.generation}


def backup(instance: Instance, settings: Settings, file: Path) -> Standing:
    """A copy of the store, as it is at one moment, as the new file `file`, sealed as it is; durable when this returns.

    Raises SetupError where `file` is there, StoreFailed.
    """

    def copied() -> Standing:
        store = open_store(instance, settings)
        temporary = file.with_name(file.name + ".partial")
        try:
            if file.exists():
                raise SetupError(f"{file} is there already; nothing was changed")
            temporary.unlink(missing_ok=True)
            old_mask = os.umask(0o077)
            try:
                store.write_copy(temporary)
            finally:
                os.umask(old_mask)
            sync(temporary)
            os.link(temporary, file)  # unlike a rename, it takes no other file's place
            temporary.unlink()
            durable.sync_folder(file.parent)
            return standing_of(store)
        finally:
            store.close()

    return recorded(instance, settings, "BackUpKeyStore", {"file": str(file)}, copied, Standing.told)


def check(instance: Instance, settings: Settings) -> tuple[Standing, list[str]]:
    """How the store stands, and what is wrong with it: every row is opened, keys and aliases are read, and the database is gone
    through. Raises what opening it raises."""

    def checked() -> tuple[Standing, list[str]]:
        store = open_store(instance, settings)
        try:
            found = list(store.damage()) or _contradictions(store)
            more = [one for one in store.master_keys() if one != store.master_key_id]
            found += [f"the master key {one} opens it, too: `keytrail keystore rewrap` was not finished" for one in more]
            return standing_of(store), found
        finally:
            store.close()

    return recorded(instance, settings, "CheckKeyStore", {}, checked, lambda made: {**made[0].told(), "findings": len(made[1])})


def _contradictions(store: SealedStore) -> list[str]:
    """What rows that open say that cannot be."""
    found, keys = [], set()
    entries = store.changes_since(0, (KEY, ALIAS)).entries
    for entry in entries:
        if entry.kind == KEY:
            keys.add((entry.region, entry.id))
            try:
                key_of(entry)
            except (SealBroken, LookupError, ValueError, TypeError) as fault:
                found.append(f"the key {entry.id} cannot be read: {type(fault).__name__}: {fault}")
    for entry in entries:
        if entry.kind == ALIAS and (entry.region, entry.parent) not in keys:
            found.append(f"the alias {entry.id} is of the key {entry.parent}, which is not there")
    return found


def standing_of(store: SealedStore) -> Standing:
    return Standing(store.master_key_id, store.generation, store.count_rows())


def recorded(
    instance: Instance,
    settings: Settings,
    event: str,
    parameters: dict[str, JsonValue],
    effect: Callable[[], T],
    told: Callable[[T], dict[str, JsonValue]],
) -> T:
    """What `effect` gives, with its intent and outcome in the log `admin`; `told` is what the latter says of it."""
    operation = Operation(event, mutates=True, request=("file",), response=("masterKeyId", "generation", "findings"))
    with HostLog(instance, settings) as log:
        return log.recorded(log.exchange(operation, parameters), "keytrail", effect, lambda made: Answer(told(made)))


def sync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreFailed(f"{path} cannot be made durable: {error.strerror}") from error
