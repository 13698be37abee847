"""Grants in memory, kept so that finding those of a key to a grantee takes as long among 100,000 as among ten.

A service may make tens of thousands of grants on one key to one grantee, which differ by the encryption context that they ask
for. So a grant is filed under an *anchor* as well: something that every call's context has that meets its constraints. A call
looks under the few anchors that its context has.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator

from proxy.backends.local.grants import Constraints, Context, Grant, grant_of
from proxy.backends.local.keys import Key
from proxy.backends.local.principals import known_as
from proxy.sealed_store import Entry

_Grants = dict[str, Grant]  # by id
_Index = dict[tuple[object, ...], _Grants]
_ANY = ("any",)


class GrantTable:
    """All grants: by region and id, key, grantee, retiring principal."""

    def __init__(self) -> None:
        self._where: dict[tuple[str, str], Grant] = {}
        self._of_key: _Index = {}
        self._to: _Index = {}
        self._anchored: _Index = {}
        self._retirable: _Index = {}
        self._order: dict[tuple[str, str], list[str]] = {}  # ids, of the keys whose grants were listed

    def put(self, entry: Entry) -> None:
        self.drop(entry.region, entry.id)
        grant = grant_of(entry)
        self._where[(grant.region, grant.id)] = grant
        for index, place in self._places(grant):
            index.setdefault(place, {})[grant.id] = grant
        if (order := self._order.get((grant.region, grant.key_id))) is not None:
            insort(order, grant.id)

    def drop(self, region: str, id: str) -> None:
        grant = self._where.pop((region, id), None)
        if grant is None:
            return
        for index, place in self._places(grant):
            grants = index[place]
            del grants[id]
            if not grants:
                del index[place]
        if (order := self._order.get((region, grant.key_id))) is not None:
            del order[bisect_right(order, id) - 1]

    def clear(self) -> None:
        for index in (self._where, self._of_key, self._to, self._anchored, self._retirable, self._order):
            index.clear()

    def _places(self, grant: Grant) -> Iterator[tuple[_Index, tuple[object, ...]]]:
        key, grantee = (grant.region, grant.key_id), known_as(grant.grantee)
        yield self._of_key, key
        yield self._to, (*key, grantee)
        yield self._anchored, (*key, grantee, _anchor(grant.limits))
        if grant.retiring is not None:
            yield self._retirable, (grant.region, known_as(grant.retiring))

    def find(self, region: str, grant_id: str) -> Grant | None:
        return self._where.get((region, grant_id))

    def of(self, key: Key, after: str = "") -> Iterator[Grant]:
        """The key's grants in the order of their ids, behind `after`."""
        place = (key.region, key.id)
        order = self._order.get(place)
        if order is None:
            order = self._order[place] = sorted(self._of_key.get(place, ()))
        return (self._where[(key.region, order[i])] for i in range(bisect_right(order, after), len(order)))

    def to(self, key: Key, grantee: str, context: Context | None) -> Iterator[Grant]:
        """The key's grants to this grantee, as `known_as` names it; with a context, those at least whose constraints it meets."""
        place = (key.region, key.id, grantee)
        if context is None:
            yield from self._to.get(place, {}).values()
        elif place in self._to:
            for anchor in _anchors(context):
                yield from self._anchored.get((*place, anchor), {}).values()

    def retirable(self, region: str, retiring: str) -> Iterable[Grant]:
        """The grants on all keys that this principal may retire, as `known_as` names it, in the order of their ids."""
        grants = self._retirable.get((region, retiring), {})
        return (grants[grant_id] for grant_id in sorted(grants))


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
