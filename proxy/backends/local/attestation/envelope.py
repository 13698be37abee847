"""CiphertextForRecipient: CMS EnvelopedData (RFC 5652 §6) for one RSA key; RSAES-OAEP with SHA-256, AES-256-CBC.

The encoding is AWS KMS's own, with indefinite lengths (BER) at the same places: the enclave's SDK (aws-nitro-enclaves-sdk-c,
cms.c) goes into those elements only where they have no length. The recipient is named by an identifier of 32 bytes, which the
SDK passes over; here it is the SHA-256 of the public key as it stands in the attestation document.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7

_KEY_BYTES, _IV_BYTES, _BLOCK_BITS = 32, 16, 128
_ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")
_DATA = bytes.fromhex("06092a864886f70d010701")
_AES256_CBC = bytes.fromhex("060960864801650304012a")
#: rsaesOaep with SHA-256, MGF1 with SHA-256 (RFC 4055 §4.1).
_OAEP_SHA256 = bytes.fromhex(
    "303c06092a864886f70d010107302fa00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500"
)
_VERSION_2 = b"\x02\x01\x02"
_END = b"\x00\x00"


def envelop(key: RSAPublicKey, key_der: bytes, plaintext: bytes, random: Callable[[int], bytes]) -> bytes:
    """`plaintext` for the holder of `key` alone. `random` gives the content key and IV; OAEP's seed is the library's."""
    secret = random(_KEY_BYTES + _IV_BYTES)
    content_key, iv = secret[:_KEY_BYTES], secret[_KEY_BYTES:]
    padder, encryptor = PKCS7(_BLOCK_BITS).padder(), Cipher(AES256(content_key), CBC(iv)).encryptor()
    content = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    encrypted_key = key.encrypt(content_key, OAEP(MGF1(SHA256()), SHA256(), None))
    recipient = _definite(
        0x30, _VERSION_2 + _definite(0x80, sha256(key_der).digest()) + _OAEP_SHA256 + _definite(0x04, encrypted_key)
    )
    algorithm = _definite(0x30, _AES256_CBC + _definite(0x04, iv))
    encrypted_content = _indefinite(0x30, _DATA + algorithm + _indefinite(0xA0, _definite(0x04, content)))
    enveloped = _indefinite(0x30, _VERSION_2 + _definite(0x31, recipient) + encrypted_content)
    return _indefinite(0x30, _ENVELOPED_DATA + _indefinite(0xA0, enveloped))


def _definite(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _indefinite(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x80)) + content + _END
