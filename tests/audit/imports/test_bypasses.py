"""The calls that keytrail never saw, and those that only look so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit.errors import QueryError
from audit.imports.bypasses import Asked, Bypasses, find_bypasses
from tests.audit.fixtures.reconcile import KEY, OTHER_KEY, World
from tests.audit.imports import imported, rows
from tests.audit.query.builder import START, at
from tests.docs.repository import read_required

HOUR = 3_600


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Our log covers two hours."""
    world = World(tmp_path / "data", tmp_path / "trail")
    for hour in range(3):
        world.call(hour * HOUR)
    return world


def judged(world: World, asked: Asked = Asked()) -> Bypasses:  # noqa: B008 - frozen
    world.deliver()
    imported(world.data, world.trail)
    return find_bypasses(world.data, asked)


def test_all_calls_passed(world: World) -> None:
    found = judged(world)
    assert (found.found, found.calls, found.before, found.after, found.by_services) == ((), 0, 0, 0, 0)
    assert (found.first, found.last) == (START, at(2 * HOUR))


def test_bypasses_are_told_by_caller_operation_and_key(world: World) -> None:
    eve, mallory = world.user("eve"), world.user("mallory")
    for seconds in (10, 20, 30):
        one = world.event(HOUR + seconds, userIdentity=eve)
    world.event(HOUR + 40, userIdentity=eve, key=OTHER_KEY)
    world.event(HOUR + 50, "GenerateDataKey", userIdentity=mallory, key=None)
    found = judged(world)
    assert [(group.caller, group.access_key_id, group.event_name, group.key, group.calls) for group in found.found] == [
        (eve["arn"], "AKIAEVE", "Decrypt", KEY, 3),
        (eve["arn"], "AKIAEVE", "Decrypt", OTHER_KEY, 1),
        (mallory["arn"], "AKIAMALLORY", "GenerateDataKey", None, 1),
    ]
    assert (found.found[0].first, found.found[0].last) == (at(HOUR + 10), at(HOUR + 30))
    assert found.found[0].request_id <= one["requestID"]
    assert found.calls == 5


def test_what_is_outside_of_what_both_cover_is_counted_apart(world: World) -> None:
    for seconds in (-HOUR, -1, HOUR, 2 * HOUR + 1, 3 * HOUR, 4 * HOUR):
        world.event(seconds, userIdentity=world.user("eve"))
    found = judged(world)
    assert (found.before, found.calls, found.after) == (2, 1, 3)


def test_the_time_may_be_named(world: World) -> None:
    for seconds in (-HOUR, HOUR, 3 * HOUR):
        world.event(seconds, userIdentity=world.user("eve"))
    assert judged(world, Asked(since=at(-2 * HOUR), until=at(4 * HOUR))).calls == 3
    assert judged(world, Asked(since=at(HOUR), until=at(3 * HOUR))).calls == 1
    assert judged(world, Asked(since=at(HOUR + 1), until=at(3 * HOUR))).calls == 0


def test_no_pair_is_torn_at_the_edge(world: World) -> None:
    """The call arrived before the time that is asked for; AWS was done with it after."""
    world.number = 500
    request_id = "edge"
    world.record(HOUR - 0.5, request_id=request_id)
    world.event(HOUR + 0.5, request_id=request_id)
    assert judged(world, Asked(since=at(HOUR), until=at(2 * HOUR))).calls == 0


def test_an_event_of_the_second_of_our_first_record_is_within(tmp_path: Path) -> None:
    world = World(tmp_path / "data", tmp_path / "trail")
    world.call(0.7)
    world.call(60)
    world.event(0.9, userIdentity=world.user("eve"))
    assert judged(world).calls == 1


def test_services_of_aws_did_not_have_to_pass(world: World) -> None:
    world.event(60, "RotateKey", eventType="AwsServiceEvent", userIdentity={"type": "AWSService", "invokedBy": "x"})
    world.event(61, sourceIPAddress="s3.amazonaws.com")
    world.event(62, userIdentity={**world.user("eve"), "invokedBy": "ebs.amazonaws.com"})
    found = judged(world)
    assert (found.calls, found.by_services) == (0, 3)


def test_a_call_across_accounts_is_one_and_the_callers_copy_tells_who(world: World) -> None:
    event = world.event(60, userIdentity=world.user("eve"))
    world.copy(event, eventID="0", userIdentity={"type": "AWSAccount", "accountId": "444455556666"})
    [group] = judged(world).found
    assert (group.caller, group.calls) == (world.user("eve")["arn"], 1)


def test_an_event_that_two_imports_have_is_one_call(world: World) -> None:
    world.event(60, userIdentity=world.user("eve"))
    world.deliver()
    imported(world.data, world.trail, "a")
    imported(world.data, world.trail, "b")
    assert find_bypasses(world.data).calls == 1


def test_without_a_request_id_it_is_a_bypass_all_the_same(world: World) -> None:
    for seconds in (60, 61):
        world.event(seconds, requestID=None, userIdentity=world.user("eve"))
    assert judged(world).calls == 2


def test_accounts_and_regions(world: World) -> None:
    world.event(60, userIdentity=world.user("eve"))
    world.event(61, recipientAccountId="444455556666")
    world.event(62, awsRegion="eu-west-1")
    assert judged(world).calls == 3
    assert find_bypasses(world.data, Asked(accounts=("444455556666",))).calls == 1
    assert find_bypasses(world.data, Asked(regions=("eu-west-1", "eu-west-2"))).calls == 1


def test_what_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    world = World(tmp_path / "data", tmp_path / "trail")
    world.event(60)
    world.deliver()
    with pytest.raises(QueryError, match="nothing was imported"):
        find_bypasses(world.data)
    imported(world.data, world.trail)
    with pytest.raises(QueryError, match="the log is empty"):
        find_bypasses(world.data)
    assert find_bypasses(world.data, Asked(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))).calls == 1


def test_the_recipe_for_sql_finds_the_same(world: World) -> None:
    """docs/adr/0013."""
    planted = world.event(60, userIdentity=world.user("eve"))
    world.event(61, sourceIPAddress="s3.amazonaws.com")
    assert judged(world).calls == 1
    recipe = next(block for block in read_required("docs/adr/0013-imported-events.md").split("```") if block.startswith("sql"))
    assert [row["request_id"] for row in rows(world.data, recipe.removeprefix("sql"))] == [planted["requestID"]]
