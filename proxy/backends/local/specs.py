"""What each key spec is, in one table: the usages a key of it can have, and the algorithms of each. Pure.

Source: the service model's enumerations; AWS KMS developer guide, "Key spec reference".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SYMMETRIC = "SYMMETRIC_DEFAULT"

ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
SIGN_VERIFY = "SIGN_VERIFY"
GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
KEY_AGREEMENT = "KEY_AGREEMENT"
ENCAPSULATE_DECAPSULATE = "ENCAPSULATE_DECAPSULATE"

#: The member of KeyMetadata and of GetPublicKey that lists a key's algorithms, by its usage.
ALGORITHMS_MEMBER = {
    ENCRYPT_DECRYPT: "EncryptionAlgorithms",
    SIGN_VERIFY: "SigningAlgorithms",
    GENERATE_VERIFY_MAC: "MacAlgorithms",
    KEY_AGREEMENT: "KeyAgreementAlgorithms",
    ENCAPSULATE_DECAPSULATE: "EncapsulationAlgorithms",
}


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A row of the table. `secret_bytes` is the length of the material of keys that are not pairs.

    `is_slow`: what is done with the private key takes over 2 ms, now and then at least, and is not for the event loop.
    """

    name: str
    algorithms: Mapping[str, tuple[str, ...]]  # by usage
    secret_bytes: int | None = None
    is_slow: bool = False

    @property
    def is_pair(self) -> bool:
        """Whether a key of it has a public half."""
        return self.secret_bytes is None

    @property
    def is_symmetric(self) -> bool:
        """Whether it is the one whose ciphertexts tell their key, and whose keys have material of several versions."""
        return self.name == SYMMETRIC


_OAEP = ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256")
_RSA_SIGNING = (
    "RSASSA_PKCS1_V1_5_SHA_256",
    "RSASSA_PKCS1_V1_5_SHA_384",
    "RSASSA_PKCS1_V1_5_SHA_512",
    "RSASSA_PSS_SHA_256",
    "RSASSA_PSS_SHA_384",
    "RSASSA_PSS_SHA_512",
)
_ECDH = ("ECDH",)


def _rsa(name: str, *, is_slow: bool = False) -> KeySpec:
    return KeySpec(name, {ENCRYPT_DECRYPT: _OAEP, SIGN_VERIFY: _RSA_SIGNING}, is_slow=is_slow)


def _nist(name: str, algorithm: str) -> KeySpec:
    return KeySpec(name, {SIGN_VERIFY: (algorithm,), KEY_AGREEMENT: _ECDH})


def _mldsa(name: str) -> KeySpec:
    return KeySpec(name, {SIGN_VERIFY: ("ML_DSA_SHAKE_256",)}, is_slow=True)  # it tries until a signature is short enough


def _hmac(bits: int) -> KeySpec:
    return KeySpec(f"HMAC_{bits}", {GENERATE_VERIFY_MAC: (f"HMAC_SHA_{bits}",)}, bits // 8)


_ROWS = (
    KeySpec(SYMMETRIC, {ENCRYPT_DECRYPT: (SYMMETRIC,)}, 32),
    _rsa("RSA_2048"),
    _rsa("RSA_3072"),
    _rsa("RSA_4096", is_slow=True),
    _nist("ECC_NIST_P256", "ECDSA_SHA_256"),
    _nist("ECC_NIST_P384", "ECDSA_SHA_384"),
    _nist("ECC_NIST_P521", "ECDSA_SHA_512"),
    KeySpec("ECC_SECG_P256K1", {SIGN_VERIFY: ("ECDSA_SHA_256",)}),
    KeySpec("ECC_NIST_EDWARDS25519", {SIGN_VERIFY: ("ED25519_SHA_512", "ED25519_PH_SHA_512")}),
    _mldsa("ML_DSA_44"),
    _mldsa("ML_DSA_65"),
    _mldsa("ML_DSA_87"),
    KeySpec("ML_KEM_512", {ENCAPSULATE_DECAPSULATE: ("ML_KEM",)}),
    KeySpec("ML_KEM_768", {ENCAPSULATE_DECAPSULATE: ("ML_KEM",)}),
    KeySpec("ML_KEM_1024", {ENCAPSULATE_DECAPSULATE: ("ML_KEM",)}),
    _hmac(224),
    _hmac(256),
    _hmac(384),
    _hmac(512),
)

#: By name. SM2 has no row: it is refused outside the regions in China, and here everywhere.
SPECS: dict[str, KeySpec] = {row.name: row for row in _ROWS}
