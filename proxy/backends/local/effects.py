"""Which calls' changes the store has: a row for each call, written in the transaction of its change.

After a crash, the log has intents without an outcome. The row says that the change was made, and of which keys and aliases; where
there is none, it was not. Rows are kept for the last `KEPT` changes; what is older than all of them is not known.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from audit.commit import Known
from audit.record import AuditRecord, Effect, Resource
from proxy.domain import Answer, KeyUse, KmsCall
from proxy.errors import SealBroken
from proxy.sealed_store import SealedStore, StoreFailed, Transaction

_log = logging.getLogger(__name__)

EFFECT = "effect"
KEPT = 8_192
_PRUNED_EVERY = 256  # changes
_NO_REGION = ""
#: The row that says since when rows are there: the latest arrival, in microseconds, of a call whose row was forgotten.
_SINCE = "since"


def note(tx: Transaction, call: KmsCall, answer: Answer) -> None:
    """Keep that the change of `call`, which `tx` is about to commit, was made."""
    if call.intent_id is not None:
        keep(tx, call.intent_id, call.received_us, answer.keys, answer.aliases)


def keep(tx: Transaction, intent_id: str, at_us: int, keys: Sequence[KeyUse], aliases: Sequence[str] = ()) -> None:
    """Keep that what was intended at `at_us` was done to `keys` and aliases (ARNs), in the transaction that does it."""
    resources = [[key.arn, key.account_id, "AWS::KMS::Key"] for key in keys]
    resources += [[arn, arn.split(":")[4], "AWS::KMS::Alias"] for arn in aliases]
    if tx.get(EFFECT, _NO_REGION, _SINCE) is None:
        start_anew(tx, at_us)
    tx.put(EFFECT, _NO_REGION, intent_id, {"at_us": at_us, "resources": resources})
    if tx.generation % _PRUNED_EVERY == 0:
        _prune(tx, tx.generation - KEPT)


def start_anew(tx: Transaction, now_us: int) -> None:
    """Nothing is known from now on of calls that arrived before `now_us` and have no row."""
    tx.put(EFFECT, _NO_REGION, _SINCE, {"at_us": now_us})


def _prune(tx: Transaction, upto: int) -> None:
    forgotten = tx.forget(EFFECT, upto)
    if forgotten:
        start_anew(tx, max(entry.body["at_us"] for entry in forgotten))


def known(store: SealedStore, intent: AuditRecord) -> Known | None:
    """What the store knows of the effect of an intent; None where nothing, or where the call was not its affair."""
    if intent.event_source != "kms.amazonaws.com" or intent.backend != "local":
        return None
    try:
        made = store.find(EFFECT, _NO_REGION, intent.event_id)
        if made is not None:
            return Known(Effect.MADE, tuple(Resource(*one) for one in made.body["resources"]))
        since = store.find(EFFECT, _NO_REGION, _SINCE)
        if since is not None and intent.time_us >= since.body["at_us"]:
            return Known(Effect.NONE)
    except (StoreFailed, SealBroken) as fault:
        _log.error("the effect of %s is not known: %s", intent.event_id, fault)
    return None
