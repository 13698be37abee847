"""Published vectors of the signing and MAC algorithms, through the handlers.

Sources: the package cryptography-vectors (NIST's CAVS files, RFC 8032's authors, RFC 4231, the reference implementation of
ML-DSA), and tests/vectors/kms/README.md.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from proxy.backends.local import ed25519ph, signatures
from proxy.backends.local.specs import GENERATE_VERIFY_MAC, SIGN_VERIFY
from proxy.errors import KmsError
from tests.proxy.local.given import given_key
from tests.proxy.local.vectors import Record, lines, own, records
from tests.proxy.local.world import World

CURVES: dict[str, tuple[str, str, ec.EllipticCurve]] = {
    "P-256,SHA-256": ("ECC_NIST_P256", "ECDSA_SHA_256", ec.SECP256R1()),
    "P-384,SHA-384": ("ECC_NIST_P384", "ECDSA_SHA_384", ec.SECP384R1()),
    "P-521,SHA-512": ("ECC_NIST_P521", "ECDSA_SHA_512", ec.SECP521R1()),
    "K-256,SHA-256": ("ECC_SECG_P256K1", "ECDSA_SHA_256", ec.SECP256K1()),
}


def is_valid(world: World, **sent: Any) -> bool:  # Any: as above
    """What Verify says."""
    try:
        return bool(world("Verify", **sent)["SignatureValid"])
    except KmsError as refusal:
        assert (refusal.code, refusal.message) == ("KMSInvalidSignatureException", None)
        return False


def ecdsa(world: World, record: Record) -> dict[str, Any]:
    spec, algorithm, curve = CURVES[record["section"]]
    public = ec.EllipticCurvePublicNumbers(int(record["Qx"], 16), int(record["Qy"], 16), curve).public_key()
    signature = encode_dss_signature(int(record["R"], 16), int(record["S"], 16))
    key = given_key(world, spec, SIGN_VERIFY, public)
    return {"KeyId": key, "SigningAlgorithm": algorithm, "Signature": signature}


@pytest.mark.parametrize("section", ["P-256,SHA-256", "P-384,SHA-384", "P-521,SHA-512"])
def test_ecdsa_verifies_what_nist_says_and_nothing_else(world: World, section: str) -> None:
    results: Counter[bool] = Counter()
    for record in records("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp", "Result"):
        if record["section"] == section:
            chosen, message = ecdsa(world, record), bytes.fromhex(record["Msg"])
            expected = record["Result"].startswith("P")
            assert is_valid(world, **chosen, Message=message) == expected, record["Result"]
            digest = hashlib.new(f"sha{section[-3:]}", message).digest()
            assert is_valid(world, **chosen, Message=digest, MessageType="DIGEST") == expected
            results[expected] += 1
    assert results == {True: results[True], False: 15 - results[True]} and results[True] > 1


@pytest.mark.parametrize(
    ("section", "file"),
    [
        ("P-256,SHA-256", "FIPS_186-3/SigGen.txt"),
        ("P-384,SHA-384", "FIPS_186-3/SigGen.txt"),
        ("P-521,SHA-512", "FIPS_186-3/SigGen.txt"),
        ("K-256,SHA-256", "SECP256K1/SigGen.txt"),
    ],
)
def test_ecdsa_with_the_private_keys_of_the_vectors(world: World, section: str, file: str) -> None:
    """Its signatures are random: ours and the published ones verify under the public half that the private one has."""
    found = [one for one in records(f"asymmetric/ECDSA/{file}", "S") if one["section"] == section][:15]
    spec, algorithm, curve = CURVES[section]
    for record in found:
        private = ec.derive_private_key(int(record["d"], 16), curve)
        numbers = private.public_key().public_numbers()
        assert (numbers.x, numbers.y) == (int(record["Qx"], 16), int(record["Qy"], 16))
        key, message = given_key(world, spec, SIGN_VERIFY, private), bytes.fromhex(record["Msg"])
        chosen: dict[str, Any] = {**ecdsa(world, record), "KeyId": key, "Message": message}
        assert is_valid(world, **chosen)
        signature = world("Sign", KeyId=key, SigningAlgorithm=algorithm, Message=message)["Signature"]
        assert is_valid(world, **{**chosen, "Signature": signature})
    assert len(found) == 15


def rsa_private(record: Record) -> rsa.RSAPrivateKey:
    p, q, d, e, n = (int(record[name], 16) for name in "pqden")
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, n))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
@pytest.mark.parametrize("sha", ["SHA256", "SHA384", "SHA512"])
def test_pkcs1_signatures_are_nists_and_no_others_verify(world: World, bits: int, sha: str) -> None:
    results: Counter[str] = Counter()
    algorithm = f"RSASSA_PKCS1_V1_5_SHA_{sha[3:]}"
    for record in records("asymmetric/RSA/FIPS_186-2/SigVer15_186-3.rsp", "Result"):
        if (record["section"], record["SHAAlg"]) != (f"mod = {bits}", sha):
            continue
        message, signature = bytes.fromhex(record["Msg"]), bytes.fromhex(record["S"])
        result = record["Result"][0]
        public = rsa.RSAPublicNumbers(int(record["e"], 16), int(record["n"], 16)).public_key()
        key = given_key(world, f"RSA_{bits}", SIGN_VERIFY, rsa_private(record) if result == "P" else public)
        chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": algorithm, "Message": message}
        assert is_valid(world, **chosen, Signature=signature) == (result == "P"), record["Result"]
        if result == "P":
            assert world("Sign", **chosen)["Signature"] == signature  # PKCS #1 v1.5 has no randomness
        results[result] += 1
    assert set(results) == {"P", "F"} and results.total() == 18


def test_pss_signatures_with_other_salts_do_not_verify(world: World) -> None:
    """NIST's, of salts of 0 and 10 bytes, are right by RFC 8017; AWS wants a salt as long as the digest."""
    tried = 0
    for file, last in (("SigGenPSS_186-3.rsp", "S"), ("SigVerPSS_186-3.rsp", "Result")):
        for record in records(f"asymmetric/RSA/FIPS_186-2/{file}", last):
            is_right = record.get("Result", "P").startswith("P")
            if record["section"] == "mod = 2048" and record["SHAAlg"] == "SHA256" and is_right:
                public = rsa.RSAPublicNumbers(int(record["e"], 16), int(record["n"], 16)).public_key()
                key = given_key(world, "RSA_2048", SIGN_VERIFY, public)
                sent: dict[str, Any] = {"Message": bytes.fromhex(record["Msg"]), "Signature": bytes.fromhex(record["S"])}
                assert not is_valid(world, KeyId=key, SigningAlgorithm="RSASSA_PSS_SHA_256", **sent)
                tried += 1
    assert tried > 10


@pytest.mark.parametrize("file", ["rsa_pss_2048_sha256", "ecdsa_secp256r1_sha256", "ed25519"])
def test_wycheproofs_valid_and_invalid_signatures(world: World, file: str) -> None:
    results: Counter[str] = Counter()
    document = own(f"wycheproof_{file}.json")
    for group in document["testGroups"]:
        public = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
        key = given_key(world, document["keySpec"], SIGN_VERIFY, public)
        for test in group["tests"]:
            sent: dict[str, Any] = {"Message": bytes.fromhex(test["msg"]), "Signature": bytes.fromhex(test["sig"])}
            found = is_valid(world, KeyId=key, SigningAlgorithm=document["signingAlgorithm"], **sent)
            assert found == (test["result"] == "valid"), test["comment"]
            results[test["result"]] += 1
    assert results == document["numberOfTests"]


def test_ed25519_signatures_are_those_of_its_authors(world: World) -> None:
    """All of the file by what the handlers call, and one in sixty-four through the handlers."""
    algorithm = "ED25519_SHA_512"
    for number, line in enumerate(lines("asymmetric/Ed25519/sign.input")):
        secret, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        private, signature = ed25519.Ed25519PrivateKey.from_private_bytes(secret[:32]), signed[:64]
        assert private.public_key().public_bytes_raw() == public
        assert signatures.sign(private, algorithm, "RAW", message) == signature
        assert signatures.is_valid(private.public_key(), algorithm, "RAW", message, signature)
        if number % 64 == 63:
            key = given_key(world, "ECC_NIST_EDWARDS25519", SIGN_VERIFY, private)
            chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": algorithm, "Message": message}
            assert world("Sign", **chosen)["Signature"] == signature
            assert is_valid(world, **chosen, Signature=signature)
    assert number == 1023


def test_ed25519ph_signatures_are_those_of_rfc_8032() -> None:
    [vector] = own("rfc8032_ed25519ph.json")["vectors"]
    found = {name: bytes.fromhex(value) for name, value in vector.items()}
    private = ed25519.Ed25519PrivateKey.from_private_bytes(found["secret"])
    public, signature = found["public"], found["signature"]
    assert private.public_key().public_bytes_raw() == public
    assert ed25519ph.sign(private, found["message"]) == signature
    assert ed25519ph.is_valid(public, signature, found["message"])


def test_no_flipped_bit_of_an_ed25519ph_signature_verifies() -> None:
    [vector] = own("rfc8032_ed25519ph.json")["vectors"]
    public, signature, message = (bytes.fromhex(vector[name]) for name in ("public", "signature", "message"))
    for bit in range(0, 512, 7):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not ed25519ph.is_valid(public, bytes(flipped), message)
    order = 2**252 + 27742317777372353535851937790883648493
    response = int.from_bytes(signature[32:], "little") + order  # the same modulo L, and over it
    assert not ed25519ph.is_valid(public, signature[:32] + response.to_bytes(32, "little"), message)
    assert not ed25519ph.is_valid(public, signature + b"\0", message)
    assert not ed25519ph.is_valid(public, b"", message)


ML_DSA: Mapping[str, Any] = {  # Any: classes of the library, which have no common one
    "44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    "87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}


def mu_of(public: bytes, context: bytes, message: bytes) -> bytes:
    """The message representative, by FIPS 204 (Algorithms 2, 6 and 7), and not by the library."""
    tr = hashlib.shake_256(public).digest(64)
    return hashlib.shake_256(tr + bytes((0, len(context))) + context + message).digest(64)


@pytest.mark.parametrize("level", sorted(ML_DSA))
def test_ml_dsa_verifies_what_the_reference_implementation_signed(world: World, level: str) -> None:
    """Its vectors have contexts, which KMS has not: they come with the message representative, as EXTERNAL_MU."""
    private_class, public_class = ML_DSA[level]
    found = list(records(f"asymmetric/MLDSA/kat_MLDSA_{level}_det_pure.rsp", "ctx"))[::10]
    for record in found:
        public, message = bytes.fromhex(record["pk"]), bytes.fromhex(record["msg"])
        private = private_class.from_seed_bytes(bytes.fromhex(record["xi"]))
        assert private.public_key().public_bytes_raw() == public
        key = given_key(world, f"ML_DSA_{level}", SIGN_VERIFY, public_class.from_public_bytes(public))
        signature = bytes.fromhex(record["sm"])[: -int(record["mlen"])]
        chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256", "Signature": signature}
        mu = mu_of(public, bytes.fromhex(record["ctx"]), message)
        assert is_valid(world, **chosen, Message=mu, MessageType="EXTERNAL_MU")
        assert not is_valid(world, **chosen, Message=bytes((mu[0] ^ 1,)) + mu[1:], MessageType="EXTERNAL_MU")
        assert not is_valid(world, **chosen, Message=message)  # its context is missing
    assert len(found) == 10


@pytest.mark.parametrize("level", sorted(ML_DSA))
def test_an_ml_dsa_signature_of_a_message_is_one_of_its_representative(world: World, level: str) -> None:
    private_class, _ = ML_DSA[level]
    record = next(records(f"asymmetric/MLDSA/kat_MLDSA_{level}_det_pure.rsp", "ctx"))
    key = given_key(world, f"ML_DSA_{level}", SIGN_VERIFY, private_class.from_seed_bytes(bytes.fromhex(record["xi"])))
    chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256"}
    mu: dict[str, Any] = {"Message": mu_of(bytes.fromhex(record["pk"]), b"", b"message"), "MessageType": "EXTERNAL_MU"}
    of_message = world("Sign", **chosen, Message=b"message")["Signature"]
    of_mu = world("Sign", **chosen, **mu)["Signature"]
    assert is_valid(world, **chosen, **mu, Signature=of_message)
    assert is_valid(world, **chosen, Message=b"message", Signature=of_mu)


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_macs_are_those_of_rfc_4231(world: World, bits: int) -> None:
    found = list(records(f"HMAC/rfc-4231-sha{bits}.txt", "MD"))
    for record in found:
        key = given_key(world, f"HMAC_{bits}", GENERATE_VERIFY_MAC, bytes.fromhex(record["Key"]))
        chosen: dict[str, Any] = {"KeyId": key, "MacAlgorithm": f"HMAC_SHA_{bits}", "Message": bytes.fromhex(record["Msg"])}
        mac = bytes.fromhex(record["MD"])
        assert world("GenerateMac", **chosen)["Mac"] == mac
        assert world("VerifyMac", **chosen, Mac=mac)["MacValid"]
    assert len(found) == 6
