"""What a question asks for, as a value, and the predicate that says whether a record answers it.

`Filter.matches` is the meaning; `audit.query.sql` says the same to DuckDB, and a property test holds the two together.
Pure. A field that a record does not have never matches. All conditions of a filter must hold (AND); values in a tuple
are alternatives (OR), except `context`, of which every pair must hold.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias

from audit.errors import QueryError
from audit.privacy import Form
from audit.query.times import time_text
from audit.record import Effect, Phase

#: A parsed line. Any: it is JSON from a file, and every access below asks for the type that it needs.
Record: TypeAlias = Mapping[str, Any]

CONTEXTS = ("encryptionContext", "sourceEncryptionContext", "destinationEncryptionContext")
#: Where a caller's own words for a key stand; the last is the key ARN that a mutating call is logged with.
WRITTEN_KEYS = (
    ("requestParameters", "keyId"),
    ("requestParameters", "sourceKeyId"),
    ("requestParameters", "destinationKeyId"),
    ("requestParameters", "targetKeyId"),
    ("requestParameters", "aliasName"),
    ("responseElements", "keyId"),
)
DEFAULT_PHASES = frozenset({Phase.OUTCOME, Phase.UNKNOWN})
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_ARN = re.compile(r"arn:[^:]+:kms:(?P<region>[^:]*):[^:]*:(?P<name>(?P<kind>key|alias)/.+)", re.DOTALL)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key as somebody names it: `text` itself; any name that ends in `suffix`; or `short` written in `region`."""

    text: str
    suffix: str | None = None
    short: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, text: str) -> KeyName:
        """From a key ARN, a bare key id, ``alias/NAME`` or an alias ARN. Raises `QueryError`."""
        if not text:
            raise QueryError("not a key: ''; accepted: key ARN, key id, alias/NAME, alias ARN")
        arn = _ARN.fullmatch(text)
        if arn:
            short = arn["name"] if arn["kind"] == "alias" else arn["name"].removeprefix("key/")
            return cls(text, short=short, region=arn["region"])
        return cls(text, suffix=f":{text}" if text.startswith("alias/") else f":key/{text}")

    def matches(self, record: Record) -> bool:
        names = list(named_keys(record))
        if self.text in names or (self.suffix is not None and any(name.endswith(self.suffix) for name in names)):
            return True
        return self.short is not None and self.short in names and record.get("awsRegion") == self.region


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """`since` is inclusive, `until` exclusive; both aware. `*` in `events` and `caller` stands for any text.

    `ids` are of requests or of events. `error`: a code as CloudTrail or as the client saw it, ``any``, or ``none``. `source`: an
    address, or a network (CIDR). `digests` has for pairs of `context` their values in the form hmac (`audit.privacy`): a record
    that has one of them, and says that it is private, answers as one with the value in clear does. Raises `QueryError` for a
    fingerprint or a source that is none.
    """

    since: datetime | None = None
    until: datetime | None = None
    events: tuple[str, ...] = ()
    key: KeyName | None = None
    caller: str | None = None
    access_key: str | None = None
    context: tuple[tuple[str, str], ...] = ()
    fingerprints: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    error: str | None = None
    source: str | None = None
    phases: frozenset[Phase] = DEFAULT_PHASES
    digests: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for fingerprint in self.fingerprints:
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise QueryError(f"not a fingerprint: {fingerprint!r}; accepted: 64 hex digits, lower-case")
        if self.source is not None and "/" in self.source:
            network(self.source)

    def matches(self, record: Record) -> bool:
        """Whether `record`, one parsed line of the log, is among what is asked for."""
        time = extension(record).get("time")
        return (
            isinstance(time, str)
            and (self.since is None or time >= time_text(self.since))
            and (self.until is None or time < time_text(self.until))
            and extension(record).get("phase", Phase.OUTCOME.value) in {phase.value for phase in self.phases}
            and (not self.events or any(glob_matches(glob, record.get("eventName")) for glob in self.events))
            and (self.key is None or self.key.matches(record))
            and (self.caller is None or any(glob_matches(self.caller, _identity(record, part)) for part in ("arn", "userName")))
            and (self.access_key is None or _identity(record, "accessKeyId") == self.access_key)
            and all(_has_pair(record, pair, self.digests.get(pair)) for pair in self.context)
            and (not self.fingerprints or not {*self.fingerprints}.isdisjoint(fingerprints(record)))
            and (not self.ids or not {record.get("requestID"), record.get("eventID")}.isdisjoint(self.ids))
            and self._matches_error(record)
            and (self.source is None or source_matches(self.source, _text(record, "sourceIPAddress")))
        )

    def _matches_error(self, record: Record) -> bool:
        code = record.get("errorCode")
        match self.error:
            case None:
                return True
            case "any":
                return code is not None
            case "none":
                return code is None
            case wanted:
                return wanted in (code, extension(record).get("wireError"))


def parse_pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` of an encryption context; the first ``=`` divides. Raises `QueryError`."""
    key, divider, value = text.partition("=")
    if not divider or not key:
        raise QueryError(f"not a context pair: {text!r}; accepted: KEY=VALUE, exactly as in the encryption context")
    return key, value


def network(text: str) -> Network:
    """The network that `text` (CIDR) names. Raises `QueryError`."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise QueryError(f"not a source: {text!r}; accepted: an address as recorded, or a network such as 10.0.0.0/8") from error


@lru_cache(maxsize=65_536)  # a scan asks again and again for the same few addresses
def source_matches(wanted: str, source: str | None) -> bool:
    """Whether the recorded `source` is the address `wanted`, or lies in the network `wanted`."""
    if "/" not in wanted or source is None:
        return source == wanted
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return False  # a service name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any(candidate in network(wanted) for candidate in (address, mapped) if candidate is not None)


def glob_matches(glob: str, text: object) -> bool:
    """Whether `text` is `glob`, in which ``*`` stands for any text."""
    pattern = ".*".join(re.escape(part) for part in glob.split("*"))
    return isinstance(text, str) and re.fullmatch(pattern, text, re.DOTALL) is not None


def extension(record: Record) -> Record:
    """``additionalEventData.keytrail``."""
    return _part(_part(record, "additionalEventData"), "keytrail")


def fingerprints(record: Record, *which: str) -> list[str]:
    """The fingerprints in `record`: of the request's blobs, then of the response's; or of `which` only."""
    return [text for name in which or ("fingerprintsIn", "fingerprintsOut") for text in extension(record).get(name) or ()]


def allowances(record: Record) -> list[str]:
    """What allowed each action of the call: ``grant ID``, ``POLICY: STATEMENT``, or the policy alone, which is ``host``."""
    entries = extension(record).get("allowedBy")
    return [_allowance(one) for one in entries if isinstance(one, Mapping)] if isinstance(entries, list) else []


def _allowance(one: Record) -> str:
    grant = _text(one, "grant")
    return f"grant {grant}" if grant is not None else ": ".join(filter(None, (_text(one, "policy"), _text(one, "statement"))))


def was_done(record: Record) -> bool | None:
    """Whether what `record` asks for was done; None where nobody knows. Of a lost outcome `effect` tells."""
    facts = extension(record)
    match facts.get("effect"):
        case Effect.MADE.value:
            return True
        case Effect.NONE.value:
            return False
        case Effect.UNKNOWN.value:
            return None
    return None if facts.get("phase") == Phase.UNKNOWN.value else record.get("errorCode") is None


def resource_arns(record: Record) -> list[str]:
    return [entry["ARN"] for entry in record.get("resources") or () if isinstance(entry.get("ARN"), str)]


def named_keys(record: Record) -> Iterator[str]:
    """Every name of a key in `record`: the resources' ARNs, and what the caller wrote."""
    yield from resource_arns(record)
    for whole, member in WRITTEN_KEYS:
        name = _part(record, whole).get(member)
        if isinstance(name, str):
            yield name


def contexts(record: Record) -> dict[str, dict[str, str]]:
    """The encryption contexts in `record`, under their names in requestParameters."""
    parameters = _part(record, "requestParameters")
    return {name: dict(_part(parameters, name)) for name in CONTEXTS if _part(parameters, name)}


def private_names(record: Record) -> Mapping[str, str]:
    """The names whose values in the record's contexts are private, and in which form (`audit.privacy.Form`)."""
    return _part(extension(record), "privateContext")


def _part(record: Record, name: str) -> Record:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(record: Record, name: str) -> str | None:
    text = record.get(name)
    return text if isinstance(text, str) else None


def _identity(record: Record, name: str) -> object:
    return _part(record, "userIdentity").get(name)


def _has_pair(record: Record, pair: tuple[str, str], digest: str | None) -> bool:
    key, value = pair
    values = [context.get(key) for context in contexts(record).values()]
    return value in values or (digest is not None and digest in values and private_names(record).get(key) == Form.HMAC.value)
