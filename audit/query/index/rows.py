"""How lines become rows, said to DuckDB: `EVENTS`, the documented view, and `POSTINGS`, term → place.

Lines are read by `json_transform` with `STRUCTURE`: a member that a line does not have, or has as something else, is NULL. The
places are `record`, the index in the log, and `start` and `size`, the bytes in its segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import orjson

from audit.query.index.terms import COMMON_EVENTS, LIFE_EVENTS
from audit.query.sql import TIME_FORMAT

Shape: TypeAlias = "str | list[Shape] | dict[str, Shape]"

_TEXT, _CONTEXT = "VARCHAR", "MAP(VARCHAR, VARCHAR)"
#: What is read of a line; names as in the line.
STRUCTURE: Mapping[str, Shape] = {
    **dict.fromkeys(
        (
            "eventName",
            "eventSource",
            "eventType",
            "awsRegion",
            "sourceIPAddress",
            "userAgent",
            "errorCode",
            "errorMessage",
            "requestID",
            "eventID",
            "recipientAccountId",
        ),
        _TEXT,
    ),
    "readOnly": "BOOLEAN",
    "userIdentity": dict.fromkeys(("type", "arn", "userName", "accessKeyId", "accountId"), _TEXT),
    "requestParameters": {
        **dict.fromkeys(("encryptionContext", "sourceEncryptionContext", "destinationEncryptionContext"), _CONTEXT),
        **dict.fromkeys(("keyId", "sourceKeyId", "destinationKeyId", "targetKeyId", "aliasName", "keySpec"), _TEXT),
        **dict.fromkeys(("policy", "grantId", "granteePrincipal"), _TEXT),
        "grantTokens": [_TEXT],
    },
    "responseElements": dict.fromkeys(("keyId", "grantId", "deletionDate"), _TEXT),
    "resources": [{"ARN": _TEXT}],
    "additionalEventData": {
        "keyMaterialId": _TEXT,
        "keytrail": {
            **dict.fromkeys(
                ("log", "time", "phase", "intent", "wireError", "identityProof", "backend", "topology", "peer", "effect"), _TEXT
            ),
            "sequence": "JSON",  # as it stands: a text of digits is another thing
            "latencyMicros": "BIGINT",
            "fingerprintsIn": [_TEXT],
            "fingerprintsOut": [_TEXT],
            "upstream": {"host": _TEXT, "status": "INTEGER", "requestId": _TEXT},
            "deniedBy": {"policy": _TEXT, "statement": _TEXT},
            "allowedBy": [{"grant": _TEXT, "policy": _TEXT, "statement": _TEXT}],
            "privateContext": _CONTEXT,
        },
    },
}
_EXTENSION = "x.additionalEventData.keytrail"
_PARAMETERS = "x.requestParameters"
_DELETED = "x.responseElements.deletionDate"  # seconds since the epoch, or text
_DELETED_US = f"try_cast(try_cast({_DELETED} AS DOUBLE) * 1e6 AS BIGINT)"
#: As `filters.allowances` says it.
_ALLOWED = f"""[CASE WHEN one."grant" IS NOT NULL THEN 'grant ' || one."grant" ELSE concat_ws(': ', one.policy, one.statement) END
    FOR one IN {_EXTENSION}.allowedBy IF one IS NOT NULL]"""
_NAMES = f"""list_filter(list_concat([r.ARN FOR r IN x.resources],
    [{_PARAMETERS}.keyId, {_PARAMETERS}.sourceKeyId, {_PARAMETERS}.destinationKeyId, {_PARAMETERS}.targetKeyId,
     {_PARAMETERS}.aliasName, x.responseElements.keyId]), name -> name IS NOT NULL)"""

#: The columns of the view `events`: name → SQL over the rows of `LOAD`, and what it is.
EVENTS: Mapping[str, tuple[str, str]] = {
    "time": (f"try_cast({_EXTENSION}.time AS TIMESTAMP)", "arrival of the call, UTC, microseconds"),
    "event_name": ("x.eventName", "the operation, such as Decrypt"),
    "phase": (f"coalesce({_EXTENSION}.phase, 'outcome')", "intent, outcome, or unknown"),
    "caller": ("x.userIdentity.arn", "ARN of who called"),
    "user_name": ("x.userIdentity.userName", "its user name, where it has one"),
    "identity_type": ("x.userIdentity.type", "IAMUser, AssumedRole, …, Unknown"),
    "identity_proof": (f"{_EXTENSION}.identityProof", "how the identity was established"),
    "access_key_id": ("x.userIdentity.accessKeyId", "the access key that signed"),
    "account_id": ("x.userIdentity.accountId", "the caller's account"),
    "recipient_account_id": ("x.recipientAccountId", "the account that was called"),
    "region": ("x.awsRegion", "the region that was called"),
    "source_ip": ("x.sourceIPAddress", "the client's address, or a service's name"),
    "peer": (f"{_EXTENSION}.peer", "the socket's other end, where a proxy told source_ip"),
    "user_agent": ("x.userAgent", "what the client says that it is"),
    "error_code": ("x.errorCode", "CloudTrail's code of a call that failed, else NULL"),
    "wire_error": (f"{_EXTENSION}.wireError", "the code that the client saw"),
    "error_message": ("x.errorMessage", "its text"),
    "keys": ("[r.ARN FOR r IN x.resources]", "ARNs of the keys that were used"),
    "key_name": (f"coalesce({_PARAMETERS}.keyId, {_PARAMETERS}.targetKeyId)", "the key as the caller wrote it"),
    "alias_name": (f"{_PARAMETERS}.aliasName", "the alias that a call is about"),
    "key_spec": (f"{_PARAMETERS}.keySpec", "of the data key that was asked for"),
    "key_material_id": ("x.additionalEventData.keyMaterialId", "the key material that was used"),
    "context": (f"{_PARAMETERS}.encryptionContext", "the encryption context, a MAP"),
    "source_context": (f"{_PARAMETERS}.sourceEncryptionContext", "of ReEncrypt"),
    "destination_context": (f"{_PARAMETERS}.destinationEncryptionContext", "of ReEncrypt"),
    "private_context": (
        f"{_EXTENSION}.privateContext",
        "names in these whose values are private, a MAP: hmac, encrypted or withheld",
    ),
    "fingerprints_in": (f"{_EXTENSION}.fingerprintsIn", "SHA-256 of the ciphertexts in the request"),
    "fingerprints_out": (f"{_EXTENSION}.fingerprintsOut", "… and in the response"),
    "policy": (f"{_PARAMETERS}.policy", "the key policy that was put"),
    "grant_id": (f"coalesce({_PARAMETERS}.grantId, x.responseElements.grantId)", "the grant that was made, retired or revoked"),
    "grantee": (f"{_PARAMETERS}.granteePrincipal", "whom a grant is for"),
    "grant_tokens": (f"{_PARAMETERS}.grantTokens", "as they were sent"),
    "deletion_date": (
        f"coalesce(try_cast({_DELETED} AS TIMESTAMP), try(make_timestamp({_DELETED_US})))",
        "when a key is to be deleted, of ScheduleKeyDeletion",
    ),
    "request_id": ("x.requestID", "as the client got it"),
    "event_id": ("x.eventID", "of the record"),
    "intent_id": (f"{_EXTENSION}.intent", "of the intent that an outcome belongs to"),
    "event_source": ("x.eventSource", "kms.amazonaws.com, …"),
    "event_type": ("x.eventType", "AwsApiCall, AwsServiceEvent"),
    "read_only": ("x.readOnly", "whether it changes nothing"),
    "effect": (
        f"{_EXTENSION}.effect",
        "unknown, where a change may or may not have been made; made or none, where that is known of a lost outcome",
    ),
    "latency_us": (f"{_EXTENSION}.latencyMicros", "microseconds from arrival to the record"),
    "backend": (f"{_EXTENSION}.backend", "local or aws"),
    "topology": (f"{_EXTENSION}.topology", "endpoint, private-dns, forward-proxy"),
    "upstream_host": (f"{_EXTENSION}.upstream.host", "whom AWS's answer came from"),
    "upstream_status": (f"{_EXTENSION}.upstream.status", "its HTTP status"),
    "denied_policy": (f"{_EXTENSION}.deniedBy.policy", "the guardrail that refused"),
    "denied_statement": (f"{_EXTENSION}.deniedBy.statement", "its statement"),
    "allowed_by": (_ALLOWED, "of the embedded KMS: what allowed each action, as grant ID, POLICY: STATEMENT, or host"),
    "log": (f"{_EXTENSION}.log", "the log that the record is in"),
    "record": ("record", "its index there, from 0"),
    "start": ("start", "where its line begins in its segment, bytes"),
    "size": ("size", "of the line with its newline, bytes"),
}

#: Rows of the lines of a chunk, a table `lines(n, stop, size, line)`, all of them sound. Parameters: the first line's index in
#: the log, and the chunk's offset in the segment.
LOAD = f"""
    SELECT n + $first AS record, $offset::BIGINT + stop - size AS start, size,
           json_transform(line, '{orjson.dumps(STRUCTURE).decode()}') AS x
    FROM lines"""  # noqa: S608 - built of constants

#: How many rows from a record on have a record's members where they belong, and as they should be.
IN_PLACE = f"""
    SELECT count(*) FROM rows
    WHERE record >= ? AND {_EXTENSION}.log IS NOT NULL
      AND regexp_full_match({_EXTENSION}.time, '{TIME_FORMAT}') AND regexp_full_match({_EXTENSION}.sequence, '[0-9]+')
    """  # noqa: S608 - built of constants

#: The columns of `EVENTS` as a list for SELECT.
EVENT_COLUMNS = ", ".join(f'{expression} AS "{name}"' for name, (expression, _) in EVENTS.items())

#: First and last time in the table `rows`, from a record on.
TIMES = f"SELECT min({_EXTENSION}.time), max({_EXTENSION}.time) FROM rows WHERE record >= ?"  # noqa: S608 - built of constants
#: Days in the table `rows`: how many records, and the first and the last of them.
DAYS = f"""
    SELECT left({_EXTENSION}.time, 10) AS day, count(*), min(record), max(record) FROM rows GROUP BY day ORDER BY day
    """  # noqa: S608 - built of constants
#: The events of one of them, in order. Parameters: the first and the last record, the day.
OF_DAY = f"SELECT {EVENT_COLUMNS} FROM rows WHERE record BETWEEN ? AND ? AND left({_EXTENSION}.time, 10) = ?"  # noqa: S608 - constants

_LAST_PARTS = f"[split_part(name, ':', -1) FOR name IN {_NAMES}]"


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)


#: What a record's terms are made of: (kind, SQL of the value over the table `rows`).
_TERMS = (
    ("r", "x.requestID"),
    ("r", "x.eventID"),
    ("n", f"CASE WHEN x.eventName NOT IN ({_listed(COMMON_EVENTS)}) THEN x.eventName END"),
    ("i", "x.sourceIPAddress"),
    ("d", "x.errorCode"),
    ("d", "CASE WHEN x.errorCode IS NOT NULL THEN '' END"),
    ("d", f"{_EXTENSION}.wireError"),
    ("a", "x.userIdentity.accessKeyId"),
    ("u", "x.userIdentity.userName"),
    ("s", "split_part(x.userIdentity.arn, ':', -1)"),
    ("f", f"unnest(list_concat({_EXTENSION}.fingerprintsIn, {_EXTENSION}.fingerprintsOut))"),
    ("k", f"unnest(list_distinct({_LAST_PARTS}))"),
    ("l", f"unnest(CASE WHEN x.eventName IN ({_listed(LIFE_EVENTS)}) THEN list_distinct({_LAST_PARTS}) END)"),
)
_PAIRS = f"""
    SELECT hash('c', pair.key, pair.value) AS term, pair.value AS value, record, start FROM (
        SELECT unnest(list_concat(map_entries({_PARAMETERS}.encryptionContext),
                                  map_entries({_PARAMETERS}.sourceEncryptionContext),
                                  map_entries({_PARAMETERS}.destinationEncryptionContext))) AS pair, record, start
        FROM rows)"""  # noqa: S608 - built of constants
_VALUES = [
    f"SELECT hash('{kind}', value) AS term, value, record, start FROM (SELECT {value} AS value, record, start FROM rows)"  # noqa: S608 - constants
    for kind, value in _TERMS
]

#: The postings of the table `rows`, which has what `LOAD` gives.
POSTINGS = f"SELECT term, record, start FROM ({' UNION ALL '.join([*_VALUES, _PAIRS])}) WHERE value IS NOT NULL"  # noqa: S608 - constants

#: What DuckDB makes of a known term: the manifest's `probe`.
PROBE = "SELECT hash('k', 'keytrail')"
