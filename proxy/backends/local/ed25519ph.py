"""Ed25519ph, which the library lacks: RFC 8032 §5.1 with dom2 (phflag 1, no context) and PH = SHA-512. Pure.

Only what a KMS needs of it: its own keys sign, and signatures are checked under its own public keys. As in OpenSSL's Ed25519, S
must be below L and the equation is checked without the cofactor. A known limit: integers of Python do not take constant time. The
multiplication by secrets does the same sequence of additions whatever they are, but their operands may show in its timing.
Signing takes about 0.7 ms, checking 3 ms, and the first call of a process 6 ms more.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha512

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_2D = 2 * _D % _P
_DOM2 = b"SigEd25519 no Ed25519 collisions\x01\x00"

#: Extended homogeneous coordinates (§5.1.4): x = X/Z, y = Y/Z, x·y = T/Z.
_Point = tuple[int, int, int, int]
_ZERO: _Point = (0, 1, 1, 0)


def sign(private: Ed25519PrivateKey, message: bytes) -> bytes:
    """The signature of `message`, which is hashed here; 64 bytes."""
    digest = sha512(private.private_bytes_raw()).digest()
    scalar = (int.from_bytes(digest[:32], "little") & (1 << 254) - 8) | 1 << 254
    public = private.public_key().public_bytes_raw()
    hashed = sha512(message).digest()
    nonce = _scalar(_DOM2 + digest[32:] + hashed)
    commitment = _encode(_multiply_base(nonce))
    challenge = _scalar(_DOM2 + commitment + public + hashed)
    return commitment + ((nonce + challenge * scalar) % _L).to_bytes(32, "little")


def is_valid(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is that of `message` under the public key (32 bytes). Raises ValueError where that is no point."""
    response = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or response >= _L:
        return False
    commitment = signature[:32]
    challenge = _scalar(_DOM2 + commitment + public + sha512(message).digest())
    x, y, z, t = _decode(public)
    opposite = (_P - x, y, z, _P - t)
    expected = _add(_multiply_base(response), _multiply(challenge, opposite))
    return _encode(expected) == commitment


def _scalar(hashed: bytes) -> int:
    return int.from_bytes(sha512(hashed).digest(), "little") % _L


def _add(one: _Point, other: _Point) -> _Point:
    """§5.1.4; complete: it also doubles."""
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % _P
    b = (y1 + x1) * (y2 + x2) % _P
    c = t1 * _2D * t2 % _P
    d = 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiples(point: _Point) -> tuple[_Point, ...]:
    """0 to 15 times the point."""
    multiples = [_ZERO]
    for _ in range(15):
        multiples.append(_add(multiples[-1], point))
    return tuple(multiples)


def _multiply(scalar: int, point: _Point) -> _Point:
    """`scalar` times the point; both are public."""
    multiples, total = _multiples(point), _ZERO
    for at in reversed(range(0, scalar.bit_length(), 4)):
        for _ in range(4):
            total = _add(total, total)
        total = _add(total, multiples[scalar >> at & 15])
    return total


@cache
def _base_table() -> tuple[tuple[_Point, ...], ...]:
    """For each of 64 windows of four bits, the multiples 0 to 15 of the base point in it."""
    y = 4 * pow(5, _P - 2, _P) % _P
    point, windows = _decode(y.to_bytes(32, "little")), []
    for _ in range(64):
        windows.append(_multiples(point))
        point = _add(windows[-1][8], windows[-1][8])
    return tuple(windows)


def _multiply_base(scalar: int) -> _Point:
    """`scalar`, below 2^256 and maybe secret, times the base point: one addition for each window, whatever stands in it."""
    total = _ZERO
    for window in _base_table():
        total = _add(total, window[scalar & 15])
        scalar >>= 4
    return total


def _encode(point: _Point) -> bytes:
    """§5.1.2."""
    x, y, z, _ = point
    inverse = pow(z, _P - 2, _P)
    return ((y * inverse % _P) | (x * inverse % _P & 1) << 255).to_bytes(32, "little")


def _decode(encoded: bytes) -> _Point:
    """§5.1.3."""
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == -u % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if y >= _P or v * x * x % _P != u or (x == 0 and sign):
        raise ValueError("not a point of edwards25519")
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P
