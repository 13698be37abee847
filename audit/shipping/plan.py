"""What the settings say of shipping, as a companion's plan; and the sinks that follow from it.

The name of a sink is its kind and the start of the SHA-256 of its address: each address has a cursor of its own. No secret is in
it: a NATS URL is taken without its user and password, and no setting that holds a secret is in a repr.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from audit.companion import Plan
from audit.errors import AuditError
from audit.shipping.messages import Form
from audit.shipping.sink import Sink, SinkFault

_SYSLOG_TLS_PORT, _SYSLOG_TCP_PORT = 6514, 601  # RFC 5425, RFC 6587
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110
KINDS = ("otlp", "syslog", "nats")


class NoShipping(AuditError):
    """What is to be shipped where was not said, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a sink is trusted (`ca_bundle`, else the system's), and what is shown to it. Paths, or None."""

    ca_bundle: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises `SinkFault`."""
        try:
            context = ssl.create_default_context(cafile=self.ca_bundle)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise SinkFault(f"the certificates of `ship_ca_bundle` or `ship_certificate`: {error.strerror or error}") from error
        return context


@dataclass(frozen=True, slots=True)
class Target:
    """A sink that is wanted: `kind` is one of `KINDS`; `headers` are OTLP's."""

    kind: str
    url: str = field(repr=False)
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def address(self) -> str:
        """The URL, without user and password."""
        parts = self.parts
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def name(self) -> str:
        return f"{self.kind}-{sha256(self.address.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Shipping:
    """What is shipped where."""

    form: Form
    targets: tuple[Target, ...]

    @classmethod
    def of(cls, plan: Plan) -> Shipping:
        """As a companion's plan has it. Raises `NoShipping`."""
        try:
            tls = Tls(plan["ca_bundle"], plan["certificate"], plan["key"])
            headers = parse_headers(plan["headers"])
            targets = [Target(kind, plan[kind], tls, headers if kind == "otlp" else ()) for kind in KINDS if plan[kind]]
            return cls(plan["form"], tuple(targets))
        except (KeyError, TypeError) as error:
            raise NoShipping("no plan of shipping: it is to be piped to standard input, as JSON") from error


def parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE,NAME=VALUE``, values percent-encoded where need be, as OpenTelemetry's exporters take them.

    Raises `NoShipping`.
    """
    found = []
    for pair in filter(None, map(str.strip, text.split(","))):
        name, is_pair, value = (part.strip() for part in pair.partition("="))
        value = unquote(value)
        if not is_pair or not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise NoShipping("`ship_headers` is NAME=VALUE, with commas between several")  # and never what stands in it
        found.append((name, value))
    return tuple(found)


def open_sink(target: Target, instance: str, host: str) -> Sink:
    """Nothing is asked of the sink yet. The library that it needs is imported now. Raises `SinkFault`."""
    return _OPENERS[target.kind](target, instance, host)


def _open_otlp(target: Target, instance: str, host: str) -> Sink:
    with _Extra("otlp"):
        from audit.shipping.otlp import OtlpSink

    url = target.url if target.parts.path.strip("/") else f"{target.url.rstrip('/')}/v1/logs"
    context = target.tls.context() if target.parts.scheme == "https" else None
    return OtlpSink(url, context, target.headers, instance, host)


def _open_syslog(target: Target, instance: str, host: str) -> Sink:
    from audit.shipping.syslog import SyslogSink

    is_tls = target.parts.scheme == "tls"
    port = target.parts.port or (_SYSLOG_TLS_PORT if is_tls else _SYSLOG_TCP_PORT)
    return SyslogSink(target.parts.hostname or "", port, target.tls.context() if is_tls else None, host)


def _open_nats(target: Target, instance: str, host: str) -> Sink:
    with _Extra("nats"):
        from audit.shipping.jetstream import JetStreamSink

    parts = target.parts
    context = target.tls.context() if parts.scheme == "tls" else None
    subject = parts.path.strip("/") or "keytrail"
    user = unquote(parts.username) if parts.username is not None else None
    password = unquote(parts.password) if parts.password is not None else None
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return JetStreamSink(server, subject, context, user, password)


_OPENERS: dict[str, Callable[[Target, str, str], Sink]] = {"otlp": _open_otlp, "syslog": _open_syslog, "nats": _open_nats}


class _Extra:
    """Says which extra of the package is missing, where one is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: Any, trace: object) -> None:  # Any: what is raised within
        if isinstance(error, ImportError):
            raise SinkFault(f"a library is missing ({error.name}): install keytrail[{self._name}]") from error
