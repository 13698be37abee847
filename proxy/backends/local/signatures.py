"""The signing algorithms: a message, or its digest, and a key to a signature, and back. Pure, but for the library's randomness.

What a message may be depends on algorithm and MessageType: `message_fault`. RSASSA-PSS takes a salt as long as the digest; ECDSA
signatures are DER (RFC 3279 §2.2.3); ML-DSA signs without a context. Ed25519ph hashes what it is given once more, also a digest:
so does AWS (API reference, Sign, MessageType: "the input is hashed twice").
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from proxy.backends.local import ed25519ph
from proxy.backends.local.specs import KeySpec

RAW, DIGEST, EXTERNAL_MU = "RAW", "DIGEST", "EXTERNAL_MU"
ED25519, ED25519_PH, ML_DSA = "ED25519_SHA_512", "ED25519_PH_SHA_512", "ML_DSA_SHAKE_256"

_MU_BYTES = 64
_ED25519_TYPES = {ED25519: RAW, ED25519_PH: DIGEST}
_HASHES: dict[str, HashAlgorithm] = {"SHA_256": SHA256(), "SHA_384": SHA384(), "SHA_512": SHA512()}


def message_fault(spec: KeySpec, algorithm: str, message_type: str, size_bytes: int) -> str | None:
    """What is wrong with a message of that type and size, in AWS's words, or None. The algorithm is one of the spec's."""
    if (algorithm == ML_DSA and message_type == DIGEST) or (algorithm != ML_DSA and message_type == EXTERNAL_MU):
        return f"Message type {message_type} is incompatible with key spec {spec.name}."
    if _ED25519_TYPES.get(algorithm, message_type) != message_type:
        return f"Message type {message_type} is incompatible with algorithm {algorithm}."
    if message_type == DIGEST and size_bytes != _hash_of(algorithm).digest_size:
        return f"Digest is invalid length for algorithm {algorithm}."
    if message_type == EXTERNAL_MU and size_bytes != _MU_BYTES:
        return f"External Mu is invalid length for algorithm {algorithm}."
    return None


def sign(private: PrivateKeyTypes, algorithm: str, message_type: str, message: bytes) -> bytes:
    """Sign a message in which `message_fault` finds none."""
    match private:
        case rsa.RSAPrivateKey():
            return private.sign(message, _rsa_padding(algorithm), _hashing(algorithm, message_type))
        case ec.EllipticCurvePrivateKey():
            return private.sign(message, ec.ECDSA(_hashing(algorithm, message_type)))
        case ed25519.Ed25519PrivateKey():
            return ed25519ph.sign(private, message) if algorithm == ED25519_PH else private.sign(message)
        case mldsa.MLDSA44PrivateKey() | mldsa.MLDSA65PrivateKey() | mldsa.MLDSA87PrivateKey():
            return private.sign_mu(message) if message_type == EXTERNAL_MU else private.sign(message)
    raise TypeError(f"no key that signs: {type(private).__name__}")


def is_valid(public: PublicKeyTypes, algorithm: str, message_type: str, message: bytes, signature: bytes) -> bool:
    """Whether it is the signature of a message in which `message_fault` finds none."""
    try:
        match public:
            case rsa.RSAPublicKey():
                public.verify(signature, message, _rsa_padding(algorithm), _hashing(algorithm, message_type))
            case ec.EllipticCurvePublicKey():
                public.verify(signature, message, ec.ECDSA(_hashing(algorithm, message_type)))
            case ed25519.Ed25519PublicKey():
                if algorithm == ED25519_PH:
                    return ed25519ph.is_valid(public.public_bytes_raw(), signature, message)
                public.verify(signature, message)
            case mldsa.MLDSA44PublicKey() | mldsa.MLDSA65PublicKey() | mldsa.MLDSA87PublicKey():
                public.verify_mu(signature, message) if message_type == EXTERNAL_MU else public.verify(signature, message)
            case _:
                raise TypeError(f"no key that signs: {type(public).__name__}")
    except InvalidSignature:
        return False
    return True


def _hash_of(algorithm: str) -> HashAlgorithm:
    return _HASHES[algorithm[-len("SHA_256") :]]


def _hashing(algorithm: str, message_type: str) -> HashAlgorithm | Prehashed:
    of = _hash_of(algorithm)
    return Prehashed(of) if message_type == DIGEST else of


def _rsa_padding(algorithm: str) -> padding.PSS | padding.PKCS1v15:
    if algorithm.startswith("RSASSA_PKCS1"):
        return padding.PKCS1v15()
    of = _hash_of(algorithm)
    return padding.PSS(padding.MGF1(of), of.digest_size)
