"""Trust policies: which can be read, and whom they let in."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.domain import Principal, SessionContext, SessionIssuer
from proxy.policy import trust
from proxy.policy.access import AuthorizationRequest
from proxy.policy.patterns import PatternError
from proxy.policy.trust import Assuming

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/builder"
ALICE = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/alice", ACCOUNT, "AKIAALICE", "AIDAALICE", "alice")
CI = Principal(
    "AssumedRole",
    f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/run-1",
    ACCOUNT,
    "ASIACI",
    "AROACI:run-1",
    None,
    SessionContext(0, SessionIssuer("AROACI", f"arn:aws:iam::{ACCOUNT}:role/teams/ci", ACCOUNT, "ci"), "alice"),
    (("team", "a"),),
)
Json = Any


def document(*statements: dict[str, Json], **members: Json) -> str:
    made = [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", **one} for one in statements]
    return orjson.dumps({"Version": "2012-10-17", "Statement": made, **members}).decode()


def allows(text: str, principal: Principal = ALICE, action: str = "sts:AssumeRole", **asked: Json) -> bool:
    request = AuthorizationRequest("AssumeRole", "us-east-1", ACCOUNT, {}, principal, "192.0.2.7", False, 1_767_323_045_000_000)
    return trust.read(text).allows(action, Assuming(request, ROLE, "run-1", **asked))


DENY = {"Effect": "Deny"}


@pytest.mark.parametrize(
    ("statements", "principal", "allowed"),
    [
        ([{}], ALICE, True),
        ([{"Principal": "*"}], ALICE, True),
        ([{"Principal": {"AWS": ["arn:aws:iam::999999999999:root", ALICE.arn]}}], ALICE, True),
        ([{"Principal": {"AWS": ACCOUNT}}], CI, True),
        ([{"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}], CI, True),
        ([{"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/teams/ci"}}], CI, True),
        ([{"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/teams/ci"}}], ALICE, False),
        ([{"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/ci"}}], CI, False),
        ([{"Principal": {"AWS": CI.arn}}], CI, True),
        ([{"Principal": {"AWS": f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/run-2"}}], CI, False),
        ([{"Principal": {"Service": "ec2.amazonaws.com"}}], ALICE, False),
        ([{}, DENY], ALICE, False),
        ([{**DENY, "Principal": {"AWS": CI.arn}}, {}], ALICE, True),
        ([{"Action": "sts:TagSession"}], ALICE, False),
        ([{"Action": ["sts:Tag*", "STS:assumerole"]}], ALICE, True),
        ([{"Action": "*"}], ALICE, True),
    ],
)
def test_who_may_assume_the_role(statements: list[dict[str, Json]], principal: Principal, allowed: bool) -> None:
    assert allows(document(*statements), principal) is allowed


@pytest.mark.parametrize(
    ("condition", "principal", "allowed"),
    [
        ({"StringEquals": {"sts:ExternalId": "42"}}, ALICE, False),
        ({"StringEqualsIfExists": {"sts:ExternalId": "42"}}, ALICE, True),
        ({"StringLike": {"STS:RoleSessionName": "${aws:username}"}}, ALICE, False),
        ({"StringLike": {"sts:RoleSessionName": "run-?"}}, ALICE, True),
        ({"StringEquals": {"aws:SourceIdentity": "alice"}}, CI, True),
        ({"StringEquals": {"aws:SourceIdentity": "alice"}}, ALICE, False),
        ({"StringEquals": {"aws:PrincipalTag/Team": "a"}}, CI, True),
        ({"StringEquals": {"aws:PrincipalAccount": ACCOUNT}}, ALICE, True),
        ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, ALICE, True),
        ({"IpAddress": {"aws:SourceIp": "198.51.100.0/24"}}, ALICE, False),
        ({"DateLessThan": {"aws:CurrentTime": "2025-12-31T00:00:00Z"}}, ALICE, False),
        ({"Bool": {"aws:MultiFactorAuthPresent": "true"}}, CI, False),
        ({"Null": {"aws:MultiFactorAuthPresent": True}}, ALICE, True),
    ],
)
def test_conditions(condition: Json, principal: Principal, allowed: bool) -> None:
    assert allows(document({"Condition": condition}), principal) is allowed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 100_000, "over 4096 characters"),
        ("[" * 4_000, "no JSON|too deep"),
        ('{"Statement": [], "Statement": []}', "stands twice"),
        ('{"Statement": []}', "no statement"),
        ('{"Version": "2012-10-17"}', "a statement must be"),
        (document({}, Version="2026-01-01"), "Version must be"),
        (document({}, Comment="x"), "no element 'Comment'"),
        (document({"Resource": "*"}), "no element 'Resource'"),
        (document({"NotPrincipal": {"AWS": ACCOUNT}}), "no element 'NotPrincipal'"),
        (document({"Effect": "allow"}), "Effect must be"),
        (document({"Principal": {}}), "Principal must be"),
        (document({"Principal": ACCOUNT}), "Principal must be"),
        (document({"Principal": {"AWS": "alice"}}), "'alice' is no principal"),
        (document({"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/*"}}), "no principal"),
        (document({"Principal": {"AWS": []}}), "Principal, AWS must be"),
        (document({"Principal": {"aws": ACCOUNT}}), "no element 'aws'"),
        (document({"Action": "kms:Decrypt"}), "no action of STS"),
        (document({"Action": []}), "Action must be"),
        (document({"Condition": {"StringEquals": {"kms:ViaService": "x"}}}), "that no AssumeRole has here"),
        (document({"Condition": {"StringEquals": {"sts:ExternalID2": "x"}}}), "that no AssumeRole has here"),
        (document({"Condition": {"StringIs": {"sts:ExternalId": "x"}}}), "no condition operator"),
        (document({"Condition": {"StringEquals": {"sts:ExternalId": []}}}), "a value must be"),
        (document({"Condition": {"StringEquals": {}}}), "Condition must be"),
    ],
)
def test_what_is_no_trust_policy_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises(PatternError, match=words):
        trust.read(text)


def test_the_statement_that_decides_is_told_and_what_was_in_doubt() -> None:
    inside = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    policy = trust.read(document({"Sid": "Named"}, {**DENY, "Condition": {"StringEquals": {"sts:RoleSessionName": "root"}}}))

    def decided(source_ip: str, session_name: str | None, policy: trust.TrustPolicy = policy) -> tuple[bool, str | None, Any]:
        request = AuthorizationRequest("AssumeRole", "us-east-1", ACCOUNT, {}, ALICE, source_ip, False, 0)
        found = policy.decide("sts:AssumeRole", Assuming(request, ROLE, session_name))
        return found.allowed, None if found.by is None else found.by.label, found.in_doubt

    assert decided("192.0.2.7", "run-1") == (True, "Named", ())
    assert decided("192.0.2.7", "root") == (False, "2", ())
    assert decided("192.0.2.7", None) == (False, "2", ("sts:RoleSessionName",))
    at_home = trust.read(document({"Condition": inside}))
    assert decided("10.1.2.3", "run-1", at_home) == (True, "1", ())
    assert decided("192.0.2.7", "run-1", at_home) == (False, None, ())
    assert decided("", "run-1", at_home) == (False, None, ("aws:SourceIp",))
