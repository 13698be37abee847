"""What the record of a call tells: of the call, its caller, its connection, and its secrets' fingerprints."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from hashlib import sha256

import orjson
import pytest

from audit import canonical
from audit.record import IdentityProof
from proxy.domain import (
    Answer,
    ClientCertificate,
    Origin,
    TlsDetails,
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


async def test_what_the_record_of_a_good_call_says() -> None:
    world = World()
    response = await world.walk(GENERATE)
    record = world.record
    assert (record.request_id, record.source_ip, record.user_agent) == (response.request_id, "192.0.2.7", "tests/1")
    assert (record.time_us, record.latency_us, record.aws_region) == (NOW_US, 1_500, REGION)
    assert (record.identity.arn, record.identity_proof) == (ALICE.arn, IdentityProof.SIGNATURE)
    assert record.request_parameters == {"keyId": "alias/demo", "keySpec": "AES_256", "encryptionContext": {"Tenant": "acme"}}
    assert (record.response_elements, record.read_only, record.intent_id) == (None, True, None)
    assert record.key_material_ids == {"keyMaterialId": KEY.material_id}
    assert (record.fingerprints_in, record.fingerprints_out) == ((), (sha256(BLOB).hexdigest(),))
    assert not record.repeated_signature


async def test_a_ciphertext_has_the_same_fingerprint_on_its_way_out_and_in() -> None:
    world = World()
    answer = json.loads((await world.walk(GENERATE)).body)
    world.backend.outcome = Answer({"Plaintext": PLAINTEXT, "KeyId": KEY.arn}, (KEY,))
    await world.walk(request("Decrypt", {"CiphertextBlob": answer["CiphertextBlob"]}))
    made, opened = world.log.records
    assert opened.fingerprints_in == made.fingerprints_out
    require_no_secrets(world)


async def test_a_repeated_signature_is_flagged_and_answered() -> None:
    world = World()
    assert [(await world.walk(GENERATE)).status for _ in range(3)] == [200] * 3
    assert [record.repeated_signature for record in world.log.records] == [False, True, True]
    await world.walk(request("GenerateDataKey", {"KeyId": "other", "KeySpec": "AES_256"}))
    assert not world.log.records[-1].repeated_signature


async def test_a_signature_that_does_not_hold_is_not_remembered() -> None:
    world = World()
    forged = request("ListKeys", {}, secret="guess")
    await world.walk(forged)
    await world.walk(forged)
    assert [record.repeated_signature for record in world.log.records] == [False, False]


async def test_many_calls_at_a_time_do_not_mix() -> None:
    world = World()
    world.log.held = asyncio.Event()
    walks = [
        asyncio.create_task(world.walk(request("GenerateDataKey", {"KeyId": f"key-{n}", "KeySpec": "AES_256"})))
        for n in range(50)
    ]
    await asyncio.sleep(0)
    world.log.held.set()
    responses = await asyncio.gather(*walks)
    by_id = {record.request_id: record for record in world.log.records}
    for number, response in enumerate(responses):
        assert by_id[response.request_id].request_parameters == {"keyId": f"key-{number}", "keySpec": "AES_256"}


async def test_the_address_is_the_one_that_a_trusted_proxy_tells_and_its_own_is_kept() -> None:
    world = World(client_of=lambda raw: "198.51.100.9")
    await world.walk(GENERATE)
    assert (world.record.source_ip, world.record.peer) == ("198.51.100.9", "192.0.2.7")
    world = World(client_of=lambda raw: None)
    await world.walk(GENERATE)
    assert (world.record.source_ip, world.record.peer) == ("192.0.2.7", None)


async def test_the_connection_is_on_record() -> None:
    world = World()
    tls = TlsDetails("TLSv1.3", "TLS_AES_128_GCM_SHA256", "kms.eu-west-1.amazonaws.com")
    certificate = ClientCertificate("CN=app", "CN=ca", "00" * 32, ("DNS:app",))
    raw = replace(GENERATE, origin=Origin("10.0.0.1", "forward-proxy", "192.0.2.9", tls, certificate))
    await world.walk(raw)
    record = world.record
    assert (record.topology, record.source_ip, record.peer) == ("forward-proxy", "192.0.2.9", "10.0.0.1")
    assert (record.tls, record.client_certificate) == (tls, certificate)
    assert orjson.loads(world.log.lines[0])["tlsDetails"]["clientProvidedHostHeader"] == "kms.eu-west-1.amazonaws.com"


async def test_what_was_counted() -> None:
    seen: list[tuple[str, str, int]] = []
    world = World(observe=lambda *call: seen.append(call))
    await world.walk(GENERATE)
    world.backend.outcome = KmsError("DisabledException", "it is")
    await world.walk(CREATE)
    assert seen == [("GenerateDataKey", "", 1_500), ("CreateAlias", "DisabledException", 1_500)]


LARGE = 250_000  # the default of max_body_bytes leaves no more


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("GenerateDataKey", {"KeyId": "a" * LARGE}),
        ("GenerateDataKey", {"KeyId": "a", "EncryptionContext": {"a": "\x01" * (LARGE // 6)}}),
        ("GenerateDataKey", {"KeyId": "a", "EncryptionContext": {f"{number:06d}": "x" for number in range(LARGE // 14)}}),
        ("GenerateDataKey", {"KeyId": "a", "GrantTokens": ["t" * 100] * (LARGE // 104)}),
        ("PutKeyPolicy", {"KeyId": "a", "Policy": '"' * (LARGE // 2)}),
        ("CreateKey", {"Description": "\ud800" * (LARGE // 6), "Policy": "é" * (LARGE // 6)}),
        ("CreateAlias", {"AliasName": "alias/a", "TargetKeyId": "k" * LARGE}),
        ("TagResource", {"KeyId": "a", "Tags": [{"TagKey": "k", "TagValue": "v" * 100}] * (LARGE // 140)}),
        ("NewOperation" + "X" * 20_000, {"KeyId": "a" * LARGE}),
        ("NewOperation", {"KeyId": "a" * LARGE, "Anything": ["b"] * 100}),
    ],
)
@pytest.mark.parametrize("forwards", [False, True])
async def test_no_call_makes_a_line_that_an_entry_bundle_cannot_hold(
    operation: str, parameters: dict[str, object], forwards: bool
) -> None:
    """The answer is as large as the request, and so is what it says of itself in the headers."""
    answer = Answer({"KeyMetadata": {"KeyId": "a" * LARGE, "Description": "é" * LARGE}, "KeyId": "b" * LARGE}, (KEY,))
    world = World(answer, forwards=forwards)
    raw = request(operation, parameters)
    raw = replace(raw, headers=tuple((name, b"\xff" * 30_000 if name == b"user-agent" else value) for name, value in raw.headers))
    response = await world.walk(raw)
    assert response.receipt and world.log.lines
    assert max(map(len, world.log.lines)) <= canonical.MAX_LINE_BYTES + 1
