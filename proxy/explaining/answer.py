"""What `keytrail explain` is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from proxy.domain import AllowedBy, DeniedBy, KmsCall, Members, Operation, Principal
from proxy.errors import SetupError
from proxy.policy.asked import Asked
from proxy.policy.document import Statement
from proxy.policy.evaluate import Decision
from proxy.policy.operators import Condition
from proxy.policy.patterns import MAYBE, NO, YES, LookUp
from proxy.policy.principals import Names


class NotAsked(SetupError):
    """The question is none: an unknown action, caller, key or role."""


@dataclass(frozen=True, slots=True)
class Question:
    """May `caller` (an ARN, or an access key id) do `action`, with the key that `key` names in any form, or with none?

    `parameters` are other members of the request; `now_us` is when the call would arrive, microseconds since the epoch."""

    caller: str
    action: str
    region: str
    parameters: Members
    now_us: int
    key: str | None = None
    context: Mapping[str, str] | None = None
    source_ip: str = ""

    def call(self, operation: Operation, principal: Principal, parameters: Members | None = None) -> KmsCall:
        """The call that would ask; `parameters` as given, or the question's own."""
        sent = dict(self.parameters if parameters is None else parameters)
        return KmsCall(operation, self.region, principal, sent, self.now_us, source_ip=self.source_ip)


@dataclass(frozen=True, slots=True)
class Considered:
    """A statement, or a grant, that was looked at: its name, what it would do, and whether it applies, or why not."""

    name: str
    effect: str
    why: str


#: What allows a thing about which no policy is asked.
NOBODYS_WORD = AllowedBy()
#: What decides behind the guardrails in front of AWS.
AWS = AllowedBy(policy="AWS")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service itself says, behind the guardrails: by whose word it is allowed (`NOBODYS_WORD`: everybody may; `AWS`: not
    known here), or the refusal's `message`, and the statement that denies if one does. `in_doubt`: what was not known, where
    that decided."""

    resource: str
    allowed_by: AllowedBy | None
    message: str | None = None
    denied_by: DeniedBy | None = None
    in_doubt: tuple[str, ...] = ()
    considered: tuple[Considered, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. `guardrail`: what the guardrails say, `guardrail_message` their refusal; `remarks`: what has to be known
    besides."""

    caller: str
    action: str
    guardrail: Decision
    guardrail_message: str | None
    answer: Answer
    considered: tuple[Considered, ...]
    remarks: tuple[str, ...]

    @property
    def is_allowed(self) -> bool:
        return self.guardrail.allowed and self.answer.allowed_by is not None

    @property
    def message(self) -> str | None:
        """The refusal, where it is one."""
        return self.answer.message if self.guardrail.allowed else self.guardrail_message

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """What is not known, where that decides."""
        return self.answer.in_doubt if self.guardrail.allowed else self.guardrail.in_doubt

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        by = self.answer.allowed_by if self.is_allowed else None
        denied_by = self.guardrail.denied_by
        return {
            "caller": self.caller,
            "action": self.action,
            "resource": self.answer.resource,
            "allowed": self.is_allowed,
            "allowed_by": None if by is None else {name: value for name, value in asdict(by).items() if value is not None},
            "denied_by_guardrail": None if denied_by is None else asdict(denied_by),
            "message": self.message,
            "in_doubt": list(self.in_doubt),
            "remarks": list(self.remarks),
            "considered": [asdict(one) for one in self.considered],
        }


def lines_of(explanation: Explanation) -> Iterator[str]:
    """The answer for people."""
    by, guardrail = explanation.answer.allowed_by, explanation.guardrail.denied_by
    if by is not None and explanation.is_allowed:
        yield f"ALLOWED: {explanation.caller} may {explanation.action} on {explanation.answer.resource}, {_by(by)}"
    else:
        yield f"DENIED: {explanation.message}"
        if guardrail is not None and guardrail.policy:
            yield f"by the guardrail {guardrail.policy}, statement {guardrail.statement}"
        elif guardrail is None and (denied_by := explanation.answer.denied_by):
            yield f"by {denied_by.policy}, statement {denied_by.statement}"
    if explanation.in_doubt:
        yield f"not known, and so against the caller: {', '.join(explanation.in_doubt)}"
    yield from explanation.remarks
    if explanation.considered:
        yield "looked at:"
    for one in explanation.considered:
        yield f"  {one.name}: {one.effect}: {one.why}"


def _by(word: AllowedBy) -> str:
    if word.grant is not None:
        return f"by grant {word.grant}"
    if word == NOBODYS_WORD:
        return "as everybody may"
    return "as far as the guardrails say: AWS decides" if word == AWS else f"by {word.policy}, statement {word.statement}"


# --- Why a statement applies, or does not ----------------------------------------------------------------------------------


def looked_at(policy: str, statement: Statement, action: str, resource: str, caller: Names, asked: Asked) -> Considered:
    """A statement of a guardrail, an identity policy or a key policy."""
    why = _why(statement, action, resource, caller, asked)
    return Considered(f"{policy}, statement {statement.label}", "Deny" if statement.denies else "Allow", why)


def unmet(conditions: tuple[Condition, ...], look_up: LookUp) -> str | None:
    """Which condition is not met, or may not be; None where all are."""
    for condition in conditions:
        found = condition.holds(look_up)
        if found == NO:
            return f"its condition {condition.name} on {condition.key} is not met"
        if found == MAYBE:
            return f"whether its condition {condition.name} on {condition.key} is met is not known"
    return None


def _why(statement: Statement, action: str, resource: str, caller: Names, asked: Asked) -> str:
    who = statement.principals
    if not statement.is_about(action):
        return "not about this action"
    if who is not None and not (who.cover(caller) if statement.denies else who.mean(caller) or who.mean_account_of(caller)):
        return "not about this caller"
    if not statement.may_be_on(resource):
        return "not about this resource"
    if (why := unmet(statement.conditions, asked.look_up)) is not None:
        return why
    if statement.applies(resource, asked.look_up) != YES:
        return "whether it is about this resource is not known"
    if who is not None and not statement.denies and not who.mean(caller):
        return "applies: it leaves it to the identity policies of the caller's account"
    return "applies"
