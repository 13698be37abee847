"""New key material for each key spec. Pure, with randomness as an argument where the algorithm takes any bytes; key pairs are
made by the library from its own randomness, which can take most of a second (RSA_4096)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from proxy.backends.local.specs import KeySpec
from proxy.errors import KmsError

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
    | mlkem.MLKEM768PrivateKey
    | mlkem.MLKEM1024PrivateKey
)


def _rsa(bits: int) -> Callable[[], PrivateKey]:
    return lambda: rsa.generate_private_key(65_537, bits)


def _ec(curve: ec.EllipticCurve) -> Callable[[], PrivateKey]:
    return lambda: ec.generate_private_key(curve)


#: How a pair is made, by key spec. ML_KEM_512 is lacking: the library has none.
_GENERATE: dict[str, Callable[[], PrivateKey]] = {
    "RSA_2048": _rsa(2_048),
    "RSA_3072": _rsa(3_072),
    "RSA_4096": _rsa(4_096),
    "ECC_NIST_P256": _ec(ec.SECP256R1()),
    "ECC_NIST_P384": _ec(ec.SECP384R1()),
    "ECC_NIST_P521": _ec(ec.SECP521R1()),
    "ECC_SECG_P256K1": _ec(ec.SECP256K1()),
    "ECC_NIST_EDWARDS25519": ed25519.Ed25519PrivateKey.generate,
    "ML_DSA_44": mldsa.MLDSA44PrivateKey.generate,
    "ML_DSA_65": mldsa.MLDSA65PrivateKey.generate,
    "ML_DSA_87": mldsa.MLDSA87PrivateKey.generate,
    "ML_KEM_768": mlkem.MLKEM768PrivateKey.generate,
    "ML_KEM_1024": mlkem.MLKEM1024PrivateKey.generate,
}


@dataclass(frozen=True, slots=True)
class NewSecret:
    """`secret` is key material as a row holds it; `public` is SubjectPublicKeyInfo (DER), empty where there is none."""

    secret: bytes = field(repr=False)
    public: bytes = b""


def can_make(spec: KeySpec) -> bool:
    """Whether `new_secret` knows a way."""
    return spec.secret_bytes is not None or spec.name in _GENERATE


def is_slow_to_make(spec: KeySpec) -> bool:
    """Whether it looks for primes, which takes from 20 ms to seconds; the others take less than one."""
    return spec.name.startswith("RSA_")


def new_secret(spec: KeySpec, random: Callable[[int], bytes]) -> NewSecret:
    """New key material for a key of `spec`. Raises KmsError where this version cannot make it."""
    if spec.secret_bytes is not None:
        return NewSecret(random(spec.secret_bytes))
    generate = _GENERATE.get(spec.name)
    if generate is None:
        raise KmsError("UnsupportedOperationException", f"KeySpec {spec.name} is not supported.")
    return pair_secret(generate())


def pair_secret(private: PrivateKey) -> NewSecret:
    """A pair that was made, or imported, as a row holds it."""
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return NewSecret(private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), public)


_CURVES = {
    "secp256r1": "ECC_NIST_P256",
    "secp384r1": "ECC_NIST_P384",
    "secp521r1": "ECC_NIST_P521",
    "secp256k1": "ECC_SECG_P256K1",
}
_KINDS: tuple[tuple[type[PrivateKey], str], ...] = (
    (ed25519.Ed25519PrivateKey, "ECC_NIST_EDWARDS25519"),
    (mldsa.MLDSA44PrivateKey, "ML_DSA_44"),
    (mldsa.MLDSA65PrivateKey, "ML_DSA_65"),
    (mldsa.MLDSA87PrivateKey, "ML_DSA_87"),
    (mlkem.MLKEM768PrivateKey, "ML_KEM_768"),
    (mlkem.MLKEM1024PrivateKey, "ML_KEM_1024"),
)


def spec_of(private: PrivateKey) -> str | None:
    """The key spec of a private key that the library has read, or None where there is none."""
    if isinstance(private, rsa.RSAPrivateKey):
        return f"RSA_{private.key_size}" if f"RSA_{private.key_size}" in _GENERATE else None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return _CURVES.get(private.curve.name)
    return next((spec for kind, spec in _KINDS if isinstance(private, kind)), None)
