"""keytrail where a company's traffic passes: under KMS's own names (private DNS), and as its forward proxy; unmodified clients.

The stub verifies every signature as AWS does, so what it accepts arrived as the client signed it.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError, ProxyConnectionError

from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.squid import SquidOptions, squid
from tests.integration.components.stub import Credential, Fault, StubUpstream, stub_upstream
from tests.integration.conftest import LIMIT_S, Server, keytrail, keytrail_command, wait_until

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

REGION = "us-east-1"
KMS = f"kms.{REGION}.amazonaws.com"
STS = f"sts.{REGION}.amazonaws.com"
ALICE_ARN = "arn:aws:iam::111122223333:user/alice"
ALICE = ("AKIAQ222222222222222", "alices-secret")
APP = Credential("apps-secret", "apps-session-token", "arn:aws:sts::111122223333:assumed-role/app/one")
APP_KEY = "ASIAQ333333333333333"
CREDENTIALS = {ALICE[0]: Credential(ALICE[1], arn=ALICE_ARN), APP_KEY: APP}
CONTEXT = {"tenant": "acme"}

#: Plays the company's private DNS for a Python client: KMS's name leads to a port of loopback. On PYTHONPATH as sitecustomize.
PRIVATE_DNS = """
import socket
_ask = socket.getaddrinfo
def getaddrinfo(host, port, *more, **other):
    if host == {kms!r}:
        host, port = "127.0.0.1", {port}
    return _ask(host, port, *more, **other)
socket.getaddrinfo = getaddrinfo
"""


@dataclass
class World:
    folder: Path
    authority: CertificateAuthority
    stub: StubUpstream
    initialised: Path

    @contextmanager
    def keytrail(self, name: str, **further: str) -> Iterator[Server]:
        """A running keytrail that passes through to the stub; `further` are settings without their prefix."""
        data = self.folder / name
        shutil.copytree(self.initialised, data)
        settings = {
            "backend": "aws",
            "aws_signing": "pass-through",
            "aws_hosts": f"{KMS}=127.0.0.1:{self.stub.port}",
            "aws_ca_bundle": str(self.authority.bundle),
            **further,
        }
        server = Server(data, {f"KEYTRAIL_{setting.upper()}": value for setting, value in settings.items()})
        if "forward_listen" in further and "ca_certificate" not in further:
            subprocess.run([keytrail_command(), "ca", "init", "--data", str(data)], check=True, capture_output=True)
        server.start()
        try:
            yield server
        finally:
            assert server.stop() == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, initialised: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("topologies")
    authority = CertificateAuthority(folder)
    with stub_upstream(folder, authority.server(KMS, "127.0.0.1"), CREDENTIALS) as stub:
        yield World(folder, authority, stub, initialised)


def client(
    bundle: Path, proxy: str | None = None, url: str | None = None, access_key_id: str = ALICE[0], **config: Any
) -> KMSClient:  # Any: settings of botocore
    credential = CREDENTIALS[access_key_id]
    return boto3.client(
        "kms",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=credential.secret_access_key,
        aws_session_token=credential.session_token,
        verify=str(bundle),
        config=botocore.config.Config(
            retries={"total_max_attempts": 1}, proxies={"https": proxy, "http": proxy} if proxy else {}, **config
        ),
    )


def aws(bundle: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`aws kms …`, with nothing set but its credentials, its region, and `environment`."""
    settings = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(bundle.parent),
        "AWS_ACCESS_KEY_ID": ALICE[0],
        "AWS_SECRET_ACCESS_KEY": ALICE[1],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CA_BUNDLE": str(bundle),
        **environment,
    }
    command = [str(Path(sys.executable).with_name("aws")), "kms", *argv, "--output", "json"]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)


# --- private DNS


@dataclass
class PrivateDns:
    server: Server
    folder: Path


@pytest.fixture(scope="module")
def private_dns(world: World) -> Iterator[PrivateDns]:
    certificate = world.authority.server(KMS)
    keys = world.folder / "access-keys.toml"
    keys.write_text(f'[access_keys]\n{ALICE[0]} = "{ALICE_ARN}"\n')
    with world.keytrail(
        "private-dns",
        tls_listen="127.0.0.1:0",
        tls_certificate=str(certificate.chain),
        tls_key=str(certificate.key),
        access_keys=str(keys),
    ) as server:
        folder = world.folder / "site"
        folder.mkdir()
        port = int(server.tls_url.rpartition(":")[2])
        (folder / "sitecustomize.py").write_text(PRIVATE_DNS.format(kms=KMS, port=port))
        yield PrivateDns(server, folder)


def test_the_aws_cli_by_private_dns_has_its_signature_verified_by_aws(private_dns: PrivateDns, world: World) -> None:
    done = aws(
        world.authority.bundle,
        *("generate-data-key", "--key-id", "alias/demo", "--key-spec", "AES_256", "--encryption-context", "tenant=acme"),
        PYTHONPATH=str(private_dns.folder),
    )
    assert done.returncode == 0, done.stderr
    entry = world.stub.journal[-1]
    assert (entry.refused, entry.access_key_id, entry.header("host")) == (None, ALICE[0], [KMS])
    record = private_dns.server.records()[-1]
    part = keytrail(record)
    assert (part["topology"], part["identityProof"]) == ("private-dns", "accepted-by-upstream")
    assert (record["requestID"], record["requestParameters"]["encryptionContext"]) == (entry.request_id, CONTEXT)
    assert record["userIdentity"]["arn"] == ALICE_ARN
    assert part["fingerprintsOut"] == [entry.fingerprint]
    assert record["tlsDetails"]["clientProvidedHostHeader"] == KMS
    assert record["tlsDetails"]["tlsVersion"] in ("TLSv1.2", "TLSv1.3")


def test_a_wrong_secret_is_refused_by_aws_and_stays_claimed(private_dns: PrivateDns, world: World) -> None:
    done = aws(
        world.authority.bundle,
        *("describe-key", "--key-id", "alias/demo"),
        PYTHONPATH=str(private_dns.folder),
        AWS_SECRET_ACCESS_KEY="guess",
    )
    assert "InvalidSignatureException" in done.stderr
    record = private_dns.server.records()[-1]
    assert (record["errorCode"], keytrail(record)["identityProof"]) == ("InvalidSignatureException", "claimed")


def test_under_another_name_nothing_is_passed_through(private_dns: PrivateDns, world: World) -> None:
    access_key_id, secret_access_key = ALICE
    kms = boto3.client(
        "kms",
        region_name=REGION,
        endpoint_url=private_dns.server.url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
    )
    before = len(world.stub.journal)
    with pytest.raises(ClientError, match="under KMS's own host names"):
        kms.list_keys()
    assert len(world.stub.journal) == before
    assert keytrail(private_dns.server.records()[-1])["topology"] == "endpoint"


def test_plain_http_on_the_tls_port_is_told_so(private_dns: PrivateDns) -> None:
    with socket.create_connection(("127.0.0.1", int(private_dns.server.tls_url.rpartition(":")[2])), LIMIT_S) as tcp:
        tcp.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        told = b"".join(iter(lambda: tcp.recv(4096), b""))
    assert told.startswith(b"HTTP/1.1 400 ") and b"speaks HTTPS" in told


def test_certificates_are_read_again_without_a_restart(world: World, tmp_path: Path) -> None:
    first, second = CertificateAuthority(tmp_path, "first"), CertificateAuthority(tmp_path, "second")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    names = ("127.0.0.1", KMS)

    def put(authority: CertificateAuthority) -> None:
        made = authority.server(*names)
        shutil.copy(made.chain, chain)
        shutil.copy(made.key, key)

    def is_served(authority: CertificateAuthority, port: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), LIMIT_S) as tcp:
            try:
                with authority.client_context().wrap_socket(tcp, server_hostname="127.0.0.1"):
                    return True
            except ssl.SSLCertVerificationError:
                return False

    put(first)
    with world.keytrail("reloaded", tls_listen="127.0.0.1:0", tls_certificate=str(chain), tls_key=str(key)) as server:
        port = int(server.tls_url.rpartition(":")[2])
        assert is_served(first, port)
        put(second)
        server.process.send_signal(1)
        wait_until(lambda: is_served(second, port), "the new certificate")
        chain.write_text("rubbish")
        server.process.send_signal(1)
        wait_until(lambda: "nothing was changed" in server.outputs[0].read_text(), "the log says why")
        assert is_served(second, port)


# --- client certificates


def test_a_client_certificate_is_on_record_beside_the_signature(world: World, tmp_path: Path) -> None:
    certificate = world.authority.server(KMS, "127.0.0.1")
    clients = CertificateAuthority(tmp_path, "clients")
    shown = clients.client("billing", "spiffe://example.org/billing")
    with world.keytrail(
        "mutual",
        tls_listen="127.0.0.1:0",
        tls_certificate=str(certificate.chain),
        tls_key=str(certificate.key),
        tls_client_certificates="required",
        tls_client_ca=str(clients.bundle),
        backend="local",
        aws_signing="re-sign",
    ) as server:
        both = tmp_path / "both.pem"
        both.write_bytes(shown.chain.read_bytes() + shown.key.read_bytes())
        access_key_id, secret_access_key = server.credentials()
        kms = boto3.client(
            "kms",
            region_name=REGION,
            endpoint_url=server.tls_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            verify=str(world.authority.bundle),
            config=botocore.config.Config(client_cert=str(both)),
        )
        kms.list_keys()
        record = server.records()[-1]
        told = keytrail(record)["clientCertificate"]
        assert (told["subject"], told["issuer"]) == ("CN=billing", "CN=clients")
        assert told["alternativeNames"] == ["URI:spiffe://example.org/billing"]
        assert record["userIdentity"]["arn"].endswith("user/demo")
        before = server.count_records()
        strange = world.authority.client_context()  # with no certificate; TLS 1.3 tells it with the first byte that is read
        with (
            socket.create_connection(("127.0.0.1", int(server.tls_url.rpartition(":")[2])), LIMIT_S) as tcp,
            pytest.raises((ssl.SSLError, ConnectionResetError)),
            strange.wrap_socket(tcp, server_hostname="127.0.0.1") as session,
        ):
            session.sendall(b"GET / HTTP/1.1\r\n\r\n")
            if session.recv(1) == b"":
                raise ConnectionResetError
        assert server.count_records() == before


def test_a_client_certificate_is_asked_for_within_connect_too(world: World, tmp_path: Path) -> None:
    clients = CertificateAuthority(tmp_path, "clients")
    shown = clients.client("billing")
    both = tmp_path / "both.pem"
    both.write_bytes(shown.chain.read_bytes() + shown.key.read_bytes())
    required = {"tls_client_certificates": "required", "tls_client_ca": str(clients.bundle)}
    with world.keytrail("mutual-forward", forward_listen="127.0.0.1:0", **required) as server:
        client(bundle_of(server), server.forward_url, client_cert=str(both)).list_keys()
        assert keytrail(server.records()[-1])["clientCertificate"]["subject"] == "CN=billing"
        before = server.count_records()
        with pytest.raises(Exception, match=r"(?i)ssl|connect"):  # by when the server closes, any of three of botocore's
            client(bundle_of(server), server.forward_url).list_keys()
        assert server.count_records() == before


def sts_client(
    server: Server, bundle: Path, proxy: str | None = None, host: str = STS
) -> Any:  # Any: the types are those of KMS alone
    """STS as the first caller of an embedded KMS asks it, under its own name."""
    access_key_id, secret_access_key = server.credentials()
    return boto3.client(
        "sts",
        region_name=REGION,
        endpoint_url=f"https://{host}",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        verify=str(bundle),
        config=botocore.config.Config(retries={"total_max_attempts": 1}, proxies={"https": proxy} if proxy else {}),
    )


def of_sts(server: Server) -> dict[str, Any]:
    """The newest record, of a call to STS."""
    record = server.records()[-1]
    assert record["eventSource"] == "sts.amazonaws.com"
    return record


@pytest.mark.parametrize("host", [STS, "sts.amazonaws.com"])
def test_sts_under_its_own_names_by_private_dns(world: World, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    certificate = world.authority.server(KMS, STS, "sts.amazonaws.com")
    tls = {"tls_listen": "127.0.0.1:0", "tls_certificate": str(certificate.chain), "tls_key": str(certificate.key)}
    with world.keytrail(f"private-dns-of-{host}", backend="local", aws_signing="re-sign", **tls) as server:
        ask, port = socket.getaddrinfo, int(server.tls_url.rpartition(":")[2])

        def private_dns(name: Any, service: Any, *more: Any, **other: Any) -> Any:  # Any: as the library's own
            return ask("127.0.0.1", port, *more, **other) if name == host else ask(name, service, *more, **other)

        monkeypatch.setattr(socket, "getaddrinfo", private_dns)
        session = sts_client(server, world.authority.bundle, host=host).get_session_token()["Credentials"]
        record = of_sts(server)
        assert (record["eventName"], record["responseElements"]["accessKeyId"]) == ("GetSessionToken", session["AccessKeyId"])
        assert keytrail(record)["topology"] == "private-dns"
        assert record["tlsDetails"]["clientProvidedHostHeader"] == host


# --- the forward proxy


@pytest.fixture(scope="module")
def forward(world: World) -> Iterator[Server]:
    with world.keytrail("forward", forward_listen="127.0.0.1:0") as server:
        yield server


def bundle_of(server: Server) -> Path:
    return server.data / "ca" / "ca.pem"


def test_boto3_with_nothing_but_a_proxy_and_a_ca(forward: Server, world: World) -> None:
    kms = client(bundle_of(forward), forward.forward_url)
    made = kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext=CONTEXT)
    assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"] == made["Plaintext"]
    generated, decrypted = forward.records()[-2:]
    assert [entry.refused for entry in world.stub.journal[-2:]] == [None, None]
    assert generated["requestID"] == made["ResponseMetadata"]["RequestId"] == world.stub.journal[-2].request_id
    for record in (generated, decrypted):
        part = keytrail(record)
        assert (part["topology"], part["identityProof"]) == ("forward-proxy", "accepted-by-upstream")


def test_the_aws_cli_with_nothing_but_a_proxy_and_a_ca(forward: Server, world: World) -> None:
    done = aws(bundle_of(forward), "create-key", "--description", "by proxy", HTTPS_PROXY=forward.forward_url)
    assert done.returncode == 0, done.stderr
    assert world.stub.journal[-1].refused is None
    intent, outcome = forward.records()[-2:]
    assert (outcome["eventName"], keytrail(outcome)["intent"]) == ("CreateKey", intent["eventID"])


def test_the_making_of_the_ca_is_on_record(forward: Server) -> None:
    intent, outcome = (record for record in forward.records("admin") if record["eventName"] == "CreateCertificateAuthority")
    assert (keytrail(intent)["phase"], keytrail(outcome)["intent"]) == ("intent", intent["eventID"])
    assert (outcome["eventSource"], keytrail(outcome)["identityProof"]) == ("keytrail", "host-operator")
    command = [keytrail_command(), "ca", "init", "--data", str(forward.data)]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 3 and "nothing was changed" in again.stderr
    assert forward.records("admin")[-1]["errorCode"] == "InvalidRequest"


def test_the_exports_are_all_that_a_shell_needs(world: World, tmp_path: Path) -> None:
    with world.keytrail("exported", forward_listen="127.0.0.1:0") as server:
        listening = server.forward_url.removeprefix("http://")
        done = subprocess.run(
            [keytrail_command(), "ca", "export", "--data", str(server.data)],
            env={"KEYTRAIL_FORWARD_LISTEN": listening, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        script = f"{done.stdout}\nexec {Path(sys.executable).with_name('aws')} kms list-keys"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": ALICE[0],
            "AWS_SECRET_ACCESS_KEY": ALICE[1],
            "AWS_DEFAULT_REGION": REGION,
        }
        listed = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, timeout=60)
        assert listed.returncode == 0, listed.stderr
        assert "169.254.169.254" in done.stdout
        assert world.stub.journal[-1].operation == "ListKeys"


def test_what_aws_says_of_a_key_id_is_learnt(forward: Server, world: World) -> None:
    kms = client(bundle_of(forward), forward.forward_url, access_key_id=APP_KEY)
    kms.list_keys()
    assert "arn" not in forward.records()[-1]["userIdentity"]
    world.stub.fail(Fault.DENIED)
    with pytest.raises(ClientError, match="not authorized"):
        kms.list_keys()
    denied = forward.records()[-1]
    assert (denied["errorCode"], keytrail(denied)["wireError"]) == ("AccessDenied", "AccessDeniedException")
    kms.list_keys()
    record = forward.records()[-1]
    assert (record["userIdentity"]["type"], record["userIdentity"]["arn"]) == ("AssumedRole", APP.arn)


def test_plain_http_by_proxy_in_absolute_form(forward: Server, world: World) -> None:
    kms = client(bundle_of(forward), forward.forward_url, url=f"http://{KMS}")
    kms.list_keys()
    kms.list_keys()
    assert [entry.refused for entry in world.stub.journal[-2:]] == [None, None]
    record = forward.records()[-1]
    assert keytrail(record)["topology"] == "forward-proxy"
    assert "tlsDetails" not in record


@pytest.mark.parametrize(
    "host",
    [
        f"{KMS}.evil.example:443",
        f"evil.{KMS}:443",
        f"{KMS}:8443",
        "example.org:443",
        "127.0.0.1:443",
        "[::1]:443",
        "169.254.169.254:80",
    ],
)
def test_other_hosts_are_refused_and_told_why(forward: Server, host: str) -> None:
    before = forward.count_records()
    with socket.create_connection(address(forward.forward_url), LIMIT_S) as tcp:
        tcp.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tcp.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"keytrail is the proxy for AWS KMS" in answer
    assert forward.count_records() == before


def test_boto3_for_another_service_is_refused_clearly(forward: Server) -> None:
    config = botocore.config.Config(proxies={"https": forward.forward_url}, retries={"total_max_attempts": 1})
    sts = boto3.client("sts", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y", config=config)
    with pytest.raises(ProxyConnectionError):
        sts.get_caller_identity()


def test_sts_is_intercepted_where_the_embedded_kms_answers(world: World) -> None:
    settings = {"backend": "local", "aws_signing": "re-sign", "forward_listen": "127.0.0.1:0"}
    with world.keytrail("forward-local", **settings) as server:
        for host in (STS, "sts.amazonaws.com"):
            sts = sts_client(server, bundle_of(server), server.forward_url, host)
            assert sts.get_caller_identity()["Arn"].endswith(":user/demo")
            record = of_sts(server)
            assert (record["eventName"], keytrail(record)["topology"]) == ("GetCallerIdentity", "forward-proxy")
            assert record["tlsDetails"]["clientProvidedHostHeader"] == host
        session = sts.get_session_token()["Credentials"]
        kms = boto3.client(
            "kms",
            region_name=REGION,
            aws_access_key_id=session["AccessKeyId"],
            aws_secret_access_key=session["SecretAccessKey"],
            aws_session_token=session["SessionToken"],
            verify=str(bundle_of(server)),
            config=botocore.config.Config(proxies={"https": server.forward_url}),
        )
        assert kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256")["Plaintext"]
        wait_until(lambda: server.metrics().get("keytrail_connect_intercepted_total", 0) >= 3, "it is counted")


def test_sts_is_another_host_in_front_of_aws(forward: Server) -> None:
    before = forward.count_records()
    with pytest.raises(ProxyConnectionError):
        sts_client(forward, bundle_of(forward), forward.forward_url).get_caller_identity()
    assert forward.count_records() == before


def test_a_listed_host_is_tunnelled_unread_and_counted(world: World) -> None:
    listed = f"127.0.0.1:{world.stub.port}"
    with world.keytrail("listed", forward_listen="127.0.0.1:0", forward_others="listed", forward_listed=listed) as server:
        kms = client(world.authority.bundle, server.forward_url, url=f"https://{listed}")
        kms.list_keys()
        assert world.stub.journal[-1].header("host") == [listed]
        assert server.count_records() == 0
        wait_until(lambda: server.metrics().get("keytrail_tunnels_total") == 1.0, "it is counted")
        assert server.metrics()["keytrail_tunnel_bytes_from_clients_total"] > 500
        kms.close()  # a tunnel that stays open is waited for at the end


def test_a_client_hello_in_the_same_segment_as_connect(forward: Server) -> None:
    context = ssl.create_default_context(cafile=str(bundle_of(forward)))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=KMS)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    with socket.create_connection(address(forward.forward_url), LIMIT_S) as tcp:
        tcp.sendall(f"CONNECT {KMS}:443 HTTP/1.0\r\n\r\n".encode() + outgoing.read())
        received = b""
        while b"\r\n\r\n" not in received:
            received += tcp.recv(4096)
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        incoming.write(rest)
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(tcp.recv(16_384))
        session.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        tcp.sendall(outgoing.read())
        while True:
            try:
                answer = session.read(4096)
                break
            except ssl.SSLWantReadError:
                incoming.write(tcp.recv(16_384))
    assert b"MissingAuthenticationTokenException" in answer


def test_a_client_that_trusts_nobody_is_turned_away_and_counted(forward: Server, world: World) -> None:
    before = forward.count_records()
    kms = client(world.authority.bundle, forward.forward_url)
    with pytest.raises(Exception, match=r"CERTIFICATE_VERIFY_FAILED"):
        kms.list_keys()
    wait_until(lambda: forward.metrics()["keytrail_handshakes_failed_total"] > 0, "it is counted")
    assert forward.count_records() == before


def test_squid_in_front_with_keytrail_as_its_parent(forward: Server, world: World, tmp_path: Path) -> None:
    port = int(forward.forward_url.rpartition(":")[2])
    with squid(tmp_path, SquidOptions(users={"alice": "secret"}, parent_port=port)) as company:
        kms = client(bundle_of(forward), company.url("alice"))
        made = kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256")
        assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
        assert world.stub.journal[-1].refused is None
        with pytest.raises(ProxyConnectionError):
            client(bundle_of(forward), company.url()).list_keys()
    assert {(a.target, a.status, a.user) for a in company.accesses if a.method == "CONNECT"} == {
        (f"{KMS}:443", 200, "alice"),
        (f"{KMS}:443", 407, "-"),
    }


# --- proxies in front


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n", None], ids=["PROXY protocol", "X-Forwarded-For"]
)
def test_a_load_balancer_tells_the_clients_address(world: World, tmp_path: Path, header: bytes | None) -> None:
    settings = {"backend": "local", "aws_signing": "re-sign", "trusted_networks": "127.0.0.0/8"}
    name = "balanced" if header is None else "proxied"
    with world.keytrail(name, **settings, proxy_protocol=str(header is not None).lower()) as server:
        body = b"{}"
        headers = server.signed_headers(b"TrentService.ListKeys", body)
        lines = [b"%b: %b" % pair for pair in headers.items()]
        if header is None:
            lines.append(b"X-Forwarded-For: 203.0.113.1, 198.51.100.7, 127.0.0.9")
        request = b"POST / HTTP/1.1\r\n%b\r\nContent-Length: 2\r\n\r\n%b" % (b"\r\n".join(lines), body)
        with socket.create_connection(address(server.url), LIMIT_S) as tcp:
            tcp.sendall((header or b"") + request)
            assert tcp.recv(64).startswith(b"HTTP/1.1 200 ")
        record = server.records()[-1]
        assert (record["sourceIPAddress"], keytrail(record)["peer"]) == ("198.51.100.7", "127.0.0.1")


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)
