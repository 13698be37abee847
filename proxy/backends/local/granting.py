"""CreateGrant, RetireGrant, RevokeGrant. What grants mean is in `grants`.

Messages: recorded from AWS are `ARN does not refer to a valid principal: …` and `Grants must not contain only the CreateGrant
operation.`; a peer's is `Grant ID … not found`; the others are keytrail's own words under AWS's error codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grant_tokens import GRANT_ID_BYTES, NONCE_BYTES, TOKEN_KEY_BYTES, make_token
from proxy.backends.local.grants import CONTEXT_MEMBERS, CREATE_GRANT, RETIRE_GRANT, Grant, grant_by_token, limits_of, meant_grant
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.lookup import PENDING_DELETIONS, check_state, invalid_token, managed_key, stop_dry_run
from proxy.backends.local.specs import (
    ENCAPSULATE_DECAPSULATE,
    ENCRYPT_DECRYPT,
    GENERATE_VERIFY_MAC,
    KEY_AGREEMENT,
    SIGN_VERIFY,
)
from proxy.backends.local.surroundings import Surroundings
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import key_arn, partition_of
from proxy.kms.principals import is_account_id, parse_principal, root_arn

MOST_GRANTS_OF_A_KEY = 50_000
MOST_PAIRS = 8
MOST_VALUE_CHARACTERS = 384

_GRANT_ID = re.compile(r"[0-9a-f]{64}")
_FOR_EVERY_KEY = frozenset({CREATE_GRANT, RETIRE_GRANT, "DescribeKey"})
_BY_SYMMETRIC = frozenset(CONTEXT_MEMBERS)
_BY_OTHERS = {  # by usage
    ENCRYPT_DECRYPT: frozenset({"Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GetPublicKey"}),
    SIGN_VERIFY: frozenset({"Sign", "Verify", "GetPublicKey"}),
    GENERATE_VERIFY_MAC: frozenset({"GenerateMac", "VerifyMac"}),
    KEY_AGREEMENT: frozenset({"DeriveSharedSecret", "GetPublicKey"}),
    ENCAPSULATE_DECAPSULATE: frozenset({"Encapsulate", "Decapsulate", "GetPublicKey"}),
}


def grant_operations(key: Key) -> frozenset[str]:
    """The operations that a grant on the key can allow."""
    return _FOR_EVERY_KEY | (_BY_SYMMETRIC if key.about.is_symmetric else _BY_OTHERS[key.usage])


@dataclass(frozen=True, slots=True)
class Party:
    """A grantee or a retiring principal: an ARN, or the name of an AWS service."""

    name: str
    is_service: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What CreateGrant asks for, its contradictions refused."""

    grantee: Party
    retiring: Party | None
    operations: tuple[str, ...]
    constraints: Mapping[str, Any]
    name: str


def create_grant(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    asked = _read(call)
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    _check_fits(key, asked)
    # A key is Unavailable or Updating for its material's or its primary's sake: grants have nothing to do with either.
    check_state(key, KeyState.DISABLED, *PENDING_DELETIONS, KeyState.PENDING_IMPORT, KeyState.CREATING)
    grant = _same(keys, call, key, asked)
    if grant is None and keys.count_grants(key) >= MOST_GRANTS_OF_A_KEY:
        message = f"{key.arn} has {MOST_GRANTS_OF_A_KEY} grants, the most there can be"
        raise KmsError("LimitExceededException", message, keys=(key.meant,))
    stop_dry_run(call, key.meant)
    if grant is None:
        grant = _new(around, call, key, asked)
        keys.put_grant(grant)
    token = make_token(grant.id, grant.token_key, around.random(NONCE_BYTES))
    return Answer({"GrantId": grant.id, "GrantToken": token}, (key.meant,))


def _read(call: KmsCall) -> Asked:
    """Raises KmsError where the request's members do not go together."""
    parameters = call.parameters
    operations = tuple(dict.fromkeys(parameters["Operations"]))
    if not operations:
        raise invalid("Grants must contain at least one operation.")
    if operations == (CREATE_GRANT,):
        raise invalid("Grants must not contain only the CreateGrant operation.")
    grantee, retiring = read_party(call, "Grantee"), read_party(call, "Retiring")
    if grantee is None:
        raise invalid("Specify either GranteePrincipal or GranteeServicePrincipal.")
    constraints = parameters.get("Constraints") or {}
    _check_size(constraints)
    if grantee.is_service and "SourceArn" not in constraints:
        raise invalid("A grant to a GranteeServicePrincipal must have a SourceArn constraint.")
    if grantee.is_service and retiring is None:
        raise invalid("A grant to a GranteeServicePrincipal must have a RetiringPrincipal or a RetiringServicePrincipal.")
    return Asked(grantee, retiring, operations, constraints, parameters.get("Name", ""))


def read_party(call: KmsCall, role: str) -> Party | None:
    """Whom a request names for `role`, Grantee or Retiring. Raises KmsError where that is no principal, or two."""
    principal, service = call.parameters.get(f"{role}Principal"), call.parameters.get(f"{role}ServicePrincipal")
    if principal is not None and service is not None:
        raise invalid(f"{role}Principal and {role}ServicePrincipal exclude each other.")
    if service is not None:
        return Party(service, is_service=True)
    return None if principal is None else Party(_principal(call, principal), is_service=False)


def _principal(call: KmsCall, text: str) -> str:
    partition = partition_of(call.region)
    if is_account_id(text):
        return root_arn(partition, text)
    found = parse_principal(text)
    if found is None or found.partition != partition:
        raise KmsError("InvalidArnException", f"ARN does not refer to a valid principal: {text}")
    return text


def _check_size(constraints: Mapping[str, Any]) -> None:
    for kind in ("Equals", "Subset"):
        pairs: Mapping[str, str] = constraints.get(f"EncryptionContext{kind}") or {}
        place = f"at 'constraints.encryptionContext{kind}' failed to satisfy constraint:"
        if len(pairs) > MOST_PAIRS:
            raise invalid(
                f"1 validation error detected: Value {place} Member must have length less than or equal to {MOST_PAIRS}"
            )
        if any(len(value) > MOST_VALUE_CHARACTERS for value in pairs.values()):
            raise invalid(
                f"1 validation error detected: Value {place} Map value must satisfy constraint:"
                f" [Member must have length less than or equal to {MOST_VALUE_CHARACTERS}]"
            )


def _check_fits(key: Key, asked: Asked) -> None:
    fitting = grant_operations(key)
    wrong = [operation for operation in asked.operations if operation not in fitting]
    if wrong:
        kind = f"{key.spec} and key usage {key.usage}"
        raise KmsError("ValidationException", f"{', '.join(wrong)} cannot be granted on a key of spec {kind}.", keys=(key.meant,))
    on_context = any(f"EncryptionContext{kind}" in asked.constraints for kind in ("Equals", "Subset"))
    if on_context and not key.about.is_symmetric:
        message = "Grants on asymmetric and HMAC keys cannot have an encryption context constraint."
        raise KmsError("ValidationException", message, keys=(key.meant,))


def _same(keys: KeysInChange, call: KmsCall, key: Key, asked: Asked) -> Grant | None:
    """The grant of this name that was made by the same request: then this one is a retry."""
    if not asked.name:
        return None
    for grant in keys.grants_named(key, asked.grantee.name, asked.name):
        retiring = None if grant.retiring is None else Party(grant.retiring, grant.retiring_is_service)
        if (
            (Party(grant.grantee, grant.grantee_is_service), retiring) == (asked.grantee, asked.retiring)
            and (set(grant.operations), grant.constraints) == (set(asked.operations), asked.constraints)
            and grant.issuer == call.principal.account_id
        ):
            return grant
    return None


def _new(around: Surroundings, call: KmsCall, key: Key, asked: Asked) -> Grant:
    retiring = asked.retiring
    return Grant(
        id=around.random(GRANT_ID_BYTES).hex(),
        region=key.region,
        key_id=key.id,
        account_id=key.account_id,
        issuer=call.principal.account_id,
        grantee=asked.grantee.name,
        operations=asked.operations,
        created_s=round(around.clock(), 3),
        retiring=None if retiring is None else retiring.name,
        name=asked.name,
        constraints=asked.constraints,
        limits=limits_of(asked.constraints),
        grantee_is_service=asked.grantee.is_service,
        retiring_is_service=retiring is not None and retiring.is_service,
        token_key=around.random(TOKEN_KEY_BYTES),
    )


# --- ends


def retire_grant(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """Works in every state of the key. The grant itself says who may, before policies do."""
    parameters = call.parameters
    token, key_id, grant_id = (parameters.get(name) for name in ("GrantToken", "KeyId", "GrantId"))
    if token is not None:
        # Not both: what the record says was asked for must be what was done.
        if key_id is not None or grant_id is not None:
            raise invalid("Specify either GrantToken, or KeyId and GrantId.")
        grant = grant_by_token(keys, call.region, token)
        if grant is None:
            raise invalid_token()
        key_id = key_arn(call.region, grant.account_id, grant.key_id)
    elif key_id is None or grant_id is None:
        raise invalid("Specify either GrantToken, or KeyId and GrantId.")
    return _end(around, keys, call, key_id)


def revoke_grant(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """Works in every state of the key."""
    return _end(around, keys, call, call.parameters["KeyId"])


def _end(around: Surroundings, keys: KeysInChange, call: KmsCall, key_id: str) -> Answer:
    grant_id: str | None = call.parameters.get("GrantId")
    if grant_id is not None and not _GRANT_ID.fullmatch(grant_id):
        raise KmsError("InvalidGrantIdException", f"Invalid grant ID {grant_id}")
    key = managed_key(around, keys, call, key_id)
    grant = meant_grant(keys, call, key)
    if grant is None:
        raise KmsError("NotFoundException", f"Grant ID {grant_id} not found", keys=(key.meant,))
    stop_dry_run(call, key.meant)
    keys.delete_grant(grant)
    return Answer({}, (key.meant,), recorded=None if grant_id is not None else {"GrantId": grant.id})


def invalid(message: str) -> KmsError:
    return KmsError("ValidationException", message)


CHANGES = {"CreateGrant": create_grant, "RetireGrant": retire_grant, "RevokeGrant": revoke_grant}
