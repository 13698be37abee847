"""What is written down of a call: from the exchange to the audit record. Pure.

Only what `proxy.kms.operations` names for the operation goes into requestParameters and responseElements; the record type checks
again. Ciphertexts become their SHA-256 fingerprint, which is what makes a data key traceable; everything else that is secret has
no way in. Source: `audit.record`, and the operations table.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal

from audit.record import AuditRecord, Effect, IdentityProof, Phase, Resource, UserIdentity
from proxy.context_privacy import ContextPrivacy, Hidden
from proxy.domain import AllowedBy, Answer, Attested, KeyUse, KmsCall, Members, Operation, Principal, RawRequest
from proxy.errors import KmsError

#: CloudTrail's names for codes that it does not take from the wire.
_CLOUDTRAIL_CODES = {"AccessDeniedException": "AccessDenied"}
_OPERATION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,127}")
#: Members whose keys are the user's own words, and stay as they are.
_FREE_MAPS = ("EncryptionContext", "EncryptionContextSubset", "EncryptionContextEquals")
GrantTokens = Literal["clear", "sha256"]


UNKNOWN_OPERATION = Operation("UnknownOperation")


@dataclass(slots=True)
class Exchange:
    """What is known of a call so far; the pipeline fills it in as the call goes its way."""

    raw: RawRequest
    request_id: str
    operation: Operation = UNKNOWN_OPERATION
    parameters: Members = field(default_factory=dict, repr=False)
    principal: Principal | None = None
    claimed_access_key_id: str | None = None
    proof: IdentityProof = IdentityProof.NONE
    region: str | None = None
    repeated_signature: bool = False
    intent_id: str | None = None
    allowed_by: Sequence[AllowedBy] = ()
    call: KmsCall | None = field(default=None, repr=False)  # once it could be read
    headers: Mapping[bytes, bytes] = field(init=False, repr=False)  # those of `raw`; of two with one name the last
    source_ip: str = field(init=False)  # the client's address, as far as who says it is trusted

    def __post_init__(self) -> None:
        self.headers = dict(self.raw.headers)
        self.source_ip = self.raw.origin.claimed_peer or self.raw.origin.peer


def operation_name(claimed: str) -> str:
    """`claimed` where it can be a name, for the record of an operation that nobody knows."""
    return claimed if _OPERATION_NAME.fullmatch(claimed) else "UnknownOperation"


#: What CloudTrail writes for the service itself.
_AWS_INTERNAL = "AWS Internal"
_INTEGERS = (-(1 << 63), 1 << 63)  # what every reader of JSON takes for a whole number; others are recorded as their digits
_NOTHING_HIDDEN = Hidden({})
_YEAR_10000 = 253_402_300_800  # seconds since the epoch: what datetime cannot say stays a number


class Recorder:
    """Builds the records of one service of an instance. `home_region` stands where a call's region is not known.

    `event_source` and `resource_type` are CloudTrail's names of the service and of what it keeps. With `has_accounts` the
    accounts of callers are served here: a call's recipient is then the caller's, as in the event that CloudTrail gives to them.
    All that `privacy` is to hide it has hidden before anything of a request goes into a record; None: there is nothing to hide.
    """

    def __init__(
        self,
        account_id: str,
        home_region: str,
        backend: str,
        grant_tokens: GrantTokens,
        new_id: Callable[[], str],
        *,
        event_source: str = "kms.amazonaws.com",
        resource_type: str = "AWS::KMS::Key",
        has_accounts: bool = False,
        privacy: ContextPrivacy | None = None,
    ) -> None:
        self._account_id = account_id
        self._event_source = event_source
        self._resource_type = resource_type
        self._has_accounts = has_accounts
        self._privacy = privacy
        self._home_region = home_region
        self._backend = backend
        self._hash_grant_tokens = grant_tokens == "sha256"
        self._new_id = new_id

    def intent(self, exchange: Exchange) -> AuditRecord:
        """The record of a call that is about to change something."""
        return self._record(exchange, Phase.INTENT, exchange.raw.received_us, None, None)

    def outcome(self, exchange: Exchange, outcome: Answer | KmsError, now_us: int) -> AuditRecord:
        """The record of what became of a call, at `now_us`."""
        if isinstance(outcome, Answer):
            return self._record(exchange, Phase.OUTCOME, now_us, outcome, None)
        return self._record(exchange, Phase.OUTCOME, now_us, None, outcome)

    def service_event(
        self,
        name: str,
        region: str,
        now_us: int,
        details: Mapping[str, Any],  # Any: JSON
        keys: Sequence[KeyUse],
        *,
        phase: Phase = Phase.OUTCOME,
        intent_id: str | None = None,
        error: KmsError | None = None,
    ) -> AuditRecord:
        """The record of what the service does to `keys` by itself, in CloudTrail's form (AWS KMS developer guide, "RotateKey",
        "DeleteKey", "DeleteExpiredKeyMaterial"); `userIdentity` has a type beside, as every record here."""
        account_id = keys[0].account_id
        is_deleted = name == "DeleteKey" and phase is Phase.OUTCOME and error is None
        return AuditRecord(
            time_us=now_us,
            event_id=self._new_id(),
            event_name=name,
            event_type="AwsServiceEvent",
            identity=UserIdentity("AWSService", account_id=account_id, invoked_by=_AWS_INTERNAL),
            aws_region=region,
            source_ip=_AWS_INTERNAL,
            user_agent=_AWS_INTERNAL,
            response_elements={"keyId": keys[0].arn} if is_deleted else None,
            service_event_details=details,
            error_code=None if error is None else error.code,
            error_message=None if error is None else error.message,
            read_only=False,
            resources=tuple(_resource(key.arn, key.account_id, self._resource_type) for key in keys),
            recipient_account_id=account_id,
            phase=phase,
            intent_id=intent_id,
            backend=self._backend,
            wire_error=None if error is None else error.code,
            effect=Effect.UNKNOWN if error is not None and error.effect_unknown else None,
        )

    def own_event(self, name: str, now_us: int, details: Mapping[str, Any]) -> AuditRecord:  # Any: JSON
        """The record of something about keytrail itself that nobody asked for."""
        return AuditRecord(
            time_us=now_us,
            event_id=self._new_id(),
            event_name=name,
            event_source="keytrail",
            event_type="AwsServiceEvent",
            identity=UserIdentity("AWSService", principal_id="keytrail"),
            aws_region=self._home_region,
            source_ip="keytrail",
            service_event_details=details,
            read_only=False,
            recipient_account_id=self._account_id,
            backend=self._backend,
        )

    def _record(
        self, exchange: Exchange, phase: Phase, now_us: int, answer: Answer | None, error: KmsError | None
    ) -> AuditRecord:
        operation, raw, origin = exchange.operation, exchange.raw, exchange.raw.origin
        keys = answer.keys if answer is not None else error.keys if error is not None else ()
        resources = tuple([_resource(key.arn, key.account_id, self._resource_type) for key in keys])
        if answer is not None and answer.aliases:
            resources += tuple(Resource(arn, arn.split(":")[4], "AWS::KMS::Alias") for arn in answer.aliases)
        user_agent = exchange.headers.get(b"user-agent")
        principal, proof = exchange.principal, exchange.proof
        upstream = answer.upstream if answer is not None else error.upstream if error is not None else None
        request_id = exchange.request_id
        if upstream is not None:
            request_id = upstream.request_id or request_id
            if answer is not None and proof is IdentityProof.CLAIMED:
                proof = IdentityProof.UPSTREAM
        parameters, hidden = exchange.parameters, _NOTHING_HIDDEN
        if self._privacy is not None:
            hidden = self._privacy.hide(parameters)
            parameters = hidden.parameters
        return AuditRecord(
            time_us=raw.received_us,
            event_id=self._new_id(),
            request_id=request_id,
            event_name=operation.name,
            event_source=self._event_source,
            identity=_identity(principal, exchange.claimed_access_key_id),
            aws_region=exchange.region or self._home_region,
            source_ip=exchange.source_ip,
            user_agent=None if user_agent is None else user_agent.decode("utf-8", "replace"),
            request_parameters=self._request_parameters(operation, parameters),
            response_elements=None if answer is None else _response_elements(operation, answer),
            error_code=None if error is None else _CLOUDTRAIL_CODES.get(error.code, error.code),
            error_message=None if error is None or error.message is None else hidden.text(error.message),
            read_only=operation.read_only,
            resources=resources,
            recipient_account_id=(self._has_accounts and principal is not None and principal.account_id) or self._account_id,
            key_material_ids=None if answer is None else _material_ids(answer.keys),
            recipient=_recipient(exchange.call.attested) if exchange.call is not None and exchange.call.attested else None,
            phase=phase,
            intent_id=exchange.intent_id if phase is Phase.OUTCOME else None,
            fingerprints_in=fingerprints(exchange.parameters, operation.ciphertexts_in),
            fingerprints_out=() if answer is None else fingerprints(answer.members, operation.ciphertexts_out),
            identity_proof=proof,
            backend=self._backend,
            topology=origin.topology,
            wire_error=None if error is None else error.code,
            latency_us=None if phase is Phase.INTENT else max(0, now_us - raw.received_us),
            repeated_signature=exchange.repeated_signature,
            tls=origin.tls,
            peer=None if origin.peer == exchange.source_ip else origin.peer,
            client_certificate=origin.client_certificate,
            upstream=upstream,
            effect=Effect.UNKNOWN if error is not None and error.effect_unknown else None,
            denied_by=None if error is None else error.denied_by,
            allowed_by=tuple(exchange.allowed_by) if phase is Phase.OUTCOME else (),
            private_context=hidden.marks or None,
        )

    def _request_parameters(self, operation: Operation, parameters: Members) -> dict[str, Any] | None:
        recorded: dict[str, Any] = {}
        allowed = _recorded_as(operation.request)
        for name, value in parameters.items():
            recorded_as = allowed.get(name)
            if recorded_as is None or value is None or (name in operation.key_members and type(value) is not str):
                continue
            if name == "GrantTokens" and self._hash_grant_tokens:
                tokens = value if isinstance(value, list) else [value]  # not a list: of a request that was not valid
                value = ["sha256:" + sha256(str(token).encode()).hexdigest() for token in tokens]
            recorded[recorded_as] = value if type(value) is str else _recordable(name, value)
        for name, default in operation.defaults:
            recorded.setdefault(_lower_camel(name), default)
        return recorded or None


def plausible(document: Members) -> Members:
    """The members of a request that was not validated that can be recorded: scalars, and flat lists and maps of text."""

    def is_scalar(value: object) -> bool:
        return isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 2**63)

    def is_flat(value: object) -> bool:
        if isinstance(value, dict):
            value = list(value.values())
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    return {name: value for name, value in document.items() if is_scalar(value) or is_flat(value)}


def fingerprints(members: Members, names: tuple[str, ...]) -> tuple[str, ...]:
    """SHA-256 (hex) of the blobs `names` in `members`: bytes, or base64 where the request was not validated."""
    if not names:
        return ()
    found = []
    for name in names:
        blob = members.get(name)
        if isinstance(blob, str):
            try:
                blob = base64.b64decode(blob, validate=True)
            except (binascii.Error, ValueError):
                continue
        if isinstance(blob, bytes) and blob:
            found.append(sha256(blob).hexdigest())
    return tuple(found)


@lru_cache(maxsize=1_024)
def _identity(principal: Principal | None, claimed_access_key_id: str | None) -> UserIdentity:
    if principal is None:
        return UserIdentity("Unknown", access_key_id=claimed_access_key_id)
    return UserIdentity(
        principal.type,
        principal.principal_id or None,
        principal.arn or None,
        principal.account_id or None,
        principal.access_key_id,
        principal.user_name,
        principal.session,
    )


@lru_cache(maxsize=1_024)
def _resource(arn: str, account_id: str, type: str) -> Resource:
    return Resource(arn, account_id, type)


def _material_ids(keys: tuple[KeyUse, ...]) -> dict[str, str] | None:
    if len(keys) == 1 and (material_id := keys[0].material_id) is not None:
        return {"keyMaterialId": material_id}
    used = [key.material_id for key in keys if key.material_id is not None]
    if len(used) == 2:
        return {"sourceKeyMaterialId": used[0], "destinationKeyMaterialId": used[1]}
    return {"keyMaterialId": used[0]} if used else None


#: The registers that CloudTrail has in its events.
_ENCLAVE_PCRS: tuple[int, ...] = (1, 2, 3, 4, 8)
_TPM_PCRS: tuple[int, ...] = (4, 7, 8, 9, 16, 23)
_MAX_MODULE_ID = 256


def _recipient(attested: Attested) -> dict[str, str]:
    found = {"attestationDocumentModuleId": attested.module_id[:_MAX_MODULE_ID]}
    prefix, registers = "attestationDocumentNitroTPMPCR", _TPM_PCRS
    if not attested.is_tpm:
        prefix, registers = "attestationDocumentEnclavePCR", _ENCLAVE_PCRS
        if 0 in attested.pcrs:
            found["attestationDocumentEnclaveImageDigest"] = attested.pcrs[0]
    return found | {f"{prefix}{index}": attested.pcrs[index] for index in registers if index in attested.pcrs}


def _response_elements(operation: Operation, answer: Answer) -> dict[str, Any] | None:
    if not operation.mutates and not operation.response:
        return None
    elements = {}
    for path in operation.response:
        holder, _, name = path.rpartition(".")
        members = answer.members.get(holder, {}) if holder else answer.members
        if name in members:
            elements[_lower_camel(name)] = _recordable(name, members[name])
    if answer.recorded is not None:
        told = answer.recorded
        elements |= {_lower_camel(name): _recordable(name, told[name]) for name in operation.also_recorded if name in told}
    if operation.logs_key_arn and answer.keys:
        elements["keyId"] = answer.keys[0].arn
    return elements or None


@lru_cache(maxsize=256)
def _recorded_as(members: tuple[str, ...]) -> dict[str, str]:
    """The names of `members` in a record, by their API's names."""
    return {name: _lower_camel(name) for name in members}


@lru_cache(maxsize=1_024)
def _lower_camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _recordable(name: str, value: Any) -> Any:  # Any: JSON of the caller's making, or of the service model's
    """`value` as the record writes it: nested member names in lowerCamelCase, except the user's own keys; times as ISO 8601."""
    if isinstance(value, int) and not _INTEGERS[0] <= value < _INTEGERS[1]:
        return str(value)
    if isinstance(value, str | int | bool):
        return value
    if isinstance(value, float) and name.endswith(("Date", "Time", "ValidTo", "Expiration")) and 0 <= value < _YEAR_10000:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, dict):
        if name.endswith(_FREE_MAPS):
            return value
        return {_lower_camel(key): _recordable(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_recordable(name, item) for item in value]
    return value
