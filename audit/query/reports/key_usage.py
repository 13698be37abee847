"""The report `key-usage`: who used each key, how, from where, and what was done to the key."""

from __future__ import annotations

from audit.query.reports.questions import (
    COUNTS,
    EVENT,
    KEY,
    OPERATIONS,
    PRINCIPAL,
    SPAN,
    Chart,
    Column,
    Kind,
    Question,
    Shape,
)
from audit.query.reports.shared import BYPASSES, CHANGES, POLICIES, REFUSED

KEYS = Question(
    "keys",
    "Keys",
    "When was each key first and last used, before anybody deletes it?",
    """
    WITH asked AS (
        SELECT *, time >= $since::TIMESTAMP AS within, {use} AND outcome = 'ok' AS used
        FROM ({key_calls} WHERE {until} AND {kms}))
    SELECT key, list_sort(list(DISTINCT key_name) FILTER (key_name LIKE '%alias/%')) AS names,
           min(time) FILTER (within AND used) AS first_use, max(time) FILTER (within AND used) AS last_use,
           max(time) FILTER (used) AS last_use_ever,
           count(*) FILTER (within AND used) AS uses,
           count(DISTINCT principal) FILTER (within AND used) AS principals,
           count(*) FILTER (within AND {denied}) AS denied,
           count(*) FILTER (within AND outcome <> 'ok' AND NOT coalesce({denied}, false)) AS other,
           count(*) FILTER (within AND NOT read_only) AS changes
    FROM asked WHERE {of_key}
    GROUP BY key ORDER BY uses DESC, key
    """,
    (
        KEY,
        Column("names", "Aliases that were written", Kind.LIST),
        Column("first_use", "First use", Kind.MOMENT),
        Column("last_use", "Last use", Kind.MOMENT),
        Column("last_use_ever", "Last use by the end, in the whole log", Kind.MOMENT),
        Column("uses", "Uses", Kind.NUMBER),
        Column("principals", "Principals", Kind.NUMBER),
        Column("denied", "Denied", Kind.NUMBER),
        Column("other", "Failed otherwise", Kind.NUMBER),
        Column("changes", "Changes", Kind.NUMBER),
    ),
    note="A use is a call that encrypts, decrypts, re-encrypts, makes a data key, signs, verifies, or makes or verifies a MAC, "
    "and succeeds. Keys that the log names before the interval, and that nobody used in it, stand here with 0 uses. What is no "
    "key ARN is what a refused caller wrote.",
    chart=Chart(Shape.BARS, "key", ("uses",)),
)

WORKLOADS = Question(
    "workloads",
    "Workloads",
    "Which principals called each key?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {kms})
    SELECT key, principal, {identity_types}, count(DISTINCT session_name) AS sessions,
           count(DISTINCT access_key_id) AS access_keys, {operations}, {counts}, {span}
    FROM uses WHERE {of_key}
    GROUP BY key, principal ORDER BY calls DESC, key, principal
    """,
    (
        KEY,
        PRINCIPAL,
        Column("identity_types", "Kind", Kind.LIST),
        Column("sessions", "Sessions", Kind.NUMBER),
        Column("access_keys", "Access keys", Kind.NUMBER),
        OPERATIONS,
        *COUNTS,
        *SPAN,
    ),
)

OPERATIONS_OF_KEYS = Question(
    "operations",
    "Operations",
    "What was each key asked for?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {kms})
    SELECT key, event_name, {counts}, {span}
    FROM uses WHERE {of_key}
    GROUP BY key, event_name ORDER BY key, calls DESC, event_name
    """,
    (KEY, EVENT, *COUNTS, *SPAN),
)

DAYS = Question(
    "days",
    "Calls per day",
    "When were the keys used, and when were calls denied?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {kms}),
    counted AS (SELECT day, count(DISTINCT (log, record)) AS calls, count(DISTINCT (log, record)) FILTER ({denied}) AS denied
                FROM uses WHERE {of_key} GROUP BY day),
    days AS (SELECT unnest(generate_series($since::TIMESTAMP::DATE, ($until::TIMESTAMP - INTERVAL 1 MICROSECOND)::DATE,
                                           INTERVAL 1 DAY))::DATE AS day)
    SELECT day, coalesce(calls, 0) AS calls, coalesce(denied, 0) AS denied
    FROM days LEFT JOIN counted USING (day) ORDER BY day
    """,
    (Column("day", "Day (UTC)", Kind.DAY), Column("calls", "Calls", Kind.NUMBER), Column("denied", "Denied", Kind.NUMBER)),
    chart=Chart(Shape.COLUMNS, "day", ("calls", "denied")),
    is_whole=True,
)

CONTEXTS = Question(
    "contexts",
    "Encryption contexts",
    "Which context names were seen with each key, and their most frequent values?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {kms}),
    pairs AS (SELECT key, time, unnest({pairs}) AS pair FROM uses WHERE {of_key}),
    counted AS (
        SELECT key, pair.key AS name, pair.value AS value, count(*) AS calls, {span} FROM pairs GROUP BY ALL),
    ranked AS (SELECT *, row_number() OVER (PARTITION BY key, name ORDER BY calls DESC, value) AS rank FROM counted)
    SELECT key, name, sum(calls)::BIGINT AS calls, count(*) AS values,
           list(value || ' (' || calls || ')' ORDER BY rank) FILTER (rank <= 10) AS top_values,
           min(first_seen) AS first_seen, max(last_seen) AS last_seen
    FROM ranked
    GROUP BY key, name ORDER BY key, calls DESC, name
    """,
    (
        KEY,
        Column("name", "Name in the context"),
        Column("calls", "Calls", Kind.NUMBER),
        Column("values", "Different values", Kind.NUMBER),
        Column("top_values", "The most frequent ten, with calls", Kind.LIST),
        *SPAN,
    ),
)

ADDRESSES = Question(
    "addresses",
    "Addresses",
    "Where did the calls come from?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {kms})
    SELECT key, source_ip, count(DISTINCT principal) AS principals, count(DISTINCT user_agent) AS agents, {counts}, {span}
    FROM uses WHERE {of_key}
    GROUP BY key, source_ip ORDER BY calls DESC, key, source_ip
    """,
    (
        KEY,
        Column("source_ip", "Address"),
        Column("principals", "Principals", Kind.NUMBER),
        Column("agents", "User agents", Kind.NUMBER),
        *COUNTS,
        *SPAN,
    ),
)

OLDER_MATERIAL = Question(
    "older_material",
    "Data under older key material",
    "What was put under key material from before a rotation, and is it still asked for?",
    """
    WITH uses AS (
        SELECT key, key_material_id AS material, event_name, {wraps} AS wraps, time, fingerprints_out
        FROM ({key_calls} WHERE {until} AND outcome = 'ok' AND key_material_id IS NOT NULL) WHERE {of_key}),
    materials AS (
        SELECT key, material, min(time) FILTER (wraps) AS first_made, max(time) FILTER (wraps) AS last_made,
               count(*) FILTER (event_name = 'Decrypt' AND time >= $since::TIMESTAMP) AS unwrapped,
               max(time) FILTER (event_name = 'Decrypt') AS last_unwrapped
        FROM uses GROUP BY key, material),
    newest AS (
        SELECT key, arg_max(material, last_made) AS newest FROM materials
        GROUP BY key HAVING count(*) > 1 AND max(last_made) IS NOT NULL),
    made AS (
        SELECT DISTINCT key, material, unnest(fingerprints_out) AS fingerprint
        FROM uses JOIN newest USING (key) WHERE wraps AND material <> newest),
    moved AS (
        SELECT DISTINCT unnest(fingerprints_in) AS fingerprint FROM calls
        WHERE {until} AND outcome = 'ok' AND event_name = 'ReEncrypt'),
    counted AS (
        SELECT key, material, count(*) AS ciphertexts, count(moved.fingerprint) AS reencrypted
        FROM made LEFT JOIN moved USING (fingerprint) GROUP BY key, material)
    SELECT key, material, newest, first_made, last_made, coalesce(ciphertexts, 0) AS ciphertexts,
           coalesce(reencrypted, 0) AS reencrypted, coalesce(ciphertexts - reencrypted, 0) AS remaining, unwrapped, last_unwrapped
    FROM materials JOIN newest USING (key) LEFT JOIN counted USING (key, material)
    WHERE material <> newest
    ORDER BY key, last_made, material
    """,
    (
        KEY,
        Column("material", "Older key material"),
        Column("newest", "Newest key material"),
        Column("first_made", "First ciphertext under it", Kind.MOMENT),
        Column("last_made", "Last ciphertext under it", Kind.MOMENT),
        Column("ciphertexts", "Ciphertexts made", Kind.NUMBER),
        Column("reencrypted", "Re-encrypted since", Kind.NUMBER),
        Column("remaining", "Not re-encrypted", Kind.NUMBER),
        Column("unwrapped", "Unwrapped in the interval", Kind.NUMBER),
        Column("last_unwrapped", "Last unwrapped", Kind.MOMENT),
    ),
    note="Of the whole log up to the end of the interval, of calls that name their key material. The newest is that of the last "
    "data key or ciphertext that was made. What ReEncrypt put under a key is not counted among its ciphertexts. Whether a "
    "ciphertext still exists, the log cannot know.",
)

CROSS_ACCOUNT = Question(
    "cross_account",
    "Use from other accounts",
    "Which principals of other accounts called a key?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {kms})
    SELECT key, account_id, principal, {operations}, {counts}, {span}
    FROM uses WHERE {of_key} AND key LIKE 'arn:%' AND account_id <> split_part(key, ':', 5)
    GROUP BY key, account_id, principal ORDER BY calls DESC, key, account_id, principal
    """,
    (KEY, Column("account_id", "Caller's account"), PRINCIPAL, OPERATIONS, *COUNTS, *SPAN),
)

AFTER_DISABLE = Question(
    "after_disable",
    "Use after a key was put out of use",
    "Who asked for a key that was disabled or awaits deletion, and was anybody answered?",
    """
    WITH turns AS (
        SELECT key, time AS turned, event_name AS turn, {who} AS turned_by
        FROM ({key_calls} WHERE {until} AND outcome IN ('ok', 'unknown')
              AND event_name IN ('DisableKey', 'EnableKey', 'ScheduleKeyDeletion', 'CancelKeyDeletion')) WHERE {of_key}),
    uses AS ({key_calls} WHERE {within} AND {use})
    SELECT uses.key AS key, turn, turned, turned_by, principal, event_name, count(*) FILTER (outcome = 'ok') AS ok,
           count(*) FILTER (outcome <> 'ok') AS refused, {span}
    FROM uses ASOF JOIN turns ON uses.key = turns.key AND uses.time > turns.turned
    WHERE turn <> 'EnableKey'
    GROUP BY ALL ORDER BY ok DESC, turned, key, principal, event_name
    """,
    (
        KEY,
        Column("turn", "Put out of use by"),
        Column("turned", "When", Kind.MOMENT),
        Column("turned_by", "By whom", Kind.ARN),
        PRINCIPAL,
        EVENT,
        Column("ok", "Done", Kind.NUMBER),
        Column("refused", "Refused", Kind.NUMBER),
        *SPAN,
    ),
    note="A key whose deletion was cancelled stays disabled until it is enabled. AWS takes a moment to put a change into effect "
    "everywhere: calls done in the first seconds after it are no fault of the caller.",
)

QUESTIONS = (
    KEYS,
    DAYS,
    WORKLOADS,
    OPERATIONS_OF_KEYS,
    REFUSED,
    CONTEXTS,
    ADDRESSES,
    CROSS_ACCOUNT,
    AFTER_DISABLE,
    OLDER_MATERIAL,
    CHANGES,
    POLICIES,
    BYPASSES,
)
