"""Who can have a data key unwrapped now, by the embedded KMS: callers, key state, policies, grants and guardrails as they are.

What a request would tell and nobody knows yet (the client's address) is left open: who depends on it *may*. In front of AWS it is
for AWS to say; of a data folder that is not served here, a copy at an analyst's, nothing is said, and nothing in it is touched.

The guardrails are those of this command's own settings: `serve` may have been given others, so the answer names them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from audit.errors import AuditError
from audit.instance import Instance
from audit.query.standing import Standing
from proxy import settings
from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.keys import KeyState
from proxy.backends.local.tables import Tables
from proxy.callers import Callers
from proxy.clock import clock_of
from proxy.domain import KmsCall
from proxy.errors import ProxyError
from proxy.kms.operations import OPERATIONS
from proxy.opening import open_store
from proxy.permissions import Permissions
from proxy.policy.access import AuthorizationRequest
from proxy.policy.evaluate import Guardrails, load
from proxy.policy.folder import read_folder
from proxy.sealed_store import SealedStore


def who_can_unwrap(data: Path, key: str, context: Mapping[str, str]) -> Standing | None:
    """The standing of the key `key` (ARN) for `context`; None where it is not served
    here, or in front of AWS, or the key is another's."""
    try:
        chosen = settings.load(None, os.environ, data=data)
        instance = Instance.load(data)
        if not instance.is_served or chosen.backend != "local":
            return None
        guardrails = load(read_folder(chosen.policies)) if chosen.policies is not None else Guardrails(())
        store = open_store(instance, chosen)
    except (ProxyError, AuditError, OSError) as error:
        return Standing(key, reason=f"not known: {error}")
    try:
        authoriser = PolicyAuthoriser(Permissions(store), clock := clock_of(chosen.clock), chosen.grant_delay_s)
        found = _standing(store, guardrails, authoriser, key, context, clock())
        if found is None:
            is_ours = key.split(":")[4:5] == [instance.account_id]
            return Standing(key, reason="nobody: the key is not there, or deleted") if is_ours else None
        return replace(found, guardrails=None if chosen.policies is None else str(chosen.policies))
    except ProxyError as error:
        return Standing(key, reason=f"not known: {error}")
    finally:
        store.close()


def _standing(
    store: SealedStore,
    guardrails: Guardrails,
    authoriser: PolicyAuthoriser,
    key: str,
    context: Mapping[str, str],
    now_s: float,
) -> Standing | None:
    """The standing of a key of any account of this store; None where there is none of that name."""
    region, account_id, name = key.split(":", 5)[3:]
    tables = Tables(store)
    found = tables.find_key(account_id, region, name.removeprefix("key/"))
    if found is None or found.is_gone(now_s):
        return None
    if found.state is not KeyState.ENABLED:
        return Standing(key, reason=f"nobody: the key is {found.state.value}")
    can, may, depends_on = set[str](), set[str](), set[str]()
    for caller in Callers(store).list():
        if not caller.enabled:
            continue
        parameters = {"KeyId": key, "EncryptionContext": dict(context)}
        call = KmsCall(OPERATIONS["Decrypt"], region, caller.principal, parameters, time.time_ns() // 1_000)
        request = AuthorizationRequest.of(call, account_id, "")
        request.secure = True
        decision, verdict = guardrails.decide(request), authoriser.decide(tables, call, "kms:Decrypt", found)
        is_allowed = verdict.allowed_by is not None
        if decision.allowed and is_allowed:
            can.add(caller.principal.arn)
        elif (decision.allowed or decision.in_doubt) and (is_allowed or verdict.in_doubt):
            may.add(caller.principal.arn)
            depends_on.update((*decision.in_doubt, *verdict.in_doubt))
    reason = None if can or may else "nobody: no caller is enabled and allowed"
    return Standing(key, tuple(sorted(can)), tuple(sorted(may - can)), tuple(sorted(depends_on)), reason=reason)
