"""The report `incident`: what a caller, an access key or an address did in an interval, and what that reached."""

from __future__ import annotations

from audit.query.reports.questions import (
    COUNTS,
    EVENT,
    KEY,
    OPERATIONS,
    PRINCIPAL,
    SPAN,
    TIME,
    Chart,
    Column,
    Kind,
    Question,
    Shape,
)
from audit.query.reports.shared import BYPASSES, CHANGES, REFUSED

HOURS = Question(
    "hours",
    "Time line",
    "When did it begin and end, and when was it worst?",
    """
    WITH counted AS (
        SELECT date_trunc($step, time) AS begins, {counts}, count(*) FILTER (outcome = 'ok' AND {unwraps}) AS unwrapped
        FROM calls WHERE {within} AND {scope} AND NOT {own} GROUP BY begins),
    steps AS (
        SELECT unnest(generate_series(date_trunc($step, $since::TIMESTAMP), $until::TIMESTAMP - INTERVAL 1 MICROSECOND,
                                      ('1 ' || $step)::INTERVAL)) AS begins)
    SELECT begins, coalesce(calls, 0) AS calls, coalesce(ok, 0) AS ok, coalesce(denied, 0) AS denied, coalesce(other, 0) AS other,
           coalesce(unwrapped, 0) AS unwrapped
    FROM steps LEFT JOIN counted USING (begins) ORDER BY begins
    """,
    (Column("begins", "From (UTC)", Kind.MOMENT), *COUNTS, Column("unwrapped", "Unwrapped", Kind.NUMBER)),
    note="Per hour; per day where the interval is longer than 31 days.",
    chart=Chart(Shape.COLUMNS, "begins", ("calls", "denied")),
    is_whole=True,
)

ACTORS = Question(
    "actors",
    "Who and from where",
    "Which caller, access key, address and user agent was it?",
    """
    SELECT {who} AS caller, access_key_id, source_ip, user_agent, {proofs}, {counts}, {span}
    FROM calls WHERE {within} AND {scope}
    GROUP BY ALL ORDER BY calls DESC, caller, access_key_id, source_ip, user_agent, proofs
    """,
    (
        Column("caller", "Caller", Kind.ARN),
        Column("access_key_id", "Access key"),
        Column("source_ip", "Address"),
        Column("user_agent", "User agent"),
        Column("proofs", "Identity proved by", Kind.LIST),
        *COUNTS,
        *SPAN,
    ),
)

KEYS = Question(
    "keys",
    "Keys that were reached",
    "Which keys were used or tried?",
    """
    WITH asked AS ({key_calls} WHERE {within} AND {scope})
    SELECT key, {operations}, {counts}, {span}
    FROM asked WHERE key IS NOT NULL
    GROUP BY key ORDER BY ok DESC, calls DESC, key
    """,
    (KEY, OPERATIONS, *COUNTS, *SPAN),
    chart=Chart(Shape.BARS, "key", ("ok",)),
)

CONTEXTS = Question(
    "contexts",
    "Encryption contexts that were reached",
    "Whose data is it?",
    """
    WITH pairs AS (
        SELECT event_name, outcome, error_code, time, unnest({pairs}) AS pair FROM calls WHERE {within} AND {scope})
    SELECT pair.key || '=' || pair.value AS pair, {counts}, count(*) FILTER (outcome = 'ok' AND {unwraps}) AS unwrapped, {span}
    FROM pairs
    GROUP BY ALL ORDER BY unwrapped DESC, calls DESC, pair
    """,
    (Column("pair", "Pair"), *COUNTS, Column("unwrapped", "Unwrapped", Kind.NUMBER), *SPAN),
)

DATA_KEYS = Question(
    "data_keys",
    "Data keys",
    "Which ciphertexts were unwrapped, made, or tried in vain, and when were they made?",
    """
    WITH asked AS (
        SELECT unnest(list_concat([{'fingerprint': print, 'made': false} FOR print IN fingerprints_in],
                                  [{'fingerprint': print, 'made': true} FOR print IN fingerprints_out]), recursive := true),
               event_name, outcome, coalesce(key, key_name) AS key, {context_text} AS context, time
        FROM calls WHERE {within} AND {scope}),
    touched AS (
        SELECT fingerprint, count(*) FILTER (NOT made AND outcome = 'ok' AND {unwraps}) AS unwrapped,
               count(*) FILTER (made AND outcome = 'ok') AS made, count(*) FILTER (outcome <> 'ok') AS refused,
               arg_min(key, time) AS key, arg_min(context, time) AS context, {span}
        FROM asked GROUP BY fingerprint),
    births AS (
        SELECT unnest(fingerprints_out) AS fingerprint, time, caller FROM calls WHERE origin = 'keytrail' AND outcome = 'ok'),
    origins AS (
        SELECT fingerprint, min(time) AS made_at, arg_min(caller, time) AS made_by
        FROM births SEMI JOIN touched USING (fingerprint) GROUP BY fingerprint)
    SELECT fingerprint, unwrapped, made, refused, key, context, first_seen, last_seen, made_at, made_by
    FROM touched LEFT JOIN origins USING (fingerprint)
    ORDER BY unwrapped DESC, made DESC, first_seen, fingerprint
    """,
    (
        Column("fingerprint", "Fingerprint of the ciphertext"),
        Column("unwrapped", "Unwrapped", Kind.NUMBER),
        Column("made", "Made", Kind.NUMBER),
        Column("refused", "Refused", Kind.NUMBER),
        KEY,
        Column("context", "Context", Kind.LIST),
        *SPAN,
        Column("made_at", "Made, in the whole log", Kind.MOMENT),
        Column("made_by", "By", Kind.ARN),
    ),
    note="`keytrail trace FINGERPRINT` tells the whole story of one. Unwrapped is not read.",
)

OTHERS = Question(
    "others",
    "Others who unwrapped the same data keys",
    "Who else holds, or may hold, what was unwrapped here?",
    """
    WITH suspects AS (SELECT DISTINCT {principal} AS principal FROM calls WHERE {within} AND {scope}),
    unwrapped AS (
        SELECT DISTINCT unnest(fingerprints_in) AS fingerprint FROM calls
        WHERE {within} AND {scope} AND outcome = 'ok' AND {unwraps}),
    uses AS (
        SELECT {principal} AS principal, access_key_id, source_ip, time, unnest(fingerprints_in) AS fingerprint
        FROM calls WHERE origin = 'keytrail' AND outcome = 'ok' AND {unwraps})
    SELECT principal, count(DISTINCT fingerprint) AS data_keys, count(DISTINCT access_key_id) AS access_keys,
           count(DISTINCT source_ip) AS addresses, count(*) FILTER (time < $since::TIMESTAMP) AS before,
           count(*) FILTER (time >= $since::TIMESTAMP AND time < $until::TIMESTAMP) AS within,
           count(*) FILTER (time >= $until::TIMESTAMP) AS after, {span}
    FROM uses SEMI JOIN unwrapped USING (fingerprint) ANTI JOIN suspects USING (principal)
    GROUP BY principal ORDER BY data_keys DESC, principal
    """,
    (
        PRINCIPAL,
        Column("data_keys", "Data keys in common", Kind.NUMBER),
        Column("access_keys", "Access keys", Kind.NUMBER),
        Column("addresses", "Addresses", Kind.NUMBER),
        Column("before", "Calls before the interval", Kind.NUMBER),
        Column("within", "In it", Kind.NUMBER),
        Column("after", "After it", Kind.NUMBER),
        *SPAN,
    ),
    note="Of the whole log. All principals that this report is about are left out.",
)

#: What those did in the interval who share an address, or a user agent, with the calls that the report is about.
_ELSEWHERE = """
    WITH shared AS (SELECT DISTINCT {trait} AS trait FROM calls WHERE {within} AND {scope} AND {trait} IS NOT NULL)
    SELECT {trait} AS trait, {principal} AS principal, access_key_id, {operations},
           {counts}, {span}
    FROM calls WHERE {within} AND NOT coalesce({scope}, false) AND {trait} IN (SELECT trait FROM shared)
    GROUP BY ALL ORDER BY calls DESC, trait, principal, access_key_id
    """


def _elsewhere(id: str, title: str, answers: str, column: str, heading: str, note: str = "") -> Question:
    columns = (Column("trait", heading), PRINCIPAL, Column("access_key_id", "Access key"), OPERATIONS, *COUNTS, *SPAN)
    return Question(id, title, answers, _ELSEWHERE.replace("{trait}", column), columns, note)


SAME_ADDRESS = _elsewhere(
    "same_address",
    "What else came from the same addresses",
    "Which other calls of the interval came from there?",
    "source_ip",
    "Address",
)
SAME_AGENT = _elsewhere(
    "same_agent",
    "What else the same user agents did",
    "Which other calls of the interval say that they were made by the same software?",
    "user_agent",
    "User agent",
    "A user agent is what the client says that it is, and the same software in many hands says the same.",
)

CALLS = Question(
    "calls",
    "The calls",
    "What exactly was done, in order?",
    """
    SELECT time, event_name, {who} AS caller, access_key_id, source_ip, coalesce(key, key_name) AS key, {context_text} AS context,
           coalesce(error_code, outcome) AS result, event_id, {place} AS place
    FROM calls WHERE {within} AND {scope}
    ORDER BY time, log, record
    """,
    (
        TIME,
        EVENT,
        Column("caller", "Caller", Kind.ARN),
        Column("access_key_id", "Access key"),
        Column("source_ip", "Address"),
        KEY,
        Column("context", "Context", Kind.LIST),
        Column("result", "Result"),
        Column("event_id", "Event id"),
        Column("place", "Record"),
    ),
)

QUESTIONS = (HOURS, ACTORS, KEYS, CONTEXTS, DATA_KEYS, OTHERS, REFUSED, CHANGES, SAME_ADDRESS, SAME_AGENT, CALLS, BYPASSES)
