"""Which changes of calls, and of commands on the host, the store has: a row for each, written in the transaction of its change.

After a crash, the log has intents without an outcome. The row says that the change was made, and of which keys and aliases; where
there is none, it was not. Rows are kept for the last `KEPT` changes; what is older than all of them is not known. Commands, and
calls to STS, leave rows since later than calls to KMS do: since when, rows of their own say.
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
#: The rows that say since when rows are there, of calls, of commands and of new sessions: the latest arrival, in microseconds, of
#: one whose row was forgotten.
_SINCE, _COMMANDS_SINCE, _SESSIONS_SINCE = _ALL_SINCE = "since", "commands since", "sessions since"
#: The commands that leave a row: those that change callers, roles and their policies, and seed keys.
COMMANDS = frozenset(
    (
        *("AddCaller", "RotateCaller", "DisableCaller", "EnableCaller", "PutCallerPolicy", "DeleteCallerPolicy"),
        *("ResetCallerPolicies", "AddRole", "UpdateRole", "RemoveRole", "SeedKey"),
    )
)


def note(tx: Transaction, call: KmsCall, answer: Answer) -> None:
    """Keep that the change of `call`, which `tx` is about to commit, was made."""
    if call.intent_id is not None:
        grant_id = (answer.members if answer.recorded is None else answer.recorded).get("GrantId")
        keep(tx, call.intent_id, call.received_us, answer.keys, answer.aliases, grant_id)


def keep(
    tx: Transaction,
    intent_id: str,
    at_us: int,
    keys: Sequence[KeyUse],
    aliases: Sequence[str] = (),
    grant_id: str | None = None,
    roles: Sequence[KeyUse] = (),
) -> None:
    """Keep that what was intended at `at_us` was done to `keys`, aliases (ARNs), a grant and roles, in the transaction that does
    it."""
    resources = [[key.arn, key.account_id, "AWS::KMS::Key"] for key in keys]
    resources += [[arn, arn.split(":")[4], "AWS::KMS::Alias"] for arn in aliases]
    resources += [[role.arn, role.account_id, "AWS::IAM::Role"] for role in roles]
    for since in _ALL_SINCE:
        if tx.get(EFFECT, _NO_REGION, since) is None:
            tx.put(EFFECT, _NO_REGION, since, {"at_us": at_us})
    grant = {} if grant_id is None else {"grant": grant_id}
    tx.put(EFFECT, _NO_REGION, intent_id, {"at_us": at_us, "resources": resources, **grant})
    if tx.generation % _PRUNED_EVERY == 0:
        _prune(tx, tx.generation - KEPT)


def start_anew(tx: Transaction, now_us: int) -> None:
    """Nothing is known from now on of what arrived before `now_us` and has no row."""
    for since in _ALL_SINCE:
        tx.put(EFFECT, _NO_REGION, since, {"at_us": now_us})


def _prune(tx: Transaction, upto: int) -> None:
    forgotten = tx.forget(EFFECT, upto)
    if forgotten:
        start_anew(tx, max(entry.body["at_us"] for entry in forgotten))


def known(store: SealedStore, intent: AuditRecord) -> Known | None:
    """What the store knows of the effect of an intent; None where nothing, or where the call was not its affair."""
    since_when = _since_when(intent)
    if since_when is None:
        return None
    try:
        made = store.find(EFFECT, _NO_REGION, intent.event_id)
        if made is not None:
            resources = tuple(Resource(*one) for one in made.body["resources"])
            return Known(Effect.MADE, resources, made.body.get("grant"))
        since = store.find(EFFECT, _NO_REGION, since_when)
        if since is not None and intent.time_us >= since.body["at_us"]:
            return Known(Effect.NONE)
    except (StoreFailed, SealBroken) as fault:
        _log.error("the effect of %s is not known: %s", intent.event_id, fault)
    return None


def _since_when(intent: AuditRecord) -> str | None:
    """The row that says since when changes of its kind leave rows; None where they leave none."""
    match intent.event_source:
        case "kms.amazonaws.com":
            return _SINCE if intent.backend == "local" else None
        case "sts.amazonaws.com":
            return _SESSIONS_SINCE
        case "keytrail":
            return _COMMANDS_SINCE if intent.event_name in COMMANDS else None
        case _:
            return None
