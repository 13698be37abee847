"""Keys in an external key store: encrypted twice, of no use without either half, and what a key manager can do wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any  # members of requests and answers: JSON values

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.aws.transport import UpstreamResponse
from proxy.backends.local.crypto import encode_context, parse
from proxy.backends.local.xks import messages
from proxy.backends.local.xks.blob import ExternalCiphertext, Outer, associated_data, join, parse_external
from proxy.backends.local.xks.faults import XksFailed
from proxy.domain import KeyUse
from tests.proxy.aws.upstream import Step, answers, hangs, resets
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, arn_of
from tests.proxy.local.xks_proxy import XksWorld, error

CONTEXT = {"project": "nile"}
IN_STATE = "KMSInvalidStateException"
SYMMETRIC = "SYMMETRIC_DEFAULT"


@pytest.fixture
def key(xks: XksWorld) -> str:
    """A key in a connected store."""
    return xks.external_key(xks.new_store())


def test_a_new_keys_metadata_names_its_other_half(xks: XksWorld) -> None:
    store_id = xks.new_store()
    metadata = xks("CreateKey", Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="second.key_2")["KeyMetadata"]
    assert (metadata["Origin"], metadata["KeyState"], metadata["KeySpec"]) == ("EXTERNAL_KEY_STORE", "Enabled", SYMMETRIC)
    assert (metadata["CustomKeyStoreId"], metadata["XksKeyConfiguration"]) == (store_id, {"Id": "second.key_2"})
    assert "CurrentKeyMaterialId" not in metadata
    assert xks("DescribeKey", KeyId=metadata["KeyId"])["KeyMetadata"] == metadata
    told = {"kmsRequestId": "request-1", "kmsOperation": "CreateKey", "awsPrincipalArn": ALICE.arn}
    assert xks.proxy.received[-1] == ("/keys/second.key_2/metadata", {"requestMetadata": told})


@pytest.mark.parametrize("size", [1, 4096])
def test_what_is_encrypted_is_decrypted(xks: XksWorld, key: str, size: int) -> None:
    answer = xks.ask("Encrypt", KeyId=key, Plaintext=b"x" * size, EncryptionContext=CONTEXT)
    assert set(answer.members) == {"CiphertextBlob", "KeyId", "EncryptionAlgorithm"}
    assert answer.keys[0].arn == arn_of(key)
    blob = answer.members["CiphertextBlob"]
    for named in ({"KeyId": key}, {}):
        opened = xks("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT, **named)
        assert opened == {"KeyId": arn_of(key), "Plaintext": b"x" * size, "EncryptionAlgorithm": SYMMETRIC}


def test_data_keys(xks: XksWorld, key: str) -> None:
    made = xks("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    assert set(made) == {"CiphertextBlob", "Plaintext", "KeyId"} and len(made["Plaintext"]) == 32
    assert xks("Decrypt", CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    hidden = xks("GenerateDataKeyWithoutPlaintext", KeyId=key, NumberOfBytes=20)
    assert set(hidden) == {"CiphertextBlob", "KeyId"}
    assert len(xks("Decrypt", CiphertextBlob=hidden["CiphertextBlob"])["Plaintext"]) == 20
    neither: dict[str, Any] = {}
    for both in (neither, {"KeySpec": "AES_256", "NumberOfBytes": 32}):
        assert xks.refused("GenerateDataKey", KeyId=key, **both).code == "ValidationException"


@pytest.mark.parametrize("operation", ["GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"])
def test_there_are_no_pairs_under_an_external_key(xks: XksWorld, key: str, operation: str) -> None:
    refusal = xks.refused(operation, KeyId=key, KeyPairSpec="ECC_NIST_P256")
    assert (refusal.code, refusal.keys) == ("UnsupportedOperationException", (KeyUse(arn_of(key), ACCOUNT),))


def test_an_alias_leads_to_an_external_key(xks: XksWorld, key: str) -> None:
    xks("CreateAlias", AliasName="alias/outside", TargetKeyId=key)
    for name in ("alias/outside", f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/outside", arn_of(key)):
        before = len(xks.proxy.received)
        xks("Encrypt", KeyId=name, Plaintext=b"x")
        assert len(xks.proxy.received) == before + 1


def test_other_keys_do_without_the_proxy(xks: XksWorld, key: str) -> None:
    own, before = xks.new_key(), len(xks.proxy.received)
    blob = xks("GenerateDataKey", KeyId=own, KeySpec="AES_128")["CiphertextBlob"]
    assert xks("Decrypt", CiphertextBlob=blob)["KeyMaterialId"]
    assert len(xks.proxy.received) == before


def test_re_encryption_from_and_to_external_keys(xks: XksWorld, key: str) -> None:
    own, pair = xks.new_key(), xks.new_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    blob = xks("Encrypt", KeyId=own, Plaintext=b"travels", EncryptionContext=CONTEXT)["CiphertextBlob"]
    there = xks("ReEncrypt", CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=key)
    assert there["SourceKeyMaterialId"] and "DestinationKeyMaterialId" not in there
    back = xks("ReEncrypt", CiphertextBlob=there["CiphertextBlob"], DestinationKeyId=own)
    assert back["DestinationKeyMaterialId"] and "SourceKeyMaterialId" not in back
    assert xks("Decrypt", CiphertextBlob=back["CiphertextBlob"])["Plaintext"] == b"travels"
    algorithm = {"DestinationEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
    away = xks("ReEncrypt", CiphertextBlob=there["CiphertextBlob"], DestinationKeyId=pair, **algorithm)
    opened = xks("Decrypt", CiphertextBlob=away["CiphertextBlob"], KeyId=pair, EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    assert opened["Plaintext"] == b"travels"
    told = [body["requestMetadata"]["kmsOperation"] for place, body in xks.proxy.received if "/keys/first/" in place]
    assert told == ["CreateKey", *["ReEncrypt"] * 3]


def test_the_key_manager_sees_neither_plaintext_nor_context(xks: XksWorld, key: str) -> None:
    blob = xks("Encrypt", KeyId=key, Plaintext=b"a secret plaintext", EncryptionContext=CONTEXT)["CiphertextBlob"]
    place, body = xks.proxy.received[-1]
    assert place == "/keys/first/encrypt"
    assert body["requestMetadata"] == {
        "kmsRequestId": "request-1",
        "kmsOperation": "Encrypt",
        "awsPrincipalArn": ALICE.arn,
        "kmsKeyArn": arn_of(key),
    }
    seen = base64.b64decode(body["plaintext"])
    assert b"a secret plaintext" not in seen and parse(seen) is not None
    assert len(base64.b64decode(body["additionalAuthenticatedData"])) == 32
    assert seen not in blob and b"nile" not in blob


def test_what_the_key_manager_saw_is_not_enough_without_it(xks: XksWorld, key: str) -> None:
    """It holds the inner ciphertexts; KMS opens none of them unless they come through it."""
    xks("Encrypt", KeyId=key, Plaintext=b"secret")
    inner = base64.b64decode(xks.proxy.received[-1][1]["plaintext"])
    for named in ({"KeyId": key}, {}):
        refusal = xks.refused("Decrypt", CiphertextBlob=inner, **named)
        assert (refusal.code, refusal.message) == ("InvalidCiphertextException", None)
    assert xks.refused("ReEncrypt", CiphertextBlob=inner, DestinationKeyId=xks.new_key()).code == "InvalidCiphertextException"


def test_the_material_here_is_not_enough_without_the_key_manager(xks: XksWorld, key: str) -> None:
    blob = xks("Encrypt", KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    xks.proxy.keys["first"] = bytes(32)
    assert xks.refused("Decrypt", CiphertextBlob=blob).code == IN_STATE


def test_another_kms_key_on_the_same_external_key_opens_nothing(xks: XksWorld, key: str) -> None:
    blob = xks("Encrypt", KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    xks("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    xks.clock.now_s += 8 * 86_400
    [store] = xks("DescribeCustomKeyStores")["CustomKeyStores"]
    heir = xks.external_key(store["CustomKeyStoreId"])  # the external key is free again
    assert xks.refused("Decrypt", CiphertextBlob=blob, KeyId=heir).code == "IncorrectKeyException"


@pytest.mark.parametrize("context", [{}, {"project": "rhine"}, {"projectn": "ile"}])
def test_another_context_is_refused_by_the_key_manager(xks: XksWorld, key: str, context: dict[str, str]) -> None:
    blob = xks("Encrypt", KeyId=key, Plaintext=b"secret", EncryptionContext=CONTEXT)["CiphertextBlob"]
    refusal = xks.refused("Decrypt", CiphertextBlob=blob, EncryptionContext=context)
    assert refusal.code == IN_STATE and "encryption context" in (refusal.message or "")


def test_a_changed_ciphertext_gives_no_plaintext(xks: XksWorld, key: str) -> None:
    blob = xks("Encrypt", KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        code = xks.refused("Decrypt", CiphertextBlob=bytes(changed)).code
        assert code in (IN_STATE, "InvalidCiphertextException", "AccessDeniedException")


# --- states


USES: dict[str, dict[str, Any]] = {
    "Encrypt": {"Plaintext": b"x"},
    "GenerateDataKey": {"KeySpec": "AES_256"},
    "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256"},
    "Decrypt": {},
}


def _uses(xks: XksWorld, key: str) -> dict[str, dict[str, Any]]:
    blob = xks("Encrypt", KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    uses = {operation: {**members, "KeyId": key} for operation, members in USES.items()}
    uses["Decrypt"]["CiphertextBlob"] = blob
    uses["ReEncrypt"] = {"CiphertextBlob": blob, "DestinationKeyId": xks.new_key()}
    return uses


def test_while_its_store_is_disconnected_a_key_is_unavailable(xks: XksWorld, key: str) -> None:
    uses, own = _uses(xks, key), xks("Encrypt", KeyId=xks.new_key(), Plaintext=b"x")["CiphertextBlob"]
    uses["Decrypt "] = {"CiphertextBlob": uses["Decrypt"]["CiphertextBlob"], "DryRun": True}
    uses["ReEncrypt "] = {"CiphertextBlob": own, "DestinationKeyId": key}
    uses["Decrypt  "] = {"KeyId": key, "DryRun": True, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
    [store] = xks("DescribeCustomKeyStores")["CustomKeyStores"]
    xks("DisconnectCustomKeyStore", CustomKeyStoreId=store["CustomKeyStoreId"])
    metadata = xks("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == ("Unavailable", False)
    before = len(xks.proxy.received)
    for operation, members in uses.items():
        refusal = xks.refused(operation.strip(), **members)
        assert refusal.code == IN_STATE and "not connected" in (refusal.message or "")
        assert arn_of(key) in [one.arn for one in refusal.keys]
    assert len(xks.proxy.received) == before
    refusal = xks.refused(
        "CreateKey", Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store["CustomKeyStoreId"], XksKeyId="second.key_2"
    )
    assert refusal.code == "CustomKeyStoreInvalidStateException"
    xks("ConnectCustomKeyStore", CustomKeyStoreId=store["CustomKeyStoreId"])
    assert xks("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    assert xks("Decrypt", **uses["Decrypt"])["Plaintext"] == b"secret"


def test_a_keys_own_state_counts_too(xks: XksWorld, key: str) -> None:
    uses = _uses(xks, key)
    for operation, code in (("DisableKey", "DisabledException"), ("ScheduleKeyDeletion", IN_STATE)):
        xks(operation, KeyId=key)
        for use, members in uses.items():
            assert xks.refused(use, **members).code == code
    [store] = xks("DescribeCustomKeyStores")["CustomKeyStores"]
    xks("DisconnectCustomKeyStore", CustomKeyStoreId=store["CustomKeyStoreId"])
    assert xks("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"


def test_changes_of_a_key_leave_it_in_its_store(xks: XksWorld, key: str) -> None:
    xks("DisableKey", KeyId=key)
    xks("TagResource", KeyId=key, Tags=[{"TagKey": "a", "TagValue": "1"}])
    xks("EnableKey", KeyId=key)
    metadata = xks("DescribeKey", KeyId=key)["KeyMetadata"]
    [store] = xks("DescribeCustomKeyStores")["CustomKeyStores"]
    assert metadata["CustomKeyStoreId"] == store["CustomKeyStoreId"]
    refused = xks.refused("DeleteCustomKeyStore", CustomKeyStoreId=store["CustomKeyStoreId"])
    assert refused.code == "CustomKeyStoreHasCMKsException"


def test_dry_runs_stop_last(xks: XksWorld, key: str) -> None:
    for use, members in _uses(xks, key).items():
        assert xks.refused(use, **members, DryRun=True).code == "DryRunOperationException"
        assert xks.refused(
            use, **members | {"EncryptionContext": CONTEXT, "SourceEncryptionContext": CONTEXT}, DryRun=True
        ).code in (IN_STATE if use in ("Decrypt", "ReEncrypt") else "DryRunOperationException",)


def test_another_account_has_no_use_of_the_key(xks: XksWorld, key: str) -> None:
    uses = _uses(xks, key)
    before = len(xks.proxy.received)
    xks.caller = BOB
    for use, members in uses.items():
        members = members | {"KeyId": arn_of(key)} if "KeyId" in members else members
        assert xks.refused(use, **members).code == "AccessDeniedException"
    assert xks.refused("DescribeKey", KeyId=arn_of(key)).code == "AccessDeniedException"
    assert len(xks.proxy.received) == before


# --- making a key


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"CustomKeyStoreId": None}, "ValidationException"),
        ({"XksKeyId": None}, "ValidationException"),
        ({"Origin": None}, "ValidationException"),
        ({"Origin": "EXTERNAL"}, "ValidationException"),
        ({"Origin": "AWS_CLOUDHSM"}, "UnsupportedOperationException"),
        ({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, "UnsupportedOperationException"),
        ({"MultiRegion": True}, "UnsupportedOperationException"),
        ({"CustomKeyStoreId": "cks-0"}, "CustomKeyStoreNotFoundException"),
        ({"XksKeyId": "none"}, "XksKeyNotFoundException"),
    ],
)
def test_what_cannot_be_a_key_in_a_store(xks: XksWorld, changed: dict[str, Any], code: str) -> None:
    asked = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": xks.new_store(), "XksKeyId": "first"} | changed
    refusal = xks.refused("CreateKey", **{name: value for name, value in asked.items() if value is not None})
    assert refusal.code == code
    assert xks("ListKeys")["Keys"] == []


def test_an_external_key_is_one_kms_keys_alone(xks: XksWorld) -> None:
    store_id = xks.new_store()
    first = xks.external_key(store_id)
    asked = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": "first"}
    refusal = xks.refused("CreateKey", **asked)
    assert (refusal.code, refusal.keys) == ("XksKeyAlreadyInUseException", (KeyUse(arn_of(first), ACCOUNT),))
    assert xks.external_key(store_id, "second.key_2")


BAD_METADATA: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("another spec", lambda answer: answer.update(keySpec="AES_128"), "XksKeyInvalidConfigurationException"),
    ("no decryption", lambda answer: answer.update(keyUsage=["ENCRYPT"]), "XksKeyInvalidConfigurationException"),
    ("disabled", lambda answer: answer.update(keyStatus="DISABLED"), "XksKeyInvalidConfigurationException"),
    ("a status that is not known", lambda answer: answer.update(keyStatus="ASLEEP"), "CustomKeyStoreInvalidStateException"),
    ("no spec", lambda answer: answer.pop("keySpec"), "CustomKeyStoreInvalidStateException"),
    ("a usage that is no list", lambda answer: answer.update(keyUsage="ENCRYPT"), "CustomKeyStoreInvalidStateException"),
    ("too many usages", lambda answer: answer.update(keyUsage=["ENCRYPT"] * 11), "CustomKeyStoreInvalidStateException"),
]


@pytest.mark.parametrize(("spoil", "code"), [row[1:] for row in BAD_METADATA], ids=[row[0] for row in BAD_METADATA])
def test_an_external_key_that_cannot_be_one(xks: XksWorld, spoil: Callable[[dict[str, Any]], object], code: str) -> None:
    store_id = xks.new_store()
    xks.proxy.spoil = spoil
    assert xks.refused("CreateKey", Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="first").code == code
    assert xks("ListKeys")["Keys"] == []


#: An error of the proxy, and the code for who makes a key; who uses one gets KMSInvalidStateException.
ERRORS = {
    "ValidationException": "CustomKeyStoreInvalidStateException",
    "InvalidStateException": "XksKeyInvalidConfigurationException",
    "InvalidCiphertextException": "CustomKeyStoreInvalidStateException",
    "InvalidKeyUsageException": "XksKeyInvalidConfigurationException",
    "AuthenticationFailedException": "CustomKeyStoreInvalidStateException",
    "AccessDeniedException": "KMSInvalidStateException",
    "KeyNotFoundException": "XksKeyNotFoundException",
    "InvalidUriPathException": "CustomKeyStoreInvalidStateException",
    "ThrottlingException": "CustomKeyStoreInvalidStateException",
    "UnsupportedOperationException": "XksKeyInvalidConfigurationException",
    "DependencyTimeoutException": "CustomKeyStoreInvalidStateException",
    "InternalException": "CustomKeyStoreInvalidStateException",
    "SomethingElse": "CustomKeyStoreInvalidStateException",
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_of_the_proxy(xks: XksWorld, key: str, name: str) -> None:
    uses = _uses(xks, key)
    [store] = xks("DescribeCustomKeyStores")["CustomKeyStores"]
    uses["CreateKey"] = {
        "Origin": "EXTERNAL_KEY_STORE",
        "CustomKeyStoreId": store["CustomKeyStoreId"],
        "XksKeyId": "second.key_2",
    }
    for operation, members in uses.items():
        xks.proxy.script.append(error(name))
        refusal = xks.refused(operation, **members)
        assert refusal.code == (ERRORS[name] if operation == "CreateKey" else IN_STATE)
        assert refusal.message and "hidden reason" not in refusal.message
        if operation != "CreateKey":
            assert refusal.keys[0] == KeyUse(arn_of(key), ACCOUNT)


def _shorter(text: str) -> str:
    return base64.b64encode(base64.b64decode(text)[:-1]).decode()


WRONG: list[tuple[str, str, Callable[[dict[str, Any]], object]]] = [
    *[
        (f"no {member}", "Encrypt", lambda answer, member=member: answer.pop(member))
        for member in ("ciphertext", "initializationVector", "authenticationTag", "ciphertextDataIntegrityValue")
    ],
    ("ciphertext shorter", "Encrypt", lambda answer: answer.update(ciphertext=_shorter(answer["ciphertext"]))),
    ("an IV of 11 bytes", "Encrypt", lambda answer: answer.update(initializationVector=_shorter(answer["initializationVector"]))),
    ("a tag of 15 bytes", "Encrypt", lambda answer: answer.update(authenticationTag=_shorter(answer["authenticationTag"]))),
    ("metadata too long", "Encrypt", lambda answer: answer.update(ciphertextMetadata=base64.b64encode(b"m" * 21).decode())),
    ("other metadata", "Encrypt", lambda answer: answer.update(ciphertextMetadata="")),
    ("no base64", "Encrypt", lambda answer: answer.update(ciphertext="ÿ" + answer["ciphertext"])),
    ("base64 with blanks", "Encrypt", lambda answer: answer.update(ciphertext=answer["ciphertext"] + "\n")),
    ("a number", "Encrypt", lambda answer: answer.update(ciphertext=7)),
    (
        "a wrong integrity value",
        "Encrypt",
        lambda answer: answer.update(ciphertextDataIntegrityValue=base64.b64encode(bytes(32)).decode()),
    ),
    ("no plaintext", "Decrypt", lambda answer: answer.pop("plaintext")),
    ("a shorter plaintext", "Decrypt", lambda answer: answer.update(plaintext=_shorter(answer["plaintext"]))),
    (
        "another plaintext",
        "Decrypt",
        lambda answer: answer.update(plaintext=base64.b64encode(bytes(len(base64.b64decode(answer["plaintext"])))).decode()),
    ),
]


@pytest.mark.parametrize(("operation", "spoil"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_answers_that_are_wrong(xks: XksWorld, key: str, operation: str, spoil: Callable[[dict[str, Any]], object]) -> None:
    members = _uses(xks, key)[operation]
    xks.proxy.spoil = spoil
    assert xks.refused(operation, **members).code == IN_STATE


@pytest.mark.parametrize("step", [answers(200, b"\xff\xfe rubbish"), answers(200, b"[]"), answers(500, b"oops"), resets()])
def test_answers_that_are_none(xks: XksWorld, key: str, step: Step) -> None:
    for operation, members in _uses(xks, key).items():
        xks.proxy.script.extend([step] * 2)
        assert xks.refused(operation, **members).code == IN_STATE
        xks.proxy.script.clear()


def test_a_key_manager_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    world = XksWorld(tmp_path, timeout_s=0.3)
    key = world.external_key(world.new_store())
    world.proxy.script.append(hangs())
    refusal = world.refused("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    assert (refusal.code, refusal.message) == (IN_STATE, "The external key store proxy did not answer in time.")
    world.close()


def test_a_proxy_that_closed_an_idle_connection_is_asked_once_more(xks: XksWorld, key: str) -> None:
    xks.proxy.script.append(resets())
    assert xks("Encrypt", KeyId=key, Plaintext=b"x")


# --- the forms


def test_the_specifications_own_example_of_an_answer() -> None:
    """Encrypt's response example, whose integrity value appendix C works out."""
    body = (
        b'{"authenticationTag": "vBxN2ncH1oEkR8WVXpmyYQ==", "ciphertext": "ghxkK1txeDNn3q8Y",'
        b' "ciphertextDataIntegrityValue": "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",'
        b' "ciphertextMetadata": "a2V5X3ZlcnNpb249MQ==", "initializationVector": "HMrlRw85cAJUd5Ax"}'
    )
    outer = messages.encrypted(UpstreamResponse(200, (), body), 12, b"project=nile,department=marketing")
    assert outer.metadata == b"key_version=1" and outer.iv.hex() == "1ccae5470f39700254779031"


def test_a_plaintext_of_another_length_than_its_ciphertext_is_none() -> None:
    outer = Outer(bytes(12), b"", bytes(16), b"ab")
    with pytest.raises(XksFailed):
        messages.decrypted(UpstreamResponse(200, (), b'{"plaintext": "YQ=="}'), outer)
    assert messages.decrypted(UpstreamResponse(200, (), b'{"plaintext": "YWI="}'), outer) == b"ab"


OUTERS = st.builds(
    Outer,
    st.binary(min_size=12, max_size=12) | st.binary(min_size=16, max_size=16),
    st.binary(max_size=20),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=1, max_size=300),
)


@given(st.binary(min_size=32, max_size=32), OUTERS)
def test_a_blob_is_read_as_it_was_written(material_id: bytes, outer: Outer) -> None:
    blob = join(material_id, outer)
    assert parse_external(blob) == ExternalCiphertext(material_id, outer)
    assert parse(blob) is None


@given(
    st.binary(max_size=120) | st.binary(max_size=80).map(lambda rest: bytes.fromhex("0102020078") + bytes(32) + b"\x02" + rest)
)
def test_what_is_read_as_a_blob_is_what_would_be_written(blob: bytes) -> None:
    read = parse_external(blob)
    assert read is None or join(*read) == blob


def test_what_is_authenticated_tells_contexts_and_keys_apart() -> None:
    contexts = [encode_context(context) for context in (None, {"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""})]
    seen = {associated_data(sha256(name).digest(), context) for name in (b"1", b"2") for context in contexts}
    assert len(seen) == 8
