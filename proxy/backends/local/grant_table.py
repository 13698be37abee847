"""Grants in memory, kept so that finding those of a key to a grantee takes as long among 100,000 as among ten.

A service may make tens of thousands of grants on one key to one grantee, which differ by the encryption context that they ask
for. So a grant is filed under an *anchor* as well: something that every call's context has that meets its constraints. A call
looks under the few anchors that its context has.

Most keys of a large store rest. So the grants of a key stay rows, found by the key and the retiring principal, until a call first
asks what they let somebody do; then they are opened and filed, which a call never waits for long: where a key has more than
`MOST_RESTING`, that is done when they are loaded. A grant that another hand changed lets nobody do anything.
"""

from __future__ import annotations

import logging
from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import TypeVar

from proxy.backends.local.grants import Constraints, Context, Grant, grant_of
from proxy.backends.local.keys import Key
from proxy.backends.local.lazy import Lazy
from proxy.errors import SealBroken
from proxy.kms.principals import known_as
from proxy.sealed_store import Entry

_log = logging.getLogger(__name__)
MOST_RESTING = 64
Place = TypeVar("Place")
V = TypeVar("V")
_Grants = dict[str, Grant]  # by id
_Index = dict[tuple[object, ...], _Grants]
_ANY = ("any",)


class _HeldGrant(Lazy[Grant]):
    """A grant's row, with the key that it is on and who may retire it, as it claims."""

    __slots__ = ("key_id", "retiring")

    def __init__(self, entry: Entry) -> None:
        """Raises ValueError where the row claims nothing that can be read."""
        super().__init__(entry, grant_of)
        try:
            retiring = entry.claimed["retiring"]
            self.retiring = None if retiring is None else known_as(retiring)
        except (LookupError, TypeError, AttributeError) as fault:
            raise ValueError(f"{type(fault).__name__}: {fault}") from fault
        self.key_id = entry.parent.partition(" ")[0]

    @property
    def sound(self) -> Grant | None:
        """The grant, or None where another hand changed it."""
        try:
            return self.value
        except SealBroken as fault:
            _log.error("a grant on the key %s is none: %s", self.key_id, fault)
            return None


_Held = dict[str, _HeldGrant]  # by id


class GrantTable:
    """All grants: by region and id, key, grantee, retiring principal."""

    def __init__(self) -> None:
        self._where: dict[tuple[str, str], _HeldGrant] = {}
        self._of_key: dict[tuple[str, str], _Held] = {}
        self._retirable: dict[tuple[str, str], _Held] = {}
        self._awake: set[tuple[str, str]] = set()  # the keys whose grants are in the two indices that follow
        self._to: _Index = {}
        self._anchored: _Index = {}
        self._order: dict[tuple[str, str], list[str]] = {}  # ids, of the keys whose grants were listed

    def put(self, entry: Entry) -> None:
        region, id = entry.region, entry.id
        self.drop(region, id)
        try:
            held = _HeldGrant(entry)
        except ValueError as fault:
            _log.error("the row of the grant %s cannot be read: %s", id, fault)
            return
        place = (region, held.key_id)
        self._where[(region, id)] = held
        self._of_key.setdefault(place, {})[id] = held
        if held.retiring is not None:
            self._retirable.setdefault((region, held.retiring), {})[id] = held
        if (order := self._order.get(place)) is not None:
            insort(order, id)
        if place in self._awake:
            self._file(place, held)
        elif len(self._of_key[place]) > MOST_RESTING:
            self._wake(place)

    def drop(self, region: str, id: str) -> None:
        held = self._where.pop((region, id), None)
        if held is None:
            return
        place = (region, held.key_id)
        if place in self._awake and (grant := held.sound) is not None:
            for index, at in self._places(place, grant):
                _remove(index, at, id)
        if held.retiring is not None:
            _remove(self._retirable, (region, held.retiring), id)
        _remove(self._of_key, place, id)
        if place not in self._of_key:
            self._awake.discard(place)
        if (order := self._order.get(place)) is not None:
            del order[bisect_right(order, id) - 1]

    def clear(self) -> None:
        for index in (self._where, self._of_key, self._retirable, self._awake, self._to, self._anchored, self._order):
            index.clear()

    def _wake(self, place: tuple[str, str]) -> None:
        self._awake.add(place)
        for held in self._of_key[place].values():
            self._file(place, held)

    def _file(self, place: tuple[str, str], held: _HeldGrant) -> None:
        if (grant := held.sound) is not None:
            for index, at in self._places(place, grant):
                index.setdefault(at, {})[grant.id] = grant

    def _places(self, place: tuple[str, str], grant: Grant) -> Iterator[tuple[_Index, tuple[object, ...]]]:
        grantee = known_as(grant.grantee)
        yield self._to, (*place, grantee)
        yield self._anchored, (*place, grantee, _anchor(grant.limits))

    def find(self, region: str, grant_id: str) -> Grant | None:
        held = self._where.get((region, grant_id))
        return None if held is None else held.sound

    def of(self, key: Key, after: str = "") -> Iterator[Grant]:
        """The key's grants in the order of their ids, behind `after`."""
        place = (key.region, key.id)
        order = self._order.get(place)
        if order is None:
            order = self._order[place] = sorted(self._of_key.get(place, ()))
        held = (self._where[(key.region, order[i])] for i in range(bisect_right(order, after), len(order)))
        return (grant for one in held if (grant := one.sound) is not None)

    def ids_of(self, region: str, key_id: str) -> tuple[str, ...]:
        """The ids of the key's grants, none of which is looked into."""
        return tuple(self._of_key.get((region, key_id), ()))

    def to(self, key: Key, grantee: str, context: Context | None) -> Iterator[Grant]:
        """The key's grants to this grantee, as `known_as` names it; with a context, those at least whose constraints it meets."""
        of_key = (key.region, key.id)
        if of_key not in self._awake and of_key in self._of_key:
            self._wake(of_key)
        place = (*of_key, grantee)
        if context is None:
            yield from self._to.get(place, {}).values()
        elif place in self._to:
            for anchor in _anchors(context):
                yield from self._anchored.get((*place, anchor), {}).values()

    def retirable(self, region: str, retiring: str) -> Iterator[Grant]:
        """The grants on all keys that this principal may retire, as `known_as` names it, in the order of their ids."""
        held = self._retirable.get((region, retiring), {})
        return (grant for grant_id in sorted(held) if (grant := held[grant_id].sound) is not None)


def _remove(index: dict[Place, dict[str, V]], place: Place, id: str) -> None:
    held = index[place]
    del held[id]
    if not held:
        del index[place]


def _anchor(limits: Constraints) -> tuple[object, ...]:
    if limits.equals is not None:
        return ("equals", limits.equals)
    return ("has", limits.subset[0]) if limits.subset else _ANY


def _anchors(context: Context) -> Iterator[tuple[object, ...]]:
    """Every anchor of constraints that this context may meet."""
    yield _ANY
    yield "equals", context
    for pair in dict.fromkeys(context):
        yield "has", pair
