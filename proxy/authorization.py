"""Who may do what with the keys of the embedded KMS: `PolicyAuthoriser`, by key policies, identity policies and grants.

The rules of policies are `proxy.policy.decision`'s. Beside them:

- A grant allows what no policy does; an explicit Deny wins over it as well.
- A caller of another account may do only what can be allowed across accounts, and of a key that it may not use it is told
  nothing, not even whether there is one.
- The operator on the host may do everything in the instance's account; the record then says `host`.

**Cost.** It stands before every use of a key. What policies say of a caller, an action and a key is worked out once, for as
long as these policies stay; where no condition has to be looked at, a check is then a look into a dictionary. Else conditions
read of the call what they ask for, and nothing besides.

Threads: any number at once. Documents are as they were in the store when a check began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial

from proxy.backends.local import grants
from proxy.backends.local.crypto import parse
from proxy.backends.local.key_policies import policy_of
from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import resolve
from proxy.backends.local.surroundings import foreign
from proxy.backends.local.tables import Tables, View
from proxy.domain import AllowedBy, KmsCall, Principal
from proxy.errors import KmsError, SetupError
from proxy.kms.arn import alias_arn, key_arn
from proxy.kms.principals import owner_of
from proxy.permissions import BUILT_IN, Held, Permissions
from proxy.policy import at_hand
from proxy.policy.access import (
    ACROSS_ACCOUNTS,
    ACTIONS,
    ALIAS_OPERATIONS,
    TRAIL_ACTIONS,
    WITHOUT_KEY,
    Access,
    AuthorizationRequest,
    KeyFacts,
)
from proxy.policy.asked import Asked
from proxy.policy.decision import KEY_POLICY, AskedOfKey, Case, Refused, Rule, Verdict, case_of, rules_of
from proxy.policy.document import INVALID_PRINCIPALS, NO_PRINCIPAL, Document, Finding, Form, Statement, action_glob_matches, read
from proxy.policy.principals import names_of

HOST = "host"
_BY_HOST = Verdict(AllowedBy(policy=HOST))
_NOT_ACROSS_ACCOUNTS = Verdict(refused=Refused.NO_KEY_ALLOWS)
_HOST_PREFIX = "host:"
_MOST_CASES = 16_384
_WITHOUT_KEY = frozenset(f"kms:{name}" for name in (*WITHOUT_KEY, "CreateKey"))
_ALIAS_ACTIONS = frozenset(f"kms:{name}" for name in ALIAS_OPERATIONS)
#: What a request names the key by, where it is not KeyId.
_MEMBERS = {
    "kms:ReEncryptFrom": "SourceKeyId",
    "kms:ReEncryptTo": "DestinationKeyId",
    "kms:CreateAlias": "TargetKeyId",
    "kms:UpdateAlias": "TargetKeyId",
}
_MALFORMED = "MalformedPolicyDocumentException"
_LOCKED_OUT = "The new key policy will not allow you to update the key policy in the future."


def operator(account_id: str, uid: int, user: str) -> Principal:
    """The principal of whoever may read the data folder: no policy is asked about it."""
    return Principal("Unknown", "", account_id, "", f"{_HOST_PREFIX}{uid}", user)


def is_operator(principal: Principal) -> bool:
    return principal.type == "Unknown" and principal.principal_id.startswith(_HOST_PREFIX)


class _Cases:
    """What was worked out from one state of the identity policies."""

    __slots__ = ("by_question", "held")

    def __init__(self, held: Held) -> None:
        self.held = held
        self.by_question: dict[tuple[str, str, str, str, str | None], Case] = {}


class PolicyAuthoriser:
    """An `Authoriser`. `clock` gives seconds since the epoch; up to the age of `grant_delay_s`, a grant needs its token."""

    def __init__(self, permissions: Permissions, clock: Callable[[], float], grant_delay_s: float = 0.0) -> None:
        self._permissions = permissions
        self._clock = clock
        self._grant_delay_s = grant_delay_s
        self._cases = _Cases(permissions.held())

    def check(self, view: View, call: KmsCall, action: str, key: Key | None) -> None:
        """See `Authoriser.check`."""
        verdict = self.decide(view, call, action, key)
        if verdict.allowed_by is None:
            raise refusal(call, action, key, verdict)
        call.allowed_by.append(verdict.allowed_by)

    def decide(self, view: View, call: KmsCall, action: str, key: Key | None) -> Verdict:
        """Whether the call's principal may do `action`, by whose word, or why not."""
        principal = call.principal
        is_host = is_operator(principal)
        if key is not None and key.account_id != principal.account_id and (is_host or action not in ACROSS_ACCOUNTS):
            return _NOT_ACROSS_ACCOUNTS
        if is_host:
            return _BY_HOST
        case = self.case(call, action, key)
        if case.settled is not None:
            return case.settled
        asked = asked_of(view, call, case.access, key)
        verdict = case.decide(asked)
        if key is None or verdict.allowed_by is not None or (verdict.refused is not None and verdict.by is not None):
            return verdict
        grant = self.grant(view, call, action, key, case, asked)
        return verdict if grant is None else Verdict(AllowedBy(grant=grant))

    def grant(self, view: View, call: KmsCall, action: str, key: Key, case: Case, asked: Asked) -> str | None:
        """The id of a grant that allows it: to the caller, or to its account, where an identity policy does as well."""
        now_s = self._clock()
        found = grants.allowing(view, call, action, key, now_s, self._grant_delay_s)
        if found is None and case.identity_allow(asked):
            found = grants.delegating(view, call, action, key, now_s, self._grant_delay_s)
        return None if found is None else found.id

    def case(self, call: KmsCall, action: str, key: Key | None) -> Case:
        """What is left of the policies for this caller, action and key."""
        cases = self._current()
        if key is None or action in _WITHOUT_KEY:
            key, resource, policy = None, _resource(call, action), None
        else:
            resource, policy = key.arn, key.policy
        question = (call.principal.arn, call.region, action, resource, policy)
        case = cases.by_question.get(question)
        if case is None:
            case = _case(cases.held, call, action, resource, key)
            if len(cases.by_question) >= _MOST_CASES:
                cases.by_question.clear()
            cases.by_question[question] = case
        return case

    def check_policy(self, view: View, call: KmsCall, key: Key, *, bypass: bool) -> None:
        """See `Authoriser.check_policy`."""
        fault = key_policy_fault(policy_of(key))
        if fault is not None:
            raise KmsError(_MALFORMED, fault)
        if not bypass and self.decide(view, call, "kms:PutKeyPolicy", key).allowed_by is None:
            raise KmsError(_MALFORMED, _LOCKED_OUT)

    @property
    def held(self) -> Held:
        """The identity policies of now."""
        return self._permissions.held()

    def _current(self) -> _Cases:
        held = self._permissions.held()
        cases = self._cases
        if cases.held is not held:
            cases = self._cases = _Cases(held)
        return cases


def refusal(call: KmsCall, action: str, key: Key | None, verdict: Verdict) -> KmsError:
    """What the caller is told, in AWS's words."""
    meant = () if key is None else (key.meant,)
    key_refuses = verdict.refused in (Refused.NO_KEY_ALLOWS, Refused.KEY_DENIES)
    if key is not None and key.account_id != call.principal.account_id and key_refuses:
        return foreign(call, action)
    resource = key.arn if key is not None and action not in _WITHOUT_KEY else _resource(call, action)
    side = "resource" if key_refuses else "identity"
    article = "a" if key_refuses else "an"
    why = f"because no {side}-based policy allows the {action} action"
    if verdict.refused is not None and verdict.refused.is_explicit:
        why = f"with an explicit deny in {article} {side}-based policy"
    caller = call.principal.arn or call.principal.principal_id
    message = f"User: {caller} is not authorized to perform: {action} on resource: {resource} {why}"
    return KmsError("AccessDeniedException", message, keys=meant)


def _told(finding: Finding) -> str:
    return f"statement {finding.statement}: {finding.message}" if finding.statement else finding.message


def _resource(call: KmsCall, action: str) -> str:
    """What an action without a key is on: an alias, the keys that are still to be, or nothing."""
    account_id = call.principal.account_id
    if action in _ALIAS_ACTIONS:
        return alias_arn(call.region, account_id, call.parameters["AliasName"])
    return "*" if action in _WITHOUT_KEY else key_arn(call.region, account_id, "*")


def _case(held: Held, call: KmsCall, action: str, resource: str, key: Key | None) -> Case:
    principal = call.principal
    return case_of(
        Access(action, resource, call.region, _MEMBERS.get(action, "KeyId")),
        names_of(principal),
        identity=identity_rules(held, principal),
        key_policy=None if key is None else key_rules(key, principal, action),
        is_foreign=key is not None and key.account_id != principal.account_id,
    )


def asked_of(view: View, call: KmsCall, access: Access, key: Key | None) -> Asked:
    """The call as conditions look into it."""
    request = AuthorizationRequest.of(call, call.principal.account_id, call.source_ip)
    if key is not None:
        request.key = partial(facts_of, view, call, access.action, key)
    return AskedOfKey(request, access)


def facts_of(view: View, call: KmsCall, action: str, key: Key) -> KeyFacts:
    """What conditions can ask of `key`."""
    regions = key.multi_region
    kind = None if regions is None else "PRIMARY" if regions.primary == key.region else "REPLICA"
    return KeyFacts(
        account_id=key.account_id,
        spec=key.spec,
        usage=key.usage,
        origin=key.origin,
        tags=key.tags,
        multi_region_type=kind,
        aliases=lambda: view.names_of(key),
        is_source_and_destination=lambda: _is_both(view, call, action, key),
    )


def _is_both(view: View, call: KmsCall, action: str, key: Key) -> bool | None:
    """Whether `key` is both keys of a ReEncrypt: the other one is named, or of the source's ciphertext."""
    other = "DestinationKeyId" if action == "kms:ReEncryptFrom" else "SourceKeyId"
    named = call.parameters.get(other)
    if named is not None:
        found = resolve(view, call, named)
        return found is not None and found.arn == key.arn
    blob = call.parameters.get("CiphertextBlob")
    ciphertext = parse(blob) if isinstance(blob, bytes) else None
    if ciphertext is None or not isinstance(view, Tables):
        return None
    source = view.find_material(call.region, ciphertext.material_id)
    return source is not None and source[0].arn == key.arn


# --- Documents, read once ------------------------------------------------------------------------------------------------


def identity_rules(held: Held, principal: Principal) -> tuple[Rule, ...]:
    """The statements of the caller's identity policies."""
    if not principal.arn:
        return ()
    if names_of(principal).is_root:
        policies: Iterable[tuple[str, str]] = BUILT_IN.items()
    else:
        policies = held.of(owner_of(principal.arn)).items()
    return rules_of(_document(name, text, Form.IDENTITY) for name, text in policies)


def key_rules(key: Key, principal: Principal, action: str) -> tuple[Rule, ...]:
    """The statements of the key's policy, as far as they can have an effect on a caller of this account."""
    if key.account_id != principal.account_id and action not in ACROSS_ACCOUNTS:
        return ()
    return rules_of((_document(KEY_POLICY, policy_of(key), Form.KEY),))


@lru_cache(maxsize=1_024)
def _document(name: str, text: str, form: Form) -> Document:
    """A document from the store. Where this version cannot read one, nothing that it could decide is allowed."""
    document, findings = read(name, text.encode("utf-8", "surrogatepass"), form)
    if document is None:
        raise KmsError(
            "AccessDeniedException",
            f"The {form.value.partition(' ')[2]} {name} cannot be read: {'; '.join(finding.message for finding in findings)}",
        )
    return document


def key_policy_fault(text: str) -> str | None:
    """Why `text` cannot be a key's policy, in AWS's words where they are known; None where it can."""
    document, findings = read(KEY_POLICY, text.encode("utf-8", "surrogatepass"), Form.KEY)
    if document is not None:
        return None
    kinds = {finding.kind for finding in findings}
    for kind in (NO_PRINCIPAL, INVALID_PRINCIPALS):
        if kind in kinds:
            return f"Policy {kind}."
    return f"The policy is malformed: {'; '.join(map(_told, findings))}"


def check_identity_policy(name: str, text: str) -> tuple[str, ...]:
    """What in the identity policy `text` may not be as its author thinks. Raises SetupError where it cannot be read."""
    document, findings = read(name, text.encode("utf-8", "surrogatepass"), Form.IDENTITY)
    if document is None:
        raise SetupError("; ".join(map(str, findings)))
    return tuple(
        f"{name}, statement {statement.label}: {said}" for statement in document.statements for said in _doubtful(statement)
    )


def _doubtful(statement: Statement) -> Iterator[str]:
    for glob in statement.actions:
        if not any(action_glob_matches(glob, action) for action in ACTIONS | TRAIL_ACTIONS):
            yield f"{glob!r} is no action of KMS or CloudTrail that is known"
    for condition in statement.conditions:
        if at_hand.find(condition.key) is None:
            yield f"no call here has the condition key {condition.key}"
