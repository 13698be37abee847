"""Key policies: AWS's default text, what can be put, and what would lock out whoever puts it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.authorization import operator
from tests.proxy.local.policies import BOBS_ROOT, CAROL, ROOT, document, give, give_nothing, of_account, statement
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, World, arn_of

DEFAULT = """{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:aws:iam::111122223333:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}"""
LOCKED_OUT = "The new key policy will not allow you to update the key policy in the future."
INVALID = "Policy contains a statement with one or more invalid principals."
NOBODY = "Policy contains a statement with no principal."


def test_a_key_made_without_a_policy_has_aws_default_text(world: World) -> None:
    key = world.new_key()
    assert world("GetKeyPolicy", KeyId=key) == {"Policy": DEFAULT, "PolicyName": "default"}
    assert world("GetKeyPolicy", KeyId=arn_of(key), PolicyName="default")["Policy"] == DEFAULT
    assert world("ListKeyPolicies", KeyId=key) == {"PolicyNames": ["default"], "Truncated": False}
    china = world.new_key("cn-north-1")
    assert f"arn:aws-cn:iam::{ACCOUNT}:root" in world("GetKeyPolicy", "cn-north-1", KeyId=china)["Policy"]


def test_a_policy_is_given_back_as_it_was_put(world: World) -> None:
    policy = document(of_account(), statement(principal="*", Sid="Let's try, all of you"))
    assert world("GetKeyPolicy", KeyId=world.new_key(Policy=policy))["Policy"] == policy
    key = world.new_key()
    answer = world.ask("PutKeyPolicy", KeyId=key, PolicyName="default", Policy=policy)
    assert (answer.members, [one.arn for one in answer.keys]) == ({}, [arn_of(key)])
    assert world("GetKeyPolicy", KeyId=key)["Policy"] == policy
    assert world("ListKeyPolicies", KeyId=key, Limit=1) == {"PolicyNames": ["default"], "Truncated": False}


def test_a_key_has_no_policy_of_another_name(world: World) -> None:
    key = world.new_key()
    for operation, parameters in (("GetKeyPolicy", {}), ("PutKeyPolicy", {"Policy": DEFAULT})):
        refusal = world.refused(operation, KeyId=key, PolicyName="other", **parameters)
        assert (refusal.code, refusal.message) == ("NotFoundException", "No such policy exists")


def test_policies_are_read_and_put_in_every_state_of_the_key(world: World) -> None:
    disabled, pending, waiting = world.new_key(), world.new_key(), world.new_key(Origin="EXTERNAL")
    world("DisableKey", KeyId=disabled)
    world("ScheduleKeyDeletion", KeyId=pending)
    for key in (disabled, pending, waiting):
        world("PutKeyPolicy", KeyId=key, Policy=DEFAULT)
        assert world("GetKeyPolicy", KeyId=key)["Policy"] == DEFAULT
        assert world("ListKeyPolicies", KeyId=key)["PolicyNames"] == ["default"]


STRANGE = "arn:aws:iam::111122223333:group/admins"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (document(statement(principal={"AWS": STRANGE})), INVALID),
        (document(statement(principal={"AWS": f"{ALICE.arn}*"})), INVALID),
        (document(statement(principal={"AWS": "arn:aws:iam::111122223333:user/*"})), INVALID),
        (document(statement(principal={"AWS": "1234"})), INVALID),
        (document(statement(principal={"AWS": "arn:aws:iam::1234:root"})), INVALID),
        (document(statement(principal={"AWS": "111122223333:root"})), INVALID),
        (document(statement(principal={"AWS": "arn:aws:iam::111122223333"})), INVALID),
        (document(statement(principal={"AWS": "AIDAEXAMPLE"})), INVALID),
        (
            document(statement(principal={"AWS": ["", ROOT]})),
            'The policy is malformed: statement 1: Principal AWS must be text, not ""',
        ),
        (document(statement(principal={"Service": "evil.example.com"})), INVALID),
        (document(statement(principal={"Federated": "login.example.com"})), INVALID),
        (document(statement(principal={"CanonicalUser": "79a59df900b949e5"})), INVALID),
        (document(statement(principal="everybody")), INVALID),
        (document(of_account(), statement()), NOBODY),
        (document(of_account(), statement(principal={})), NOBODY),
        (
            document(of_account(), {"Effect": "Allow", "NotPrincipal": {"AWS": ROOT}, "Action": "*", "Resource": "*"}),
            "The policy is malformed: statement 2: NotPrincipal goes with Deny only",
        ),
        ("{", "The policy is malformed: not JSON: line 1, column 2: Expecting property name enclosed in double quotes"),
        ("[]", "The policy is malformed: a policy is a JSON object, not a list"),
        ("{}", "The policy is malformed: there is no Statement"),
        (
            document(of_account(), statement(action=[], principal="*")),
            "The policy is malformed: statement 2: Action is an empty list",
        ),
        (
            document(of_account(), statement("Maybe", principal="*")),
            'The policy is malformed: statement 2: Effect is "Maybe"; it must be Allow or Deny',
        ),
        (
            document(of_account(), statement(principal="*", Condition={"StringIs": {"aws:username": "x"}})),
            "The policy is malformed: statement 2: StringIs, aws:username: there is no condition operator 'StringIs'",
        ),
        (document(of_account("kms:Encrypt")), LOCKED_OUT),
        (document(statement(principal={"AWS": CAROL.arn})), LOCKED_OUT),
        (document(statement(principal={"AWS": BOBS_ROOT})), LOCKED_OUT),
        (document(of_account(), statement("Deny", "kms:PutKeyPolicy", "*")), LOCKED_OUT),
        (document(of_account("kms:Put*"), statement("Deny", "kms:*", {"AWS": ALICE.arn})), LOCKED_OUT),
    ],
)
def test_what_cannot_be_a_keys_policy_is_refused_and_changes_nothing(world: World, policy: str, message: str) -> None:
    key = world.new_key()
    for operation, parameters in (("PutKeyPolicy", {"KeyId": key}), ("CreateKey", {})):
        refusal = world.refused(operation, Policy=policy, **parameters)
        assert refusal.code == "MalformedPolicyDocumentException"
        assert str(refusal.message).startswith(message), refusal.message
    assert world("GetKeyPolicy", KeyId=key)["Policy"] == DEFAULT
    assert [one["KeyId"] for one in world("ListKeys")["Keys"]] == [key]


@pytest.mark.parametrize(
    "policy",
    [
        document(of_account("kms:PutKeyPolicy")),
        document(of_account("kms:P*")),
        document(statement(action="kms:PutKeyPolicy", principal={"AWS": ALICE.arn})),
        document(statement(principal="*")),
        document(of_account(), statement("Deny", "kms:PutKeyPolicy", {"AWS": CAROL.arn})),
    ],
)
def test_what_leaves_its_author_a_way_back_is_taken(world: World, policy: str) -> None:
    key = world.new_key(Policy=policy)
    world("PutKeyPolicy", KeyId=key, Policy=DEFAULT)
    world("PutKeyPolicy", KeyId=key, Policy=policy)
    world("PutKeyPolicy", KeyId=key, Policy=policy)


def test_who_asks_for_it_is_locked_out(world: World) -> None:
    closed = document(statement(principal={"AWS": CAROL.arn}))
    key = world.new_key(Policy=closed, BypassPolicyLockoutSafetyCheck=True)
    assert "no resource-based policy allows the kms:PutKeyPolicy action" in str(
        world.refused("PutKeyPolicy", KeyId=key, Policy=DEFAULT).message
    )
    other = world.new_key()
    world("PutKeyPolicy", KeyId=other, Policy=closed, BypassPolicyLockoutSafetyCheck=True)
    assert world.refused("GetKeyPolicy", KeyId=other).code == "AccessDeniedException"
    malformed = document(statement(principal={"AWS": STRANGE}))
    assert world.refused("CreateKey", Policy=malformed, BypassPolicyLockoutSafetyCheck=True).message == INVALID
    world.caller = operator(ACCOUNT, 0, "root")  # the way back that no policy closes
    world("PutKeyPolicy", KeyId=other, Policy=DEFAULT)
    world.caller = ALICE
    assert world("GetKeyPolicy", KeyId=other)


def test_the_account_is_no_way_back_for_who_may_not_put_policies_by_its_own(world: World) -> None:
    key = world.new_key(Policy=document(statement(principal={"AWS": ALICE.arn})))
    give_nothing(world, ALICE)
    refusal = world.refused("PutKeyPolicy", KeyId=key, Policy=DEFAULT)
    assert (refusal.code, refusal.message) == ("MalformedPolicyDocumentException", LOCKED_OUT)


def test_a_key_with_a_policy_is_made_by_who_may_put_policies(world: World) -> None:
    give(world, ALICE, statement(action="kms:CreateKey"))
    assert world.new_key()
    refusal = world.refused("CreateKey", Policy=document(statement(principal="*")))
    assert "is not authorized to perform: kms:PutKeyPolicy" in str(refusal.message)
    refusal = world.refused("CreateKey", Tags=[{"TagKey": "a", "TagValue": "b"}])
    assert "is not authorized to perform: kms:TagResource" in str(refusal.message)


def test_a_policy_has_at_most_32_kib(world: World) -> None:
    def of_size(size: int) -> dict[str, Any]:
        policy = json.loads(document(of_account()))
        policy["Id"] = ""
        policy["Id"] = "x" * (size - len(json.dumps(policy)))
        return {"Policy": json.dumps(policy)}

    key = world.new_key(**of_size(32_768))
    for operation, parameters in (("CreateKey", {}), ("PutKeyPolicy", {"KeyId": key})):
        refusal = world.refused(operation, **of_size(32_769), **parameters)
        assert (refusal.code, refusal.message) == (
            "LimitExceededException",
            "The key policy has 32769 bytes; the most there can be are 32768.",
        )


def test_the_default_policy_of_another_account_is_its_own(world: World) -> None:
    world.caller = BOB
    assert BOBS_ROOT in world("GetKeyPolicy", KeyId=world.new_key())["Policy"]
