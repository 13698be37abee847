"""Published vectors of encryption, key agreement and encapsulation, through the handlers.

Sources: the package cryptography-vectors (RSA Laboratories' and pyca's for OAEP, NIST's CAVS file for ECDH, the reference
implementation of ML-KEM).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any  # classes of the library that have no common one

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem

from proxy.backends.local.specs import ENCAPSULATE_DECAPSULATE, ENCRYPT_DECRYPT, KEY_AGREEMENT
from tests.proxy.local.given import given_key, spki
from tests.proxy.local.vectors import oaep, records
from tests.proxy.local.world import World


@pytest.mark.parametrize(
    ("file", "algorithm"),
    [
        ("pkcs-1v2-1d2-vec/oaep-vect.txt", "RSAES_OAEP_SHA_1"),
        ("oaep-custom/oaep-sha256-sha256.txt", "RSAES_OAEP_SHA_256"),
    ],
)
def test_oaep_decrypts_what_was_published(world: World, file: str, algorithm: str) -> None:
    """Also of keys that are shorter than KMS makes them."""
    tried = 0
    for private, plaintext, blob in oaep(f"asymmetric/RSA/{file}"):
        if private.key_size % 8 == 0:
            key = given_key(world, "RSA_2048", ENCRYPT_DECRYPT, private)
            sent: dict[str, Any] = {"KeyId": key, "EncryptionAlgorithm": algorithm, "CiphertextBlob": blob}
            assert world("Decrypt", **sent)["Plaintext"] == plaintext
            tried += 1
    assert tried >= 18


AGREEMENTS: dict[str, tuple[str, ec.EllipticCurve]] = {
    "EC - SHA256": ("ECC_NIST_P256", ec.SECP256R1()),
    "ED - SHA384": ("ECC_NIST_P384", ec.SECP384R1()),
    "EE - SHA512": ("ECC_NIST_P521", ec.SECP521R1()),
}


def peer_of(template: bytes, x: int, y: int, size_bytes: int) -> bytes:
    """A SubjectPublicKeyInfo with these coordinates, whatever they are."""
    return template[: -2 * size_bytes] + x.to_bytes(size_bytes, "big") + y.to_bytes(size_bytes, "big")


@pytest.mark.parametrize("section", sorted(AGREEMENTS))
@pytest.mark.parametrize("role", ["init", "resp"])
def test_agreement_gives_what_nist_says_and_refuses_what_is_no_point(world: World, section: str, role: str) -> None:
    spec, curve = AGREEMENTS[section]
    results: Counter[str] = Counter()
    for record in records(f"asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_{role}.fax", "Result"):
        result = record["Result"].removeprefix("F (").removeprefix("P (").split(" ")[0]
        if record["section"] != section or result in ("5", "6", "7"):  # faults of our own key
            continue
        private = ec.derive_private_key(int(record["dsIUT"], 16), curve)
        key = given_key(world, spec, KEY_AGREEMENT, private)
        peer = peer_of(spki(private), int(record["QsCAVSx"], 16), int(record["QsCAVSy"], 16), (curve.key_size + 7) // 8)
        sent: dict[str, Any] = {"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": peer}
        if result in ("1", "2"):
            assert world.refused("DeriveSharedSecret", **sent).code == "ValidationException"
        else:
            secret = world("DeriveSharedSecret", **sent)["SharedSecret"]
            assert (int.from_bytes(secret, "big") == int(record["Z"], 16)) == record["Result"].startswith("P")
        results[result] += 1
    assert {"0", "1", "2", "8"} <= set(results) and results.total() > 15


ML_KEM: Mapping[str, Any] = {"768": mlkem.MLKEM768PrivateKey, "1024": mlkem.MLKEM1024PrivateKey}


@pytest.mark.parametrize("level", sorted(ML_KEM))
def test_decapsulation_is_the_reference_implementations_also_of_what_it_rejects(world: World, level: str) -> None:
    found = list(records(f"asymmetric/MLKEM/kat_MLKEM_{level}.rsp", "ss"))[::20]
    for record in found:
        private = ML_KEM[level].from_seed_bytes(bytes.fromhex(record["d"] + record["z"]))
        key = given_key(world, f"ML_KEM_{level}", ENCAPSULATE_DECAPSULATE, private)
        public = bytes.fromhex(record["pk"])
        assert world("GetPublicKey", KeyId=key)["PublicKey"][-len(public) :] == public
        for blob, secret in (("ct", "ss"), ("ct_n", "ss_n")):  # the latter by implicit rejection
            sent: dict[str, Any] = {"EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": bytes.fromhex(record[blob])}
            assert world("Decapsulate", KeyId=key, **sent)["SharedSecret"] == bytes.fromhex(record[secret])
    assert len(found) == 50
