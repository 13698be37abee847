"""The report `quarterly`: what SOC 2 (CC6) and PCI DSS (3.6, 3.7, 10) ask of keys and of their audit log, to be signed."""

from __future__ import annotations

from audit.query.reports.questions import EVENT, KEY, OPERATIONS, PRINCIPAL, SPAN, Chart, Column, Kind, Question, Shape
from audit.query.reports.shared import BYPASSES, CHANGES, POLICIES, REFUSED

ATTESTATION = Question(
    "attestation",
    "Key users (SOC 2 CC6, PCI DSS 3.6 and 3.7)",
    "Who used each key, and is that access right?",
    """
    WITH uses AS ({key_calls} WHERE {within} AND {use})
    SELECT key, principal, {operations},
           count(*) FILTER (outcome = 'ok') AS uses, count(*) FILTER ({denied}) AS denied, {span}
    FROM uses
    GROUP BY key, principal ORDER BY key, uses DESC, principal
    """,
    (
        KEY,
        PRINCIPAL,
        OPERATIONS,
        Column("uses", "Uses", Kind.NUMBER),
        Column("denied", "Denied", Kind.NUMBER),
        *SPAN,
    ),
    sign_off=("Access is right (yes / no)", "Key custodian", "Date, signature"),
)

REQUIRED_FIELDS = Question(
    "required_fields",
    "Required fields (PCI DSS 10.2.2)",
    "Does every record say who, what, when, with which result, from where, and about which key?",
    """
    WITH records AS (
        {lacking}),
    counted AS (SELECT origin, count(*) AS records, unnest([
        {'field': 'user identification', 'shown_by': 'caller, user_name, access_key_id or account_id',
         'lacking': count(*) FILTER (no_user), 'lacking_ok': count(*) FILTER (no_user AND outcome = 'ok')},
        {'field': 'type of event', 'shown_by': 'event_name',
         'lacking': count(*) FILTER (no_event), 'lacking_ok': count(*) FILTER (no_event AND outcome = 'ok')},
        {'field': 'date and time', 'shown_by': 'time',
         'lacking': count(*) FILTER (no_time), 'lacking_ok': count(*) FILTER (no_time AND outcome = 'ok')},
        {'field': 'success or failure', 'shown_by': 'outcome',
         'lacking': count(*) FILTER (no_result), 'lacking_ok': 0},
        {'field': 'origination', 'shown_by': 'source_ip',
         'lacking': count(*) FILTER (no_source), 'lacking_ok': count(*) FILTER (no_source AND outcome = 'ok')},
        {'field': 'identity of the resource', 'shown_by': 'keys, key_name or alias_name',
         'lacking': count(*) FILTER (no_resource), 'lacking_ok': count(*) FILTER (no_resource AND outcome = 'ok')}],
        recursive := true)
        FROM records GROUP BY origin)
    SELECT origin, field, shown_by, records, lacking, lacking_ok
    FROM counted ORDER BY origin DESC, field
    """,
    (
        Column("origin", "Records of"),
        Column("field", "Required"),
        Column("shown_by", "Columns that show it"),
        Column("records", "Records", Kind.NUMBER),
        Column("lacking", "Lacking", Kind.NUMBER),
        Column("lacking_ok", "Lacking though done", Kind.NUMBER),
    ),
    note="A call that could not be authenticated shows the access key that it claimed. A call that was refused before it was "
    "read has no key to name; neither have operations such as GenerateRandom and ListKeys, which are not counted as lacking, nor "
    "are users of what keytrail did by itself, such as its heartbeats. "
    "Lines that cannot be read at all are not rows here: they are named above, as damage.",
)

INCOMPLETE = Question(
    "incomplete",
    "Records that lack a required field",
    "Which calls are those, and why?",
    """
    WITH records AS (
        {lacking}),
    incomplete AS (
        SELECT *, list_filter([CASE WHEN no_user THEN 'user identification' END, CASE WHEN no_event THEN 'type of event' END,
                               CASE WHEN no_time THEN 'date and time' END, CASE WHEN no_result THEN 'success or failure' END,
                               CASE WHEN no_source THEN 'origination' END,
                               CASE WHEN no_resource THEN 'identity of the resource' END], name -> name IS NOT NULL) AS lacks
        FROM records
        WHERE no_user OR no_event OR no_time OR no_result OR no_source OR no_resource)
    SELECT origin, event_name, error_code, lacks, count(*) AS calls, min(event_id) AS example
    FROM incomplete
    GROUP BY ALL ORDER BY origin DESC, calls DESC, event_name, error_code, lacks
    """,
    (
        Column("origin", "Records of"),
        EVENT,
        Column("error_code", "Error"),
        Column("lacks", "Lacks", Kind.LIST),
        Column("calls", "Calls", Kind.NUMBER),
        Column("example", "An event id"),
    ),
)

DAILY = Question(
    "daily",
    "Daily review (PCI DSS 10.4)",
    "What happened on each day, and who has reviewed it?",
    """
    WITH counted AS (
        SELECT day, count(*) FILTER (NOT {own}) AS calls, count(*) FILTER ({denied}) AS denied,
               count(*) FILTER (outcome <> 'ok' AND NOT coalesce({denied}, false)) AS other,
               count(*) FILTER (NOT read_only AND {kms}) AS changes,
               count(DISTINCT {principal}) FILTER (NOT {own}) AS principals
        FROM calls WHERE {within} GROUP BY day),
    days AS (SELECT unnest(generate_series($since::TIMESTAMP::DATE, ($until::TIMESTAMP - INTERVAL 1 MICROSECOND)::DATE,
                                           INTERVAL 1 DAY))::DATE AS day)
    SELECT day, coalesce(calls, 0) AS calls, coalesce(denied, 0) AS denied, coalesce(other, 0) AS other,
           coalesce(changes, 0) AS changes, coalesce(principals, 0) AS principals
    FROM days LEFT JOIN counted USING (day) ORDER BY day
    """,
    (
        Column("day", "Day (UTC)", Kind.DAY),
        Column("calls", "Calls", Kind.NUMBER),
        Column("denied", "Denied", Kind.NUMBER),
        Column("other", "Failed otherwise", Kind.NUMBER),
        Column("changes", "Changes", Kind.NUMBER),
        Column("principals", "Principals", Kind.NUMBER),
    ),
    note="A day without a call may be a day on which keytrail did not run.",
    chart=Chart(Shape.COLUMNS, "day", ("calls", "denied")),
    sign_off=("Reviewed by",),
    is_whole=True,
)

RETENTION = Question(
    "retention",
    "Retention (PCI DSS 10.5.1)",
    "Are twelve months of log there, and the last three at hand?",
    """
    WITH spans AS (
        SELECT log, count(*) AS records, min(time) AS first_seen, max(time) AS last_seen
        FROM events WHERE {until} GROUP BY log)
    SELECT log, records, first_seen, last_seen,
           first_seen <= $until::TIMESTAMP - INTERVAL 3 MONTH AS three_months,
           first_seen <= $until::TIMESTAMP - INTERVAL 12 MONTH AS twelve_months
    FROM spans ORDER BY log
    """,
    (
        Column("log", "Log"),
        Column("records", "Records", Kind.NUMBER),
        *SPAN,
        Column("three_months", "Reaches back three months", Kind.FLAG),
        Column("twelve_months", "Reaches back twelve months", Kind.FLAG),
    ),
    note="Counted back from the end of the interval. What these logs hold is at hand: this report was made of it. Imported "
    "events are no part of them.",
)

MONTHS = Question(
    "months",
    "Twelve months",
    "How many records does each of the last twelve months have?",
    """
    WITH months AS (
        SELECT unnest(generate_series(date_trunc('month', $until::TIMESTAMP - INTERVAL 1 MICROSECOND) - INTERVAL 11 MONTH,
                                      $until::TIMESTAMP - INTERVAL 1 MICROSECOND, INTERVAL 1 MONTH))::DATE AS month),
    counted AS (
        SELECT date_trunc('month', day)::DATE AS month, count(*) FILTER (origin = 'keytrail') AS records,
               count(DISTINCT day) FILTER (origin = 'keytrail') AS days, count(*) FILTER (origin = 'cloudtrail') AS imported
        FROM events WHERE time < $until::TIMESTAMP GROUP BY ALL)
    SELECT month, coalesce(records, 0) AS records, coalesce(days, 0) AS days, coalesce(imported, 0) AS imported
    FROM months LEFT JOIN counted USING (month) ORDER BY month
    """,
    (
        Column("month", "Month from", Kind.DAY),
        Column("records", "Records", Kind.NUMBER),
        Column("days", "Days with records", Kind.NUMBER),
        Column("imported", "Imported events", Kind.NUMBER),
    ),
    chart=Chart(Shape.COLUMNS, "month", ("records",)),
    is_whole=True,
)

QUESTIONS = (
    ATTESTATION,
    CHANGES,
    POLICIES,
    REFUSED,
    REQUIRED_FIELDS,
    INCOMPLETE,
    DAILY,
    RETENTION,
    MONTHS,
    BYPASSES,
)
