"""The part of CBOR that attestation documents are written in, read strictly (RFC 8949).

Whole numbers, byte and text strings, arrays, maps, null, and the tag of COSE_Sign1. Of what the format allows, only the shortest
form is read (§4.2.1, but for the order of keys): definite lengths, no member twice, nothing after the end. A general decoder
would also make dates, regular expressions and decimals of the caller's bytes; none of them has a place here.
"""

from __future__ import annotations

from typing import TypeAlias

from proxy.errors import ProxyError

Value: TypeAlias = "int | bytes | str | list[Value] | dict[int | str, Value] | None"

COSE_SIGN1 = 18
MAX_DEPTH = 4
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_NULL = 22


class NotCbor(ProxyError):
    """The bytes are not what a strict writer of this format makes."""


def read(data: bytes) -> Value:
    """The one value that `data` is. Tag 18 at its start is passed over. Raises NotCbor."""
    reader = _Reader(data)
    value = reader.value(MAX_DEPTH, may_have_tag=True)
    if reader.at != len(data):
        raise NotCbor("something follows the end")
    return value


class _Reader:
    """A place in `data`, moved forward by what is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def value(self, depth: int, *, may_have_tag: bool = False) -> Value:
        if depth == 0:
            raise NotCbor("nested too deep")
        kind, argument = self._head()
        if kind == _UNSIGNED:
            return argument
        if kind == _NEGATIVE:
            return -1 - argument
        if kind == _BYTES:
            return self._take(argument)
        if kind == _TEXT:
            return self._text(argument)
        if kind == _ARRAY:
            return [self.value(depth - 1) for _ in range(self._counted(argument))]
        if kind == _MAP:
            return self._map(argument, depth - 1)
        if kind == _TAG and argument == COSE_SIGN1 and may_have_tag:
            return self.value(depth)
        if kind == _SIMPLE and argument == _NULL:
            return None
        raise NotCbor(f"a value of a kind that has no place here ({kind}, {argument})")

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        kind, short = first >> 5, first & 0x1F
        if short < 24:
            return kind, short
        if short > 27 or kind == _SIMPLE:
            raise NotCbor("an indefinite length, or a value of a kind that has no place here")
        size = 1 << (short - 24)
        argument = int.from_bytes(self._take(size), "big")
        if argument < (24 if size == 1 else 1 << (4 * size)):
            raise NotCbor("a number in a longer form than it needs")
        return kind, argument

    def _take(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) != count:
            raise NotCbor("it ends too early")
        self.at += count
        return taken

    def _counted(self, count: int) -> int:
        """`count` items to come, each of which is a byte at least."""
        if count > len(self._data) - self.at:
            raise NotCbor("it ends too early")
        return count

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise NotCbor("text that is not UTF-8") from None

    def _map(self, count: int, depth: int) -> dict[int | str, Value]:
        members: dict[int | str, Value] = {}
        for _ in range(self._counted(count)):
            key = self.value(depth)
            if not isinstance(key, int | str):
                raise NotCbor("a key that is neither a number nor text")
            if key in members:
                raise NotCbor("a member stands twice")
            members[key] = self.value(depth)
        return members
