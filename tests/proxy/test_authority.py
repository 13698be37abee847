"""The CA of the forward proxy: what it is good for, and that it is good for nothing else."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.authority import Authority, bundle
from proxy.errors import SetupError
from proxy.host import write_ca
from proxy.kms.hosts import endpoint_host
from tests.integration.components import require_program

KMS = "kms.us-east-1.amazonaws.com"
NAMES = [KMS, "kms-fips.us-gov-west-1.amazonaws.com", "kms.cn-north-1.amazonaws.com.cn", "kms.eu-west-1.api.aws"]
NAMES.append("vpce-0123456789abcdef0-abcdefgh.kms.us-east-1.vpce.amazonaws.com")
NAMES += ["sts.amazonaws.com", "sts.eu-central-1.amazonaws.com", "sts-fips.us-east-1.amazonaws.com", "sts.eu-west-1.api.aws"]
NAMES.append("vpce-0123456789abcdef0-abcdefgh.sts.us-east-1.vpce.amazonaws.com")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ca")
    write_ca(folder / "ca.pem", folder / "ca.key")
    return folder / "ca.pem", folder / "ca.key"


def handshake(server: ssl.SSLContext, ca: Path, name: str) -> None:
    """A handshake in memory, in which the client trusts `ca` alone and asks for `name`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=str(ca)).wrap_bio(to_client, to_server, server_hostname=name)
    serving = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (client, serving):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    client.do_handshake()


@pytest.mark.parametrize("name", NAMES)
def test_a_leaf_for_kms_is_trusted_for_that_name_alone(files: tuple[Path, Path], name: str) -> None:
    context = Authority(*files).leaf_context(name)
    handshake(context, files[0], name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, files[0], endpoint_host("sa-east-1"))


def leaf_by_a_thief(files: tuple[Path, Path], *names: x509.GeneralName) -> ssl.SSLContext:
    """What whoever has the CA's key could make."""
    ca = x509.load_pem_x509_certificate(files[0].read_bytes())
    key = serialization.load_pem_private_key(files[1].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    own, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(ca.subject)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = files[0].parent / "thief.pem"
    pem = serialization.Encoding.PEM
    secret = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + leaf.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("name", ["example.org", "s3.us-east-1.amazonaws.com", "amazonaws.com", f"{KMS}.evil.example"])
def test_the_cas_key_is_of_no_use_for_other_names(files: tuple[Path, Path], name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(leaf_by_a_thief(files, x509.DNSName(name)), files[0], name)


def test_the_cas_key_is_of_no_use_for_addresses(files: tuple[Path, Path]) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree violation"):
        handshake(leaf_by_a_thief(files, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))), files[0], "127.0.0.1")


def test_openssl_takes_the_ca_for_one(files: tuple[Path, Path]) -> None:
    openssl = require_program("openssl")
    argv = [openssl, "x509", "-in", str(files[0]), "-noout", "-text"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "X509v3 Name Constraints: critical" in shown and "CA:TRUE, pathlen:0" in shown
    subprocess.run([openssl, "verify", "-x509_strict", "-CAfile", files[0], files[0]], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["example.org", "", "KMS.us-east-1.amazonaws.com.evil.example", "127.0.0.1"])
def test_no_leaf_is_made_for_another_name(files: tuple[Path, Path], name: str) -> None:
    with pytest.raises(SetupError, match="no name of KMS's or STS's"):
        Authority(*files).leaf_context(name)


def test_a_leaf_is_made_once_also_by_many_threads(files: tuple[Path, Path]) -> None:
    authority = Authority(*files)
    assert not authority.known(KMS)
    with ThreadPoolExecutor(8) as pool:
        contexts = set(pool.map(lambda _: authority.leaf_context(KMS), range(32)))
    assert len(contexts) == 1
    assert authority.known(KMS)


def test_the_key_is_its_owners_alone_and_nothing_is_overwritten(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert files[1].stat().st_mode & 0o777 == 0o600
    before = [path.read_bytes() for path in files]
    with pytest.raises(SetupError, match="nothing was changed"):
        write_ca(*files)
    with pytest.raises(SetupError, match="nothing was changed"):
        write_ca(tmp_path / "new.pem", files[1])
    assert [path.read_bytes() for path in files] == before
    assert not (tmp_path / "new.pem").exists()


def test_a_ca_given_by_files_that_is_none_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.pem", tmp_path / "other.key"
    write_ca(*other)
    encrypted = tmp_path / "encrypted.key"
    key = serialization.load_pem_private_key(files[1].read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"x")
    encrypted.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    expired = tmp_path / "expired.pem", tmp_path / "expired.key"
    write_ca(*expired, days=0)
    for certificate, secret, why in [
        (tmp_path / "none.pem", files[1], "ca init"),
        (files[0], tmp_path / "none.key", "ca init"),
        (files[1], files[1], "no certificate"),
        (files[0], files[0], "no private key"),
        (files[0], other[1], "not the key"),
        (files[0], encrypted, "encrypted"),
        (*expired, "expired"),
    ]:
        with pytest.raises(SetupError, match=why):
            Authority(certificate, secret)


def test_the_bundle_holds_the_systems_certificates_and_ours(files: tuple[Path, Path], tmp_path: Path) -> None:
    system = tmp_path / "system.pem"
    write_ca(system, tmp_path / "system.key", name="system")
    loaded = x509.load_pem_x509_certificates(bundle(files[0], [tmp_path / "none", system, files[0]]))
    assert [found.subject.rfc4514_string() for found in loaded] == ["CN=system", "CN=keytrail KMS interception CA"]
    assert x509.load_pem_x509_certificates(bundle(files[0], [])) == loaded[1:]


@pytest.mark.parametrize(
    ("name", "usage", "purpose"),
    [
        (x509.RFC822Name("ceo@bank.example"), ExtendedKeyUsageOID.EMAIL_PROTECTION, "smimesign"),
        (x509.UniformResourceIdentifier("spiffe://corp.example/admin"), ExtendedKeyUsageOID.CLIENT_AUTH, "sslclient"),
        (x509.DNSName(KMS), ExtendedKeyUsageOID.CLIENT_AUTH, "sslclient"),
    ],
)
def test_the_cas_key_is_of_no_use_for_mail_or_for_clients(
    files: tuple[Path, Path], tmp_path: Path, name: x509.GeneralName, usage: x509.ObjectIdentifier, purpose: str
) -> None:
    ca = x509.load_pem_x509_certificate(files[0].read_bytes())
    key = serialization.load_pem_private_key(files[1].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(ca.subject)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    argv = [require_program("openssl"), "verify", "-purpose", purpose, "-CAfile", str(files[0]), str(tmp_path / "leaf.pem")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode != 0
    assert "unsuitable certificate purpose" in done.stderr or "permitted subtree violation" in done.stderr
