"""SOPS files: the data key of the file, as each KMS key of its metadata wraps it. Pure.

    JSON, YAML:   "sops": {"kms": [{"arn", "role", "context": {…}, "created_at", "enc", "aws_profile"}, …], "mac", "version", …};
                  of a key that is split among groups: "sops": {"key_groups": [{"kms": […], …}, …], "shamir_threshold", …}
    dotenv:       sops_kms__list_0__map_enc=…, sops_kms__list_0__map_context__map_NAME=…, sops_key_groups__list_0__map_kms__…
    INI:          the same names without "sops_" in the section [sops], in any order

``enc`` is the CiphertextBlob in base64. SOPS writes its metadata last, and ``mac``, ``version`` and ``lastmodified`` always.
Rules kept:

- A file without these three is cut off: what was read of it could be half a blob, whose fingerprint would never be found.
- Of YAML only what SOPS writes is read: maps, lists, scalars on one line, quoted or not, and blocks of text.
- A file that has other recipients than KMS keys (age, PGP, …) can be opened without a call to KMS, and the note says so.

Source: github.com/getsops/sops, stores/stores.go (Metadata, kmskey), stores/flatten.go; files that sops 3.11 wrote.

Limit: one of more than `MAX_PIECE_BYTES` is not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import orjson

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import from_base64
from audit.query.artifacts.documents import BrokenJson, parse_json, without_bom

FORMAT = "SOPS"

#: How each value that SOPS encrypted begins; the MAC is one.
_MARK = b"ENC[AES256_GCM,"
_ALWAYS = ("lastmodified", "mac", "version")
_MAX_LINES = 200_000
_MAX_LINE_CHARS = 256 << 10
_MAX_DEPTH = 16

_YAML_BEGIN = re.compile(r"^sops:[ \t]*\n", re.MULTILINE)
_INI_BEGIN = re.compile(r"^\[sops\][ \t]*\n", re.MULTILINE)
_DOTENV_LINE = re.compile(r"^sops_([^=\n]+)=([^\n]*)$", re.MULTILINE)
_INI_QUOTED = re.compile(r'"""(.+?)"""|`([^`]+)`|"([^"]+)"')
_FLAT = re.compile(
    r"(?:key_groups__list_(?P<group>\d{1,4})__map_)?kms__list_(?P<at>\d{1,4})__map_(?:context__map_(?P<pair>.+)|(?P<name>\w+))"
)


#: One of another list: "age__list_0__map_recipient".
_FLAT_OTHER = re.compile(r"(?:key_groups__list_(?P<group>\d{1,4})__map_)?(?P<kind>\w+?)__list_(?P<at>\d{1,4})__map_.+")
_NO_RECIPIENTS = ("kms", "key_groups")


def read_sops(artifact: Artifact) -> list[WrappedKey] | None:
    """The data key, once for each KMS key that wraps it. One that only other means wrap has neither fingerprint nor blob: its
    note tells which."""
    if not 0 < artifact.size_bytes <= MAX_PIECE_BYTES:
        return None
    content = without_bom(artifact.read(0, artifact.size_bytes))
    if _MARK not in content or b"sops" not in content:
        return None
    if content.lstrip().startswith(b"{"):
        found = _json(content)
        return None if found is None else _keys(found)
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    for trees in (_yaml(text), _ini(text), _dotenv(text)):
        if (first := next(trees, None)) is not None:
            return _keys_of_all(chain([first], trees))
    return None


def _keys_of_all(trees: Iterable[Mapping[str, object]]) -> list[WrappedKey]:
    """Of several documents the keys, each once."""
    keys: dict[tuple[str, str], WrappedKey] = {}
    for tree in trees:
        keys |= {(key.where, key.fingerprint): key for key in _keys(tree)}
        if len(keys) > MAX_KEYS:
            raise DamagedArtifact(FORMAT, f"it has more than {MAX_KEYS} keys")
    return list(keys.values())


def _json(content: bytes) -> Mapping[str, object] | None:
    if b'"sops"' not in content:
        return None
    try:
        document = parse_json(content)
    except BrokenJson as error:
        raise DamagedArtifact(FORMAT, str(error)) from error
    metadata = document.get("sops") if isinstance(document, dict) else None
    return metadata if isinstance(metadata, dict) else None


def _keys(metadata: Mapping[str, object]) -> list[WrappedKey]:
    missing = [name for name in _ALWAYS if not isinstance(metadata.get(name), str)]
    if missing:
        raise DamagedArtifact(FORMAT, f"its metadata has no {' and no '.join(missing)}: it is cut off")
    groups = _list(metadata, "key_groups")
    others = _others(metadata).total() > 0
    entries = [_Entry(f"sops.kms[{at}]", one, _by_others(metadata), others) for at, one in enumerate(_list(metadata, "kms"))]
    for number, group in enumerate(groups):
        place = f"sops.key_groups[{number}]"
        if not isinstance(group, dict):
            raise DamagedArtifact(FORMAT, f"{place} is no map")
        note, others = _share(metadata, groups, group), _others(group).total() > 0
        entries += (_Entry(f"{place}.kms[{at}]", one, note, others) for at, one in enumerate(_list(group, "kms")))
    if len(entries) > MAX_KEYS:
        raise DamagedArtifact(FORMAT, f"it has more than {MAX_KEYS} keys")
    if not entries:
        counted = sum((_others(tree) for tree in (metadata, *groups)), Counter[str]())
        note = f"no KMS blob: the recipients are of {_counted(counted)}"
        return [WrappedKey("", FORMAT, "sops", note=note)] if counted.total() else []
    return [_key(entry) for entry in entries]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One of a list ``kms``, with what is to be noted of it, and whether it has other recipients beside it."""

    where: str
    value: object
    note: str | None
    is_not_alone: bool


def _others(tree: object) -> Counter[str]:
    """How many recipients of other kinds than KMS there are in the metadata, or in a group of them."""
    lists = tree.items() if isinstance(tree, Mapping) else ()
    return Counter({str(name): len(value) for name, value in lists if isinstance(value, list) and name not in _NO_RECIPIENTS})


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{kind} ({number})" for kind, number in sorted(others.items()) if number)


def _by_others(tree: object) -> str | None:
    others = _others(tree)
    return f"can be unwrapped without KMS too: it has recipients of {_counted(others)}" if others.total() else None


def _share(metadata: Mapping[str, object], groups: Sequence[object], group: object) -> str | None:
    """What is to be noted of the keys of a group: each wraps a share of the data key, where there are several groups."""
    if len(groups) < 2:
        return _by_others(group)
    threshold = str(metadata.get("shamir_threshold"))
    notes = [f"a share of the data key: {threshold} of {len(groups)} groups are needed", _by_others(group)]
    without_kms = sum(_others(one).total() > 0 for one in groups)
    if threshold.isdecimal() and 0 < int(threshold) <= without_kms:
        notes.append("enough groups have recipients of other kinds: the file can be opened without KMS")
    return "; ".join(note for note in notes if note)


def _list(tree: Mapping[str, object], name: str) -> list[object]:
    value = tree.get(name)
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise DamagedArtifact(FORMAT, f"{name} is no list")
    return value


def _key(one: _Entry) -> WrappedKey:
    where, entry = one.where, one.value
    if not isinstance(entry, dict):
        raise DamagedArtifact(FORMAT, f"{where} is no map")
    arn, wrapped, role, context = (entry.get(name) for name in ("arn", "enc", "role", "context"))
    if not isinstance(arn, str) or not isinstance(wrapped, str):
        raise DamagedArtifact(FORMAT, f"{where} has no arn, or no enc")
    blob = from_base64(wrapped.encode()) if wrapped.isascii() and len(wrapped) % 4 == 0 else None
    if blob is None:
        raise DamagedArtifact(FORMAT, f"{where}.enc is not base64")
    if context is not None and not _is_context(context):
        raise DamagedArtifact(FORMAT, f"{where}.context is no map of strings")
    notes = [one.note] if one.note else []
    if role:
        notes.append(f"unwrapped in the role {role}")
    note = "; ".join(notes) or None
    return WrappedKey.of(blob, FORMAT, where, key=arn, context=context or None, note=note, is_not_alone=one.is_not_alone)


def _is_context(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


# --- The flat forms


def _dotenv(text: str) -> Iterator[dict[str, object]]:
    found = list(islice(_DOTENV_LINE.finditer(text), _MAX_LINES + 1))
    if len(found) > _MAX_LINES:
        raise DamagedArtifact(FORMAT, f"its metadata has more than {_MAX_LINES} lines")
    if found:
        yield _unflattened([(line[1], line[2].replace("\\n", "\n")) for line in found], text)


def _blocks(text: str, begin: re.Pattern[str], belongs: Callable[[str], bool]) -> Iterator[list[str]]:
    """The lines behind each place where `begin` is, as far as they belong to it."""
    for found in begin.finditer(text):
        at = found.end()
        lines: list[str] = []
        while at < len(text):
            end = text.find("\n", at)
            line = text[at : end if end >= 0 else len(text)]
            if not belongs(line):
                break
            if len(lines) == _MAX_LINES:
                raise DamagedArtifact(FORMAT, f"its metadata has more than {_MAX_LINES} lines")
            if len(line) > _MAX_LINE_CHARS:
                raise DamagedArtifact(FORMAT, f"a line of its metadata has {len(line)} characters, more than SOPS writes")
            lines.append(line)
            at += len(line) + 1
        yield lines


def _ini(text: str) -> Iterator[dict[str, object]]:
    for lines in _blocks(text, _INI_BEGIN, lambda line: not line.startswith("[")):
        pairs = []
        for line in lines:
            if not line.strip() or line.startswith(("#", ";")):
                continue
            quoted = _INI_QUOTED.match(line)
            name, equals, value = line[quoted.end() if quoted else 0 :].partition("=")
            if not equals or (quoted and name.strip()):
                raise DamagedArtifact(FORMAT, "a line of its section [sops] is no name and value")
            name, value = (quoted[quoted.lastindex or 0] if quoted else name.strip()), value.strip()
            pairs.append((name, value[1:-1] if len(value) > 1 and value[0] == value[-1] == "`" else value))
        yield _unflattened(pairs, text)


def _unflattened(pairs: Sequence[tuple[str, str]], text: str) -> dict[str, object]:
    if not text.endswith("\n"):
        raise DamagedArtifact(FORMAT, "its last line has no end: it is cut off")
    metadata: dict[str, object] = {}
    entries: dict[tuple[int, int], dict[str, object]] = {}
    others: dict[tuple[str | None, str], set[str]] = {}
    for name, value in pairs:
        found = _FLAT.fullmatch(name)
        if found is None:
            if (other := _FLAT_OTHER.fullmatch(name)) is not None:
                others.setdefault((other["group"], other["kind"]), set()).add(other["at"])
            else:
                metadata[name] = value
            continue
        place = (-1 if found["group"] is None else int(found["group"]), int(found["at"]))
        entry = entries.setdefault(place, {})
        if found["pair"] is None:
            entry[found["name"]] = value
            continue
        context = entry.setdefault("context", {})
        if not isinstance(context, dict):
            raise DamagedArtifact(FORMAT, f"{name}: its context is no map")
        context[found["pair"]] = value
    return metadata | _listed(entries, others)


def _listed(
    entries: Mapping[tuple[int, int], object], others: Mapping[tuple[str | None, str], Collection[str]]
) -> dict[str, object]:
    """As it is in the forms that are no flat ones; recipients of other kinds than KMS as mere places in their lists."""
    lists: dict[int, list[object]] = {}
    for group, at in sorted(entries):
        entry = entries[group, at]
        of_group = lists.setdefault(group, [])
        if at != len(of_group):
            raise DamagedArtifact(FORMAT, f"kms[{len(of_group)}] is missing")
        of_group.append(entry)
    metadata: dict[str, object] = {"kms": lists.pop(-1, [])}
    numbers = [*lists, *(int(number) for number, _ in others if number is not None)]
    # A group without KMS keys has no line of them here.
    groups: list[dict[str, object]] = [{"kms": lists.get(number, [])} for number in range(max(numbers, default=-1) + 1)]
    for (group_number, kind), places in others.items():
        (metadata if group_number is None else groups[int(group_number)])[kind] = list(places)
    return metadata | ({"key_groups": groups} if groups else {})


# --- YAML


@dataclass(frozen=True, slots=True)
class _Line:
    indent: int
    text: str


_KEY = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)'|([^\s"'#\[\]{}&*!|>%@`-][^\n]*?|-\S[^\n]*?)):(?:[ ]+(.*))?""")
_DASH = re.compile(r"-(?:( +)(.*))?")
_TEXT_BLOCK = re.compile(r"[|>][+-]?[1-9]?[+-]?")


def _yaml(text: str) -> Iterator[dict[str, object]]:
    """The metadata of each document in `text`."""
    for lines in _blocks(text, _YAML_BEGIN, lambda line: not line or line[0] in " \t#-"):
        reader = _Yaml([_Line(len(line) - len(line.lstrip(" ")), line.strip()) for line in lines if not line.startswith("---")])
        tree = reader.block(0)
        if not isinstance(tree, dict) or not reader.at_end:
            raise DamagedArtifact(FORMAT, "its metadata is not YAML as SOPS writes it")
        yield tree


class _Yaml:
    """Reads the lines of a block, with what SOPS writes of YAML in it."""

    def __init__(self, lines: list[_Line]) -> None:
        self._lines = lines
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._next() is None

    def _next(self) -> _Line | None:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.text and not line.text.startswith("#"):
                return line
            self._at += 1
        return None

    def block(self, depth: int) -> object:
        """The map or the list that begins with the next line."""
        if depth == _MAX_DEPTH:
            raise DamagedArtifact(FORMAT, f"its metadata is more than {_MAX_DEPTH} deep")
        first = self._next()
        if first is None:
            return None
        if _DASH.fullmatch(first.text):
            return self._list(first.indent, depth)
        return self._map(first.indent, depth)

    def _list(self, indent: int, depth: int) -> list[object]:
        items: list[object] = []
        while (line := self._next()) is not None and line.indent == indent:
            dash = _DASH.fullmatch(line.text)
            if dash is None:
                break
            if not dash[2]:
                self._at += 1
                items.append(self.block(depth + 1))
            elif _KEY.fullmatch(dash[2]) or _DASH.fullmatch(dash[2]):
                self._lines[self._at] = _Line(indent + 1 + len(dash[1]), dash[2])
                items.append(self.block(depth + 1))
            else:
                self._at += 1
                items.append(self._scalar(dash[2], indent))
        return items

    def _map(self, indent: int, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        while (line := self._next()) is not None and line.indent == indent and not _DASH.fullmatch(line.text):
            pair = _KEY.fullmatch(line.text)
            if pair is None:
                raise DamagedArtifact(FORMAT, "a line of its metadata is no name and value")
            name = _unescaped(pair[1]) if pair[1] is not None else pair[2].replace("''", "'") if pair[2] is not None else pair[3]
            if name in found:
                raise DamagedArtifact(FORMAT, "a name is twice in a map of its metadata")
            self._at += 1
            value = pair[4]
            if value and not value.startswith("#"):
                found[name] = self._scalar(value, indent)
                continue
            below = self._next()
            deeper = below is not None and (below.indent > indent or (below.indent == indent and below.text.startswith("-")))
            found[name] = self.block(depth + 1) if deeper else None
        return found

    def _scalar(self, text: str, indent: int) -> object:
        if _TEXT_BLOCK.fullmatch(text):
            return self._text(indent)
        if text[0] == '"' and len(text) > 1 and text[-1] == '"':
            return _unescaped(text[1:-1])
        if text[0] == "'" and len(text) > 1 and text[-1] == "'":
            return text[1:-1].replace("''", "'")
        if text[0] in "\"'&*!":
            raise DamagedArtifact(FORMAT, "a value of its metadata is not YAML as SOPS writes it")
        if text in ("[]", "{}", "null", "~"):
            return [] if text == "[]" else {} if text == "{}" else None
        plain = text.split(" #", 1)[0].rstrip()
        below = self._text(indent)  # Folded, by a writer other than SOPS 3.
        return f"{plain} {' '.join(below.split())}" if below else plain

    def _text(self, indent: int) -> str:
        """The lines that are deeper than `indent`."""
        lines = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.text and line.indent <= indent:
                break
            lines.append(line.text)
            self._at += 1
        return "\n".join(lines).rstrip("\n")


def _unescaped(text: str) -> str:
    try:
        value = orjson.loads(f'"{text}"')
    except orjson.JSONDecodeError as error:
        raise DamagedArtifact(FORMAT, "a quoted value of its metadata has escapes that JSON has not") from error
    if not isinstance(value, str):
        raise DamagedArtifact(FORMAT, "a quoted value of its metadata is no string")
    return value
