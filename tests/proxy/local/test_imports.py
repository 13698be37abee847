"""Imported key material: how it travels, what is refused, what expires, and what may come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key

from proxy.backends.local import imports
from proxy.backends.local.due import Happening
from proxy.backends.local.keys import KEY
from proxy.backends.local.material import NewSecret, PrivateKey, pair_secret
from proxy.backends.local.specs import SPECS, KeySpec
from proxy.backends.local.wrapping import read_material
from tests.proxy.local.importing import OAEP, WITH_AES, import_material, new_external_key, parameters_for_import, sent, wrap
from tests.proxy.local.test_rotation import current, maintain, rotations
from tests.proxy.local.world import BOB, REGION, START_S, World, arn_of

HOUR_S, DAY_S = 3_600, 86_400
MATERIAL, OTHER = bytes(range(32)), bytes(reversed(range(32)))


def state(world: World, key: str) -> str:
    found: str = world("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"]
    return found


def pkcs8(private: PrivateKey) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


# --- what can be imported, and how


def test_parameters_for_an_import(world: World) -> None:
    key = new_external_key(world)
    given = parameters_for_import(world, key, spec="RSA_3072")
    public = load_der_public_key(given["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey) and public.key_size == 3072
    assert (given["KeyId"], given["ParametersValidTo"]) == (arn_of(key), START_S + DAY_S)
    assert set(given) == {"KeyId", "ImportToken", "PublicKey", "ParametersValidTo"}
    assert len(parameters_for_import(world, key, spec="RSA_4096")["ImportToken"]) <= 6144
    assert parameters_for_import(world, key)["PublicKey"] != parameters_for_import(world, key)["PublicKey"]


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_a_key_with_imported_material_works(world: World, algorithm: str) -> None:
    key = new_external_key(world)
    answer = world.ask("ImportKeyMaterial", **sent(world, key, MATERIAL, algorithm))
    assert set(answer.members) == {"KeyId", "KeyMaterialId"} and answer.members["KeyId"] == arn_of(key)
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    assert metadata["CurrentKeyMaterialId"] == answer.members["KeyMaterialId"] and "ValidTo" not in metadata
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert world("Decrypt", CiphertextBlob=blob)["KeyMaterialId"] == answer.members["KeyMaterialId"]


@pytest.mark.parametrize(
    ("spec", "usage", "private", "algorithm"),
    [
        ("RSA_2048", "ENCRYPT_DECRYPT", rsa.generate_private_key(65_537, 2048), "RSA_AES_KEY_WRAP_SHA_1"),
        ("RSA_2048", "SIGN_VERIFY", rsa.generate_private_key(65_537, 2048), WITH_AES),
        ("ECC_NIST_P256", "SIGN_VERIFY", ec.generate_private_key(ec.SECP256R1()), OAEP),
        ("ECC_NIST_P384", "KEY_AGREEMENT", ec.generate_private_key(ec.SECP384R1()), WITH_AES),
        ("ECC_NIST_P521", "SIGN_VERIFY", ec.generate_private_key(ec.SECP521R1()), WITH_AES),
        ("ECC_SECG_P256K1", "SIGN_VERIFY", ec.generate_private_key(ec.SECP256K1()), OAEP),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY", ed25519.Ed25519PrivateKey.generate(), OAEP),
        ("ML_DSA_44", "SIGN_VERIFY", mldsa.MLDSA44PrivateKey.generate(), WITH_AES),
    ],
)
def test_private_keys_are_imported_as_pkcs8(world: World, spec: str, usage: str, private: PrivateKey, algorithm: str) -> None:
    key = new_external_key(world, KeySpec=spec, KeyUsage=usage)
    assert world("ImportKeyMaterial", **sent(world, key, pkcs8(private), algorithm)) == {"KeyId": arn_of(key)}
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert metadata["KeyState"] == "Enabled" and "CurrentKeyMaterialId" not in metadata
    held = world.backend._tables.all_keys.find(REGION, key)
    assert held is not None and (held.current.secret, held.public) == (
        pair_secret(private).secret,
        pair_secret(private).public,
    )
    assert world("ImportKeyMaterial", **sent(world, key, pkcs8(private), algorithm)) == {"KeyId": arn_of(key)}


def test_another_private_key_does_not_take_the_place_of_the_first(world: World) -> None:
    key = new_external_key(world, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    first, other = (pkcs8(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    import_material(world, key, first)
    world("DeleteImportedKeyMaterial", KeyId=key)
    assert world.refused("ImportKeyMaterial", **sent(world, key, other)).code == "IncorrectKeyMaterialException"
    import_material(world, key, first)
    assert state(world, key) == "Enabled"


def test_hmac_keys_are_imported_in_their_length(world: World) -> None:
    key = new_external_key(world, KeySpec="HMAC_384", KeyUsage="GENERATE_VERIFY_MAC")
    assert world.refused("ImportKeyMaterial", **sent(world, key, bytes(32))).code == "IncorrectKeyMaterialException"
    assert import_material(world, key, bytes(48)) == {"KeyId": arn_of(key)}
    assert state(world, key) == "Enabled"


@pytest.mark.parametrize(
    ("spec", "algorithm", "wrapping_spec"),
    [
        ("SYMMETRIC_DEFAULT", "RSAES_PKCS1_V1_5", "RSA_2048"),
        ("SYMMETRIC_DEFAULT", "SM2PKE", "SM2"),
        ("SYMMETRIC_DEFAULT", OAEP, "SM2"),
        ("SYMMETRIC_DEFAULT", WITH_AES, "RSA_2048"),
        ("RSA_2048", OAEP, "RSA_4096"),
        ("ECC_NIST_P521", OAEP, "RSA_2048"),
    ],
)
def test_what_cannot_travel_so_is_refused(world: World, spec: str, algorithm: str, wrapping_spec: str) -> None:
    usage = "ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" else "SIGN_VERIFY"
    key = new_external_key(world, KeySpec=spec, KeyUsage=usage)
    refusal = world.refused("GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec=wrapping_spec)
    assert refusal.code == "UnsupportedOperationException" and algorithm in (refusal.message or "")


# --- what is refused


@pytest.mark.parametrize("operation", ["GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"])
def test_only_keys_for_imported_material_take_any(world: World, operation: str) -> None:
    key = world.new_key()
    refusal = world.refused(operation, KeyId=key, WrappingAlgorithm=OAEP, WrappingKeySpec="RSA_2048")
    message = f"{arn_of(key)} origin is AWS_KMS which is not valid for this operation."
    assert (refusal.code, refusal.message) == ("UnsupportedOperationException", message)
    assert world.refused(operation, KeyId="alias/a").code == "InvalidArnException"


def test_a_key_that_is_pending_deletion_takes_no_material(world: World) -> None:
    key = new_external_key(world)
    members = sent(world, key, MATERIAL)
    world("ScheduleKeyDeletion", KeyId=key)
    for operation in ("GetParametersForImport", "ImportKeyMaterial"):
        refusal = world.refused(operation, WrappingAlgorithm=OAEP, WrappingKeySpec="RSA_2048", **members)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
    world("CancelKeyDeletion", KeyId=key)
    assert state(world, key) == "PendingImport"


def test_a_token_is_for_one_key_and_one_day(world: World) -> None:
    key, other = new_external_key(world), new_external_key(world)
    members = sent(world, key, MATERIAL)
    assert world.refused("ImportKeyMaterial", **members | {"KeyId": other}).code == "InvalidImportTokenException"
    token = members["ImportToken"]
    assert isinstance(token, bytes)
    for wrong in (b"\x00", token[:-1], token[:20] + bytes([token[20] ^ 1]) + token[21:], b"\x02" + token[1:]):
        refusal = world.refused("ImportKeyMaterial", **members | {"ImportToken": wrong})
        assert (refusal.code, refusal.message) == ("InvalidImportTokenException", None)
    world.clock.now_s += DAY_S - 1
    assert world("ImportKeyMaterial", **members)["KeyId"] == arn_of(key)
    world.clock.now_s += 1
    assert world.refused("ImportKeyMaterial", **members).code == "ExpiredImportTokenException"


def test_a_token_of_one_worker_is_good_on_the_other(pair: tuple[World, World]) -> None:
    one, other = pair
    key = new_external_key(one)
    members = sent(one, key, MATERIAL)
    other("ImportKeyMaterial", **members)
    assert state(one, key) == "Enabled"


def test_a_key_that_is_scheduled_for_deletion_meanwhile_takes_no_material(
    pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    key = new_external_key(one)
    members = sent(one, key, MATERIAL)

    def read_meanwhile(spec: KeySpec, material: bytes) -> NewSecret | None:
        other("ScheduleKeyDeletion", KeyId=key)
        return read_material(spec, material)

    monkeypatch.setattr(imports, "read_material", read_meanwhile)
    refusal = one.refused("ImportKeyMaterial", **members)
    assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
    assert rotations(one, key, "ALL_KEY_MATERIAL") == [] and state(one, key) == "PendingDeletion"


@pytest.mark.parametrize("algorithm", [OAEP, WITH_AES])
def test_what_was_not_wrapped_so_is_an_invalid_ciphertext(world: World, algorithm: str) -> None:
    key = new_external_key(world, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    material = pkcs8(ec.generate_private_key(ec.SECP256R1()))
    given = parameters_for_import(world, key, algorithm)
    good = wrap(given["PublicKey"], algorithm, material)
    of_another_key = wrap(parameters_for_import(world, key, algorithm)["PublicKey"], algorithm, material)
    hash_differs = wrap(given["PublicKey"], algorithm.replace("256", "1"), material)
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    for wrong in (b"x", good[:-1], good + b"x", flipped, of_another_key, hash_differs, bytes(len(good))):
        members = {"ImportToken": given["ImportToken"], "EncryptedKeyMaterial": wrong}
        refusal = world.refused("ImportKeyMaterial", KeyId=key, ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE", **members)
        assert (refusal.code, refusal.message) == ("InvalidCiphertextException", None)
    assert state(world, key) == "PendingImport"


@pytest.mark.parametrize("material", [b"", bytes(31), bytes(33), bytes(16)])
def test_symmetric_material_has_32_bytes(world: World, material: bytes) -> None:
    key = new_external_key(world)
    assert world.refused("ImportKeyMaterial", **sent(world, key, material)).code == "IncorrectKeyMaterialException"


@pytest.mark.parametrize(
    "made",
    [
        lambda: b"no key",
        lambda: pkcs8(ec.generate_private_key(ec.SECP384R1())),
        lambda: pkcs8(rsa.generate_private_key(65_537, 2048)),
    ],
    ids=["no key", "another curve", "RSA"],
)
def test_a_private_key_of_another_spec_is_refused(world: World, made: Callable[[], bytes]) -> None:
    key = new_external_key(world, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    refusal = world.refused("ImportKeyMaterial", **sent(world, key, made(), WITH_AES))
    assert refusal.code == "IncorrectKeyMaterialException"


@pytest.mark.parametrize("number", ["d", "dmp1", "dmq1", "iqmp"])  # of p and q the library itself sees that they do not fit
def test_an_rsa_key_whose_numbers_do_not_fit_each_other_is_refused(number: str) -> None:
    sound = rsa.generate_private_key(65_537, 2048).private_numbers()
    names = ("p", "q", "d", "dmp1", "dmq1", "iqmp")
    numbers = {name: getattr(sound, name) + 2 * (name == number) for name in names}
    private = rsa.RSAPrivateNumbers(**numbers, public_numbers=sound.public_numbers).private_key(
        unsafe_skip_rsa_key_validation=True
    )
    assert read_material(SPECS["RSA_2048"], pkcs8(private)) is None
    assert read_material(SPECS["RSA_2048"], pkcs8(sound.private_key())) is not None


@pytest.mark.parametrize(
    "expiry",
    [
        {},
        {"ExpirationModel": "KEY_MATERIAL_EXPIRES"},
        {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE", "ValidTo": START_S + 60},
        {"ValidTo": START_S},
        {"ValidTo": START_S + 365 * DAY_S + 1},
    ],
)
def test_expiry_has_to_make_sense(world: World, expiry: dict[str, Any]) -> None:
    key = new_external_key(world)
    members = {name: value for name, value in sent(world, key, MATERIAL).items() if name != "ExpirationModel"}
    refusal = world.refused("ImportKeyMaterial", **members, **expiry)
    assert refusal.code == "ValidationException"
    if not expiry.get("ValidTo"):
        assert refusal.message == "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"


def test_another_account_can_do_none_of_it(world: World) -> None:
    key = new_external_key(world)
    members = sent(world, key, MATERIAL)
    world.caller = BOB
    for operation in ("GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"):
        given = members | {"KeyId": arn_of(key), "WrappingAlgorithm": OAEP, "WrappingKeySpec": "RSA_2048"}
        assert world.refused(operation, **given).code == "AccessDeniedException"


# --- the same again, and other material


def test_the_same_material_comes_back_and_no_other(world: World) -> None:
    key = new_external_key(world)
    first = import_material(world, key, MATERIAL)["KeyMaterialId"]
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert world("DeleteImportedKeyMaterial", KeyId=key) == {"KeyId": arn_of(key), "KeyMaterialId": first}
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert metadata["KeyState"] == "PendingImport" and "ExpirationModel" not in metadata
    refusal = world.refused("ImportKeyMaterial", **sent(world, key, OTHER))
    assert refusal.code == "IncorrectKeyMaterialException"
    assert import_material(world, key, MATERIAL)["KeyMaterialId"] == first
    assert world("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"x"


def test_a_ciphertext_whose_material_was_deleted_tells_of_the_key_by_its_state(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL)
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    world("DeleteImportedKeyMaterial", KeyId=key)
    for named in ({}, {"KeyId": key}):
        refusal = world.refused("Decrypt", CiphertextBlob=blob, **named)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending import.")


def test_one_material_has_different_ids_in_different_keys(world: World) -> None:
    one, other = new_external_key(world), new_external_key(world)
    assert import_material(world, one, MATERIAL)["KeyMaterialId"] != import_material(world, other, MATERIAL)["KeyMaterialId"]


def test_import_types_and_ids(world: World) -> None:
    key = new_external_key(world)
    assert world.refused("ImportKeyMaterial", **sent(world, key, MATERIAL, ImportType="EXISTING_KEY_MATERIAL")).code == (
        "IncorrectKeyMaterialException"
    )
    first = import_material(world, key, MATERIAL, ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
    again = sent(world, key, MATERIAL, ImportType="NEW_KEY_MATERIAL")
    assert world.refused("ImportKeyMaterial", **again).code == "IncorrectKeyMaterialException"
    assert world.refused("ImportKeyMaterial", **again, KeyMaterialId=first).code == "ValidationException"
    assert import_material(world, key, MATERIAL, KeyMaterialId=first)["KeyMaterialId"] == first
    wrong = sent(world, key, MATERIAL, KeyMaterialId="0" * 64)
    assert world.refused("ImportKeyMaterial", **wrong).code == "IncorrectKeyMaterialException"


def test_only_one_material_can_wait_for_rotation_and_it_can_be_replaced(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL)
    second = import_material(world, key, OTHER, ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
    refusal = world.refused("ImportKeyMaterial", **sent(world, key, bytes(32), ImportType="NEW_KEY_MATERIAL"))
    assert refusal.code == "KMSInvalidStateException" and f"(id: {second}) is pending rotation." in (refusal.message or "")
    assert world("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=second)["KeyMaterialId"] == second
    assert state(world, key) == "Enabled" and len(rotations(world, key, "ALL_KEY_MATERIAL")) == 1
    third = import_material(world, key, bytes(32), ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
    world("RotateKeyOnDemand", KeyId=key)
    assert current(world, key) == third


def test_every_material_that_was_current_must_be_there(world: World) -> None:
    key = new_external_key(world)
    first = import_material(world, key, MATERIAL)["KeyMaterialId"]
    import_material(world, key, OTHER, ImportType="NEW_KEY_MATERIAL")
    world("RotateKeyOnDemand", KeyId=key)
    world("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=first)
    assert state(world, key) == "PendingImport"
    assert [one["ImportState"] for one in rotations(world, key, "ALL_KEY_MATERIAL")] == ["PENDING_IMPORT", "IMPORTED"]
    world("DeleteImportedKeyMaterial", KeyId=key)
    import_material(world, key, OTHER)
    assert state(world, key) == "PendingImport"
    import_material(world, key, MATERIAL)
    assert state(world, key) == "Enabled"


def test_a_description_stays_until_another_is_given(world: World) -> None:
    key = new_external_key(world)
    for given, held in (({"KeyMaterialDescription": "a"}, "a"), ({}, "a"), ({"KeyMaterialDescription": "b"}, "b")):
        import_material(world, key, MATERIAL, **given)
        [entry] = rotations(world, key, "ALL_KEY_MATERIAL")
        assert entry["KeyMaterialDescription"] == held


@pytest.mark.parametrize(
    "member", [{"ImportType": "NEW_KEY_MATERIAL"}, {"KeyMaterialDescription": "a"}, {"KeyMaterialId": "0" * 64}]
)
def test_members_that_only_symmetric_keys_know(world: World, member: dict[str, str]) -> None:
    key = new_external_key(world, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    assert world.refused("ImportKeyMaterial", **sent(world, key, bytes(32), **member)).code == "ValidationException"


def test_deleting_what_is_not_there(world: World) -> None:
    key = new_external_key(world)
    assert world("DeleteImportedKeyMaterial", KeyId=key) == {"KeyId": arn_of(key)}
    assert world.refused("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId="0" * 64).code == "NotFoundException"
    assert state(world, key) == "PendingImport"


def test_deleting_the_material_of_a_key_that_is_pending_deletion_leaves_its_state(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL)
    world("ScheduleKeyDeletion", KeyId=key)
    world("DeleteImportedKeyMaterial", KeyId=key)
    assert state(world, key) == "PendingDeletion"
    world("CancelKeyDeletion", KeyId=key)
    assert state(world, key) == "PendingImport"


def test_a_disabled_key_stays_disabled_when_its_material_comes_again(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL)
    world("DisableKey", KeyId=key)
    import_material(world, key, MATERIAL)
    assert state(world, key) == "Disabled"


# --- expiry


def test_expired_material_never_decrypts_though_nobody_has_erased_it(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL, ValidTo=START_S + HOUR_S)
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["ExpirationModel"], metadata["ValidTo"]) == ("KEY_MATERIAL_EXPIRES", START_S + HOUR_S)
    world.clock.now_s += HOUR_S - 1
    assert world("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"x"
    world.clock.now_s += 1
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("Decrypt", {"CiphertextBlob": blob}),
        ("Decrypt", {"CiphertextBlob": blob, "KeyId": key}),
        ("ReEncrypt", {"CiphertextBlob": blob, "DestinationKeyId": world.new_key()}),
        ("Encrypt", {"KeyId": key, "Plaintext": b"x"}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
        ("RotateKeyOnDemand", {"KeyId": key}),
        ("EnableKey", {"KeyId": key}),
    )
    for operation, members in calls:
        refusal = world.refused(operation, **members)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending import."), operation
    assert state(world, key) == "PendingImport"


def test_expired_material_is_erased_and_told(world: World) -> None:
    key = new_external_key(world)
    material = import_material(world, key, MATERIAL, ValidTo=START_S + HOUR_S)["KeyMaterialId"]
    world.clock.now_s += HOUR_S
    [(happening, done)] = maintain(world)
    assert happening is Happening.EXPIRY and done is not None
    assert done.details == ({"keyId": key, "keyMaterialId": material},)
    with world.store.change() as tx:
        row = tx.get(KEY, REGION, key)
        assert row is not None and (row.secret.reveal(), row.body["state"]) == (b"", "PendingImport")
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert metadata["KeyState"] == "PendingImport" and not {"ValidTo", "ExpirationModel"} & set(metadata)
    import_material(world, key, MATERIAL)
    assert state(world, key) == "Enabled"


def test_a_reimport_moves_the_expiry(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL, ValidTo=START_S + HOUR_S)
    import_material(world, key, MATERIAL, ValidTo=START_S + 2 * HOUR_S)
    world.clock.now_s += HOUR_S
    assert world.due() == [] and state(world, key) == "Enabled"
    import_material(world, key, MATERIAL)
    world.clock.now_s += 300 * DAY_S
    assert world.due() == [] and state(world, key) == "Enabled"


def test_the_older_material_expires_for_itself(world: World) -> None:
    key = new_external_key(world)
    first = import_material(world, key, MATERIAL, ValidTo=START_S + HOUR_S)["KeyMaterialId"]
    import_material(world, key, OTHER, ImportType="NEW_KEY_MATERIAL", ValidTo=START_S + 2 * HOUR_S)
    world("RotateKeyOnDemand", KeyId=key)
    maintain(world)
    world.clock.now_s += HOUR_S
    assert state(world, key) == "PendingImport"
    import_material(world, key, OTHER)  # which does not bring the first back, nor erase it unrecorded
    assert state(world, key) == "PendingImport"
    [(_, done)] = maintain(world)
    assert done is not None and done.details == ({"keyId": key, "keyMaterialId": first},)


def test_material_that_waits_for_rotation_expires_and_the_key_goes_on(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL)
    import_material(world, key, OTHER, ImportType="NEW_KEY_MATERIAL", ValidTo=START_S + HOUR_S)
    world.clock.now_s += HOUR_S
    assert world.refused("RotateKeyOnDemand", KeyId=key).code == "KMSInvalidStateException"
    assert len(maintain(world)) == 1
    assert state(world, key) == "Enabled" and len(rotations(world, key, "ALL_KEY_MATERIAL")) == 1


def test_of_two_workers_one_erases(pair: tuple[World, World]) -> None:
    one, other = pair
    key = new_external_key(one)
    import_material(one, key, MATERIAL, ValidTo=START_S + HOUR_S)
    one.clock.now_s += HOUR_S
    [seen], [seen_by_other] = one.due(), other.due()
    assert other.carry_out(seen_by_other) is not None and one.carry_out(seen) is None


def test_what_is_due_is_done_only_if_it_still_is(world: World) -> None:
    key = new_external_key(world)
    import_material(world, key, MATERIAL, ValidTo=START_S + HOUR_S)
    world.clock.now_s += HOUR_S
    [due] = world.due()
    assert world.carry_out(replace(due, happening=Happening.DELETION)) is None
    import_material(world, key, MATERIAL)
    assert world.carry_out(due) is None and state(world, key) == "Enabled"


def test_no_material_shows(world: World) -> None:
    key = new_external_key(world)
    canary = b"canary of 32 bytes, in the clear"
    members = sent(world, key, canary)
    answer = world.ask("ImportKeyMaterial", **members)
    held = world.backend._tables.all_keys.find(REGION, key)
    token = members["ImportToken"]
    assert held is not None and isinstance(token, bytes)
    shown = f"{answer!r} {held!r} {held.materials!r} {held.body!r}".encode()
    stored = b"".join(file.read_bytes() for file in world.path.parent.iterdir())
    for text in (shown, stored, token):
        assert canary not in text and canary.hex().encode() not in text
    assert b"PRIVATE" not in token and b"algorithm" not in token
