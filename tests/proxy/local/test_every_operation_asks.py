"""Every operation that has a handler asks the authoriser, and does nothing where it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest

from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.backend import CHANGES, READINGS, WORKS
from proxy.backends.local.keys import Key
from proxy.backends.local.tables import View
from proxy.domain import KmsCall
from proxy.errors import KmsError
from proxy.permissions import Permissions
from tests.proxy.local.world import ALICE, Clock, World

HANDLERS = sorted({*READINGS, *CHANGES, *WORKS})
#: What each needs besides KeyId, at the least: a word in angle brackets stands for what the test has made.
REQUESTS: dict[str, dict[str, Any]] = {
    "CancelKeyDeletion": {},
    "ConnectCustomKeyStore": {"KeyId": None, "CustomKeyStoreId": "cks-1"},
    "CreateAlias": {"KeyId": None, "AliasName": "alias/new", "TargetKeyId": "<key>"},
    "CreateCustomKeyStore": {"KeyId": None, "CustomKeyStoreName": "store"},
    "CreateGrant": {"GranteePrincipal": ALICE.arn, "Operations": ["Decrypt"]},
    "CreateKey": {"KeyId": None},
    "Decapsulate": {"KeyId": "<kem>", "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": b"x"},
    "Decrypt": {"KeyId": None, "CiphertextBlob": "<blob>"},
    "DeleteAlias": {"KeyId": None, "AliasName": "alias/old"},
    "DeleteCustomKeyStore": {"KeyId": None, "CustomKeyStoreId": "cks-1"},
    "DeleteImportedKeyMaterial": {"KeyId": "<external>"},
    "DeriveSharedSecret": {"KeyId": "<agreement>", "KeyAgreementAlgorithm": "ECDH", "PublicKey": b"x"},
    "DescribeCustomKeyStores": {"KeyId": None},
    "DescribeKey": {},
    "DisableKey": {},
    "DisableKeyRotation": {},
    "DisconnectCustomKeyStore": {"KeyId": None, "CustomKeyStoreId": "cks-1"},
    "EnableKey": {},
    "EnableKeyRotation": {},
    "Encapsulate": {"KeyId": "<kem>", "EncapsulationAlgorithm": "ML_KEM"},
    "Encrypt": {"Plaintext": b"x"},
    "GenerateDataKey": {"KeySpec": "AES_256"},
    "GenerateDataKeyPair": {"KeyPairSpec": "ECC_NIST_P256"},
    "GenerateDataKeyPairWithoutPlaintext": {"KeyPairSpec": "ECC_NIST_P256"},
    "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256"},
    "GenerateMac": {"KeyId": "<mac>", "Message": b"x", "MacAlgorithm": "HMAC_SHA_256"},
    "GenerateRandom": {"KeyId": None, "NumberOfBytes": 1},
    "GetKeyLastUsage": {},
    "GetKeyPolicy": {},
    "GetKeyRotationStatus": {},
    "GetParametersForImport": {
        "KeyId": "<external>",
        "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
        "WrappingKeySpec": "RSA_2048",
    },
    "GetPublicKey": {"KeyId": "<pair>"},
    "ImportKeyMaterial": {"KeyId": "<external>", "ImportToken": b"x", "EncryptedKeyMaterial": b"x"},
    "ListAliases": {"KeyId": None},
    "ListGrants": {},
    "ListKeyPolicies": {},
    "ListKeyRotations": {},
    "ListKeys": {"KeyId": None},
    "ListResourceTags": {},
    "ListRetirableGrants": {"KeyId": None, "RetiringPrincipal": ALICE.arn},
    "PutKeyPolicy": {"Policy": "{}"},
    "ReEncrypt": {"KeyId": None, "CiphertextBlob": "<blob>", "DestinationKeyId": "<key>"},
    "ReplicateKey": {"KeyId": "<mrk>", "ReplicaRegion": "eu-west-1"},
    "RetireGrant": {"GrantId": "<grant>"},
    "RevokeGrant": {"GrantId": "<grant>"},
    "RotateKeyOnDemand": {},
    "ScheduleKeyDeletion": {},
    "Sign": {"KeyId": "<pair>", "Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"},
    "TagResource": {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
    "UntagResource": {"TagKeys": ["a"]},
    "UpdateAlias": {"KeyId": None, "AliasName": "alias/old", "TargetKeyId": "<key>"},
    "UpdateCustomKeyStore": {"KeyId": None, "CustomKeyStoreId": "cks-1"},
    "UpdateKeyDescription": {"Description": "x"},
    "UpdatePrimaryRegion": {"KeyId": "<mrk>", "PrimaryRegion": "eu-west-1"},
    "Verify": {"KeyId": "<pair>", "Message": b"x", "Signature": b"x", "SigningAlgorithm": "ECDSA_SHA_256"},
    "VerifyMac": {"KeyId": "<mac>", "Message": b"x", "Mac": b"x", "MacAlgorithm": "HMAC_SHA_256"},
}
KEYS: dict[str, dict[str, Any]] = {
    "<key>": {},
    "<external>": {"Origin": "EXTERNAL"},
    "<mrk>": {"MultiRegion": True},
    "<mac>": {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    "<pair>": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
    "<agreement>": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
    "<kem>": {"KeySpec": "ML_KEM_768", "KeyUsage": "ENCAPSULATE_DECAPSULATE"},
}


class Refusing:
    """An authoriser that lets everything through until it is told not to, and then nothing."""

    def __init__(self) -> None:
        self.refuses = False
        self.asked: list[str] = []

    def check(self, view: View, call: KmsCall, action: str, key: Key | None) -> None:
        self.asked.append(action)
        if self.refuses:
            raise KmsError("AccessDeniedException", "No.")

    def check_policy(self, view: View, call: KmsCall, key: Key, *, bypass: bool) -> None:
        raise AssertionError("asked about a policy before whether the caller may put any")


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[tuple[World, Refusing]]:
    authoriser = Refusing()
    world = World(tmp_path / "keystore.db", Clock(), authoriser)
    yield world, authoriser
    world.close()


def made(world: World, operation: str) -> dict[str, Any]:
    """The operation's request, with what it is about made."""
    request = {"KeyId": "<key>", **REQUESTS[operation]}
    if "CiphertextBlob" in request:
        request["CiphertextBlob"] = world("Encrypt", KeyId=world.new_key(), Plaintext=b"x")["CiphertextBlob"]
    if "AliasName" in request:
        world("CreateAlias", AliasName="alias/old", TargetKeyId=world.new_key())
    request = {name: _made(world, value) for name, value in request.items() if value is not None}
    if request.get("GrantId"):
        grant = world("CreateGrant", KeyId=request["KeyId"], GranteePrincipal=ALICE.arn, Operations=["Decrypt"])
        request["GrantId"] = grant["GrantId"]
    return request


def _made(world: World, value: Any) -> Any:
    """A new key for a word of `KEYS`, and what is no such word as it is."""
    return world.new_key(**KEYS[value]) if isinstance(value, str) and value in KEYS else value


def test_the_table_has_every_handler() -> None:
    assert set(HANDLERS) <= set(REQUESTS)


@pytest.mark.parametrize("operation", HANDLERS)
def test_an_operation_asks_first(refusing: tuple[World, Refusing], operation: str) -> None:
    world, authoriser = refusing
    request = made(world, operation)
    before = world.store.changes_since(0, ("key", "alias", "grant", "permissions")).generation
    authoriser.asked.clear()
    authoriser.refuses = True
    refusal = world.refused(operation, **request)
    assert refusal.code == "AccessDeniedException", refusal
    first = {"ReEncrypt": "kms:ReEncryptFrom"}.get(operation, f"kms:{operation}")
    assert authoriser.asked == [first]
    assert world.store.changes_since(0, ("key",)).generation == before


@pytest.mark.parametrize("operation", HANDLERS)
def test_a_caller_whose_policies_allow_nothing_is_refused(tmp_path: Path, operation: str) -> None:
    """The same by the real one."""
    world = World(tmp_path / "keystore.db")
    request = made(world, operation)
    Permissions(world.store).remove(ALICE.arn, "KMSFullAccess")
    assert isinstance(world.authoriser, PolicyAuthoriser)
    assert world.refused(operation, **request).code == "AccessDeniedException"
    world.close()
