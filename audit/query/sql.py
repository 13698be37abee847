"""A `Filter` said to DuckDB: which text must stand in a line (the sieve), and which condition its fields must meet.

Rules kept: no value is ever pasted into SQL, each is a bound parameter; and the sieve never drops a line that matches.
A value stands in a line as it is, unless it was escaped there, and then the line holds a backslash: such lines always
pass the sieve. `sifting` and `matching` agree with `Filter.matches` (tests/audit/query/test_filters.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from audit.privacy import Form
from audit.query.filters import CONTEXTS, WRITTEN_KEYS, Filter, KeyName, source_matches
from audit.query.times import time_text
from audit.record import Phase

Parameters = dict[str, object]
#: Texts that stand in a matching line (if none was escaped there): of each inner list at least one.
Texts: TypeAlias = "list[list[str]]"

_EXTENSION = "/additionalEventData/keytrail/"
TIME_FORMAT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@dataclass(slots=True)
class Question:
    """Several filters as one condition (OR) in two steps; the SQL speaks of a table `lines(n, stop, size, line)` of
    valid JSON lines.

    Made by `Question.of`. DuckDB knows no networks without an extension, so for a source network the distinct addresses
    are asked for first (`source_sql`) and those that lie in the network are bound to `matching` (`bound`).
    """

    parameters: Parameters = field(default_factory=dict)
    _paths: list[str] = field(default_factory=list)
    _networks: list[tuple[str, str]] = field(default_factory=list)
    _texts: list[Texts] = field(default_factory=list)
    _arns: str = "NULL"  # costs a second look at the JSON: only where a key is asked for
    _sieve: str = ""
    _condition: str = ""

    @classmethod
    def of(cls, filters: Sequence[Filter]) -> Question:
        question = cls()
        for name in ("time", "log", "sequence"):
            question._at(_EXTENSION + name)
        question._texts = [_texts(one) for one in filters]
        question._sieve = " OR ".join(f"({question._sieve_of(groups)})" for groups in question._texts)
        question._condition = " OR ".join(f"({question._condition_of(one)})" for one in filters)
        question.parameters["paths"] = question._paths
        return question

    @property
    def matching(self) -> str:
        """Selects n, stop, size, time, whole: the lines that match, and (`whole` false) those that are no records."""
        return f"""
            WITH candidate AS MATERIALIZED (FROM lines WHERE {self._sieve}),
            fields AS MATERIALIZED (
                SELECT n, stop, size, json_extract_string(line, $paths::VARCHAR[]) AS x,
                       {self._arns} AS arns
                FROM candidate),
            judged AS (
                SELECT *, coalesce(regexp_full_match(x[1], '{TIME_FORMAT}') AND x[2] IS NOT NULL
                                   AND try_cast(x[3] AS BIGINT) IS NOT NULL, false) AS whole
                FROM fields)
            SELECT n, stop, size, x[1] AS time, whole FROM judged WHERE NOT whole OR ({self._condition})"""  # noqa: S608  # built of constants and parameter names

    @property
    def source_sql(self) -> str | None:
        """Finds the distinct source addresses, where a filter asks for a network."""
        if not self._networks:
            return None
        return "SELECT DISTINCT json_extract_string(line, '/sourceIPAddress') FROM lines"

    def bound(self, sources: Iterable[str | None] = ()) -> Parameters:
        """The parameters of `matching`, given the `sources` that `source_sql` found."""
        found = [source for source in sources if source is not None]
        return self.parameters | {
            name: [source for source in found if source_matches(wanted, source)] for name, wanted in self._networks
        }

    def _at(self, pointer: str) -> str:
        """The column of the value at the JSON `pointer` (RFC 6901), as text; NULL where there is none."""
        if pointer not in self._paths:
            self._paths.append(pointer)
        return f"x[{self._paths.index(pointer) + 1}]"

    def _bind(self, value: object) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"${name}"

    def may_be_in(self, data: bytes) -> bool:
        """Whether lines in `data` can pass the sieve: a first look at many lines at once, far faster than at each."""
        return b"\\" in data or any(
            all(any(text.encode() in data for text in group) for group in groups) for groups in self._texts
        )

    def _sieve_of(self, groups: Texts) -> str:
        clauses = ["(" + " OR ".join(f"contains(line, {self._bind(text)})" for text in group) + ")" for group in groups]
        return "contains(line, '\\') OR (" + " AND ".join(clauses) + ")" if clauses else "true"

    def _condition_of(self, one: Filter) -> str:
        phases = self._bind(sorted(phase.value for phase in one.phases))
        clauses = [f"list_contains({phases}::VARCHAR[], coalesce({self._at(_EXTENSION + 'phase')}, '{Phase.OUTCOME.value}'))"]
        if one.since is not None:
            clauses.append(f"x[1] >= {self._bind(time_text(one.since))}")
        if one.until is not None:
            clauses.append(f"x[1] < {self._bind(time_text(one.until))}")
        if one.events:
            clauses.append(_any(self._like("/eventName", glob) for glob in one.events))
        if one.key is not None:
            clauses.append(self._key(one.key))
        if one.caller is not None:
            clauses.append(_any(self._like(f"/userIdentity/{part}", one.caller) for part in ("arn", "userName")))
        if one.access_key is not None:
            clauses.append(f"{self._at('/userIdentity/accessKeyId')} = {self._bind(one.access_key)}")
        for key, value in one.context:
            places = [self._at(f"/requestParameters/{name}/{_pointer(key)}") for name in CONTEXTS]
            ways = [f"{place} = {self._bind(value)}" for place in places]
            if (digest := one.digests.get((key, value))) is not None:
                form = f"{self._at(f'{_EXTENSION}privateContext/{_pointer(key)}')} = {self._bind(Form.HMAC.value)}"
                ways += [f"({place} = {self._bind(digest)} AND {form})" for place in places]
            clauses.append(_any(ways))
        if one.fingerprints:
            clauses.append(self._fingerprints(one.fingerprints))
        if one.ids:
            ids = f"{self._bind(list(one.ids))}::VARCHAR[]"
            clauses.append(_any(f"list_contains({ids}, {self._at(place)})" for place in ("/requestID", "/eventID")))
        if one.error is not None:
            clauses.append(self._error(one.error))
        if one.source is not None:
            clauses.append(self._source(one.source))
        return " AND ".join(clauses)

    def _like(self, pointer: str, glob: str) -> str:
        escaped = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
        return f"coalesce({self._at(pointer)} LIKE {self._bind(escaped)} ESCAPE '\\', false)"

    def _key(self, key: KeyName) -> str:
        self._arns = "json_extract_string(line, '$.resources[*].ARN')"
        names = f"list_concat(arns, [{', '.join(self._at('/' + '/'.join(place)) for place in WRITTEN_KEYS)}])"
        ways = [f"list_contains({names}, {self._bind(key.text)})"]
        if key.suffix is not None:
            ways.append(f"len(list_filter({names}, name -> ends_with(name, {self._bind(key.suffix)}))) > 0")
        if key.short is not None:
            region = f"{self._at('/awsRegion')} = {self._bind(key.region)}"
            ways.append(f"(list_contains({names}, {self._bind(key.short)}) AND {region})")
        return _any(ways)

    def _fingerprints(self, wanted: Sequence[str]) -> str:
        # Each list comes as the text of a JSON array of hex digits, so that a quoted fingerprint stands in it or does
        # not.
        quoted = self._bind([f'"{fingerprint}"' for fingerprint in wanted])
        lists = " || ".join(f"coalesce({self._at(_EXTENSION + name)}, '')" for name in ("fingerprintsIn", "fingerprintsOut"))
        return f"len(list_filter({quoted}::VARCHAR[], text -> contains({lists}, text))) > 0"

    def _error(self, error: str) -> str:
        code = self._at("/errorCode")
        if error in ("any", "none"):
            return f"{code} IS {'NOT ' if error == 'any' else ''}NULL"
        wanted = self._bind(error)
        return _any([f"{code} = {wanted}", f"{self._at(_EXTENSION + 'wireError')} = {wanted}"])

    def _source(self, source: str) -> str:
        if "/" not in source:
            return f"{self._at('/sourceIPAddress')} = {self._bind(source)}"
        name = f"sources{len(self._networks)}"
        self._networks.append((name, source))
        return f"coalesce({self._at('/sourceIPAddress')} IN (SELECT unnest(${name}::VARCHAR[])), false)"


def _texts(one: Filter) -> Texts:
    groups = [[max(event.split("*"), key=len) for event in one.events]]
    groups += [[piece] for piece in (one.caller or "").split("*")]
    for key, value in one.context:
        digest = one.digests.get((key, value))
        groups += [[key], [value] if digest is None else [value, digest]]
    groups += [[*one.fingerprints], [*one.ids], [one.key.short or one.key.text] if one.key else [], [one.access_key or ""]]
    groups += [[one.error or ""] if one.error not in ("any", "none") else []]
    groups += [[one.source] if one.source and "/" not in one.source else []]
    return [group for group in groups if group and all(group)]


def _any(clauses: Iterable[str]) -> str:
    return "(" + " OR ".join(f"coalesce({clause}, false)" for clause in clauses) + ")"


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
