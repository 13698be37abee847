"""What a session may do in KMS is what its role may, and the record says by which word."""

from __future__ import annotations

from proxy.permissions import Permissions
from tests.proxy.local.policies import document, statement
from tests.proxy.local.world import ACCOUNT
from tests.proxy.sts.world import World, refusal, trust

ALICE, ROLE = f"arn:aws:iam::{ACCOUNT}:user/alice", f"arn:aws:iam::{ACCOUNT}:role/reader"
KMS = "kms.amazonaws.com"


def test_a_session_may_what_its_role_may_and_the_record_tells_by_which_statement(world: World) -> None:
    alice = world.callers.add(ALICE)
    world.roles.add(ROLE, trust(ALICE, actions=["sts:AssumeRole", "sts:TagSession"]))
    key = world.client("kms", alice).create_key(Tags=[{"TagKey": "team", "TagValue": "blue"}])["KeyMetadata"]["Arn"]
    of_team = {"StringEquals": {"aws:PrincipalTag/team": "${aws:ResourceTag/team}"}}
    own = document(statement(action="kms:GenerateDataKey*", Sid="OfTeam", Condition=of_team))
    Permissions(world.store).put(ROLE, "team-keys", own)
    sts = world.client("sts", alice)
    for team, allowed in (("blue", True), ("red", False)):
        tags = [{"Key": "team", "Value": team}]
        session = sts.assume_role(RoleArn=ROLE, RoleSessionName="run-1", Tags=tags)["Credentials"]
        kms = world.client("kms", session)
        if allowed:
            kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        else:
            code, message, _ = refusal(kms, "generate_data_key", KeyId=key, KeySpec="AES_256")
            assert code == "AccessDeniedException"
            assert message.endswith("because no identity-based policy allows the kms:GenerateDataKey action")
    created, done, refused = (
        line
        for line in world.log.lines
        if line["eventSource"] == KMS and line["additionalEventData"]["keytrail"]["phase"] != "intent"
    )
    full = {"policy": "KMSFullAccess", "statement": "KMSFullAccess"}
    assert created["additionalEventData"]["keytrail"]["allowedBy"] == [full, full]  # the key, and its tags
    assert done["additionalEventData"]["keytrail"]["allowedBy"] == [{"policy": "team-keys", "statement": "OfTeam"}]
    assert "allowedBy" not in refused["additionalEventData"]["keytrail"] and refused["errorCode"] == "AccessDenied"
    assert refused["resources"][0]["ARN"] == key
