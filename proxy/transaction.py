"""The inside of a change: a transaction that sees the database as it is now, and seals what it writes."""

from __future__ import annotations

import orjson

from proxy.sealing import Body, Entry, Row, Seal, Secret
from proxy.store_database import INSERT, SELECT, Session, Values, set_number

#: Above this many tombstones the older half is forgotten; a reader that is further behind is given everything anew.
MOST_TOMBSTONES = 4096

_ONE = "WHERE kind = ? AND region = ? AND id = ? AND deleted = 0"
_BELOW = "WHERE kind = ? AND region = ? AND parent >= ? AND parent < ? AND parent != '' AND deleted = 0"
_CHILDREN = "WHERE kind = ? AND region = ? AND parent = ? AND parent != '' AND deleted = 0"
_COUNT = "SELECT count(*) FROM entries "
_LAST = "\U0010ffff"  # sorts behind every character of a name


def find(session: Session, seal: Seal, kind: str, region: str, name: str) -> Entry | None:
    """The row, or None where there is none or only a tombstone."""
    found = session.rows(SELECT + _ONE, (kind, region, name))
    return Entry(Row.of(found[0]), seal) if found else None


class Transaction:
    """The inside of `SealedStore.change`: sees the database's state of now, and its own writes."""

    def __init__(self, session: Session, seal: Seal, generation: int) -> None:
        self._session = session
        self._seal = seal
        self.generation = generation
        self.wrote = False

    def get(self, kind: str, region: str, name: str) -> Entry | None:
        """The row, or None where there is none or only a tombstone."""
        return find(self._session, self._seal, kind, region, name)

    def all(self, kind: str, region: str) -> tuple[Entry, ...]:
        """Every row of a kind in a region."""
        return self._entries("WHERE kind = ? AND region = ? AND deleted = 0", (kind, region))

    def children(self, kind: str, region: str, parent: str) -> tuple[Entry, ...]:
        """The rows of `kind` that belong to `parent`."""
        return self._entries(_CHILDREN, (kind, region, parent))

    def count_children(self, kind: str, region: str, parent: str) -> int:
        """How many rows of `kind` belong to `parent`."""
        return int(self._session.rows(_COUNT + _CHILDREN, (kind, region, parent))[0][0])

    def children_below(self, kind: str, region: str, prefix: str) -> tuple[Entry, ...]:
        """The rows of `kind` whose parents begin with `prefix`, in the order of the rows' ids."""
        return self._entries(_BELOW + " ORDER BY id", (kind, region, prefix, prefix + _LAST))

    def count_children_below(self, kind: str, region: str, prefix: str) -> int:
        """How many rows of `kind` have parents that begin with `prefix`."""
        return int(self._session.rows(_COUNT + _BELOW, (kind, region, prefix, prefix + _LAST))[0][0])

    def put(self, kind: str, region: str, name: str, body: Body, secret: Secret | None = None, parent: str = "") -> None:
        """Write a row whole, new or not: a secret that is to stay must be given again."""
        self._write(kind, region, name, parent, 0, orjson.dumps(body), b"" if secret is None else secret.reveal())

    def delete(self, kind: str, region: str, name: str) -> None:
        """Leave a tombstone: the row's name and generation, nothing of its content."""
        self._write(kind, region, name, "", 1, b"{}", b"")

    def _write(self, kind: str, region: str, name: str, parent: str, deleted: int, body: bytes, secret: bytes) -> None:
        if "\0" in region or "\0" in name or "\0" in parent:
            raise ValueError("a NUL in the name of a row")
        row = self._seal.close(Row(kind, region, name, parent, self.generation, deleted, body, b""), secret)
        self._session.write(INSERT, row)
        self.wrote = True

    def forget(self, kind: str, upto: int) -> tuple[Entry, ...]:
        """Remove the rows of `kind` up to a generation without tombstones, so that no reader hears of it; returns them."""
        old = "WHERE kind = ? AND generation <= ?"
        found = self._entries(old, (kind, upto))
        self._session.write("DELETE FROM entries " + old, (kind, upto))  # noqa: S608 - both parts stand here
        return found

    def _entries(self, where: str, arguments: Values) -> tuple[Entry, ...]:
        return tuple(Entry(Row.of(row), self._seal) for row in self._session.rows(SELECT + where, arguments))

    def finish(self) -> None:
        """Stamp the store with this generation, and forget the older half of the tombstones when there are too many."""
        set_number(self._session, "generation", self.generation)
        ((tombstones,),) = self._session.rows("SELECT count(*) FROM entries WHERE deleted = 1")
        if tombstones > MOST_TOMBSTONES:
            oldest = "SELECT generation FROM entries WHERE deleted = 1 ORDER BY generation LIMIT 1 OFFSET ?"
            ((limit,),) = self._session.rows(oldest, (tombstones // 2,))
            self._session.write("DELETE FROM entries WHERE deleted = 1 AND generation <= ?", (limit,))
            set_number(self._session, "pruned", limit)
