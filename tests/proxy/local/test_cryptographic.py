"""Encrypt, Decrypt, ReEncrypt, GenerateDataKey, GenerateRandom: answers, refusals in order, the keys recorded."""

from __future__ import annotations

import asyncio
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest

from proxy.domain import KeyUse
from proxy.errors import KmsError
from tests.proxy.local.world import ACCOUNT, ALICE, REGION, World, arn_of, call

UNKNOWN = "1234abcd-12ab-34cd-56ef-1234567890ab"
CONTEXT = {"tenant": "acme", "purpose": "backup"}


def use(world: World, key_id: str) -> KeyUse:
    material = world("DescribeKey", KeyId=key_id)["KeyMetadata"]["CurrentKeyMaterialId"]
    return KeyUse(arn_of(key_id), ACCOUNT, material)


def meant(key_id: str) -> tuple[KeyUse, ...]:
    return (KeyUse(arn_of(key_id), ACCOUNT),)


@pytest.mark.parametrize(
    ("size", "length"), [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 77}, 77)]
)
def test_a_data_key_decrypts_to_itself(world: World, size: dict[str, Any], length: int) -> None:
    key = world.new_key()
    answer = world.ask("GenerateDataKey", KeyId=key, EncryptionContext=CONTEXT, **size)
    made = answer.members
    assert set(made) == {"CiphertextBlob", "Plaintext", "KeyId", "KeyMaterialId"}
    assert (len(made["Plaintext"]), made["KeyId"]) == (length, arn_of(key))
    assert answer.keys == (use(world, key),)
    assert made["KeyMaterialId"] == answer.keys[0].material_id
    back = world.ask("Decrypt", CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert back.members == {
        "KeyId": arn_of(key),
        "Plaintext": made["Plaintext"],
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyMaterialId": made["KeyMaterialId"],
    }
    assert back.keys == answer.keys
    again = world("GenerateDataKey", KeyId=key, EncryptionContext=CONTEXT, **size)
    assert again["Plaintext"] != made["Plaintext"] and again["CiphertextBlob"] != made["CiphertextBlob"]


def test_without_plaintext_there_is_none(world: World) -> None:
    key = world.new_key()
    answer = world.ask("GenerateDataKeyWithoutPlaintext", KeyId=key, NumberOfBytes=5)
    assert set(answer.members) == {"CiphertextBlob", "KeyId", "KeyMaterialId"}
    assert answer.keys == (use(world, key),)
    assert len(world("Decrypt", CiphertextBlob=answer.members["CiphertextBlob"])["Plaintext"]) == 5


@pytest.mark.parametrize("size", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}])
def test_a_data_key_needs_exactly_one_size(world: World, size: dict[str, Any]) -> None:
    key = world.new_key()
    refusal = world.refused("GenerateDataKey", KeyId=key, **size)
    assert (refusal.code, refusal.message) == (
        "ValidationException",
        "Please specify either number of bytes or key spec.",
    )
    assert refusal.keys == meant(key)
    assert world.refused("GenerateDataKey", KeyId=UNKNOWN, **size).code == "NotFoundException"  # the key comes first


def test_encrypt_takes_all_four_forms_and_answers_with_the_arn(world: World) -> None:
    key = world.new_key()
    world("CreateAlias", AliasName="alias/a/b", TargetKeyId=key)
    for form in (key, arn_of(key), "alias/a/b", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/a/b"):
        answer = world.ask("Encrypt", KeyId=form, Plaintext=b"hello")
        assert (answer.members["KeyId"], answer.members["EncryptionAlgorithm"]) == (arn_of(key), "SYMMETRIC_DEFAULT")
        assert "Plaintext" not in answer.members and answer.keys == (use(world, key),)
        opened = world("Decrypt", CiphertextBlob=answer.members["CiphertextBlob"], KeyId=form)
        assert opened["Plaintext"] == b"hello"


@pytest.mark.parametrize(
    ("key_id", "message"),
    [
        (UNKNOWN, f"Key '{arn_of(UNKNOWN)}' does not exist"),
        (arn_of(UNKNOWN), f"Key '{arn_of(UNKNOWN)}' does not exist"),
        ("nonsense", "Invalid keyId 'nonsense'"),
        ("alias/none", f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/none is not found."),
        (arn_of(UNKNOWN, "eu-west-1"), "Invalid arn eu-west-1"),
    ],
)
@pytest.mark.parametrize("operation", ["Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "DescribeKey"])
def test_keys_that_are_not_there(world: World, operation: str, key_id: str, message: str) -> None:
    blob = world("Encrypt", KeyId=world.new_key(), Plaintext=b"x")["CiphertextBlob"]
    parameters = {"Encrypt": {"Plaintext": b"x"}, "Decrypt": {"CiphertextBlob": blob}}.get(operation, {})
    refusal = world.refused(operation, KeyId=key_id, **parameters)
    assert (refusal.code, refusal.message, refusal.status) == ("NotFoundException", message, 400)
    assert refusal.keys == ()


def test_another_accounts_key_is_denied_as_aws_does(world: World) -> None:
    key = world.new_key()
    refusal = world.refused("Encrypt", KeyId=arn_of(key).replace(ACCOUNT, "999988887777"), Plaintext=b"x")
    assert refusal.code == "AccessDeniedException"
    assert refusal.message is not None
    assert refusal.message.startswith(f"User: {ALICE.arn} is not authorized to perform: kms:Encrypt on this resource")


def test_a_key_of_one_region_is_none_of_another(world: World) -> None:
    key = world.new_key("eu-west-1")
    made = world("GenerateDataKey", "eu-west-1", KeyId=key, KeySpec="AES_256")
    assert made["KeyId"] == arn_of(key, "eu-west-1")
    refusal = world.refused("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    assert (refusal.code, refusal.message) == ("NotFoundException", f"Key '{arn_of(key)}' does not exist")
    assert world.refused("Decrypt", CiphertextBlob=made["CiphertextBlob"]).code == "AccessDeniedException"


@pytest.mark.parametrize("context", [None, {}, {"tenant": "acme"}, {**CONTEXT, "x": ""}, {"tenant": "ACME", "purpose": "backup"}])
def test_a_wrong_context_is_refused_without_a_word_and_the_key_is_recorded(world: World, context: dict[str, str] | None) -> None:
    key = world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    sent: dict[str, Any] = {} if context is None else {"EncryptionContext": context}
    refusal = world.refused("Decrypt", CiphertextBlob=blob, **sent)
    assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, meant(key))


def test_a_corrupt_ciphertext_is_refused_without_a_word(world: World) -> None:
    key = world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    tail_flipped = blob[:-1] + bytes((blob[-1] ^ 1,))
    for corrupt, keys in ((tail_flipped, meant(key)), (blob[:-1], ()), (b"x", ()), (bytes(6144), ())):
        refusal = world.refused("Decrypt", CiphertextBlob=corrupt)
        assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, keys)
    refusal = world.refused("Decrypt", CiphertextBlob=b"x", KeyId=key)
    assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, meant(key))


def test_a_ciphertext_of_an_unknown_key(world: World) -> None:
    key = world.new_key()
    blob = bytearray(world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"])
    blob[5:37] = b"\xee" * 32
    refusal = world.refused("Decrypt", CiphertextBlob=bytes(blob))
    assert refusal.code == "AccessDeniedException"
    assert (refusal.message or "").startswith("The ciphertext refers to a customer master key that does not exist")
    assert world.refused("Decrypt", CiphertextBlob=bytes(blob), KeyId=key).code == "IncorrectKeyException"


def test_naming_another_key_than_the_ciphertexts(world: World) -> None:
    key, other = world.new_key(), world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    world("DisableKey", KeyId=other)  # the mismatch comes before the state
    refusal = world.refused("Decrypt", CiphertextBlob=blob, KeyId=other)
    assert (refusal.code, refusal.keys) == ("IncorrectKeyException", meant(other))
    assert refusal.message == "The key ID in the request does not identify a CMK that can perform this operation."


def test_a_key_that_may_not_be_used(world: World) -> None:
    key = world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Encrypt", {"KeyId": key, "Plaintext": b"x"}),
        ("Decrypt", {"CiphertextBlob": blob}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": key, "KeySpec": "AES_256"}),
    ]
    world("DisableKey", KeyId=key)
    for operation, parameters in calls:
        refusal = world.refused(operation, **parameters)
        assert (refusal.code, refusal.message) == ("DisabledException", f"{arn_of(key)} is disabled.")
        assert refusal.keys == meant(key)
    world("ScheduleKeyDeletion", KeyId=key)
    for operation, parameters in calls:
        refusal = world.refused(operation, **parameters)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
        assert refusal.keys == meant(key)
    world("CancelKeyDeletion", KeyId=key)
    world("EnableKey", KeyId=key)
    for operation, parameters in calls:
        assert world.ask(operation, **parameters).keys == (use(world, key),)


def test_an_algorithm_of_another_key_spec(world: World) -> None:
    key = world.new_key()
    refusal = world.refused("Encrypt", KeyId=key, Plaintext=b"x", EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    assert refusal.code == "InvalidKeyUsageException"
    assert refusal.message == "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."
    assert refusal.keys == meant(key)


def test_re_encrypt_moves_a_ciphertext_to_another_key_and_context(world: World) -> None:
    source, destination = world.new_key(), world.new_key()
    blob = world("Encrypt", KeyId=source, Plaintext=b"x", EncryptionContext={"a": "1"})["CiphertextBlob"]
    answer = world.ask(
        "ReEncrypt",
        CiphertextBlob=blob,
        SourceEncryptionContext={"a": "1"},
        DestinationKeyId=destination,
        DestinationEncryptionContext={"b": "2"},
    )
    uses = (use(world, source), use(world, destination))
    assert answer.keys == uses
    moved = dict(answer.members)
    new_blob = moved.pop("CiphertextBlob")
    assert moved == {
        "SourceKeyId": arn_of(source),
        "KeyId": arn_of(destination),
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "SourceKeyMaterialId": uses[0].material_id,
        "DestinationKeyMaterialId": uses[1].material_id,
    }
    opened = world("Decrypt", CiphertextBlob=new_blob, KeyId=destination, EncryptionContext={"b": "2"})
    assert opened["Plaintext"] == b"x"


def test_re_encrypt_names_the_keys_of_its_refusals_in_order(world: World) -> None:
    source, destination = world.new_key(), world.new_key()
    blob = world("Encrypt", KeyId=source, Plaintext=b"x", EncryptionContext={"a": "1"})["CiphertextBlob"]
    both = meant(source) + meant(destination)

    refusal = world.refused("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=destination)
    assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, both)
    refusal = world.refused("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=UNKNOWN)
    assert (refusal.code, refusal.keys) == ("NotFoundException", meant(source))
    refusal = world.refused("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=destination, SourceKeyId=destination)
    assert (refusal.code, refusal.keys) == ("IncorrectKeyException", meant(destination))
    world("DisableKey", KeyId=destination)
    refusal = world.refused("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=destination)
    assert (refusal.code, refusal.message) == ("DisabledException", f"{arn_of(destination)} is disabled.")
    assert refusal.keys == both


def test_a_dry_run_is_refused_last(world: World) -> None:
    key = world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    good: list[tuple[str, dict[str, Any]]] = [
        ("Encrypt", {"KeyId": key, "Plaintext": b"x"}),
        ("Decrypt", {"CiphertextBlob": blob}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": key, "KeySpec": "AES_256"}),
        ("ReEncrypt", {"CiphertextBlob": blob, "DestinationKeyId": key}),
    ]
    for operation, parameters in good:
        refusal = world.refused(operation, **parameters, DryRun=True)
        assert refusal.code == "DryRunOperationException"
        assert refusal.message == "The request would have succeeded, but the DryRun option is set."
        assert refusal.keys == meant(key) * (2 if operation == "ReEncrypt" else 1)
    refusal = world.refused("Decrypt", CiphertextBlob=blob, EncryptionContext={"a": "b"}, DryRun=True)
    assert refusal.code == "InvalidCiphertextException"
    world("DisableKey", KeyId=key)
    assert world.refused("Encrypt", KeyId=key, Plaintext=b"x", DryRun=True).code == "DisabledException"


def test_a_dry_run_may_leave_the_ciphertext_out(world: World) -> None:
    key = world.new_key()
    dry: dict[str, Any] = {"DryRun": True, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
    assert world.refused("Decrypt", KeyId=key, **dry).code == "DryRunOperationException"
    assert world.refused("ReEncrypt", SourceKeyId=key, DestinationKeyId=key, **dry).keys == meant(key) * 2
    assert world.refused("Decrypt", **dry).code == "ValidationException"
    refusal = world.refused("Decrypt", KeyId=key, DryRun=True)
    assert "'ciphertextBlob'" in (refusal.message or "") and refusal.code == "ValidationException"
    assert world.refused("Decrypt", KeyId=key, DryRunModifiers=dry["DryRunModifiers"]).code == "ValidationException"
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert world("Decrypt", CiphertextBlob=blob, DryRunModifiers=dry["DryRunModifiers"])["Plaintext"] == b"x"


def test_a_dry_run_without_a_ciphertext_looks_at_the_keys_all_the_same(world: World) -> None:
    key, disabled = world.new_key(), world.new_key()
    signing = world.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    world("DisableKey", KeyId=disabled)
    dry: dict[str, Any] = {"DryRun": True, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
    for wrong, code in ((disabled, "DisabledException"), (signing, "InvalidKeyUsageException")):
        assert world.refused("Decrypt", KeyId=wrong, **dry).code == code
        assert world.refused("ReEncrypt", SourceKeyId=wrong, DestinationKeyId=key, **dry).code == code
        assert world.refused("ReEncrypt", SourceKeyId=key, DestinationKeyId=wrong, **dry).code == code


@pytest.mark.parametrize(
    "operation", ["Decrypt", "GenerateDataKey", "GenerateRandom", "GenerateDataKeyPair", "DeriveSharedSecret"]
)
def test_an_attested_recipient_never_gets_the_plaintext_in_the_clear(world: World, operation: str) -> None:
    key = world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    agreeing = world.new_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
    public = world("GetPublicKey", KeyId=agreeing)["PublicKey"]
    parameters: dict[str, dict[str, Any]] = {
        "Decrypt": {"CiphertextBlob": blob},
        "GenerateDataKey": {"KeyId": key, "KeySpec": "AES_256"},
        "GenerateRandom": {"NumberOfBytes": 8},
        "GenerateDataKeyPair": {"KeyId": key, "KeyPairSpec": "ECC_NIST_P256"},
        "DeriveSharedSecret": {"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public},
    }
    recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"d"}
    refusal = world.refused(operation, **parameters[operation], Recipient=recipient)
    assert refusal.code == "UnsupportedOperationException"
    with pytest.raises(KmsError) as refused:  # nor from its handler, where nobody has verified the document
        asyncio.run(world.backend._answer(call(operation, **parameters[operation], Recipient=recipient)))
    assert refused.value.code == "UnsupportedOperationException"
    assert world.ask(operation, **parameters[operation]).members


def test_random_bytes(world: World) -> None:
    answer = world.ask("GenerateRandom", NumberOfBytes=1024)
    assert (len(answer.members["Plaintext"]), answer.keys) == (1024, ())
    assert answer.members["Plaintext"] != world("GenerateRandom", NumberOfBytes=1024)["Plaintext"]
    refusal = world.refused("GenerateRandom")
    assert (refusal.code, refusal.message) == ("ValidationException", "NumberOfBytes is required.")
    assert world.refused("GenerateRandom", NumberOfBytes=1, CustomKeyStoreId="cks-1").code == ("CustomKeyStoreNotFoundException")
