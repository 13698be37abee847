"""The components that other tests rely on do what those tests believe of them."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.moto import KMS, REGION, MotoServer, moto_server
from tests.integration.components.node_client import NodeClient
from tests.integration.components.squid import Access, Squid, SquidOptions, squid
from tests.integration.components.stub import Credential, Fault, StubUpstream, stub_upstream
from tests.integration.conftest import wait_until

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

ALICE = Credential("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", arn="arn:aws:iam::111122223333:user/alice")
ROLE = Credential("another-secret", "FwoGZXIvYXdzEXAMPLE", "arn:aws:sts::111122223333:assumed-role/app/one")
CREDENTIALS = {"AKIAALICE": ALICE, "ASIAROLE": ROLE}
CONTEXT = {"tenant": "acme"}


@dataclass
class World:
    """The module's certificate authority and moto, with a key `key_id`."""

    folder: Path
    authority: CertificateAuthority
    moto: MotoServer
    key_id: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("components")
    authority = CertificateAuthority(folder)
    with moto_server(folder, authority) as moto:
        client = kms(moto.url, authority)
        yield World(folder, authority, moto, client.create_key()["KeyMetadata"]["KeyId"])


@pytest.fixture
def stub(world: World, tmp_path: Path) -> Iterator[StubUpstream]:
    with stub_upstream(tmp_path, world.authority.server(KMS, "127.0.0.1"), CREDENTIALS) as running:
        yield running


def kms(
    url: str, authority: CertificateAuthority, access_key_id: str = "AKIAALICE", proxy: str | None = None, **config: Any
) -> KMSClient:
    """A boto3 client that tries once; `config` are settings of botocore."""
    credential = CREDENTIALS[access_key_id]
    return boto3.client(
        "kms",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=credential.secret_access_key,
        aws_session_token=credential.session_token,
        verify=str(authority.bundle),
        config=botocore.config.Config(
            retries={"total_max_attempts": 1},
            read_timeout=config.pop("read_timeout", 10),
            proxies={} if proxy is None else {"https": proxy},
            proxies_config={"proxy_ca_bundle": str(authority.bundle)},
            **config,
        ),
    )


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


# --- certificates


def test_a_leaf_is_trusted_for_its_names_by_those_who_trust_its_authority(
    tmp_path: Path, stub: StubUpstream, world: World
) -> None:
    context = world.authority.client_context()

    def connect(context: ssl.SSLContext, name: str) -> None:
        with socket.create_connection(("127.0.0.1", stub.port), 5) as tcp, context.wrap_socket(tcp, server_hostname=name):
            pass

    connect(context, KMS)
    connect(context, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|mismatch"):
        connect(context, "kms.eu-west-1.amazonaws.com")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get|self-signed"):
        connect(CertificateAuthority(tmp_path, "another CA").client_context(), KMS)


def test_a_client_shows_its_certificate(world: World) -> None:
    server = world.authority.server("localhost").server_context()
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(world.authority.bundle)
    client = world.authority.client_context(world.authority.client("billing", "spiffe://example.org/billing"))
    here, there = socket.socketpair()
    with here, there, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(server.wrap_socket, there, server_side=True)
        with client.wrap_socket(here, server_hostname="localhost"), accepted.result(10) as accepting:
            shown = accepting.getpeercert() or {}
    assert shown["subject"] == ((("commonName", "billing"),),)
    assert shown["subjectAltName"] == (("URI", "spiffe://example.org/billing"),)


# --- moto


def test_moto_is_kms_and_sts_over_tls(world: World) -> None:
    client = kms(world.moto.url, world.authority)
    made = client.generate_data_key(KeyId=world.key_id, KeySpec="AES_256", EncryptionContext=CONTEXT)
    assert client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"] == made["Plaintext"]
    sts = boto3.client(
        "sts",
        endpoint_url=world.moto.url,
        region_name=REGION,
        aws_access_key_id="AKIAALICE",
        aws_secret_access_key="any",
        verify=str(world.authority.bundle),
    )
    role = "arn:aws:iam::123456789012:role/app"
    assumed = sts.assume_role(RoleArn=role, RoleSessionName="alice", SourceIdentity="alice")
    assert assumed["AssumedRoleUser"]["Arn"] == "arn:aws:sts::123456789012:assumed-role/app/alice"
    assert assumed["Credentials"]["SessionToken"]


def test_moto_ends_every_connection_with_its_answer(world: World) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", world.moto.port, timeout=10, context=world.authority.client_context())
    connection.request("POST", "/", b"{}", {"X-Amz-Target": "TrentService.ListKeys", "Host": KMS})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert (response.version, response.headers["Connection"]) == (11, "close")


def test_moto_starts_again_on_its_port(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    with moto_server(tmp_path, authority) as moto:
        port = moto.port
        kms(moto.url, authority).create_key()
        moto.stop()
        with pytest.raises(EndpointConnectionError):
            kms(moto.url, authority).list_keys()
        moto.start()
        assert moto.port == port
        assert kms(moto.url, authority).list_keys()["Keys"] == []
        assert moto.requests == ["POST / HTTP/1.1"] * 2


# --- Squid


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_boto3_reaches_moto_through_squid_with_a_password(world: World, tmp_path: Path, scheme: str) -> None:
    options = SquidOptions(
        users={"alice": "s3cret"},
        certificate=world.authority.server("127.0.0.1") if scheme == "https" else None,
        hosts={KMS: "127.0.0.1"},
        connect_ports=[world.moto.port],
    )
    target = f"{KMS}:{world.moto.port}"
    with squid(tmp_path, options) as proxy:
        assert proxy.url().startswith(f"{scheme}://")
        client = kms(f"https://{target}", world.authority, proxy=proxy.url("alice"))
        assert client.describe_key(KeyId=world.key_id)["KeyMetadata"]["KeyId"] == world.key_id
        client.close()
        wrong = proxy.url("alice").replace("s3cret", "guess")
        for refused in (proxy.url(), wrong):
            with pytest.raises(ProxyConnectionError):
                kms(f"https://{target}", world.authority, proxy=refused).list_keys()
        with pytest.raises(ProxyConnectionError):
            kms(f"https://{KMS}:9", world.authority, proxy=proxy.url("alice")).list_keys()
        wait_until(lambda: len(proxy.accesses) == 4, "the log has all of it")
        assert proxy.accesses[0] == Access("CONNECT", target, 200, "alice", "HIER_DIRECT/127.0.0.1")
        assert [access.status for access in proxy.accesses] == [200, 407, 407, 403]


def test_squid_passes_everything_to_its_parent(world: World, tmp_path: Path) -> None:
    with (
        squid(tmp_path, SquidOptions(hosts={KMS: "127.0.0.1"})) as parent,
        squid(tmp_path, SquidOptions(parent_port=parent.port)) as child,
    ):
        client = kms(f"https://{KMS}:{world.moto.port}", world.authority, proxy=child.url())
        assert client.list_keys()["Keys"]
        client.close()
        wait_until(lambda: bool(child.accesses and tunnels(parent)), "both have logged it")
        (came,), (went,) = child.accesses, tunnels(parent)
        assert (came.status, came.hierarchy) == (200, "FIRSTUP_PARENT/127.0.0.1")
        assert (went.method, went.target, went.status) == ("CONNECT", f"{KMS}:{world.moto.port}", 200)


def tunnels(proxy: Squid) -> list[Access]:
    """A Squid also connects to its parent only to see whether it is there, and says nothing: that is logged as well."""
    return [access for access in proxy.accesses if access.method == "CONNECT"]


def test_squids_stand_side_by_side_and_start_again_on_their_ports(tmp_path: Path) -> None:
    with squid(tmp_path) as one, squid(tmp_path) as other:
        port = one.port
        assert port != other.port
        one.stop()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        one.start()
        assert one.port == port


# --- Node


def test_nodes_sdk_makes_a_round_trip(world: World, stub: StubUpstream) -> None:
    for url, key_id in ((world.moto.url, world.key_id), (stub.url, "alias/app")):
        told = NodeClient().round_trip(url, key_id, "AKIAALICE", ALICE.secret_access_key, world.authority.bundle)
        assert (told["plaintextBytes"], told["plaintextsAgree"]) == (32, True)
        assert len(set(told["keyIds"])) == 1
    assert {entry.refused for entry in stub.journal} == {None}
    assert sorted(itertools.chain(*told["requestIds"].values())) == sorted(entry.request_id for entry in stub.journal)


def test_nodes_sdk_tells_its_error(world: World, stub: StubUpstream) -> None:
    told = NodeClient().round_trip(stub.url, "alias/app", "AKIANOBODY", "a-secret", world.authority.bundle)
    assert told == {
        "error": "UnrecognizedClientException",
        "message": "no such access key, or not its session token",
        "requestId": stub.journal[0].request_id,
    }


# --- the stub: signatures


@pytest.mark.parametrize("access_key_id", list(CREDENTIALS))
@pytest.mark.parametrize("path", ["", "/team-a", "/a%20b"])
def test_the_stub_accepts_what_boto3_signs(stub: StubUpstream, world: World, access_key_id: str, path: str) -> None:
    client = kms(stub.url + path, world.authority, access_key_id)
    made = client.generate_data_key(KeyId="alias/app", KeySpec="AES_256", EncryptionContext=CONTEXT)
    opened = client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["Plaintext"]
    first, second = stub.journal
    assert (first.operation, second.operation) == ("GenerateDataKey", "Decrypt")
    assert first.fingerprint == second.fingerprint
    assert (first.refused, first.access_key_id) == (None, access_key_id)
    assert first.request_id == made["ResponseMetadata"]["RequestId"]
    assert first.header("host") == [f"127.0.0.1:{stub.port}"]


BODY = b'{"KeyId":"alias/app","KeySpec":"AES_256"}'
TAMPERED = {
    "nothing": (None, "", b"", None),
    "an unsigned header": (None, "User-Agent", b"other", None),
    "the body": (BODY.replace(b"256", b"128"), "", b"", "InvalidSignatureException"),
    "the operation": (None, "X-Amz-Target", b"TrentService.ScheduleKeyDeletion", "InvalidSignatureException"),
    "the host": (None, "Host", b"kms.us-east-1.amazonaws.com", "InvalidSignatureException"),
    "the date": (None, "X-Amz-Date", b"20200101T000000Z", "InvalidSignatureException"),
    "a token of another": (None, "X-Amz-Security-Token", b"other", "UnrecognizedClientException"),
    "no signature": (None, "Authorization", b"", "MissingAuthenticationTokenException"),
    "half a signature": (None, "Authorization", b"AWS4-HMAC-SHA256 Credential=AKIAALICE", "IncompleteSignatureException"),
}


@pytest.mark.parametrize("what", list(TAMPERED))
def test_the_stub_refuses_what_was_changed_after_signing(stub: StubUpstream, world: World, what: str) -> None:
    body, name, value, expected = TAMPERED[what]
    request = AWSRequest("POST", f"{stub.url}/", data=BODY, headers={"X-Amz-Target": "TrentService.GenerateDataKey"})
    request.headers["Content-Type"] = "application/x-amz-json-1.1"
    request.headers["Host"] = f"127.0.0.1:{stub.port}"
    SigV4Auth(Credentials("AKIAALICE", ALICE.secret_access_key), "kms", REGION).add_auth(request)
    headers = dict(request.headers.items())
    if name:
        headers.pop(name, None)
    if value:
        headers[name] = value.decode()
    connection = http.client.HTTPSConnection("127.0.0.1", stub.port, timeout=10, context=world.authority.client_context())
    connection.request("POST", "/", body or BODY, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert answer.get("__type") == expected
    assert (stub.journal[0].refused or "").partition(":")[0] == (expected or "")


def test_the_stub_answers_any_operation_and_no_ciphertext_but_its_own(stub: StubUpstream, world: World) -> None:
    client = kms(stub.url, world.authority)
    assert client.create_key()["KeyMetadata"]["Enabled"]
    client.enable_key_rotation(KeyId="alias/app")
    with pytest.raises(ClientError) as error:
        client.decrypt(CiphertextBlob=b"of somebody else")
    assert code(error) == "InvalidCiphertextException"
    assert [(entry.operation, entry.status) for entry in stub.journal] == [
        ("CreateKey", 200),
        ("EnableKeyRotation", 200),
        ("Decrypt", 400),
    ]


# --- the stub: faults

ANSWERED = {
    Fault.INTERNAL: ("KMSInternalException", 500),
    Fault.UNAVAILABLE: ("ServiceUnavailableException", 503),
    Fault.HTML: ("503", 503),
    Fault.THROTTLED: ("ThrottlingException", 400),
    Fault.DENIED: ("AccessDeniedException", 400),
    Fault.EXPIRED: ("ExpiredTokenException", 400),
}
BROKEN: dict[Fault, tuple[type[Exception], ...]] = {
    # Python's ssl reports a reset as a reset or as an end without TLS's goodbye, as it comes.
    Fault.RESET_ON_CONNECT: (ConnectionClosedError, SSLError),
    Fault.RESET_BEFORE_READING: (ConnectionClosedError, SSLError),
    Fault.RESET_AFTER_READING: (ConnectionClosedError, SSLError),
    Fault.HANG: (ReadTimeoutError,),
    Fault.RUBBISH: (ConnectionClosedError, HTTPClientError),
}
#: boto3 takes these for an answer that says nothing: it does not compare the length.
HOLLOW = (Fault.RUBBISH_BODY, Fault.TRUNCATED)
#: The answer is whole; how many connections two calls need.
KEPT = {Fault.TRICKLE: 1, Fault.CLOSE: 2, Fault.CLOSE_SILENTLY: 2}


def test_every_fault_is_tried_here() -> None:
    assert {*ANSWERED, *BROKEN, *HOLLOW, *KEPT} == set(Fault)


@pytest.mark.parametrize("fault", ANSWERED)
def test_a_fault_that_is_an_answer(stub: StubUpstream, world: World, fault: Fault) -> None:
    client = kms(stub.url, world.authority)
    stub.fail(fault, operation="DescribeKey")
    client.list_keys()
    with pytest.raises(ClientError) as error:
        client.describe_key(KeyId="alias/app")
    assert (code(error), error.value.response["ResponseMetadata"]["HTTPStatusCode"]) == ANSWERED[fault]
    if fault is Fault.DENIED:
        assert error.value.response["Error"]["Message"].startswith(
            f"User: {ALICE.arn} is not authorized to perform: kms:DescribeKey"
        )
    client.describe_key(KeyId="alias/app")
    assert [entry.fault for entry in stub.journal] == [None, fault, None]


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_that_is_no_answer(stub: StubUpstream, world: World, fault: Fault) -> None:
    client = kms(stub.url, world.authority, read_timeout=4 if fault is Fault.HANG else 10)
    stub.fail(fault)
    with pytest.raises(BROKEN[fault]):
        client.generate_data_key(KeyId="alias/app", KeySpec="AES_256")
    client.list_keys()
    uncalled = fault in (Fault.RESET_ON_CONNECT, Fault.RESET_BEFORE_READING)
    assert [entry.fault for entry in stub.journal] == ([None] if uncalled else [fault, None])


@pytest.mark.parametrize("fault", HOLLOW)
def test_a_fault_that_leaves_half_an_answer(stub: StubUpstream, world: World, fault: Fault) -> None:
    client = kms(stub.url, world.authority)
    stub.fail(fault)
    hollow = client.generate_data_key(KeyId="alias/app", KeySpec="AES_256")
    assert set(hollow) == {"ResponseMetadata"}
    assert hollow["ResponseMetadata"]["RequestId"] == stub.journal[0].request_id
    # A client of its own: urllib3 would use the connection again although its end was read.
    assert kms(stub.url, world.authority).generate_data_key(KeyId="alias/app", KeySpec="AES_256")["Plaintext"]


@pytest.mark.parametrize("fault", KEPT)
def test_a_fault_that_spares_the_answer(stub: StubUpstream, world: World, fault: Fault) -> None:
    client = kms(stub.url, world.authority)
    stub.fail(fault)
    client.list_keys()
    stub.recover()  # by now it has closed what it closes
    client.list_keys()
    assert [entry.fault for entry in stub.journal] == [fault, None]
    assert len({entry.connection for entry in stub.journal}) == KEPT[fault]


def test_faults_come_in_their_order_until_they_are_taken_back(stub: StubUpstream, world: World) -> None:
    client = kms(stub.url, world.authority)
    stub.fail(Fault.THROTTLED, Fault.INTERNAL, *[Fault.DENIED] * 5)
    for expected in ("ThrottlingException", "KMSInternalException", "AccessDeniedException"):
        with pytest.raises(ClientError) as error:
            client.list_keys()
        assert code(error) == expected
    stub.recover()
    client.list_keys()


def test_the_stub_stops_like_a_crash_and_starts_again_on_its_port(stub: StubUpstream, world: World) -> None:
    client = kms(stub.url, world.authority)
    blob = client.encrypt(KeyId="alias/app", Plaintext=b"in confidence")["CiphertextBlob"]
    port = stub.port
    stub.stop()
    with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
        client.list_keys()
    stub.start()
    assert stub.port == port
    assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"in confidence"
    assert [entry.operation for entry in stub.journal] == ["Encrypt", "Decrypt"]


# --- what is not there


@pytest.mark.parametrize(("required", "outcome"), [("", "Skipped"), ("required", "Failed")])
def test_a_server_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, required: str, outcome: str) -> None:
    from tests.integration.components import require_program

    monkeypatch.setenv("TEST_SERVERS", required)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match=r"install\.sh as root") as raised:
        require_program("no-such-server")
    assert type(raised.value).__name__ == outcome


def test_the_lock_of_nodes_packages_names_no_place() -> None:
    lock = json.loads((Path(__file__).parent / "components" / "node" / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("resolved" not in package and package["integrity"].startswith("sha512-") for package in packages)
