"""Names, digests, keys, the state: read back as they were written, and as CloudTrail's documentation has them."""

from __future__ import annotations

import base64
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from audit.delivery import keys
from audit.delivery.digest import Digest, LogFile, Previous, PublicKey, text_to_sign
from audit.delivery.keys import DigestKeyInvalid, open_key, read_public_keys, rotate_key, write_public_keys
from audit.delivery.layout import DigestKey, LogKey, Place, Trail, seconds, timestamp, unique_of
from audit.delivery.records import Body, NoRecord, body_of, delivered
from audit.delivery.state import BegunDigest, BegunFiles, Chain, State, StateFile, StateInvalid, decode, encode
from audit.delivery.trail import describe_trails, public_keys
from tests.audit.delivery.fakes import HOME, TRAIL
from tests.audit.delivery.test_deliverer import KEY
from tests.audit.query.builder import at, placed, record

PLACES = st.builds(
    Place, st.from_regex(r"[0-9]{12}", fullmatch=True), st.sampled_from(["us-east-1", "eu-central-1", "us-gov-west-1"])
)
TIMES = st.integers(0, 4_000_000_000)
PREFIXES = st.sampled_from(["", "host-1", "a/b"])


def test_names_are_cloudtrails() -> None:
    """The examples of CloudTrail's documentation, but for the unique part."""
    trail = Trail("MyTrail", Place("123456789012", "us-east-2"), "amzn-s3-demo-bucket", "prefix")
    moment = seconds("2015-08-17T05:54:00Z")
    assert trail.log_key(trail.home, moment, b"").removesuffix("_4OYMIQUY7QOBJGX3.json.gz") == (
        "prefix/AWSLogs/123456789012/CloudTrail/us-east-2/2015/08/17/123456789012_CloudTrail_us-east-2_20150817T0554Z"
    )
    assert trail.digest_key(trail.home, seconds("2015-08-17T14:01:31Z")) == (
        "prefix/AWSLogs/123456789012/CloudTrail-Digest/us-east-2/2015/08/17/"
        "123456789012_CloudTrail-Digest_us-east-2_MyTrail_us-east-2_20150817T140131Z.json.gz"
    )
    assert trail.arn == "arn:aws:cloudtrail:us-east-2:123456789012:trail/MyTrail"
    assert replace(trail, home=Place("1", "cn-north-1")).arn.startswith("arn:aws-cn:")
    assert replace(trail, home=Place("1", "us-gov-east-1")).arn.startswith("arn:aws-us-gov:")


@given(PLACES, TIMES, st.binary(max_size=20), PREFIXES, st.sampled_from(["keytrail", "My_Trail-1", "a.b_c"]))
def test_names_are_read_back(place: Place, time: int, body: bytes, prefix: str, name: str) -> None:
    trail = Trail(name, HOME, "bucket", prefix)
    assert trail.parse(trail.log_key(place, time, body)) == LogKey(place, time - time % 60, unique_of(body))
    assert trail.parse(trail.digest_key(place, time)) == DigestKey(place, name, HOME.region, time)
    assert seconds(timestamp(time)) == time


@pytest.mark.parametrize(
    "key",
    [
        "AWSLogs/111122223333/CloudTrail/us-east-1/2026/01/03/111122223333_CloudTrail_us-east-1_20260102T0304Z_AAAAAAAAAAAAAAAA.json.gz",
        "AWSLogs/111122223333/CloudTrail/us-east-1/2026/13/02/111122223333_CloudTrail_us-east-1_20261302T0304Z_AAAAAAAAAAAAAAAA.json.gz",
        "AWSLogs/111122223333/CloudTrail/us-east-1/2026/01/02/111122223334_CloudTrail_us-east-1_20260102T0304Z_AAAAAAAAAAAAAAAA.json.gz",
        "AWSLogs/111122223333/CloudTrail/us-east-1/2026/01/02/111122223333_CloudTrail_us-east-2_20260102T0304Z_AAAAAAAAAAAAAAAA.json.gz",
        "AWSLogs/111122223333/CloudTrail/us-east-1/2026/01/02/111122223333_CloudTrail_us-east-1_20260102T0304Z_AAAA.json.gz",
        "elsewhere/AWSLogs/note",
        "",
    ],
)
def test_what_is_no_such_name_is_none(key: str) -> None:
    assert replace(TRAIL, prefix="").parse(key) is None


@given(st.lists(st.binary(min_size=1, max_size=9)))
def test_a_body_is_the_same_in_pieces(lines: list[bytes]) -> None:
    pieces = Body()
    text = b"".join([pieces.piece(line) for line in lines])
    assert not lines or text + pieces.end() == body_of(lines)
    assert orjson.loads(body_of([b"{}"] * len(lines))) == {"Records": [{}] * len(lines)}


WHOLE = placed(record(recipientAccountId="111122223333"), "w0", 0, at(0))
DAMAGE: list[dict[str, Any]] = [
    {"eventTime": 5},
    {"eventTime": "2026-13-01T00:00:00Z"},
    {"eventTime": "now"},
    {"awsRegion": []},
    {"recipientAccountId": 1},
    {"eventSource": None},
]
DAMAGED = [orjson.dumps({**WHOLE, **change}) for change in DAMAGE]


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"1", b'{"additionalEventData": null}', b'{"additionalEventData": {"keytrail": {}}}', *DAMAGED]
)
def test_what_is_no_record_is_said(line: bytes) -> None:
    with pytest.raises(NoRecord):
        delivered(line, HOME)


def test_a_digest_has_cloudtrails_members() -> None:
    """As in the documentation's example of a digest file."""
    files = (
        LogFile("k1", "aa", "2026-01-02T03:00:00Z", "2026-01-02T03:04:00Z"),
        LogFile("k2", "bb", "2026-01-02T02:00:00Z", "2026-01-02T03:01:00Z"),
    )
    digest = Digest(HOME, 1_000_000, 1_003_600, files, Previous("before", "cc", "dd"))
    found: dict[str, Any] = orjson.loads(digest.document(TRAIL, "ff"))
    assert found.pop("logFiles")[0] == {
        "s3Bucket": "evidence",
        "s3Object": "k1",
        "hashValue": "aa",
        "hashAlgorithm": "SHA-256",
        "newestEventTime": "2026-01-02T03:04:00Z",
        "oldestEventTime": "2026-01-02T03:00:00Z",
    }
    assert found == {
        "awsAccountId": HOME.account_id,
        "digestStartTime": "1970-01-12T13:46:40Z",
        "digestEndTime": "1970-01-12T14:46:40Z",
        "digestS3Bucket": "evidence",
        "digestS3Object": TRAIL.digest_key(HOME, 1_003_600),
        "digestPublicKeyFingerprint": "ff",
        "digestSignatureAlgorithm": "SHA256withRSA",
        "newestEventTime": "2026-01-02T03:04:00Z",
        "oldestEventTime": "2026-01-02T02:00:00Z",
        "previousDigestS3Bucket": "evidence",
        "previousDigestS3Object": "before",
        "previousDigestHashValue": "cc",
        "previousDigestHashAlgorithm": "SHA-256",
        "previousDigestSignature": "dd",
    }
    assert text_to_sign(b"", "E", "B", "K", None).decode() == (
        "E\nB/K\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nnull"
    )


# --- keys


def test_the_key_is_made_once_and_is_closed_to_others(tmp_path: Path) -> None:
    made = open_key(tmp_path, 1_000)
    again = open_key(tmp_path, 2_000)
    assert again.public == made.public == read_public_keys(tmp_path)[made.public.fingerprint]
    assert made.public.since == 1_000
    assert stat.S_IMODE((tmp_path / "digest.key").stat().st_mode) == 0o600
    signature = made.sign(b"text")
    assert again.sign(b"text") == signature
    assert made.public.verifies(signature, b"text") and not made.public.verifies(signature, b"other")
    assert not made.public.verifies("no hex", b"text") and not KEY.public.verifies(signature, b"text")


def test_a_crash_between_the_key_and_its_public_part_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr(keys, "write_public_keys", crash)
        open_key(tmp_path, 1_000)
    made = open_key(tmp_path, 2_000)
    assert list(read_public_keys(tmp_path)) == [made.public.fingerprint]


def test_another_key_keeps_the_public_part_of_the_first(tmp_path: Path) -> None:
    first = open_key(tmp_path, 1_000)
    (tmp_path / "digest.key").unlink()
    second = open_key(tmp_path, 2_000)
    assert list(read_public_keys(tmp_path)) == [first.public.fingerprint, second.public.fingerprint]


def test_a_rotation_makes_another_key_and_keeps_the_public_part_of_the_first(tmp_path: Path) -> None:
    first = open_key(tmp_path, 1_000)
    second = rotate_key(tmp_path, 2_000)
    assert second.public != first.public and open_key(tmp_path, 3_000).public == second.public
    assert [(one.fingerprint, one.since) for one in read_public_keys(tmp_path).values()] == [
        (first.public.fingerprint, 1_000),
        (second.public.fingerprint, 2_000),
    ]
    assert stat.S_IMODE((tmp_path / "digest.key").stat().st_mode) == 0o600


def test_a_rotation_that_cannot_be_whole_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DigestKeyInvalid, match="it is made when delivery begins"):
        rotate_key(tmp_path, 1_000)
    assert list(tmp_path.iterdir()) == []
    open_key(tmp_path, 1_000)
    before = (tmp_path / "digest.key").read_bytes()
    (tmp_path / "digest.pub").write_bytes(b"x")
    with pytest.raises(DigestKeyInvalid, match="does not hold public keys"):
        rotate_key(tmp_path, 2_000)
    assert (tmp_path / "digest.key").read_bytes() == before


@pytest.mark.parametrize(
    "text", [b"no key", generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
)
def test_a_key_that_is_none_is_said_and_not_shown(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "digest.key").write_bytes(text)
    with pytest.raises(DigestKeyInvalid, match=r"digest\.key is not") as raised:
        open_key(tmp_path, 0)
    assert text.decode() not in str(raised.value)


@pytest.mark.parametrize("text", [b"x", b"{}", b'{"value":"eA==","since":1}', b'{"value":"x","since":1}'])
def test_public_keys_that_are_none_are_said(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "digest.pub").write_bytes(text)
    with pytest.raises(DigestKeyInvalid):
        read_public_keys(tmp_path)


def test_the_api_is_told_the_trail_and_the_keys_of_a_time(tmp_path: Path) -> None:
    (told,) = describe_trails(TRAIL)["trailList"]
    assert (told["TrailARN"], told["S3BucketName"], told["S3KeyPrefix"]) == (TRAIL.arn, "evidence", "host-1")
    assert "S3KeyPrefix" not in describe_trails(replace(TRAIL, prefix=""))["trailList"][0]
    day = 86_400
    old, new = PublicKey(KEY.public.der, 10 * day), PublicKey(open_key(tmp_path, 0).public.der, 20 * day)
    write_public_keys(tmp_path, [old, new])

    def names(start: int, end: int) -> list[str]:
        return [one["Fingerprint"] for one in public_keys(read_public_keys(tmp_path).values(), start, end)["PublicKeyList"]]

    assert names(0, 8 * day) == []
    assert names(0, 12 * day) == names(12 * day, 13 * day) == [old.fingerprint]
    assert names(12 * day, 25 * day) == names(20 * day, 20 * day) == [old.fingerprint, new.fingerprint]
    assert names(22 * day, 100 * day) == [new.fingerprint]
    (row,) = public_keys([old], 0, 100 * day)["PublicKeyList"]
    assert base64.b64decode(row["Value"]) == old.der


# --- state

FILES = st.builds(LogFile, st.text(max_size=5), st.just("aa"), st.just("o"), st.just("n"))
STATES = st.builds(
    State,
    trail=st.just("keytrail"),
    time=TIMES,
    next=st.dictionaries(st.sampled_from(["w0", "admin"]), TIMES),
    chains=st.dictionaries(
        PLACES,
        st.builds(Chain, TIMES, st.none() | st.just(Previous("k", "aa", "bb")), st.lists(FILES, max_size=2).map(tuple)),
        max_size=2,
    ),
    begun=st.none()
    | st.builds(BegunDigest, PLACES, TIMES, st.just("k"), st.text(max_size=5), st.just("s"))
    | st.builds(BegunFiles, st.just("w0"), TIMES, TIMES, TIMES, st.lists(st.tuples(PLACES, FILES), max_size=2).map(tuple)),
    files=TIMES,
    delivered_at=st.none() | TIMES,
)


@given(STATES)
def test_a_state_is_read_back(state: State) -> None:
    assert decode(encode(state, "somewhere")) == state


def test_each_destination_has_a_state_of_its_own(tmp_path: Path) -> None:
    one, two = StateFile(tmp_path, "s3://a/b"), StateFile(tmp_path, "s3://a/c")
    assert one.load() is None
    one.save(State("keytrail", 5))
    assert (one.load(), two.load()) == (State("keytrail", 5), None)
    (path,) = tmp_path.glob("*/state")
    assert b'"destination": "s3://a/b"' in path.read_bytes()
    for damage in (b"", b"{}", b"[]", path.read_bytes().replace(b'"format": 1', b'"format": 2')):
        path.write_bytes(damage)
        with pytest.raises(StateInvalid, match="damaged"):
            one.load()
