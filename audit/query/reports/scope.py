"""What a report is about: from the options to conditions in SQL, and the values that are bound to them.

No value is ever pasted into SQL. What SQL cannot compare (the many names of a key, a network) is looked up in the log first, and
bound as the list of what was found: it stands in the report, as all parameters do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import duckdb

from audit.errors import QueryError
from audit.query.filters import Filter, KeyName, source_matches

Parameters: TypeAlias = dict[str, str | list[str]]

_ROLE = re.compile(r"(?:arn:(?P<partition>[^:]+):iam::(?P<account>[^:]*):)?role/(?:.*/)?(?P<name>[^/]+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the options ask for. All must hold; of `access_keys` and of `fingerprints`, one. Raises `QueryError`.

    `caller`: ARN, user name, ``user/alice``, a role as IAM or as STS names it; ``*`` stands for any text. `key`: in any form.
    `source`: an address, or a network. `fingerprints`: hex digits.
    """

    caller: str | None = None
    key: str | None = None
    access_keys: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        Filter(fingerprints=self.fingerprints, source=self.source)  # which refuses what is none
        if self.caller == "":
            raise QueryError("not a caller: ''")

    @property
    def is_anything(self) -> bool:
        return any((self.caller, self.key, self.access_keys, self.fingerprints, self.source))

    def to_json(self) -> dict[str, str | list[str]]:
        options = {
            "caller": self.caller,
            "key": self.key,
            "access_key": list(self.access_keys),
            "fingerprint": list(self.fingerprints),
            "source": self.source,
        }
        return {name: value for name, value in options.items() if value}


@dataclass(frozen=True, slots=True)
class Scope:
    """Pieces of SQL: `scope`, of which rows of `calls`; `of_key`, of which keys; `for_scope`, for which grantees. `parameters`
    are bound to them; `notes` say what must be known of them."""

    pieces: Mapping[str, str]
    parameters: Parameters = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_KEYS_OF_ROW = "CASE WHEN len(keys) > 0 THEN keys ELSE [key_name] END"
_CALLER = r"(caller LIKE $caller ESCAPE '\' OR user_name LIKE $caller ESCAPE '\' OR {principal} LIKE $caller ESCAPE '\')"
# IAM names a role otherwise than its sessions do.
_GRANTEE = r"regexp_replace(grantee, ':iam::([^:]*):role/(.*/)?', ':sts::\1:assumed-role/') LIKE $caller ESCAPE '\'"


def of_keys(asked: Asked, database: duckdb.DuckDBPyConnection) -> Scope:
    """The scope of a report on keys: all that the log names, or the one that was asked for. Raises `QueryError`."""
    if asked.key is None:
        return Scope({"scope": "true", "of_key": "key IS NOT NULL", "for_scope": "true"})
    names, notes = _key_names(asked.key, database)
    pieces = {"scope": "true", "of_key": "list_contains($keys::VARCHAR[], key)", "for_scope": "true"}
    return Scope(pieces, {"keys": names}, notes)


def of_calls(asked: Asked, database: duckdb.DuckDBPyConnection) -> Scope:
    """The scope of a report on calls: those for which all hold that was asked for. Raises `QueryError`."""
    conditions: list[str] = []
    parameters: Parameters = {}
    notes: tuple[str, ...] = ()
    if asked.caller is not None:
        conditions.append(_CALLER)
        parameters["caller"] = caller_pattern(asked.caller)
    if asked.access_keys:
        conditions.append("list_contains($access_keys::VARCHAR[], access_key_id)")
        parameters["access_keys"] = list(asked.access_keys)
    if asked.key is not None:
        conditions.append(f"list_has_any({_KEYS_OF_ROW}, $keys::VARCHAR[])")
        parameters["keys"], notes = _key_names(asked.key, database)
    if asked.source is not None:
        conditions.append("source_ip IN (SELECT unnest($sources::VARCHAR[]))")
        parameters["sources"] = _addresses(asked.source, database)
    if asked.fingerprints:
        conditions.append("list_has_any(list_concat(fingerprints_in, fingerprints_out), $fingerprints::VARCHAR[])")
        parameters["fingerprints"] = list(asked.fingerprints)
    scope = f"({' AND '.join(conditions)})" if conditions else "true"
    return Scope({"scope": scope, "of_key": "true", "for_scope": _GRANTEE if asked.caller else "false"}, parameters, notes)


def caller_pattern(text: str) -> str:
    r"""The LIKE pattern (escape ``\``) of a caller as people write it; a role is named as its sessions are."""
    role = _ROLE.fullmatch(text)
    if role is not None:
        place = f"arn:{role['partition']}:sts::{role['account']}:" if role["partition"] else "*:"
        text = f"{place}assumed-role/{role['name']}"
    elif "/" in text and not text.startswith(("arn:", "*")):
        text = f"*:{text}"
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")


def _key_names(text: str, database: duckdb.DuckDBPyConnection) -> tuple[list[str], tuple[str, ...]]:
    """Every name in the log of the key that `text` names: ARNs, and what callers wrote that was refused before it was looked up.

    Of an alias these are all the keys that it stood for.
    """
    key = KeyName.parse(text)
    is_alias = key.text.startswith("alias/") or ":alias/" in key.text
    named = """
        SELECT DISTINCT name FROM (
            SELECT unnest(list_concat(keys, [key_name, alias_name])) AS name, region FROM calls)
        WHERE name = $text OR ends_with(name, $suffix) OR (name = $short AND region = $region)"""
    suffix = key.suffix if key.suffix is not None else f"\n{key.text}"  # which no name ends in
    values = {"text": key.text, "suffix": suffix, "short": key.short, "region": key.region}
    names = {name for (name,) in database.execute(named, values).fetchall()}
    if is_alias and names:
        meant = """
            SELECT DISTINCT unnest(keys) AS key FROM calls
            WHERE list_has_any(list_concat(keys, [key_name, alias_name]), $names::VARCHAR[])
              AND ($region::VARCHAR IS NULL OR region = $region)"""
        found = database.execute(meant, {"names": sorted(names), "region": key.region}).fetchall()
        names |= {arn for (arn,) in found if ":alias/" not in arn}
    notes = (
        () if names else (f"no call in the logs names the key {text}: either it was never asked for, or it is called otherwise",)
    )
    return sorted(names | {text}), notes


def _addresses(source: str, database: duckdb.DuckDBPyConnection) -> list[str]:
    if "/" not in source:
        return [source]
    found = database.execute("SELECT DISTINCT source_ip FROM calls WHERE source_ip IS NOT NULL ORDER BY source_ip").fetchall()
    return [address for (address,) in found if source_matches(source, address)]
