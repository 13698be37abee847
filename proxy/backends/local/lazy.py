"""Rows that become values when they are first looked into."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from proxy.sealed_store import Entry

V = TypeVar("V")


class Lazy(Generic[V]):
    """A row that becomes its value, by `read`, when that is first asked for. Raises SealBroken then, each time."""

    __slots__ = ("_held", "_read")

    def __init__(self, entry: Entry, read: Callable[[Entry], V]) -> None:
        self._held: Entry | V = entry
        self._read = read

    @property
    def value(self) -> V:
        held = self._held
        if isinstance(held, Entry):
            held = self._held = self._read(held)
        return held


class LazyMap(Mapping[str, V]):
    """Values by name, each read from its row when it is first asked for; also in the order of the names."""

    def __init__(self) -> None:
        self._rows: dict[str, Lazy[V]] = {}
        self._order: list[str] | None = None  # of the names, from when it is first asked for

    def __getitem__(self, name: str) -> V:
        return self._rows[name].value

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, name: str, row: Lazy[V]) -> None:
        if self._order is not None and name not in self._rows:
            insort(self._order, name)
        self._rows[name] = row

    def drop(self, name: str) -> None:
        if self._rows.pop(name, None) is not None and self._order is not None:
            del self._order[bisect_left(self._order, name)]

    def after(self, name: str) -> Iterable[V]:
        """The values in the order of their names, behind `name`."""
        order = self.in_order()
        return (self[order[i]] for i in range(bisect_right(order, name), len(order)))

    def in_order(self) -> list[str]:
        """The names, for reading. The first time costs the sorting of them all."""
        if self._order is None:
            self._order = sorted(self._rows)
        return self._order
