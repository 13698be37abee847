"""What answers the operations of STS: `StsService`, a `Backend`.

A new session is one row, written in one transaction together with the look at its role and the note that it was made, and durable
before it is answered. In the same transaction go the rows of sessions that ended long ago. Calls that sessions sign write
nothing.

Not here: second factors (a code is always wrong), session policies, and contexts of identity providers; they are refused.

Source: AWS STS API reference; IAM user guide, "Pass session tags", "Monitor and control actions taken with assumed roles".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson

from proxy.backends.local import effects
from proxy.callers import (
    ASSUMED_ROLE,
    CALLER,
    NO_REGION,
    SESSION,
    Callers,
    new_id,
    new_secret_access_key,
    new_session_token,
    role_row,
    session_body,
)
from proxy.domain import Answer, KeyUse, KmsCall, Principal, SessionContext, SessionIssuer
from proxy.errors import KmsError
from proxy.sealed_store import SealedStore, Secret, StoreFailed, Transaction
from proxy.sts.roles import Role, find_role, trust_policy_of
from proxy.sts.trusting import Inherited, assuming_of, inherited_by, needed_for, not_authorized

DEFAULT_ROLE_SESSION_S = 3_600
DEFAULT_USER_SESSION_S = 43_200
_CHAINED_S = 3_600
_NOT_HERE = ("Policy", "PolicyArns", "ProvidedContexts")


class StsService:
    """Sessions in a sealed store. Made and called on one event loop's thread. `clock` gives seconds since the epoch."""

    name = "local"
    forwards = False

    def __init__(self, store: SealedStore, callers: Callers, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._store = store
        self._callers = callers
        self._clock = clock
        self._random = random
        self._changes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sts")

    async def call(self, call: KmsCall) -> Answer:
        """Answer a call; see `Backend.call`."""
        if call.operation.name == "GetCallerIdentity":
            caller = call.principal
            return Answer({"UserId": caller.principal_id, "Account": caller.account_id, "Arn": caller.arn})
        change = {"AssumeRole": self._assume_role, "GetSessionToken": self._get_session_token}[call.operation.name]
        outlived = self._callers.outlived(int(self._clock() * 1_000_000))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._changes, self._change, change, call, outlived)
        except StoreFailed as fault:
            unknown = fault.outcome_unknown
            raise KmsError("KMSInternalException", "The store of sessions failed.", status=500, effect_unknown=unknown) from fault

    def close(self) -> None:
        """Wait for what is under way."""
        self._changes.shutdown()

    def _change(self, change: Callable[[Transaction, KmsCall], Answer], call: KmsCall, outlived: tuple[str, ...]) -> Answer:
        with self._store.change() as tx:
            answer = change(tx, call)
            if call.intent_id is not None:
                effects.keep(tx, call.intent_id, call.received_us, (), roles=answer.keys)
            for access_key_id in outlived:
                tx.delete(SESSION, NO_REGION, access_key_id)
            return answer

    def _get_session_token(self, tx: Transaction, call: KmsCall) -> Answer:
        caller = call.principal
        if (fault := no_session_token_for(caller)) is not None:
            raise fault
        _refuse_second_factor(call)
        principal = Principal(
            caller.type,
            caller.arn,
            caller.account_id,
            self._access_key_id(tx),
            caller.principal_id,
            caller.user_name,
            SessionContext(self._now_us()),
        )
        duration_s = call.parameters.get("DurationSeconds", DEFAULT_USER_SESSION_S)
        return Answer({"Credentials": self._give_out(tx, principal, duration_s, caller, caller.access_key_id)})

    def _assume_role(self, tx: Transaction, call: KmsCall) -> Answer:
        sent, caller = call.parameters, call.principal
        for name in _NOT_HERE:
            if sent.get(name):
                raise KmsError("ValidationError", f"{name} is not supported here: a session may do what its role may.")
        inherited = inherited_by(tx.get, caller)
        role = _trusting_role(tx, call, inherited)
        used = (KeyUse(role.arn, role.account_id),)
        _refuse_second_factor(call)
        duration_s = _role_duration_s(call, role, used)
        tags = inherited.tags | {tag["Key"]: tag["Value"] for tag in sent.get("Tags", ())}
        partition = role.arn.split(":")[1]
        name = sent["RoleSessionName"]
        issuer = SessionIssuer(role.role_id, role.arn, role.account_id, role.name)
        source_identity = inherited.source_identity or sent.get("SourceIdentity")
        principal = Principal(
            ASSUMED_ROLE,
            f"arn:{partition}:sts::{role.account_id}:assumed-role/{role.name}/{name}",
            role.account_id,
            self._access_key_id(tx),
            f"{role.role_id}:{name}",
            None,
            SessionContext(self._now_us(), issuer, source_identity),
            tuple(tags.items()),
        )
        transitive = [*inherited.tags, *sent.get("TransitiveTagKeys", ())]
        members = {
            "Credentials": self._give_out(tx, principal, duration_s, caller, role_row(role.account_id, role.name), transitive),
            "AssumedRoleUser": {"AssumedRoleId": principal.principal_id, "Arn": principal.arn},
        }
        return Answer(members | ({"SourceIdentity": source_identity} if source_identity else {}), used)

    def _give_out(
        self,
        tx: Transaction,
        principal: Principal,
        duration_s: int,
        by: Principal,
        parent: str,
        transitive: list[str] | None = None,
    ) -> dict[str, object]:
        """Make the session of `principal`, which its parent's row says whose it is; its credentials, as an answer has them."""
        secret, token = new_secret_access_key(self._random), new_session_token(self._random)
        expires_us = self._now_us() + duration_s * 1_000_000
        body = session_body(principal, expires_us, by.arn, transitive or ())
        tx.put(SESSION, NO_REGION, principal.access_key_id, body, Secret(orjson.dumps([secret, token])), parent=parent)
        return {
            "AccessKeyId": principal.access_key_id,
            "SecretAccessKey": secret,
            "SessionToken": token,
            "Expiration": expires_us / 1_000_000,
        }

    def _now_us(self) -> int:
        return int(self._clock()) * 1_000_000

    def _access_key_id(self, tx: Transaction) -> str:
        access_key_id = new_id("ASIA", self._random)
        if any(tx.get(kind, NO_REGION, access_key_id) is not None for kind in (CALLER, SESSION)):
            raise LookupError("a new access key id came out as one that is in use: the source of randomness is broken")
        return access_key_id


def no_session_token_for(caller: Principal) -> KmsError | None:
    """Why `caller` is given no session token, whatever policies say."""
    if caller.session is None and caller.type != ASSUMED_ROLE:
        return None
    return KmsError("AccessDenied", "Cannot call GetSessionToken with session credentials", status=403)


def _trusting_role(tx: Transaction, call: KmsCall, inherited: Inherited) -> Role:
    """The role that is asked for. Raises KmsError unless its trust policy lets the caller assume it in the way that it asks."""
    arn = call.parameters["RoleArn"]
    parts = arn.split(":")
    if len(parts) != 6 or parts[0] != "arn":
        raise KmsError("ValidationError", f"{arn[:256]} is invalid")
    tags = _tags(call, inherited)
    role = find_role(tx.get, parts[4], arn.rpartition("/")[2])
    if role is None or role.arn != arn:
        raise not_authorized(call, "sts:AssumeRole", ())
    used = (KeyUse(role.arn, role.account_id),)
    assuming = assuming_of(call, role, inherited, tags)
    policy = trust_policy_of(role.trust)
    for action in needed_for(assuming):
        if not policy.allows(action, assuming):
            raise not_authorized(call, action, used)
    if inherited.source_identity and call.parameters.get("SourceIdentity") not in (None, inherited.source_identity):
        raise not_authorized(call, "sts:SetSourceIdentity", used)
    return role


def _tags(call: KmsCall, inherited: Inherited) -> dict[str, str]:
    """The tags that are asked for. Raises KmsError where they contradict themselves, or what the caller's session hands on."""
    sent = call.parameters.get("Tags", ())
    low = [tag["Key"].lower() for tag in sent]
    if len(set(low)) != len(low):
        raise KmsError("InvalidParameterValue", "Duplicate tag keys found. Tag keys are not case-sensitive.")
    if any(key.startswith("aws:") for key in low):
        raise KmsError("InvalidParameterValue", "A tag key must not begin with aws:.")
    if any(key.lower() not in low for key in call.parameters.get("TransitiveTagKeys", ())):
        raise KmsError("InvalidParameterValue", "A transitive tag key must be the key of a tag in the request.")
    if not {key.lower() for key in inherited.tags}.isdisjoint(low):
        raise KmsError("InvalidParameterValue", "A tag that the calling session hands on cannot be given another value.")
    return {tag["Key"]: tag["Value"] for tag in sent}


def _role_duration_s(call: KmsCall, role: Role, used: tuple[KeyUse, ...]) -> int:
    """How long a session of `role` is to last, in seconds. Raises KmsError where that is too long."""
    duration_s: int = call.parameters.get("DurationSeconds", DEFAULT_ROLE_SESSION_S)
    if duration_s > role.max_session_s:
        message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        raise KmsError("ValidationError", message, keys=used)
    if call.principal.session is not None and duration_s > _CHAINED_S:
        message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."
        raise KmsError("ValidationError", message, keys=used)
    return duration_s


def _refuse_second_factor(call: KmsCall) -> None:
    if call.parameters.get("SerialNumber") or call.parameters.get("TokenCode"):
        message = "MultiFactorAuthentication failed with invalid MFA one time pass code. "
        raise KmsError("AccessDenied", message, status=403)
