"""Tables that several reports have."""

from __future__ import annotations

from audit.query.reports.questions import COUNTS, EVENT, KEY, PLACE, PRINCIPAL, SPAN, TIME, Column, Kind, Question

REFUSED = Question(
    "refused",
    "Denied and failed calls",
    "Which calls were refused, failed, or ended nobody knows how; whose, and why?",
    """
    WITH asked AS ({key_calls} WHERE {within} AND {kms} AND {scope} AND outcome <> 'ok')
    SELECT key, event_name, principal, coalesce(error_code, outcome) AS error, coalesce({denied}, false) AS denied,
           denied_policy, denied_statement, count(*) AS calls, count(DISTINCT source_ip) AS addresses, {span},
           arg_min(event_id, (time, log, record)) AS example
    FROM asked WHERE {of_key}
    GROUP BY ALL ORDER BY denied DESC, calls DESC, key, event_name, principal, error, denied_policy, denied_statement
    """,
    (
        KEY,
        EVENT,
        PRINCIPAL,
        Column("error", "Error, or result"),
        Column("denied", "Denied", Kind.FLAG),
        Column("denied_policy", "By guardrail"),
        Column("denied_statement", "Its statement"),
        Column("calls", "Calls", Kind.NUMBER),
        Column("addresses", "Addresses", Kind.NUMBER),
        *SPAN,
        Column("example", "First event id"),
    ),
    note="Denied: the caller was not known, or had no permission. A key is named here as the caller wrote it where it was "
    "refused before the key was looked up.",
)

CHANGES = Question(
    "changes",
    "Changes to keys",
    "Who enabled, disabled, scheduled for deletion, granted, tagged or otherwise changed a key, and did it succeed?",
    """
    WITH changes AS ({key_calls} WHERE {within} AND {kms} AND {scope} AND NOT read_only)
    SELECT time, key, event_name, {who} AS caller, access_key_id, outcome, error_code,
           list_filter([alias_name, 'grant ' || grant_id, 'for ' || grantee, 'deletion on ' || deletion_date::DATE::VARCHAR],
                       part -> part IS NOT NULL) AS details,
           {place} AS place
    FROM changes WHERE {of_key}
    ORDER BY time, log, record, key
    """,
    (
        TIME,
        KEY,
        EVENT,
        Column("caller", "Caller", Kind.ARN),
        Column("access_key_id", "Access key"),
        Column("outcome", "Result"),
        Column("error_code", "Error"),
        Column("details", "Details", Kind.LIST),
        PLACE,
    ),
)

POLICIES = Question(
    "policies",
    "Key policies that were put",
    "How did the policy of each key change, and by whom?",
    """
    WITH puts AS ({key_calls} WHERE {until} AND {kms} AND policy IS NOT NULL AND outcome IN ('ok', 'unknown')),
    chained AS (
        SELECT *, lag(policy) OVER (PARTITION BY key ORDER BY time, log, record) AS policy_before
        FROM puts WHERE {of_key})
    SELECT time, key, event_name, {who} AS caller, outcome, policy_before, policy, {place} AS place
    FROM chained WHERE time >= $since::TIMESTAMP AND {scope}
    ORDER BY time, log, record
    """,
    (
        TIME,
        KEY,
        EVENT,
        Column("caller", "Caller", Kind.ARN),
        Column("outcome", "Result"),
        Column("policy_before", "Policy before", Kind.POLICY),
        Column("policy", "Policy", Kind.POLICY),
        Column("diff", "Change", Kind.DIFF),
        PLACE,
    ),
    note="The policy before is the last one that the log has of that key, also from before the interval; where it has none, the "
    "whole policy is shown as new.",
)

BYPASSES = Question(
    "bypasses",
    "Calls in imported CloudTrail events that keytrail has no record of",
    "Which calls did AWS log that did not pass the proxy?",
    """
    WITH own AS (
        SELECT DISTINCT request_id FROM calls
        WHERE origin = 'keytrail' AND request_id IS NOT NULL
          AND time >= $since::TIMESTAMP - INTERVAL 1 DAY AND time < $until::TIMESTAMP + INTERVAL 1 DAY),
    imported AS (
        {key_calls}
        WHERE origin = 'cloudtrail' AND time >= $since::TIMESTAMP AND time < $until::TIMESTAMP AND {kms} AND {scope})
    SELECT key, principal, event_name, source_ip LIKE '%.amazonaws.com' OR source_ip = 'AWS Internal' AS by_service,
           {counts}, {span}, arg_min(event_id, (time, event_id)) AS example
    FROM imported ANTI JOIN own USING (request_id)
    WHERE {of_key}
    GROUP BY ALL ORDER BY calls DESC, key, principal, event_name, by_service
    """,
    (
        KEY,
        PRINCIPAL,
        EVENT,
        Column("by_service", "Caused by a service of AWS's", Kind.FLAG),
        *COUNTS,
        *SPAN,
        Column("example", "First event id"),
    ),
    note="Imported events are counted here, and nowhere among keytrail's own. Without an import (see above, Records) there is "
    "nothing that this table could tell. Calls from before keytrail stood are here too; `keytrail import bypasses` tells them "
    "apart.",
)
