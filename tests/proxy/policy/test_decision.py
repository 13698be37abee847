"""A case, which is made once and decides many requests, beside every statement looked at anew for each request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.domain import AllowedBy, Attested, Principal, SessionContext
from proxy.policy import at_hand
from proxy.policy.access import Access, AuthorizationRequest, KeyFacts
from proxy.policy.decision import AskedOfKey, Case, Refused, Verdict, case_of, rules_of
from proxy.policy.document import Document, Form, Statement, read
from proxy.policy.patterns import MAYBE, NO, YES, LookUp
from proxy.policy.principals import Names, names_of

ACCOUNT, OTHER = "111122223333", "444455556666"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALICE = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/alice", ACCOUNT, "AKIAALICE", "AIDAALICE", "alice")
READER = Principal(
    "AssumedRole",
    f"arn:aws:sts::{ACCOUNT}:assumed-role/reader/s1",
    ACCOUNT,
    "ASIAREADER",
    "AROAREADER:s1",
    session=SessionContext(0, source_identity="alice"),
    tags=(("team", "blue"),),
)
BOB = Principal("IAMUser", f"arn:aws:iam::{OTHER}:user/bob", OTHER, "AKIABOB", "AIDABOB", "bob")
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/aaaaaaaa-1111-2222-3333-444455556666"
ELSE = KEY.replace("aaaaaaaa", "bbbbbbbb")

# --- Policies and requests, made up -------------------------------------------------------------------------------------

VALUES = st.sampled_from(
    ["acme", "a*", "${aws:username}", "${aws:PrincipalTag/team}", "${aws:PrincipalTag/none, 'acme'}", "blue", "x", ""]
)
NAMES = st.sampled_from(
    [
        *("kms:EncryptionContext:tenant", "kms:EncryptionContext:none", "kms:EncryptionContextKeys", "kms:RequestAlias"),
        *(
            "aws:username",
            "aws:PrincipalTag/team",
            "aws:ResourceTag/team",
            "kms:ResourceAliases",
            "kms:KeySpec",
            "kms:ViaService",
        ),
        *("aws:SourceIdentity", "aws:UserAgent", "kms:RecipientAttestation:PCR3", "aws:PrincipalOrgID", "kms:CallerAccount"),
    ]
)
TEXTUAL = st.builds(
    lambda quantifier, operator, if_exists: f"{quantifier}{operator}{if_exists}",
    st.sampled_from(["", "", "ForAllValues:", "ForAnyValue:"]),
    st.sampled_from(["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase"]),
    st.sampled_from(["", "", "IfExists"]),
)
CONDITION = st.one_of(
    st.tuples(TEXTUAL, NAMES, st.lists(VALUES, min_size=1, max_size=3)),
    st.tuples(st.just("Null"), NAMES, st.sampled_from([["true"], ["false"]])),
    st.tuples(st.sampled_from(["IpAddress", "NotIpAddress"]), st.just("aws:SourceIp"), st.just(["10.0.0.0/8"])),
    st.tuples(st.just("Bool"), st.just("aws:SecureTransport"), st.sampled_from([["true"], ["false"]])),
    st.tuples(st.just("DateLessThan"), st.just("aws:CurrentTime"), st.just(["2026-01-01T00:00:00Z"])),
)


def conditions(found: list[tuple[str, str, list[str]]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for operator, name, values in found:
        made.setdefault(operator, {})[name] = values
    return made


OWN = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Allow", "Deny"]),
        "Condition": st.lists(CONDITION, max_size=2).map(conditions),
        "Action": st.sampled_from(["kms:*", "kms:Decrypt", "kms:De*", "kms:Encrypt"]),
        "Resource": st.sampled_from(
            ["*", "*", KEY, ELSE, f"arn:aws:kms:*:{ACCOUNT}:key/${{aws:PrincipalTag/team}}", f"{KEY[:-1]}?"]
        ),
    }
)
NOBODY_ELSE: list[Any] = [
    {"AWS": ROOT},
    {"AWS": ALICE.arn},
    {"AWS": [BOB.arn, ROOT]},
    {"AWS": f"arn:aws:iam::{ACCOUNT}:role/reader"},
]
OF_KEY = st.builds(
    lambda statement, principal, negated: {
        **statement,
        ("NotPrincipal" if negated and statement["Effect"] == "Deny" and principal != "*" else "Principal"): principal,
    },
    OWN,
    st.sampled_from(["*", *NOBODY_ELSE]),
    st.booleans(),
)
CONTEXTS = st.dictionaries(st.sampled_from(["tenant", "Tenant", "x"]), st.sampled_from(["acme", "alice", "blue", ""]))
CALLERS = st.sampled_from([ALICE, READER, BOB])


@dataclass(frozen=True)
class Facts:
    """What a request has; as a value, so that a failing example can be read."""

    context: dict[str, str]
    source_ip: str
    secure: bool | None
    now_us: int
    headers: tuple[tuple[bytes, bytes], ...]
    tags: dict[str, str]
    aliases: tuple[str, ...]
    attested: Attested | None
    key_id: str | None

    def of(self, caller: Principal) -> AuthorizationRequest:
        key = KeyFacts(
            ACCOUNT, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "AWS_KMS", self.tags, None, lambda: self.aliases, lambda: None
        )
        parameters = {"KeyId": self.key_id, "EncryptionContext": self.context}
        return AuthorizationRequest(
            "Decrypt",
            "eu-central-1",
            caller.account_id,
            {name: value for name, value in parameters.items() if value},
            caller,
            self.source_ip,
            self.secure,
            self.now_us,
            self.headers,
            lambda: key,
            self.attested,
        )


FACTS = st.builds(
    Facts,
    CONTEXTS,
    st.sampled_from(["", "10.1.2.3", "192.0.2.7"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([0, 1_790_000_000_000_000]),
    st.sampled_from([(), ((b"user-agent", b"acme"),)]),
    st.dictionaries(st.sampled_from(["team", "Team"]), st.sampled_from(["blue", "acme"])),
    st.sampled_from([(), ("alias/a",), ("alias/a", "x")]),
    st.sampled_from([None, Attested("m", {3: "acme"})]),
    st.sampled_from([None, "alias/a", KEY]),
)


def documents(key: list[dict[str, Any]], own: list[dict[str, Any]]) -> tuple[Document, Document]:
    made = []
    for name, form, statements in (("key policy", Form.KEY, key), ("own", Form.IDENTITY, own)):
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        document, findings = read(name, text.encode(), form)
        assert document is not None, findings
        made.append(document)
    return made[0], made[1]


def case(caller: Principal, access: Access, key: Document, own: Document) -> Case:
    return case_of(
        access, names_of(caller), identity=rules_of([own]), key_policy=rules_of([key]), is_foreign=caller.account_id != ACCOUNT
    )


# --- The reference ------------------------------------------------------------------------------------------------------


def in_full(
    caller: Principal, access: Access, request: AuthorizationRequest, key: Document, own: Document
) -> tuple[AllowedBy | None, Refused | None, bool]:
    """What allows it, or why not and whether that is in doubt: by all statements, each looked at anew."""

    def look_up(name: str) -> tuple[str, ...] | None:
        found = at_hand.find(name)
        return () if found is None else found[0].read(request, access, found[1])

    found = [
        *((Refused.IDENTITY_DENIES, own.name, one, _applies(one, access, look_up)) for one in own.statements),
        *((Refused.KEY_DENIES, key.name, one, _applies(one, access, look_up)) for one in key.statements),
    ]
    who = names_of(caller)
    denials = [(side, result) for side, _, one, result in found if one.denies and _is_about(one, who)]
    for side, result in denials:
        if result == YES:
            return None, side, False
    by, refused, in_doubt = _allowed(caller, [(name, one, result) for _, name, one, result in found if not one.denies], who)
    doubtful = next((side for side, result in denials if result == MAYBE), None)
    if doubtful is not None and (refused is None or in_doubt):
        return None, doubtful, True
    return by, refused, in_doubt


def _applies(one: Statement, access: Access, look_up: LookUp) -> int:
    return one.applies(access.resource, look_up) if one.is_about(access.action) else NO


def _is_about(one: Statement, who: Names) -> bool:
    return one.principals is None or one.principals.cover(who)


def _allowed(
    caller: Principal, allows: list[tuple[str, Statement, int]], who: Names
) -> tuple[AllowedBy | None, Refused | None, bool]:
    by_name = [(one, result) for _, one, result in allows if one.principals is not None and one.principals.mean(who)]
    by_account = [
        (one, result) for _, one, result in allows if one.principals is not None and one.principals.mean_account_of(who)
    ]
    own = [(one, result) for _, one, result in allows if one.principals is None]
    first = {id(some): next((one for one, result in some if result == YES), None) for some in (by_name, by_account, own)}
    in_doubt = {id(some): any(result == MAYBE for _, result in some) for some in (by_name, by_account, own)}
    named, account, mine = first[id(by_name)], first[id(by_account)], first[id(own)]
    is_foreign = caller.account_id != ACCOUNT
    if named is not None and not is_foreign:
        return AllowedBy(policy="key policy", statement=named.label), None, False
    if named is None and account is None:
        return None, Refused.NO_KEY_ALLOWS, in_doubt[id(by_name)] or in_doubt[id(by_account)]
    if mine is None:
        return None, Refused.NO_IDENTITY_ALLOWS, in_doubt[id(own)] or (named is None and in_doubt[id(by_name)])
    if is_foreign:
        return AllowedBy(policy="key policy", statement=(named or account or mine).label), None, False
    return AllowedBy(policy="own", statement=mine.label), None, False


# --- The tests ----------------------------------------------------------------------------------------------------------


def told(verdict: Verdict) -> tuple[AllowedBy | None, Refused | None, bool]:
    return verdict.allowed_by, verdict.refused, bool(verdict.in_doubt)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # its strategies are large: the first draw makes them
@given(
    st.lists(OF_KEY, min_size=1, max_size=4),
    st.lists(OWN, min_size=1, max_size=3),
    CALLERS,
    st.lists(FACTS, min_size=1, max_size=4),
)
@example(
    [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": f"{KEY[:-4]}${{aws:username}}", "Condition": {}}],
    [{"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": {}}],
    READER,
    [Facts({}, "", None, 0, (), {}, (), None, None)],
)
def test_a_case_decides_as_all_statements_do(
    key: list[dict[str, Any]], own: list[dict[str, Any]], caller: Principal, asked: list[Facts]
) -> None:
    of_key, of_caller = documents(key, own)
    access = Access("kms:Decrypt", KEY, "eu-central-1", "KeyId")
    made = case(caller, access, of_key, of_caller)
    for facts in (*asked, *asked):  # one case for all of them: nothing stays of the one before
        request = facts.of(caller)
        expected = in_full(caller, access, request, of_key, of_caller)
        assert told(made.decide(AskedOfKey(request, access))) == expected
        if made.settled is not None:
            assert told(made.settled) == expected


def test_a_decision_computes_what_its_conditions_read_and_nothing_else() -> None:
    context = {"StringEquals": {"kms:EncryptionContext:tenant": ["acme", "globex"]}}
    tag = {"StringEquals": {"aws:ResourceTag/team": "blue"}}
    allow = {"Effect": "Allow", "Principal": {"AWS": ALICE.arn}, "Action": "kms:*", "Resource": "*"}
    own = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    access, looked = Access("kms:Decrypt", KEY, "eu-central-1", "KeyId"), list[str]()

    def aliases() -> tuple[str, ...]:
        looked.append("aliases")
        return ()

    def facts() -> KeyFacts:
        looked.append("key")
        return KeyFacts(ACCOUNT, "", "", "", {"team": "blue"}, None, aliases, lambda: None)

    request = Facts({"tenant": "acme"}, "", None, 0, (), {}, (), None, None).of(ALICE)
    request.key = facts
    for condition, expected in ((context, []), (tag, ["key"])):
        looked.clear()
        made = case(ALICE, access, *documents([{**allow, "Condition": condition}], [own]))
        assert made.settled is None and made.decide(AskedOfKey(request, access)).allowed_by is not None
        assert looked == expected
