"""SOPS files: the data key of the file, as each KMS key of its metadata wraps it. Pure.

    JSON, YAML:   "sops": {"kms": [{"arn", "role", "context": {…}, "created_at", "enc", "aws_profile"}, …], "mac", "version", …};
                  of a key that is split among groups: "sops": {"key_groups": [{"kms": […], …}, …], "shamir_threshold", …}
    dotenv:       sops_kms__list_0__map_enc=…, sops_kms__list_0__map_context__map_NAME=…, sops_key_groups__list_0__map_kms__…
    INI:          the same names without "sops_" in the section [sops], in any order

``enc`` is the CiphertextBlob in base64. SOPS writes its metadata last, and ``mac``, ``version`` and ``lastmodified`` always.
Rules kept:

- A file without these three is cut off: what was read of it could be half a blob, whose fingerprint would never be found.
- Of YAML only what SOPS writes is read: maps, lists, scalars on one line, quoted or not, and blocks of text.

Source: github.com/getsops/sops, stores/stores.go (Metadata, kmskey), stores/flatten.go; files that sops 3.11 wrote.

Limit: one of more than `MAX_PIECE_BYTES` is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import from_base64

FORMAT = "SOPS"

#: How each value that SOPS encrypted begins; the MAC is one.
_MARK = b"ENC[AES256_GCM,"
_ALWAYS = ("lastmodified", "mac", "version")
_MAX_LINES = 200_000
_MAX_DEPTH = 16

_YAML_BLOCK = re.compile(r"^sops:[ \t]*\n((?:[ \t#-][^\n]*(?:\n|\Z)|\n)*)", re.MULTILINE)
_DOTENV_LINE = re.compile(r"^sops_([^=\n]+)=([^\n]*)$", re.MULTILINE)
_INI_SECTION = re.compile(r"^\[sops\][ \t]*\n((?:(?!\[)[^\n]*(?:\n|\Z))*?)(?=^\[|\Z)", re.MULTILINE)
_INI_QUOTED = re.compile(r'"""(.+?)"""|`([^`]+)`|"([^"]+)"')
_FLAT = re.compile(
    r"(?:key_groups__list_(?P<group>\d{1,4})__map_)?kms__list_(?P<at>\d{1,4})__map_(?:context__map_(?P<pair>.+)|(?P<name>\w+))"
)


def read_sops(artifact: Artifact) -> list[WrappedKey] | None:
    """The data key, once for each KMS key that wraps it; none for a file whose key other means wrap (age, PGP)."""
    if not 0 < artifact.size_bytes <= MAX_PIECE_BYTES:
        return None
    content = artifact.read(0, artifact.size_bytes)
    if _MARK not in content or b"sops" not in content:
        return None
    if content.lstrip().startswith(b"{"):
        found = _json(content)
        return None if found is None else _keys(found)
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    trees = list(_yaml(text)) or list(_ini(text)) or list(_dotenv(text))
    if not trees:
        return None
    keys = [key for tree in trees for key in _keys(tree)]
    return list({(key.where, key.fingerprint): key for key in keys}.values())


def _json(content: bytes) -> Mapping[str, object] | None:
    if b'"sops"' not in content:
        return None
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DamagedArtifact(FORMAT, f"it is JSON that is broken at byte {error.pos}") from error
    metadata = document.get("sops") if isinstance(document, dict) else None
    return metadata if isinstance(metadata, dict) else None


def _keys(metadata: Mapping[str, object]) -> list[WrappedKey]:
    missing = [name for name in _ALWAYS if not isinstance(metadata.get(name), str)]
    if missing:
        raise DamagedArtifact(FORMAT, f"its metadata has no {' and no '.join(missing)}: it is cut off")
    entries = [(f"sops.kms[{at}]", entry) for at, entry in enumerate(_list(metadata, "kms"))]
    groups = _list(metadata, "key_groups")
    for number, group in enumerate(groups):
        place = f"sops.key_groups[{number}]"
        if not isinstance(group, dict):
            raise DamagedArtifact(FORMAT, f"{place} is no map")
        entries += ((f"{place}.kms[{at}]", entry) for at, entry in enumerate(_list(group, "kms")))
    if len(entries) > MAX_KEYS:
        raise DamagedArtifact(FORMAT, f"it has more than {MAX_KEYS} keys")
    threshold = metadata.get("shamir_threshold")
    share = f"a share of the data key: {threshold} of {len(groups)} groups are needed" if len(groups) > 1 else None
    return [_key(where, entry, share if "key_groups" in where else None) for where, entry in entries]


def _list(tree: Mapping[str, object], name: str) -> list[object]:
    value = tree.get(name)
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise DamagedArtifact(FORMAT, f"{name} is no list")
    return value


def _key(where: str, entry: object, note: str | None) -> WrappedKey:
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
    notes = [note] if note else []
    if role:
        notes.append(f"unwrapped in the role {role}")
    return WrappedKey.of(blob, FORMAT, where, key=arn, context=context or None, note="; ".join(notes) or None)


def _is_context(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


# --- The flat forms


def _dotenv(text: str) -> Iterator[dict[str, object]]:
    pairs = [(found[1], found[2].replace("\\n", "\n")) for found in _DOTENV_LINE.finditer(text)]
    if pairs:
        yield _unflattened(pairs, text)


def _ini(text: str) -> Iterator[dict[str, object]]:
    for section in _INI_SECTION.finditer(text):
        pairs = []
        for line in section[1].splitlines():
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
    for name, value in pairs:
        found = _FLAT.fullmatch(name)
        if found is None:
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
    return metadata | _listed(entries)


def _listed(entries: Mapping[tuple[int, int], object]) -> dict[str, object]:
    lists: dict[int, list[object]] = {}
    for group, at in sorted(entries):
        entry = entries[group, at]
        of_group = lists.setdefault(group, [])
        if at != len(of_group):
            raise DamagedArtifact(FORMAT, f"kms[{len(of_group)}] is missing")
        of_group.append(entry)
    kms = lists.pop(-1, [])
    # A group without KMS keys has no line here.
    groups = [{"kms": lists.get(number, [])} for number in range(max(lists, default=-1) + 1)]
    return {"kms": kms} | ({"key_groups": groups} if groups else {})


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
    for block in _YAML_BLOCK.finditer(text):
        lines = block[1].split("\n", _MAX_LINES)
        if len(lines) > _MAX_LINES:
            raise DamagedArtifact(FORMAT, f"its metadata has more than {_MAX_LINES} lines")
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
