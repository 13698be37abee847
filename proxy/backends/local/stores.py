"""Custom key stores as values, as rows of the store, and as a table. Pure.

A row's body has the members of `CustomStore` but for the credential, which is the row's secret: access key id and secret access
key with a NUL between them. The keys in a store are the rows of keys that have it for a parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.backends.local.lazy import Lazy
from proxy.backends.local.xks.messages import ProxyAddress
from proxy.sealed_store import Body, Entry, Secret

CUSTOM_STORE = "custom-store"
EXTERNAL_KEY_STORE = "EXTERNAL_KEY_STORE"  # the type of a store, and the origin of its keys
PUBLIC, PRIVATE = "PUBLIC_ENDPOINT", "VPC_ENDPOINT_SERVICE"
CONNECTED, DISCONNECTED, FAILED = "CONNECTED", "DISCONNECTED", "FAILED"
_SCHEME = "https://"


@dataclass(frozen=True, slots=True)
class CustomStore:
    """An external key store. `endpoint` is with its ``https://``; `error` is why it could not be connected."""

    region: str
    id: str
    account_id: str
    name: str
    created_s: float
    endpoint: str
    path: str
    connectivity: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    service_name: str | None = None
    service_owner: str | None = None
    state: str = DISCONNECTED
    error: str | None = None

    @property
    def is_connected(self) -> bool:
        return self.state == CONNECTED

    @property
    def address(self) -> ProxyAddress:
        return ProxyAddress(self.endpoint.removeprefix(_SCHEME), self.path, self.access_key_id, self.secret_access_key)

    @property
    def entry(self) -> dict[str, Any]:
        """As DescribeCustomKeyStores lists it."""
        configuration = {
            "Connectivity": self.connectivity,
            "AccessKeyId": self.access_key_id,
            "UriEndpoint": self.endpoint,
            "UriPath": self.path,
            "VpcEndpointServiceName": self.service_name,
            "VpcEndpointServiceOwner": self.service_owner,
        }
        listed: dict[str, Any] = {
            "CustomKeyStoreId": self.id,
            "CustomKeyStoreName": self.name,
            "ConnectionState": self.state,
            "CreationDate": self.created_s,
            "CustomKeyStoreType": EXTERNAL_KEY_STORE,
            "XksProxyConfiguration": {name: value for name, value in configuration.items() if value is not None},
        }
        return listed if self.error is None else {**listed, "ConnectionErrorCode": self.error}


def store_body(store: CustomStore) -> tuple[Body, Secret]:
    body = {
        "account": store.account_id,
        "name": store.name,
        "type": EXTERNAL_KEY_STORE,
        "created_s": store.created_s,
        "endpoint": store.endpoint,
        "path": store.path,
        "connectivity": store.connectivity,
        "service_name": store.service_name,
        "service_owner": store.service_owner,
        "state": store.state,
        "error": store.error,
    }
    return body, Secret(f"{store.access_key_id}\0{store.secret_access_key}".encode())


def store_of(entry: Entry) -> CustomStore:
    """Read a row."""
    body = entry.body
    access_key_id, _, secret_access_key = entry.secret.reveal().decode().partition("\0")
    return CustomStore(
        region=entry.region,
        id=entry.id,
        account_id=body["account"],
        name=body["name"],
        created_s=body["created_s"],
        endpoint=body["endpoint"],
        path=body["path"],
        connectivity=body["connectivity"],
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        service_name=body["service_name"],
        service_owner=body["service_owner"],
        state=body["state"],
        error=body["error"],
    )


class StoreTable:
    """All custom key stores, each read when it is first looked for. `is_used`: whether there is one, so that others need not
    look."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], Lazy[CustomStore]] = {}

    @property
    def is_used(self) -> bool:
        return bool(self._stores)

    def put(self, entry: Entry) -> None:
        self._stores[(entry.region, entry.id)] = Lazy(entry, store_of)

    def drop(self, region: str, id: str) -> None:
        self._stores.pop((region, id), None)

    def clear(self) -> None:
        self._stores.clear()

    def find(self, region: str, store_id: str | None) -> CustomStore | None:
        """The store, whosever it is."""
        row = None if store_id is None else self._stores.get((region, store_id))
        return None if row is None else row.value

    def of(self, account_id: str, region: str) -> list[CustomStore]:
        """The stores of an account in a region, in the order of their ids."""
        there = [row.value for (own_region, _), row in self._stores.items() if own_region == region]
        found = [one for one in there if one.account_id == account_id]
        return sorted(found, key=lambda one: one.id)
