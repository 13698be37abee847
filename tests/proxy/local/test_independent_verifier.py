"""What the handlers make, read by the openssl command and by dilithium-py, and the other way round: others' implementations.

The command is linked with a library of its own. An algorithm that it lacks is skipped, with that as the reason.
"""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from dilithium_py.ml_dsa import ML_DSA_44, ML_DSA_65, ML_DSA_87

from proxy.backends.local.specs import ENCRYPT_DECRYPT, GENERATE_VERIFY_MAC, KEY_AGREEMENT, SIGN_VERIFY, SPECS
from tests.proxy.local.given import given_key, made, pkcs8, spki
from tests.proxy.local.world import World

MESSAGE = b"what is to be signed\n" * 40
SIGNERS = [(spec.name, algorithm) for spec in SPECS.values() for algorithm in spec.algorithms.get(SIGN_VERIFY, ())]


def openssl(*arguments: str | Path) -> bytes:
    """What the command writes. Fails where it does."""
    run = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


@cache
def knows(name: str) -> bool:
    """Whether the command has that signature algorithm."""
    return name in openssl("list", "-signature-algorithms").decode()


class Files:
    """The inputs of a command, as files."""

    def __init__(self, folder: Path, spec: str) -> None:
        self._folder = folder
        self.private = self("private.der", pkcs8(made(spec)))
        self.public = self("public.der", spki(made(spec)))
        self.message = self("message", MESSAGE)

    def __call__(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path


def signing(algorithm: str) -> list[str]:
    """The options of `pkeyutl` for an algorithm."""
    if algorithm in ("ED25519_SHA_512", "ML_DSA_SHAKE_256"):
        return ["-rawin"]
    chosen = ["-rawin", "-digest", f"sha{algorithm[-3:]}"]
    if algorithm.startswith("RSASSA_PSS"):
        chosen += ["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]
    return chosen


def skip_what_openssl_lacks(spec: str, algorithm: str) -> None:
    if algorithm == "ED25519_PH_SHA_512":
        pytest.skip("OpenSSL 3.0 has no Ed25519ph; see the vector of RFC 8032")
    if spec.startswith("ML_DSA") and not knows(spec.replace("_", "-")):
        pytest.skip("this openssl has no ML-DSA (it came with 3.5); see the vectors of the reference implementation")


@pytest.mark.parametrize(("spec", "algorithm"), SIGNERS)
def test_openssl_verifies_what_sign_signed(world: World, tmp_path: Path, spec: str, algorithm: str) -> None:
    skip_what_openssl_lacks(spec, algorithm)
    files, key = Files(tmp_path, spec), given_key(world, spec, SIGN_VERIFY, made(spec))
    forms: list[dict[str, Any]] = [{"Message": MESSAGE}]
    if not algorithm.startswith(("ED25519", "ML_DSA")):
        forms.append({"Message": hashlib.new(f"sha{algorithm[-3:]}", MESSAGE).digest(), "MessageType": "DIGEST"})
    for form in forms:
        signature = files("signature", world("Sign", KeyId=key, SigningAlgorithm=algorithm, **form)["Signature"])
        verify = ("pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", files.public, "-in", files.message)
        said = openssl(*verify, "-sigfile", signature, *signing(algorithm))
        assert b"Signature Verified Successfully" in said


@pytest.mark.parametrize(("spec", "algorithm"), SIGNERS)
def test_verify_verifies_what_openssl_signed(world: World, tmp_path: Path, spec: str, algorithm: str) -> None:
    skip_what_openssl_lacks(spec, algorithm)
    files, key = Files(tmp_path, spec), given_key(world, spec, SIGN_VERIFY, made(spec))
    sign = ("pkeyutl", "-sign", "-keyform", "DER", "-inkey", files.private, "-in", files.message)
    sent: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": algorithm, "Signature": openssl(*sign, *signing(algorithm))}
    assert world("Verify", **sent, Message=MESSAGE)["SignatureValid"]
    assert world.refused("Verify", **sent, Message=MESSAGE[1:]).code == "KMSInvalidSignatureException"


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096"])
@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_each_decrypts_what_the_other_encrypted(world: World, tmp_path: Path, spec: str, algorithm: str) -> None:
    files, key = Files(tmp_path, spec), given_key(world, spec, ENCRYPT_DECRYPT, made(spec))
    digest = "sha1" if algorithm.endswith("_1") else "sha256"
    oaep = ("rsa_padding_mode:oaep", f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}")
    options = [part for option in oaep for part in ("-pkeyopt", option)]
    chosen: dict[str, Any] = {"KeyId": key, "EncryptionAlgorithm": algorithm}
    blob = files("blob", world("Encrypt", **chosen, Plaintext=b"secret")["CiphertextBlob"])
    assert openssl("pkeyutl", "-decrypt", "-keyform", "DER", "-inkey", files.private, "-in", blob, *options) == b"secret"
    plain = files("plain", b"secret of the other")
    theirs = openssl("pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", files.public, "-in", plain, *options)
    assert world("Decrypt", **chosen, CiphertextBlob=theirs)["Plaintext"] == b"secret of the other"


@pytest.mark.parametrize(
    ("spec", "curve"),
    [("ECC_NIST_P256", ec.SECP256R1()), ("ECC_NIST_P384", ec.SECP384R1()), ("ECC_NIST_P521", ec.SECP521R1())],
)
def test_openssl_derives_the_same_secret(world: World, tmp_path: Path, spec: str, curve: ec.EllipticCurve) -> None:
    files, key, peer = Files(tmp_path, spec), given_key(world, spec, KEY_AGREEMENT, made(spec)), ec.generate_private_key(curve)
    theirs = ("-keyform", "DER", "-inkey", files("peer.der", pkcs8(peer)), "-peerform", "DER", "-peerkey", files.public)
    secret = world("DeriveSharedSecret", KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=spki(peer))["SharedSecret"]
    assert openssl("pkeyutl", "-derive", *theirs) == secret


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_openssl_makes_the_same_mac(world: World, tmp_path: Path, bits: int) -> None:
    secret = bytes(range(bits // 8))
    key, message = given_key(world, f"HMAC_{bits}", GENERATE_VERIFY_MAC, secret), tmp_path / "message"
    message.write_bytes(MESSAGE)
    theirs = openssl("mac", "-digest", f"SHA{bits}", "-macopt", f"hexkey:{secret.hex()}", "-in", message, "-binary", "HMAC")
    assert world("GenerateMac", KeyId=key, MacAlgorithm=f"HMAC_SHA_{bits}", Message=MESSAGE)["Mac"] == theirs


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"])
def test_openssl_reads_a_data_key_pair(world: World, tmp_path: Path, spec: str) -> None:
    pair = world("GenerateDataKeyPair", KeyId=world.new_key(), KeyPairSpec=spec)
    path = tmp_path / "pair.der"
    path.write_bytes(pair["PrivateKeyPlaintext"])
    assert openssl("pkey", "-inform", "DER", "-in", path, "-pubout", "-outform", "DER") == pair["PublicKey"]
    assert b"valid" in openssl("pkey", "-inform", "DER", "-in", path, "-check", "-noout")


# --- ML-DSA, by an implementation of FIPS 204 in Python

SEED = bytes(range(32))
#: Parameter set → both implementations' key of `SEED`.
OURS: dict[str, Any] = {  # Any: classes of the library, which have no common one
    "ML_DSA_44": mldsa.MLDSA44PrivateKey,
    "ML_DSA_65": mldsa.MLDSA65PrivateKey,
    "ML_DSA_87": mldsa.MLDSA87PrivateKey,
}
THEIRS: dict[str, Any] = {"ML_DSA_44": ML_DSA_44, "ML_DSA_65": ML_DSA_65, "ML_DSA_87": ML_DSA_87}  # Any: it has no types


@pytest.mark.parametrize("spec", sorted(OURS))
def test_another_implementation_verifies_what_ml_dsa_signed(world: World, spec: str) -> None:
    theirs, key = THEIRS[spec], given_key(world, spec, SIGN_VERIFY, OURS[spec].from_seed_bytes(SEED))
    public, _ = theirs.key_derive(SEED)
    assert world("GetPublicKey", KeyId=key)["PublicKey"].endswith(public)
    chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256"}
    mu = theirs.prehash_external_mu(public, MESSAGE)
    for form in ({"Message": MESSAGE}, {"Message": mu, "MessageType": "EXTERNAL_MU"}):
        signature = world("Sign", **chosen, **form)["Signature"]
        assert theirs.verify(public, MESSAGE, signature)
        assert not theirs.verify(public, MESSAGE[1:], signature)
        assert not theirs.verify(public, MESSAGE, signature, ctx=b"another")
        assert not theirs.verify(public, MESSAGE, signature[:-1] + bytes((signature[-1] ^ 1,)))


@pytest.mark.parametrize("spec", sorted(OURS))
def test_ml_dsa_verifies_what_another_implementation_signed(world: World, spec: str) -> None:
    theirs, key = THEIRS[spec], given_key(world, spec, SIGN_VERIFY, OURS[spec].from_seed_bytes(SEED))
    public, private = theirs.key_derive(SEED)
    chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256"}
    mu = theirs.prehash_external_mu(public, MESSAGE)
    representative: dict[str, Any] = {"Message": mu, "MessageType": "EXTERNAL_MU"}
    for signature in (theirs.sign(private, MESSAGE), theirs.sign_external_mu(private, mu)):
        assert world("Verify", **chosen, Message=MESSAGE, Signature=signature)["SignatureValid"]
        assert world("Verify", **chosen, **representative, Signature=signature)["SignatureValid"]
    with_context = theirs.sign(private, MESSAGE, ctx=b"another")
    for form in ({"Message": MESSAGE}, representative):
        assert world.refused("Verify", **chosen, **form, Signature=with_context).code == "KMSInvalidSignatureException"
