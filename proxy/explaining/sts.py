"""What decides on an action of STS: the role's trust policy alone; for GetSessionToken and GetCallerIdentity no policy."""

from __future__ import annotations

from proxy.domain import AllowedBy, DeniedBy, KmsCall, Principal
from proxy.explaining.answer import NOBODYS_WORD, Answer, Considered, NotAsked, Question, unmet
from proxy.policy.access import ON_ROLES, STS_ACTIONS
from proxy.policy.principals import Names, names_of
from proxy.policy.trust import Assuming, Told, TrustStatement
from proxy.sealed_store import SealedStore
from proxy.sts.operations import OPERATIONS
from proxy.sts.roles import Role, find_role, trust_policy_of
from proxy.sts.service import no_session_token_for
from proxy.sts.trusting import assuming_of, inherited_by, needed_for, not_authorized

GET_CALLER_IDENTITY = "sts:GetCallerIdentity"
ACTIONS = STS_ACTIONS | {GET_CALLER_IDENTITY}
_ASKED_BY = {"sts:TagSession": "--tag", "sts:SetSourceIdentity": "--source-identity"}


def call_of(question: Question, action: str, principal: Principal) -> KmsCall:
    """The call that is asked about. Raises NotAsked where it has to name a role and does not."""
    if action in ON_ROLES and "RoleArn" not in question.parameters:
        raise NotAsked(f"{action} is about a role: name it by --role")
    return question.call(OPERATIONS["AssumeRole" if action in ON_ROLES else action.removeprefix("sts:")], principal)


def answer(store: SealedStore, call: KmsCall, action: str) -> Answer:
    """What is decided on `call`, and what was looked at. Raises NotAsked where the role is none, or nothing asks for `action`."""
    if action in ON_ROLES:
        return _of_role(store, call, action)
    fault = no_session_token_for(call.principal) if action == "sts:GetSessionToken" else None
    return Answer("*", NOBODYS_WORD if fault is None else None, None if fault is None else fault.message)


def _of_role(store: SealedStore, call: KmsCall, action: str) -> Answer:
    role = _role(store, call.parameters["RoleArn"])
    tags = {tag["Key"]: tag["Value"] for tag in call.parameters.get("Tags", ())}
    assuming = assuming_of(call, role, inherited_by(store.find, call.principal), tags)
    if action not in needed_for(assuming):
        raise NotAsked(f"{action} is needed for some only: say for what by {_ASKED_BY[action]}")
    policy, trust = f"trust policy of {role.arn}", trust_policy_of(role.trust)
    decided = trust.decide(action, assuming)
    by = decided.by
    return Answer(
        role.arn,
        AllowedBy(policy=policy, statement=by.label) if decided.allowed and by is not None else None,
        None if decided.allowed else not_authorized(call, action, ()).message,
        DeniedBy(policy, by.label) if not decided.allowed and by is not None else None,
        decided.in_doubt,
        tuple(_looked_at(policy, statement, action, names_of(call.principal), assuming) for statement in trust.statements),
    )


def _role(store: SealedStore, arn: str) -> Role:
    parts = arn.split(":")
    role = find_role(store.find, parts[4], arn.rpartition("/")[2]) if len(parts) == 6 else None
    if role is None or role.arn != arn:
        raise NotAsked(f"there is no role {arn}: `keytrail role list` shows which there are")
    return role


def _looked_at(policy: str, statement: TrustStatement, action: str, caller: Names, assuming: Assuming) -> Considered:
    if not statement.is_about(action):
        why = "not about this action"
    elif not statement.means(caller):
        why = "not about this caller"
    else:
        why = unmet(statement.conditions, Told(action, assuming)) or "applies"
    return Considered(f"{policy}, statement {statement.label}", "Deny" if statement.denies else "Allow", why)
