"""The key store of an instance, opened with its master key: from the data folder, or the file that `master_key` names."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from audit.instance import Instance
from proxy.errors import SealBroken, SetupError
from proxy.sealed_store import MASTER_KEY_BYTES, SealedStore
from proxy.settings import Settings


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


def open_store(instance: Instance, settings: Settings) -> SealedStore:
    """The instance's key store. Raises `SetupError`, `SealBroken`, `StoreFailed`."""
    path = master_key_file(instance, settings)
    key = read_master_key(path)
    try:
        return SealedStore(instance.keystore, key, instance.id)
    except SealBroken:
        again = read_master_key(path)  # the key may have been changed between the two
        if again == key:
            raise
        return SealedStore(instance.keystore, again, instance.id)
