"""The pipeline in front of AWS: its answer goes on as it came, and its record joins AWS's own trail."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from audit.record import Effect, IdentityProof
from proxy.domain import (
    Answer,
    Forwarded,
    Upstream,
)
from proxy.errors import KmsError
from tests.proxy.pipeline.world import (
    CREATE,
    GENERATE,
    KEY,
    World,
    request,
)

BY_AWS = Upstream("kms.eu-west-1.amazonaws.com", 1, 200, "aws-request-1")
FORWARDED = Answer(
    {"KeyId": KEY.arn, "CiphertextBlob": "AAAA"},
    (KEY,),
    (),
    BY_AWS,
    Forwarded(b'{"as": "it came"}', (("cache-control", "no-store"),)),
)


async def test_the_clients_answer_is_aws_own_and_the_record_joins_aws_trail() -> None:
    world = World(FORWARDED, forwards=True)
    response = await world.walk(GENERATE)
    assert (response.status, response.body, response.headers) == (200, b'{"as": "it came"}', (("cache-control", "no-store"),))
    assert response.request_id == world.record.request_id == "aws-request-1"
    assert (world.record.upstream, world.record.effect) == (BY_AWS, None)
    assert world.record.fingerprints_out == (sha256(bytes(3)).hexdigest(),)


async def test_a_change_without_an_answer_says_so_in_its_record_and_keeps_our_request_id() -> None:
    unanswered = Upstream("kms.eu-west-1.amazonaws.com", 1, failures=("reset",))
    world = World(KmsError("KMSInternalException", status=500, upstream=unanswered, effect_unknown=True), forwards=True)
    response = await world.walk(CREATE)
    intent, outcome = world.log.records
    assert response.status == 500
    assert (outcome.request_id, outcome.upstream, outcome.effect) == (response.request_id, unanswered, Effect.UNKNOWN)
    assert (intent.upstream, intent.effect, outcome.intent_id) == (None, None, intent.event_id)


async def test_a_fault_of_ours_behind_an_answer_of_aws_keeps_what_joins_the_trails() -> None:
    answer = Answer({"DeletionDate": object()}, (KEY,), (), BY_AWS, Forwarded(b"{}"))
    world = World(answer, forwards=True)
    response = await world.walk(request("ScheduleKeyDeletion", {"KeyId": KEY.arn}))
    intent, *_, outcome = world.log.records
    assert (response.status, outcome.error_code) == (500, "KMSInternalException")
    assert (outcome.intent_id, outcome.effect) == (intent.event_id, Effect.UNKNOWN)
    assert (outcome.upstream, outcome.request_id, response.request_id) == (BY_AWS, "aws-request-1", "aws-request-1")
    assert [one.arn for one in outcome.resources] == [KEY.arn]


@pytest.mark.parametrize("number", [1e308, -1e308, 10**25, 1 << 63])
async def test_a_number_that_json_cannot_hold_as_one_is_recorded_by_its_digits(number: float) -> None:
    world = World(KmsError("ValidationException", "too large", upstream=BY_AWS), forwards=True)
    response = await world.walk(request("ListKeys", {"Limit": number}))
    assert (response.status, world.record.error_code, world.record.upstream) == (400, "ValidationException", BY_AWS)
    assert world.record.request_parameters == {"limit": str(int(float(number)))}  # as orjson reads it


async def test_a_time_that_no_calendar_has_is_recorded_as_the_number_that_it_is() -> None:
    world = World(Answer({"KeyId": KEY.arn, "DeletionDate": 1e18}, (KEY,), (), BY_AWS, Forwarded(b"{}")), forwards=True)
    assert (await world.walk(request("ScheduleKeyDeletion", {"KeyId": KEY.arn}))).status == 200
    assert (world.log.records[-1].response_elements or {})["deletionDate"] == 1e18


async def test_a_key_that_is_no_text_is_not_recorded() -> None:
    world = World(Answer({}, (), (), BY_AWS, Forwarded(b"{}")), forwards=True)
    await world.walk(request("RotateEverything", {"KeyId": {"secret": "canary"}}))
    await world.walk(request("DescribeKey", {"KeyId": {"secret": "canary"}}))
    assert len(world.log.lines) == 3
    assert b"canary" not in b"".join(world.log.lines)


async def test_an_operation_that_only_aws_knows_is_recorded_by_name_and_key() -> None:
    world = World(Answer({"Plaintext": "AAAA"}, (), (), BY_AWS, Forwarded(b"{}")), forwards=True)
    await world.walk(request("RotateEverything", {"KeyId": "alias/x", "Secret": "canary", "EncryptionContext": {"a": "b"}}))
    assert world.steps == ["commit intent", "durable intent", "effect", "commit outcome", "durable outcome"]
    for record in world.log.records:
        assert (record.event_name, record.request_parameters, record.read_only) == (
            "RotateEverything",
            {"keyId": "alias/x"},
            False,
        )
    assert world.log.records[-1].response_elements is None
    assert b"canary" not in b"".join(world.log.lines)


@pytest.mark.parametrize("name", ["", "lower", "With-Dash", "A" * 129, "Decrypt;x"])
async def test_what_can_be_no_operation_is_not_forwarded(name: str) -> None:
    world = World(FORWARDED, forwards=True)
    response = await world.walk(request(name, {}))
    assert json.loads(response.body) == {"__type": "UnknownOperationException"}
    assert world.steps == ["commit outcome", "durable outcome"]


async def test_constraints_are_for_aws_to_judge_but_not_what_json_means() -> None:
    world = World(FORWARDED, forwards=True)
    await world.walk(request("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_512_OF_TOMORROW"}))
    assert world.record.request_parameters == {"keyId": "alias/demo", "keySpec": "AES_512_OF_TOMORROW"}
    response = await world.walk(request("GenerateDataKey", {"KeyId": ["alias/demo"], "KeySpec": "AES_256"}))
    assert json.loads(response.body)["__type"] == "SerializationException"
    assert len(world.backend.calls) == 1


async def test_an_identity_is_claimed_until_aws_has_accepted_it() -> None:
    world = World(FORWARDED, forwards=True, proof=IdentityProof.CLAIMED)
    await world.walk(GENERATE)
    world.backend.outcome = KmsError("AccessDeniedException", "no", upstream=BY_AWS, forwarded=Forwarded(b"{}"))
    await world.walk(GENERATE)
    world.backend.outcome = KmsError("KMSInternalException", status=500)
    await world.walk(GENERATE)
    proofs = [record.identity_proof for record in world.log.records]
    assert proofs == [IdentityProof.UPSTREAM, IdentityProof.CLAIMED, IdentityProof.CLAIMED]
