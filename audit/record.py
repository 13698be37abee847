"""The audit record: a closed set of fields, so that key material has no place to go.

A record is a valid CloudTrail record (eventVersion 1.11); what CloudTrail has no field for goes under
``additionalEventData.keytrail``. The type is an allow-list: `AuditRecord` has no field that could hold plaintext, ciphertext,
a message or a MAC, and the free-form parts (`request_parameters`, `response_elements`) accept only the names in
`PARAMETER_NAMES` with JSON values. Byte strings are refused wherever they stand. How a record becomes bytes: `audit.canonical`.

Source: AWS CloudTrail record contents, and AWS KMS log entries per operation; docs/log-format.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from audit.errors import RecordRejected

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

#: Top-level names that requestParameters and responseElements may have. Nothing else is ever written there.
PARAMETER_NAMES = frozenset(
    [
        "aliasName",
        "bypassPolicyLockoutSafetyCheck",
        "cloudHsmClusterId",
        "constraints",
        "customKeyStoreId",
        "customKeyStoreName",
        "customKeyStoreType",
        "customerMasterKeySpec",
        "deletionDate",
        "description",
        "destinationEncryptionAlgorithm",
        "destinationEncryptionContext",
        "destinationKeyId",
        "dryRun",
        "encapsulationAlgorithm",
        "encryptionAlgorithm",
        "encryptionContext",
        "expirationModel",
        "grantId",
        "grantTokens",
        "granteePrincipal",
        "granteeServicePrincipal",
        "importType",
        "includeKeyMaterial",
        "keyAgreementAlgorithm",
        "keyId",
        "keyMaterialDescription",
        "keyMaterialId",
        "keyMetadata",
        "keyPairSpec",
        "keySpec",
        "keyState",
        "keyUsage",
        "limit",
        "macAlgorithm",
        "marker",
        "messageType",
        "multiRegion",
        "name",
        "newCustomKeyStoreName",
        "numberOfBytes",
        "operations",
        "origin",
        "pendingWindowInDays",
        "policy",
        "policyName",
        "primaryRegion",
        "replicaKeyMetadata",
        "replicaPolicy",
        "replicaRegion",
        "replicaTags",
        "retiringPrincipal",
        "retiringServicePrincipal",
        "rotationPeriodInDays",
        "signingAlgorithm",
        "sourceEncryptionAlgorithm",
        "sourceEncryptionContext",
        "sourceKeyId",
        "tagKeys",
        "tags",
        "targetKeyId",
        "validTo",
        "wrappingAlgorithm",
        "wrappingKeySpec",
        "xksKeyId",
        "xksProxyConnectivity",
        "xksProxyUriEndpoint",
        "xksProxyUriPath",
        "xksProxyVpcEndpointServiceName",
        "xksProxyVpcEndpointServiceOwner",
        "accessKeyId",
        "file",
        "findings",
        "generation",
        "masterKeyId",
        "principalArn",
        "type",
        "userName",
        "assumedRoleUser",
        "durationSeconds",
        "expiration",
        "externalId",
        "maxSessionDuration",
        "roleArn",
        "roleSessionName",
        "serialNumber",
        "sourceIdentity",
        "transitiveTagKeys",
        "lookupAttributes",
        "startTime",
        "endTime",
        "eventCategory",
        "maxResults",
        "trailNameList",
        "includeShadowTrails",
        "command",
        "question",
        "subject",
        "finding",
        "fault",
        "omitted",
        "originalSize",
        "reason",
    ]
)


class Phase(Enum):
    """Where in the life of a call a record stands; a call that changes nothing has an outcome only."""

    INTENT = "intent"  # committed before a change is made
    OUTCOME = "outcome"  # what became of the call
    UNKNOWN = "unknown"  # written by recovery: an intent whose outcome was lost in a crash


class Effect(Enum):
    """What is known of a change where its outcome does not tell."""

    UNKNOWN = "unknown"  # AWS was asked for it, and may or may not have made it
    MADE = "made"  # the key store has it
    NONE = "none"  # the key store has it not


class IdentityProof(Enum):
    """How the identity in `user_identity` was established."""

    SIGNATURE = "signature-verified"
    UPSTREAM = "accepted-by-upstream"
    CLAIMED = "claimed"
    NONE = "none"
    HOST = "host-operator"  # a command run on the host, by whoever may read the data folder


@dataclass(frozen=True, slots=True)
class SessionIssuer:
    """The role that a session is of."""

    principal_id: str
    arn: str
    account_id: str
    user_name: str  # CloudTrail's word for the role's name


@dataclass(frozen=True, slots=True)
class SessionContext:
    """CloudTrail's sessionContext: of temporary credentials, who issued them and when (microseconds since the epoch)."""

    created_us: int
    issuer: SessionIssuer | None = None  # None for a user's own session
    source_identity: str | None = None
    mfa_authenticated: bool = False


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """CloudTrail's userIdentity. ``type``: IAMUser, AssumedRole, …, AWSService for what the service does by itself (`invoked_by`
    says who that is), or Unknown for who could not be authenticated."""

    type: str
    principal_id: str | None = None
    arn: str | None = None
    account_id: str | None = None
    access_key_id: str | None = None
    user_name: str | None = None
    session: SessionContext | None = None
    invoked_by: str | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """One entry of ``resources``: for keys always the key ARN, never an alias or a bare id."""

    arn: str
    account_id: str
    type: str = "AWS::KMS::Key"


@dataclass(frozen=True, slots=True)
class TlsDetails:
    """The TLS session of a connection: `version` as in ``TLSv1.3``, the cipher suite, the name that was asked for (SNI)."""

    version: str
    cipher_suite: str
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Who a client's certificate says it is: subject and issuer as of RFC 4514, alternative names (``DNS:…``, ``URI:…``),
    and the certificate's SHA-256 in hex."""

    subject: str
    issuer: str
    sha256: str
    alternative_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Upstream:
    """What came of asking AWS KMS: its host, how often it was tried, and where it answered its status and the request id that
    it gave, which is the one in AWS's own CloudTrail. `failures` says of each attempt without an answer what went wrong."""

    host: str
    attempts: int
    status: int | None = None
    request_id: str | None = None
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeniedBy:
    """The guardrail that refused a call: the policy's file, and the statement's Sid or number; "" where none allowed it."""

    policy: str
    statement: str


@dataclass(frozen=True, slots=True)
class AllowedBy:
    """What let a call through, by one of the policies of the embedded KMS: a grant, or a statement (its Sid or number) of a
    policy, which is ``key policy``, or the name of one of the caller's own."""

    grant: str | None = None
    policy: str | None = None
    statement: str | None = None


#: The names that `AuditRecord.recipient` may have: CloudTrail's, of measurements that a verified attestation document holds.
RECIPIENT_NAME = re.compile(r"attestationDocument(ModuleId|EnclaveImageDigest|EnclavePCR[0-9]{1,2}|NitroTPMPCR[0-9]{1,2})")


@dataclass(slots=True, kw_only=True)
class AuditRecord:
    """One call, or one event of keytrail itself, as it will stand in the log. Times are microseconds since the epoch, UTC.

    Not frozen, only because that takes three times as long to make, on the way of every call. Nobody changes one.
    Raises `RecordRejected` for a parameter name outside `PARAMETER_NAMES`.
    """

    time_us: int
    event_id: str
    event_name: str
    identity: UserIdentity
    aws_region: str
    source_ip: str
    request_id: str | None = None
    event_source: str = "kms.amazonaws.com"
    event_type: str = "AwsApiCall"
    user_agent: str | None = None
    request_parameters: Mapping[str, JsonValue] | None = None
    response_elements: Mapping[str, JsonValue] | None = None
    service_event_details: Mapping[str, JsonValue] | None = None
    error_code: str | None = None  # CloudTrail's name: AccessDenied
    error_message: str | None = None
    read_only: bool = True
    resources: tuple[Resource, ...] = ()
    recipient_account_id: str | None = None
    key_material_ids: Mapping[str, str] | None = None  # keyMaterialId, sourceKeyMaterialId, destinationKeyMaterialId
    recipient: Mapping[str, str] | None = None  # the enclave or instance that the answer was encrypted for, or was to be
    tls: TlsDetails | None = None

    # additionalEventData.keytrail
    phase: Phase = Phase.OUTCOME
    intent_id: str | None = None  # event id of the intent that this outcome belongs to
    fingerprints_in: tuple[str, ...] = ()  # SHA-256, hex, of every CiphertextBlob in the request
    fingerprints_out: tuple[str, ...] = ()  # … and in the response
    identity_proof: IdentityProof = IdentityProof.NONE
    backend: str = "local"
    topology: str = "endpoint"
    wire_error: str | None = None  # the error code as the client saw it: AccessDeniedException
    latency_us: int | None = None
    repeated_signature: bool = False  # the same signed request was seen before: an SDK's twin in one second, or a replay
    peer: str | None = None  # the other end of the socket, where `source_ip` is what a trusted proxy said
    client_certificate: ClientCertificate | None = None
    upstream: Upstream | None = None
    effect: Effect | None = None  # where the outcome does not tell whether a change was made
    denied_by: DeniedBy | None = None
    allowed_by: tuple[AllowedBy, ...] = ()
    private_context: Mapping[str, str] | None = None  # the forms (`audit.privacy.Form`) of private values of contexts, by name

    def __post_init__(self) -> None:
        for parameters in (self.request_parameters, self.response_elements):
            if parameters is not None and not PARAMETER_NAMES.issuperset(parameters):
                unknown = ", ".join(sorted(set(parameters) - PARAMETER_NAMES))
                raise RecordRejected(f"{self.event_name}: not in the record's allow-list: {unknown}")
        for name in self.recipient or ():
            if RECIPIENT_NAME.fullmatch(name) is None:
                raise RecordRejected(f"{self.event_name}: not in the record's allow-list: {name} of a recipient")
