"""The answers: pages that a limit of time cuts short, whose events are seen, and a trail that tells how its delivery goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.companion import Status
from audit.delivery.digest import PublicKey
from audit.delivery.keys import open_key
from audit.delivery.layout import Place, Trail
from audit.delivery.opening import delivery_folder
from audit.delivery.process import noted
from audit.delivery.state import Fault, State, StateFile
from proxy.cloudtrail.operations import OPERATIONS
from proxy.cloudtrail.page_token import KEY_BYTES
from proxy.cloudtrail.service import CloudTrailService, Delivered, FindAlias
from proxy.domain import KmsCall, Principal
from proxy.errors import KmsError
from tests.audit.query.builder import KEY_A, LogBuilder, at

HOME = Place("111122223333", "eu-central-1")
OTHER = Place("444455556666", "eu-central-1")
TRAIL = Trail("keytrail", HOME, "evidence", "host-1")
DELIVERED = Delivered(TRAIL, "s3://evidence/host-1")
Json = Any


def call(operation: str, place: Place = HOME, **parameters: Json) -> KmsCall:
    principal = Principal("IAMUser", f"arn:aws:iam::{place.account_id}:user/a", place.account_id, "AKIA1", "AIDA1", "a")
    return KmsCall(OPERATIONS[operation], place.region, principal, parameters, int(at(100).timestamp() * 1_000_000))


@contextmanager
def serving(
    data: Path,
    delivered: Delivered | None = None,
    find_alias: FindAlias = lambda account_id, region, name: None,
    search_s: float = 60.0,
) -> Iterator[CloudTrailService]:
    service = CloudTrailService(data, HOME, delivered, find_alias, b"k" * KEY_BYTES, search_s)
    try:
        yield service
    finally:
        service.close()


async def all_events(service: CloudTrailService, place: Place = HOME, **asked: Json) -> tuple[list[str], int]:
    """Every event's id, and in how many pages they came."""
    found: list[str] = []
    pages = 0
    token: dict[str, str] = {}
    while pages == 0 or token:
        answer = (await service.call(call("LookupEvents", place, **asked, **token))).members
        assert len(answer["Events"]) <= asked.get("MaxResults", 50)
        found += [event["EventId"] for event in answer["Events"]]
        token = {"NextToken": answer["NextToken"]} if "NextToken" in answer else {}
        pages += 1
    return found, pages


async def refused(service: CloudTrailService, operation: str, place: Place = HOME, **parameters: Json) -> str:
    with pytest.raises(KmsError) as told:
        await service.call(call(operation, place, **parameters))
    return told.value.code


def build(data: Path, events: int) -> None:
    log = LogBuilder(data)
    for number in range(events):
        log.add(number, eventID=f"e{number}", userAgent="x" * 3_000)
        if number % 40 == 39:
            log.rotate()


async def test_a_search_that_is_out_of_time_gives_what_it_has_and_goes_on(tmp_path: Path) -> None:
    build(tmp_path, 120)
    with serving(tmp_path, search_s=0) as service:
        found, pages = await all_events(service, LookupAttributes=[{"AttributeKey": "EventId", "AttributeValue": "e3"}])
        assert found == ["e3"] and pages > 3
        found, _ = await all_events(service)
        assert found == [f"e{number}" for number in reversed(range(120))]
    with serving(tmp_path) as service:
        assert await all_events(service, MaxResults=30) == (found, 5)


async def test_more_at_once_than_threads_are_answered_one_after_the_other(tmp_path: Path) -> None:
    build(tmp_path, 5)
    with serving(tmp_path) as service:
        answers = await asyncio.gather(*(service.call(call("LookupEvents")) for _ in range(12)))
    assert {len(answer.members["Events"]) for answer in answers} == {5}


async def test_who_sees_what_is_by_account_and_region_and_a_strangers_region_is_not_believed(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, eventID="home")
    log.add(2, eventID="other", recipientAccountId=OTHER.account_id)
    log.add(3, eventID="south", awsRegion="sa-east-1")
    stranger = log.add(4, eventID="stranger", awsRegion="sa-east-1")
    log.lines.clear()
    text = log.segment.read_bytes().replace(stranger, stranger.replace(b"signature-verified", b"none"))
    log.segment.write_bytes(text)
    with serving(tmp_path) as service:
        assert (await all_events(service))[0] == ["stranger", "home"]
        assert (await all_events(service, OTHER))[0] == ["other"]
        assert (await all_events(service, Place(HOME.account_id, "sa-east-1")))[0] == ["south"]


async def test_an_alias_finds_the_calls_of_the_key_that_it_stands_for(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, eventID="by-arn", key=KEY_A)
    log.add(2, eventID="none", key=None)
    asked: list[tuple[str, str, str]] = []

    def find_alias(account_id: str, region: str, name: str) -> str:
        asked.append((account_id, region, name))
        return KEY_A

    with serving(tmp_path, find_alias=find_alias) as service:
        named = [{"AttributeKey": "ResourceName", "AttributeValue": "alias/app"}]
        assert (await all_events(service, LookupAttributes=named))[0] == ["by-arn"]
    assert asked == [(*HOME, "alias/app")]


async def test_what_cannot_be_read_is_said_in_the_processs_own_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = LogBuilder(tmp_path)
    log.raw(b"rubbish\n")
    log.add(1, eventID="e1")
    with serving(tmp_path) as service:
        assert (await all_events(service))[0] == ["e1"]
    assert "passed over what it cannot read: log w0" in caplog.text


# --- the trail


@pytest.fixture
def delivering(tmp_path: Path) -> Path:
    """A data folder whose delivery has begun."""
    delivery_folder(tmp_path).mkdir()
    open_key(delivery_folder(tmp_path), 1_000)
    StateFile(delivery_folder(tmp_path), DELIVERED.destination).save(State("keytrail", delivered_at=2_000, digested_at=3_000))
    return tmp_path


async def test_the_trail_is_told_by_its_name_and_its_arn(delivering: Path) -> None:
    with serving(delivering, DELIVERED) as service:
        (described,) = (await service.call(call("DescribeTrails"))).members["trailList"]
        for name in ("keytrail", TRAIL.arn):
            answer = await service.call(call("GetTrail", Name=name))
            assert answer.members == {"Trail": described} and answer.keys[0].arn == TRAIL.arn
            assert (await service.call(call("DescribeTrails", trailNameList=["other", name]))).members["trailList"] == [described]
        assert (await service.call(call("DescribeTrails", trailNameList=["other"]))).members["trailList"] == []
        listed = (await service.call(call("ListTrails"))).members["Trails"]
        assert listed == [{"TrailARN": TRAIL.arn, "Name": "keytrail", "HomeRegion": "eu-central-1"}]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("other", "TrailNotFoundException"),
        (TRAIL.arn + "2", "TrailNotFoundException"),
        ("x", "InvalidTrailNameException"),
        ("a--b", "InvalidTrailNameException"),
        ("no such trail", "InvalidTrailNameException"),
        ("arn:aws:s3:::bucket", "CloudTrailARNInvalidException"),
        ("arn:aws:cloudtrail:eu-central-1:111122223333:trail/a b", "CloudTrailARNInvalidException"),
    ],
)
async def test_what_names_no_trail_is_refused(delivering: Path, name: str, code: str) -> None:
    with serving(delivering, DELIVERED) as service:
        assert await refused(service, "GetTrail", Name=name) == code
        assert await refused(service, "GetTrailStatus", Name=name) == code


async def test_another_account_and_a_keytrail_that_delivers_nothing_have_no_trail(delivering: Path) -> None:
    for delivered, place in ((DELIVERED, OTHER), (None, HOME)):
        with serving(delivering, delivered) as service:
            assert (await service.call(call("DescribeTrails", place))).members == {"trailList": []}
            assert (await service.call(call("ListTrails", place))).members == {"Trails": []}
            assert (await service.call(call("ListPublicKeys", place))).members == {"PublicKeyList": []}
            assert await refused(service, "GetTrailStatus", place, Name="keytrail") == "TrailNotFoundException"


async def test_the_status_tells_of_the_last_deliveries_and_of_the_fault_until_it_is_over(delivering: Path) -> None:
    told: list[Status] = []
    report = noted(told.append, StateFile(delivery_folder(delivering), DELIVERED.destination), lambda: 4_000.5)
    with serving(delivering, DELIVERED) as service:

        async def status() -> Json:
            return (await service.call(call("GetTrailStatus", Name="keytrail"))).members

        healthy = {
            "IsLogging": True,
            "LatestDeliveryTime": 2_000.0,
            "LatestDigestDeliveryTime": 3_000.0,
            "StartLoggingTime": 1_000.0,
            "LatestDeliveryAttemptTime": "1970-01-01T00:33:20Z",
            "LatestDeliveryAttemptSucceeded": "1970-01-01T00:33:20Z",
            "TimeLoggingStarted": "1970-01-01T00:16:40Z",
        }
        assert await status() == healthy
        report(Status(ready=False, reason="s3://evidence: AccessDenied"))
        failed = {"LatestDeliveryError": "s3://evidence: AccessDenied", "LatestDeliveryAttemptTime": "1970-01-01T01:06:40Z"}
        assert await status() == healthy | failed
        report(Status(ready=True))
        assert await status() == healthy
    assert [one.ready for one in told] == [False, True]


async def test_a_state_that_cannot_be_read_is_a_fault_and_tells_no_path(delivering: Path) -> None:
    (path,) = delivery_folder(delivering).glob("*/state")
    path.write_bytes(b"{")
    with serving(delivering, DELIVERED) as service, pytest.raises(KmsError) as told:
        await service.call(call("GetTrailStatus", Name="keytrail"))
    assert (told.value.code, told.value.status) == ("InternalFailure", 500) and str(delivering) not in str(told.value)


def test_a_fault_that_cannot_be_read_is_none(delivering: Path) -> None:
    journal = StateFile(delivery_folder(delivering), DELIVERED.destination)
    journal.note(Fault("x", 1))
    assert journal.fault() == Fault("x", 1)
    (path,) = delivery_folder(delivering).glob("*/fault")
    path.write_bytes(b"rubbish")
    assert journal.fault() is None


async def test_public_keys_are_those_of_the_interval(delivering: Path) -> None:
    with serving(delivering, DELIVERED) as service:

        async def keys(**asked: Json) -> list[Json]:
            found: list[Json] = (await service.call(call("ListPublicKeys", **asked))).members["PublicKeyList"]
            return found

        (key,) = await keys(StartTime=0.0, EndTime=2_000.0)
        assert await keys() == []  # a key of 1970 is not good in 2026
        assert set(key) == {"Value", "ValidityStartTime", "ValidityEndTime", "Fingerprint"}
        assert await refused(service, "ListPublicKeys", StartTime=2.0, EndTime=1.0) == "InvalidTimeRangeException"
        assert await refused(service, "ListPublicKeys", NextToken="x") == "InvalidTokenException"
        assert isinstance(key["Value"], str) and PublicKey(b"", 0).fingerprint != key["Fingerprint"]
