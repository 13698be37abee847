"""The decision on a call: `Guardrails.decide`. The rules are the package's.

Statements are sorted by action when they are loaded; a call that none of them is about costs a look into a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.domain import DeniedBy
from proxy.errors import KmsError, SetupError
from proxy.policy import keys, lint
from proxy.policy.access import ALL_ACTIONS, ALL_OPERATIONS, Access, AuthorizationRequest, accesses, actions_of
from proxy.policy.asked import Asked
from proxy.policy.document import Document, Severity, Statement, read
from proxy.policy.patterns import MAYBE, NO, UNKNOWN_PART, YES

RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call is allowed; if not, `denied_by` says by what, and `access` for which of its actions.

    `in_doubt` names what was not known, where that decided: condition keys, or "resource".
    """

    allowed: bool
    denied_by: DeniedBy | None = None
    access: Access | None = None
    in_doubt: tuple[str, ...] = ()

    @property
    def is_explicit(self) -> bool:
        """Whether a Deny statement denied."""
        return self.denied_by is not None and self.denied_by.statement != ""


ALLOWED = Decision(True)
#: No statement allowed it.
_NOTHING = DeniedBy("", "")
#: The name of a document, and a statement of it.
Rule = tuple[str, Statement]


class Guardrails:
    """A set of documents. Immutable; may be shared."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.rules: tuple[Rule, ...] = tuple((one.name, statement) for one in documents for statement in one.statements)
        self._denies = [rule for rule in self.rules if rule[1].denies]
        self._allows = [rule for rule in self.rules if not rule[1].denies]
        self._by_action = {action: self._rules_about(action) for action in ALL_ACTIONS}
        self._unconcerned = frozenset(name for name in ALL_OPERATIONS if not self._has_rules_for(name))

    def _has_rules_for(self, operation: str) -> bool:
        return any(self._allows or self._by_action[action][0] for action in actions_of(operation))

    def _rules_about(self, action: str) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        return (
            tuple(rule for rule in self._denies if rule[1].is_about(action)),
            tuple(rule for rule in self._allows if rule[1].is_about(action)),
        )

    def concerns(self, operation: str) -> bool:
        """Whether any statement could decide on a call of `operation`; where not, there is no need to ask."""
        return operation not in self._unconcerned

    def decide(self, request: AuthorizationRequest, action: str | None = None) -> Decision:
        """Whether `request` is allowed, all of it or its `action` alone. What is certain goes before what is in doubt, and an
        explicit denial before another."""
        if request.operation in self._unconcerned:
            return ALLOWED
        worst, worst_rank = ALLOWED, 0
        for access in accesses(request):
            if action not in (None, access.action):
                continue
            found, rank = self._decide(request, access)
            if rank > worst_rank:
                worst, worst_rank = found, rank
        return worst

    def _decide(self, request: AuthorizationRequest, access: Access) -> tuple[Decision, int]:
        """The decision on one action, and how much it counts: 0 allowed, 1 and 2 denied in doubt, 3 and 4 denied."""
        denies, allows = self._by_action.get(access.action) or self._rules_about(access.action)
        doubtful: Decision | None = None
        asked = BeforeCall(request, access)
        for policy, statement in denies:
            asked.unknown.clear()
            result = statement.applies(access.resource, asked.look_up)
            if result == YES:
                return Decision(False, DeniedBy(policy, statement.label), access), 4
            if result == MAYBE and doubtful is None:
                doubtful = Decision(False, DeniedBy(policy, statement.label), access, asked.doubts())
        if self._allows:
            asked.unknown.clear()
            best = max((statement.applies(access.resource, asked.look_up) for _, statement in allows), default=NO)
            if best == NO:
                return Decision(False, _NOTHING, access), 3
            if best == MAYBE and doubtful is None:
                return Decision(False, _NOTHING, access, asked.doubts()), 1
        return (ALLOWED, 0) if doubtful is None else (doubtful, 2)


class BeforeCall(Asked):
    """By what a request tells, before anybody knows the key."""

    __slots__ = ()

    def _find(self, name: str) -> tuple[str, ...] | None:
        found = keys.find(name)
        if found is None:
            return None
        values = found[0].read(self.request, self.access, found[1])
        return None if values is not None and len(values) > 1 and not found[0].multi else values

    def doubts(self) -> tuple[str, ...]:
        names = list(dict.fromkeys(self.unknown))
        return (*names, RESOURCE) if UNKNOWN_PART in self.access.resource else tuple(names)


def load(files: Sequence[tuple[str, bytes]]) -> Guardrails:
    """The guardrails of the documents in `files` (name, content). Raises SetupError that tells every error in them."""
    documents, errors = [], []
    for name, content in files:
        document, findings = read(name, content)
        if document is not None:
            findings = lint.check_document(document)
            documents.append(document)
        errors += [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise SetupError("; ".join(f"policies: {finding}" for finding in errors))
    return Guardrails(documents)


def refusal(request: AuthorizationRequest, decision: Decision) -> KmsError:
    """What a client is told of a decision that is not `allowed`: AWS's words, a guardrail in place of the policy's type."""
    access, by = decision.access, decision.denied_by
    if access is None or by is None:
        raise ValueError("an allowed call has no refusal")
    caller = request.principal.arn or request.principal.access_key_id
    resource = access.resource.replace(UNKNOWN_PART, "*")
    why = f"with an explicit deny in the guardrail {by.policy}, statement {by.statement}"
    if not decision.is_explicit:
        why = f"because no guardrail allows the {access.action} action"
    if decision.in_doubt:
        why += f" ({_told(decision.in_doubt)})"
    message = f"User: {caller} is not authorized to perform: {access.action} on resource: {resource} {why}"
    return KmsError("AccessDeniedException", message, denied_by=by)


def _told(doubts: tuple[str, ...]) -> str:
    if doubts == (RESOURCE,):
        return "the request does not tell which key it is about: name it by its key id or key ARN"
    return f"the request does not tell for certain: {', '.join(doubts)}"
