"""The report `access-review`: what each principal touched, from where, with which access keys, and who is behind a role."""

from __future__ import annotations

from audit.query.reports.questions import COUNTS, EVENT, KEY, OPERATIONS, PRINCIPAL, SPAN, Chart, Column, Kind, Question, Shape
from audit.query.reports.shared import BYPASSES, CHANGES, REFUSED

PRINCIPALS = Question(
    "principals",
    "Principals",
    "Who called, as whom, and how was that proved?",
    """
    WITH theirs AS (SELECT {principal} AS principal, * FROM calls WHERE {within} AND {scope} AND NOT {own})
    SELECT principal, {identity_types},
           {proofs}, count(DISTINCT session_name) AS sessions,
           count(DISTINCT access_key_id) AS access_keys, count(DISTINCT source_ip) AS addresses,
           count(DISTINCT coalesce(key, key_name)) AS keys, {operations}, {counts}, {span}
    FROM theirs
    GROUP BY principal ORDER BY calls DESC, principal
    """,
    (
        PRINCIPAL,
        Column("identity_types", "Kind", Kind.LIST),
        Column("proofs", "Identity proved by", Kind.LIST),
        Column("sessions", "Sessions", Kind.NUMBER),
        Column("access_keys", "Access keys", Kind.NUMBER),
        Column("addresses", "Addresses", Kind.NUMBER),
        Column("keys", "Keys", Kind.NUMBER),
        OPERATIONS,
        *COUNTS,
        *SPAN,
    ),
    note="An identity that is `claimed` was proved to nobody; `(none)` called without one that could be told. What users of "
    "keytrail's host did by its commands, such as callers that were added, is among these.",
    chart=Chart(Shape.BARS, "principal", ("calls",)),
)

KEYS = Question(
    "keys",
    "Keys that each principal touched",
    "Is each principal's access to each key still needed?",
    """
    WITH theirs AS ({key_calls} WHERE {within} AND {kms} AND {scope})
    SELECT principal, key, {operations}, {counts}, {span}
    FROM theirs WHERE key IS NOT NULL
    GROUP BY principal, key ORDER BY principal, calls DESC, key
    """,
    (PRINCIPAL, KEY, OPERATIONS, *COUNTS, *SPAN),
    sign_off=("Still needed (yes / no)", "Reviewer", "Date"),
)

CONTEXT_NAMES = Question(
    "context_names",
    "Context names",
    "By which names in the encryption context did each principal reach data, and how many values of each?",
    """
    WITH pairs AS (
        SELECT {principal} AS principal, outcome, error_code, time, unnest({pairs}) AS pair
        FROM calls WHERE {within} AND {kms} AND {scope})
    SELECT principal, pair.key AS name, count(DISTINCT pair.value) AS values, {counts}, {span}
    FROM pairs
    GROUP BY ALL ORDER BY principal, calls DESC, name
    """,
    (PRINCIPAL, Column("name", "Name in the context"), Column("values", "Different values", Kind.NUMBER), *COUNTS, *SPAN),
)

CONTEXT_PAIRS = Question(
    "context_pairs",
    "Context pairs",
    "Whose data (such as which tenant's) did each principal reach?",
    """
    WITH pairs AS (
        SELECT principal, key, outcome, error_code, time, unnest({pairs}) AS pair
        FROM ({key_calls} WHERE {within} AND {kms} AND {scope}))
    SELECT principal, pair.key || '=' || pair.value AS pair, count(DISTINCT key) AS keys, {counts}, {span}
    FROM pairs
    GROUP BY ALL ORDER BY calls DESC, principal, pair
    """,
    (PRINCIPAL, Column("pair", "Pair"), Column("keys", "Keys", Kind.NUMBER), *COUNTS, *SPAN),
)

FIRST_USES = Question(
    "first_uses",
    "First-ever uses",
    "Which keys, addresses and user agents did a principal use in this interval, and never before it?",
    """
    WITH met AS (
        SELECT principal, key, source_ip, user_agent, min(time) AS first_seen, count(*) AS calls
        FROM ({key_calls} WHERE {until} AND {kms} AND {scope}) GROUP BY ALL),
    things AS (
        SELECT principal, 'key' AS what, key AS thing, first_seen, calls FROM met
        UNION ALL SELECT principal, 'address', source_ip, first_seen, calls FROM met
        UNION ALL SELECT principal, 'user agent', user_agent, first_seen, calls FROM met),
    firsts AS (
        SELECT principal, what, thing, min(first_seen) AS first_seen, sum(calls)::BIGINT AS calls
        FROM things WHERE thing IS NOT NULL GROUP BY ALL),
    known AS (SELECT *, min(first_seen) OVER (PARTITION BY principal) AS principal_since FROM firsts)
    SELECT principal, what, thing, first_seen, calls, principal_since >= $since::TIMESTAMP AS principal_is_new
    FROM known WHERE first_seen >= $since::TIMESTAMP
    ORDER BY first_seen, principal, what, thing
    """,
    (
        PRINCIPAL,
        Column("what", "What"),
        Column("thing", "Key, address or user agent"),
        Column("first_seen", "First", Kind.MOMENT),
        Column("calls", "Calls since", Kind.NUMBER),
        Column("principal_is_new", "The principal is new too", Kind.FLAG),
    ),
    note="Never before means: not in these logs, which say nothing of the time before their first record (see above, Coverage).",
)

ACCESS_KEYS = Question(
    "access_keys",
    "Access keys",
    "Which access keys did each principal call with, and from how many places?",
    """
    WITH theirs AS (SELECT {principal} AS principal, * FROM calls WHERE {within} AND {scope})
    SELECT principal, access_key_id, count(DISTINCT source_ip) AS addresses, count(DISTINCT user_agent) AS agents,
           {counts}, {span}
    FROM theirs WHERE access_key_id IS NOT NULL
    GROUP BY principal, access_key_id ORDER BY calls DESC, principal, access_key_id
    """,
    (
        PRINCIPAL,
        Column("access_key_id", "Access key"),
        Column("addresses", "Addresses", Kind.NUMBER),
        Column("agents", "User agents", Kind.NUMBER),
        *COUNTS,
        *SPAN,
    ),
)

SESSIONS = Question(
    "sessions",
    "Sessions behind roles",
    "Who really called as each role?",
    """
    WITH theirs AS (SELECT {principal} AS principal, * FROM calls WHERE {within} AND {scope} AND role IS NOT NULL)
    SELECT principal, session_name, count(DISTINCT access_key_id) AS access_keys, min(access_key_id) AS access_key,
           count(DISTINCT source_ip) AS addresses, {counts}, {span}
    FROM theirs
    GROUP BY principal, session_name ORDER BY calls DESC, principal, session_name
    """,
    (
        PRINCIPAL,
        Column("session_name", "Session"),
        Column("access_keys", "Access keys", Kind.NUMBER),
        Column("access_key", "One of them"),
        Column("addresses", "Addresses", Kind.NUMBER),
        *COUNTS,
        *SPAN,
    ),
    note="A session's name is chosen by whoever assumes the role, unless the role's trust policy holds it to something.",
)

GRANTS = Question(
    "grants",
    "Grants",
    "Which grants did each principal make or get that were in force in the interval?",
    """
    WITH made AS (
        SELECT time, key, grant_id, {who} AS caller, grantee, outcome, error_code, {place} AS place
        FROM ({key_calls} WHERE {until} AND event_name = 'CreateGrant' AND ({scope} OR {for_scope}))),
    ended AS (
        SELECT grant_id, min(time) AS ended, arg_min(event_name, time) AS ended_by, arg_min({who}, time) AS ender FROM calls
        WHERE {until} AND event_name IN ('RetireGrant', 'RevokeGrant') AND outcome = 'ok' AND grant_id IS NOT NULL
        GROUP BY grant_id)
    SELECT time, key, grant_id, caller, grantee, outcome, error_code, ended, ended_by, ender, place
    FROM made LEFT JOIN ended USING (grant_id)
    WHERE time >= $since::TIMESTAMP OR (outcome <> 'failed' AND (ended IS NULL OR ended >= $since::TIMESTAMP))
    ORDER BY time, place, key
    """,
    (
        Column("time", "Made (UTC)", Kind.MOMENT),
        KEY,
        Column("grant_id", "Grant"),
        Column("caller", "Made by", Kind.ARN),
        Column("grantee", "Made for", Kind.ARN),
        Column("outcome", "Result"),
        Column("error_code", "Error"),
        Column("ended", "Ended", Kind.MOMENT),
        Column("ended_by", "By"),
        Column("ender", "By whom", Kind.ARN),
        Column("place", "Record"),
    ),
)

GRANT_USES = Question(
    "grant_uses",
    "Calls with grant tokens",
    "Who called with a grant's token?",
    """
    WITH theirs AS ({key_calls} WHERE {within} AND {scope} AND len(grant_tokens) > 0)
    SELECT principal, key, event_name, len(list_distinct(flatten(list(grant_tokens)))) AS tokens, {counts}, {span}
    FROM theirs
    GROUP BY principal, key, event_name ORDER BY calls DESC, principal, key, event_name
    """,
    (PRINCIPAL, KEY, EVENT, Column("tokens", "Different tokens", Kind.NUMBER), *COUNTS, *SPAN),
    note="A grant is used without a token too, once it is in effect everywhere: those calls cannot be told from others.",
)

QUESTIONS = (
    PRINCIPALS,
    KEYS,
    CONTEXT_NAMES,
    CONTEXT_PAIRS,
    FIRST_USES,
    ACCESS_KEYS,
    SESSIONS,
    REFUSED,
    CHANGES,
    GRANTS,
    GRANT_USES,
    BYPASSES,
)
