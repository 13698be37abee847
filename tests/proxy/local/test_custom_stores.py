"""Custom key stores: their making, connecting, altering and end, against a real proxy and its failures."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import orjson
import pytest
from botocore.session import get_session

from proxy.backends.aws.resolver import Address
from proxy.backends.aws.transport import NotSent
from proxy.backends.local.stores import CUSTOM_STORE, CustomStore, store_body, store_of
from proxy.backends.local.xks.elsewhere import Elsewhere
from proxy.backends.local.xks.faults import ERROR_NAMES, Fault
from tests.proxy.aws.upstream import Step, answers, hangs, resets, sends
from tests.proxy.local.world import ALICE, BOB, REGION, START_S, World
from tests.proxy.local.xks_proxy import ACCESS_KEY_ID, AUTHORITY, ENDPOINT, HEALTH, PATH, SECRET, XksWorld, error, store_members

SERVICE = "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0"
PRIVATE = {"XksProxyConnectivity": "VPC_ENDPOINT_SERVICE", "XksProxyVpcEndpointServiceName": SERVICE}
OTHER_CREDENTIAL = {"AccessKeyId": "A" * 20, "RawSecretAccessKey": "b" * 43}


def test_a_new_store_is_described_as_aws_does(xks: XksWorld) -> None:
    store_id = xks.new_store(connected=False)
    assert store_id.startswith("cks-") and len(store_id) == 21
    assert xks.store_entry(store_id) == {
        "CustomKeyStoreId": store_id,
        "CustomKeyStoreName": "ours",
        "ConnectionState": "DISCONNECTED",
        "CreationDate": START_S,
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConfiguration": {
            "Connectivity": "PUBLIC_ENDPOINT",
            "AccessKeyId": ACCESS_KEY_ID,
            "UriEndpoint": ENDPOINT,
            "UriPath": PATH,
        },
    }
    metadata = {"kmsRequestId": "request-1", "kmsOperation": "CreateCustomKeyStore"}
    assert xks.proxy.received == [("/health", {"requestMetadata": metadata})]


def test_the_proxys_credential_is_sealed(xks: XksWorld) -> None:
    store_id = xks.new_store()
    with xks.store.change() as tx:
        row = tx.get(CUSTOM_STORE, REGION, store_id)
    assert row is not None and SECRET in row.secret.reveal().decode()
    store = store_of(row)
    assert store.secret_access_key == SECRET
    entry = xks.store_entry(store_id)
    shown = f"{store!r} {store.address!r} {row!r} {row.body} {entry} {xks.backend!r} {xks.client!r}"
    assert store_id in shown and SECRET not in shown
    for file in xks.path.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()


def test_connecting_and_disconnecting(xks: XksWorld) -> None:
    store_id = xks.new_store(connected=False)
    for _ in range(2):  # a store that is connected may be connected again
        assert xks("ConnectCustomKeyStore", CustomKeyStoreId=store_id) == {}
        assert xks.store_entry(store_id)["ConnectionState"] == "CONNECTED"
    assert xks.proxy.received[-1][1]["requestMetadata"]["kmsOperation"] == "ConnectCustomKeyStore"
    assert xks("DisconnectCustomKeyStore", CustomKeyStoreId=store_id) == {}
    assert xks.store_entry(store_id)["ConnectionState"] == "DISCONNECTED"
    assert xks.refused("DisconnectCustomKeyStore", CustomKeyStoreId=store_id).code == "CustomKeyStoreInvalidStateException"


#: What a proxy does, the error code for who makes a store, and the ConnectionErrorCode for who connects one.
UNWELL = {**HEALTH, "ekmFleetDetails": [{"id": "1", "model": "m", "healthStatus": "UNAVAILABLE"}] * 2}
FAILURES: list[tuple[str, Step, str, str]] = [
    ("validation", error("ValidationException"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    (
        "credential",
        error("AuthenticationFailedException"),
        "XksProxyIncorrectAuthenticationCredentialException",
        "INVALID_CREDENTIALS",
    ),
    ("denied", error("AccessDeniedException", 403), "XksProxyInvalidResponseException", "XKS_PROXY_ACCESS_DENIED"),
    ("path", error("InvalidUriPathException"), "XksProxyInvalidConfigurationException", "XKS_PROXY_INVALID_CONFIGURATION"),
    ("state", error("InvalidStateException"), "XksProxyInvalidConfigurationException", "XKS_PROXY_INVALID_CONFIGURATION"),
    ("dependency", error("DependencyTimeoutException", 503), "XksProxyUriUnreachableException", "XKS_PROXY_TIMED_OUT"),
    ("throttled", error("ThrottlingException", 429), "XksProxyUriUnreachableException", "XKS_PROXY_NOT_REACHABLE"),
    ("internal", error("InternalException", 500), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("unknown error", error("TeapotException", 418), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("error without name", answers(500, b"{}"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("error as a number", answers(400, b'{"errorName": 7}'), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("error of a gateway", answers(502, b"<html>"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("a redirect", answers(302, b"{}", ("Location", "/")), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("no JSON", answers(200, b"OK"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("a list", answers(200, b"[]"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("an empty object", answers(200, b"{}"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("too long", answers(200, b" " * 70_000 + b"{}"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    ("no HTTP", sends(b"SSH-2.0-OpenSSH\r\n\r\n"), "XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE"),
    (
        "cut off",
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"),
        "XksProxyInvalidResponseException",
        "XKS_PROXY_INVALID_RESPONSE",
    ),
    ("reset", resets(), "XksProxyUriUnreachableException", "XKS_PROXY_NOT_REACHABLE"),
    ("all unavailable", answers(200, orjson.dumps(UNWELL)), "XksProxyUriUnreachableException", "XKS_PROXY_NOT_REACHABLE"),
]


@pytest.mark.parametrize(("step", "code", "connection"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_what_a_proxy_can_do_wrong(xks: XksWorld, step: Step, code: str, connection: str) -> None:
    xks.proxy.script.extend([step] * 2)  # a connection that breaks is tried once more
    refusal = xks.refused("CreateCustomKeyStore", **store_members())
    assert refusal.code == code and "hidden reason" not in (refusal.message or "")
    assert xks("DescribeCustomKeyStores")["CustomKeyStores"] == []
    xks.proxy.script.clear()
    store_id = xks.new_store(connected=False)
    xks.proxy.script.extend([step] * 2)
    assert xks("ConnectCustomKeyStore", CustomKeyStoreId=store_id) == {}
    entry = xks.store_entry(store_id)
    assert (entry["ConnectionState"], entry["ConnectionErrorCode"]) == ("FAILED", connection)
    xks.proxy.script.clear()
    for operation in ("ConnectCustomKeyStore", "DeleteCustomKeyStore", "UpdateCustomKeyStore"):
        assert xks.refused(operation, CustomKeyStoreId=store_id).code == "CustomKeyStoreInvalidStateException"
    xks("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    assert "ConnectionErrorCode" not in xks.store_entry(store_id)
    xks("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    assert xks.store_entry(store_id)["ConnectionState"] == "CONNECTED"


def test_every_code_is_the_service_models() -> None:
    model = get_session().get_service_model("kms")
    known = {shape.name for shape in model.error_shapes}
    connections = set(getattr(model.shape_for("ConnectionErrorCodeType"), "enum"))  # noqa: B009 - botocore has no types for it
    assert {code for fault in Fault for code in (fault.meaning.store, fault.meaning.key)} <= known
    assert {fault.meaning.connection for fault in Fault} <= connections
    assert len({fault.meaning.message for fault in Fault}) == len(Fault.__members__)
    assert len(ERROR_NAMES) == 12


HEALTHS: list[tuple[str, dict[str, Any]]] = [
    ("no proxies", {"xksProxyFleetSize": 0}),
    ("a size that is no number", {"xksProxyFleetSize": "2"}),
    ("a size that is true", {"xksProxyFleetSize": True}),
    ("no vendor", {"xksProxyVendor": None}),
    ("no managers", {"ekmFleetDetails": []}),
    ("too many managers", {"ekmFleetDetails": HEALTH["ekmFleetDetails"] * 11}),
    ("managers of another kind", {"ekmFleetDetails": ["hsm-1"]}),
    ("a manager without a model", {"ekmFleetDetails": [{"id": "1", "healthStatus": "ACTIVE"}]}),
    ("a health that is not known", {"ekmFleetDetails": [{"id": "1", "model": "m", "healthStatus": "FINE"}]}),
]


@pytest.mark.parametrize("changed", [row[1] for row in HEALTHS], ids=[row[0] for row in HEALTHS])
def test_a_health_that_cannot_be_read(xks: XksWorld, changed: dict[str, Any]) -> None:
    xks.proxy.health = HEALTH | changed
    assert xks.refused("CreateCustomKeyStore", **store_members()).code == "XksProxyInvalidResponseException"


def test_one_key_manager_that_can_still_serve_is_enough(xks: XksWorld) -> None:
    ill = [{"id": "1", "model": "m", "healthStatus": status} for status in ("UNAVAILABLE", "DEGRADED")]
    xks.proxy.health = HEALTH | {"ekmFleetDetails": ill}
    assert xks.new_store()


def test_a_proxy_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    world = XksWorld(tmp_path, timeout_s=0.2)
    world.proxy.script.append(hangs())
    refusal = world.refused("CreateCustomKeyStore", **store_members())
    assert (refusal.code, refusal.message) == (
        "XksProxyUriUnreachableException",
        "The external key store proxy did not answer in time.",
    )
    world.close()


def test_a_proxy_that_is_not_there(xks: XksWorld) -> None:
    xks.runner.run(xks.proxy.stop())
    refusal = xks.refused("CreateCustomKeyStore", **store_members())
    assert refusal.code == "XksProxyUriUnreachableException" and "cannot be reached" in (refusal.message or "")


@pytest.mark.parametrize("fault", ["another name", "another authority"])
def test_a_proxy_whose_certificate_is_not_its_own(xks: XksWorld, fault: str) -> None:
    xks.runner.run(xks.proxy.stop())
    xks.proxy.tls = AUTHORITY.server("other.test")
    if fault == "another authority":
        xks.proxy.tls = AUTHORITY.server("xks.test")
        xks.tls = ssl.create_default_context()
    xks.runner.run(xks.proxy.__aenter__())
    refusal = xks.refused("CreateCustomKeyStore", **store_members())
    assert refusal.code == "XksProxyUriUnreachableException" and "TLS" in (refusal.message or "")
    assert xks.proxy.received == []


@pytest.mark.parametrize(
    ("addresses", "left"),
    [
        (["127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::ffff:127.0.0.1", "224.0.0.1"], []),  # noqa: S104
        (["127.0.0.1", "192.0.2.7"], ["192.0.2.7"]),
        (["10.1.2.3", "2001:db8::1"], ["10.1.2.3", "2001:db8::1"]),
    ],
)
async def test_a_name_of_a_callers_does_not_lead_to_this_machine(addresses: list[str], left: list[str]) -> None:
    resolver = Elsewhere(_Found(addresses))
    if not left:
        with pytest.raises(NotSent, match="xks_hosts"):
            await resolver.resolve("xks.test")
    else:
        assert [address.host for address in await resolver.resolve("xks.test")] == left
    await resolver.close()


class _Found:
    """A resolver that finds these."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = [Address(address) for address in addresses]

    async def resolve(self, host: str) -> list[Address]:
        return self._addresses

    async def close(self) -> None:
        pass


def test_a_wrong_credential_is_told(xks: XksWorld) -> None:
    members = store_members() | {"XksProxyAuthenticationCredential": OTHER_CREDENTIAL}
    assert xks.refused("CreateCustomKeyStore", **members).code == "XksProxyIncorrectAuthenticationCredentialException"


@pytest.mark.parametrize(
    "missing", ["XksProxyConnectivity", "XksProxyAuthenticationCredential", "XksProxyUriEndpoint", "XksProxyUriPath"]
)
def test_what_an_external_store_must_have(xks: XksWorld, missing: str) -> None:
    members = {name: value for name, value in store_members().items() if name != missing}
    refusal = xks.refused("CreateCustomKeyStore", **members)
    assert (refusal.code, refusal.message) == ("ValidationException", f"{missing} is required for external key stores.")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"CustomKeyStoreType": "AWS_CLOUDHSM"}, "UnsupportedOperationException"),
        ({"CloudHsmClusterId": "cluster-1a23b4cdefg"}, "ValidationException"),
        ({"KeyStorePassword": "kmsPswd"}, "ValidationException"),
        ({"XksProxyVpcEndpointServiceName": SERVICE}, "ValidationException"),
        ({"XksProxyConnectivity": "VPC_ENDPOINT_SERVICE"}, "ValidationException"),
    ],
)
def test_what_does_not_go_together(xks: XksWorld, changed: dict[str, Any], code: str) -> None:
    assert xks.refused("CreateCustomKeyStore", **store_members() | changed).code == code
    assert xks.proxy.received == []


def test_without_a_type_it_would_be_a_cloudhsm_which_is_not_here(xks: XksWorld) -> None:
    refusal = xks.refused("CreateCustomKeyStore", CustomKeyStoreName="x", CloudHsmClusterId="cluster-1a23b4cdefg")
    assert refusal.code == "UnsupportedOperationException" and "no CloudHSM" in (refusal.message or "")


def test_without_a_way_to_proxies_there_are_no_stores(world: World) -> None:
    assert world.refused("CreateCustomKeyStore", **store_members()).code == "UnsupportedOperationException"


def test_a_store_with_an_endpoint_service_is_first_asked_when_it_is_connected(xks: XksWorld) -> None:
    store_id = xks.new_store(connected=False, **PRIVATE)
    assert xks.proxy.received == []
    configuration = xks.store_entry(store_id)["XksProxyConfiguration"]
    assert (configuration["VpcEndpointServiceName"], configuration["VpcEndpointServiceOwner"]) == (SERVICE, ALICE.account_id)
    xks("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    assert xks.store_entry(store_id)["ConnectionState"] == "CONNECTED"


def test_names_and_places_are_a_stores_own(xks: XksWorld) -> None:
    xks.new_store()
    other = {"CustomKeyStoreName": "other"}
    elsewhere = {"XksProxyUriPath": "/other/kms/xks/v1"}
    cases: list[tuple[dict[str, Any], str]] = [
        (elsewhere, "CustomKeyStoreNameInUseException"),
        (other, "XksProxyUriInUseException"),
        (other | elsewhere | PRIVATE, "XksProxyUriEndpointInUseException"),
    ]
    for changed, code in cases:
        assert xks.refused("CreateCustomKeyStore", **store_members() | changed).code == code
    private = store_members("private") | PRIVATE | {"XksProxyUriEndpoint": "https://private.test"}
    xks("CreateCustomKeyStore", **private)
    again = private | {"CustomKeyStoreName": "again", "XksProxyUriEndpoint": "https://again.test"}
    assert xks.refused("CreateCustomKeyStore", **again).code == "XksProxyVpcEndpointServiceInUseException"
    xks.caller = BOB  # another account's are no hindrance
    assert xks.new_store()


def test_a_region_has_a_limit(xks: XksWorld) -> None:
    for number in range(10):
        service = {"XksProxyVpcEndpointServiceName": SERVICE[:-1] + str(number), "XksProxyUriEndpoint": f"https://{number}.test"}
        xks.new_store(f"store {number}", connected=False, **PRIVATE | service)
    assert xks.refused("CreateCustomKeyStore", **store_members("eleventh")).code == "LimitExceededException"


def test_stores_are_listed_and_found(xks: XksWorld) -> None:
    ids = []
    for name, more in (("one", {}), ("two", PRIVATE | {"XksProxyUriEndpoint": "https://two.test"})):
        ids.append(xks.new_store(name, connected=False, **more))
    listed = xks("DescribeCustomKeyStores", Limit=1)
    assert listed["Truncated"] and len(listed["CustomKeyStores"]) == 1
    rest = xks("DescribeCustomKeyStores", Limit=1, Marker=listed["NextMarker"])
    assert not rest["Truncated"]
    assert [one["CustomKeyStoreId"] for one in (*listed["CustomKeyStores"], *rest["CustomKeyStores"])] == sorted(ids)
    [found] = xks("DescribeCustomKeyStores", CustomKeyStoreName="two")["CustomKeyStores"]
    assert found["CustomKeyStoreId"] == ids[1]
    both = {"CustomKeyStoreName": "two", "CustomKeyStoreId": ids[1]}
    assert xks.refused("DescribeCustomKeyStores", **both).code == "ValidationException"
    for members in ({"CustomKeyStoreName": "three"}, {"CustomKeyStoreId": "cks-3"}):
        assert xks.refused("DescribeCustomKeyStores", **members).code == "CustomKeyStoreNotFoundException"
    xks.caller = BOB
    assert xks("DescribeCustomKeyStores") == {"CustomKeyStores": [], "Truncated": False}
    for operation in ("ConnectCustomKeyStore", "DisconnectCustomKeyStore", "UpdateCustomKeyStore", "DeleteCustomKeyStore"):
        assert xks.refused(operation, CustomKeyStoreId=ids[0]).code == "CustomKeyStoreNotFoundException"


def test_a_store_is_altered(xks: XksWorld) -> None:
    store_id = xks.new_store(connected=False)
    before = xks.store_entry(store_id)
    xks("UpdateCustomKeyStore", CustomKeyStoreId=store_id, NewCustomKeyStoreName="renamed")
    assert xks.store_entry(store_id) == {**before, "CustomKeyStoreName": "renamed"}
    assert len(xks.proxy.received) == 1  # a name is none of the proxy's affair
    private = PRIVATE | {"XksProxyUriEndpoint": "https://two.test"}
    xks("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **private)
    configuration = xks.store_entry(store_id)["XksProxyConfiguration"]
    assert configuration["UriEndpoint"] == "https://two.test" and configuration["VpcEndpointServiceName"] == SERVICE
    public = {"XksProxyConnectivity": "PUBLIC_ENDPOINT", "XksProxyUriEndpoint": ENDPOINT}
    xks("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **public)
    assert xks.store_entry(store_id)["XksProxyConfiguration"] == before["XksProxyConfiguration"]
    assert xks.proxy.received[-1][1]["requestMetadata"]["kmsOperation"] == "UpdateCustomKeyStore"


def test_what_an_altered_store_leads_to_is_asked_before(xks: XksWorld) -> None:
    store_id = xks.new_store()
    before = xks.store_entry(store_id)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"XksProxyAuthenticationCredential": OTHER_CREDENTIAL}, "XksProxyIncorrectAuthenticationCredentialException"),
        ({"XksProxyUriPath": "/nowhere/kms/xks/v1"}, "XksProxyInvalidConfigurationException"),
    ]
    for changed, code in cases:
        assert xks.refused("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **changed).code == code
    assert xks.store_entry(store_id) == before


def test_a_connected_store_keeps_its_endpoint(xks: XksWorld) -> None:
    store_id = xks.new_store()
    for changed in ({"XksProxyUriEndpoint": "https://two.test"}, PRIVATE):
        refusal = xks.refused("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **changed)
        assert refusal.code == "CustomKeyStoreInvalidStateException"
    xks("UpdateCustomKeyStore", CustomKeyStoreId=store_id, NewCustomKeyStoreName="renamed")
    assert xks.store_entry(store_id)["ConnectionState"] == "CONNECTED"


def test_an_altered_store_may_not_be_like_another(xks: XksWorld) -> None:
    xks.new_store()
    private = PRIVATE | {"XksProxyUriEndpoint": "https://two.test"}
    other = xks.new_store("other", connected=False, **private)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"NewCustomKeyStoreName": "ours"}, "CustomKeyStoreNameInUseException"),
        ({"XksProxyUriEndpoint": ENDPOINT}, "XksProxyUriEndpointInUseException"),
        ({"XksProxyUriEndpoint": ENDPOINT, "XksProxyConnectivity": "PUBLIC_ENDPOINT"}, "XksProxyUriInUseException"),
        ({"KeyStorePassword": "kmsPswd"}, "ValidationException"),
    ]
    for changed, code in cases:
        assert xks.refused("UpdateCustomKeyStore", CustomKeyStoreId=other, **changed).code == code


def test_a_store_is_deleted_when_it_is_disconnected_and_empty(xks: XksWorld) -> None:
    store_id = xks.new_store()
    key = xks.external_key(store_id)
    assert xks.refused("DeleteCustomKeyStore", CustomKeyStoreId=store_id).code == "CustomKeyStoreHasCMKsException"
    xks("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert xks.refused("DeleteCustomKeyStore", CustomKeyStoreId=store_id).code == "CustomKeyStoreHasCMKsException"
    xks.clock.now_s += 8 * 86_400
    assert xks.refused("DeleteCustomKeyStore", CustomKeyStoreId=store_id).code == "CustomKeyStoreInvalidStateException"
    xks("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    assert xks("DeleteCustomKeyStore", CustomKeyStoreId=store_id) == {}
    assert xks("DescribeCustomKeyStores")["CustomKeyStores"] == []
    assert xks.refused("DeleteCustomKeyStore", CustomKeyStoreId=store_id).code == "CustomKeyStoreNotFoundException"


def test_an_external_store_gives_no_random_bytes(xks: XksWorld) -> None:
    store_id = xks.new_store()
    assert xks.refused("GenerateRandom", NumberOfBytes=8, CustomKeyStoreId=store_id).code == "UnsupportedOperationException"
    assert xks.refused("GenerateRandom", NumberOfBytes=8, CustomKeyStoreId="cks-1").code == "CustomKeyStoreNotFoundException"


# --- what changes while a proxy is asked


def _meanwhile(xks: XksWorld, change: Callable[[], object]) -> None:
    """`change` happens in another worker, before the next answer of the proxy."""
    wrapped = xks.proxy.spoil

    def once(answer: dict[str, Any]) -> None:
        xks.proxy.spoil = wrapped
        change()

    xks.proxy.spoil = once


def _altered_elsewhere(xks: XksWorld, store_id: str, **members: Any) -> None:
    with xks.store.change() as tx:
        row = tx.get(CUSTOM_STORE, REGION, store_id)
        assert row is not None
        body, secret = store_body(replace(store_of(row), **members))
        tx.put(CUSTOM_STORE, REGION, store_id, body, secret)


def test_of_two_that_make_one_store_the_second_is_refused(xks: XksWorld) -> None:
    other = replace(_store(xks, xks.new_store(connected=False)), id="cks-other", name="ours", path="/other/kms/xks/v1")
    xks("DeleteCustomKeyStore", CustomKeyStoreId=_only(xks))

    def make() -> None:
        body, secret = store_body(other)
        with xks.store.change() as tx:
            tx.put(CUSTOM_STORE, REGION, other.id, body, secret)

    _meanwhile(xks, make)
    assert xks.refused("CreateCustomKeyStore", **store_members()).code == "CustomKeyStoreNameInUseException"
    assert _only(xks) == "cks-other"


@pytest.mark.parametrize(
    ("operation", "members"),
    [("ConnectCustomKeyStore", {}), ("UpdateCustomKeyStore", {"XksProxyUriPath": PATH})],
)
def test_a_store_that_was_altered_meanwhile_is_left_as_it_is(xks: XksWorld, operation: str, members: dict[str, Any]) -> None:
    store_id = xks.new_store(connected=False)
    if operation == "UpdateCustomKeyStore":
        _altered_elsewhere(xks, store_id, path="/wrong/kms/xks/v1")
    _meanwhile(xks, lambda: _altered_elsewhere(xks, store_id, secret_access_key="b" * 43))
    refusal = xks.refused(operation, CustomKeyStoreId=store_id, **members)
    assert refusal.code == "CustomKeyStoreInvalidStateException" and "same time" in (refusal.message or "")
    assert _store(xks, store_id).state == "DISCONNECTED" and _store(xks, store_id).secret_access_key == "b" * 43


def test_no_key_is_made_in_a_store_that_was_disconnected_meanwhile(xks: XksWorld) -> None:
    store_id = xks.new_store()
    _meanwhile(xks, lambda: _altered_elsewhere(xks, store_id, state="DISCONNECTED"))
    asked = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": "first"}
    assert xks.refused("CreateKey", **asked).code == "CustomKeyStoreInvalidStateException"
    assert xks("ListKeys")["Keys"] == []


def test_every_worker_knows_a_store_at_once(xks: XksWorld) -> None:
    other = World(xks.path, xks.clock, xks=xks.client)
    other("ListKeys")
    key = xks.external_key(xks.new_store())
    assert other("DescribeCustomKeyStores")["CustomKeyStores"] == xks("DescribeCustomKeyStores")["CustomKeyStores"]
    xks("DisconnectCustomKeyStore", CustomKeyStoreId=_only(xks))
    assert other.refused("Encrypt", KeyId=key, Plaintext=b"x").code == "KMSInvalidStateException"
    other.close()


def _store(xks: XksWorld, store_id: str) -> CustomStore:
    with xks.store.change() as tx:
        row = tx.get(CUSTOM_STORE, REGION, store_id)
    assert row is not None
    return store_of(row)


def _only(xks: XksWorld) -> str:
    [store] = xks("DescribeCustomKeyStores")["CustomKeyStores"]
    store_id: str = store["CustomKeyStoreId"]
    return store_id
