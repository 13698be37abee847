"""The key store as a file: a copy of it, a copy put back, another master key, and whether all of it opens. On record, as every
command on the host.

**Another master key, while workers run.** They hold the store key, and need no master key until they are started anew. The steps,
each durable before the next; after a crash behind any of them the store opens with the key in `master.key`, and the same
command goes on from there:

1. The new key is written to `master.key.next`.
2. The store key is sealed under the new key, too: both open the store.
3. `master.key.next` takes the place of `master.key`.
4. The seal under the old key is removed.

Where the setting `master_key` names the file, it is not ours to replace: the new key is given, step 2 is done, and the rest when
the operator has put it in place (`finish`).

**A copy put back** takes a generation that no reader has seen, so that none can take its rows for what it knows. What was there
is moved aside and never removed.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from audit import durable
from audit.instance import Instance
from audit.record import JsonValue
from proxy.backends.local import effects
from proxy.backends.local.keys import ALIAS, KEY, key_of
from proxy.domain import Answer, Operation
from proxy.errors import ProxyError, SealBroken, SetupError
from proxy.host_log import HostLog, now_us
from proxy.opening import master_key_file, open_store, read_master_key
from proxy.sealed_store import MASTER_KEY_BYTES, SealedStore, StoreFailed
from proxy.settings import Settings

T = TypeVar("T")
_SQLITE_FILES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Standing:
    """A store: the id of the master key that opens it, the generation of its last change, how many rows of each kind it has."""

    master_key_id: str
    generation: int
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """`key_id` is the master key that opens the store now; `also` are others that do, too; `was_begun`: by an earlier command."""

    key_id: str
    also: tuple[str, ...] = ()
    was_begun: bool = False


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
            _sync(temporary)
            os.link(temporary, file)  # unlike a rename, it takes no other file's place
            temporary.unlink()
            durable.sync_folder(file.parent)
            return _standing(store)
        finally:
            store.close()

    return _recorded(instance, settings, "BackUpKeyStore", {"file": str(file)}, copied)


def restore(instance: Instance, settings: Settings, file: Path, *, replace: bool, even_newer: bool) -> Standing:
    """Put the copy `file` in the store's place; durable when this returns. `replace`: also where there is a store, which is moved
    aside; `even_newer`: also where that has later changes than the copy, or cannot tell.

    Raises SetupError, SealBroken; nothing was changed then.
    """

    def restored() -> Standing:
        try:
            lock = instance.hold()
        except BlockingIOError as error:
            raise SetupError(f"{instance.data} is being served; stop that first. Nothing was changed") from error
        fresh = instance.keystore.with_name("restoring.db")
        try:
            present = _present_generation(instance, settings)
            if instance.keystore.exists() and not replace:
                raise SetupError(f"{instance.keystore} is there; --replace puts the copy in its place. Nothing was changed")
            _remove(fresh)
            _copy(file, fresh)
            standing = _prepare(instance, settings, fresh, present, even_newer=even_newer)
            aside = instance.keystore.with_name(f"keystore.replaced-{standing.generation}.db")
            for suffix in _SQLITE_FILES:
                old = Path(f"{instance.keystore}{suffix}")
                if old.exists():
                    old.rename(f"{aside}{suffix}")
            fresh.rename(instance.keystore)
            durable.sync_folder(instance.data)
            return standing
        finally:
            _remove(fresh)
            os.close(lock)

    return _recorded(instance, settings, "RestoreKeyStore", {"file": str(file)}, restored)


def _present_generation(instance: Instance, settings: Settings) -> int | None:
    """The generation of the store that is there; 0 where none is, None where it cannot tell."""
    if not instance.keystore.exists():
        return 0
    try:
        store = open_store(instance, settings)
        try:
            return store.generation
        finally:
            store.close()
    except ProxyError:
        return None


def _prepare(instance: Instance, settings: Settings, fresh: Path, present: int | None, *, even_newer: bool) -> Standing:
    """Look through the copy, and have it go on where the store that it replaces was."""
    store = SealedStore(fresh, read_master_key(master_key_file(instance, settings)), instance.id)
    try:
        damage = list(store.damage())
        if damage:
            raise SetupError(f"the copy is damaged: {damage[0]}, and {len(damage) - 1} more. Nothing was changed")
        if present is None and not even_newer:
            raise SetupError("the store that is there does not tell how new it is; --even-newer replaces it. Nothing was changed")
        if present is not None and present > store.generation and not even_newer:
            raise SetupError(
                f"the store that is there is newer, by {present - store.generation} changes, which would be lost;"
                " --even-newer replaces it. Nothing was changed"
            )
        store.go_on_at(max(present or 0, store.generation, _published(instance)) + 1)
        with store.change() as tx:
            effects.start_anew(tx, now_us())
        return _standing(store)
    finally:
        store.close()


def _published(instance: Instance) -> int:
    """The generation that was published last."""
    try:
        return int(struct.unpack("=Q", instance.keystore.with_suffix(".generation").read_bytes())[0])
    except (OSError, struct.error):
        return 0


def rewrap(instance: Instance, settings: Settings, new: Path | None, *, finish: bool) -> Rewrapped:
    """Seal the store key under another master key, in the steps above. Where the setting `master_key` names the file, `new` is
    one with the new key, and `finish` ends the change.

    Raises SetupError, SealBroken, StoreFailed.
    """
    own = settings.master_key is None
    if own and (new is not None or finish):
        raise SetupError("--new and --finish are for a master key outside the data folder (the setting master_key)")
    if not own and (new is None) is not finish:
        raise SetupError(
            "the setting master_key names the master key: give the new one by --new FILE, put it there, and --finish"
        )

    def rewrapped() -> Rewrapped:
        store = open_store(instance, settings)
        try:
            if own:
                return _rewrap_own(instance, store)
            if new is not None:
                store.add_master_key(read_master_key(new))
            else:
                store.keep_master_key(store.master_key_id)
            others = (one for one in store.master_keys() if one != store.master_key_id)
            return Rewrapped(store.master_key_id, tuple(others))
        finally:
            store.close()

    return _recorded(instance, settings, "RewrapKeyStore", {}, rewrapped)


def _rewrap_own(instance: Instance, store: SealedStore) -> Rewrapped:
    upcoming = instance.master_key.with_name("master.key.next")
    was_begun = upcoming.exists()
    if not was_begun:
        if len(store.master_keys()) > 1:  # after step 3
            store.keep_master_key(store.master_key_id)
            return Rewrapped(store.master_key_id, was_begun=True)
        durable.replace(upcoming, base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)) + b"\n")
    key = read_master_key(upcoming)
    store.add_master_key(key)
    other = SealedStore(instance.keystore, key, instance.id)  # it does open
    other.close()
    upcoming.rename(instance.master_key)
    durable.sync_folder(instance.data)
    store.keep_master_key(other.master_key_id)
    return Rewrapped(other.master_key_id, was_begun=was_begun)


def check(instance: Instance, settings: Settings) -> tuple[Standing, list[str]]:
    """How the store stands, and what is wrong with it: every row is opened, keys and aliases are read, and the database is gone
    through. Raises what opening it raises."""

    def checked() -> tuple[Standing, list[str]]:
        store = open_store(instance, settings)
        try:
            found = list(store.damage()) or _contradictions(store)
            more = [one for one in store.master_keys() if one != store.master_key_id]
            found += [f"the master key {one} opens it, too: `keytrail keystore rewrap` was not finished" for one in more]
            return _standing(store), found
        finally:
            store.close()

    return _recorded(instance, settings, "CheckKeyStore", {}, checked, lambda made: made[0], lambda made: len(made[1]))


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


def _standing(store: SealedStore) -> Standing:
    return Standing(store.master_key_id, store.generation, store.count_rows())


def _same(made: T) -> T:
    return made


def _recorded(
    instance: Instance,
    settings: Settings,
    event: str,
    parameters: dict[str, JsonValue],
    effect: Callable[[], T],
    of: Callable[[T], object] = _same,
    findings: Callable[[T], int] | None = None,
) -> T:
    def answer(made: T) -> Answer:
        members: dict[str, JsonValue] = {}
        told = of(made)
        if isinstance(told, Standing):
            members = {"masterKeyId": told.master_key_id, "generation": told.generation}
        elif isinstance(told, Rewrapped):
            members = {"masterKeyId": told.key_id}
        if findings is not None:
            members["findings"] = findings(made)
        return Answer(members)

    operation = Operation(event, mutates=True, request=("file",), response=("masterKeyId", "generation", "findings"))
    with HostLog(instance, settings) as log:
        return log.recorded(log.exchange(operation, parameters), "keytrail", effect, answer)


def _copy(source: Path, target: Path) -> None:
    """As a new file of mode 0600; durable when this returns."""
    try:
        with source.open("rb") as read, os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as written:
            shutil.copyfileobj(read, written)
    except OSError as error:
        raise SetupError(f"{source} cannot be copied: {error.strerror}; nothing was changed") from error
    _sync(target)


def _sync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreFailed(f"{path} cannot be made durable: {error.strerror}") from error


def _remove(store: Path) -> None:
    """What is left of a store that was being made."""
    for suffix in _SQLITE_FILES:
        Path(f"{store}{suffix}").unlink(missing_ok=True)
    store.with_suffix(".generation").unlink(missing_ok=True)
