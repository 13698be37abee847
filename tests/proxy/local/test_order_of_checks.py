"""Every cryptographic operation with a key of every usage and spec, in every state: which refusal comes first.

The order, as AWS's: the key is found · usage · state · algorithm · what the operation has besides · DryRun. So a call is wrong in
every respect at first, and put right one step after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from botocore.session import get_session

from proxy.backends.local.keys import KeyState
from proxy.backends.local.specs import (
    ENCAPSULATE_DECAPSULATE,
    ENCRYPT_DECRYPT,
    GENERATE_VERIFY_MAC,
    KEY_AGREEMENT,
    SIGN_VERIFY,
    SPECS,
)
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key, made, spki
from tests.proxy.local.world import ACCOUNT, World, arn_of

UNKNOWN = "1234abcd-12ab-34cd-56ef-1234567890ab"
SYMMETRIC = "SYMMETRIC_DEFAULT"


@dataclass(frozen=True)
class Row:
    """An operation: the usage it wants, the member that names its algorithm, one that is of another key spec though the model has
    it, and what else it takes that no key can use (`wrong`)."""

    operation: str
    usage: str
    algorithm: str | None
    foreign: str | None
    wrong: dict[str, Any]


ROWS = (
    Row("Sign", SIGN_VERIFY, "SigningAlgorithm", "SM2DSA", {"Message": b"m", "MessageType": "DIGEST"}),
    Row("Verify", SIGN_VERIFY, "SigningAlgorithm", "SM2DSA", {"Message": b"m", "MessageType": "DIGEST", "Signature": b"s"}),
    Row("GenerateMac", GENERATE_VERIFY_MAC, "MacAlgorithm", None, {"Message": b"m"}),
    Row("VerifyMac", GENERATE_VERIFY_MAC, "MacAlgorithm", None, {"Message": b"m", "Mac": b"m"}),
    Row("DeriveSharedSecret", KEY_AGREEMENT, "KeyAgreementAlgorithm", None, {"PublicKey": b"p"}),
    Row("Encapsulate", ENCAPSULATE_DECAPSULATE, "EncapsulationAlgorithm", None, {}),
    Row("Decapsulate", ENCAPSULATE_DECAPSULATE, "EncapsulationAlgorithm", None, {"SharedSecretCiphertextBlob": b"c"}),
    Row("Encrypt", ENCRYPT_DECRYPT, "EncryptionAlgorithm", "SM2PKE", {"Plaintext": b"p"}),
    Row("Decrypt", ENCRYPT_DECRYPT, "EncryptionAlgorithm", "SM2PKE", {"CiphertextBlob": b"c"}),
    Row("GenerateDataKey", ENCRYPT_DECRYPT, None, None, {"KeySpec": "AES_256"}),
    Row("GenerateDataKeyWithoutPlaintext", ENCRYPT_DECRYPT, None, None, {"NumberOfBytes": 1}),
    Row("GenerateDataKeyPair", ENCRYPT_DECRYPT, None, None, {"KeyPairSpec": "SM2"}),
    Row("GenerateDataKeyPairWithoutPlaintext", ENCRYPT_DECRYPT, None, None, {"KeyPairSpec": "SM2"}),
)
KINDS = [(spec.name, usage) for spec in SPECS.values() if spec.name != "ML_KEM_512" for usage in spec.algorithms]
#: What a state says, and by which error. Nothing: the key can be used.
STATES = {
    KeyState.ENABLED: None,
    KeyState.UPDATING: None,
    KeyState.DISABLED: ("DisabledException", "is disabled."),
    KeyState.PENDING_DELETION: ("KMSInvalidStateException", "is pending deletion."),
    KeyState.PENDING_REPLICA_DELETION: ("KMSInvalidStateException", "is pending replica deletion."),
    KeyState.PENDING_IMPORT: ("KMSInvalidStateException", "is pending import."),
    KeyState.UNAVAILABLE: ("KMSInvalidStateException", "is unavailable."),
    KeyState.CREATING: ("KMSInvalidStateException", "is creating."),
}


def key_of(world: World, spec: str, usage: str, state: KeyState = KeyState.ENABLED) -> str:
    secret_bytes = SPECS[spec].secret_bytes
    material = made(spec) if secret_bytes is None else bytes(secret_bytes)
    return given_key(world, spec, usage, material, state=state)


def foreign_algorithm(row: Row, spec: str) -> str | None:
    """An algorithm that the model knows for the operation and the spec has not, if there is one."""
    if row.operation in ("GenerateMac", "VerifyMac"):
        return "HMAC_SHA_512" if spec != "HMAC_512" else "HMAC_SHA_224"
    return row.foreign


def asked(row: Row, algorithm: str | None) -> dict[str, Any]:
    return {} if row.algorithm is None or algorithm is None else {row.algorithm: algorithm}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)
def test_a_key_that_is_not_there_comes_before_all_else(world: World, row: Row) -> None:
    algorithm = foreign_algorithm(row, "") or next(iter(SPECS["ECC_NIST_P256"].algorithms[KEY_AGREEMENT]))
    refusal = world.refused(row.operation, KeyId=UNKNOWN, DryRun=True, **row.wrong, **asked(row, algorithm))
    assert (refusal.code, refusal.message) == ("NotFoundException", f"Key '{arn_of(UNKNOWN)}' does not exist")
    assert refusal.keys == ()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)
@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DELETION], ids=lambda state: state.value)
def test_the_usage_comes_before_state_algorithm_and_the_rest(world: World, row: Row, state: KeyState) -> None:
    for spec, usage in KINDS:
        if usage != row.usage:
            key = key_of(world, spec, usage, state)
            algorithm = foreign_algorithm(row, spec) or "ECDH"
            sent = {**row.wrong, **asked(row, algorithm), "DryRun": True}
            refusal = world.refused(row.operation, KeyId=key, **sent)
            message = f"{arn_of(key)} key usage is {usage} which is not valid for {row.operation}."
            assert (refusal.code, refusal.message) == ("InvalidKeyUsageException", message)
            assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.value)
def test_the_state_comes_before_algorithm_and_the_rest(world: World, row: Row, state: KeyState) -> None:
    for spec, usage in KINDS:
        if usage != row.usage:
            continue
        key = key_of(world, spec, usage, state)
        algorithm = foreign_algorithm(row, spec) or SPECS[spec].algorithms[usage][0]
        sent = {**row.wrong, **asked(row, algorithm), "DryRun": True}
        refusal = world.refused(row.operation, KeyId=key, **sent)
        says = STATES[state]
        if says is None:
            assert refusal.code not in ("DisabledException", "KMSInvalidStateException", "NotFoundException")
        else:
            assert (refusal.code, refusal.message) == (says[0], f"{arn_of(key)} {says[1]}"), spec
        assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)
def test_the_algorithm_comes_before_the_rest(world: World, row: Row) -> None:
    if row.algorithm is None:
        for spec, usage in KINDS:
            if usage == row.usage and spec != SYMMETRIC:
                refusal = world.refused(row.operation, KeyId=key_of(world, spec, usage), **row.wrong, DryRun=True)
                assert (refusal.code, refusal.message) == (
                    "InvalidKeyUsageException",
                    "You cannot generate a data key with an asymmetric CMK",
                )
        return
    for spec, usage in KINDS:
        algorithm = foreign_algorithm(row, spec)
        if usage == row.usage and algorithm is not None:
            refusal = world.refused(
                row.operation, KeyId=key_of(world, spec, usage), **row.wrong, **asked(row, algorithm), DryRun=True
            )
            message = f"Algorithm {algorithm} is incompatible with key spec {spec}."
            assert (refusal.code, refusal.message) == ("InvalidKeyUsageException", message)


#: By operation: what is refused last before DryRun, of a call that has only that wrong.
AT_LAST: dict[str, tuple[str, dict[str, Any]]] = {
    "Sign": ("ValidationException", {}),
    "Verify": ("KMSInvalidSignatureException", {"MessageType": "RAW"}),
    "VerifyMac": ("KMSInvalidMacException", {}),
    "DeriveSharedSecret": ("ValidationException", {}),
    "Decapsulate": ("InvalidCiphertextException", {}),
    "Decrypt": ("InvalidCiphertextException", {}),
    "GenerateDataKeyPair": ("UnsupportedOperationException", {}),
    "GenerateDataKeyPairWithoutPlaintext": ("UnsupportedOperationException", {}),
}
#: What makes the call of each right.
RIGHT: dict[str, dict[str, Any]] = {
    "Sign": {"MessageType": "RAW"},
    "GenerateDataKeyPair": {"KeyPairSpec": "ECC_NIST_P256"},
    "GenerateDataKeyPairWithoutPlaintext": {"KeyPairSpec": "ECC_NIST_P256"},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)
def test_a_dry_run_comes_last_and_says_that_the_call_would_have_succeeded(world: World, row: Row) -> None:
    for spec, usage in KINDS:
        if usage != row.usage or (row.algorithm is None and spec != SYMMETRIC):
            continue
        algorithm = SPECS[spec].algorithms[usage][0]
        sent: dict[str, Any] = {"KeyId": key_of(world, spec, usage), **row.wrong, **asked(row, algorithm)}
        if row.operation in AT_LAST:
            code, but = AT_LAST[row.operation]
            assert world.refused(row.operation, **{**sent, **but}, DryRun=True).code == code, spec
        sent = {**sent, **RIGHT.get(row.operation, {}), **made_right(world, row, sent, spec)}
        refusal = world.refused(row.operation, **sent, DryRun=True)
        assert refusal.code == "DryRunOperationException", spec
        assert refusal.message == "The request would have succeeded, but the DryRun option is set."
        assert refusal.keys == (KeyUse(arn_of(sent["KeyId"]), ACCOUNT),)
        assert world(row.operation, **sent)["KeyId"] == arn_of(sent["KeyId"])  # and it does


def made_right(world: World, row: Row, sent: dict[str, Any], spec: str) -> dict[str, Any]:
    """The members that another operation of the same key gives, or the peer."""
    named = {name: value for name, value in sent.items() if name == "KeyId" or name == row.algorithm}
    match row.operation:
        case "Verify":
            return {"MessageType": "RAW", "Signature": world("Sign", **named, Message=b"m")["Signature"]}
        case "VerifyMac":
            return {"Mac": world("GenerateMac", **named, Message=b"m")["Mac"]}
        case "Decapsulate":
            blob = world("Encapsulate", **named)["SharedSecretCiphertextBlob"]
            return {"SharedSecretCiphertextBlob": blob}
        case "Decrypt":
            return {"CiphertextBlob": world("Encrypt", **named, Plaintext=b"p")["CiphertextBlob"]}
        case "DeriveSharedSecret":
            return {"PublicKey": spki(made(spec))}
    return {}


def test_the_last_refusals_have_codes_that_the_model_knows_for_the_operation() -> None:
    model = get_session().get_service_model("kms")
    for operation, (code, _) in AT_LAST.items():
        known = {shape.name for shape in model.operation_model(operation).error_shapes}
        assert code in known | {"ValidationException"}  # which is common to all
