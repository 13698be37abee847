"""How key material travels into an import: wrapping keys, what is wrapped under them, and import tokens. Pure, with randomness
as an argument; the library makes RSA keys from its own.

**Wrapping.** RSAES_OAEP_*: the material itself by RSA-OAEP (RFC 8017 §7.1; one hash for both). RSA_AES_KEY_WRAP_*: an AES key
by RSA-OAEP, as long as the modulus, then the material under that key by AES key wrap with padding (RFC 5649), as PKCS #11's
CKM_RSA_AES_KEY_WRAP. RSAES_PKCS1_V1_5 is no more (AWS took it out on 2023-10-10), SM2PKE only in China.

**Import token.** 01 ‖ IV (12) ‖ AES-256-GCM of a JSON document: the wrapping key (PKCS #8, base64), its algorithm, and until
when it is valid; the key ARN is its associated data. So the store keeps nothing of what was never imported.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_der_private_key

from proxy.backends.local.material import NewSecret, PrivateKey, pair_secret, spec_of
from proxy.backends.local.specs import KeySpec

TOKEN_KEY_BYTES = 32
_TOKEN_VERSION, _IV_BYTES = b"\x01", 12
_AES_KEY_BYTES = (16, 24, 32)

_WRAPPING_BITS = {"RSA_2048": 2_048, "RSA_3072": 3_072, "RSA_4096": 4_096}


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How material is wrapped: RSA-OAEP with `hash`, of the material itself, or of an AES key that wraps it."""

    hash: Callable[[], HashAlgorithm]
    has_aes_key: bool


ALGORITHMS = {
    "RSAES_OAEP_SHA_1": Algorithm(SHA1, has_aes_key=False),
    "RSAES_OAEP_SHA_256": Algorithm(SHA256, has_aes_key=False),
    "RSA_AES_KEY_WRAP_SHA_1": Algorithm(SHA1, has_aes_key=True),
    "RSA_AES_KEY_WRAP_SHA_256": Algorithm(SHA256, has_aes_key=True),
}


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """What an import token holds: the private key (PKCS #8, DER), the algorithm's name, and until when it is valid."""

    private: bytes = field(repr=False)
    algorithm: str
    valid_to_s: float


def supports(algorithm: str, wrapping_spec: str, spec: KeySpec) -> bool:
    """Whether material of a key of `spec` can travel so: an RSA key is too long for RSA-OAEP, and what is no pair has no AES
    key."""
    found = ALGORITHMS.get(algorithm)
    if found is None or wrapping_spec not in _WRAPPING_BITS:
        return False
    if found.has_aes_key:
        return spec.is_pair
    return not spec.name.startswith(("RSA_", "ML_")) and (spec.name, wrapping_spec) != ("ECC_NIST_P521", "RSA_2048")


def new_wrapping_key(wrapping_spec: str) -> tuple[bytes, bytes]:
    """A private key (PKCS #8) and its public one (SubjectPublicKeyInfo), DER. Takes up to a second."""
    private = rsa.generate_private_key(65_537, _WRAPPING_BITS[wrapping_spec])
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), public


def seal_token(token_key: bytes, arn: str, wrapping: WrappingKey, random: Callable[[int], bytes]) -> bytes:
    """The token for an import into the key `arn`."""
    document = {
        "key": base64.b64encode(wrapping.private).decode(),
        "algorithm": wrapping.algorithm,
        "valid_to_s": wrapping.valid_to_s,
    }
    iv = random(_IV_BYTES)
    return _TOKEN_VERSION + iv + AESGCM(token_key).encrypt(iv, orjson.dumps(document), _TOKEN_VERSION + arn.encode())


def open_token(token_key: bytes, arn: str, token: bytes) -> WrappingKey | None:
    """What the token holds, or None where it is none of ours, or another key's."""
    if token[:1] != _TOKEN_VERSION:
        return None
    iv, sealed = token[1 : 1 + _IV_BYTES], token[1 + _IV_BYTES :]
    try:
        document = orjson.loads(AESGCM(token_key).decrypt(iv, sealed, _TOKEN_VERSION + arn.encode()))
    except (InvalidTag, ValueError):
        return None
    return WrappingKey(base64.b64decode(document["key"]), document["algorithm"], document["valid_to_s"])


def unwrap(wrapping: WrappingKey, wrapped: bytes) -> bytes | None:
    """What was wrapped, or None where it was not, by this algorithm under this key. Takes some milliseconds."""
    private = load_der_private_key(wrapping.private, None, unsafe_skip_rsa_key_validation=True)  # it was made here: see `loaded`
    if not isinstance(private, rsa.RSAPrivateKey):
        raise TypeError("a wrapping key that is not of RSA")
    algorithm, size = ALGORITHMS[wrapping.algorithm], private.key_size // 8
    if len(wrapped) < size or (len(wrapped) > size and not algorithm.has_aes_key):
        return None
    oaep = padding.OAEP(padding.MGF1(algorithm.hash()), algorithm.hash(), None)
    try:
        opened = private.decrypt(wrapped[:size], oaep)
        if not algorithm.has_aes_key:
            return opened
        return aes_key_unwrap_with_padding(opened, wrapped[size:]) if len(opened) in _AES_KEY_BYTES else None
    except (ValueError, InvalidUnwrap):
        return None


def read_material(spec: KeySpec, material: bytes) -> NewSecret | None:
    """Material that was imported as a row holds it, or None where it is not of `spec`: of a pair its private key, PKCS #8."""
    if spec.secret_bytes is not None:
        return NewSecret(material) if len(material) == spec.secret_bytes else None
    try:
        private = load_der_private_key(material, None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(private, PrivateKey) or spec_of(private) != spec.name:
            return None
        if isinstance(private, rsa.RSAPrivateKey) and not _belong_together(private.private_numbers()):
            return None
        return pair_secret(private)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _belong_together(numbers: rsa.RSAPrivateNumbers) -> bool:
    """Whether the numbers of an RSA key fit each other. That the primes are primes is left to who made the key: the library's
    check of it takes up to half a second, with no other thread running."""
    p, q, d, public = numbers.p, numbers.q, numbers.d, numbers.public_numbers
    if min(p, q) < 3 or p == q or p * q != public.n:
        return False
    works = d * public.e % (p - 1) == 1 and d * public.e % (q - 1) == 1
    return works and (numbers.dmp1, numbers.dmq1) == (d % (p - 1), d % (q - 1)) and numbers.iqmp * q % p == 1
