"""Custom key stores: CreateCustomKeyStore, DescribeCustomKeyStores, UpdateCustomKeyStore, DeleteCustomKeyStore,
ConnectCustomKeyStore, DisconnectCustomKeyStore.

Stores are external ones; there is no CloudHSM here. What is asked of a proxy is asked before the transaction, and the store is
looked up again within it. Connecting takes one request, so a store is never seen CONNECTING. A store with a VPC endpoint service
is reached by its endpoint's name like any other; there is no VPC here, and the service's name is kept and compared only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import KEY, key_of
from proxy.backends.local.pages import page
from proxy.backends.local.stores import (
    CONNECTED,
    CUSTOM_STORE,
    DISCONNECTED,
    EXTERNAL_KEY_STORE,
    FAILED,
    PRIVATE,
    PUBLIC,
    CustomStore,
    store_body,
    store_of,
)
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.backends.local.xks.client import XksClient
from proxy.backends.local.xks.faults import XksFailed
from proxy.backends.local.xks.messages import Reason
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

MOST_STORES = 10
_ID_BYTES = 9
_OF_CLOUDHSM = ("CloudHsmClusterId", "KeyStorePassword", "TrustAnchorCertificate")
_OF_SERVICE = ("XksProxyVpcEndpointServiceName", "XksProxyVpcEndpointServiceOwner")
_REQUIRED = ("XksProxyConnectivity", "XksProxyAuthenticationCredential", "XksProxyUriEndpoint", "XksProxyUriPath")
#: What may be altered while a store is connected, besides its name.
_WHILE_CONNECTED = frozenset({"CustomKeyStoreId", "NewCustomKeyStoreName", "XksProxyAuthenticationCredential", "XksProxyUriPath"})


async def create_custom_key_store(desk: Desk, call: KmsCall) -> Answer:
    around = desk.around
    around.authoriser.check(desk.tables, call, "kms:CreateCustomKeyStore", None)
    client = client_of(around)
    new = _asked(around, call)
    _check_new(new, desk.tables.all_stores.of(new.account_id, new.region))
    if new.connectivity == PUBLIC:
        await _check_health(client, call, new)

    def write(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
        _check_new(new, _stores(keys, call))
        _put(keys, new)
        return Answer({"CustomKeyStoreId": new.id})

    return await desk.change(write, call)


async def update_custom_key_store(desk: Desk, call: KmsCall) -> Answer:
    around = desk.around
    around.authoriser.check(desk.tables, call, "kms:UpdateCustomKeyStore", None)
    client = client_of(around)
    before = _found(desk.tables.all_stores.of(call.principal.account_id, call.region), call)
    after = _altered(before, call)
    _check_unlike(after, desk.tables.all_stores.of(after.account_id, after.region))
    if after.address != before.address and (after.connectivity == PUBLIC or after.is_connected):
        await _check_health(client, call, after)

    def write(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
        stores = _stores(keys, call)
        _check_same(before, _found(stores, call))
        _check_unlike(after, stores)
        _put(keys, after)
        return Answer({})

    return await desk.change(write, call)


async def connect_custom_key_store(desk: Desk, call: KmsCall) -> Answer:
    """The answer does not say whether it could be connected: DescribeCustomKeyStores does."""
    around = desk.around
    around.authoriser.check(desk.tables, call, "kms:ConnectCustomKeyStore", None)
    client = client_of(around)
    before = _found(desk.tables.all_stores.of(call.principal.account_id, call.region), call)
    if before.state == FAILED:
        raise _in_state(before)
    state, error = CONNECTED, None
    try:
        await client.check_health(before.address, call.region, Reason(call.operation.name, call.request_id))
    except XksFailed as failure:
        state, error = FAILED, failure.fault.meaning.connection

    def write(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
        _check_same(before, _found(_stores(keys, call), call))
        _put(keys, replace(before, state=state, error=error))
        return Answer({})

    return await desk.change(write, call)


def disconnect_custom_key_store(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    around.authoriser.check(keys, call, "kms:DisconnectCustomKeyStore", None)
    store = _found(_stores(keys, call), call)
    if store.state == DISCONNECTED:
        raise _in_state(store)
    _put(keys, replace(store, state=DISCONNECTED, error=None))
    return Answer({})


def delete_custom_key_store(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    around.authoriser.check(keys, call, "kms:DeleteCustomKeyStore", None)
    store = _found(_stores(keys, call), call)
    now_s = around.clock()
    if any(not key_of(entry).is_gone(now_s) for entry in keys.tx.children(KEY, store.region, store.id)):
        raise KmsError("CustomKeyStoreHasCMKsException", f"The custom key store {store.id} has KMS keys.")
    if store.state != DISCONNECTED:
        raise _in_state(store)
    keys.tx.delete(CUSTOM_STORE, store.region, store.id)
    return Answer({})


def describe_custom_key_stores(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    around.authoriser.check(tables, call, "kms:DescribeCustomKeyStores", None)
    store_id, name = call.parameters.get("CustomKeyStoreId"), call.parameters.get("CustomKeyStoreName")
    if store_id is not None and name is not None:
        raise KmsError("ValidationException", "Either CustomKeyStoreId or CustomKeyStoreName can be given, not both.")
    stores = tables.all_stores.of(call.principal.account_id, call.region)
    if store_id is not None or name is not None:
        stores = [store for store in stores if store_id in (None, store.id) and name in (None, store.name)]
        if not stores:
            raise _no_such_store(str(store_id or name))

    def after(last: str) -> Iterator[CustomStore]:
        return (store for store in stores if store.id > last)

    of = f"{call.principal.account_id} {store_id or ''} {name or ''}"
    found, more = page(call, after, lambda store: store.id, of=of, default=100, most=1000)
    return Answer({"CustomKeyStores": [store.entry for store in found], **more})


def client_of(around: Surroundings) -> XksClient:
    if around.xks is None:
        raise KmsError("UnsupportedOperationException", "This KMS has no way to external key stores.")
    return around.xks


def find_store(stores: Iterable[CustomStore], store_id: str) -> CustomStore:
    """Raises KmsError where none of `stores`, an account's in a region, has this id."""
    for store in stores:
        if store.id == store_id:
            return store
    raise _no_such_store(store_id)


def stores_in_change(keys: KeysInChange, account_id: str, region: str) -> list[CustomStore]:
    return [one for one in map(store_of, keys.tx.all(CUSTOM_STORE, region)) if one.account_id == account_id]


def check_connected(store: CustomStore) -> None:
    """Raises KmsError unless keys can be made in the store."""
    if not store.is_connected:
        raise _in_state(store)


def _asked(around: Surroundings, call: KmsCall) -> CustomStore:
    parameters = call.parameters
    if parameters.get("CustomKeyStoreType", "AWS_CLOUDHSM") != EXTERNAL_KEY_STORE:
        raise KmsError(
            "UnsupportedOperationException", "Custom key stores here are of the type EXTERNAL_KEY_STORE: there is no CloudHSM."
        )
    _refuse(parameters, _OF_CLOUDHSM, "is of CloudHSM key stores only")
    for name in _REQUIRED:
        if name not in parameters:
            raise KmsError("ValidationException", f"{name} is required for external key stores.")
    credential = parameters["XksProxyAuthenticationCredential"]
    store = CustomStore(
        region=call.region,
        id="cks-" + around.random(_ID_BYTES).hex()[:17],
        account_id=call.principal.account_id,
        name=parameters["CustomKeyStoreName"],
        created_s=round(around.clock(), 3),
        endpoint=parameters["XksProxyUriEndpoint"],
        path=parameters["XksProxyUriPath"],
        connectivity=parameters["XksProxyConnectivity"],
        access_key_id=credential["AccessKeyId"],
        secret_access_key=credential["RawSecretAccessKey"],
    )
    return _with_service(store, parameters)


def _altered(store: CustomStore, call: KmsCall) -> CustomStore:
    """The store as it is to be. Raises KmsError where it cannot be, or not while it is connected."""
    parameters = call.parameters
    _refuse(parameters, _OF_CLOUDHSM, "is of CloudHSM key stores only")
    if store.state != DISCONNECTED and not _WHILE_CONNECTED.issuperset(parameters):
        raise _in_state(store)
    if store.state == FAILED:
        raise _in_state(store)
    credential = parameters.get("XksProxyAuthenticationCredential")
    changed = {
        field: parameters[member]
        for member, field in (
            ("NewCustomKeyStoreName", "name"),
            ("XksProxyUriEndpoint", "endpoint"),
            ("XksProxyUriPath", "path"),
            ("XksProxyConnectivity", "connectivity"),
        )
        if member in parameters
    }
    if credential is not None:
        changed |= {"access_key_id": credential["AccessKeyId"], "secret_access_key": credential["RawSecretAccessKey"]}
    return _with_service(replace(store, **changed), parameters)


def _with_service(store: CustomStore, parameters: Mapping[str, Any]) -> CustomStore:
    """The store with its VPC endpoint service, where it is to have one."""
    if store.connectivity != PRIVATE:
        _refuse(parameters, _OF_SERVICE, "is of stores with a VPC endpoint service only")
        return replace(store, service_name=None, service_owner=None)
    name = parameters.get(_OF_SERVICE[0], store.service_name)
    if name is None:
        raise KmsError("ValidationException", f"{_OF_SERVICE[0]} is required for stores with a VPC endpoint service.")
    owner = parameters.get(_OF_SERVICE[1], store.service_owner or store.account_id)
    return replace(store, service_name=name, service_owner=owner)


def _check_new(store: CustomStore, others: list[CustomStore]) -> None:
    _check_unlike(store, others)
    if len(others) >= MOST_STORES:
        raise KmsError(
            "LimitExceededException", f"There are {MOST_STORES} custom key stores in this region, the most there can be."
        )


def _check_unlike(store: CustomStore, others: Iterable[CustomStore]) -> None:
    """Raises KmsError where the store's name or place is another's."""
    for other in others:
        if other.id == store.id:
            continue
        if other.name == store.name:
            raise KmsError("CustomKeyStoreNameInUseException", f"The custom key store {other.id} has this name.")
        if other.endpoint == store.endpoint:
            if PRIVATE in (store.connectivity, other.connectivity):
                raise KmsError("XksProxyUriEndpointInUseException", f"The custom key store {other.id} has this endpoint.")
            if other.path == store.path:
                raise KmsError("XksProxyUriInUseException", f"The custom key store {other.id} has this endpoint and path.")
        if store.service_name is not None and other.service_name == store.service_name:
            message = f"The custom key store {other.id} has this VPC endpoint service."
            raise KmsError("XksProxyVpcEndpointServiceInUseException", message)


async def _check_health(client: XksClient, call: KmsCall, store: CustomStore) -> None:
    try:
        await client.check_health(store.address, call.region, Reason(call.operation.name, call.request_id))
    except XksFailed as failure:
        raise failure.for_store() from failure


def _check_same(expected: CustomStore, found: CustomStore) -> None:
    """What the proxy was asked about must still be what it is."""
    if found != expected:
        raise KmsError("CustomKeyStoreInvalidStateException", f"The custom key store {found.id} was changed at the same time.")


def _stores(keys: KeysInChange, call: KmsCall) -> list[CustomStore]:
    return stores_in_change(keys, call.principal.account_id, call.region)


def _found(stores: Iterable[CustomStore], call: KmsCall) -> CustomStore:
    return find_store(stores, call.parameters["CustomKeyStoreId"])


def _put(keys: KeysInChange, store: CustomStore) -> None:
    body, secret = store_body(store)
    keys.tx.put(CUSTOM_STORE, store.region, store.id, body, secret)


def _refuse(parameters: Mapping[str, Any], names: Iterable[str], why: str) -> None:
    for name in names:
        if name in parameters:
            raise KmsError("ValidationException", f"{name} {why}.")


def _in_state(store: CustomStore) -> KmsError:
    message = f"The custom key store {store.id} is {store.state}, in which the operation is not possible."
    return KmsError("CustomKeyStoreInvalidStateException", message)


def _no_such_store(which: str) -> KmsError:
    return KmsError("CustomKeyStoreNotFoundException", f"There is no custom key store {which}.")


READINGS = {"DescribeCustomKeyStores": describe_custom_key_stores}
CHANGES = {"DisconnectCustomKeyStore": disconnect_custom_key_store, "DeleteCustomKeyStore": delete_custom_key_store}
WORKS = {
    "CreateCustomKeyStore": create_custom_key_store,
    "UpdateCustomKeyStore": update_custom_key_store,
    "ConnectCustomKeyStore": connect_custom_key_store,
}
