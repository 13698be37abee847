"""Refusals and faults are outcomes: each is recorded, with what is known of the call, and told in AWS's words."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256

import pytest

from audit.record import IdentityProof, Phase
from proxy.domain import (
    DeniedBy,
    HttpFault,
    KmsCall,
    Origin,
    RawRequest,
)
from proxy.errors import KmsError
from tests.proxy.pipeline.world import (
    ALICE,
    BLOB,
    CREATE,
    GENERATE,
    KEY,
    NOW_US,
    PLAINTEXT,
    REGION,
    World,
    request,
    require_no_secrets,
)


async def test_a_refusal_is_recorded_with_the_key_it_is_about() -> None:
    world = World(KmsError("DisabledException", "1 is disabled.", keys=(KEY,)))
    response = await world.walk(GENERATE)
    assert (response.status, json.loads(response.body)) == (400, {"__type": "DisabledException", "message": "1 is disabled."})
    record = world.record
    assert (record.error_code, record.error_message, record.wire_error) == (
        "DisabledException",
        "1 is disabled.",
        "DisabledException",
    )
    assert [resource.arn for resource in record.resources] == [KEY.arn]
    assert (record.response_elements, record.key_material_ids, record.fingerprints_out) == (None, None, ())


async def test_access_denied_is_named_as_cloudtrail_names_it() -> None:
    world = World(KmsError("AccessDeniedException", "no", status=400))
    await world.walk(GENERATE)
    assert (world.record.error_code, world.record.wire_error) == ("AccessDenied", "AccessDeniedException")


@pytest.mark.parametrize("raw", [GENERATE, CREATE], ids=["read", "change"])
async def test_an_internal_fault_is_recorded_and_told_without_a_word_of_it(
    raw: RawRequest, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(ZeroDivisionError(PLAINTEXT.decode()))
    response = await world.walk(raw)
    assert (response.status, json.loads(response.body)["__type"]) == (500, "KMSInternalException")
    record = world.log.records[-1]
    assert (record.phase, record.error_code) == (Phase.OUTCOME, "KMSInternalException")
    assert record.intent_id == (world.log.records[0].event_id if raw is CREATE else None)
    require_no_secrets(world, response)
    assert "internal fault" in caplog.text


async def test_an_internal_fault_that_cannot_be_recorded_is_still_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    world = World(ZeroDivisionError(), failing=(0,))
    assert (await world.walk(GENERATE)).status == 500
    assert "disk on fire" in caplog.text


async def test_a_failed_authentication_is_recorded_with_what_was_claimed_and_asked() -> None:
    world = World()
    raw = request("Decrypt", {"CiphertextBlob": "Y2lwaGVydGV4dCBibG9i", "KeyId": "alias/demo"}, secret="guess")
    response = await world.walk(raw)
    assert (response.status, json.loads(response.body)["__type"]) == (400, "InvalidSignatureException")
    record = world.record
    assert (record.event_name, record.aws_region) == ("Decrypt", REGION)
    assert (record.identity.type, record.identity.access_key_id) == ("Unknown", ALICE.access_key_id)
    assert record.identity.arn is None
    assert record.identity_proof is IdentityProof.NONE
    assert record.request_parameters == {"keyId": "alias/demo", "encryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    assert record.fingerprints_in == (sha256(BLOB).hexdigest(),)
    assert world.backend.calls == []


async def test_an_unknown_caller_is_recorded() -> None:
    world = World()
    await world.walk(request("ListKeys", {}, access_key_id="AKIAXXXXXXXXXXXXXXXX"))
    assert world.record.identity.access_key_id == "AKIAXXXXXXXXXXXXXXXX"
    assert world.record.error_code == "UnrecognizedClientException"


async def test_a_request_without_a_signature_is_recorded() -> None:
    world = World()
    response = await world.walk(RawRequest(b"GET", b"/", (), b"", Origin("192.0.2.7"), NOW_US))
    assert response.status == 400
    record = world.record
    assert (record.event_name, record.error_code) == ("UnknownOperation", "MissingAuthenticationTokenException")
    assert record.aws_region == "us-east-1"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "SerializationException"),
        (b"[]", "SerializationException"),
        (b"\xff", "SerializationException"),
        (b'{"KeyId": "1", "KeyId": "2"}', "SerializationException"),
        (b'{"KeyId": 1}', "SerializationException"),
        (b'{"KeyId": "' + b"x" * 3_000 + b'"}', "ValidationException"),
        (b'{"KeyId": "\\ud800"}', "SerializationException"),
        (b'{"KeySpec": "AES_256"}', "ValidationException"),
        (b'{"KeyId": "1", "NumberOfBytes": 1e400}', "SerializationException"),
        (b'{"KeyId": "1", "NumberOfBytes": 99999999999999999999999999}', "ValidationException"),
    ],
)
async def test_a_malformed_request_is_recorded(body: bytes, code: str) -> None:
    world = World()
    response = await world.walk(request("GenerateDataKey", body))
    assert response.status == 400
    assert json.loads(response.body)["__type"] == code
    assert (world.record.event_name, world.record.error_code) == ("GenerateDataKey", code)
    assert world.record.identity.arn == ALICE.arn
    assert world.backend.calls == []


@pytest.mark.parametrize("name", ["Frobnicate", "", "x\n\0", "ListKeys2" * 100])
async def test_an_unknown_operation_is_recorded(name: str) -> None:
    world = World()
    response = await world.walk(request(name.replace("\n", ""), {}))
    assert (response.status, json.loads(response.body)["__type"]) == (400, "UnknownOperationException")
    assert world.record.event_name == (name if name == "Frobnicate" else "UnknownOperation")
    assert world.record.error_code == "UnknownOperationException"


async def test_a_wrong_content_type_is_recorded() -> None:
    world = World()
    response = await world.walk(request("ListKeys", {}, content_type=b"application/json"))
    assert (response.status, world.record.error_code) == (404, "UnknownOperationException")


async def test_a_broken_http_message_is_recorded() -> None:
    world = World()
    response = await world.walk(
        RawRequest(b"", b"", (), b"", Origin("192.0.2.7"), NOW_US, HttpFault(408, "RequestTimeoutException", "too slow"))
    )
    assert (response.status, json.loads(response.body)["__type"]) == (408, "RequestTimeoutException")
    assert (world.record.event_name, world.record.error_code) == ("UnknownOperation", "RequestTimeoutException")


# --- who may go on


async def turns() -> None:
    """Let everyone else come as far as they can; the walk takes some six turns."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_guardrail_refuses_before_the_intent_and_is_named() -> None:
    def authorise(call: KmsCall, source_ip: str) -> None:
        assert (call.principal, source_ip) == (ALICE, "192.0.2.7")
        if call.operation.mutates:
            raise KmsError("AccessDeniedException", "no", denied_by=DeniedBy("frozen.json", "NoChanges"))

    world = World(authorise=authorise)
    assert (await world.walk(GENERATE)).status == 200
    response = await world.walk(CREATE)
    assert (response.status, json.loads(response.body)["__type"]) == (400, "AccessDeniedException")
    record = world.log.records[-1]
    assert (record.error_code, record.denied_by) == ("AccessDenied", DeniedBy("frozen.json", "NoChanges"))
    assert len(world.backend.calls) == 1


async def test_a_caller_over_its_rate_is_throttled_and_recorded() -> None:
    asked: list[tuple[str, int]] = []

    def may_call(caller: str, now_us: int) -> bool:
        asked.append((caller, now_us))
        return False

    world = World(may_call=may_call)
    response = await world.walk(GENERATE)
    assert (response.status, json.loads(response.body)["__type"]) == (400, "ThrottlingException")
    assert asked == [(ALICE.arn, NOW_US)]
    assert (world.record.error_code, world.backend.calls) == ("ThrottlingException", [])


async def test_more_calls_than_may_be_under_way_are_throttled() -> None:
    world = World(calls_at_once=2)
    world.log.held = asyncio.Event()
    held = [
        asyncio.create_task(world.walk(request("GenerateDataKey", {"KeyId": f"key-{n}", "KeySpec": "AES_256"}))) for n in (1, 2)
    ]
    await turns()
    assert len(world.backend.calls) == 2
    third = asyncio.create_task(world.walk(GENERATE))
    await turns()
    assert len(world.log.records) == 3
    world.log.held.set()
    assert [response.status for response in await asyncio.gather(*held)] == [200, 200]
    assert json.loads((await third).body)["__type"] == "ThrottlingException"
    assert (await world.walk(GENERATE)).status == 200
