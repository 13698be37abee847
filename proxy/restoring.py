"""A copy of the key store put back, in the data folder or on the server. It takes a generation that no reader has seen, so that
none can take its rows for what it knows. What was there is moved aside, or copied into the data folder, and never lost.

A copy of the store of this data folder takes the file's place. Any other way, from a file to a server or back, its rows are
sealed anew, for the store that is there then. All of it must open with the master key.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from audit import durable
from audit.instance import Instance
from proxy.backends.local import effects
from proxy.errors import ProxyError, SetupError
from proxy.host_log import now_us
from proxy.keystore import Standing, recorded, standing_of, sync
from proxy.opening import SHARED, create_store, is_shared, is_there, master_key_file, open_store, read_master_key
from proxy.sealed_store import SealedStore
from proxy.settings import Settings

_SQLITE_FILES = ("", "-wal", "-shm")


def restore(instance: Instance, settings: Settings, file: Path, *, replace: bool, even_newer: bool) -> Standing:
    """Put the copy `file` in the store's place; durable when this returns. `replace`: also where there is a store, which is moved
    aside; `even_newer`: also where that has later changes than the copy, or cannot tell.

    Raises SetupError, SealBroken, StoreFailed; nothing was changed then.
    """

    def restored() -> Standing:
        try:
            lock = instance.hold()
        except BlockingIOError as error:
            raise SetupError(f"{instance.data} is being served; stop that first. Nothing was changed") from error
        fresh = instance.keystore.with_name("restoring.db")
        try:
            if is_there(instance, settings) and not replace:
                where = "in the database" if is_shared(settings) else f"at {instance.keystore}"
                raise SetupError(f"there is a key store {where}; --replace puts the copy in its place. Nothing was changed")
            _remove(fresh)
            _copy(file, fresh)
            key = read_master_key(master_key_file(instance, settings))
            put_back = _into_server if is_shared(settings) else _into_folder
            return put_back(instance, settings, fresh, key, even_newer)
        finally:
            _remove(fresh)
            os.close(lock)

    return recorded(instance, settings, "RestoreKeyStore", {"file": str(file)}, restored, Standing.told)


def _into_folder(instance: Instance, settings: Settings, fresh: Path, key: bytes, even_newer: bool) -> Standing:
    present = _present_generation(instance, settings)
    own = fresh.with_name("restoring.own.db")
    try:
        store = SealedStore.at(fresh, key)
        try:
            _require_whole(store)
            _require_later(present, store.generation, even_newer)
            generation = max(present or 0, store.generation, _published(instance)) + 1
            if store.instance.startswith(SHARED):
                _remove(own)
                into = SealedStore.create(own, key, instance.id)
                into.take_over(store, generation)
            else:
                into, own = SealedStore.at(fresh, key, instance.id), fresh
                into.go_on_at(generation)
            standing = _anew(into)
            into.close()
        finally:
            store.close()
        aside = instance.keystore.with_name(f"keystore.replaced-{standing.generation}.db")
        for suffix in _SQLITE_FILES:
            old = Path(f"{instance.keystore}{suffix}")
            if old.exists():
                old.rename(f"{aside}{suffix}")
        own.rename(instance.keystore)
        durable.sync_folder(instance.data)
        return standing
    finally:
        _remove(own)


def _into_server(instance: Instance, settings: Settings, fresh: Path, key: bytes, even_newer: bool) -> Standing:
    """Workers of all hosts take it in as they take in a change."""
    copy = SealedStore.at(fresh, key)
    try:
        _require_whole(copy)
        if not is_there(instance, settings):
            into, present = create_store(instance, settings, key), 0
        else:
            into = open_store(instance, settings)
            present = into.generation
            _require_later(present if into.instance == copy.instance else None, copy.generation, even_newer)
            aside = instance.keystore.with_name(f"keystore.replaced-{present}.db")
            aside.unlink(missing_ok=True)
            into.write_copy(aside)
            aside.chmod(0o600)
            sync(aside)
            durable.sync_folder(instance.data)
        try:
            into.take_over(copy, max(present, copy.generation) + 1)
            return _anew(into)
        finally:
            into.close()
    finally:
        copy.close()


def _anew(store: SealedStore) -> Standing:
    """What calls did before is not known to the store that was put back."""
    with store.change() as tx:
        effects.start_anew(tx, now_us())
    return standing_of(store)


def _require_whole(copy: SealedStore) -> None:
    damage = list(copy.damage())
    if damage:
        raise SetupError(f"the copy is damaged: {damage[0]}, and {len(damage) - 1} more. Nothing was changed")


def _require_later(present: int | None, copied: int, even_newer: bool) -> None:
    """`present` is the generation of the store that is there; None where it does not tell, or tells of another store."""
    if present is None and not even_newer:
        raise SetupError("the store that is there does not tell how new it is; --even-newer replaces it. Nothing was changed")
    if present is not None and present > copied and not even_newer:
        raise SetupError(
            f"the store that is there is newer, by {present - copied} changes, which would be lost;"
            " --even-newer replaces it. Nothing was changed"
        )


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


def _published(instance: Instance) -> int:
    """The generation that was published last."""
    try:
        return int(struct.unpack("=Q", instance.keystore.with_suffix(".generation").read_bytes())[0])
    except (OSError, struct.error):
        return 0


def _copy(source: Path, target: Path) -> None:
    """As a new file of mode 0600; durable when this returns."""
    try:
        with source.open("rb") as read, os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as written:
            shutil.copyfileobj(read, written)
    except OSError as error:
        raise SetupError(f"{source} cannot be copied: {error.strerror}; nothing was changed") from error
    sync(target)


def _remove(store: Path) -> None:
    """What is left of a store that was being made."""
    for suffix in _SQLITE_FILES:
        Path(f"{store}{suffix}").unlink(missing_ok=True)
    store.with_suffix(".generation").unlink(missing_ok=True)
