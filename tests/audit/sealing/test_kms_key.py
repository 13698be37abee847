"""A signing key in a KMS: what it asks, what it takes for an answer, and how the sealer bears that it gets none."""

from __future__ import annotations

import select
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ProxyConnectionError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint, sign, split_notes
from audit.companion import Status
from audit.errors import CheckpointInvalid, SigningUnavailable
from audit.instance import Instance
from audit.sealing import kms_key
from audit.sealing.keys import KeyPlace, create_key, verifier_keys
from audit.sealing.kms_key import KmsAccess, KmsKey
from audit.sealing.process import INTERVAL_S, Sealer
from tests.audit.forge import Forge

ARN = "arn:aws:kms:us-east-1:111122223333:key/1234"
SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Kms:
    """A KMS with one key; `fault` is raised by each call, and `spoil` changes each signature. Any: boto3's parameters."""

    def __init__(self, key: Any, usage: str = "SIGN_VERIFY") -> None:
        self.key, self.usage = key, usage
        self.asked: list[dict[str, Any]] = []
        self.fault: Exception | None = None
        self.spoil: Callable[[bytes], bytes] = lambda signature: signature
        self.headers: dict[str, str] = {}

    def get_public_key(self, **asked: Any) -> dict[str, Any]:
        self._note(asked)
        return {"KeyId": ARN, "KeyUsage": self.usage, "PublicKey": self.key.public_key().public_bytes(*SPKI), **self.metadata()}

    def sign(self, **asked: Any) -> dict[str, Any]:
        self._note(asked)
        if isinstance(self.key, Ed25519PrivateKey):
            assert (asked["MessageType"], asked["SigningAlgorithm"]) == ("RAW", "ED25519_SHA_512")
            signature = self.key.sign(asked["Message"])
        else:
            assert (asked["MessageType"], asked["SigningAlgorithm"]) == ("DIGEST", "ECDSA_SHA_256")
            signature = self.key.sign(asked["Message"], ec.ECDSA(Prehashed(SHA256())))
        return {"KeyId": ARN, "Signature": self.spoil(signature), **self.metadata()}

    def metadata(self) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPHeaders": self.headers}}

    def _note(self, asked: dict[str, Any]) -> None:
        self.asked.append(asked)
        if self.fault is not None:
            raise self.fault


@pytest.fixture(params=["ed25519", "p256"])
def kms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kms:
    made = Kms(Ed25519PrivateKey.generate() if request.param == "ed25519" else ec.generate_private_key(ec.SECP256R1()))
    monkeypatch.setattr(kms_key, "_connect", lambda key_id, access: made)
    return made


def open_key() -> KmsKey:
    return KmsKey("alias/sealer", KmsAccess())


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no\nsecond line"}}, "Sign")


def test_it_signs_notes_that_its_public_key_verifies(kms: Kms) -> None:
    key = open_key()
    checkpoint = Checkpoint("example.com/log", 5, bytes(32))
    note = sign(checkpoint, key)
    assert open_checkpoint(note, VerifierKey.of("example.com/log", key)) == checkpoint
    assert [asked["KeyId"] for asked in kms.asked] == ["alias/sealer", ARN], "an alias is looked up once"
    sent = kms.asked[1]["Message"]
    assert sent == (
        checkpoint.text().encode() if isinstance(kms.key, Ed25519PrivateKey) else sha256(checkpoint.text().encode()).digest()
    )


def test_the_keytrail_whose_log_is_signed_is_no_kms_for_its_key(kms: Kms) -> None:
    own, other = "0123456789abcdef", "fedcba9876543210"
    kms.headers = {"x-keytrail-receipt": f"keytrail/{other}/w0 7 {'A' * 43}="}
    assert KmsKey("alias/sealer", KmsAccess(), own).sign(b"text")
    kms.headers = {"x-keytrail-receipt": f"keytrail/{own}/w0 7 {'A' * 43}="}
    with pytest.raises(SigningUnavailable, match=r"\(alias/sealer\) is this very keytrail"):
        KmsKey("alias/sealer", KmsAccess(), own)
    kms.fault = ClientError({"ResponseMetadata": {"HTTPHeaders": kms.headers}, "Error": {"Code": "NotFoundException"}}, "Sign")  # type: ignore[typeddict-item]  # as much as is read
    with pytest.raises(SigningUnavailable, match="is this very keytrail"):
        KmsKey("alias/none", KmsAccess(), own)


def test_what_is_too_long_for_ed25519_is_refused_before_it_is_sent(kms: Kms) -> None:
    key = open_key()
    assert key.sign(b"x" * 4_096)
    if isinstance(kms.key, Ed25519PrivateKey):
        with pytest.raises(CheckpointInvalid, match="4097 bytes"):
            key.sign(b"x" * 4_097)
        assert len(kms.asked) == 2
    else:
        assert key.sign(b"x" * 100_000)


def test_what_is_no_signature_of_it_is_not_used(kms: Kms) -> None:
    key = open_key()
    other = Kms(
        Ed25519PrivateKey.generate() if isinstance(kms.key, Ed25519PrivateKey) else ec.generate_private_key(ec.SECP256R1())
    )
    for spoil in (lambda signature: b"", lambda signature: signature[:-1] + b"\x00\x00", lambda signature: bytes(64)):
        kms.spoil = spoil
        with pytest.raises(SigningUnavailable, match="no signature of it"):
            key.sign(b"text")
    kms.spoil, kms.key = (lambda signature: signature), other.key
    with pytest.raises(SigningUnavailable, match="no signature of it"):
        key.sign(b"text")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (refusal("AccessDeniedException"), r"alias/sealer\): AccessDeniedException: no$"),
        (refusal("DisabledException"), "DisabledException"),
        (EndpointConnectionError(endpoint_url="https://kms"), "EndpointConnectionError$"),
        (ProxyConnectionError(proxy_url="http://user:canary@proxy"), "ProxyConnectionError$"),
    ],
)
def test_a_kms_that_refuses_or_is_not_there(kms: Kms, fault: Exception, told: str) -> None:
    kms.fault = fault
    with pytest.raises(SigningUnavailable, match=told) as refused:
        open_key()
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "usage"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "SIGN_VERIFY"),
        (Ed25519PrivateKey.generate(), "KEY_AGREEMENT"),
    ],
)
def test_a_key_that_signs_no_notes_is_refused(monkeypatch: pytest.MonkeyPatch, key: Any, usage: str) -> None:
    monkeypatch.setattr(kms_key, "_connect", lambda key_id, access: Kms(key, usage))
    with pytest.raises(CheckpointInvalid, match="signs no notes"):
        open_key()


def test_how_it_is_reached() -> None:
    access = KmsAccess("eu-west-1", "https://kms.{region}.example", egress_proxy="http://user:canary@proxy")
    assert "canary" not in repr(access) and "canary" not in repr(KeyPlace("awskms:x", kms={"egress_proxy": "canary"}))
    client = kms_key._connect("alias/x", access)
    assert (client.meta.region_name, client.meta.endpoint_url) == ("eu-west-1", "https://kms.eu-west-1.example")
    client = kms_key._connect("arn:aws:kms:us-west-2:111122223333:alias/x", KmsAccess("eu-west-1"))
    assert (client.meta.region_name, client.meta.endpoint_url) == ("us-west-2", "https://kms.us-west-2.amazonaws.com")
    for wrong in (KmsAccess("eu-west-1", profile="nobody"), KmsAccess("eu-west-1", "no url")):
        with pytest.raises(SigningUnavailable):
            kms_key._connect("alias/x", wrong)


def test_an_endpoint_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:4599")
    assert kms_key._connect("alias/x", KmsAccess("eu-west-1")).meta.endpoint_url == "https://kms.eu-west-1.amazonaws.com"


# --- the sealer with such a key


@pytest.fixture
def forge(tmp_path: Path, kms: Kms) -> Forge:
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
    create_key(instance, KeyPlace("awskms:alias/sealer"))
    instance.save()
    return Forge(instance)


def sizes(forge: Forge) -> list[int]:
    path = forge.checkpoints / "history"
    key = verifier_keys(forge.instance)["admin"]
    return [open_checkpoint(note, key).size for note in split_notes(path.read_text())] if path.exists() else []


def test_while_the_kms_is_down_it_is_not_ready_and_nothing_is_lost(forge: Forge, kms: Kms) -> None:
    told: list[Status] = []
    sealer = Sealer(forge.instance.data, told.append, KeyPlace("awskms:alias/sealer"))
    forge.grow(5)
    kms.fault = EndpointConnectionError(endpoint_url="https://kms")
    sealer.seal_all()
    sealer.seal_all()
    assert [status.ready for status in told] == [False] and sizes(forge) == []
    kms.fault = None
    sealer.seal_all()
    forge.grow(5)
    kms.fault = refusal("KMSInternalException")
    sealer.seal_all()
    forge.grow(5)
    kms.fault = None
    sealer.seal_all()
    assert [status.ready for status in told] == [False, True, False, True] and sizes(forge) == [5, 15]


def test_it_tries_ever_more_seldom(forge: Forge, kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    tries: list[float] = []

    def look(*_: object) -> tuple[list[int], list[int], list[int]]:
        """Stands for `select`, four times a second; the KMS is back after ten minutes."""
        nonlocal looks
        looks += 1
        if looks == 4 * 600:
            kms.fault = None
        return ([0] if looks == 4 * 700 else []), [], []

    asked = kms._note

    def note(parameters: dict[str, Any]) -> None:
        tries.append(looks / 4)
        asked(parameters)

    monkeypatch.setattr(select, "select", look)
    monkeypatch.setattr(kms, "_note", note)
    forge.grow(5)
    kms.fault = refusal("KMSInternalException")
    Sealer(forge.instance.data, lambda status: None, KeyPlace("awskms:alias/sealer")).run(0)
    pauses = [after - before for before, after in pairwise(tries)][:5]
    assert pauses == [2 * INTERVAL_S, 4 * INTERVAL_S, 8 * INTERVAL_S, 16 * INTERVAL_S, 60.0]
    assert sizes(forge) == [5] and 600 <= tries[-1] <= 661
