"""Commit before release, intent before effect: whatever breaks, nothing is released or done without its record."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from audit.commit import Receipt
from audit.merkle import leaf_hash
from audit.receipts import ClaimedReceipt
from audit.record import AuditRecord, Phase
from proxy.domain import (
    Answer,
    HttpFault,
    RawResponse,
)
from proxy.errors import KmsError
from tests.proxy.pipeline.world import (
    CREATE,
    GENERATE,
    KEY,
    ORIGIN,
    World,
    request,
    require_no_secrets,
)


async def test_the_answer_waits_for_its_record() -> None:
    world = World()
    world.log.held = asyncio.Event()
    walking = asyncio.create_task(world.walk(GENERATE))
    for _ in range(100):
        await asyncio.sleep(0)
    assert world.steps == ["effect", "commit outcome"]
    assert not walking.done(), "released before its record is durable"
    world.log.held.set()
    response = await walking
    assert world.steps[-1] == "durable outcome"
    assert response.status == 200
    assert json.loads(response.body)["KeyId"] == KEY.arn
    require_no_secrets(world)


async def test_a_change_waits_for_its_intent() -> None:
    world = World(Answer({}, (KEY,)))
    world.log.held = asyncio.Event()
    walking = asyncio.create_task(world.walk(CREATE))
    for _ in range(100):
        await asyncio.sleep(0)
    assert world.steps == ["commit intent"]
    world.log.held.set()
    assert (await walking).status == 200
    assert world.steps == ["commit intent", "durable intent", "effect", "commit outcome", "durable outcome"]
    intent, outcome = world.log.records
    assert (intent.phase, outcome.phase) == (Phase.INTENT, Phase.OUTCOME)
    assert (intent.intent_id, outcome.intent_id) == (None, intent.event_id)
    assert (intent.latency_us, intent.response_elements, intent.resources) == (None, None, ())
    assert intent.request_parameters == outcome.request_parameters == {"aliasName": "alias/new", "targetKeyId": "1"}
    assert intent.request_id == outcome.request_id != intent.event_id != outcome.event_id


async def test_a_call_that_changes_nothing_has_no_intent() -> None:
    world = World()
    await world.walk(GENERATE)
    assert world.steps == ["effect", "commit outcome", "durable outcome"]


async def test_without_its_record_nothing_is_released() -> None:
    world = World(failing=(0,))
    response = await world.walk(GENERATE)
    assert response.status == 500
    assert json.loads(response.body)["__type"] == "KMSInternalException"
    require_no_secrets(world, response)


async def test_a_refusal_that_cannot_be_recorded_is_not_told() -> None:
    world = World(KmsError("DisabledException", "told to nobody"), failing=(0,))
    response = await world.walk(GENERATE)
    assert response.status == 500
    assert b"told to nobody" not in response.body


async def test_without_an_intent_there_is_no_effect() -> None:
    world = World(failing=(0,))
    response = await world.walk(CREATE)
    assert (response.status, world.backend.calls) == (500, [])
    assert world.steps == ["commit intent"]


async def test_an_effect_whose_outcome_cannot_be_recorded_is_not_reported() -> None:
    world = World(Answer({"KeyMetadata": {"KeyId": "the new key"}}, (KEY,)), failing=(1,))
    response = await world.walk(request("CreateKey", {}))
    assert response.status == 500
    assert b"the new key" not in response.body
    assert [record.phase for record in world.log.records] == [Phase.INTENT, Phase.OUTCOME]


async def test_a_poisoned_log_stops_every_call_before_the_backend() -> None:
    world = World()
    world.log.fault = "disk on fire"
    for raw in (GENERATE, CREATE):
        response = await world.walk(raw)
        assert (response.status, json.loads(response.body)["__type"]) == (503, "ServiceUnavailableException")
        assert b"disk on fire" not in response.body
    assert world.steps == []


async def test_calls_go_on_when_the_log_is_healthy_again() -> None:
    world = World(failing=(0,))
    assert (await world.walk(GENERATE)).status == 500
    assert (await world.walk(GENERATE)).status == 503
    world.log.fault = None
    assert (await world.walk(GENERATE)).status == 200


async def test_only_what_is_durable_is_noted() -> None:
    seen: list[tuple[str, int]] = []

    def note(record: AuditRecord, receipt: Receipt) -> None:
        seen.append((record.event_name, receipt.sequence))

    world = World(note=note, failing=(1,))
    await world.walk(GENERATE)
    await world.walk(GENERATE)
    assert seen == [("GenerateDataKey", 0)]


# --- receipts


def require_receipt(world: World, response: RawResponse, number: int) -> None:
    """The receipt is of record `number`, byte by byte as it was committed."""
    leaf = leaf_hash(world.log.lines[number].removesuffix(b"\n"))
    assert ClaimedReceipt.parse(response.receipt) == ClaimedReceipt(ORIGIN, number, leaf)


async def test_an_answer_has_the_receipt_of_its_outcome() -> None:
    world = World()
    require_receipt(world, await world.walk(GENERATE), 0)
    require_receipt(world, await world.walk(CREATE), 2)  # behind its intent


async def test_refusals_and_faults_have_receipts_too() -> None:
    for world in (World(KmsError("DisabledException", "no")), World(RuntimeError("a fault of ours"))):
        response = await world.walk(GENERATE)
        assert response.status >= 400
        require_receipt(world, response, 0)
    world = World()
    stranger = await world.walk(request("GenerateDataKey", {}, access_key_id="AKIAIOSFODNN7UNKNOWN"))
    broken = await world.walk(replace(GENERATE, fault=HttpFault(400, "SerializationException", "broken")))
    for number, response in enumerate((stranger, broken)):
        assert response.status >= 400
        require_receipt(world, response, number)


async def test_what_is_not_recorded_has_no_receipt() -> None:
    assert (await World(failing=(0,)).walk(GENERATE)).receipt == ""
    world = World()
    world.log.fault = "disk on fire"
    assert (await world.walk(GENERATE)).receipt == ""
