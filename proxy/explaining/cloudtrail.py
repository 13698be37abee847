"""What the identity policies say of an action of CloudTrail: there is no other side (`proxy.cloudtrail.permission`)."""

from __future__ import annotations

from proxy.authorization import identity_rules
from proxy.cloudtrail.operations import OPERATIONS
from proxy.cloudtrail.permission import refusal
from proxy.domain import DeniedBy, KmsCall, Principal
from proxy.explaining.answer import Answer, NotAsked, Question, looked_at
from proxy.permissions import Held
from proxy.policy.access import ON_TRAILS, AuthorizationRequest, accesses
from proxy.policy.decision import AskedOfKey, case_of
from proxy.policy.principals import names_of


def call_of(question: Question, action: str, principal: Principal) -> KmsCall:
    """The call that is asked about. Raises NotAsked where it has to name a trail and does not."""
    if action in ON_TRAILS and "Name" not in question.parameters:
        raise NotAsked(f"{action} is about a trail: name it by --trail, `keytrail` unless delivery_trail says another")
    return question.call(OPERATIONS[action.removeprefix("cloudtrail:")], principal)


def answer(held: Held, call: KmsCall, *, is_served: bool) -> Answer:
    """What is decided on `call`, and what was looked at; `is_served`: whether CloudTrail's API is answered at all."""
    [access] = accesses(AuthorizationRequest.of(call, call.principal.account_id, call.source_ip))
    asked = AskedOfKey(AuthorizationRequest.of(call, call.principal.account_id, call.source_ip), access)
    caller, rules = names_of(call.principal), identity_rules(held, call.principal)
    verdict = case_of(access, caller, identity=rules, key_policy=None).decide(asked)
    by = verdict.by
    return Answer(
        access.resource,
        verdict.allowed_by,
        None if verdict.allowed_by is not None else refusal(call, access, verdict).message,
        None if by is None else DeniedBy(by.policy, by.statement.label),
        verdict.in_doubt,
        tuple(looked_at(rule.policy, rule.statement, access.action, access.resource, caller, asked) for rule in rules),
        () if is_served else ("CloudTrail's API is not answered by these settings: `cloudtrail_api` is false",),
    )
