"""The certificate authority of the forward proxy: it signs a leaf for each name of KMS's, or STS's, that is asked for.

A CA that is made here has critical name constraints for the names of KMS and STS and for nothing else, so its key is of no use to
a thief who wants to be another site. The names stand one by one, region by region, since a constraint has no wildcard in its
middle; a name in it also permits those below it. So a region that AWS opens later needs a new CA, made by a version that knows
it. Keys of leaves stay in memory.

Source: RFC 5280 §4.2.1.10 (name constraints), CA/Browser Forum baseline requirements for the leaves' extensions.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import ssl
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.loaders
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.errors import SetupError
from proxy.kms.hosts import STS_GLOBAL, Service, endpoint_host, kms_region, partition_of, sts_region

MAX_LEAVES = 512
_LEAF_LIFE = timedelta(days=7)
_RENEW_BEFORE = timedelta(days=1)
_BACKDATED = timedelta(hours=1)  # for clients whose clocks are behind


def make(*, name: str = "keytrail KMS interception CA", days: int = 3_650) -> tuple[bytes, bytes]:
    """A new CA: its certificate and its private key, PEM."""
    private = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_kms_and_sts_only(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    key = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem), key


class Authority:
    """A CA that mints leaves. For any thread. Raises SetupError where the files are not a CA and its key.

    `prepare` is given each context before it serves: what it asks of clients is not the CA's affair.
    """

    def __init__(self, certificate: Path, key: Path, prepare: Callable[[ssl.SSLContext], None] = lambda _: None) -> None:
        self._prepare = prepare
        self.certificate, self._key = _load(certificate, key)
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())  # one for all leaves: each is as secret as the process
        self._leaves: OrderedDict[str, tuple[ssl.SSLContext, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, host: str) -> bool:
        """Whether the context for `host` is at hand."""
        held = self._leaves.get(host)
        return held is not None and datetime.now(UTC) < held[1]

    def leaf_context(self, host: str) -> ssl.SSLContext:
        """A server's context with a leaf for `host`, a name of KMS's or STS's in lower case. Minting one takes some milliseconds.

        Raises SetupError for any other name.
        """
        if kms_region(host) is None and sts_region(host) is None:
            raise SetupError(f"{host} is no name of KMS's or STS's: no certificate is made for it")
        with self._lock:
            held = self._leaves.get(host)
            if held is not None and datetime.now(UTC) < held[1]:
                self._leaves.move_to_end(host)
                return held[0]
            leaf = self._mint(host)
            context = server_context()
            with _as_file(self._chain(leaf)) as path:
                context.load_cert_chain(path)
            self._prepare(context)
            self._leaves[host] = context, leaf.not_valid_after_utc - _RENEW_BEFORE
            if len(self._leaves) > MAX_LEAVES:
                self._leaves.popitem(last=False)
            return context

    def _mint(self, host: str) -> x509.Certificate:
        now, public = datetime.now(UTC), self._leaf_key.public_key()
        ends = min(now + _LEAF_LIFE, self.certificate.not_valid_after_utc)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]))
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - _BACKDATED, self.certificate.not_valid_before_utc))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _chain(self, leaf: x509.Certificate) -> bytes:
        pem = serialization.Encoding.PEM
        key = self._leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key + leaf.public_bytes(pem) + self.certificate.public_bytes(pem)


def server_context() -> ssl.SSLContext:
    """How keytrail serves TLS: 1.2 or 1.3, HTTP/1.1 alone; without a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def bundle(certificate: Path, system: Sequence[Path]) -> bytes:
    """The certificates of the first of `system` that is there, and that of the CA: what a client is to trust (PEM)."""
    own = _read(certificate)
    others = next((path.read_bytes() for path in system if path.is_file()), b"")
    return others.rstrip() + b"\n" * bool(others) + own


def system_bundles() -> list[Path]:
    """Where this system may have the certificates that it trusts, as one file."""
    return [Path(ssl.get_default_verify_paths().openssl_cafile), Path("/etc/ssl/certs/ca-certificates.crt")]


def _kms_and_sts_only() -> x509.NameConstraints:
    """The names of KMS and STS in every region that is known, and no other name, address, mailbox or URI."""
    hosts: dict[str, None] = {STS_GLOBAL: None}
    services: tuple[Service, ...] = ("kms", "sts")
    for partition in botocore.loaders.create_loader().load_data("partitions")["partitions"]:
        for region in partition["regions"]:
            if region.endswith("-global"):
                continue
            for service, fips in itertools.product(services, (False, True)):
                for dual_stack in (False, True):
                    hosts[endpoint_host(region, service=service, fips=fips, dual_stack=dual_stack)] = None
                hosts[f"{service}{'-fips' if fips else ''}.{region}.vpce.{partition_of(region).suffix}"] = None
    everywhere = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    # A mailbox or URI at a host that cannot be (RFC 6761 §6.4) leaves all others out, as an empty list of names cannot.
    nowhere: list[x509.GeneralName] = [x509.RFC822Name("nowhere.invalid"), x509.UniformResourceIdentifier("nowhere.invalid")]
    return x509.NameConstraints(
        [*(x509.DNSName(host) for host in hosts), *nowhere], [x509.IPAddress(network) for network in everywhere]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(certificate: Path, key: Path) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    pem = _read(certificate)
    try:
        loaded = x509.load_pem_x509_certificate(pem)
        is_ca = loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound) as error:
        raise SetupError(f"{certificate} is no certificate of a CA: {error}") from error
    if not is_ca:
        raise SetupError(f"{certificate} is no certificate of a CA")
    if datetime.now(UTC) >= loaded.not_valid_after_utc:
        raise SetupError(f"{certificate} has expired on {loaded.not_valid_after_utc:%Y-%m-%d}")
    try:
        private = serialization.load_pem_private_key(_read(key), password=None)
    except TypeError as error:
        raise SetupError(f"{key} is encrypted; give a key that is not, readable by keytrail alone") from error
    except ValueError as error:
        raise SetupError(f"{key} is no private key") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise SetupError(f"{key} is neither an EC nor an RSA key")
    if private.public_key() != loaded.public_key():
        raise SetupError(f"{key} is not the key of {certificate}")
    return loaded, private


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}); `keytrail ca init` makes a CA") from error


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """`data` under a path, for a library that takes nothing else; in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(fd, data)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
