"""The words of the proxy: a request as bytes, who sent it, what it asks, and what came of it.

Pure values, no I/O, no HTTP types. Nobody changes one; those that are made anew for each call are not frozen, because that would
triple their price. `KmsCall.parameters` and `Answer.members` use the API's own member names (`KeyId`), with
blobs as `bytes`; they can hold key material, so neither shows them in its repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.record import AllowedBy as AllowedBy
from audit.record import ClientCertificate as ClientCertificate  # words that both sides share
from audit.record import DeniedBy as DeniedBy
from audit.record import SessionContext as SessionContext
from audit.record import SessionIssuer as SessionIssuer
from audit.record import TlsDetails as TlsDetails
from audit.record import Upstream as Upstream

#: An HTTP message's: names are lower-case, values as sent, without surrounding blanks.
Headers = tuple[tuple[bytes, bytes], ...]
#: Members of a request or response: JSON values, and `bytes` for blobs. Any, because the service model decides, not mypy.
Members = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HttpFault:
    """What was wrong with an HTTP message itself, as the client will be told: status, error code, words."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from, and by which way it reached us. Made once for a connection.

    `peer` is the address of the other end of the socket. `claimed_peer` is the client's own address as a proxy in front says
    (PROXY protocol), and only where that proxy is trusted. `topology` is a word of the record: endpoint, private-dns,
    forward-proxy.
    """

    peer: str
    topology: str = "endpoint"
    claimed_peer: str | None = None
    tls: TlsDetails | None = None
    client_certificate: ClientCertificate | None = None


@dataclass(slots=True)
class RawRequest:
    """One HTTP request as it was received.

    Where there is a `fault`, the other fields are what could be read before it. `received_us` is microseconds since the epoch.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes = field(repr=False)
    origin: Origin
    received_us: int
    fault: HttpFault | None = None


@dataclass(slots=True)
class RawResponse:
    """What goes back: an HTTP status and a JSON body, which may hold key material. `headers` are sent beside our own; where
    there is a Content-Type among them, it stands in for ours. `receipt` is of the call's record, "" where there is none."""

    status: int
    body: bytes = field(repr=False)
    request_id: str
    headers: tuple[tuple[str, str], ...] = ()
    receipt: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: `arn` such as ``arn:aws:iam::111122223333:user/alice``; `type` is IAMUser or AssumedRole.

    Of temporary credentials, `session` says whence they are, and `tags` are the session's.
    """

    type: str
    arn: str
    account_id: str
    access_key_id: str
    principal_id: str
    user_name: str | None = None
    session: SessionContext | None = None
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What KMS can be asked for: a row of the table in `proxy.kms.operations`.

    `read_only` is CloudTrail's flag; `mutates` says that an intent is committed before the effect. A member of the response in
    another one is written ``Credentials.Expiration``, and recorded by its own name.
    """

    name: str
    mutates: bool = False
    request: tuple[str, ...] = ()  # members recorded in requestParameters, where sent
    response: tuple[str, ...] = ()  # members recorded in responseElements
    ciphertexts_in: tuple[str, ...] = ()  # members fingerprinted
    ciphertexts_out: tuple[str, ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()  # recorded also when not sent
    key_members: tuple[str, ...] = ("KeyId",)  # members that name a key, in the order of `resources`
    also_recorded: tuple[str, ...] = ()  # members of `Answer.recorded` that may stand in responseElements
    logs_key_arn: bool = False  # responseElements.keyId holds the key ARN, though the API returns none
    told_as_read: bool = False  # CloudTrail calls it read-only, though it leaves something behind

    @property
    def read_only(self) -> bool:
        return self.told_as_read or not self.mutates


@dataclass(frozen=True, slots=True)
class Attested:
    """What a verified attestation document says of who made it: its measurements by register, in hex. `is_tpm`: of a whole
    instance, by its NitroTPM; else of an enclave."""

    module_id: str
    pcrs: Mapping[int, str]
    is_tpm: bool = False

    @property
    def conditions(self) -> dict[str, str]:
        """The condition keys of policies that it gives values for."""
        if self.is_tpm:
            return {f"kms:RecipientAttestation:NitroTPMPCR{index}": value for index, value in self.pcrs.items()}
        found = {f"kms:RecipientAttestation:PCR{index}": value for index, value in self.pcrs.items()}
        if 0 in self.pcrs:
            found["kms:RecipientAttestation:ImageSha384"] = self.pcrs[0]
        return found


@dataclass(slots=True)
class KmsCall:
    """A request that was authenticated and is well-formed by the service model."""

    operation: Operation
    region: str
    principal: Principal
    parameters: Members = field(repr=False)
    received_us: int
    raw: RawRequest | None = None  # as it arrived; None for a call that the host makes itself
    source_ip: str = ""  # the client's address, as far as it is known
    request_id: str = ""  # which its client and its record have
    intent_id: str | None = None  # event id of the intent that was committed for it
    allowed_by: list[AllowedBy] = field(default_factory=list)  # what let it through, one for each action; filled on its way
    attested: Attested | None = None  # who its Recipient is, once that is verified


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key that a call used or meant: its key ARN, owner, and the key material's id where one was used."""

    arn: str
    account_id: str
    material_id: str | None = None


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What AWS answered, for the client to have as it is: body, and the headers that are AWS's to say."""

    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful call: the response's members, and the keys used (for ReEncrypt the source, then the destination).

    Where AWS gave it, `upstream` says so, `forwarded` is what goes to the client, and blobs in `members` are base64 text.
    """

    members: Members = field(repr=False)
    keys: tuple[KeyUse, ...] = ()
    aliases: tuple[str, ...] = ()  # alias ARNs that the call made, moved or deleted
    upstream: Upstream | None = None
    forwarded: Forwarded | None = None
    recorded: Members | None = field(default=None, repr=False)  # for the record alone: what the API does not return
