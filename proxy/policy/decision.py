"""The decision of the embedded KMS on one action, by the key's policy and by the caller's own: `Case.decide`. Pure.

As IAM decides: an explicit Deny of either side wins. Then, where key and caller are of one account, the key policy may allow the
caller itself, or leave it to the account, whose identity policies then have to allow it. Where they are of two accounts, both
sides have to. An operation about no key is for the identity policies alone.

A `Case` is what is left of the policies for one caller, action and resource: who, what and where are looked at once, when it is
made; `settled` is the answer where no condition has to be looked at. In doubt (a policy variable without a value, an address that
is not known) a Deny applies and an Allow does not, as with guardrails. A condition key that a request does not have is absent,
also where AWS could have it and this KMS never does: nobody calls here by an endpoint of a VPC.

Source: IAM user guide, "Policy evaluation logic"; AWS KMS developer guide, "Determining access to AWS KMS keys".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from proxy.domain import AllowedBy
from proxy.policy import at_hand
from proxy.policy.asked import Asked
from proxy.policy.document import Document, Statement
from proxy.policy.patterns import MAYBE, YES
from proxy.policy.principals import Names

#: The name of a key's policy in records.
KEY_POLICY = "key policy"
#: In doubt: a policy variable that has no value here, or several.
NO_VALUE = "a policy variable"


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
class Rule:
    """A statement, and the name of its policy. `is_on_fixed`: no request is needed to say whether it is on a resource;
    `is_certain`: nor for anything else."""

    policy: str
    statement: Statement
    is_on_fixed: bool
    is_certain: bool
    allowed_by: AllowedBy


@dataclass(frozen=True, slots=True)
class Verdict:
    """`allowed_by` or `refused`. `by`: the statement that denies. `in_doubt`: what was not known, where that decided."""

    allowed_by: AllowedBy | None = None
    refused: Refused | None = None
    by: Rule | None = None
    in_doubt: tuple[str, ...] = ()


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
    return tuple(_rule(document.name, statement) for document in documents for statement in document.statements)


def _rule(policy: str, statement: Statement) -> Rule:
    is_on_fixed = all(text.fixed is not None for text in statement.resources)
    by = AllowedBy(policy=policy, statement=statement.label)
    return Rule(policy, statement, is_on_fixed, is_on_fixed and not statement.conditions, by)


@dataclass(slots=True)
class Case:
    """The rules that can decide whether a caller may do an action on a resource. Nobody changes one.

    `key_allows` are a key policy's for the caller itself, `account_allows` those that leave it to the caller's account. `settled`
    is what allows it whatever the request is; None where that has to be looked at.
    """

    denies: tuple[tuple[Refused, Rule], ...]
    key_allows: tuple[Rule, ...]
    account_allows: tuple[Rule, ...]
    identity_allows: tuple[Rule, ...]
    resource: str
    has_key: bool
    is_foreign: bool  # whether the key is another account's than the caller's
    settled: AllowedBy | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.denies:
            self.settled = self._allowed(None).allowed_by

    def decide(self, asked: Asked) -> Verdict:
        """The decision on a request."""
        if self.settled is not None:
            return Verdict(self.settled)
        doubtful: Verdict | None = None
        for side, rule in self.denies:
            found = self._applies(rule, asked)
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
                return Verdict(by_key.allowed_by)
            by_key = by_key or self._first(self.account_allows, asked, doubts)
            if by_key is None:
                return Verdict(refused=Refused.NO_KEY_ALLOWS, in_doubt=tuple(dict.fromkeys(doubts)))
        by_identity = self._first(self.identity_allows, asked, doubts)
        if by_identity is None:
            return Verdict(refused=Refused.NO_IDENTITY_ALLOWS, in_doubt=tuple(dict.fromkeys(doubts)))
        return Verdict((by_key if by_key is not None and self.is_foreign else by_identity).allowed_by)

    def _first(self, rules: Sequence[Rule], asked: Asked | None, doubts: list[str]) -> Rule | None:
        """The first of `rules` that applies; where none does, what could make one apply is added to `doubts`."""
        unknown: list[str] = []
        for rule in rules:
            if rule.is_certain:  # its resource was looked at when the case was made
                return rule
            if asked is None:
                continue
            found = self._applies(rule, asked)
            if found == YES:
                return rule
            if found == MAYBE:
                unknown += asked.doubts()
        doubts += unknown
        return None

    def _applies(self, rule: Rule, asked: Asked) -> int:
        if rule.is_certain:
            return YES
        asked.unknown.clear()
        if rule.is_on_fixed:
            return rule.statement.conditions_hold(asked.look_up)
        return rule.statement.applies(self.resource, asked.look_up)


def case_of(
    action: str,
    resource: str,
    caller: Names,
    *,
    identity: Iterable[Rule],
    key_policy: Iterable[Rule] | None,
    is_foreign: bool = False,
) -> Case:
    """What is left of the policies for `caller`, `action` and `resource`; without a `key_policy` there is no key."""
    own = tuple(_about(identity, action, resource))
    of_key = () if key_policy is None else tuple(_about(key_policy, action, resource))
    allows = [(rule, rule.statement.principals) for rule in of_key if not rule.statement.denies]
    return Case(
        denies=(
            *((Refused.IDENTITY_DENIES, rule) for rule in own if rule.statement.denies),
            *(
                (Refused.KEY_DENIES, rule)
                for rule in of_key
                if rule.statement.denies and rule.statement.principals is not None and rule.statement.principals.cover(caller)
            ),
        ),
        key_allows=tuple(rule for rule, who in allows if who is not None and who.mean(caller)),
        account_allows=tuple(rule for rule, who in allows if who is not None and who.mean_account_of(caller)),
        identity_allows=tuple(rule for rule in own if not rule.statement.denies),
        resource=resource,
        has_key=key_policy is not None,
        is_foreign=is_foreign,
    )


def _about(rules: Iterable[Rule], action: str, resource: str) -> Iterator[Rule]:
    """Those that are about the action, and as far as that is certain, about the resource."""
    for rule in rules:
        statement = rule.statement
        if statement.is_about(action) and statement.may_be_on(resource):
            yield rule
