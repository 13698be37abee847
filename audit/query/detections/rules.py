"""The built-in rules: a table. Their SQL selects from the view `observed` and the look-up tables that `run` makes.

`observed` has the columns of `calls` and those of `DERIVED`. Parameters in SQL: `$since`, `$trusted` (accounts), the rule's own,
and `$past_from`, where what counts as the past of a burst ends: `since` less its window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TypeAlias

from audit.query.detections.findings import Severity
from audit.query.detections.questions import EVENTS_WITHIN, VALUES_WITHIN

Parameter: TypeAlias = "int | timedelta"


class Need(Enum):
    """What a rule cannot be asked without."""

    BASELINE = "events before --since"
    CONTRACTS = "contracts in the settings"
    CANARIES = "canaries in the settings"


@dataclass(frozen=True, slots=True)
class Rule:
    """What it finds (`meaning`), what to do about it (`action`), when it is wrong (`innocent`); the rest as of `Question`."""

    id: str
    title: str
    severity: Severity
    meaning: str
    action: str
    innocent: str
    subject: Mapping[str, str]
    hits: str
    why: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    burst: str | None = None
    numbers: Mapping[str, str] = field(default_factory=dict)
    having: str | None = None
    needs: Need | None = None


def _names(*names: str) -> str:
    return ", ".join(f"'{name}'" for name in names)


_DATA_KEYS = (
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
)
#: What uses a key, and what makes something that only the key can open again.
_USES = ("Encrypt", "Decrypt", "ReEncrypt", *_DATA_KEYS, "Sign", "Verify", "GenerateMac", "VerifyMac", "DeriveSharedSecret")
_WRAPS = ("Encrypt", "ReEncrypt", *_DATA_KEYS)
_DENIED = f"error_code IN ({_names('AccessDenied', 'AccessDeniedException')})"
_STRANGER = _names(
    "IncompleteSignatureException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "MissingAuthenticationToken",
    "UnrecognizedClientException",
)
_PRESENTS = "event_name IN ('Decrypt', 'ReEncrypt') AND fingerprints_in IS NOT NULL"

#: Columns of `observed` beside those of `calls`: name → SQL.
DERIVED: Mapping[str, str] = {
    # a role, whatever its sessions call themselves
    "principal": """coalesce(CASE WHEN role IS NOT NULL THEN regexp_replace(caller, '/[^/]*$', '') ELSE caller END,
                             CASE WHEN identity_proof = 'host-operator' THEN 'host user ' || user_name END,
                             'access key ' || access_key_id, 'account ' || account_id, 'unknown')""",
    "caller_account": "coalesce(account_id, nullif(split_part(caller, ':', 5), ''))",
    "key_account": "coalesce(nullif(split_part(keys[1], ':', 5), ''), recipient_account_id, account_id)",
    # an encrypted value looks different each time
    "opened_with": """list_sort([CASE WHEN private_context[pair.key] IN ('encrypted', 'withheld')
                                           THEN {'key': pair.key, 'value': NULL} ELSE pair END
                                 FOR pair IN map_entries(coalesce(context, source_context, MAP {}))])::VARCHAR""",
}
#: Views over `observed`: name → SELECT. Successful uses, one for each key; what wraps data under its last key.
VIEWS: Mapping[str, str] = {
    "uses": f"""SELECT * REPLACE (unnest(keys) AS key) FROM observed
                WHERE event_name IN ({_names(*_USES)}) AND outcome = 'ok'""",  # noqa: S608 - of constants
    "wraps": f"""SELECT * REPLACE (keys[-1] AS key, split_part(keys[-1], ':', 5) AS key_account) FROM observed
                 WHERE event_name IN ({_names(*_WRAPS)}) AND outcome = 'ok' AND len(keys) > 0""",  # noqa: S608 - of constants
    "opened": f"SELECT unnest(fingerprints_in) AS fingerprint, principal FROM observed WHERE {_PRESENTS} AND outcome = 'ok'",  # noqa: S608 - ours
    "new_keys": """SELECT key FROM observed WHERE event_name IN ('CreateKey', 'ReplicateKey') AND outcome = 'ok'
                   AND key IS NOT NULL""",
}

_BY_PRINCIPAL = {"principal": "principal"}
_BY_KEY = {"key": "key"}
_BY_BOTH = {**_BY_PRINCIPAL, **_BY_KEY}
_KEYS_OF = {"keys": "count(DISTINCT key)"}
_PRINCIPALS_OF = {"principals": "count(DISTINCT principal)"}


def _first(what: str, table: str) -> str:
    """Uses of a key by a `what` (of the look-up `table`) that no use before `since` had; a key that is new has no past."""
    return f"""
        SELECT * FROM uses {table}
        ANTI JOIN (SELECT DISTINCT key, {what} FROM uses {table} WHERE time < $since) USING (key, {what})
        WHERE time >= $since AND {what} IS NOT NULL AND key NOT IN (SELECT key FROM new_keys WHERE time >= $since)"""  # noqa: S608 - ours


def _changes(*names: str) -> str:
    return f"SELECT * FROM observed WHERE time >= $since AND event_name IN ({_names(*names)}) AND outcome IN ('ok', 'unknown')"  # noqa: S608 - ours


_NOT_TRUSTED = "NOT list_contains($trusted::VARCHAR[], {})"
_OPENED = """SELECT * FROM (SELECT * EXCLUDE opened_to, unnest(opened_to) AS opened_to FROM observed JOIN policies USING (policy)
                            WHERE time >= $since AND outcome IN ('ok', 'unknown'))"""

RULES: tuple[Rule, ...] = (
    Rule(
        "KT001",
        "Burst of denied calls by one principal",
        Severity.MEDIUM,
        "`count` calls of one principal were refused by policy within `within`.",
        "Ask who runs it. A stolen credential feels its way; a broken deployment repeats itself on one key.",
        "A deployment whose permissions are missing.",
        _BY_PRINCIPAL,
        f"SELECT * FROM observed WHERE time >= $past_from AND {_DENIED}",  # noqa: S608 - of constants
        "{count} calls of {principal} were denied (keys: {keys}); {least} within {within} are a burst",
        {"count": 20, "within": timedelta(minutes=5)},
        EVENTS_WITHIN,
        _KEYS_OF,
    ),
    Rule(
        "KT002",
        "Burst of denied calls on one key",
        Severity.MEDIUM,
        "`count` calls on one key were refused by policy within `within`, whoever made them.",
        "Look who has lost access to the key, or tries to gain it; compare with the key's last policy change (KT033).",
        "A key policy that was tightened while old clients still run.",
        _BY_KEY,
        f"SELECT * FROM observed WHERE time >= $past_from AND {_DENIED} AND key IS NOT NULL",  # noqa: S608 - of constants
        "{count} calls on {key} were denied (principals: {principals}); {least} within {within} are a burst",
        {"count": 50, "within": timedelta(minutes=5)},
        EVENTS_WITHIN,
        _PRINCIPALS_OF,
    ),
    Rule(
        "KT003",
        "Burst of calls that could not be authenticated",
        Severity.MEDIUM,
        "`count` calls from one address within `within` had no valid signature.",
        "Find the host. Access keys are being tried, or one was deleted that is still in use.",
        "A client with a wrong secret, or a clock that is far off.",
        {"source": "source_ip"},
        f"SELECT * FROM observed WHERE time >= $past_from AND coalesce(wire_error, error_code) IN ({_STRANGER})",  # noqa: S608 - ours
        "{count} calls from {source} were not authenticated (access keys: {access_keys}); {least} within {within} are a burst",
        {"count": 20, "within": timedelta(minutes=5)},
        EVENTS_WITHIN,
        {"access_keys": "count(DISTINCT access_key_id)"},
    ),
    Rule(
        "KT010",
        "Encryption contexts tried on one ciphertext",
        Severity.HIGH,
        "One ciphertext was presented with `count` different encryption contexts that did not open it, within `within`.",
        "Treat the ciphertext as stolen: whoever has it does not know its context. Trace it (`keytrail trace`).",
        "A client that builds the context from what changes: a path, a version, a time.",
        {"fingerprint": "fingerprint"},
        f"""SELECT *, unnest(fingerprints_in) AS fingerprint, opened_with AS value FROM observed
            WHERE time >= $past_from AND {_PRESENTS} AND error_code = 'InvalidCiphertextException'""",  # noqa: S608 - of constants
        "{contexts} wrong contexts in {count} calls for one ciphertext (principals: {principals}); "
        "{least} within {within} are probing",
        {"count": 2, "within": timedelta(hours=24)},
        VALUES_WITHIN,
        {"contexts": "count(DISTINCT value)", **_PRINCIPALS_OF},
    ),
    Rule(
        "KT011",
        "Refused for a ciphertext that others may open",
        Severity.MEDIUM,
        "A principal was refused for ciphertexts that another one opened, and that it never opened itself.",
        "Ask how it came by them. Data of one application is in the hands of another.",
        "A new reader whose permissions are not there yet; a role that was renamed.",
        _BY_BOTH,
        f"""SELECT * FROM (SELECT *, unnest(fingerprints_in) AS fingerprint FROM observed WHERE time >= $since
                           AND {_PRESENTS} AND (error_code = 'InvalidCiphertextException' OR {_DENIED})) AS refused
            SEMI JOIN opened ON opened.fingerprint = refused.fingerprint AND opened.principal <> refused.principal
            ANTI JOIN opened AS own ON own.fingerprint = refused.fingerprint AND own.principal = refused.principal""",  # noqa: S608 - ours
        "{principal} was refused {times} for what other principals opened (ciphertexts: {ciphertexts})",
        {"count": 1},
        numbers={"ciphertexts": "count(DISTINCT fingerprint)"},
        having="count(DISTINCT fingerprint) >= $count",
    ),
    Rule(
        "KT012",
        "Data wrapped in bulk under a key that is new to the principal, and never opened",
        Severity.HIGH,
        "`count` wrapping calls within `within` under a key that the principal had not used before, without one Decrypt: "
        "the shape of ransomware.",
        "Stop the principal; find what it wrote since then, and who holds the key.",
        "The first day of an application that only writes, or a migration to a new key.",
        _BY_BOTH,
        """SELECT * FROM wraps
           ANTI JOIN (SELECT DISTINCT principal, key FROM uses WHERE time < $past_from) USING (principal, key)
           ANTI JOIN (SELECT DISTINCT principal, key FROM uses WHERE event_name = 'Decrypt') USING (principal, key)
           WHERE time >= $past_from""",
        "{count} wrapping calls of {principal} under a key that it never used before, and no Decrypt; "
        "{least} within {within} are many",
        {"count": 100, "within": timedelta(hours=1)},
        EVENTS_WITHIN,
        needs=Need.BASELINE,
    ),
    Rule(
        "KT013",
        "Data wrapped in bulk under another account's key",
        Severity.CRITICAL,
        "`count` wrapping calls within `within` under a key of an account that is neither the caller's nor trusted; "
        "of ReEncrypt the new key counts.",
        "Stop the principal; who holds that account holds the data. Deny kms:ReEncryptTo and foreign keys by policy.",
        "Data that is shared with a partner: name the account in `trusted_accounts`.",
        _BY_BOTH,
        f"""SELECT * FROM wraps WHERE time >= $past_from AND key_account <> caller_account
            AND {_NOT_TRUSTED.format("key_account")}""",  # noqa: S608 - of constants
        "{count} wrapping calls of {principal} under a key of another account (ReEncrypt: {rewrapped}); "
        "{least} within {within} are many",
        {"count": 20, "within": timedelta(hours=1)},
        EVENTS_WITHIN,
        {"rewrapped": "count(*) FILTER (event_name = 'ReEncrypt')"},
    ),
    Rule(
        "KT014",
        "Many more Decrypt calls in an hour than is usual for the principal",
        Severity.MEDIUM,
        "More than median + `deviations` × MAD of the principal's active hours before, at least `count`; "
        "MAD counts as a tenth of the median at least. Needs `hours` active hours.",
        "Ask what was read, and why then. Data is being taken out, or read back.",
        "A restore, a backfill, a job that runs once a month.",
        {"principal": "principal", "hour": "strftime(hour, '%Y-%m-%dT%H:00Z')"},
        """WITH decrypts AS (SELECT *, date_trunc('hour', time) AS hour FROM observed
                             WHERE event_name = 'Decrypt' AND outcome = 'ok'),
                hourly AS (SELECT principal, hour, count(*) AS n FROM decrypts GROUP BY ALL),
                usual AS (SELECT principal, median(n) AS middle, mad(n) AS mad FROM hourly
                          WHERE hour < date_trunc('hour', $since::TIMESTAMP) GROUP BY principal HAVING count(*) >= $hours),
                limits AS (SELECT principal, middle, middle + $deviations * greatest(mad, middle / 10) AS most FROM usual)
           SELECT * FROM decrypts JOIN limits USING (principal) JOIN hourly USING (principal, hour)
           WHERE hour >= date_trunc('hour', $since::TIMESTAMP) AND n >= $count AND n > most""",
        "{count} Decrypt calls of {principal} in one hour; {usual} are usual, more than {most} are remarkable",
        {"count": 100, "deviations": 10, "hours": 24},
        numbers={"usual": "any_value(middle)::DOUBLE", "most": "any_value(most)::DOUBLE"},
        needs=Need.BASELINE,
    ),
    Rule(
        "KT020",
        "First use of a key by a principal",
        Severity.LOW,
        "A principal used a key that it had not used in the baseline.",
        "Check that the application, and its access to this key, are known.",
        "A new application. Keys that were made since are left out.",
        _BY_BOTH,
        _first("principal", ""),
        "{principal} used this key {times}, and never in the time before",
        needs=Need.BASELINE,
    ),
    Rule(
        "KT021",
        "First use of a key from a network",
        Severity.LOW,
        "A key was used from a network (IPv4 /24, IPv6 /64) that it had not been used from in the baseline.",
        "Check that the network is one of yours.",
        "Addresses that change often: containers, mobile clients. Suppress by key, or switch it off.",
        {"key": "key", "network": "network"},
        _first("network", "JOIN networks USING (source_ip)"),
        "the key was used {times} from {network} (principals: {principals}), and never from there in the time before",
        numbers=_PRINCIPALS_OF,
        needs=Need.BASELINE,
    ),
    Rule(
        "KT022",
        "First use of a key by a kind of client",
        Severity.INFORMATIONAL,
        "A key was used by a kind of client (the user agent without its versions) that had not used it in the baseline.",
        "Check whether a person's tool took the place of an application: aws-cli where an SDK was.",
        "An SDK that was exchanged, or that names itself differently since an upgrade.",
        {"key": "key", "agent": "agent"},
        _first("agent", "JOIN agents USING (user_agent)"),
        "the key was used {times} with “{agent}” (principals: {principals}), and never in the time before",
        numbers=_PRINCIPALS_OF,
        needs=Need.BASELINE,
    ),
    Rule(
        "KT030",
        "Attempt to use a disabled key",
        Severity.MEDIUM,
        "Calls failed because the key is disabled.",
        "Find what still needs the key before it is deleted; or who wants data that was locked away.",
        "An application that nobody told.",
        _BY_BOTH,
        "SELECT * FROM observed WHERE time >= $since AND error_code = 'DisabledException'",
        "{principal} tried {times} to use a key that is disabled",
        {"count": 1},
        having="count(*) >= $count",
    ),
    Rule(
        "KT031",
        "Attempt to use a key that is to be deleted, or has no material",
        Severity.HIGH,
        "Calls failed with KMSInvalidStateException: most often, the key's deletion is scheduled.",
        "Cancel the deletion (CancelKeyDeletion) unless the data may be lost; it cannot be opened afterwards.",
        "A key whose material was not imported yet, or expired.",
        _BY_BOTH,
        "SELECT * FROM observed WHERE time >= $since AND error_code = 'KMSInvalidStateException'",
        "{principal} tried {times} to use a key whose state forbids it",
        {"count": 1},
        having="count(*) >= $count",
    ),
    Rule(
        "KT032",
        "Key scheduled for deletion, disabled, or deprived of its material",
        Severity.HIGH,
        "ScheduleKeyDeletion, DisableKey, DeleteImportedKeyMaterial, or a key store was disconnected or deleted.",
        "Confirm that it was ordered. KT030 and KT031 tell who still needs the key.",
        "Planned retirement of a key.",
        {**_BY_BOTH, "change": "event_name"},
        _changes(
            "ScheduleKeyDeletion", "DisableKey", "DeleteImportedKeyMaterial", "DisconnectCustomKeyStore", "DeleteCustomKeyStore"
        ),
        "{change} by {principal}, {times}",
    ),
    Rule(
        "KT033",
        "Key policy, alias, material or rotation changed",
        Severity.LOW,
        "PutKeyPolicy, CreateAlias, UpdateAlias, DeleteAlias, ImportKeyMaterial, DisableKeyRotation, UpdatePrimaryRegion.",
        "Confirm that it was ordered; compare the policies.",
        "Deployments.",
        {**_BY_BOTH, "change": "event_name"},
        _changes(
            "PutKeyPolicy",
            "CreateAlias",
            "UpdateAlias",
            "DeleteAlias",
            "ImportKeyMaterial",
            "DisableKeyRotation",
            "UpdatePrimaryRegion",
        ),
        "{change} by {principal}, {times}",
    ),
    Rule(
        "KT034",
        "Grant to another account",
        Severity.HIGH,
        "CreateGrant for a principal of an account that is neither the key's nor trusted.",
        "Revoke it (RevokeGrant) unless that account is known; a grant is not seen in the key policy.",
        "A partner's account: name it in `trusted_accounts`.",
        {**_BY_BOTH, "grantee": "grantee"},
        f"""{_changes("CreateGrant")} AND grantee LIKE 'arn:%' AND split_part(grantee, ':', 5) NOT IN ('', key_account)
            AND {_NOT_TRUSTED.format("split_part(grantee, ':', 5)")}""",
        "{principal} granted {grantee} the use of a key of another account",
    ),
    Rule(
        "KT035",
        "Key policy open to everybody",
        Severity.CRITICAL,
        "A policy that was put, or that a key was made with, allows `*` without a condition on who calls.",
        "Put the former policy back; look at the key's uses since (KT037).",
        "None that is known: a condition on the caller's account, organisation or ARN is taken into account.",
        _BY_BOTH,
        f"{_OPENED} WHERE opened_to = '*'",
        "{principal} put a policy that lets everybody use the key",
    ),
    Rule(
        "KT036",
        "Key policy open to another account",
        Severity.HIGH,
        "A policy that was put, or that a key was made with, allows an account that is neither the key's nor trusted.",
        "Confirm that the account is known.",
        "A partner's account: name it in `trusted_accounts`.",
        {**_BY_BOTH, "account": "opened_to"},
        f"{_OPENED} WHERE opened_to NOT IN ('*', key_account) AND {_NOT_TRUSTED.format('opened_to')}",
        "{principal} put a policy that lets account {account} use the key",
    ),
    Rule(
        "KT037",
        "Key used across accounts",
        Severity.LOW,
        "A key was used by a caller of an account that is neither the key's nor trusted.",
        "Confirm that the sharing is wanted.",
        "Shared data: name the account in `trusted_accounts`.",
        {"key": "key", "account": "caller_account"},
        f"""SELECT * FROM uses WHERE time >= $since AND split_part(key, ':', 5) <> caller_account
            AND {_NOT_TRUSTED.format("caller_account")}""",  # noqa: S608 - of constants
        "account {account} used a key of another account {times} (principals: {principals})",
        numbers=_PRINCIPALS_OF,
    ),
    Rule(
        "KT040",
        "Encryption context against its contract",
        Severity.MEDIUM,
        "A call's encryption context lacks a name that its key's contract requires, has one that it does not know, "
        "or a value of another form.",
        "Correct the client before more is written so: data under a wrong context is not found by its tenant, nor opened.",
        "A contract that was learned before the client changed.",
        {**_BY_BOTH, "name": "name", "fault": "fault"},
        "SELECT * FROM violations WHERE time >= $since",
        "{principal} called {times} with a context in which “{name}” {fault}",
        {"count": 1},
        having="count(*) >= $count",
        needs=Need.CONTRACTS,
    ),
    Rule(
        "KT050",
        "Canary touched",
        Severity.CRITICAL,
        "A ciphertext, key or alias that nobody has reason to use was in a call, a refused one too.",
        "Treat the principal and its host as compromised.",
        "A scan of your own, a test of the canary.",
        {"canary": "canary", "principal": "principal"},
        """SELECT * FROM (SELECT *, unnest(list_distinct(list_concat(fingerprints_in, fingerprints_out, keys,
                                 [split_part(arn, ':key/', 2) FOR arn IN keys], [key_name, alias_name],
                                 [regexp_extract(name, ':(alias/.*)$', 1) FOR name IN [key_name, alias_name]]))) AS mark
                          FROM observed WHERE time >= $since)
           JOIN canaries USING (mark)
           QUALIFY row_number() OVER (PARTITION BY canary, origin, log, record, event_id) = 1""",
        "{principal} touched it {times} (refused: {refused}): {note}",
        numbers={"refused": "count(*) FILTER (error_code IS NOT NULL)", "note": "any_value(note)"},
        needs=Need.CANARIES,
    ),
)
BY_ID: Mapping[str, Rule] = {rule.id: rule for rule in RULES}
