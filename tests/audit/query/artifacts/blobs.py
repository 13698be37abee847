"""CiphertextBlobs to put into artefacts: those of the local backend, and the shape of AWS's older ones."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.backends.local.crypto import SALT_BYTES, Material, encode_context, encrypt

KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/0d990263-6132-5d6b-a3b2-000000000001"

_MATERIAL = Material(bytes(range(32)), bytes(32))


def local_blob(number: int = 0, context: Mapping[str, str] | None = None, plaintext: bytes = bytes(32)) -> bytes:
    """As the local backend makes it; another one for each `number`."""
    return encrypt(_MATERIAL, plaintext, encode_context(context), number.to_bytes(SALT_BYTES, "big"))


def old_blob() -> bytes:
    """In the shape that AWS gave them until 2016: without the nonce."""
    blob = local_blob()
    return b"\x01\x01\x01\x00\x78" + blob[5:37] + blob[54:]
