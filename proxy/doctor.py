"""`keytrail doctor`: what stands in the way of a call, looked at from the client's side and from the host's.

Each check is a row of `CHECKS`; it looks at one thing, and says what it saw and what to do. None of them changes a setting or a
key, and none waits longer than `LIMIT_S` for anything.
"""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from cryptography import x509

from proxy.clock import VirtualClock
from proxy.errors import ProxyError
from proxy.kms.hosts import STS_GLOBAL, endpoint_host, kms_region
from proxy.opening import is_shared, shared_place
from proxy.settings import Settings, host_and_port
from proxy.worker_plan import LISTENERS

LIMIT_S = 3.0
_LEAST_FREE_BYTES = 1 << 30
_LITTLE_FREE = 0.05  # of the disk
_EXPIRES_SOON = timedelta(days=30)
_SKEW_S, _SKEW_LIMIT_S = 60.0, 300.0  # SigV4 takes five minutes
_METADATA = "169.254.169.254"
_SECRETS = ("master.key", "sealer.key", "credentials", "ca/ca.key", "privacy.key", "privacy/subjects.db")


class Verdict(Enum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "not applicable"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, what was seen, and what to do about it."""

    name: str
    verdict: Verdict
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks look at: the settings, the environment of a client, and the clock (seconds since the epoch)."""

    settings: Settings
    environment: Mapping[str, str]
    now_s: Callable[[], float] = time.time

    def variable(self, name: str) -> str:
        """A variable of the environment, also by its name in small letters, as clients read those about proxies."""
        return self.environment.get(name) or self.environment.get(name.lower()) or ""


#: What was seen, and what to do.
Finding: TypeAlias = tuple[Verdict, str, str]


def run(settings: Settings, environment: Mapping[str, str]) -> list[Check]:
    """Every check, in order. Raises nothing: a check that breaks has failed."""
    around = Surroundings(settings, environment)
    done = []
    for name, look in CHECKS:
        try:
            verdict, seen, advice = look(around)
        except (OSError, ssl.SSLError, http.client.HTTPException, ValueError, ProxyError) as error:
            verdict, seen, advice = Verdict.FAILED, str(error) or type(error).__name__, ""
        done.append(Check(name, verdict, seen, advice))
    return done


# --- the host's side


def _data_folder(around: Surroundings) -> Finding:
    data = around.settings.data
    if not (data / "keytrail.json").exists():
        return Verdict.FAILED, f"{data} is not initialised", "run `keytrail init`, or name the folder by --data"
    own = [data, data / "log", *([data / "checkpoints"] if around.settings.sealer == "here" else [])]
    closed = [str(path) for path in own if path.exists() and not os.access(path, os.W_OK)]
    if closed:
        return Verdict.FAILED, f"not writable: {', '.join(closed)}", "run this as the user that serves, and give it the folder"
    return Verdict.OK, f"{data} is initialised and writable", ""


def _secrets(around: Surroundings) -> Finding:
    paths = [around.settings.data / name for name in _SECRETS] + [around.settings.ca_files[1]]
    paths += [path for path in (around.settings.tls_key,) if path is not None]
    if around.settings.sealer_key and not around.settings.sealer_key.startswith("awskms:"):
        paths.append(Path(around.settings.sealer_key))
    open_to_others = [str(path) for path in dict.fromkeys(paths) if _is_open_to_others(path)]
    if open_to_others:
        return Verdict.FAILED, f"others may read {', '.join(open_to_others)}", "chmod 600"
    return Verdict.OK, "nobody else may read the keys", ""


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except (FileNotFoundError, PermissionError):  # the sealer's key is in a folder of its own user's
        return False


def _disk(around: Surroundings) -> Finding:
    folder = around.settings.data if around.settings.data.exists() else Path()
    usage = shutil.disk_usage(folder)
    seen = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.0f}"
    if usage.free < _LEAST_FREE_BYTES:
        return Verdict.FAILED, seen, "make room: with a full disk no call is answered"
    if usage.free < _LITTLE_FREE * usage.total:
        return Verdict.WARNING, seen, "make room soon: with a full disk no call is answered"
    return Verdict.OK, seen, ""


def _health(around: Surroundings) -> Finding:
    host, port = host_and_port(around.settings.admin_listen)
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        body = response.read(4_096).decode(errors="replace")
    except OSError as error:
        return Verdict.FAILED, f"nothing answers at {host}:{port}: {error}", "start `keytrail serve`"
    finally:
        connection.close()
    if response.status != 200:
        return Verdict.FAILED, f"not ready: {body}", "see what it says, and its log"
    return Verdict.OK, f"ready, at {host}:{port}", ""


def _key_store(around: Surroundings) -> Finding:
    if not is_shared(around.settings):
        return Verdict.OK, "the key store is a file of the data folder", ""
    place = shared_place(around.settings)
    if not place.is_made():
        return Verdict.FAILED, f"there is no key store in {place.name}", "run `keytrail init`, or put a copy there"
    return Verdict.OK, f"{place.name} has the key store", ""


def _virtual_clock(around: Surroundings) -> Finding:
    file = around.settings.clock
    if file is None:
        return Verdict.OK, "keys live by the system's time", ""
    return (
        Verdict.WARNING,
        f"keys live by a virtual clock, {VirtualClock(file).offset_s:+.0f} s: they are deleted, rotated and expire by it",
        "it is for tests: take `clock` out of the settings of a server that matters",
    )


def _upstream_loop(around: Surroundings) -> Finding:
    settings = around.settings
    if settings.backend != "aws":
        return Verdict.SKIPPED, "the embedded KMS answers", ""
    if settings.aws_egress_proxy.get_secret_value():
        return Verdict.SKIPPED, "the egress proxy finds AWS", ""
    name = endpoint_host(settings.region, fips=settings.aws_fips, dual_stack=settings.aws_dual_stack)
    known = dict(entry.partition("=")[::2] for entry in settings.aws_hosts)
    if name in known or settings.aws_nameservers or settings.aws_endpoint:
        return Verdict.OK, f"{name} is found by settings of keytrail's own", ""
    addresses = _addresses(name)
    own = sorted(addresses & _own_addresses(settings))
    if own:
        return (
            Verdict.FAILED,
            f"this host's resolver leads {name} to keytrail itself ({', '.join(own)})",
            "set aws_nameservers or aws_hosts",
        )
    return Verdict.OK, f"{name} is {', '.join(sorted(addresses))}", ""


# --- certificates


def _ca(around: Surroundings) -> Finding:
    if not around.settings.forward_listen:
        return Verdict.SKIPPED, "there is no forward proxy", ""
    path = around.settings.ca_files[0]
    if not path.exists():
        return Verdict.FAILED, f"there is no CA at {path}", "run `keytrail ca init`"
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    verdict, seen, advice = _validity(path, around, certificate)
    if verdict is Verdict.OK and around.settings.backend == "local" and not _is_for_sts(certificate):
        advice = "make it anew with `keytrail ca init`, or have their names in forward_listed"
        return Verdict.WARNING, f"{path} is not for the names of STS, whose calls are intercepted too", advice
    return verdict, seen, advice


def _is_for_sts(certificate: x509.Certificate) -> bool:
    """Whether the CA's name constraints, if it has any, let it sign for STS."""
    try:
        permitted = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except x509.ExtensionNotFound:
        return True
    return permitted is None or x509.DNSName(STS_GLOBAL) in permitted


def _server_certificate(around: Surroundings) -> Finding:
    path = around.settings.tls_certificate
    if not around.settings.tls_listen or path is None:
        return Verdict.SKIPPED, "there is no TLS listener", ""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    verdict, seen, advice = _validity(path, around, certificate)
    names: list[str] = []
    with suppress(x509.ExtensionNotFound):
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    regions = sorted(region for name in names if (region := kms_region(name)) is not None)
    if around.settings.aws_signing == "pass-through" and not regions and verdict is not Verdict.FAILED:
        return Verdict.FAILED, f"{path} is for {', '.join(names) or 'no name'}", "it must be for the names of KMS"
    return verdict, f"{seen}; for {', '.join(names) or 'no name'}", advice


def _validity(path: Path, around: Surroundings, certificate: x509.Certificate) -> Finding:
    now, ends = datetime.fromtimestamp(around.now_s(), UTC), certificate.not_valid_after_utc
    seen = f"{path} is valid until {ends:%Y-%m-%d}"
    if now >= ends:
        return Verdict.FAILED, f"{path} has expired on {ends:%Y-%m-%d}", "renew it"
    if now < certificate.not_valid_before_utc:
        return Verdict.FAILED, f"{path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} only", "look at the clock"
    if now + _EXPIRES_SOON >= ends:
        return Verdict.WARNING, seen, "renew it, and send SIGHUP"
    return Verdict.OK, seen, ""


def _handshake(around: Surroundings) -> Finding:
    if not around.settings.tls_listen:
        return Verdict.SKIPPED, "there is no TLS listener", ""
    host, port = _here(around.settings.tls_listen)
    name = endpoint_host(around.settings.region) if around.settings.aws_signing == "pass-through" else host
    bundle = around.variable("AWS_CA_BUNDLE")
    context = ssl.create_default_context(cafile=bundle or None)
    try:
        with (
            socket.create_connection((host, port), LIMIT_S) as tcp,
            context.wrap_socket(tcp, server_hostname=name) as session,
        ):
            return Verdict.OK, f"{name} at {host}:{port} is trusted, by {session.version()}", ""
    except ssl.SSLCertVerificationError as error:
        trusted = bundle or "the system's certificates"
        return Verdict.FAILED, f"{trusted} does not trust {host}:{port}: {error.verify_message}", "set AWS_CA_BUNDLE"


# --- the client's side


def _clock(around: Surroundings) -> Finding:
    """By the Date of an answer: of the endpoint that the environment names, which records an unsigned request then, or of this
    host's keytrail."""
    url = urlsplit(around.variable("AWS_ENDPOINT_URL_KMS"))
    host, port = (url.hostname or "", url.port or 80) if url.scheme == "http" else _here(around.settings.admin_listen)
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/health/live")
        told = connection.getresponse().headers["Date"]
    except OSError as error:
        return Verdict.FAILED, f"nothing answers at {host}:{port}: {error}", "start `keytrail serve`, or name where it is"
    finally:
        connection.close()
    skew_s = around.now_s() - email.utils.parsedate_to_datetime(told).timestamp()
    seen = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} {host}:{port}"
    if abs(skew_s) > _SKEW_LIMIT_S:
        return Verdict.FAILED, seen, "set the clock: signatures are refused beyond five minutes"
    return (Verdict.WARNING, seen, "set the clock") if abs(skew_s) > _SKEW_S else (Verdict.OK, seen, "")


def _endpoint(around: Surroundings) -> Finding:
    """Whether the environment leads to one of keytrail's listeners, and by the right scheme."""
    endpoint, proxy = around.variable("AWS_ENDPOINT_URL_KMS"), around.variable("HTTPS_PROXY")
    if not endpoint and not proxy:
        return Verdict.SKIPPED, "neither AWS_ENDPOINT_URL_KMS nor HTTPS_PROXY is set", "by private DNS nothing need be set"
    name = "AWS_ENDPOINT_URL_KMS" if endpoint else "HTTPS_PROXY"
    url = urlsplit(endpoint or proxy)
    port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    listeners = {host_and_port(address)[1]: setting for setting in LISTENERS if (address := getattr(around.settings, setting))}
    setting = listeners.get(port)
    wanted = {"listen": "http", "tls_listen": "https", "forward_listen": "http"}
    if setting is None:
        return Verdict.WARNING, f"{name} names port {port}, where this keytrail does not listen", "is it another keytrail's?"
    if endpoint and setting == "forward_listen":
        return Verdict.FAILED, f"{name} names the forward proxy's port {port}", "it belongs into HTTPS_PROXY"
    if proxy and not endpoint and setting != "forward_listen":
        return Verdict.FAILED, f"{name} names port {port}, which is no forward proxy's", "name forward_listen's"
    if url.scheme != wanted[setting]:
        return Verdict.FAILED, f"{name} says {url.scheme}:// for {setting}", f"write {wanted[setting]}://"
    if endpoint and url.path not in ("", "/"):
        return Verdict.WARNING, f"{name} has a path, {url.path}, which clients sign", "leave it out"
    return Verdict.OK, f"{name} leads to {setting}", ""


def _no_proxy(around: Surroundings) -> Finding:
    if not around.variable("HTTPS_PROXY"):
        return Verdict.SKIPPED, "HTTPS_PROXY is not set", ""
    entries = [entry.strip().lower() for entry in around.variable("NO_PROXY").split(",") if entry.strip()]
    kms = endpoint_host(around.settings.region)
    past = [entry for entry in entries if entry == "*" or kms == entry or kms.endswith("." + entry.lstrip(".*"))]
    if past:
        return Verdict.FAILED, f"NO_PROXY has {', '.join(past)}: calls to KMS go past keytrail", "take it out"
    if not any(_covers(entry, _METADATA) for entry in entries):
        return Verdict.WARNING, f"NO_PROXY lacks {_METADATA}", "the metadata service must not go by a proxy"
    return Verdict.OK, "KMS goes by the proxy, the metadata service does not", ""


def _covers(entry: str, address: str) -> bool:
    if entry in ("*", address):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(address) in ipaddress.ip_network(entry)
    return False


def _here(address: str) -> tuple[str, int]:
    """Where a client on this host reaches a listener."""
    host, port = host_and_port(address)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - nobody listens there


def _addresses(name: str) -> set[str]:
    return {str(found[4][0]) for found in socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)}


def _own_addresses(settings: Settings) -> set[str]:
    """The addresses that lead to the TLS listener, which answers for the names of KMS."""
    if not settings.tls_listen:
        return set()
    host, _ = host_and_port(settings.tls_listen)
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - nobody listens there
        return {"127.0.0.1" if host == "localhost" else host}
    own = {"127.0.0.1", "::1"}
    with suppress(OSError):
        own |= _addresses(socket.gethostname())
    return own


#: Their names, and what looks.
CHECKS: tuple[tuple[str, Callable[[Surroundings], Finding]], ...] = (
    ("data folder", _data_folder),
    ("secrets", _secrets),
    ("free disk", _disk),
    ("health", _health),
    ("key store", _key_store),
    ("virtual clock", _virtual_clock),
    ("upstream's name", _upstream_loop),
    ("CA", _ca),
    ("server certificate", _server_certificate),
    ("TLS handshake", _handshake),
    ("clock", _clock),
    ("endpoint", _endpoint),
    ("NO_PROXY", _no_proxy),
)
