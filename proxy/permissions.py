"""Identity policies: what the users and roles of this keytrail may do, as documents in the sealed store.

They belong to a user or a role, not to an access key: a role's are those of all its sessions. Whoever has no row has the built-in
`KMSFullAccess`, which is what every caller could do before there were policies. Whoever has a row has what stands in it, be it
nothing: taking the last policy away never gives more. A row is whole: all of an owner's policies, in the order of their names.

What one process changes is seen by the next `of` of every other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.errors import SetupError
from proxy.kms.principals import Kind, parse_principal
from proxy.sealed_store import SealedStore, Transaction

FULL_ACCESS = "KMSFullAccess"
FULL_ACCESS_DOCUMENT = """{
  "Version" : "2012-10-17",
  "Statement" : [ {
    "Sid" : "KMSFullAccess",
    "Effect" : "Allow",
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}"""
BUILT_IN: Mapping[str, str] = MappingProxyType({FULL_ACCESS: FULL_ACCESS_DOCUMENT})

#: IAM's limits: of managed policies on a user or role, and of the characters in one, blanks not counted.
MOST_POLICIES, MOST_CHARACTERS = 10, 6_144

_KIND = "permissions"
_NO_REGION = ""
_NAME = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Held:
    """All identity policies, by owner (ARN of a user or role, the latter without path) and name, as of one moment."""

    by_owner: Mapping[str, Mapping[str, str]]

    def of(self, owner: str) -> Mapping[str, str]:
        return self.by_owner.get(owner, BUILT_IN)


class Permissions:
    """The identity policies in a sealed store. May be used from any thread; every change is durable when it returns, and `note`
    is told of it within its transaction."""

    def __init__(self, store: SealedStore, note: Callable[[Transaction], None] = lambda tx: None) -> None:
        self._note = note
        self._store = store
        self._lock = threading.Lock()
        self._generation = 0
        self._seen: int | None = None
        self._held = Held({})

    def held(self) -> Held:
        """Those of now; a comparison as long as nothing has changed. Raises SealBroken, StoreFailed."""
        if self._store.published != self._seen:
            with self._lock:
                self._load()
        return self._held

    def _load(self) -> None:
        published = self._store.published  # before the rows: no news is lost
        if published == self._seen:
            return
        changes = self._store.changes_since(self._generation, (_KIND,))
        if changes.entries or changes.complete:
            by_owner = {} if changes.complete else dict(self._held.by_owner)
            for entry in changes.entries:
                if entry.deleted:
                    by_owner.pop(entry.id, None)
                else:
                    by_owner[entry.id] = MappingProxyType(entry.body["policies"])
            if by_owner != self._held.by_owner:
                self._held = Held(by_owner)
        self._generation = changes.generation
        self._seen = published

    def put(self, owner: str, name: str, document: str) -> None:
        """Give `owner` the policy `name`, or another text of it; the built-in one goes. Raises SetupError for a bad name, or too
        many or too large policies; what the document says is for its caller to have checked."""
        if not _NAME.fullmatch(name) or name == FULL_ACCESS:
            raise SetupError(
                f"{name!r} cannot be the name of a policy: up to 128 letters, digits and +=,.@_-, and not {FULL_ACCESS}"
            )
        size = sum(not character.isspace() for character in document)
        if size > MOST_CHARACTERS:
            raise SetupError(f"{name} has {size} characters; a policy may have {MOST_CHARACTERS}, blanks not counted")
        _check_owner(owner)
        with self._store.change() as tx:
            policies = {**_policies(tx, owner), name: document}
            if len(policies) > MOST_POLICIES:
                raise SetupError(f"{owner} has {MOST_POLICIES} policies, the most there can be")
            _put(tx, owner, policies)
            self._note(tx)

    def remove(self, owner: str, name: str) -> None:
        """Take the policy `name` from `owner`, be it the built-in one. Raises SetupError where it has none of that name."""
        with self._store.change() as tx:
            entry = tx.get(_KIND, _NO_REGION, owner)
            policies = dict(BUILT_IN if entry is None else entry.body["policies"])
            if policies.pop(name, None) is None:
                raise SetupError(f"{owner} has no policy {name}")
            _put(tx, owner, policies)
            self._note(tx)

    def reset(self, owner: str) -> None:
        """Give `owner` the built-in policy, and no other."""
        _check_owner(owner)
        with self._store.change() as tx:
            if tx.get(_KIND, _NO_REGION, owner) is not None:
                tx.delete(_KIND, _NO_REGION, owner)
                self._note(tx)


def _check_owner(owner: str) -> None:
    found = parse_principal(owner)
    if found is None or not (found.kind is Kind.USER or (found.kind is Kind.ROLE and found.role == owner)):
        raise SetupError(f"{owner!r} is not the ARN of a user or a role, and of no session of one")


def _policies(tx: Transaction, owner: str) -> dict[str, str]:
    entry = tx.get(_KIND, _NO_REGION, owner)
    return {} if entry is None else dict(entry.body["policies"])


def _put(tx: Transaction, owner: str, policies: Mapping[str, str]) -> None:
    tx.put(_KIND, _NO_REGION, owner, {"policies": {name: policies[name] for name in sorted(policies)}})
