"""The cryptography: KBKDF as the library computes it, AWS's shape, no plaintext from what does not belong together."""

from __future__ import annotations

import os
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.backends.local.crypto import SALT_BYTES, Material, decrypt, encode_context, encrypt, parse

SECRET = bytes(range(32))
MATERIAL = Material(b"\xaa" * 32, SECRET)
SALT = bytes(range(100, 100 + SALT_BYTES))
CONTEXTS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)


def opened(material: Material, blob: bytes, context: dict[str, str]) -> bytes | None:
    """What Decrypt does with a blob."""
    ciphertext = parse(blob)
    if ciphertext is None or ciphertext.material_id != material.id:
        return None
    return decrypt(material, ciphertext, encode_context(context))


def test_the_content_key_is_kbkdf_of_the_nonce() -> None:
    nonce = os.urandom(16)
    reference = KBKDFHMAC(SHA256(), Mode.CounterMode, 32, 4, 4, CounterLocation.BeforeFixed, b"keytrail/data-key/1", nonce, None)
    assert MATERIAL.content_key(nonce) == reference.derive(SECRET)


def test_the_shape_is_awss_and_opens_by_the_description_alone() -> None:
    """The blob taken apart here by hand, as the module's docstring describes it."""
    blob = encrypt(MATERIAL, b"p" * 32, encode_context({"b": "2", "a": "ü"}), SALT)
    assert blob[:5] == bytes.fromhex("0102020078")
    assert (blob[5:37], blob[37], blob[38:54]) == (MATERIAL.id, 1, SALT[:16])
    assert struct.unpack(">I", blob[54:58]) == (len(blob) - 58,)
    assert blob[58:].startswith(bytes.fromhex("307106092a864886f70d010706a0643062020100305d06092a864886f70d010701"))
    assert len(blob) == 32 + 141
    iv_at = blob.index(SALT[16:])
    assert blob[iv_at - 4 : iv_at] == bytes.fromhex("3011040c")
    content = blob[iv_at + 12 + 5 :]
    bound = blob[:54] + b"\0\0\0\2" + b"\0\0\0\1a\0\0\0\2\xc3\xbc" + b"\0\0\0\1b\0\0\0\1" + b"2"
    assert AESGCM(MATERIAL.content_key(SALT[:16])).decrypt(SALT[16:], content, bound) == b"p" * 32


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4096), CONTEXTS, st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES))
def test_what_was_encrypted_comes_back(plaintext: bytes, context: dict[str, str], salt: bytes) -> None:
    blob = encrypt(MATERIAL, plaintext, encode_context(context), salt)
    assert opened(MATERIAL, blob, dict(reversed(context.items()))) == plaintext
    assert len(blob) <= 6144


@pytest.mark.parametrize("size", [0, 1, 32, 59, 60, 75, 76, 100, 127, 128, 200, 239, 240, 255, 256, 1024, 4095, 4096])
def test_the_frame_at_every_change_of_a_der_length(size: int) -> None:
    assert opened(MATERIAL, encrypt(MATERIAL, bytes(size), encode_context({}), SALT), {}) == bytes(size)


@pytest.mark.parametrize("size", [0, 1, 32, 200])
def test_no_flipped_bit_gives_a_plaintext(size: int) -> None:
    context = {"tenant": "a"}
    blob = encrypt(MATERIAL, bytes(size), encode_context(context), SALT)
    assert opened(MATERIAL, blob, context) == bytes(size)
    for bit in range(len(blob) * 8):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        assert opened(MATERIAL, bytes(flipped), context) is None, f"bit {bit}"


def test_no_other_length_is_a_ciphertext() -> None:
    blob = encrypt(MATERIAL, bytes(100), encode_context({}), SALT)
    for length in range(len(blob)):
        assert parse(blob[:length]) is None
    for tail in (b"\0", blob[-1:], bytes(64), bytes(6000)):
        assert parse(blob + tail) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_anything_else_is_not_a_ciphertext(blob: bytes) -> None:
    assert parse(blob) is None
    assert parse(bytes.fromhex("0102020078") + blob) is None


@settings(max_examples=200, deadline=None)
@given(CONTEXTS, CONTEXTS)
def test_contexts_are_encoded_as_one_only_if_they_are_the_same(one: dict[str, str], other: dict[str, str]) -> None:
    assert (encode_context(one) == encode_context(other)) is (one == other)


@settings(max_examples=100, deadline=None)
@given(CONTEXTS, CONTEXTS)
def test_another_context_gives_no_plaintext(one: dict[str, str], other: dict[str, str]) -> None:
    assume(one != other)
    assert opened(MATERIAL, encrypt(MATERIAL, b"secret", encode_context(one), SALT), other) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "bc"}, {"ab": "c"}),
        ({"a": "b", "c": "d"}, {"a": "bcd"}),
        ({"a": ""}, {"": "a"}),
        ({"a": "1"}, {"A": "1"}),
        ({"a": "1"}, {}),
        ({}, {"": ""}),
    ],
)
def test_contexts_that_are_easily_confused(one: dict[str, str], other: dict[str, str]) -> None:
    blob = encrypt(MATERIAL, b"secret", encode_context(one), SALT)
    assert opened(MATERIAL, blob, one) == b"secret"
    assert opened(MATERIAL, blob, other) is None


def test_another_key_gives_no_plaintext_even_under_the_same_id() -> None:
    blob = encrypt(MATERIAL, b"secret", encode_context({}), SALT)
    assert opened(Material(MATERIAL.id, b"\1" * 32), blob, {}) is None
    assert opened(Material(b"\xbb" * 32, SECRET), blob.replace(MATERIAL.id, b"\xbb" * 32), {}) is None


def test_the_secret_shows_nowhere() -> None:
    assert SECRET.hex() not in f"{MATERIAL!r} {MATERIAL}"
    assert repr(SECRET)[2:12] not in f"{MATERIAL!r} {MATERIAL}"
    with pytest.raises(ValueError):
        encrypt(MATERIAL, b"", b"", SALT[:-1])
    for material_id, secret in ((b"i" * 31, SECRET), (b"i" * 32, SECRET[:-1])):
        with pytest.raises(ValueError):
            Material(material_id, secret)
