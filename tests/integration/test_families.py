"""One short flow for each family of operations, by boto3 and a running server, checked with tools that are not keytrail's."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.integration.conftest import REGION, Server, keytrail, keytrail_command

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

DEMO = "arn:aws:iam::111122223333:user/demo"
ROLE = "arn:aws:iam::444455556666:role/partner"
SESSION = "arn:aws:sts::444455556666:assumed-role/partner/run-1"
Json = Any


@pytest.fixture(scope="module")
def kms(server: Server) -> KMSClient:
    return server.client()


@pytest.fixture(scope="module")
def partner(server: Server) -> KMSClient:
    """A session of a role of another account, which the first caller may assume."""
    statement = {"Effect": "Allow", "Principal": {"AWS": DEMO}, "Action": "sts:AssumeRole"}
    trust = server.data.parent / "trust.json"
    trust.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    argv = [keytrail_command(), "role", "add", ROLE, "--trust", str(trust), "--data", str(server.data)]
    subprocess.run(argv, check=True, capture_output=True, cwd=server.data.parent)
    access_key_id, secret_access_key = server.credentials()
    where = {"endpoint_url": server.url, "region_name": REGION, "config": Config(retries={"total_max_attempts": 1})}
    session: Json = boto3.Session()  # its types have a client for each service's name
    sts = session.client("sts", aws_access_key_id=access_key_id, aws_secret_access_key=secret_access_key, **where)
    given = sts.assume_role(RoleArn=ROLE, RoleSessionName="run-1")["Credentials"]
    made: KMSClient = session.client(
        "kms",
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
        **where,
    )
    return made


def refusal(call: Json, **parameters: Json) -> str:
    """The error code of a call that is refused."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


def test_what_is_signed_verifies_with_the_public_key_alone(kms: KMSClient) -> None:
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    signature = kms.sign(KeyId=key, Message=b"a contract", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
    public = serialization.load_der_public_key(kms.get_public_key(KeyId=key)["PublicKey"])
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"a contract", ec.ECDSA(hashes.SHA256()))
    asked: dict[str, Json] = {"KeyId": key, "SigningAlgorithm": "ECDSA_SHA_256", "Signature": signature}
    assert kms.verify(Message=b"a contract", **asked)["SignatureValid"]
    assert refusal(kms.verify, Message=b"a forgery", **asked) == "KMSInvalidSignatureException"


def test_a_mac_is_that_of_the_imported_key(kms: KMSClient) -> None:
    """Of an HMAC key whose material is ours, so that another tool can say what its MACs are."""
    material = bytes(range(32))
    made = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC", Origin="EXTERNAL")["KeyMetadata"]
    bring_in(kms, made["KeyId"], material)
    mac = kms.generate_mac(KeyId=made["KeyId"], Message=b"a message", MacAlgorithm="HMAC_SHA_256")["Mac"]
    assert mac == hmac.digest(material, b"a message", hashlib.sha256)


def bring_in(kms: KMSClient, key: str, material: bytes) -> None:
    """Import material as the guide says."""
    given = kms.get_parameters_for_import(KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")
    wrapping = serialization.load_der_public_key(given["PublicKey"])
    assert isinstance(wrapping, rsa.RSAPublicKey)
    wrapped = wrapping.encrypt(material, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    kms.import_key_material(
        KeyId=key,
        ImportToken=given["ImportToken"],
        EncryptedKeyMaterial=wrapped,
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )


def test_imported_material_can_be_deleted_and_brought_back(kms: KMSClient) -> None:
    key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    assert refusal(kms.encrypt, KeyId=key, Plaintext=b"x") == "KMSInvalidStateException"
    bring_in(kms, key, bytes(range(32)))
    blob = kms.encrypt(KeyId=key, Plaintext=b"in confidence")["CiphertextBlob"]
    kms.delete_imported_key_material(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingImport"
    assert refusal(kms.decrypt, CiphertextBlob=blob) == "KMSInvalidStateException"
    bring_in(kms, key, bytes(range(32)))
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"in confidence"


def test_what_was_encrypted_before_a_rotation_decrypts_after_it(kms: KMSClient) -> None:
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    old = kms.encrypt(KeyId=key, Plaintext=b"old")["CiphertextBlob"]
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
    assert kms.get_key_rotation_status(KeyId=key)["RotationPeriodInDays"] == 90
    kms.rotate_key_on_demand(KeyId=key)
    new = kms.encrypt(KeyId=key, Plaintext=b"new")["CiphertextBlob"]
    opened = [kms.decrypt(CiphertextBlob=blob) for blob in (old, new)]
    assert [one["Plaintext"] for one in opened] == [b"old", b"new"]
    assert len({one["KeyMaterialId"] for one in opened}) == 2
    assert [one["RotationType"] for one in kms.list_key_rotations(KeyId=key)["Rotations"]] == ["ON_DEMAND"]


def test_a_shared_secret_is_the_one_that_the_other_side_has(kms: KMSClient) -> None:
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyMetadata"]["KeyId"]
    ours = serialization.load_der_public_key(kms.get_public_key(KeyId=key)["PublicKey"])
    assert isinstance(ours, ec.EllipticCurvePublicKey)
    theirs = ec.generate_private_key(ec.SECP256R1())
    public = theirs.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    made = kms.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=public)
    assert made["SharedSecret"] == theirs.exchange(ec.ECDH(), ours)


def test_a_session_of_another_account_needs_the_key_policy(kms: KMSClient, partner: KMSClient, server: Server) -> None:
    made = kms.create_key()["KeyMetadata"]
    blob = kms.encrypt(KeyId=made["KeyId"], Plaintext=b"in confidence")["CiphertextBlob"]
    assert refusal(partner.decrypt, CiphertextBlob=blob) == "AccessDeniedException"
    policy = json.loads(kms.get_key_policy(KeyId=made["KeyId"])["Policy"])
    policy["Statement"].append(
        {"Sid": "partners", "Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*"}
    )
    kms.put_key_policy(KeyId=made["KeyId"], Policy=json.dumps(policy))
    assert partner.decrypt(CiphertextBlob=blob)["Plaintext"] == b"in confidence"
    assert refusal(partner.describe_key, KeyId=made["Arn"]) == "AccessDeniedException"
    *_, refused, answered, _ = [record for record in server.records() if record["userIdentity"].get("arn") == SESSION]
    assert answered["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] == ROLE
    assert (answered["recipientAccountId"], answered["resources"][0]["accountId"]) == ("444455556666", "111122223333")
    assert {"policy": "key policy", "statement": "partners"} in keytrail(answered)["allowedBy"]
    assert refused["errorCode"] == "AccessDenied"


def test_a_session_decrypts_by_a_grant_until_that_is_revoked(kms: KMSClient, partner: KMSClient, server: Server) -> None:
    made = kms.create_key()["KeyMetadata"]
    context = {"tenant": "acme"}
    blob = kms.encrypt(KeyId=made["KeyId"], Plaintext=b"in confidence", EncryptionContext=context)["CiphertextBlob"]
    other = kms.encrypt(KeyId=made["KeyId"], Plaintext=b"x", EncryptionContext={"tenant": "globex"})["CiphertextBlob"]
    assert refusal(partner.decrypt, CiphertextBlob=blob, EncryptionContext=context) == "AccessDeniedException"
    grant = kms.create_grant(
        KeyId=made["KeyId"],
        GranteePrincipal=ROLE,
        Operations=["Decrypt"],
        Constraints={"EncryptionContextSubset": context},
    )
    assert partner.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"in confidence"
    assert refusal(partner.decrypt, CiphertextBlob=other, EncryptionContext={"tenant": "globex"}) == "AccessDeniedException"
    answered = [record for record in server.records() if record["userIdentity"].get("arn") == SESSION][-2]
    assert keytrail(answered)["allowedBy"] == [{"grant": grant["GrantId"]}]
    kms.revoke_grant(KeyId=made["KeyId"], GrantId=grant["GrantId"])
    assert refusal(partner.decrypt, CiphertextBlob=blob, EncryptionContext=context) == "AccessDeniedException"
