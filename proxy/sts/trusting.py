"""What an AssumeRole is judged by: the words of its trust policy's conditions, and what the caller's own session hands on.

Source: IAM user guide, "Pass session tags", "Monitor and control actions taken with assumed roles".
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.callers import NO_REGION, SESSION
from proxy.domain import KeyUse, KmsCall, Principal
from proxy.errors import KmsError
from proxy.policy.access import AuthorizationRequest
from proxy.policy.trust import Assuming
from proxy.sts.roles import Find, Role


class Inherited:
    """What a session hands on to the sessions that it asks for."""

    def __init__(self, source_identity: str | None, tags: Mapping[str, str]) -> None:
        self.source_identity = source_identity
        self.tags = dict(tags)


def inherited_by(find: Find, caller: Principal) -> Inherited:
    """What the session of `caller` hands on; nothing where it is none."""
    if caller.session is None:
        return Inherited(None, {})
    row = find(SESSION, NO_REGION, caller.access_key_id)
    transitive = [] if row is None else [key.lower() for key in row.body["transitive"]]
    return Inherited(caller.session.source_identity, {key: value for key, value in caller.tags if key.lower() in transitive})


def assuming_of(call: KmsCall, role: Role, inherited: Inherited, tags: Mapping[str, str]) -> Assuming:
    """What `call` tells the trust policy of `role`; `tags` are those that it asks for."""
    sent = call.parameters
    return Assuming(
        AuthorizationRequest.of(call, call.principal.account_id, call.source_ip),
        role.arn,
        sent.get("RoleSessionName"),
        sent.get("ExternalId"),
        inherited.source_identity or sent.get("SourceIdentity"),
        inherited.tags | dict(tags),
        tuple(sent.get("TransitiveTagKeys", ())),
    )


def needed_for(assuming: Assuming) -> tuple[str, ...]:
    """The actions that have to be allowed."""
    optional = (("sts:TagSession", assuming.tags), ("sts:SetSourceIdentity", assuming.source_identity))
    return ("sts:AssumeRole", *(action for action, value in optional if value))


def not_authorized(call: KmsCall, action: str, used: tuple[KeyUse, ...]) -> KmsError:
    """AWS's words, which do not tell whether there is such a role."""
    message = f"User: {call.principal.arn} is not authorized to perform: {action} on resource: {call.parameters['RoleArn']}"
    return KmsError("AccessDenied", message, status=403, keys=used)
