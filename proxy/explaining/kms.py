"""What the embedded KMS says of an action: its key policies, its callers' identity policies, its grants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from proxy.authorization import PolicyAuthoriser, asked_of, identity_rules, key_rules, refusal
from proxy.backends.local.grants import (
    CONTEXT_MEMBERS,
    CREATE_GRANT,
    RETIRE_GRANT,
    Grant,
    context_of,
    covers_child,
    is_in_effect,
    meant_grant,
)
from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import resolve
from proxy.backends.local.tables import Tables
from proxy.domain import DeniedBy, KmsCall, Principal
from proxy.explaining.answer import Answer, Considered, NotAsked, Question, looked_at
from proxy.kms.operations import OPERATIONS
from proxy.kms.principals import names_of as grantee_names
from proxy.permissions import Permissions
from proxy.policy.access import actions_of
from proxy.policy.decision import Rule, Verdict
from proxy.policy.principals import names_of
from proxy.sealed_store import SealedStore

_CONTEXT_MEMBERS = {"kms:ReEncryptFrom": "SourceEncryptionContext", "kms:ReEncryptTo": "DestinationEncryptionContext"}
_KEY_MEMBERS = {"kms:ReEncryptFrom": "SourceKeyId", "kms:ReEncryptTo": "DestinationKeyId"}

#: Whether a grant is in effect for the call that is asked about.
InEffect: TypeAlias = Callable[[Grant], bool]


def call_of(question: Question, action: str, principal: Principal) -> KmsCall:
    """The call that is asked about. Raises NotAsked where it has to name a grant and does not."""
    if action == f"kms:{RETIRE_GRANT}" and "GrantId" not in question.parameters:
        raise NotAsked(f"{action} is about one grant, which itself says who may: name it by --grant")
    named = action.removeprefix("kms:")
    operation = named if named in OPERATIONS else next(name for name in OPERATIONS if action in actions_of(name))
    parameters: dict[str, Any] = dict(question.parameters)  # Any: members of a request
    if question.key is not None:
        parameters[_KEY_MEMBERS.get(action, "KeyId")] = question.key
    if question.context:
        parameters[_CONTEXT_MEMBERS.get(action, "EncryptionContext")] = dict(question.context)
    return question.call(OPERATIONS[operation], principal, parameters)


def answer(
    store: SealedStore, call: KmsCall, action: str, named: str | None, clock: Callable[[], float], grant_delay_s: float
) -> Answer:
    """What is decided on `call`, with the key that is `named`, and what was looked at. Raises NotAsked where there is no such
    key, or grant."""
    tables = Tables(store)
    key = None if named is None else resolve(tables, call, named)
    if named is not None and (key is None or key.is_gone(clock())):
        raise NotAsked(f"there is no key {named} in {call.region}, or it is deleted")
    authoriser = PolicyAuthoriser(Permissions(store), clock, grant_delay_s)
    verdict = authoriser.decide(tables, call, action, key)
    access = authoriser.case(call, action, key).access
    asked, caller = asked_of(tables, call, access, key), names_of(call.principal)

    def told(rules: Sequence[Rule]) -> list[Considered]:
        return [looked_at(rule.policy, rule.statement, action, access.resource, caller, asked) for rule in rules]

    considered = told(identity_rules(authoriser.held, call.principal))
    if key is not None:
        considered += told(key_rules(key, call.principal, action))
        considered += _grants(tables, call, action, key, verdict, lambda grant: is_in_effect(grant, call, clock(), grant_delay_s))
    by = verdict.by
    return Answer(
        access.resource,
        verdict.allowed_by,
        None if verdict.allowed_by is not None else refusal(call, action, key, verdict).message,
        None if by is None else DeniedBy(by.policy, by.statement.label),
        verdict.in_doubt,
        tuple(considered),
    )


def _grants(tables: Tables, call: KmsCall, action: str, key: Key, verdict: Verdict, in_effect: InEffect) -> Iterator[Considered]:
    """The grants of the key to the caller; of RetireGrant, the one that is to be retired."""
    decides = None if verdict.allowed_by is None else verdict.allowed_by.grant
    operation = action.removeprefix("kms:")
    if operation == RETIRE_GRANT:
        meant = meant_grant(tables, call, key)
        if meant is None:
            raise NotAsked(f"the key has no grant {call.parameters['GrantId']}")
        why = "applies" if decides else "another word decides" if verdict.allowed_by else "it does not let the caller retire it"
        yield Considered(f"grant {meant.id}", "Allow RetireGrant of itself", why)
        return
    for name in grantee_names(call.principal.arn):
        for grant in tables.grants_to(key, name, None):
            why = "applies" if grant.id == decides else _why_not(grant, call, operation, in_effect)
            yield Considered(f"grant {grant.id}", f"Allow {', '.join(grant.operations)}", why)


def _why_not(grant: Grant, call: KmsCall, operation: str, in_effect: InEffect) -> str:
    """Why a grant to the caller does not decide."""
    member = CONTEXT_MEMBERS.get(operation)
    if operation not in grant.operations:
        return "not about this action"
    if grant.limits.source_arn is not None:
        return "its constraint SourceArn is met by calls of AWS services alone"
    if member is not None and not grant.limits.are_met_by(context_of(call.parameters.get(member))):
        return "its constraints on the encryption context are not met"
    if operation == CREATE_GRANT and not covers_child(grant, call):
        return "a new grant without its constraints would be wider than it"
    return "another word decides" if in_effect(grant) else "it is not in effect yet, but for calls with its token"
