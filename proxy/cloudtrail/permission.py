"""Who may ask CloudTrail's API: whose identity policies allow it. There is no other side: a trail has no policy of its own.

The built-in KMSFullAccess allows none of it, so that every caller has to be given it: `cloudtrail:LookupEvents` and its kin.
Guardrails have been asked before (`proxy.policy.evaluate`).
"""

from __future__ import annotations

from proxy.authorization import identity_rules
from proxy.domain import KmsCall
from proxy.errors import KmsError
from proxy.permissions import Permissions
from proxy.policy.access import Access, AuthorizationRequest, accesses
from proxy.policy.decision import AskedOfKey, Verdict, case_of
from proxy.policy.principals import names_of


class Permission:
    """Allows or refuses calls, by the identity policies of now."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions

    def check(self, call: KmsCall, source_ip: str) -> None:
        """Raises KmsError for a call that its caller may not make; what allows it is noted on the call."""
        request = AuthorizationRequest.of(call, call.principal.account_id, source_ip)
        rules = identity_rules(self._permissions.held(), call.principal)
        for access in accesses(request):
            case = case_of(access, names_of(call.principal), identity=rules, key_policy=None)
            verdict = case.decide(AskedOfKey(request, access))
            if verdict.allowed_by is None:
                raise refusal(call, access, verdict)
            call.allowed_by.append(verdict.allowed_by)


def refusal(call: KmsCall, access: Access, verdict: Verdict) -> KmsError:
    """AWS's words."""
    why = f"because no identity-based policy allows the {access.action} action"
    if verdict.refused is not None and verdict.refused.is_explicit:
        why = "with an explicit deny in an identity-based policy"
    caller = call.principal.arn or call.principal.access_key_id
    return KmsError(
        "AccessDeniedException",
        f"User: {caller} is not authorized to perform: {access.action} on resource: {access.resource} {why}",
    )
