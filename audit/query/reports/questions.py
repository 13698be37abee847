"""What a table of a report is, as data: the question that it answers, its SQL, its columns; and the SQL that tables share.

A statement is built of constants alone: ``{name}`` in it stands for a piece of `PIECES`, or for what the report is about.
What was asked comes in as parameters (``$name``), each of them a text or a list of texts, so that anybody can run the statement
again with what the report shows.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What stands in a column, for those who show it."""

    TEXT = "text"
    ARN = "arn"
    NUMBER = "number"
    MOMENT = "moment"
    DAY = "day"
    FLAG = "flag"
    LIST = "list"
    POLICY = "policy"  # whole, in JSON alone
    DIFF = "diff"  # not of the SQL: it is made of the columns policy_before and policy


class Shape(Enum):
    """BARS: the rows that have most. COLUMNS: every row in order, as rows are moments."""

    BARS = "bars"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    heading: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Chart:
    """Numbers of a table as a picture: a panel for each of the columns `measures`, over the column `label`."""

    shape: Shape
    label: str
    measures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A table: `answers` says what it answers, `note` what has to be known to read it.

    `sign_off`: headings of columns that are filled in by hand. `is_whole`: its rows are never cut off, as they are moments of the
    interval.
    """

    id: str
    title: str
    answers: str
    sql: str
    columns: tuple[Column, ...]
    note: str = ""
    chart: Chart | None = None
    sign_off: tuple[str, ...] = ()
    is_whole: bool = False

    def statement(self, pieces: Mapping[str, str]) -> str:
        """The SQL, with `pieces` and those of `PIECES` put in."""
        return fill(self.sql, {**PIECES, **pieces})


def fill(text: str, pieces: Mapping[str, str]) -> str:
    """`text` with each ``{name}`` replaced, also within pieces. Raises KeyError for one that does not exist."""
    filled = textwrap.dedent(text).strip()
    while (following := _PIECE.sub(lambda found: pieces[found[1]], filled)) != filled:
        filled = following
    return filled


def parameter_names(statement: str) -> frozenset[str]:
    return frozenset(_PARAMETER.findall(statement))


_PIECE = re.compile(r"\{([a-z_]+)\}")
_PARAMETER = re.compile(r"\$([a-z_]+)")


def _pairs(column: str) -> str:
    return (
        f"[CASE WHEN private_context[pair.key] = 'encrypted' THEN {{'key': pair.key, 'value': '[encrypted]'}} ELSE pair END"
        f" FOR pair IN map_entries({column})]"
    )


#: SQL that tables share, over the view `calls`.
PIECES: Mapping[str, str] = {
    # Which rows. Imported events are never counted among keytrail's own: the same call is in both.
    "until": "origin = 'keytrail' AND time < $until::TIMESTAMP",
    "within": "origin = 'keytrail' AND time >= $since::TIMESTAMP AND time < $until::TIMESTAMP",
    "kms": "event_source = 'kms.amazonaws.com'",
    # A call that keys are used in, and those of them that put data under the key.
    "use": "event_name IN ('Encrypt', 'Decrypt', 'ReEncrypt', {generates}, 'Sign', 'Verify', 'GenerateMac', 'VerifyMac', "
    "'DeriveSharedSecret')",
    "generates": "'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext', 'GenerateDataKeyPair', "
    "'GenerateDataKeyPairWithoutPlaintext'",
    "wraps": "event_name IN ('Encrypt', {generates})",
    "unwraps": "event_name IN ('Decrypt', 'ReEncrypt')",
    # Results. Denied: for who called, or for lack of permission.
    "denied": "error_code IN ('AccessDenied', 'AccessDeniedException', 'ExpiredTokenException', 'IncompleteSignatureException', "
    "'InvalidClientTokenId', 'InvalidSignatureException', 'MissingAuthenticationTokenException', 'UnrecognizedClientException')",
    "counts": """count(*) AS calls,
           count(*) FILTER (outcome = 'ok') AS ok,
           count(*) FILTER ({denied}) AS denied,
           count(*) FILTER (outcome <> 'ok' AND NOT coalesce({denied}, false)) AS other""",
    "operations": "list_sort(list(DISTINCT event_name) FILTER (event_name IS NOT NULL)) AS operations",
    "identity_types": "list_sort(list(DISTINCT identity_type) FILTER (identity_type IS NOT NULL)) AS identity_types",
    "proofs": "list_sort(list(DISTINCT identity_proof) FILTER (identity_proof IS NOT NULL)) AS proofs",
    "span": "min(time) AS first_seen, max(time) AS last_seen",
    # What keytrail did without being asked: heartbeats, rotations and deletions that fell due. No call, and nobody's.
    "own": "(origin = 'keytrail' AND coalesce(event_type, '') = 'AwsServiceEvent')",
    # Who it was; a command on the host has a user of the host and no ARN.
    "who": """coalesce(caller, CASE WHEN {own} THEN '(keytrail itself)'
                                    WHEN identity_proof = 'host-operator' THEN 'host user ' || user_name END)""",
    # A role is one principal, whatever its sessions are called.
    "principal": "CASE WHEN role IS NULL THEN coalesce({who}, '(none)') ELSE split_part(caller, '/', 1) || '/' || role END",
    # A row for each key: those that were used, else what the caller wrote.
    "each_key": """unnest(CASE WHEN len(keys) = 1 THEN keys
                   WHEN len(keys) > 1 THEN list_distinct([name FOR name IN keys IF name NOT LIKE '%:alias/%'])
                   ELSE [key_name] END)""",
    "key_calls": "SELECT {each_key} AS key, {principal} AS principal, * EXCLUDE (key) FROM calls",
    # The pairs of the encryption contexts, as a list; encrypted values, each of which looks different, as one.
    "pairs": f"""CASE WHEN source_context IS NULL AND destination_context IS NULL THEN {_pairs("context")}
                ELSE list_distinct(list_concat({_pairs("context")}, {_pairs("source_context")},
                                               {_pairs("destination_context")})) END""",
    "context_text": "[pair.key || '=' || pair.value FOR pair IN {pairs}]",
    "place": "log || '/' || record",
    # What PCI DSS 10.2.2 requires of a record, where a call lacks it. Some operations are about no key.
    "lacks_user": "NOT {own} AND coalesce(caller, user_name, access_key_id, account_id) IS NULL",
    "lacks_event": "event_name IS NULL",
    "lacks_time": "time IS NULL",
    "lacks_result": "outcome = 'unknown'",
    "lacks_source": "source_ip IS NULL",
    "lacks_resource": """{kms} AND coalesce(len(keys), 0) = 0 AND coalesce(key_name, alias_name) IS NULL
               AND event_name NOT IN ('GenerateRandom', 'ListKeys', 'ListAliases', 'ListRetirableGrants', 'CreateCustomKeyStore',
                   'ConnectCustomKeyStore', 'DescribeCustomKeyStores', 'UpdateCustomKeyStore', 'DisconnectCustomKeyStore',
                   'DeleteCustomKeyStore')""",
    "lacking": """SELECT *, {lacks_user} AS no_user, {lacks_event} AS no_event, {lacks_time} AS no_time,
               {lacks_result} AS no_result, {lacks_source} AS no_source, {lacks_resource} AS no_resource
        FROM calls WHERE time IS NULL OR (time >= $since::TIMESTAMP AND time < $until::TIMESTAMP)""",
}

#: Columns that tables share.
KEY = Column("key", "Key", Kind.ARN)
PRINCIPAL = Column("principal", "Principal", Kind.ARN)
EVENT = Column("event_name", "Operation")
OPERATIONS = Column("operations", "Operations", Kind.LIST)
COUNTS = (
    Column("calls", "Calls", Kind.NUMBER),
    Column("ok", "Done", Kind.NUMBER),
    Column("denied", "Denied", Kind.NUMBER),
    Column("other", "Failed otherwise", Kind.NUMBER),
)
SPAN = (Column("first_seen", "First", Kind.MOMENT), Column("last_seen", "Last", Kind.MOMENT))
TIME = Column("time", "Time (UTC)", Kind.MOMENT)
PLACE = Column("place", "Record")
