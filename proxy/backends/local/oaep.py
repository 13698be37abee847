"""RSAES-OAEP (RFC 8017 §7.1) with SHA-1 or SHA-256, for the mask too, and no label: the asymmetric encryption of KMS. Pure, but
for the library's randomness."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

_HASHES: dict[str, HashAlgorithm] = {"RSAES_OAEP_SHA_1": SHA1(), "RSAES_OAEP_SHA_256": SHA256()}  # noqa: S303 - the API has it


def most_bytes(public: PublicKeyTypes, algorithm: str) -> int:
    """How long a plaintext can be."""
    return _rsa(public).key_size // 8 - 2 * _HASHES[algorithm].digest_size - 2


def encrypt(public: PublicKeyTypes, algorithm: str, plaintext: bytes) -> bytes:
    """Encrypt a plaintext of at most `most_bytes`."""
    return _rsa(public).encrypt(plaintext, _padding(algorithm))


def decrypt(private: PrivateKeyTypes, algorithm: str, ciphertext: bytes) -> bytes | None:
    """The plaintext, or None where it is no ciphertext under that key and algorithm."""
    if not isinstance(private, RSAPrivateKey):
        raise TypeError(f"no key that decrypts: {type(private).__name__}")
    try:
        return private.decrypt(ciphertext, _padding(algorithm))
    except ValueError:
        return None


def _rsa(public: PublicKeyTypes) -> RSAPublicKey:
    if not isinstance(public, RSAPublicKey):
        raise TypeError(f"no key that encrypts: {type(public).__name__}")
    return public


def _padding(algorithm: str) -> OAEP:
    of = _HASHES[algorithm]
    return OAEP(MGF1(of), of, None)
