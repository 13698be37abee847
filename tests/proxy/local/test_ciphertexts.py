"""No ciphertext that was changed, or that is asked for in another way than it was made in, gives its plaintext."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proxy.local.world import World

OFTEN = settings(max_examples=60, deadline=None)
REFUSED = ("InvalidCiphertextException", "IncorrectKeyException")
CONTEXT = {"a": "bc"}
SECRET = b"a secret of sixteen"


@dataclass(frozen=True)
class Sealed:
    """A ciphertext, and the members of the Decrypt that opens it."""

    blob: bytes
    opening: dict[str, Any]


@dataclass(frozen=True)
class Sealing:
    """Ciphertexts of each kind, in a world of their own, and other keys of the same kinds."""

    world: World
    made: dict[str, Sealed]
    others: dict[str, str]


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealing]:
    path: Path = tmp_path_factory.mktemp("sealing") / "keystore.db"
    world = World(path)
    aes, other = world.new_key(), world.new_key()
    rsa, other_rsa = (world.new_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT") for _ in range(2))
    made = {
        "symmetric": Sealed(
            world("Encrypt", KeyId=aes, Plaintext=SECRET, EncryptionContext=CONTEXT)["CiphertextBlob"],
            {"EncryptionContext": CONTEXT},
        ),
        "data key": Sealed(
            world("GenerateDataKey", KeyId=aes, KeySpec="AES_256", EncryptionContext=CONTEXT)["CiphertextBlob"],
            {"EncryptionContext": CONTEXT},
        ),
        "data key pair": Sealed(
            world("GenerateDataKeyPairWithoutPlaintext", KeyId=aes, KeyPairSpec="ECC_NIST_P256", EncryptionContext=CONTEXT)[
                "PrivateKeyCiphertextBlob"
            ],
            {"EncryptionContext": CONTEXT},
        ),
    }
    for algorithm in ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"):
        blob = world("Encrypt", KeyId=rsa, Plaintext=SECRET, EncryptionAlgorithm=algorithm)["CiphertextBlob"]
        made[algorithm] = Sealed(blob, {"KeyId": rsa, "EncryptionAlgorithm": algorithm})
    yield Sealing(world, made, {name: other_rsa if "RSA" in name else other for name in made})
    world.close()


KINDS = ["symmetric", "data key", "data key pair", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_opens_as_it_was_made(sealing: Sealing, kind: str) -> None:
    sealed = sealing.made[kind]
    assert sealing.world("Decrypt", CiphertextBlob=sealed.blob, **sealed.opening)["Plaintext"]


@pytest.mark.parametrize("kind", KINDS)
@OFTEN
@given(data=st.data())
def test_no_flipped_bit_gives_a_plaintext(sealing: Sealing, kind: str, data: st.DataObject) -> None:
    sealed = sealing.made[kind]
    bit = data.draw(st.integers(0, 8 * len(sealed.blob) - 1))
    blob = bytearray(sealed.blob)
    blob[bit // 8] ^= 1 << bit % 8
    told = sealing.world.refused("Decrypt", CiphertextBlob=bytes(blob), **sealed.opening)
    # A bit of the key's material id makes it a ciphertext of a key that there is not.
    assert told.code in (*REFUSED, "AccessDeniedException")
    if told.code == "InvalidCiphertextException":
        assert told.message is None


@pytest.mark.parametrize("kind", KINDS)
@OFTEN
@given(data=st.data())
def test_no_other_length_gives_a_plaintext(sealing: Sealing, kind: str, data: st.DataObject) -> None:
    sealed = sealing.made[kind]
    cut = data.draw(st.integers(1, len(sealed.blob) - 1))
    blob = data.draw(
        st.sampled_from([sealed.blob[:cut], sealed.blob[cut:], sealed.blob + sealed.blob[:cut], b"\0" + sealed.blob])
    )
    assert sealing.world.refused("Decrypt", CiphertextBlob=blob, **sealed.opening).code in (*REFUSED, "AccessDeniedException")


CONTEXTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text("abc", max_size=3), max_size=3)


@pytest.mark.parametrize("kind", KINDS[:3])
@OFTEN
@given(context=CONTEXTS | st.sampled_from([{"ab": "c"}, {"abc": ""}, {"A": "bc"}, {"a": "b", "c": ""}, {"a": "bc", "": ""}, {}]))
def test_another_context_gives_no_plaintext(sealing: Sealing, kind: str, context: dict[str, str]) -> None:
    sealed = sealing.made[kind]
    if context == CONTEXT:
        return
    told = sealing.world.refused("Decrypt", CiphertextBlob=sealed.blob, EncryptionContext=context)
    assert (told.code, told.message) == ("InvalidCiphertextException", None)
    told = sealing.world.refused(
        "ReEncrypt", CiphertextBlob=sealed.blob, SourceEncryptionContext=context, DestinationKeyId=sealing.others[kind]
    )
    assert (told.code, told.message) == ("InvalidCiphertextException", None)


@pytest.mark.parametrize("kind", KINDS)
def test_another_key_gives_no_plaintext(sealing: Sealing, kind: str) -> None:
    sealed, other = sealing.made[kind], sealing.others[kind]
    told = sealing.world.refused("Decrypt", CiphertextBlob=sealed.blob, **sealed.opening | {"KeyId": other})
    assert told.code == ("InvalidCiphertextException" if "RSA" in kind else "IncorrectKeyException")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_kind_gives_no_plaintext(sealing: Sealing, kind: str) -> None:
    sealed = sealing.made[kind]
    other = sealing.others["symmetric" if "RSA" in kind else "RSAES_OAEP_SHA_1"]
    opening = {name: value for name, value in sealed.opening.items() if name == "EncryptionContext"}
    told = sealing.world.refused("Decrypt", CiphertextBlob=sealed.blob, **opening | {"KeyId": other})
    assert told.code in (*REFUSED, "InvalidKeyUsageException")


def test_the_other_algorithm_of_an_rsa_key_gives_no_plaintext(sealing: Sealing) -> None:
    sealed = sealing.made["RSAES_OAEP_SHA_1"]
    opening = sealed.opening | {"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
    told = sealing.world.refused("Decrypt", CiphertextBlob=sealed.blob, **opening)
    assert (told.code, told.message) == ("InvalidCiphertextException", None)
