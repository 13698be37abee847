"""`keytrail explain`: which statement or grant decides whether a caller may do something, and what else was looked at.

It asks what a call would ask, of the store as it is, and changes nothing in it. What a call would tell and the question does not
(the client's address, whether it comes by TLS) is not known, and counts against the caller; the answer names it. The guardrails
of these settings are asked first, as before a call, and what they do not let pass is denied whatever else allows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import orjson
import typer

from audit.errors import AuditError
from audit.instance import Instance
from audit.query.render import clean
from proxy import settings
from proxy.authorization import PolicyAuthoriser, asked_of, identity_rules, key_rules, refusal
from proxy.backends.local.grants import (
    CONTEXT_MEMBERS,
    CREATE_GRANT,
    RETIRE_GRANT,
    Grant,
    context_of,
    covers_child,
    is_in_effect,
    meant_grant,
)
from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import resolve
from proxy.backends.local.tables import Tables
from proxy.callers import ASSUMED_ROLE, IAM_USER, Callers
from proxy.clock import clock_of
from proxy.domain import KmsCall, Principal
from proxy.errors import ProxyError, SetupError
from proxy.kms.operations import OPERATIONS
from proxy.kms.principals import Kind, parse_principal
from proxy.kms.principals import names_of as grantee_names
from proxy.opening import open_store
from proxy.permissions import Permissions
from proxy.policy.access import ACTIONS, AuthorizationRequest, accesses, actions_of
from proxy.policy.asked import Asked
from proxy.policy.decision import Verdict
from proxy.policy.document import Statement
from proxy.policy.evaluate import BeforeCall, Decision, Guardrails, load
from proxy.policy.evaluate import refusal as guardrail_refusal
from proxy.policy.folder import read_folder
from proxy.policy.patterns import MAYBE, NO, YES
from proxy.policy.principals import Names, names_of
from proxy.sealed_store import SealedStore

_CONTEXT_MEMBERS = {"kms:ReEncryptFrom": "SourceEncryptionContext", "kms:ReEncryptTo": "DestinationEncryptionContext"}
_KEY_MEMBERS = {"kms:ReEncryptFrom": "SourceKeyId", "kms:ReEncryptTo": "DestinationKeyId"}


#: Whether a grant is in effect for the call that is asked about.
InEffect: TypeAlias = Callable[[Grant], bool]


class NotAsked(SetupError):
    """The question is none: an unknown action, caller or key."""


@dataclass(frozen=True, slots=True)
class Question:
    """May `caller` (an ARN, or an access key id) do `action`, with the key that `key` names in any form, or with none?"""

    caller: str
    action: str
    region: str
    key: str | None = None
    context: Mapping[str, str] | None = None
    source_ip: str = ""
    grant_tokens: tuple[str, ...] = ()
    parameters: Mapping[str, str] | None = None  # others of the request


@dataclass(frozen=True, slots=True)
class Considered:
    """A statement, or a grant, that was looked at: its name, what it would do, and whether it applies, or why not."""

    name: str
    effect: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: what the guardrails say (`guardrail`), and the embedded KMS (`verdict`); the refusal's `message` where it is
    one, and every statement and grant that was looked at."""

    caller: str
    action: str
    resource: str
    guardrail: Decision
    verdict: Verdict
    message: str | None
    considered: tuple[Considered, ...]

    @property
    def is_allowed(self) -> bool:
        return self.guardrail.allowed and self.verdict.allowed_by is not None

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """What is not known, where that decides."""
        return self.verdict.in_doubt if self.guardrail.allowed else self.guardrail.in_doubt

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        by = self.verdict.allowed_by if self.is_allowed else None
        denied_by = self.guardrail.denied_by
        return {
            "caller": self.caller,
            "action": self.action,
            "resource": self.resource,
            "allowed": self.is_allowed,
            "allowed_by": None if by is None else {name: value for name, value in asdict(by).items() if value is not None},
            "denied_by_guardrail": None if denied_by is None else asdict(denied_by),
            "message": self.message,
            "in_doubt": list(self.in_doubt),
            "considered": [asdict(one) for one in self.considered],
        }


def explain(
    store: SealedStore,
    question: Question,
    guardrails: Guardrails,
    clock: Callable[[], float] = time.time,
    grant_delay_s: float = 0.0,
) -> Explanation:
    """Answer `question`. Raises NotAsked where it cannot be: an unknown action, access key or key."""
    action = next((one for one in ACTIONS if one.lower() == question.action.lower()), None)
    if action is None:
        raise NotAsked(f"{question.action!r} is no action of KMS, such as kms:Decrypt")
    if action == f"kms:{RETIRE_GRANT}" and "GrantId" not in (question.parameters or {}):
        raise NotAsked(f"{action} is about one grant, which itself says who may: name it by --grant")
    principal = _principal(store, question.caller)
    tables = Tables(store)
    call = _call(question, action, principal)
    key = None if question.key is None else resolve(tables, call, question.key)
    if question.key is not None and (key is None or key.is_gone(clock())):
        raise NotAsked(f"there is no key {question.key} in {question.region}, or it is deleted")
    authoriser = PolicyAuthoriser(Permissions(store), clock, grant_delay_s)
    verdict = authoriser.decide(tables, call, action, key)
    request = AuthorizationRequest.of(call, principal.account_id, question.source_ip)
    guardrail = guardrails.decide(request, action)
    message = None
    if not guardrail.allowed:
        message = guardrail_refusal(request, guardrail).message
    elif verdict.allowed_by is None:
        message = refusal(call, action, key, verdict).message
    access = authoriser.case(call, action, key).access
    resource, asked = access.resource, asked_of(tables, call, access, key)
    considered = _guardrails(guardrails, request, action)
    considered += [
        _looked_at(rule.policy, rule.statement, action, resource, names_of(principal), asked)
        for rule in identity_rules(authoriser.held, principal)
    ]
    if key is not None:
        considered += [
            _looked_at(rule.policy, rule.statement, action, resource, names_of(principal), asked)
            for rule in key_rules(key, principal, action)
        ]
        considered += _grants(tables, call, action, key, verdict, lambda grant: is_in_effect(grant, call, clock(), grant_delay_s))
    return Explanation(principal.arn, action, resource, guardrail, verdict, message, tuple(considered))


def _guardrails(guardrails: Guardrails, request: AuthorizationRequest, action: str) -> list[Considered]:
    """The guardrails' statements, for each resource that the action is on."""
    return [
        _looked_at(
            f"guardrail {policy}", statement, action, access.resource, names_of(request.principal), BeforeCall(request, access)
        )
        for access in accesses(request)
        if access.action == action
        for policy, statement in guardrails.rules
    ]


def _looked_at(policy: str, statement: Statement, action: str, resource: str, caller: Names, asked: Asked) -> Considered:
    return Considered(
        f"{policy}, statement {statement.label}",
        "Deny" if statement.denies else "Allow",
        _why(statement, action, resource, caller, asked),
    )


def _why(statement: Statement, action: str, resource: str, caller: Names, asked: Asked) -> str:
    who = statement.principals
    if not statement.is_about(action):
        return "not about this action"
    if who is not None and not (who.cover(caller) if statement.denies else who.mean(caller) or who.mean_account_of(caller)):
        return "not about this caller"
    if not statement.may_be_on(resource):
        return "not about this resource"
    for condition in statement.conditions:
        asked.unknown.clear()
        found = condition.holds(asked.look_up)
        if found == NO:
            return f"its condition {condition.name} on {condition.key} is not met"
        if found == MAYBE:
            return f"whether its condition {condition.name} on {condition.key} is met is not known"
    if statement.applies(resource, asked.look_up) != YES:
        return "whether it is about this resource is not known"
    if who is not None and not statement.denies and not who.mean(caller):
        return "applies: it leaves it to the identity policies of the caller's account"
    return "applies"


def _grants(tables: Tables, call: KmsCall, action: str, key: Key, verdict: Verdict, in_effect: InEffect) -> Iterator[Considered]:
    """The grants of the key to the caller; of RetireGrant, the one that is to be retired."""
    decides = None if verdict.allowed_by is None else verdict.allowed_by.grant
    operation = action.removeprefix("kms:")
    if operation == RETIRE_GRANT:
        meant = meant_grant(tables, call, key)
        if meant is None:
            raise NotAsked(f"the key has no grant {call.parameters['GrantId']}")
        why = "applies" if decides else "another word decides" if verdict.allowed_by else "it does not let the caller retire it"
        yield Considered(f"grant {meant.id}", "Allow RetireGrant of itself", why)
        return
    for name in grantee_names(call.principal.arn):
        for grant in tables.grants_to(key, name, None):
            why = "applies" if grant.id == decides else _why_not(grant, call, operation, in_effect)
            yield Considered(f"grant {grant.id}", f"Allow {', '.join(grant.operations)}", why)


def _why_not(grant: Grant, call: KmsCall, operation: str, in_effect: InEffect) -> str:
    """Why a grant to the caller does not decide."""
    member = CONTEXT_MEMBERS.get(operation)
    if operation not in grant.operations:
        return "not about this action"
    if grant.limits.source_arn is not None:
        return "its constraint SourceArn is met by calls of AWS services alone"
    if member is not None and not grant.limits.are_met_by(context_of(call.parameters.get(member))):
        return "its constraints on the encryption context are not met"
    if operation == CREATE_GRANT and not covers_child(grant, call):
        return "a new grant without its constraints would be wider than it"
    return "another word decides" if in_effect(grant) else "it is not in effect yet, but for calls with its token"


def lines_of(explanation: Explanation) -> Iterator[str]:
    """The answer for people."""
    by, guardrail = explanation.verdict.allowed_by, explanation.guardrail.denied_by
    what = f"{explanation.action} on {explanation.resource}"
    if by is not None and explanation.is_allowed:
        name = f"grant {by.grant}" if by.grant is not None else f"{by.policy}, statement {by.statement}"
        yield f"ALLOWED: {explanation.caller} may {what}, by {name}"
    else:
        yield f"DENIED: {explanation.message}"
        if guardrail is not None and guardrail.policy:
            yield f"by the guardrail {guardrail.policy}, statement {guardrail.statement}"
        elif guardrail is None and (statement := explanation.verdict.by):
            yield f"by {statement.policy}, statement {statement.statement.label}"
    if explanation.in_doubt:
        yield f"not known, and so against the caller: {', '.join(explanation.in_doubt)}"
    yield "looked at:"
    for one in explanation.considered:
        yield f"  {one.name}: {one.effect}: {one.why}"


def _principal(store: SealedStore, caller: str) -> Principal:
    """The caller with an access key of this store, or by its ARN one that may have none yet."""
    for one in Callers(store).list():
        if caller in (one.principal.access_key_id, one.principal.arn):
            return one.principal
    found = parse_principal(caller)
    if found is not None:
        match found.kind:
            case Kind.USER:
                return Principal(IAM_USER, caller, found.account_id, "", "", found.name)
            case Kind.SESSION:
                return Principal(ASSUMED_ROLE, caller, found.account_id, "", "")
            case Kind.ROOT:
                return Principal("Root", caller, found.account_id, "", found.account_id)
            case Kind.ROLE | Kind.FEDERATED_USER:
                pass
    raise NotAsked(f"{caller!r} is no access key of this keytrail, and not the ARN of a user or of a role's session")


def _call(question: Question, action: str, principal: Principal) -> KmsCall:
    named = action.removeprefix("kms:")
    operation = named if named in OPERATIONS else next(name for name in OPERATIONS if action in actions_of(name))
    parameters: dict[str, Any] = dict(question.parameters or {})  # Any: members of a request
    if question.key is not None:
        parameters[_KEY_MEMBERS.get(action, "KeyId")] = question.key
    if question.context:
        parameters[_CONTEXT_MEMBERS.get(action, "EncryptionContext")] = dict(question.context)
    if question.grant_tokens:
        parameters["GrantTokens"] = list(question.grant_tokens)
    now_us = time.time_ns() // 1_000
    return KmsCall(OPERATIONS[operation], question.region, principal, parameters, now_us, source_ip=question.source_ip)


# --- The command ---------------------------------------------------------------------------------------------------------


app = typer.Typer()


@app.command("explain")
def command(
    caller: Annotated[str, typer.Option("--caller", help="The ARN of a user or of a role's session, or an access key id.")],
    action: Annotated[str, typer.Option("--action", help="kms:Decrypt, kms:CreateKey, …")],
    key: Annotated[
        str | None, typer.Option("--key", help="Key id, key ARN, alias name or alias ARN; none for CreateKey and the like.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", help="A pair of the encryption context, name=value; may be repeated.")
    ] = None,
    source_ip: Annotated[str, typer.Option("--source-ip", help="The client's address.")] = "",
    grant_token: Annotated[list[str] | None, typer.Option("--grant-token", help="May be repeated.")] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="For kms:CreateAlias and its kin: the alias's name.")] = None,
    grant: Annotated[str | None, typer.Option("--grant", help="For kms:RetireGrant: the grant's id.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="[default: the key's, or the instance's]")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="The data folder [default: ./keytrail-data].")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The settings file [default: config/keytrail.toml].")] = None,
) -> None:
    """Tell which guardrail, statement or grant decides whether a caller may do something, and what else was looked at.

    Exits 1 for denied.

    A key that is named by an alias is asked about as a call by that alias would ask."""
    pairs = [pair.partition("=") for pair in context or ()]
    in_arn = key.split(":")[3] if key is not None and key.count(":") >= 5 else None
    store: SealedStore | None = None
    try:
        if not all(divider for _, divider, _ in pairs):
            raise NotAsked("--context is name=value")
        chosen = settings.load(config, os.environ, data=data)
        instance = Instance.load(chosen.data)
        question = Question(
            caller,
            action,
            region or in_arn or instance.region,
            key,
            {name: value for name, _, value in pairs},
            source_ip,
            tuple(grant_token or ()),
            {name: value for name, value in (("AliasName", alias), ("GrantId", grant)) if value is not None},
        )
        store = open_store(instance, chosen)
        guardrails = load(read_folder(chosen.policies)) if chosen.policies is not None else Guardrails(())
        found = explain(store, question, guardrails, clock_of(chosen.clock), chosen.grant_delay_s)
    except (ProxyError, AuditError, OSError) as error:
        typer.echo(f"keytrail: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, NotAsked) else 3) from error
    finally:
        if store is not None:
            store.close()
    told = [orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2).decode()] if json else map(clean, lines_of(found))
    for line in told:
        typer.echo(line)
    raise typer.Exit(0 if found.is_allowed else 1)
