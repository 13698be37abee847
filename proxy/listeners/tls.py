"""TLS at the listeners: server contexts from files, client certificates, and what of a session is recorded.

TLS 1.2 and 1.3, HTTP/1.1 alone. `reload` puts new files in the old ones' place for the connections to come; files that are not as
they must be change nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

import orjson
from cryptography import x509

from proxy.authority import server_context
from proxy.domain import ClientCertificate, Origin, TlsDetails
from proxy.errors import SetupError
from proxy.kms.hosts import kms_region, sts_region
from proxy.listeners.door import Unwelcome, Visitor, Welcome, answer, peek
from proxy.listeners.reverse import Listener

ClientCertificates: TypeAlias = Literal["none", "optional", "required"]

_HANDSHAKE = b"\x16"  # the first byte of TLS
_NO_TLS = "This port speaks HTTPS, and the request was in HTTP."
_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_MAX_TEXT, _MAX_NAMES, _MAX_NAMES_BYTES = 1_024, 64, 16 << 10


@dataclass(frozen=True, slots=True)
class ClientTrust:
    """Whether clients show a certificate, and the CA (a PEM file) that it must be of. `ca` is None with "none" only."""

    demand: ClientCertificates = "none"
    ca: Path | None = None

    def apply(self, context: ssl.SSLContext) -> None:
        """Have `context` ask for it. Raises SetupError."""
        if self.demand == "none" or self.ca is None:
            return
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise SetupError(f"tls_client_ca: {self.ca} cannot be read as certificates: {error}") from error
        context.verify_mode = _MODES[self.demand]


class ServerNames:
    """The names that clients ask for (SNI), session by session, as long as these last."""

    def __init__(self) -> None:
        self._names: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()

    def watch(self, context: ssl.SSLContext) -> None:
        """Note the names in the sessions of `context`."""
        context.sni_callback = self._note

    def of(self, session: ssl.SSLObject) -> str | None:
        """The name that was asked for in `session`; None where none was."""
        return self._names.get(session)

    def _note(self, session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            self._names[session] = name


class ServerTls:
    """The certificate of a TLS listener, from files. Raises SetupError where they are not as they must be."""

    def __init__(self, certificate: Path, key: Path, clients: ClientTrust) -> None:
        self.names = ServerNames()
        self.context = self._load(certificate, key, clients)

    def reload(self, certificate: Path, key: Path, clients: ClientTrust) -> None:
        """Take these for the connections to come. Raises SetupError, and nothing is changed."""
        self.context = self._load(certificate, key, clients)

    def _load(self, certificate: Path, key: Path, clients: ClientTrust) -> ssl.SSLContext:
        context = server_context()
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise SetupError(f"the TLS certificate {certificate} and its key {key} cannot be used: {error}") from error
        clients.apply(context)
        self.names.watch(context)
        return context


def welcome_with_tls(listener: Listener, tls: ServerTls, handshake_s: float) -> Welcome:
    """How visitors of a TLS listener are taken over."""

    async def welcome(visitor: Visitor) -> None:
        await begin_tls(visitor, listener, tls.context, "endpoint", handshake_s, tls.names)

    return welcome


async def begin_tls(
    visitor: Visitor,
    listener: Listener,
    context: ssl.SSLContext,
    topology: str,
    handshake_s: float,
    names: ServerNames,
) -> None:
    """End TLS on the visitor's socket, and hand what is within to `listener`. `names` watch `context`."""
    if await peek(visitor.sock, 1) != _HANDSHAKE:
        answer(visitor.sock, "400 Bad Request", _NO_TLS)
        raise Unwelcome("it spoke something else where TLS begins")

    def origin(transport: asyncio.BaseTransport) -> Origin:
        session = transport.get_extra_info("ssl_object")
        return _with_tls(Origin(visitor.peer, topology, visitor.claimed_peer), session, names.of(session))

    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(
        lambda: listener.connection(origin), visitor.sock, ssl=context, ssl_handshake_timeout=handshake_s
    )


def _with_tls(origin: Origin, session: ssl.SSLObject, name: str | None) -> Origin:
    cipher = session.cipher()
    details = TlsDetails(session.version() or "", cipher[0] if cipher else "", name)
    certificate = session.getpeercert(binary_form=True)
    topology = origin.topology
    if topology == "endpoint" and name is not None and (kms_region(name) is not None or sts_region(name) is not None):
        topology = "private-dns"
    return replace(
        origin, topology=topology, tls=details, client_certificate=None if certificate is None else read_certificate(certificate)
    )


@lru_cache(maxsize=1_024)
def read_certificate(der: bytes) -> ClientCertificate:
    """What of a client's certificate, which was verified, is recorded."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError:  # OpenSSL took it; it is known by its fingerprint then
        return ClientCertificate("", "", sha256(der).hexdigest())
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):  # none, or not as it should be: then it tells nobody's name
        names = x509.SubjectAlternativeName([])
    return ClientCertificate(
        certificate.subject.rfc4514_string()[:_MAX_TEXT],
        certificate.issuer.rfc4514_string()[:_MAX_TEXT],
        sha256(der).hexdigest(),
        tuple(_that_have_room([_written(name)[:_MAX_TEXT] for name in list(names)[:_MAX_NAMES]])),
    )


def _that_have_room(names: list[str]) -> Iterator[str]:
    """The first of `names`, as many as leave room in a record for the rest of it (`audit.canonical`)."""
    left = _MAX_NAMES_BYTES
    for name in names:
        left -= len(orjson.dumps(name))
        if left < 0:
            return
        yield name


_KINDS: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
    x509.IPAddress: "IP",
}


def _written(name: x509.GeneralName) -> str:
    if isinstance(name, x509.DirectoryName):
        return f"DirName:{name.value.rfc4514_string()}"
    kind = _KINDS.get(type(name))
    return "other" if kind is None else f"{kind}:{name.value}"


def _no_password() -> str:
    """A key with a password would have the process ask its terminal."""
    raise ValueError("the key is encrypted; give one that is not")
