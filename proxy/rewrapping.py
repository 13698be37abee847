"""Another master key for the key store, while workers run. They hold the store key, and need no master key until they are started
anew. The steps, each durable before the next; after a crash behind any of them the store opens with the key in `master.key`, and
the same command goes on from there:

1. The new key is written to `master.key.next`.
2. The store key is sealed under the new key, too: both open the store.
3. `master.key.next` takes the place of `master.key`.
4. The seal under the old key is removed.

Where the setting `master_key` names the file, or several hosts share the store, the file is not ours to replace: the new key is
given, step 2 is done, and the rest when the operator has put it in place (`finish`), on every host.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from pathlib import Path

from audit import durable
from audit.instance import Instance
from audit.record import JsonValue
from proxy.errors import SetupError
from proxy.keystore import recorded
from proxy.opening import is_shared, open_store, read_master_key
from proxy.sealed_store import MASTER_KEY_BYTES, SealedStore
from proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """`key_id` is the master key that opens the store now; `also` are others that do, too; `was_begun`: by an earlier command."""

    key_id: str
    also: tuple[str, ...] = ()
    was_begun: bool = False

    def told(self) -> dict[str, JsonValue]:
        """As records say it."""
        return {"masterKeyId": self.key_id}


def rewrap(instance: Instance, settings: Settings, new: Path | None, *, finish: bool) -> Rewrapped:
    """Seal the store key under another master key, in the steps above. Where the setting `master_key` names the file, `new` is
    one with the new key, and `finish` ends the change.

    Raises SetupError, SealBroken, StoreFailed.
    """
    own = settings.master_key is None and not is_shared(settings)
    if own and (new is not None or finish):
        raise SetupError("--new and --finish are for a master key outside the data folder (the setting master_key)")
    if not own and (new is None) is not finish:
        whose = "several hosts have" if is_shared(settings) else "the setting master_key names"
        raise SetupError(f"{whose} the master key: give the new one by --new FILE, put it there, and --finish")

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

    return recorded(instance, settings, "RewrapKeyStore", {}, rewrapped, Rewrapped.told)


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
    other = SealedStore.at(instance.keystore, key, instance.id)  # it does open
    other.close()
    upcoming.rename(instance.master_key)
    durable.sync_folder(instance.data)
    store.keep_master_key(other.master_key_id)
    return Rewrapped(other.master_key_id, was_begun=was_begun)
