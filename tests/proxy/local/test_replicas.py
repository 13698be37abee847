"""Multi-region keys: what primary and replicas share, what is each one's own, and who goes first."""

from __future__ import annotations

import json
from typing import Any  # members of answers: JSON values, as in `proxy.domain.Members`

import pytest

from proxy.backends.local.due import Happening
from proxy.errors import KmsError
from tests.proxy.local.importing import import_material, new_external_key
from tests.proxy.local.policies import document, give, of_account, statement
from tests.proxy.local.test_rotation import DAY_S, current, maintain, rotations
from tests.proxy.local.world import ACCOUNT, ALICE, REGION, World, arn_of

EU, AP = "eu-west-1", "ap-southeast-1"


def new_multi_region_key(world: World, *regions: str, **parameters: str) -> str:
    key = world.new_key(MultiRegion=True, **parameters)
    for region in regions:
        world("ReplicateKey", KeyId=key, ReplicaRegion=region)
    return key


def described(world: World, key: str, region: str = REGION) -> dict[str, Any]:
    found: dict[str, Any] = world("DescribeKey", region, KeyId=key)["KeyMetadata"]
    return found


def regions_of(world: World, key: str, region: str = REGION) -> tuple[str, str, list[str]]:
    found = described(world, key, region)["MultiRegionConfiguration"]
    return found["MultiRegionKeyType"], found["PrimaryKey"]["Region"], [one["Region"] for one in found["ReplicaKeys"]]


def test_a_replica_shares_id_and_material_and_nothing_that_is_its_own(world: World) -> None:
    tags = [{"TagKey": "of", "TagValue": "the replica"}]
    key = world.new_key(MultiRegion=True, Description="primary", Tags=[{"TagKey": "a", "TagValue": "1"}])
    world.clock.now_s += 5
    answer = world.ask("ReplicateKey", KeyId=key, ReplicaRegion=EU, Description="replica", Tags=tags)
    made = answer.members["ReplicaKeyMetadata"]
    assert (made["KeyState"], made["Enabled"], made["Arn"]) == ("Creating", False, arn_of(key, EU))
    assert answer.members["ReplicaTags"] == tags and answer.keys[0].arn == arn_of(key)
    assert json.loads(answer.members["ReplicaPolicy"])["Id"] == "key-default-1"
    replica, primary = described(world, key, EU), described(world, key)
    assert (replica["KeyId"], replica["KeyState"], replica["Description"]) == (key, "Enabled", "replica")
    assert replica["CurrentKeyMaterialId"] == primary["CurrentKeyMaterialId"] == made["CurrentKeyMaterialId"]
    assert replica["CreationDate"] == primary["CreationDate"] + 5
    assert (regions_of(world, key), regions_of(world, key, EU)) == (("PRIMARY", REGION, [EU]), ("REPLICA", REGION, [EU]))
    assert world("ListResourceTags", EU, KeyId=key)["Tags"] == tags
    world("CreateAlias", EU, AliasName="alias/a", TargetKeyId=key)
    assert world.refused("DescribeKey", KeyId="alias/a").code == "NotFoundException"
    world("DisableKey", EU, KeyId=key)
    assert described(world, key)["KeyState"] == "Enabled"


def test_ciphertexts_decrypt_in_every_region(world: World) -> None:
    key = new_multi_region_key(world, EU, AP)
    for made_in in (REGION, EU, AP):
        blob = world("Encrypt", made_in, KeyId=key, Plaintext=made_in.encode())["CiphertextBlob"]
        for region in (REGION, EU, AP):
            answer = world("Decrypt", region, CiphertextBlob=blob)
            assert (answer["Plaintext"], answer["KeyId"]) == (made_in.encode(), arn_of(key, region))


@pytest.mark.parametrize(("spec", "usage"), [("RSA_2048", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")])
def test_other_specs_replicate_too(world: World, spec: str, usage: str) -> None:
    key = new_multi_region_key(world, EU, KeySpec=spec, KeyUsage=usage)
    primary, replica = (world.backend._tables.all_keys.find(region, key) for region in (REGION, EU))
    assert primary is not None and replica is not None
    assert (primary.current.secret, primary.public) == (replica.current.secret, replica.public)


def test_who_can_be_replicated_and_where_to(world: World) -> None:
    single, key = world.new_key(), new_multi_region_key(world, EU)
    not_primary = "is not a multi-Region primary key."
    cases: tuple[tuple[str, str, str, str, str], ...] = (
        (REGION, single, EU, "UnsupportedOperationException", f"{arn_of(single)} {not_primary}"),
        (EU, key, AP, "UnsupportedOperationException", f"{arn_of(key, EU)} {not_primary}"),
        (REGION, key, EU, "AlreadyExistsException", f"{arn_of(key, EU)} already exists."),
        (REGION, key, REGION, "UnsupportedOperationException", f"{arn_of(key)} cannot be replicated into {REGION}."),
        (REGION, key, "cn-north-1", "UnsupportedOperationException", f"{arn_of(key)} cannot be replicated into cn-north-1."),
        (REGION, "alias/a", EU, "InvalidArnException", "Key Aliases are not supported for this operation."),
    )
    for region, named, target, code, message in cases:
        refusal = world.refused("ReplicateKey", region, KeyId=named, ReplicaRegion=target)
        assert (refusal.code, refusal.message) == (code, message)
    duplicate = [{"TagKey": "a", "TagValue": "1"}] * 2
    assert world.refused("ReplicateKey", KeyId=key, ReplicaRegion=AP, Tags=duplicate).code == "TagException"
    assert regions_of(world, key) == ("PRIMARY", REGION, [EU])


@pytest.mark.parametrize("operation", ["ReplicateKey", "UpdatePrimaryRegion"])
def test_the_states_that_forbid_it(world: World, operation: str) -> None:
    key = new_multi_region_key(world, EU)
    members = {"KeyId": key, "ReplicaRegion": AP, "PrimaryRegion": EU}
    world("DisableKey", KeyId=key)
    assert world.refused(operation, **members).message == f"{arn_of(key)} is disabled."
    world("ScheduleKeyDeletion", KeyId=key)
    assert world.refused(operation, **members).message == f"{arn_of(key)} is pending replica deletion."


@pytest.mark.parametrize(
    ("operation", "action", "region"),
    [
        ("ReplicateKey", "kms:ReplicateKey", REGION),
        ("ReplicateKey", "kms:CreateKey", AP),
        ("ReplicateKey", "kms:TagResource", AP),
        ("ReplicateKey", "kms:PutKeyPolicy", AP),
        ("UpdatePrimaryRegion", "kms:UpdatePrimaryRegion", REGION),
        ("UpdatePrimaryRegion", "kms:UpdatePrimaryRegion", EU),
    ],
)
def test_a_caller_must_be_allowed_in_both_regions(world: World, operation: str, action: str, region: str) -> None:
    key = new_multi_region_key(world, EU)
    give(world, ALICE, statement(), statement("Deny", action, Condition={"StringEquals": {"aws:RequestedRegion": region}}))
    tags = [{"TagKey": "a", "TagValue": "1"}]
    policy = document(of_account())
    refusal = world.refused(operation, KeyId=key, ReplicaRegion=AP, PrimaryRegion=EU, Tags=tags, Policy=policy)
    assert refusal.code == "AccessDeniedException" and action in str(refusal.message)
    give(world, ALICE, statement())
    assert regions_of(world, key) == ("PRIMARY", REGION, [EU])


def test_a_replicas_policy_is_its_own_and_checked_like_any(world: World) -> None:
    key, policy = new_multi_region_key(world), document(of_account(), statement(principal="*"))
    refusal = world.refused("ReplicateKey", KeyId=key, ReplicaRegion=EU, Policy=document(of_account("kms:Encrypt")))
    assert refusal.code == "MalformedPolicyDocumentException"
    assert regions_of(world, key) == ("PRIMARY", REGION, [])
    world("ReplicateKey", KeyId=key, ReplicaRegion=EU, Policy=policy)
    assert world("GetKeyPolicy", EU, KeyId=key)["Policy"] == policy
    assert world("GetKeyPolicy", KeyId=key)["Policy"] != policy


def test_the_primary_moves(world: World) -> None:
    key = new_multi_region_key(world, EU, AP)
    assert world.ask("UpdatePrimaryRegion", KeyId=key, PrimaryRegion=EU).members == {}
    for region, kind in ((REGION, "REPLICA"), (EU, "PRIMARY"), (AP, "REPLICA")):
        assert regions_of(world, key, region) == (kind, EU, [AP, REGION])
        assert described(world, key, region)["KeyState"] == "Enabled"
    refusal = world.refused("UpdatePrimaryRegion", KeyId=key, PrimaryRegion=AP)
    assert (refusal.code, refusal.message) == (
        "UnsupportedOperationException",
        f"{arn_of(key)} is not a multi-Region primary key.",
    )
    refusal = world.refused("UpdatePrimaryRegion", EU, KeyId=key, PrimaryRegion="us-west-2")
    assert (refusal.code, refusal.message) == ("NotFoundException", f"Key '{arn_of(key, 'us-west-2')}' does not exist")
    assert world.refused("UpdatePrimaryRegion", EU, KeyId=key, PrimaryRegion=EU).code == "ValidationException"
    world("ReplicateKey", EU, KeyId=key, ReplicaRegion="us-west-2")
    assert regions_of(world, key) == ("REPLICA", EU, [AP, REGION, "us-west-2"])


def test_the_primary_moves_to_no_replica_that_is_disabled(world: World) -> None:
    key = new_multi_region_key(world, EU)
    world("DisableKey", EU, KeyId=key)
    refusal = world.refused("UpdatePrimaryRegion", KeyId=key, PrimaryRegion=EU)
    assert (refusal.code, refusal.message) == ("DisabledException", f"{arn_of(key, EU)} is disabled.")


# --- rotation


def test_the_primary_rotates_and_its_replicas_follow(world: World) -> None:
    key = new_multi_region_key(world, EU)
    old = world("Encrypt", EU, KeyId=key, Plaintext=b"old")["CiphertextBlob"]
    world("RotateKeyOnDemand", KeyId=key)
    assert current(world, key) == current(world, key, EU) != old[5:37].hex()
    new = world("Encrypt", EU, KeyId=key, Plaintext=b"new")["CiphertextBlob"]
    assert [world("Decrypt", CiphertextBlob=blob)["Plaintext"] for blob in (old, new)] == [b"old", b"new"]
    assert rotations(world, key) == rotations(world, key, region=EU)
    [(happening, done)] = maintain(world)
    assert happening is Happening.ROTATED and done is not None
    assert [one.arn for one in done.keys] == [arn_of(key), arn_of(key, EU)]


def test_automatic_rotation_is_shared_and_turned_on_at_the_primary(world: World) -> None:
    key = new_multi_region_key(world, EU)
    world("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    world("ReplicateKey", KeyId=key, ReplicaRegion=AP)
    for region in (EU, AP):
        assert world("GetKeyRotationStatus", region, KeyId=key) == world("GetKeyRotationStatus", KeyId=key)
    world.clock.now_s += 90 * DAY_S
    assert [happening for happening, _ in maintain(world)] == [Happening.ROTATION]
    assert len({current(world, key, region) for region in (REGION, EU, AP)}) == 1
    assert world("GetKeyRotationStatus", EU, KeyId=key)["NextRotationDate"] == world.clock.now_s + 90 * DAY_S
    world("UpdatePrimaryRegion", KeyId=key, PrimaryRegion=EU)
    world.clock.now_s += 90 * DAY_S
    assert [happening for happening, _ in maintain(world)] == [Happening.ROTATION]
    assert len(rotations(world, key, region=AP)) == 2


@pytest.mark.parametrize("operation", ["EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"])
def test_replicas_do_not_rotate_for_themselves(world: World, operation: str) -> None:
    key = new_multi_region_key(world, EU)
    refusal = world.refused(operation, EU, KeyId=key)
    message = f"{arn_of(key, EU)} is not a multi-Region primary key."
    assert (refusal.code, refusal.message) == ("UnsupportedOperationException", message)


# --- imported material


def test_each_region_imports_the_same_material_for_itself(world: World) -> None:
    key = new_external_key(world, MultiRegion=True)
    assert world.refused("ReplicateKey", KeyId=key, ReplicaRegion=EU).message == f"{arn_of(key)} is pending import."
    material = import_material(world, key, bytes(32))["KeyMaterialId"]
    world("ReplicateKey", KeyId=key, ReplicaRegion=EU)
    assert described(world, key, EU)["KeyState"] == "PendingImport"
    [entry] = rotations(world, key, "ALL_KEY_MATERIAL", EU)
    assert (entry["KeyMaterialId"], entry["ImportState"]) == (material, "PENDING_IMPORT")
    with pytest.raises(KmsError, match="IncorrectKeyMaterialException"):
        import_material(world, key, b"x" * 32, EU)
    assert import_material(world, key, bytes(32), EU)["KeyMaterialId"] == material
    blob = world("Encrypt", EU, KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert world("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"x"
    world("DeleteImportedKeyMaterial", EU, KeyId=key)
    assert (described(world, key)["KeyState"], described(world, key, EU)["KeyState"]) == ("Enabled", "PendingImport")


def test_new_material_rotates_when_every_region_has_it(world: World) -> None:
    key = new_external_key(world, MultiRegion=True)
    import_material(world, key, bytes(32))
    world("ReplicateKey", KeyId=key, ReplicaRegion=EU)
    import_material(world, key, bytes(32), EU)
    new = {"ImportType": "NEW_KEY_MATERIAL"}
    with pytest.raises(KmsError, match="UnsupportedOperationException"):
        import_material(world, key, b"2" * 32, EU, **new)
    second = import_material(world, key, b"2" * 32, **new)["KeyMaterialId"]

    def states(region: str) -> list[tuple[str, str]]:
        found = rotations(world, key, "ALL_KEY_MATERIAL", region)
        return [(one["KeyMaterialState"], one["ImportState"]) for one in found]

    waits = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"
    assert (states(REGION)[1], states(EU)[1]) == ((waits, "IMPORTED"), (waits, "PENDING_IMPORT"))
    assert described(world, key, EU)["KeyState"] == "Enabled"
    assert world.refused("RotateKeyOnDemand", KeyId=key).code == "KMSInvalidStateException"
    assert import_material(world, key, b"2" * 32, EU)["KeyMaterialId"] == second
    assert states(REGION) == states(EU) == [("CURRENT", "IMPORTED"), ("PENDING_ROTATION", "IMPORTED")]
    world("RotateKeyOnDemand", KeyId=key)
    assert current(world, key) == current(world, key, EU) == second
    assert states(EU) == [("NON_CURRENT", "IMPORTED"), ("CURRENT", "IMPORTED")]


def test_material_that_waits_goes_from_the_replicas_with_the_primarys(world: World) -> None:
    key = new_external_key(world, MultiRegion=True)
    import_material(world, key, bytes(32))
    world("ReplicateKey", KeyId=key, ReplicaRegion=EU)
    import_material(world, key, bytes(32), EU)
    second = import_material(world, key, b"2" * 32, ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
    import_material(world, key, b"2" * 32, EU)
    world("DeleteImportedKeyMaterial", EU, KeyId=key, KeyMaterialId=second)
    assert len(rotations(world, key, "ALL_KEY_MATERIAL")) == len(rotations(world, key, "ALL_KEY_MATERIAL", EU)) == 2
    world("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=second)
    assert len(rotations(world, key, "ALL_KEY_MATERIAL")) == len(rotations(world, key, "ALL_KEY_MATERIAL", EU)) == 1


# --- deletion


def test_a_primary_waits_for_its_replicas_to_be_gone(world: World) -> None:
    key = new_multi_region_key(world, EU, AP)
    answer = world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=9)
    assert answer == {"KeyId": arn_of(key), "KeyState": "PendingReplicaDeletion", "PendingWindowInDays": 9}
    metadata = described(world, key)
    assert (metadata["KeyState"], metadata["PendingDeletionWindowInDays"]) == ("PendingReplicaDeletion", 9)
    assert "DeletionDate" not in metadata
    assert world.refused("Encrypt", KeyId=key, Plaintext=b"x").message == f"{arn_of(key)} is pending replica deletion."
    world("Encrypt", EU, KeyId=key, Plaintext=b"x")
    world.clock.now_s += 100 * DAY_S
    assert world.due() == []

    world("ScheduleKeyDeletion", EU, KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * DAY_S
    assert [happening for happening, _ in maintain(world)] == [Happening.DELETION]
    assert regions_of(world, key) == ("PRIMARY", REGION, [AP]) and described(world, key)["KeyState"] == "PendingReplicaDeletion"
    world("ScheduleKeyDeletion", AP, KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * DAY_S
    maintain(world)
    metadata = described(world, key)
    assert (metadata["KeyState"], metadata["DeletionDate"]) == ("PendingDeletion", world.clock.now_s + 9 * DAY_S)
    assert "PendingDeletionWindowInDays" not in metadata
    world.clock.now_s += 9 * DAY_S
    assert [happening for happening, _ in maintain(world)] == [Happening.DELETION]
    assert world.refused("DescribeKey", KeyId=key).code == "NotFoundException"


def test_a_primarys_deletion_is_cancelled(world: World) -> None:
    key = new_multi_region_key(world, EU)
    world("ScheduleKeyDeletion", KeyId=key)
    assert world("CancelKeyDeletion", KeyId=key) == {"KeyId": arn_of(key)}
    metadata = described(world, key)
    assert metadata["KeyState"] == "Disabled" and "PendingDeletionWindowInDays" not in metadata


def test_a_deleted_replica_can_be_made_again(world: World) -> None:
    key = new_multi_region_key(world, EU)
    blob = world("Encrypt", EU, KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    world("ScheduleKeyDeletion", EU, KeyId=key)
    assert world.refused("ReplicateKey", KeyId=key, ReplicaRegion=EU).code == "AlreadyExistsException"
    world.clock.now_s += 30 * DAY_S
    maintain(world)
    assert regions_of(world, key) == ("PRIMARY", REGION, [])
    world("ReplicateKey", KeyId=key, ReplicaRegion=EU)
    assert world("Decrypt", EU, CiphertextBlob=blob)["Plaintext"] == b"x"


def test_the_arns_of_other_partitions(world: World) -> None:
    key = world.new_key("cn-north-1", MultiRegion=True)
    world("ReplicateKey", "cn-north-1", KeyId=key, ReplicaRegion="cn-northwest-1")
    assert described(world, key, "cn-northwest-1")["Arn"] == f"arn:aws-cn:kms:cn-northwest-1:{ACCOUNT}:key/{key}"
