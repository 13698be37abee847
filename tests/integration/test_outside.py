"""A running keytrail and what is outside of it: an enclave that answers are for, a key manager that holds half of a key."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from tests.integration.conftest import Server
from tests.proxy.local.enclave import MODULE_ID, PCRS, Enclave, Nitro
from tests.proxy.local.xks_proxy import ACCESS_KEY_ID, AUTHORITY, NAME, SECRET, XksProxy, store_members

#: Time that a proxy on this machine always has; the tests that are about time are elsewhere.
PATIENCE_S = "20"


@pytest.fixture
def key_manager() -> Iterator[XksProxy]:
    """An external key store proxy, on a loop and a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = XksProxy()
    asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(20)
    yield proxy
    asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


def _started(server: Server, **settings: str) -> Server:
    server.settings |= settings
    return server.start()


def _with_an_enclave(server: Server, folder: Path) -> tuple[Server, Enclave]:
    """A server that answers for the enclaves of a Nitro of its own, and one of these."""
    nitro, root = Nitro(now=datetime.now(UTC)), folder / "root.pem"
    root.write_bytes(nitro.root.certificate.public_bytes(Encoding.PEM))
    return _started(server, KEYTRAIL_ATTESTATION_ROOT=str(root)), Enclave(nitro)


def _outcomes(server: Server, operation: str) -> list[dict[str, Any]]:
    records = [record for record in server.records() if record["eventName"] == operation]
    return [record for record in records if record["additionalEventData"]["keytrail"]["phase"] == "outcome"]


def test_an_answer_for_an_enclave(own_server: Server, tmp_path: Path) -> None:
    server, enclave = _with_an_enclave(own_server, tmp_path)
    kms = server.client()
    good: Any = enclave.recipient()
    answer = kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", Recipient=good)
    assert not answer.get("Plaintext")
    opened = _opened(answer["CiphertextForRecipient"], enclave, tmp_path)
    assert kms.decrypt(CiphertextBlob=answer["CiphertextBlob"])["Plaintext"] == opened

    bad: Any = enclave.recipient(module_id="")
    with pytest.raises(ClientError) as refused:
        kms.decrypt(CiphertextBlob=answer["CiphertextBlob"], Recipient=bad)
    assert refused.value.response["Error"]["Code"] == "ValidationException"

    [made], [plain, denied] = _outcomes(server, "GenerateDataKey"), _outcomes(server, "Decrypt")[-2:]
    recipient = made["additionalEventData"]["recipient"]
    assert recipient["attestationDocumentModuleId"] == MODULE_ID
    assert recipient["attestationDocumentEnclaveImageDigest"] == PCRS[0].hex()
    assert "recipient" not in plain["additionalEventData"] and "recipient" not in denied["additionalEventData"]
    assert denied["errorCode"] == "ValidationException"
    log = json.dumps(server.records())
    assert opened.hex() not in log and "ublicKey" not in log


def test_a_key_pair_and_an_agreement_for_an_enclave(own_server: Server, tmp_path: Path) -> None:
    server, enclave = _with_an_enclave(own_server, tmp_path)
    kms = server.client()
    good: Any = enclave.recipient()
    pair = kms.generate_data_key_pair(KeyId="alias/demo", KeyPairSpec="ECC_NIST_P256", Recipient=good)
    assert not pair.get("PrivateKeyPlaintext")
    private_der = _opened(pair["CiphertextForRecipient"], enclave, tmp_path)
    private = load_der_private_key(private_der, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == pair["PublicKey"]
    assert kms.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])["Plaintext"] == private_der

    agreeing = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyMetadata"]["KeyId"]
    asked: Any = {"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": pair["PublicKey"]}
    derived = kms.derive_shared_secret(**asked, Recipient=good)
    assert not derived.get("SharedSecret")
    secret = _opened(derived["CiphertextForRecipient"], enclave, tmp_path)
    own = load_der_public_key(kms.get_public_key(KeyId=agreeing)["PublicKey"])
    assert isinstance(own, ec.EllipticCurvePublicKey)
    assert secret == private.exchange(ec.ECDH(), own) == kms.derive_shared_secret(**asked)["SharedSecret"]

    bad: Any = enclave.recipient(module_id="")
    with pytest.raises(ClientError) as refused:
        kms.derive_shared_secret(**asked, Recipient=bad)
    assert refused.value.response["Error"]["Code"] == "ValidationException"

    [made], [attested, plain, denied] = _outcomes(server, "GenerateDataKeyPair"), _outcomes(server, "DeriveSharedSecret")
    for record in (made, attested):
        assert record["additionalEventData"]["recipient"]["attestationDocumentModuleId"] == MODULE_ID
    assert "recipient" not in plain["additionalEventData"] and "recipient" not in denied["additionalEventData"]
    log = json.dumps(server.records())
    for found in (private_der, secret):
        assert found.hex() not in log and base64.b64encode(found).decode() not in log


def _opened(message: bytes, enclave: Enclave, folder: Path) -> bytes:
    """What the enclave reads, by OpenSSL's own reader of CMS."""
    (folder / "message").write_bytes(message)
    (folder / "key").write_bytes(enclave.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    opens = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", "message", "-inkey", "key"]
    return subprocess.run(opens, check=True, capture_output=True, cwd=folder).stdout


def test_a_key_whose_other_half_is_outside(own_server: Server, key_manager: XksProxy, tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text(AUTHORITY.pem)
    server = _started(
        own_server,
        KEYTRAIL_XKS_HOSTS=f"{NAME}=127.0.0.1:{key_manager.port}",
        KEYTRAIL_XKS_CA_BUNDLE=str(authority),
        KEYTRAIL_XKS_TIMEOUT_S=PATIENCE_S,
    )
    kms = server.client()
    store_id = kms.create_custom_key_store(**store_members())["CustomKeyStoreId"]
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    asked: Any = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": "first"}
    key_id = kms.create_key(**asked)["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"secret", EncryptionContext={"a": "b"})["CiphertextBlob"]
    server.stop()
    server.start()
    kms = server.client()
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})["Plaintext"] == b"secret"
    key_manager.disabled.add("first")
    with pytest.raises(ClientError) as refused:
        kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})
    assert refused.value.response["Error"]["Code"] == "KMSInvalidStateException"
    kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Unavailable"

    opened, _ = _outcomes(server, "Decrypt")
    told = [body["requestMetadata"]["kmsRequestId"] for place, body in key_manager.received if place.endswith("/decrypt")]
    assert opened["requestID"] == told[0]  # the key manager's log and this one have it in common
    [created] = _outcomes(server, "CreateCustomKeyStore")
    assert created["requestParameters"]["xksProxyUriEndpoint"] == f"https://{NAME}"
    written = b"".join(file.read_bytes() for file in server.data.rglob("*") if file.is_file())
    assert store_id.encode() in written
    assert SECRET.encode() not in written and ACCESS_KEY_ID.encode() not in written
