"""The asymmetric and MAC operations through the whole pipeline: what botocore reads of the answer, and what the record tells."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any  # members of requests and answers: JSON values, as in `proxy.domain.Members`

import pytest
from botocore.parsers import create_parser
from botocore.session import get_session

from audit.record import AuditRecord
from proxy.dialect import KmsDialect
from proxy.pipeline import Pipeline
from proxy.recording import Recorder
from proxy.sigv4 import Verifier
from tests.proxy.local.given import made, spki
from tests.proxy.local.world import ACCOUNT, ALICE, World, arn_of
from tests.proxy.pipeline.world import NOW_US, ORIGIN, REGION, FakeLog, KnownCaller, model, request

#: Members of requests and answers that may stand in no record, in any form.
SECRET = {"Message", "Plaintext", "PrivateKeyPlaintext", "SharedSecret", "Mac", "Signature"}
CIPHERTEXTS = {"CiphertextBlob", "PrivateKeyCiphertextBlob", "SharedSecretCiphertextBlob"}


class Walked:
    """A worker: pipeline, embedded KMS and a log."""

    def __init__(self, path: Path) -> None:
        self.world = World(path)
        self.log = FakeLog([])
        numbers = iter(range(1 << 30))
        self.pipeline = Pipeline(
            verifier=Verifier({ALICE.access_key_id: KnownCaller()}.get),
            dialect=KmsDialect(model(), forwards=False),
            backend=self.world.backend,
            recorder=Recorder(ACCOUNT, REGION, "local", "clear", lambda: f"id-{next(numbers)}"),
            log=self.log,
            origin=ORIGIN,
            now_us=lambda: NOW_US,
            new_id=lambda: f"id-{next(numbers)}",
        )

    def __call__(self, operation: str, **parameters: Any) -> tuple[dict[str, Any], AuditRecord]:
        """The answer as botocore reads it, and the call's record."""
        sent = {name: base64.b64encode(one).decode() if isinstance(one, bytes) else one for name, one in parameters.items()}
        response = asyncio.run(self.pipeline.walk(request(operation, sent)))
        shape = get_session().get_service_model("kms").operation_model(operation).output_shape
        assert shape is not None
        parsed = create_parser("json").parse({"headers": {}, "status_code": response.status, "body": response.body}, shape)
        assert response.status == 200, parsed
        del parsed["ResponseMetadata"]
        self.check_secrets({**parameters, **parsed})
        return parsed, self.log.records[-1]

    def check_secrets(self, members: dict[str, Any]) -> None:
        for name, value in members.items():
            if name in SECRET | CIPHERTEXTS and isinstance(value, bytes):
                for form in (value, base64.b64encode(value), value.hex().encode()):
                    assert not any(form in line for line in self.log.lines), name


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[Walked]:
    one = Walked(tmp_path / "keystore.db")
    yield one
    one.world.close()


def key_in_region(walked: Walked, spec: str, usage: str) -> str:
    key_id: str = walked("CreateKey", KeySpec=spec, KeyUsage=usage)[0]["KeyMetadata"]["KeyId"]
    return key_id


def recorded(record: AuditRecord) -> dict[str, Any]:
    return dict(record.request_parameters or {})


def test_signing(walked: Walked) -> None:
    key = key_in_region(walked, "ECC_NIST_P256", "SIGN_VERIFY")
    chosen = {"KeyId": key, "SigningAlgorithm": "ECDSA_SHA_256", "Message": b"a message that nobody shall find"}
    signed, record = walked("Sign", **chosen)
    assert set(signed) == {"KeyId", "Signature", "SigningAlgorithm"}
    assert recorded(record) == {"keyId": key, "signingAlgorithm": "ECDSA_SHA_256"}
    assert (record.event_name, record.response_elements, record.read_only) == ("Sign", None, True)
    assert [resource.arn for resource in record.resources] == [arn_of(key, REGION)]
    verified, record = walked("Verify", **chosen, MessageType="RAW", Signature=signed["Signature"])
    assert verified == {"KeyId": arn_of(key, REGION), "SignatureValid": True, "SigningAlgorithm": "ECDSA_SHA_256"}
    assert recorded(record) == {"keyId": key, "signingAlgorithm": "ECDSA_SHA_256", "messageType": "RAW"}


def test_macs(walked: Walked) -> None:
    key = key_in_region(walked, "HMAC_256", "GENERATE_VERIFY_MAC")
    chosen = {"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": b"a message that nobody shall find"}
    made_mac, record = walked("GenerateMac", **chosen)
    assert recorded(record) == {"keyId": key, "macAlgorithm": "HMAC_SHA_256"}
    verified, record = walked("VerifyMac", **chosen, Mac=made_mac["Mac"])
    assert verified == {"KeyId": arn_of(key, REGION), "MacValid": True, "MacAlgorithm": "HMAC_SHA_256"}
    assert record.response_elements is None


def test_public_keys_and_agreement(walked: Walked) -> None:
    key = key_in_region(walked, "ECC_NIST_P256", "KEY_AGREEMENT")
    public, record = walked("GetPublicKey", KeyId=key)
    assert set(public) == {"KeyId", "PublicKey", "CustomerMasterKeySpec", "KeySpec", "KeyUsage", "KeyAgreementAlgorithms"}
    assert recorded(record) == {"keyId": key}
    peer = spki(made("ECC_NIST_P256"))
    derived, record = walked("DeriveSharedSecret", KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=peer)
    assert set(derived) == {"KeyId", "SharedSecret", "KeyAgreementAlgorithm", "KeyOrigin"}
    assert recorded(record) == {"keyId": key, "keyAgreementAlgorithm": "ECDH"}


def test_ciphertexts_are_fingerprinted_on_their_way_out_and_in(walked: Walked) -> None:
    kem = key_in_region(walked, "ML_KEM_768", "ENCAPSULATE_DECAPSULATE")
    chosen = {"KeyId": kem, "EncapsulationAlgorithm": "ML_KEM"}
    sent, record = walked("Encapsulate", **chosen)
    fingerprint = (sha256(sent["SharedSecretCiphertextBlob"]).hexdigest(),)
    assert (record.fingerprints_in, record.fingerprints_out) == ((), fingerprint)
    assert recorded(record) == {"keyId": kem, "encapsulationAlgorithm": "ML_KEM"}
    opened, record = walked("Decapsulate", **chosen, SharedSecretCiphertextBlob=sent["SharedSecretCiphertextBlob"])
    assert opened["SharedSecret"] == sent["SharedSecret"]
    assert (record.fingerprints_in, record.fingerprints_out) == (fingerprint, ())

    rsa = key_in_region(walked, "RSA_2048", "ENCRYPT_DECRYPT")
    chosen = {"KeyId": rsa, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
    encrypted, record = walked("Encrypt", **chosen, Plaintext=b"a plaintext that nobody shall find")
    fingerprint = (sha256(encrypted["CiphertextBlob"]).hexdigest(),)
    assert (record.fingerprints_out, record.key_material_ids) == (fingerprint, None)
    decrypted, record = walked("Decrypt", **chosen, CiphertextBlob=encrypted["CiphertextBlob"])
    assert decrypted["Plaintext"] == b"a plaintext that nobody shall find" and record.fingerprints_in == fingerprint
    assert recorded(record) == {"keyId": rsa, "encryptionAlgorithm": "RSAES_OAEP_SHA_256"}


def test_data_key_pairs(walked: Walked) -> None:
    key = key_in_region(walked, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    pair, record = walked("GenerateDataKeyPair", KeyId=key, KeyPairSpec="ECC_NIST_P256", EncryptionContext={"tenant": "acme"})
    assert record.fingerprints_out == (sha256(pair["PrivateKeyCiphertextBlob"]).hexdigest(),)
    assert recorded(record) == {"keyId": key, "keyPairSpec": "ECC_NIST_P256", "encryptionContext": {"tenant": "acme"}}
    assert record.key_material_ids == {"keyMaterialId": pair["KeyMaterialId"]}
    opened, record = walked("Decrypt", CiphertextBlob=pair["PrivateKeyCiphertextBlob"], EncryptionContext={"tenant": "acme"})
    assert opened["Plaintext"] == pair["PrivateKeyPlaintext"]
    assert record.fingerprints_in == (sha256(pair["PrivateKeyCiphertextBlob"]).hexdigest(),)
