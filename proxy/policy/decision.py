"""The decision of the embedded KMS on one action, by the key's policy and by the caller's own: `Case.decide`. Pure.

As IAM decides: an explicit Deny of either side wins. Then, where key and caller are of one account, the key policy may allow the
caller itself, or leave it to the account, whose identity policies then have to allow it. Where they are of two accounts, both
sides have to. An operation about no key is for the identity policies alone.

A `Case` is what is left of the policies for one caller, action and resource: who, what and where are looked at once, when it is
made; `settled` is the verdict where no condition has to be looked at. In doubt (a policy variable without a value, an address
that is not known) a Deny applies and an Allow does not, as with guardrails. A condition key that a request does not have is
absent, also where AWS could have it and this KMS never does: nobody calls here by an endpoint of a VPC.

Source: IAM user guide, "Policy evaluation logic"; AWS KMS developer guide, "Determining access to AWS KMS keys".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import NamedTuple

from proxy.domain import AllowedBy
from proxy.policy import at_hand
from proxy.policy.access import Access
from proxy.policy.asked import NO_VALUE, Asked
from proxy.policy.document import Document, Statement
from proxy.policy.patterns import MAYBE, YES, LookUp
from proxy.policy.principals import Names

#: The name of a key's policy in records.
KEY_POLICY = "key policy"


class Refused(Enum):
    """Why not: which side denies, or does not allow."""

    IDENTITY_DENIES = "explicit deny in an identity-based policy"
    KEY_DENIES = "explicit deny in a resource-based policy"
    NO_IDENTITY_ALLOWS = "no identity-based policy allows"
    NO_KEY_ALLOWS = "no resource-based policy allows"

    @property
    def is_explicit(self) -> bool:
        return self in (Refused.IDENTITY_DENIES, Refused.KEY_DENIES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`allowed_by` or `refused`. `by`: the statement that denies. `in_doubt`: what was not known, where that decided."""

    allowed_by: AllowedBy | None = None
    refused: Refused | None = None
    by: Rule | None = None
    in_doubt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A statement, and the name of its policy. `allowed` is the verdict where its word decides that something is."""

    policy: str
    statement: Statement
    allowed: Verdict


class AskedOfKey(Asked):
    """With the key at hand: what nobody here has, a request has not."""

    __slots__ = ()

    def _find(self, name: str) -> tuple[str, ...] | None:
        found = at_hand.find(name)
        return () if found is None else found[0].read(self.request, self.access, found[1])

    def doubts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.unknown)) or (NO_VALUE,)


def rules_of(documents: Iterable[Document]) -> tuple[Rule, ...]:
    """The statements of all `documents`, in order."""
    return tuple(
        Rule(document.name, statement, Verdict(AllowedBy(policy=document.name, statement=statement.label)))
        for document in documents
        for statement in document.statements
    )


class Clause(NamedTuple):
    """A rule that is about the caller, the action and the resource of a case, as far as that is certain, and what is left to ask:
    whether it applies to a request, NO, MAYBE or YES; None where it applies to each."""

    rule: Rule
    applies: Callable[[LookUp], int] | None


@dataclass(slots=True)
class Case:
    """The clauses that can decide whether a caller may do an action on a resource. Nobody changes one.

    `key_allows` are a key policy's for the caller itself, `account_allows` those that leave it to the caller's account. `settled`
    is the verdict where it is allowed whatever the request is; None where that has to be looked at.
    """

    denies: tuple[tuple[Refused, Clause], ...]
    key_allows: tuple[Clause, ...]
    account_allows: tuple[Clause, ...]
    identity_allows: tuple[Clause, ...]
    access: Access
    has_key: bool
    is_foreign: bool  # whether the key is another account's than the caller's
    settled: Verdict | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.denies:
            verdict = self._allowed(None)
            self.settled = verdict if verdict.allowed_by is not None else None

    def decide(self, asked: Asked) -> Verdict:
        """The decision on a request."""
        if self.settled is not None:
            return self.settled
        doubtful: Verdict | None = None
        for side, (rule, applies) in self.denies:
            asked.unknown.clear()
            found = YES if applies is None else applies(asked.look_up)
            if found == YES:
                return Verdict(refused=side, by=rule)
            if found == MAYBE and doubtful is None:
                doubtful = Verdict(refused=side, by=rule, in_doubt=asked.doubts())
        verdict = self._allowed(asked)
        is_refused_anyway = verdict.refused is not None and not verdict.in_doubt
        return verdict if doubtful is None or is_refused_anyway else doubtful

    def identity_allow(self, asked: Asked) -> bool:
        """Whether the caller's identity policies do, by themselves."""
        return self._first(self.identity_allows, asked, []) is not None

    def _allowed(self, asked: Asked | None) -> Verdict:
        """The first statement that allows it, of the side whose word it is; without `asked`, of those that need no request."""
        doubts: list[str] = []
        by_key: Rule | None = None
        if self.has_key:
            by_key = self._first(self.key_allows, asked, doubts)
            if by_key is not None and not self.is_foreign:
                return by_key.allowed
            by_key = by_key or self._first(self.account_allows, asked, doubts)
            if by_key is None:
                return Verdict(refused=Refused.NO_KEY_ALLOWS, in_doubt=tuple(dict.fromkeys(doubts)))
        by_identity = self._first(self.identity_allows, asked, doubts)
        if by_identity is None:
            return Verdict(refused=Refused.NO_IDENTITY_ALLOWS, in_doubt=tuple(dict.fromkeys(doubts)))
        return (by_key if by_key is not None and self.is_foreign else by_identity).allowed

    def _first(self, clauses: Sequence[Clause], asked: Asked | None, doubts: list[str]) -> Rule | None:
        """The rule of the first that applies; where none does, what could make one apply is added to `doubts`."""
        unknown: list[str] = []
        for rule, applies in clauses:
            if applies is None:
                return rule
            if asked is None:
                continue
            asked.unknown.clear()
            found = applies(asked.look_up)
            if found == YES:
                return rule
            if found == MAYBE:
                unknown += asked.doubts()
        doubts += unknown
        return None


def case_of(
    access: Access,
    caller: Names,
    *,
    identity: Iterable[Rule],
    key_policy: Iterable[Rule] | None,
    is_foreign: bool = False,
) -> Case:
    """What is left of the policies for `caller` and `access`; without a `key_policy` there is no key."""
    own = tuple(_about(identity, access))
    of_key = () if key_policy is None else tuple(_about(key_policy, access))
    said_of = [(clause, who) for clause in of_key if (who := clause.rule.statement.principals) is not None]
    allows = [(clause, who) for clause, who in said_of if not clause.rule.statement.denies]
    return Case(
        denies=(
            *((Refused.IDENTITY_DENIES, clause) for clause in own if clause.rule.statement.denies),
            *((Refused.KEY_DENIES, clause) for clause, who in said_of if clause.rule.statement.denies and who.cover(caller)),
        ),
        key_allows=tuple(clause for clause, who in allows if who.mean(caller)),
        account_allows=tuple(clause for clause, who in allows if who.mean_account_of(caller)),
        identity_allows=tuple(clause for clause in own if not clause.rule.statement.denies),
        access=access,
        has_key=key_policy is not None,
        is_foreign=is_foreign,
    )


def _about(rules: Iterable[Rule], access: Access) -> Iterator[Clause]:
    """Those that are about the action, and as far as that is certain, about the resource."""
    for rule in rules:
        statement = rule.statement
        if statement.is_about(access.action) and statement.may_be_on(access.resource):
            yield Clause(rule, _left_to_ask(statement, access.resource))


def _left_to_ask(statement: Statement, resource: str) -> Callable[[LookUp], int] | None:
    if any(text.fixed is None for text in statement.resources):
        return partial(statement.applies, resource)
    if len(statement.conditions) == 1:
        return statement.conditions[0].holds
    return statement.conditions_hold if statement.conditions else None
