"""CreateKey for a key in an external key store: the external key is looked at, and claimed for the new KMS key alone."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.custom_stores import check_connected, client_of, find_store, stores_in_change
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import KEY, key_of
from proxy.backends.local.specs import KeySpec
from proxy.backends.local.stores import EXTERNAL_KEY_STORE
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.xks.faults import XksFailed
from proxy.backends.local.xks.messages import Reason
from proxy.domain import KmsCall, Members
from proxy.errors import KmsError

_MEMBERS = ("CustomKeyStoreId", "XksKeyId")


@dataclass(frozen=True, slots=True)
class Home:
    """Where a key's external half is."""

    store_id: str
    xks_key_id: str


def check_origin(parameters: Members, origin: str, spec: KeySpec) -> None:
    """Raises KmsError where the origin, and what says where the key's other half is, do not go together."""
    if origin == "AWS_CLOUDHSM":
        raise KmsError("UnsupportedOperationException", "There is no CloudHSM here: Origin AWS_CLOUDHSM is not supported.")
    if origin != EXTERNAL_KEY_STORE:
        for member in _MEMBERS:
            if member in parameters:
                raise KmsError("ValidationException", f"{member} is valid with Origin {EXTERNAL_KEY_STORE} only.")
        return
    for member in _MEMBERS:
        if member not in parameters:
            raise KmsError("ValidationException", f"{member} is required with Origin {EXTERNAL_KEY_STORE}.")
    if not spec.is_symmetric or parameters.get("MultiRegion"):
        message = "Keys in a custom key store are symmetric encryption keys of a single region."
        raise KmsError("UnsupportedOperationException", message)


async def find_home(desk: Desk, call: KmsCall) -> Home:
    """The external key that the call names, which can be a KMS key's. Raises KmsError."""
    client = client_of(desk.around)
    home = Home(call.parameters["CustomKeyStoreId"], call.parameters["XksKeyId"])
    store = find_store(desk.tables.all_stores.of(call.principal.account_id, call.region), home.store_id)
    check_connected(store)
    reason = Reason(call.operation.name, call.request_id, call.principal.arn)
    try:
        await client.check_key(store.address, home.xks_key_id, call.region, reason)
    except XksFailed as failure:
        raise failure.for_new_key() from failure
    return home


def check_home(around: Surroundings, keys: KeysInChange, call: KmsCall, home: Home) -> None:
    """Raises KmsError where the store is not what it was any more, or the external key is another KMS key's."""
    check_connected(find_store(stores_in_change(keys, call.principal.account_id, call.region), home.store_id))
    now_s = around.clock()
    for key in map(key_of, keys.tx.children(KEY, call.region, home.store_id)):
        if key.xks_key_id == home.xks_key_id and not key.is_gone(now_s):
            raise KmsError("XksKeyAlreadyInUseException", f"{key.arn} has this external key already.", keys=(key.meant,))
