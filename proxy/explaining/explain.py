"""The answer to a question: the guardrails first, then the service whose action it is."""

from __future__ import annotations

from proxy.claims import read_access_keys
from proxy.clock import clock_of
from proxy.domain import KmsCall
from proxy.explaining import cloudtrail, kms, sts
from proxy.explaining.answer import AWS, Answer, Considered, Explanation, NotAsked, Question, looked_at
from proxy.explaining.asker import Asker, anybody, asker
from proxy.permissions import Permissions
from proxy.policy.access import ACTIONS, TRAIL_ACTIONS, AuthorizationRequest, accesses
from proxy.policy.evaluate import BeforeCall, Guardrails, load, refusal
from proxy.policy.folder import read_folder
from proxy.policy.patterns import UNKNOWN_PART
from proxy.policy.principals import names_of
from proxy.sealed_store import SealedStore
from proxy.settings import Settings


def explain(store: SealedStore, question: Question, chosen: Settings) -> Explanation:
    """Answer `question`. Raises NotAsked where it cannot be: an unknown action, caller, key or role; SetupError for
    guardrails that cannot be loaded."""
    action = next((one for one in ACTIONS | sts.ACTIONS | TRAIL_ACTIONS if one.lower() == question.action.lower()), None)
    if action is None:
        raise NotAsked(f"{question.action!r} is no action of KMS, STS or CloudTrail, such as kms:Decrypt")
    guardrails = load(read_folder(chosen.policies)) if chosen.policies is not None else Guardrails(())
    held = Permissions(store).held()
    if action in TRAIL_ACTIONS:
        who = asker(store, held, question.caller, question.now_us)
        call = cloudtrail.call_of(question, action, who.principal)
        return _explained(who, call, action, guardrails, cloudtrail.answer(held, call, is_served=chosen.cloudtrail_api))
    if chosen.backend == "aws":
        return _in_front_of_aws(store, question, action, guardrails, chosen)
    who = asker(store, held, question.caller, question.now_us)
    if action in sts.ACTIONS:
        call = sts.call_of(question, action, who.principal)
        return _explained(who, call, action, guardrails, sts.answer(store, call, action))
    call = kms.call_of(question, action, who.principal)
    answer = kms.answer(store, call, action, question.key, clock_of(chosen.clock), chosen.grant_delay_s)
    return _explained(who, call, action, guardrails, answer)


def _in_front_of_aws(
    store: SealedStore, question: Question, action: str, guardrails: Guardrails, chosen: Settings
) -> Explanation:
    """What the guardrails let through, AWS decides on. Who calls is a caller of this keytrail's only where it signs anew."""
    if action not in ACTIONS:
        raise NotAsked(f"{action} is not asked for here: in front of AWS, STS is AWS's own")
    if chosen.aws_signing == "pass-through":
        known = read_access_keys(chosen.access_keys) if chosen.access_keys is not None else {}
        who = anybody(known.get(question.caller, question.caller))
    else:
        who = asker(store, Permissions(store).held(), question.caller, question.now_us)
    call = kms.call_of(question, action, who.principal)
    request = AuthorizationRequest.of(call, who.principal.account_id, question.source_ip)
    resource = next(access.resource for access in accesses(request) if access.action == action)
    return _explained(who, call, action, guardrails, Answer(resource.replace(UNKNOWN_PART, "*"), AWS))


def _explained(who: Asker, call: KmsCall, action: str, guardrails: Guardrails, answer: Answer) -> Explanation:
    request = AuthorizationRequest.of(call, who.principal.account_id, call.source_ip)
    guardrail = guardrails.decide(request, action)
    return Explanation(
        who.principal.arn,
        action,
        guardrail,
        None if guardrail.allowed else refusal(request, guardrail).message,
        answer,
        (*_looked_at(guardrails, request, action), *answer.considered),
        (*who.remarks, *answer.remarks),
    )


def _looked_at(guardrails: Guardrails, request: AuthorizationRequest, action: str) -> list[Considered]:
    """The guardrails' statements, for each resource that the action is on."""
    return [
        looked_at(
            f"guardrail {policy}", statement, action, access.resource, names_of(request.principal), BeforeCall(request, access)
        )
        for access in accesses(request)
        if access.action == action
        for policy, statement in guardrails.rules
    ]
