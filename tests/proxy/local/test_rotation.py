"""Rotation: real versions of material, by themselves and on demand; who rotates and who does not, and what is told of it."""

from __future__ import annotations

from typing import Any  # members of requests and answers: JSON values, as in `proxy.domain.Members`

import pytest

from proxy.backends.local.due import Happening
from proxy.backends.local.maintenance import Done
from tests.proxy.local.importing import import_material, new_external_key
from tests.proxy.local.world import REGION, START_S, World, arn_of

DAY_S = 86_400


def maintain(world: World) -> list[tuple[Happening, Done | None]]:
    """Do all that is due, as often as something is."""
    done = []
    while due := world.due():
        done += [(one.happening, world.carry_out(one)) for one in due]
    return done


def current(world: World, key: str, region: str = REGION) -> str:
    found: str = world("DescribeKey", region, KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    return found


def rotations(world: World, key: str, listed: str | None = None, region: str = REGION) -> list[dict[str, Any]]:
    more = {} if listed is None else {"IncludeKeyMaterial": listed}
    found: list[dict[str, Any]] = world("ListKeyRotations", region, KeyId=key, **more)["Rotations"]
    return found


# --- on demand


def test_after_a_rotation_old_ciphertexts_decrypt_and_new_ones_name_the_new_material(world: World) -> None:
    key = world.new_key()
    first = current(world, key)
    old = world("Encrypt", KeyId=key, Plaintext=b"old")["CiphertextBlob"]
    assert world("RotateKeyOnDemand", KeyId=key) == {"KeyId": key}
    second = current(world, key)
    assert first != second
    made = world("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    assert made["KeyMaterialId"] == second
    for blob, plaintext, material in ((old, b"old", first), (made["CiphertextBlob"], made["Plaintext"], second)):
        answer = world.ask("Decrypt", CiphertextBlob=blob)
        assert (answer.members["Plaintext"], answer.members["KeyMaterialId"]) == (plaintext, material)
        assert answer.keys[0].material_id == material
    moved = world("ReEncrypt", CiphertextBlob=old, DestinationKeyId=key)
    assert (moved["SourceKeyMaterialId"], moved["DestinationKeyMaterialId"]) == (first, second)
    assert world("Decrypt", CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"old"


def test_rotations_are_listed(world: World) -> None:
    key = world.new_key()
    first = current(world, key)
    assert rotations(world, key) == []
    assert rotations(world, key, "ALL_KEY_MATERIAL") == [{"KeyId": key, "KeyMaterialId": first, "KeyMaterialState": "CURRENT"}]
    world.clock.now_s += 10
    world("RotateKeyOnDemand", KeyId=key)
    entry = {
        "KeyId": key,
        "KeyMaterialId": current(world, key),
        "KeyMaterialState": "CURRENT",
        "RotationDate": START_S + 10,
        "RotationType": "ON_DEMAND",
    }
    assert rotations(world, key) == rotations(world, key, "ROTATIONS_ONLY") == [entry]
    before = {"KeyId": key, "KeyMaterialId": first, "KeyMaterialState": "NON_CURRENT"}
    assert rotations(world, key, "ALL_KEY_MATERIAL") == [before, entry]


def test_rotations_come_in_pages_of_one_list(world: World) -> None:
    key = world.new_key()
    for _ in range(3):
        world("RotateKeyOnDemand", KeyId=key)
    page = world("ListKeyRotations", KeyId=key, Limit=2)
    rest = world("ListKeyRotations", KeyId=key, Limit=2, Marker=page["NextMarker"])
    assert page["Truncated"] and not rest["Truncated"]
    assert [*page["Rotations"], *rest["Rotations"]] == rotations(world, key)
    refusal = world.refused("ListKeyRotations", KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL", Marker=page["NextMarker"])
    assert refusal.code == "InvalidMarkerException"


def test_a_key_rotates_on_demand_25_times_whatever_rotates_by_itself(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    for _ in range(25):
        world("RotateKeyOnDemand", KeyId=key)
    refusal = world.refused("RotateKeyOnDemand", KeyId=key)
    assert refusal.code == "LimitExceededException" and arn_of(key) in (refusal.message or "")
    world.clock.now_s += 90 * DAY_S
    assert (Happening.ROTATION, None) not in maintain(world)
    assert [one["RotationType"] for one in rotations(world, key)] == ["ON_DEMAND"] * 25 + ["AUTOMATIC"]


def test_a_rotation_on_demand_does_not_come_between_an_automatic_one(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world.clock.now_s += 365 * DAY_S - 20 * 60 - 1
    world("RotateKeyOnDemand", KeyId=key)
    maintain(world)
    world.clock.now_s += 1
    assert world.refused("RotateKeyOnDemand", KeyId=key).code == "ConflictException"
    world.clock.now_s += 20 * 60
    maintain(world)
    world("RotateKeyOnDemand", KeyId=key)


def test_a_rotation_on_demand_leaves_the_schedule(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world.clock.now_s += DAY_S
    world("RotateKeyOnDemand", KeyId=key)
    assert world("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START_S + 365 * DAY_S


def test_the_event_of_a_rotation_on_demand_is_due_once(world: World) -> None:
    key = world.new_key()
    first = current(world, key)
    world("RotateKeyOnDemand", KeyId=key)
    second = current(world, key)
    world("RotateKeyOnDemand", KeyId=key)
    [due] = world.due()
    done = world.carry_out(due)
    assert done is not None
    told = [(one["rotationType"], one["keyOrigin"], one["previousKeyMaterialId"]) for one in done.details]
    assert told == [("ON_DEMAND", "AWS_KMS", first), ("ON_DEMAND", "AWS_KMS", second)]
    assert done.details[1]["currentKeyMaterialId"] == current(world, key)
    assert world.due() == [] and world.carry_out(due) is None


# --- by itself


def test_rotation_is_turned_on_and_off(world: World) -> None:
    key = world.new_key()
    off = {"KeyId": key, "KeyRotationEnabled": False}
    assert world("GetKeyRotationStatus", KeyId=key) == off
    for days in (365, 90, 2560):
        period: dict[str, Any] = {} if days == 365 else {"RotationPeriodInDays": days}
        assert world("EnableKeyRotation", KeyId=key, **period) == {}
        on = {"KeyRotationEnabled": True, "RotationPeriodInDays": days, "NextRotationDate": world.clock.now_s + days * DAY_S}
        assert world("GetKeyRotationStatus", KeyId=key) == {"KeyId": key, **on}
    world.clock.now_s += 5
    world("EnableKeyRotation", KeyId=key, RotationPeriodInDays=2560)
    assert world("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START_S + 2560 * DAY_S
    for _ in range(2):
        assert world("DisableKeyRotation", KeyId=key) == {}
        assert world("GetKeyRotationStatus", KeyId=key) == off
    world.clock.now_s += 3000 * DAY_S
    assert world.due() == []


def test_a_key_rotates_by_itself_when_its_day_has_come_and_again_a_period_later(world: World) -> None:
    key = world.new_key()
    first = current(world, key)
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    world("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    world.clock.now_s += 90 * DAY_S - 1
    assert world.due() == []
    world.clock.now_s += 11
    [(happening, done)] = maintain(world)
    assert happening is Happening.ROTATION and done is not None
    [details] = done.details
    assert details == {
        "rotationType": "AUTOMATIC",
        "keyOrigin": "AWS_KMS",
        "previousKeyMaterialId": first,
        "currentKeyMaterialId": current(world, key),
        "keyId": key,
    }
    assert world("Decrypt", CiphertextBlob=blob)["KeyMaterialId"] == first
    [entry] = rotations(world, key)
    assert (entry["RotationType"], entry["RotationDate"]) == ("AUTOMATIC", START_S + 90 * DAY_S + 10)
    assert world("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START_S + 180 * DAY_S


def test_after_years_without_maintenance_a_key_rotates_once(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world.clock.now_s += 1000 * DAY_S
    assert len(maintain(world)) == 1
    assert world("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == world.clock.now_s + 365 * DAY_S


def test_a_disabled_key_rotates_when_it_is_enabled_again(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world("DisableKey", KeyId=key)
    world.clock.now_s += 400 * DAY_S
    assert world.due() == []
    assert world("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is True
    world("EnableKey", KeyId=key)
    assert [happening for happening, _ in maintain(world)] == [Happening.ROTATION]


def test_a_key_that_is_pending_deletion_does_not_rotate_until_that_is_cancelled(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    world.clock.now_s += 89 * DAY_S
    world("ScheduleKeyDeletion", KeyId=key)
    assert world("GetKeyRotationStatus", KeyId=key) == {"KeyId": key, "KeyRotationEnabled": False}
    world.clock.now_s += 2 * DAY_S
    assert world.due() == []
    world("CancelKeyDeletion", KeyId=key)
    assert world("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is True
    world("EnableKey", KeyId=key)
    assert [happening for happening, _ in maintain(world)] == [Happening.ROTATION]


def test_of_two_workers_one_rotates(pair: tuple[World, World]) -> None:
    one, other = pair
    key = one.new_key()
    one("EnableKeyRotation", KeyId=key)
    one.clock.now_s += 365 * DAY_S
    [seen], [seen_by_other] = one.due(), other.due()
    assert one.carry_out(seen) is not None
    assert other.carry_out(seen_by_other) is None
    assert other.due() == [] and len(rotations(other, key)) == 1


# --- who does not


@pytest.mark.parametrize("operation", ["EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand", "ListKeyRotations"])
@pytest.mark.parametrize(("spec", "usage"), [("HMAC_256", "GENERATE_VERIFY_MAC"), ("ECC_NIST_P256", "SIGN_VERIFY")])
def test_only_symmetric_encryption_keys_rotate(world: World, operation: str, spec: str, usage: str) -> None:
    key = world.new_key(KeySpec=spec, KeyUsage=usage)
    refusal = world.refused(operation, KeyId=key)
    assert (refusal.code, refusal.message) == ("UnsupportedOperationException", None)
    assert world("GetKeyRotationStatus", KeyId=key) == {"KeyId": key, "KeyRotationEnabled": False}


@pytest.mark.parametrize("operation", ["EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus"])
def test_imported_material_does_not_rotate_by_itself(world: World, operation: str) -> None:
    key = new_external_key(world)
    refusal = world.refused(operation, KeyId=key)
    message = f"{arn_of(key)} origin is EXTERNAL which is not valid for this operation."
    assert (refusal.code, refusal.message) == ("UnsupportedOperationException", message)


@pytest.mark.parametrize("operation", ["EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"])
def test_the_states_that_forbid_rotation(world: World, operation: str) -> None:
    key = world.new_key()
    world("DisableKey", KeyId=key)
    refusal = world.refused(operation, KeyId=key)
    assert (refusal.code, refusal.message) == ("DisabledException", f"{arn_of(key)} is disabled.")
    world("ScheduleKeyDeletion", KeyId=key)
    refusal = world.refused(operation, KeyId=key)
    assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
    assert world("ListKeyRotations", KeyId=key)["Rotations"] == []


@pytest.mark.parametrize(
    "operation", ["EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus", "RotateKeyOnDemand", "ListKeyRotations"]
)
def test_rotation_takes_no_aliases(world: World, operation: str) -> None:
    world("CreateAlias", AliasName="alias/a", TargetKeyId=world.new_key())
    assert world.refused(operation, KeyId="alias/a").code == "InvalidArnException"


# --- imported material, on demand


def test_imported_material_rotates_to_what_was_imported_for_it(world: World) -> None:
    key = new_external_key(world)
    refusal = world.refused("RotateKeyOnDemand", KeyId=key)
    assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending import.")
    first = import_material(world, key, bytes(32))["KeyMaterialId"]
    old = world("Encrypt", KeyId=key, Plaintext=b"old")["CiphertextBlob"]
    refusal = world.refused("RotateKeyOnDemand", KeyId=key)
    message = f"No available key material pending rotation for the key: {arn_of(key)}."
    assert (refusal.code, refusal.message) == ("KMSInvalidStateException", message)

    new = {"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "of 2027"}
    second = import_material(world, key, b"2" * 32, **new)["KeyMaterialId"]
    assert current(world, key) == first
    states = [(one["KeyMaterialId"], one["KeyMaterialState"]) for one in rotations(world, key, "ALL_KEY_MATERIAL")]
    assert states == [(first, "CURRENT"), (second, "PENDING_ROTATION")]
    world("RotateKeyOnDemand", KeyId=key)
    assert current(world, key) == second
    assert world("Encrypt", KeyId=key, Plaintext=b"new")["CiphertextBlob"][5:37].hex() == second
    assert world("Decrypt", CiphertextBlob=old)["KeyMaterialId"] == first
    [entry] = rotations(world, key)
    assert entry == {
        "KeyId": key,
        "KeyMaterialId": second,
        "KeyMaterialState": "CURRENT",
        "KeyMaterialDescription": "of 2027",
        "ImportState": "IMPORTED",
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        "RotationDate": START_S,
        "RotationType": "ON_DEMAND",
    }
    [(happening, done)] = maintain(world)
    assert happening is Happening.ROTATED and done is not None and done.details[0]["keyOrigin"] == "EXTERNAL"
