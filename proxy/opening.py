"""The key store of an instance, made and opened with its master key: in the data folder, or in the PostgreSQL database that
`keystore_url` names; the master key is in the data folder, or the file that `master_key` names."""

from __future__ import annotations

import base64
import binascii
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from audit.instance import Instance
from proxy.backends.local.effects import EFFECT
from proxy.errors import SealBroken, SetupError
from proxy.sealed_store import MASTER_KEY_BYTES, SealedStore
from proxy.sealing import MasterKey
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.store_server import StorePlace

#: What the ids of shared stores begin with: they belong to no data folder.
SHARED = "shared-"


def master_key_file(instance: Instance, settings: Settings) -> Path:
    """Where the master key is read from."""
    return settings.master_key or instance.master_key


def read_master_key(path: Path) -> bytes:
    """The master key in a file, base64. Raises `SetupError`; nothing of the key is in the message."""
    try:
        key = base64.b64decode(path.read_bytes(), validate=False)
    except (OSError, binascii.Error) as error:
        raise SetupError(f"the master key cannot be read from {path}; nothing was changed") from error
    if len(key) != MASTER_KEY_BYTES:
        raise SetupError(f"{path} does not hold {MASTER_KEY_BYTES} bytes in base64; nothing was changed")
    return key


def is_shared(settings: Settings) -> bool:
    """Whether the key store is one of several hosts, on a server."""
    return bool(settings.keystore_url.get_secret_value())


def is_there(instance: Instance, settings: Settings) -> bool:
    """Whether there is a key store. Raises `SetupError`, `StoreFailed`."""
    return shared_place(settings).is_made() if is_shared(settings) else instance.keystore.exists()


def create_store(instance: Instance, settings: Settings, key: bytes) -> SealedStore:
    """Make the instance's key store, empty, and open it. Raises `SetupError` where one is, `StoreFailed`."""
    if not is_shared(settings):
        return SealedStore.create(instance.keystore, key, instance.id)
    shared_place(settings).make(MasterKey(key), SHARED + secrets.token_hex(8))
    return open_with(instance, settings, key)


def open_store(instance: Instance, settings: Settings) -> SealedStore:
    """The instance's key store. Raises `SetupError`, `SealBroken`, `StoreFailed`."""
    path = master_key_file(instance, settings)
    key = read_master_key(path)
    try:
        return open_with(instance, settings, key)
    except SealBroken:
        again = read_master_key(path)  # the key may have been changed between the two
        if again == key:
            raise
        return open_with(instance, settings, again)


def open_with(instance: Instance, settings: Settings, key: bytes) -> SealedStore:
    """The instance's key store by this master key. Raises `SetupError`, `SealBroken`, `StoreFailed`."""
    return open_shared(settings, key) if is_shared(settings) else SealedStore.at(instance.keystore, key, instance.id)


def open_shared(settings: Settings, key: bytes) -> SealedStore:
    """That on the server, by this master key. Raises `SetupError`, `SealBroken`, `StoreFailed`."""
    return SealedStore(shared_place(settings).open(), key)


def shared_place(settings: Settings) -> StorePlace:
    """Where the shared key store is. psycopg is loaded here, and only where it is needed. Raises `SetupError`."""
    try:
        from proxy.store_server import StorePlace
    except ImportError as error:
        raise SetupError("keystore_url needs psycopg: install keytrail with its extra, keytrail[postgresql]") from error
    url = settings.keystore_url.get_secret_value()
    return StorePlace(url, settings.keystore_stale_after_s, unread=(EFFECT,))
