"""Who is asked about: a caller of this keytrail, or one that there can be. Whoever there is not is told to be none.

A caller is one by its access key, or as a session of a role that may be assumed. Identity policies may be there before either:
then it is asked about as it will be, and the answer says that nobody can call as it yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.callers import ASSUMED_ROLE, IAM_USER, Caller, Callers
from proxy.domain import Principal, SessionContext, SessionIssuer
from proxy.explaining.answer import NotAsked
from proxy.kms.principals import Kind, PrincipalArn, owner_of, parse_principal
from proxy.permissions import Held
from proxy.sealed_store import SealedStore
from proxy.sts.roles import find_role

_TYPES = {
    Kind.USER: IAM_USER,
    Kind.ROOT: "Root",
    Kind.SESSION: ASSUMED_ROLE,
    Kind.FEDERATED_USER: "FederatedUser",
}


@dataclass(frozen=True, slots=True)
class Asker:
    """A caller, and what has to be known of it besides."""

    principal: Principal
    remarks: tuple[str, ...] = ()


def asker(store: SealedStore, held: Held, caller: str, now_us: int) -> Asker:
    """The caller with this access key id or ARN. Raises NotAsked where there is none."""
    callers = Callers(store)
    by_key = callers.find(caller)
    if by_key is not None:
        return Asker(by_key.principal, _of_key(by_key, now_us))
    listed = [one for one in callers.list() if one.principal.arn == caller]
    for one in listed:
        if one.enabled:
            return Asker(one.principal)
    if listed:
        return Asker(listed[-1].principal, (f"{caller} has no access key that is enabled: its calls are refused",))
    found = _parsed(caller)
    asked = _session_of_role(store, found, now_us)
    if asked is not None:
        return asked
    if found.kind in (Kind.USER, Kind.SESSION) and owner_of(caller) in held.by_owner:
        return Asker(_principal(found), (f"{caller} has policies and no access key: nobody can call as it yet",))
    raise NotAsked(f"there is no caller {caller} here: `keytrail caller list` and `keytrail role list` show who there is")


def anybody(caller: str) -> Asker:
    """The caller with this ARN, where it is AWS that knows who there is. Raises NotAsked for what is no ARN of one."""
    return Asker(_principal(_parsed(caller)))


def _of_key(caller: Caller, now_us: int) -> tuple[str, ...]:
    """Why calls with an access key are refused, if they are."""
    access_key_id = caller.principal.access_key_id
    if not caller.enabled:
        return (f"the access key {access_key_id} is disabled: its calls are refused",)
    if caller.expires_us is not None and caller.expires_us <= now_us:
        return (f"the session {access_key_id} has ended: its calls are refused",)
    return ()


def _parsed(caller: str) -> PrincipalArn:
    found = parse_principal(caller)
    if found is None or found.kind not in _TYPES:
        raise NotAsked(f"{caller!r} is no access key of this keytrail, and not the ARN of a user or of a role's session")
    return found


def _principal(found: PrincipalArn) -> Principal:
    account_id = found.account_id
    match found.kind:
        case Kind.USER:
            return Principal(IAM_USER, found.text, account_id, "", "", found.name)
        case Kind.ROOT:
            return Principal("Root", found.text, account_id, "", account_id)
        case kind:
            return Principal(_TYPES[kind], found.text, account_id, "", "")


def _session_of_role(store: SealedStore, found: PrincipalArn, now_us: int) -> Asker | None:
    """A session of a role that may be assumed, as one without tags and source identity is."""
    role = find_role(store.find, found.account_id, found.name) if found.kind is Kind.SESSION else None
    if role is None:
        return None
    issuer = SessionIssuer(role.role_id, role.arn, role.account_id, role.name)
    session = found.text.rpartition("/")[2]
    principal = Principal(
        ASSUMED_ROLE, found.text, role.account_id, "", f"{role.role_id}:{session}", None, SessionContext(now_us, issuer)
    )
    return Asker(
        principal, ("of a session without tags and source identity: one that has some is asked about by its access key id",)
    )
