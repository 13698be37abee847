"""Contracts: which names the encryption contexts of a key have, and of which form their values are; checked, and learned.

A contract of the settings is for the keys that its glob names; of several, the first. Values are checked by DuckDB's regular
expressions (RE2), which take time in proportion to the text, whatever the text is. Values that are private in the log have no
form that could be checked or learned; what they are called is checked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

import duckdb

from audit.errors import QueryError
from audit.query.filters import glob_matches


@dataclass(frozen=True, slots=True)
class Contract:
    """For keys that `key` names (an ARN or the end of one; `*` stands for any text): names that each context must have, and may
    have (None: any other), and by name the form of the whole value, a regular expression."""

    key: str
    required: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    values: Mapping[str, str] = field(default_factory=dict)

    def is_for(self, arn: str) -> bool:
        return glob_matches(self.key, arn) or glob_matches(f"*/{self.key}", arn)


#: Calls with an encryption context, one row for each key and its context. ReEncrypt has two of either.
WITH_CONTEXT = """
    SELECT * REPLACE (coalesce(context, MAP {}) AS context) FROM observed
    WHERE key IS NOT NULL AND event_name IN ('Encrypt', 'Decrypt', 'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext',
                                             'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext')
    UNION ALL SELECT * REPLACE (coalesce(source_context, MAP {}) AS context) FROM observed
    WHERE key IS NOT NULL AND event_name = 'ReEncrypt'
    UNION ALL SELECT * REPLACE (keys[2] AS key, coalesce(destination_context, MAP {}) AS context) FROM observed
    WHERE len(keys) > 1 AND event_name = 'ReEncrypt'"""


def load_contracts(database: duckdb.DuckDBPyConnection, contracts: Sequence[Contract], since: datetime) -> None:
    """Make the view `violations`: events of `with_context` with the `name` that is at fault and what its `fault` is.

    Raises `QueryError` for a value's form that is no regular expression.
    """
    for contract in contracts:
        for name, pattern in contract.values.items():
            try:
                database.execute("SELECT regexp_full_match('', ?)", [pattern])
            except duckdb.Error as error:
                raise QueryError(f"contract of {contract.key}: values.{name} is no regular expression: {pattern!r}") from error
    moment = since.astimezone(UTC).replace(tzinfo=None)
    keys = database.execute("SELECT DISTINCT key FROM with_context WHERE time >= ? ORDER BY key", [moment]).fetchall()
    database.execute("CREATE TABLE contract_of (key VARCHAR, contract INTEGER, is_closed BOOLEAN)")
    database.execute("CREATE TABLE terms (contract INTEGER, name VARCHAR, is_required BOOLEAN, pattern VARCHAR)")
    for (key,) in keys:
        number = next((number for number, contract in enumerate(contracts) if contract.is_for(key)), None)
        if number is not None:
            database.execute("INSERT INTO contract_of VALUES (?, ?, ?)", [key, number, contracts[number].allowed is not None])
    for number, contract in enumerate(contracts):
        for name in dict.fromkeys((*contract.required, *(contract.allowed or ()), *contract.values)):
            term = [number, name, name in contract.required, contract.values.get(name)]
            database.execute("INSERT INTO terms VALUES (?, ?, ?, ?)", term)
    database.execute(_FORMS)
    # one form at a time, which is compiled once then
    for (pattern,) in database.execute(
        "SELECT DISTINCT pattern FROM terms WHERE pattern IS NOT NULL ORDER BY pattern"
    ).fetchall():
        database.execute(_MISFORMED, {"pattern": pattern})
    database.execute(_VIOLATIONS)


#: The values that have to have a form, each once, and those that do not have it.
_FORMS = """
    CREATE TABLE formed AS SELECT DISTINCT contract, name, context[name] AS text
    FROM (SELECT context, private_context, contract, unnest(map_keys(context)) AS name
          FROM with_context JOIN contract_of USING (key))
    SEMI JOIN (SELECT contract, name FROM terms WHERE pattern IS NOT NULL) USING (contract, name)
    WHERE private_context[name] IS NULL;
    CREATE TABLE misformed (contract INTEGER, name VARCHAR, text VARCHAR)"""
_MISFORMED = """
    INSERT INTO misformed SELECT contract, name, text FROM formed JOIN terms USING (contract, name)
    WHERE pattern = $pattern AND NOT regexp_full_match(text, $pattern)"""
_VIOLATIONS = """
    CREATE VIEW violations AS
    WITH bound AS (SELECT * FROM with_context JOIN contract_of USING (key)),
         named AS (SELECT *, unnest(map_keys(context)) AS name FROM bound)
    SELECT * EXCLUDE (is_required, pattern), 'is missing' AS fault FROM bound JOIN terms USING (contract)
    WHERE is_required AND NOT map_contains(context, name)
    UNION ALL BY NAME
    SELECT *, 'is not among those allowed' AS fault FROM named ANTI JOIN terms USING (contract, name) WHERE is_closed
    UNION ALL BY NAME
    SELECT *, 'has a value of another form' AS fault
    FROM (SELECT *, context[name] AS text FROM named WHERE private_context[name] IS NULL)
    SEMI JOIN misformed USING (contract, name, text)"""


# --- Learning

#: Forms that values are recognised by, the narrowest first: name, regular expression.
FORMS: Sequence[tuple[str, str]] = (
    ("uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    ("integer", "-?[0-9]+"),
    ("date", "[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    ("time", "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?"),
    ("ARN", "arn:[a-z0-9-]+:[a-z0-9-]+:[a-z0-9-]*:([0-9]{12})?:.+"),
    ("hexadecimal", "[0-9a-f]+"),
)
#: A form that ends in a number: what stands before it is learned with it.
_NUMBERED = "^(.*[^0-9])[0-9]+$"
_LEARN = f"""
    WITH learned AS (SELECT key, context, private_context FROM with_context WHERE outcome = 'ok' AND time >= $since),
         totals AS (SELECT key, count(*) AS uses FROM learned GROUP BY key),
         entries AS (SELECT key, private_context, unnest(map_entries(context)) AS entry FROM learned),
         pairs AS (SELECT key, entry.key AS name, CASE WHEN private_context[entry.key] IS NULL THEN entry.value END AS text
                   FROM entries)
    SELECT totals.key, uses, name, present, single, prefix, forms FROM totals LEFT JOIN (
        SELECT key, name, count(*) AS present,
               CASE WHEN min(text) = max(text) AND count(text) = count(*) THEN min(text) END AS single,
               CASE WHEN count(text) = count(*) AND bool_and(regexp_matches(text, '{_NUMBERED}'))
                     AND min(regexp_extract(text, '{_NUMBERED}', 1)) = max(regexp_extract(text, '{_NUMBERED}', 1))
                    THEN min(regexp_extract(text, '{_NUMBERED}', 1)) END AS prefix,
               [{", ".join(f"count(text) = count(*) AND bool_and(regexp_full_match(text, '{pattern}'))" for _, pattern in FORMS)}]
                   AS forms
        FROM pairs GROUP BY ALL) AS names ON names.key = totals.key
    ORDER BY totals.key, name"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class Learned:
    """A contract that was learned of `uses` calls; `forms` names those of its values' forms that have a name."""

    contract: Contract
    uses: int
    forms: Mapping[str, str]


def learn(database: duckdb.DuckDBPyConnection, since: datetime, least: int) -> Iterator[Learned]:
    """A contract for each key of which at least `least` calls succeeded since: what each call had is required, what some had is
    allowed, nothing else is."""
    rows = database.execute(_LEARN, {"since": since.astimezone(UTC).replace(tzinfo=None)}).fetchall()
    for key, of_key in groupby(rows, lambda row: row[0]):
        names = [row[1:] for row in of_key]
        uses = names[0][0]
        if uses < least:
            continue
        required, allowed, values, forms = list[str](), list[str](), dict[str, str](), dict[str, str]()
        for _, name, present, single, prefix, matched in names:
            if name is None:
                continue
            (required if present == uses else allowed).append(name)
            form = _form(single, prefix, matched) if present >= least else None
            if form is not None:
                forms[name], values[name] = form
        yield Learned(Contract(key, tuple(required), tuple(allowed), values), uses, forms)


def _form(single: str | None, prefix: str | None, matched: Sequence[bool]) -> tuple[str, str] | None:
    """The name of the form of all values, and its regular expression."""
    if single is not None:
        return "always the same", re.escape(single)
    known = next((form for form, matches in zip(FORMS, matched, strict=True) if matches), None)
    if known is None and prefix is not None:
        return "numbered", re.escape(prefix) + "[0-9]+"
    return known


def to_toml(learned: Sequence[Learned]) -> str:
    """`learned` as settings, to be read by people and by `--rules`."""
    return "\n".join(_table(one) for one in learned)


def _table(one: Learned) -> str:
    contract = one.contract
    lines = [
        f"# of {one.uses} calls",
        "[[contract]]",
        f"key = {toml_text(contract.key)}",
        f"required = [{', '.join(map(toml_text, contract.required))}]",
        f"allowed = [{', '.join(map(toml_text, contract.allowed or ()))}]",
    ]
    if contract.values:
        lines.append("[contract.values]")
        lines += [f"{toml_text(name)} = {toml_text(form)} # {one.forms[name]}" for name, form in contract.values.items()]
    return "".join(f"{line}\n" for line in lines)


def toml_text(text: str) -> str:
    """`text` as a basic string of TOML. What could command a terminal is escaped."""
    return '"' + "".join(map(_toml_character, text)) + '"'


def _toml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029":
        return f"\\u{ord(character):04x}" if ord(character) < 0x1_0000 else f"\\U{ord(character):08x}"
    return character
