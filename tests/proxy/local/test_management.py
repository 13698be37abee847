"""A key's life, from CreateKey to the day of its deletion; lists in pages; what is not supported yet."""

from __future__ import annotations

import asyncio
import os
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from botocore.session import get_session

from proxy.backends.local import pages
from proxy.backends.local.backend import CHANGES, READINGS, WORKS
from proxy.backends.local.keys import ALIAS, KEY
from proxy.backends.local.migrations import migrate
from proxy.backends.local.specs import SPECS
from proxy.domain import KeyUse
from proxy.kms.operations import OPERATIONS
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, REGION, START_S, World, arn_of, call

DAY_S = 86400


def test_a_new_keys_metadata_is_as_aws_returns_it(world: World) -> None:
    tags = [{"TagKey": "a", "TagValue": "1"}]
    answer = world.ask("CreateKey", Description="for backups", Tags=tags)
    metadata = dict(answer.members["KeyMetadata"])
    key, material = metadata.pop("KeyId"), metadata.pop("CurrentKeyMaterialId")
    assert metadata == {
        "AWSAccountId": ACCOUNT,
        "Arn": arn_of(key),
        "CreationDate": START_S,
        "Enabled": True,
        "Description": "for backups",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }
    assert len(bytes.fromhex(material)) == 32
    assert answer.keys == (KeyUse(arn_of(key), ACCOUNT),)
    described = world.ask("DescribeKey", KeyId=key)
    assert described.members == answer.members and described.keys == answer.keys
    assert world("ListResourceTags", KeyId=key)["Tags"] == tags


def test_metadata_has_no_member_that_the_service_model_lacks(world: World) -> None:
    world("ScheduleKeyDeletion", KeyId=(key := world.new_key()))
    shape = get_session().get_service_model("kms").shape_for("KeyMetadata")
    members = getattr(shape, "members")  # noqa: B009 - botocore has no types for the kinds of shapes
    assert set(world("DescribeKey", KeyId=key)["KeyMetadata"]) < set(members)


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"KeySpec": "SM2", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException"),
        ({"KeySpec": "HMAC_256"}, "ValidationException"),
        ({"CustomerMasterKeySpec": "ECC_NIST_P256"}, "ValidationException"),
        ({"KeyUsage": "SIGN_VERIFY"}, "ValidationException"),
        ({"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "KEY_AGREEMENT"}, "ValidationException"),
    ],
)
def test_what_does_not_go_together_is_refused(world: World, parameters: dict[str, Any], code: str) -> None:
    assert world.refused("CreateKey", **parameters).code == code
    assert world("ListKeys")["Keys"] == []


@pytest.mark.parametrize(("spec", "usage"), [(spec.name, usage) for spec in SPECS.values() for usage in spec.algorithms])
def test_keys_of_every_spec_and_usage(world: World, spec: str, usage: str) -> None:
    if spec == "ML_KEM_512":  # the library has none
        assert world.refused("CreateKey", KeySpec=spec, KeyUsage=usage).code == "UnsupportedOperationException"
        return
    metadata = world("CreateKey", KeySpec=spec, KeyUsage=usage)["KeyMetadata"]
    assert (metadata["KeySpec"], metadata["CustomerMasterKeySpec"], metadata["KeyUsage"]) == (spec, spec, usage)
    [member] = [name for name in metadata if name.endswith("Algorithms")]
    assert metadata[member] == list(SPECS[spec].algorithms[usage])
    assert ("CurrentKeyMaterialId" in metadata) == (spec == "SYMMETRIC_DEFAULT")


def test_the_specs_are_those_of_the_service_model() -> None:
    model = get_session().get_service_model("kms")
    names = {name: getattr(model.shape_for(name), "enum") for name in ("KeySpec", "KeyUsageType")}  # noqa: B009 - as above
    assert set(SPECS) | {"SM2"} == set(names["KeySpec"])
    assert {usage for spec in SPECS.values() for usage in spec.algorithms} == set(names["KeyUsageType"])


def test_a_key_that_waits_for_its_material(world: World) -> None:
    metadata = world("CreateKey", Origin="EXTERNAL")["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"], metadata["Origin"]) == ("PendingImport", False, "EXTERNAL")
    assert "CurrentKeyMaterialId" not in metadata
    for operation, plaintext in (("Encrypt", b"x"), ("EnableKey", None), ("DisableKey", None)):
        refusal = world.refused(operation, KeyId=metadata["KeyId"], Plaintext=plaintext)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{metadata['Arn']} is pending import.")


def test_a_multi_region_key_has_an_id_of_its_kind(world: World) -> None:
    metadata = world("CreateKey", MultiRegion=True)["KeyMetadata"]
    assert metadata["KeyId"].startswith("mrk-") and len(metadata["KeyId"]) == 36
    primary = {"Arn": metadata["Arn"], "Region": REGION}
    regions = {"MultiRegionKeyType": "PRIMARY", "PrimaryKey": primary, "ReplicaKeys": []}
    assert metadata["MultiRegionConfiguration"] == regions


def test_the_old_and_the_new_name_of_the_spec_exclude_each_other(world: World) -> None:
    spec = "SYMMETRIC_DEFAULT"
    assert world.new_key(CustomerMasterKeySpec=spec) != world.new_key(KeySpec=spec, MultiRegion=False)
    assert world.refused("CreateKey", KeySpec=spec, CustomerMasterKeySpec=spec).code == "ValidationException"


def test_what_has_no_handler_yet_is_unsupported(world: World) -> None:
    for operation in set(OPERATIONS) - set(READINGS) - set(CHANGES) - set(WORKS):
        refusal = world.refused(operation, KeyId="x")
        assert refusal.code == "UnsupportedOperationException" and operation in (refusal.message or "")
    assert all(OPERATIONS[name].mutates for name in CHANGES)
    assert not any(OPERATIONS[name].mutates for name in READINGS)


def test_accounts_have_keys_and_aliases_of_their_own(world: World) -> None:
    key = world.new_key()
    world("CreateAlias", AliasName="alias/one", TargetKeyId=key)
    blob = world("Encrypt", KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    world.caller = BOB
    assert (world("ListKeys")["Keys"], world("ListAliases")["Aliases"]) == ([], [])
    assert world.refused("DescribeKey", KeyId=key).code == "NotFoundException"
    assert world.refused("DescribeKey", KeyId=arn_of(key)).code == "AccessDeniedException"
    assert world.refused("Decrypt", CiphertextBlob=blob).code == "AccessDeniedException"
    own = world.new_key()
    world("CreateAlias", AliasName="alias/one", TargetKeyId=own)
    assert world("DescribeKey", KeyId="alias/one")["KeyMetadata"]["Arn"] == f"arn:aws:kms:{REGION}:{BOB.account_id}:key/{own}"
    world.caller = ALICE
    assert world("DescribeKey", KeyId="alias/one")["KeyMetadata"]["KeyId"] == key
    assert world("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"secret"


def test_an_alias_moves_between_keys_of_one_kind_only(world: World) -> None:
    world("CreateAlias", AliasName="alias/one", TargetKeyId=world.new_key())
    mac = world.new_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    assert world.refused("UpdateAlias", AliasName="alias/one", TargetKeyId=mac).code == "ValidationException"
    world("UpdateAlias", AliasName="alias/one", TargetKeyId=world.new_key())


def test_descriptions_change(world: World) -> None:
    key = world.new_key(Description="old")
    world("UpdateKeyDescription", KeyId=key, Description="new")
    assert world("DescribeKey", KeyId=key)["KeyMetadata"]["Description"] == "new"
    world("ScheduleKeyDeletion", KeyId=key)
    assert world.refused("UpdateKeyDescription", KeyId=key, Description="x").code == "KMSInvalidStateException"


def test_rows_of_earlier_versions_are_read(world: World) -> None:
    """An alias's row had its name for an id; a key's listed no sizes."""
    key = world.new_key()
    with world.store.change() as tx:
        row = tx.get(KEY, REGION, key)
        assert row is not None
        materials = [{"id": one["id"], "created_s": one["created_s"]} for one in row.body["materials"]]
        tx.put(KEY, REGION, key, {**row.body, "materials": materials}, row.secret)
        tx.put(ALIAS, REGION, "alias/old", {"account": ACCOUNT, "created_s": 1.0, "updated_s": 2.0}, parent=key)
    migrate(world.store)
    migrate(world.store)
    [alias] = world("ListAliases")["Aliases"]
    assert (alias["AliasName"], alias["TargetKeyId"], alias["CreationDate"]) == ("alias/old", key, 1.0)
    assert world("Encrypt", KeyId="alias/old", Plaintext=b"x")["KeyId"] == arn_of(key)


def test_disabling_and_enabling(world: World) -> None:
    key = world.new_key()
    for operation, state in (("DisableKey", "Disabled"), ("DisableKey", "Disabled"), ("EnableKey", "Enabled")):
        answer = world.ask(operation, KeyId=arn_of(key))
        assert (answer.members, answer.keys) == ({}, (KeyUse(arn_of(key), ACCOUNT),))
        metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
        assert (metadata["KeyState"], metadata["Enabled"]) == (state, state == "Enabled")


def test_scheduling_and_cancelling_deletion(world: World) -> None:
    key = world.new_key()
    refusal = world.refused("CancelKeyDeletion", KeyId=key)
    assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is not pending deletion.")
    scheduled = world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert scheduled == {
        "KeyId": arn_of(key),
        "DeletionDate": START_S + 7 * DAY_S,
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": 7,
    }
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == ("PendingDeletion", False)
    assert metadata["DeletionDate"] == scheduled["DeletionDate"]
    for operation, parameters in (
        ("EnableKey", {}),
        ("DisableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("TagResource", {"Tags": []}),
        ("UntagResource", {"TagKeys": ["a"]}),
    ):
        refusal = world.refused(operation, KeyId=key, **parameters)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
        assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)
    assert world("CancelKeyDeletion", KeyId=key) == {"KeyId": arn_of(key)}
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert metadata["KeyState"] == "Disabled" and "DeletionDate" not in metadata


def test_the_waiting_period(world: World) -> None:
    key = world.new_key()
    for days in (1, 6, 31, 365):
        refusal = world.refused("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=days)
        assert refusal.code == "ValidationException" and f"'{days}'" in (refusal.message or "")
    assert world("ScheduleKeyDeletion", KeyId=key)["DeletionDate"] == START_S + 30 * DAY_S


def test_after_its_deletion_date_a_key_is_gone_for_every_use(world: World) -> None:
    key, stays = world.new_key(), world.new_key()
    world("CreateAlias", AliasName="alias/gone", TargetKeyId=key)
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * DAY_S - 1
    assert world("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    world.clock.now_s += 1
    calls: dict[str, dict[str, Any]] = {
        "DescribeKey": {},
        "Encrypt": {"Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob},
        "GenerateDataKey": {"KeySpec": "AES_256"},
        "EnableKey": {},
        "CancelKeyDeletion": {},
        "ScheduleKeyDeletion": {},
        "TagResource": {"Tags": []},
        "ListResourceTags": {},
        "ListAliases": {},
    }
    for operation, parameters in calls.items():
        refusal = world.refused(operation, KeyId=key, **parameters)
        assert (refusal.code, refusal.message) == ("NotFoundException", f"Key '{arn_of(key)}' does not exist")
    assert world.refused("Decrypt", CiphertextBlob=blob).code == "AccessDeniedException"
    assert world.refused("DescribeKey", KeyId="alias/gone").message == (
        f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/gone is not found."
    )
    assert world.refused("DeleteAlias", AliasName="alias/gone").code == "NotFoundException"
    assert world("ListAliases")["Aliases"] == []
    assert [one["KeyId"] for one in world("ListKeys")["Keys"]] == [stays]
    world("CreateAlias", AliasName="alias/gone", TargetKeyId=stays)  # its name is free again
    assert world("DescribeKey", KeyId="alias/gone")["KeyMetadata"]["KeyId"] == stays


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("EnableKey", {}),
        ("DisableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("CancelKeyDeletion", {}),
        ("TagResource", {"Tags": []}),
        ("UntagResource", {"TagKeys": []}),
        ("ListResourceTags", {}),
        ("ListAliases", {}),
    ],
)
def test_management_takes_no_aliases(world: World, operation: str, parameters: dict[str, Any]) -> None:
    world("CreateAlias", AliasName="alias/a", TargetKeyId=world.new_key())
    for form in ("alias/a", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/a"):
        refusal = world.refused(operation, KeyId=form, **parameters)
        assert (refusal.code, refusal.message) == (
            "InvalidArnException",
            "Key Aliases are not supported for this operation.",
        )


def test_keys_are_listed_in_pages_each_once(world: World) -> None:
    made = {world.new_key() for _ in range(7)}
    world.new_key("eu-west-1")
    found: list[str] = []
    page = world("ListKeys", Limit=3)
    while page["Truncated"]:
        assert len(page["Keys"]) == 3
        found += [key["KeyId"] for key in page["Keys"]]
        page = world("ListKeys", Limit=3, Marker=page["NextMarker"])
    found += [key["KeyId"] for key in page["Keys"]]
    assert "NextMarker" not in page
    assert len(found) == 7 and set(found) == made
    assert world("ListKeys", Limit=7)["Truncated"] is False
    assert world("ListKeys")["Keys"][0] == {"KeyId": min(made), "KeyArn": arn_of(min(made))}
    assert world("ListKeys", ResourceOwners=["OTHER_ACCOUNTS_VIA_RAM"]) == {"Keys": [], "Truncated": False}


def test_a_long_list_of_keys_gives_other_calls_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And sees what they change behind where it is; `ListKeys` first looks into rows, which takes some time."""
    monkeypatch.setattr(pages, "AT_ONCE", 2)
    there = sorted(world.new_key() for _ in range(9))

    async def main() -> list[str]:
        listing = asyncio.ensure_future(world.backend.call(call("ListKeys", Limit=1000)))
        await asyncio.sleep(0)
        turns = 0
        while not listing.done():
            turns += 1
            if turns == 2:
                with world.store.change() as tx:
                    tx.delete(KEY, REGION, there[0])
                    tx.delete(KEY, REGION, there[-1])
            await asyncio.sleep(0)
        assert turns >= 4
        return [key["KeyId"] for key in (await listing).members["Keys"]]

    assert asyncio.run(main()) == there[:-1]


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("limit", [1, 2, 6, 7, 8])
def test_pages_are_the_same_however_many_rows_are_looked_into_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, at_once: int, limit: int
) -> None:
    monkeypatch.setattr(pages, "AT_ONCE", at_once)
    there = sorted(world.new_key() for _ in range(7))
    first = world("ListKeys", Limit=limit)
    assert [key["KeyId"] for key in first["Keys"]] == there[:limit]
    assert first["Truncated"] == (limit < 7)


def test_markers_are_opaque_and_of_one_list(world: World) -> None:
    for _ in range(2):
        world.new_key()
    marker = world("ListKeys", Limit=1)["NextMarker"]
    assert world("ListKeys", Marker=marker)["Keys"]
    for wrong in ("x", "AAAA", marker[:-4], "W10=", "bnVsbA==", "ÿ"):
        assert world.refused("ListKeys", Marker=wrong).code == "InvalidMarkerException"
    assert world.refused("ListAliases", Marker=marker).code == "InvalidMarkerException"


def test_many_changes_at_once_all_happen(world: World) -> None:
    async def main() -> None:
        key = (await world.backend.call(call("CreateKey"))).members["KeyMetadata"]["KeyId"]
        tags = ({"KeyId": key, "Tags": [{"TagKey": str(n), "TagValue": ""}]} for n in range(40))
        await asyncio.gather(*(world.backend.call(call("TagResource", **one)) for one in tags))
        listed = await world.backend.call(call("ListResourceTags", KeyId=key))
        assert {tag["TagKey"] for tag in listed.members["Tags"]} == {str(n) for n in range(40)}

    asyncio.run(main())


def test_no_key_material_shows(world: World) -> None:
    seen: list[bytes] = []

    def watched(size: int) -> bytes:
        seen.append(os.urandom(size))
        return seen[-1]

    object.__setattr__(world.backend._around, "random", watched)
    answer = world.ask("CreateKey")
    secret = seen[0]
    assert len(secret) == 32
    tables = world.backend._tables
    key = tables.find_key(ACCOUNT, REGION, answer.members["KeyMetadata"]["KeyId"])
    assert key is not None
    shown = f"{answer!r} {answer.members} {key!r} {key.materials!r} {world.backend!r} {tables!r} {world.store!r}"
    assert key.id in shown
    assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
    for file in world.path.parent.iterdir():
        assert secret not in file.read_bytes()
