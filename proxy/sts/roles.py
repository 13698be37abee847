"""Roles: which there are, and who may assume them.

A role is a row of the sealed store: its ARN, its trust policy (`proxy.policy.trust`), and how long its sessions may last. What is
changed here is seen by the next AssumeRole of every worker. A role that is removed takes its sessions with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from proxy.callers import CALLER, NO_REGION, ROLE, SESSION, new_id, role_row
from proxy.errors import SetupError
from proxy.kms.principals import Kind, parse_principal
from proxy.policy import trust
from proxy.policy.patterns import PatternError
from proxy.sealed_store import Entry, SealedStore, Transaction

#: What finds a row by kind, region and id.
Find: TypeAlias = Callable[[str, str, str], Entry | None]
#: IAM: how long a role's sessions may last at most, by the role.
LEAST_MAX_SESSION_S, MOST_MAX_SESSION_S = 3_600, 43_200


@dataclass(frozen=True, slots=True)
class Role:
    """A role. `trust` is the text of its trust policy; `created_s` is seconds since the epoch."""

    arn: str
    account_id: str
    name: str
    role_id: str  # AROA…
    trust: str
    max_session_s: int
    created_s: float


class Roles:
    """The roles in a sealed store. Every change is durable when it returns; `note` is told of each within its transaction.
    `clock` gives seconds since the epoch."""

    def __init__(
        self,
        store: SealedStore,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        note: Callable[[Transaction], None] = lambda tx: None,
    ) -> None:
        self._note = note
        self._store = store
        self._clock = clock
        self._random = random

    def add(self, arn: str, trust_policy: str, max_session_s: int = LEAST_MAX_SESSION_S, *, replace: bool = False) -> Role:
        """A role, or with `replace` another trust policy and duration for one that is there; its sessions go on then.

        Raises SetupError, also where the policy cannot be read.
        """
        account_id, name = _read_arn(arn)
        if not LEAST_MAX_SESSION_S <= max_session_s <= MOST_MAX_SESSION_S:
            raise SetupError(f"a session may last from {LEAST_MAX_SESSION_S} to {MOST_MAX_SESSION_S} seconds")
        try:
            trust.read(trust_policy)
        except PatternError as error:
            raise SetupError(f"the trust policy cannot be used: {error}") from error
        with self._store.change() as tx:
            known = find_role(tx.get, account_id, name)
            if known is not None and (known.arn != arn or not replace):
                raise SetupError(f"there is the role {known.arn} already; --replace gives it another trust policy")
            role = Role(
                arn,
                account_id,
                name,
                known.role_id if known is not None else self._role_id(tx, account_id, name),
                trust_policy,
                max_session_s,
                known.created_s if known is not None else self._clock(),
            )
            body = {
                "arn": role.arn,
                "account": role.account_id,
                "name": role.name,
                "role_id": role.role_id,
                "trust": role.trust,
                "max_session_s": role.max_session_s,
                "created_s": role.created_s,
            }
            tx.put(ROLE, NO_REGION, role_row(account_id, name), body)
            self._note(tx)
            return role

    def remove(self, arn: str) -> Role:
        """There is no such role any more, and its sessions end. Raises SetupError where there was none."""
        account_id, name = _read_arn(arn)
        with self._store.change() as tx:
            role = find_role(tx.get, account_id, name)
            if role is None or role.arn != arn:
                raise SetupError(f"there is no role {arn}")
            for session in tx.children(SESSION, NO_REGION, role_row(account_id, name)):
                tx.delete(SESSION, NO_REGION, session.id)
            tx.delete(ROLE, NO_REGION, role_row(account_id, name))
            self._note(tx)
            return role

    def list(self) -> tuple[Role, ...]:
        """Every role, in the order of ARNs."""
        entries = self._store.changes_since(0, (ROLE,)).entries
        return tuple(sorted(map(_role, entries), key=lambda role: role.arn))

    def _role_id(self, tx: Transaction, account_id: str, name: str) -> str:
        """That of a role session among the callers, if there is one of this role."""
        for entry in tx.all(CALLER, NO_REGION):
            body = entry.body
            if body["account"] == account_id and f":assumed-role/{name}/" in body["arn"]:
                return str(body["principal_id"]).partition(":")[0]
        return new_id("AROA", self._random)


def find_role(find: Find, account_id: str, name: str) -> Role | None:
    entry = find(ROLE, NO_REGION, role_row(account_id, name))
    return None if entry is None else _role(entry)


@lru_cache(maxsize=256)
def trust_policy_of(text: str) -> trust.TrustPolicy:
    """The policy in `text`, which was read before it was stored."""
    return trust.read(text)


def _role(entry: Entry) -> Role:
    body = entry.body
    return Role(
        body["arn"], body["account"], body["name"], body["role_id"], body["trust"], body["max_session_s"], body["created_s"]
    )


def _read_arn(arn: str) -> tuple[str, str]:
    """Account and name. Raises SetupError."""
    found = parse_principal(arn)
    if found is None or found.kind is not Kind.ROLE:
        raise SetupError(f"{arn!r} is not the ARN of a role: it must be arn:aws:iam::ACCOUNT:role/NAME")
    return found.account_id, found.name
