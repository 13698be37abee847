"""Sessions by boto3: who gets one, what it is called, how long it lasts, what it hands on, and what of it is on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.commit import Known
from audit.record import Effect, IdentityProof, Phase, Resource
from proxy.backends.local import effects
from proxy.callers import SESSION
from tests.proxy.local.world import ACCOUNT
from tests.proxy.sts.world import ALICE, BOB, BUILDER, DEPLOYER, OTHER_ACCOUNT, World, refusal, trust

SESSION_ARN = f"arn:aws:sts::{ACCOUNT}:assumed-role/builder/run-1"
TAGGING = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
Json = Any


def assumed(world: World, by: Json, role: str = BUILDER, **parameters: Json) -> dict[str, Json]:
    """What AssumeRole answers."""
    answer: dict[str, Json] = world.client("sts", by).assume_role(RoleArn=role, RoleSessionName="run-1", **parameters)
    return answer


def test_a_caller_is_told_who_it_is(world: World) -> None:
    alice, bob = world.callers.add(ALICE), world.callers.add(BOB)
    told = world.client("sts", alice).get_caller_identity()
    assert (told["Arn"], told["Account"], told["UserId"]) == (ALICE, ACCOUNT, alice.principal.principal_id)
    told = world.client("sts", bob, host="sts.us-east-1.amazonaws.com").get_caller_identity()
    assert (told["Arn"], told["Account"]) == (BOB, OTHER_ACCOUNT)
    first, second = world.log.lines
    assert (first["eventSource"], first["eventName"], first["readOnly"]) == ("sts.amazonaws.com", "GetCallerIdentity", True)
    assert (first["requestParameters"], first["responseElements"], first["resources"]) == (None, None, [])
    assert (first["recipientAccountId"], second["recipientAccountId"]) == (ACCOUNT, OTHER_ACCOUNT)
    assert told["ResponseMetadata"]["RequestId"] == second["requestID"]


def test_an_assumed_role_calls_kms_and_the_record_says_whose_session_it_is(world: World) -> None:
    alice = world.callers.add(ALICE)
    role = world.roles.add(BUILDER, trust(ALICE))
    answer = assumed(world, alice)
    assert answer["AssumedRoleUser"] == {"Arn": SESSION_ARN, "AssumedRoleId": f"{role.role_id}:run-1"}
    assert answer["Credentials"]["AccessKeyId"].startswith("ASIA")
    assert answer["Credentials"]["Expiration"].timestamp() == int(world.clock.now_s) + 3600
    session = answer["Credentials"]
    assert world.client("sts", session).get_caller_identity()["Arn"] == SESSION_ARN
    world.client("kms", session).create_key()
    record = world.log.lines[-1]
    assert record["userIdentity"] == {
        "type": "AssumedRole",
        "principalId": f"{role.role_id}:run-1",
        "arn": SESSION_ARN,
        "accountId": ACCOUNT,
        "accessKeyId": session["AccessKeyId"],
        "sessionContext": {
            "sessionIssuer": {
                "type": "Role",
                "principalId": role.role_id,
                "arn": BUILDER,
                "accountId": ACCOUNT,
                "userName": "builder",
            },
            "attributes": {"creationDate": "2023-11-14T22:13:20Z", "mfaAuthenticated": "false"},
        },
    }


def test_assuming_a_role_is_on_record_without_its_credentials(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    session = assumed(world, alice, DurationSeconds=900)["Credentials"]
    intent, outcome = world.log.lines
    assert [world.log.records[0].phase, world.log.records[1].phase] == [Phase.INTENT, Phase.OUTCOME]
    assert world.log.records[1].intent_id == intent["eventID"]
    assert outcome["requestParameters"] == {"roleArn": BUILDER, "roleSessionName": "run-1", "durationSeconds": 900}
    assert outcome["responseElements"] == {
        "accessKeyId": session["AccessKeyId"],
        "expiration": "2023-11-14T22:28:20Z",
        "assumedRoleUser": {"assumedRoleId": world.roles.list()[0].role_id + ":run-1", "arn": SESSION_ARN},
    }
    assert outcome["resources"] == [{"accountId": ACCOUNT, "type": "AWS::IAM::Role", "ARN": BUILDER}]
    assert outcome["readOnly"]
    for secret in (session["SecretAccessKey"], session["SessionToken"]):
        assert secret not in str(world.log.lines) + str(world.log.records)


NOT_AUTHORIZED = "User: {caller} is not authorized to perform: {action} on resource: {role}"


@pytest.mark.parametrize(
    ("trusted", "caller", "allowed"),
    [
        ((ALICE,), ALICE, True),
        ((ACCOUNT,), ALICE, True),
        ((f"arn:aws:iam::{ACCOUNT}:root",), ALICE, True),
        (("*",), BOB, True),
        ((BOB,), BOB, True),
        ((BOB,), ALICE, False),
        ((OTHER_ACCOUNT,), ALICE, False),
        ((f"arn:aws:iam::{ACCOUNT}:user/team/alice",), ALICE, False),
        ((f"arn:aws:iam::{ACCOUNT}:role/alice",), ALICE, False),
    ],
)
def test_the_trust_policy_says_who_may(world: World, trusted: tuple[str, ...], caller: str, allowed: bool) -> None:
    by = world.callers.add(caller)
    world.roles.add(BUILDER, trust(*trusted))
    if allowed:
        assert assumed(world, by)["AssumedRoleUser"]["Arn"] == SESSION_ARN
        return
    told = refusal(world.client("sts", by), "assume_role", RoleArn=BUILDER, RoleSessionName="run-1")
    assert told == ("AccessDenied", NOT_AUTHORIZED.format(caller=caller, action="sts:AssumeRole", role=BUILDER), 403)
    assert (world.log.records[-1].error_code, world.log.records[-1].wire_error) == ("AccessDenied", "AccessDenied")


def test_a_role_that_there_is_not_is_refused_in_the_same_words(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    for role in (f"arn:aws:iam::{ACCOUNT}:role/nobody", f"arn:aws:iam::{ACCOUNT}:role/builder", DEPLOYER):
        told = refusal(world.client("sts", alice), "assume_role", RoleArn=role, RoleSessionName="run-1")
        assert told == ("AccessDenied", NOT_AUTHORIZED.format(caller=ALICE, action="sts:AssumeRole", role=role), 403)


def test_conditions_of_the_trust_policy(world: World) -> None:
    alice = world.callers.add(ALICE)
    named = {"StringEquals": {"sts:ExternalId": "42"}, "StringLike": {"sts:RoleSessionName": "run-*"}}
    world.roles.add(BUILDER, trust(ALICE, Condition=named))
    client = world.client("sts", alice)
    assert client.assume_role(RoleArn=BUILDER, RoleSessionName="run-1", ExternalId="42")
    for parameters in ({}, {"ExternalId": "43"}, {"ExternalId": "42", "RoleSessionName": "go-1"}):
        asked = {"RoleArn": BUILDER, "RoleSessionName": "run-1", **parameters}
        assert refusal(client, "assume_role", **asked)[0] == "AccessDenied"


@pytest.mark.parametrize(
    ("parameters", "code", "words"),
    [
        ({"RoleSessionName": "x"}, "ValidationError", "Value 'x' at 'roleSessionName' failed to satisfy constraint: Member"),
        ({"RoleSessionName": "a b"}, "ValidationError", r"regular expression pattern: [\w+=,.@-]*"),
        ({"DurationSeconds": 899}, "ValidationError", "Value '899' at 'durationSeconds' failed to satisfy constraint"),
        ({"DurationSeconds": 43_201}, "ValidationError", "Member must have value less than or equal to 43200"),
        (
            {"DurationSeconds": 7_201},
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ),
        ({"DurationSeconds": "long"}, "MalformedInput", "DurationSeconds is no integer"),
        ({"RoleArn": "arn:aws:iam::role/with/no/account"}, "ValidationError", "is invalid"),
        ({"Policy": "{}"}, "ValidationError", "Policy is not supported here"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/x"}]}, "ValidationError", "PolicyArns is not supported here"),
        ({"SerialNumber": "arn:aws:iam::1:mfa/a", "TokenCode": "123456"}, "AccessDenied", "MultiFactorAuthentication failed"),
        ({"Tags": [{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}]}, "InvalidParameterValue", "Duplicate tag keys"),
        ({"Tags": [{"Key": "aws:a", "Value": "1"}]}, "InvalidParameterValue", "begin with aws:"),
        ({"TransitiveTagKeys": ["a"]}, "InvalidParameterValue", "transitive tag key"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(world: World, parameters: dict[str, Json], code: str, words: str) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE, actions="sts:*"), 7_200)
    asked = {"RoleArn": BUILDER, "RoleSessionName": "run-1", **parameters}
    told = refusal(world.client("sts", alice), "assume_role", **asked)
    assert told[0] == code and words in told[1]
    assert world.log.records[-1].wire_error == code
    assert world.store.changes_since(0, (SESSION,)).entries == ()


def test_a_session_expires_in_kms_s_words_and_in_sts_s(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    session = assumed(world, alice, DurationSeconds=900)["Credentials"]
    world.clock.now_s += 899
    assert world.client("kms", session).list_keys()["Keys"] == []
    world.clock.now_s += 1
    words = "The security token included in the request is expired"
    assert refusal(world.client("kms", session), "list_keys") == ("ExpiredTokenException", words, 400)
    assert refusal(world.client("sts", session), "get_caller_identity") == ("ExpiredToken", words, 403)
    assert world.log.records[-1].identity_proof is IdentityProof.NONE
    assert world.log.records[-1].identity.access_key_id == session["AccessKeyId"]


@pytest.mark.parametrize("token", [None, "x", "another session's"])
def test_a_session_needs_its_own_token(world: World, token: str | None) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    session = assumed(world, alice)["Credentials"]
    other = assumed(world, alice)["Credentials"]
    session["SessionToken"] = other["SessionToken"] if token == "another session's" else token
    assert refusal(world.client("kms", session), "list_keys")[0] == "UnrecognizedClientException"
    assert refusal(world.client("sts", session), "get_caller_identity") == (
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
        403,
    )


def test_every_worker_knows_a_session_and_so_does_the_next_start(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "keystore.db", world.clock)
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    assert other.client("sts", alice).get_caller_identity()
    session = assumed(world, alice)["Credentials"]
    assert other.client("kms", session).list_keys()["Keys"] == []
    other.close()
    restarted = World(tmp_path / "keystore.db", world.clock)
    assert restarted.client("sts", session).get_caller_identity()["Arn"] == SESSION_ARN
    assert restarted.log.lines[0]["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] == BUILDER
    restarted.close()


def test_calls_of_a_session_write_nothing_to_the_store(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    session = assumed(world, alice)["Credentials"]
    before = world.store.published
    world.client("sts", session).get_caller_identity()
    world.client("kms", session).list_keys()
    refusal(world.client("sts", session), "assume_role", RoleArn=DEPLOYER, RoleSessionName="run-1")
    assert world.store.published == before


def test_sessions_that_ended_long_ago_are_deleted_with_the_next_that_is_made(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    old = assumed(world, alice)["Credentials"]
    world.clock.now_s += 3_600 + 24 * 3_600 - 1
    second = assumed(world, alice)["Credentials"]
    assert refusal(world.client("kms", old), "list_keys")[0] == "ExpiredTokenException"
    world.clock.now_s += 1
    third = assumed(world, alice)["Credentials"]
    assert refusal(world.client("kms", old), "list_keys")[0] == "UnrecognizedClientException"
    kept = {entry.id for entry in world.store.changes_since(0, (SESSION,)).entries}
    assert kept == {second["AccessKeyId"], third["AccessKeyId"]}


def test_a_role_that_is_removed_takes_its_sessions_with_it(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    world.roles.add(DEPLOYER, trust(ALICE))
    session, other = assumed(world, alice)["Credentials"], assumed(world, alice, DEPLOYER)["Credentials"]
    world.roles.remove(BUILDER)
    assert refusal(world.client("kms", session), "list_keys")[0] == "UnrecognizedClientException"
    assert world.client("kms", other).list_keys()["Keys"] == []
    assert refusal(world.client("sts", alice), "assume_role", RoleArn=BUILDER, RoleSessionName="run-1")[0] == "AccessDenied"


def test_a_new_trust_policy_holds_from_the_next_call_and_sessions_go_on(world: World) -> None:
    alice, bob = world.callers.add(ALICE), world.callers.add(BOB)
    first = world.roles.add(BUILDER, trust(ALICE))
    session = assumed(world, alice)["Credentials"]
    assert world.roles.add(BUILDER, trust(BOB), replace=True).role_id == first.role_id
    assert refusal(world.client("sts", alice), "assume_role", RoleArn=BUILDER, RoleSessionName="run-1")[0] == "AccessDenied"
    assert assumed(world, bob)["AssumedRoleUser"]["AssumedRoleId"] == f"{first.role_id}:run-1"
    assert world.client("kms", session).list_keys()["Keys"] == []


# --- from role to role


def test_a_role_assumes_another_for_an_hour_at_most(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    world.roles.add(DEPLOYER, trust(BUILDER), 7_200)
    session = assumed(world, alice)["Credentials"]
    assert assumed(world, session, DEPLOYER)["AssumedRoleUser"]["Arn"].startswith(f"arn:aws:sts::{OTHER_ACCOUNT}:assumed-role/")
    told = refusal(world.client("sts", session), "assume_role", RoleArn=DEPLOYER, RoleSessionName="run-1", DurationSeconds=3_601)
    assert told == (
        "ValidationError",
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        400,
    )
    told = refusal(world.client("sts", alice), "assume_role", RoleArn=DEPLOYER, RoleSessionName="run-1")
    assert told[0] == "AccessDenied"


def test_one_session_of_a_role_may_be_trusted_alone(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    world.roles.add(DEPLOYER, trust(SESSION_ARN))
    client = world.client("sts", alice)
    for name, allowed in (("run-1", True), ("run-2", False)):
        session = client.assume_role(RoleArn=BUILDER, RoleSessionName=name)["Credentials"]
        if allowed:
            assert assumed(world, session, DEPLOYER)
        else:
            assert (
                refusal(world.client("sts", session), "assume_role", RoleArn=DEPLOYER, RoleSessionName="x1")[0] == "AccessDenied"
            )


def test_the_source_identity_stays_from_role_to_role(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE, actions=TAGGING))
    world.roles.add(DEPLOYER, trust(BUILDER, actions=TAGGING))
    first = assumed(world, alice, SourceIdentity="alice")
    assert first["SourceIdentity"] == "alice"
    second = assumed(world, first["Credentials"], DEPLOYER)
    assert second["SourceIdentity"] == "alice"
    world.client("kms", second["Credentials"]).list_keys()
    assert world.log.lines[-1]["userIdentity"]["sessionContext"]["sourceIdentity"] == "alice"
    told = refusal(
        world.client("sts", first["Credentials"]), "assume_role", RoleArn=DEPLOYER, RoleSessionName="run-1", SourceIdentity="bob"
    )
    assert told[:2] == (
        "AccessDenied",
        NOT_AUTHORIZED.format(caller=SESSION_ARN, action="sts:SetSourceIdentity", role=DEPLOYER),
    )


@pytest.mark.parametrize(
    ("parameters", "action"),
    [({"SourceIdentity": "alice"}, "sts:SetSourceIdentity"), ({"Tags": [{"Key": "team", "Value": "a"}]}, "sts:TagSession")],
)
def test_source_identity_and_tags_need_their_own_permission(world: World, parameters: dict[str, Json], action: str) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE))
    told = refusal(world.client("sts", alice), "assume_role", RoleArn=BUILDER, RoleSessionName="run-1", **parameters)
    assert told[:2] == ("AccessDenied", NOT_AUTHORIZED.format(caller=ALICE, action=action, role=BUILDER))


def test_transitive_tags_go_from_role_to_role_and_the_others_do_not(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(BUILDER, trust(ALICE, actions=TAGGING))
    needs = {"StringEquals": {"aws:PrincipalTag/team": "a"}, "Null": {"aws:RequestTag/stage": "true"}}
    world.roles.add(DEPLOYER, trust(BUILDER, actions=TAGGING, Condition=needs))
    tags = [{"Key": "team", "Value": "a"}, {"Key": "stage", "Value": "test"}]
    session = assumed(world, alice, Tags=tags, TransitiveTagKeys=["Team"])["Credentials"]
    second = assumed(world, session, DEPLOYER)["Credentials"]
    caller = world.callers.find(second["AccessKeyId"])
    assert caller is not None and caller.principal.tags == (("team", "a"),)
    told = refusal(world.client("sts", session), "assume_role", RoleArn=DEPLOYER, RoleSessionName="run-1", Tags=tags[:1])
    assert told[0] == "InvalidParameterValue"


# --- a user's own session


def test_a_user_s_session_is_the_user_and_says_so(world: World) -> None:
    alice = world.callers.add(ALICE)
    session = world.client("sts", alice).get_session_token()["Credentials"]
    assert session["Expiration"].timestamp() == int(world.clock.now_s) + 43_200
    assert world.client("sts", session).get_caller_identity()["UserId"] == alice.principal.principal_id
    identity = world.log.lines[-1]["userIdentity"]
    assert (identity["type"], identity["arn"], identity["userName"]) == ("IAMUser", ALICE, "alice")
    assert identity["sessionContext"] == {"attributes": {"creationDate": "2023-11-14T22:13:20Z", "mfaAuthenticated": "false"}}
    assert world.log.lines[1]["responseElements"] == {"accessKeyId": session["AccessKeyId"], "expiration": "2023-11-15T10:13:20Z"}
    assert refusal(world.client("sts", session), "get_session_token") == (
        "AccessDenied",
        "Cannot call GetSessionToken with session credentials",
        403,
    )


def test_a_user_s_session_ends_when_its_access_key_is_disabled(world: World) -> None:
    alice = world.callers.add(ALICE)
    session = world.client("sts", alice).get_session_token(DurationSeconds=129_600)["Credentials"]
    world.callers.disable(alice.principal.access_key_id)
    assert refusal(world.client("kms", session), "list_keys")[0] == "UnrecognizedClientException"
    world.callers.enable(alice.principal.access_key_id)
    assert world.client("kms", session).list_keys()["Keys"] == []


def test_a_session_given_out_on_the_host_is_of_the_role_of_its_name(world: World) -> None:
    role = world.roles.add(BUILDER, trust(ALICE))
    given = world.callers.add(SESSION_ARN)
    assert given.principal.principal_id == f"{role.role_id}:run-1"
    world.client("kms", given).list_keys()
    issuer = world.log.lines[-1]["userIdentity"]["sessionContext"]["sessionIssuer"]
    assert issuer["arn"] == f"arn:aws:iam::{ACCOUNT}:role/builder"  # its path is not in a session's ARN
    assert refusal(world.client("sts", given), "get_session_token")[0] == "AccessDenied"


def test_a_role_takes_the_id_that_its_sessions_have(world: World) -> None:
    given = world.callers.add(SESSION_ARN)
    assert world.roles.add(BUILDER, trust(ALICE)).role_id == given.principal.principal_id.partition(":")[0]


# --- whose outcome is lost


def test_the_store_knows_whether_a_session_was_made(world: World) -> None:
    alice = world.callers.add(ALICE)
    role = world.roles.add(BUILDER, trust(ALICE))
    assumed(world, alice)
    world.client("sts", alice).get_session_token()
    assert refusal(world.client("sts", alice), "assume_role", RoleArn=DEPLOYER, RoleSessionName="run-1")[0] == "AccessDenied"
    intents = [record for record in world.log.records if record.phase is Phase.INTENT]
    assert [effects.known(world.store, intent) for intent in intents] == [
        Known(Effect.MADE, (Resource(role.arn, role.account_id, "AWS::IAM::Role"),)),
        Known(Effect.MADE),
        Known(Effect.NONE),
    ]
