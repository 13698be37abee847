"""Who can have a data key unwrapped now, by the embedded KMS: the callers, the key's state and the guardrails as they are.

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
from proxy.assembly import read_master_key
from proxy.backends.local.keys import KEY, KeyState, key_of
from proxy.callers import Callers
from proxy.clock import clock_of
from proxy.errors import ProxyError
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
        if not instance.is_served or chosen.backend != "local" or key.split(":")[4:5] != [instance.account_id]:
            return None
        guardrails = load(read_folder(chosen.policies)) if chosen.policies is not None else Guardrails(())
        store = SealedStore(instance.keystore, read_master_key(instance), instance.id)
    except (ProxyError, AuditError, OSError) as error:
        return Standing(key, reason=f"not known: {error}")
    try:
        found = _standing(store, guardrails, key, context, clock_of(chosen.clock)())
        return replace(found, guardrails=None if chosen.policies is None else str(chosen.policies))
    except ProxyError as error:
        return Standing(key, reason=f"not known: {error}")
    finally:
        store.close()


def _standing(store: SealedStore, guardrails: Guardrails, key: str, context: Mapping[str, str], now_s: float) -> Standing:
    region, account_id, name = key.split(":", 5)[3:]
    rows = (entry for entry in store.changes_since(0, (KEY,)).entries if not entry.deleted)
    found = next((key_of(entry) for entry in rows if (entry.region, f"key/{entry.id}") == (region, name)), None)
    if found is None or found.is_gone(now_s):
        return Standing(key, reason="nobody: the key is not there, or deleted")
    if found.state is not KeyState.ENABLED:
        return Standing(key, reason=f"nobody: the key is {found.state.value}")
    can, may, depends_on = set[str](), set[str](), set[str]()
    for caller in Callers(store).list():
        if not caller.enabled:
            continue
        parameters = {"KeyId": key, "EncryptionContext": dict(context)}
        request = AuthorizationRequest(
            "Decrypt", region, account_id, parameters, caller.principal, "", True, time.time_ns() // 1_000
        )
        decision = guardrails.decide(request)
        if decision.allowed:
            can.add(caller.principal.arn)
        elif decision.in_doubt:
            may.add(caller.principal.arn)
            depends_on.update(decision.in_doubt)
    reason = None if can or may else "nobody: no caller is enabled and allowed"
    return Standing(key, tuple(sorted(can)), tuple(sorted(may - can)), tuple(sorted(depends_on)), reason)
