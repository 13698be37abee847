"""The walk of a call, with a log and a backend that tell in which order they were asked, and that break when told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import Any

import orjson
import pytest

from audit import canonical
from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.merkle import leaf_hash
from audit.receipts import ClaimedReceipt
from audit.record import AuditRecord, Effect, IdentityProof, Phase
from proxy.dialect import KmsDialect
from proxy.domain import (
    Answer,
    ClientCertificate,
    DeniedBy,
    Forwarded,
    HttpFault,
    KeyUse,
    KmsCall,
    Origin,
    Principal,
    RawRequest,
    RawResponse,
    TlsDetails,
    Upstream,
)
from proxy.errors import KmsError
from proxy.kms.model import ServiceModel
from proxy.pipeline import Pipeline
from proxy.recording import Recorder
from proxy.sigv4 import Verifier, sign

ACCOUNT, REGION = "111122223333", "eu-west-1"
ORIGIN = "keytrail/0123456789abcdef/w0"
ALICE = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/alice", ACCOUNT, "AKIAIOSFODNN7EXAMPLE", "AIDAEXAMPLE", "alice")
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = KeyUse(f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1", ACCOUNT, "ab" * 32)
NOW_US = 1_700_000_000_000_000
PLAINTEXT, BLOB = b"the plaintext data key, 32 bytes", b"ciphertext blob"
DATA_KEY = Answer({"CiphertextBlob": BLOB, "Plaintext": PLAINTEXT, "KeyId": KEY.arn}, (KEY,))


@lru_cache(maxsize=1)
def model() -> ServiceModel:
    return ServiceModel.load()


@dataclass(frozen=True)
class KnownCaller:
    principal: Principal = ALICE
    secret_access_key: str = field(default=SECRET, repr=False)
    session_token: str | None = None
    enabled: bool = True


@dataclass
class FakeLog:
    """`Commits`: every record is encoded, as the real log does it. Commits number `failing` fail; while `held`, none is done."""

    steps: list[str]
    failing: frozenset[int] = frozenset()
    held: asyncio.Event | None = None
    fault: str | None = None
    records: list[AuditRecord] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    async def commit(self, record: AuditRecord) -> Receipt:
        number = len(self.records)
        self.records.append(record)
        self.lines.append(canonical.encode(record, "w0", number))
        self.steps.append(f"commit {record.phase.value}")
        if self.held is not None:
            await self.held.wait()
        if number in self.failing:
            self.fault = "disk on fire"
            raise CommitFailed("w0", "disk on fire")
        self.steps.append(f"durable {record.phase.value}")
        return Receipt("w0", number, leaf_hash(self.lines[-1][:-1]))


@dataclass
class FakeBackend:
    steps: list[str]
    outcome: Answer | Exception = DATA_KEY
    name: str = "local"
    forwards: bool = False
    calls: list[KmsCall] = field(default_factory=list)

    async def call(self, call: KmsCall) -> Answer:
        self.calls.append(call)
        self.steps.append("effect")
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class World:
    def __init__(
        self, outcome: Answer | Exception = DATA_KEY, failing: tuple[int, ...] = (), forwards: bool = False, **options: Any
    ) -> None:
        numbers = count(1)
        self.steps: list[str] = []
        self.log = FakeLog(self.steps, frozenset(failing))
        self.backend = FakeBackend(self.steps, outcome, forwards=forwards)

        def new_id() -> str:
            return f"id-{next(numbers)}"

        self.pipeline = Pipeline(
            verifier=Verifier({ALICE.access_key_id: KnownCaller()}.get),
            dialect=KmsDialect(model(), forwards=forwards),
            backend=self.backend,
            recorder=Recorder(ACCOUNT, "us-east-1", "local", "clear", new_id),
            log=self.log,
            origin=ORIGIN,
            now_us=lambda: NOW_US + 1_500,
            new_id=new_id,
            **options,
        )

    async def walk(self, raw: RawRequest) -> RawResponse:
        async with asyncio.timeout(10):
            return await self.pipeline.walk(raw)

    @property
    def record(self) -> AuditRecord:
        """The one record there is."""
        (record,) = self.log.records
        return record


def request(
    operation: str,
    parameters: Mapping[str, object] | bytes,
    *,
    secret: str = SECRET,
    access_key_id: str = ALICE.access_key_id,
    at_us: int = NOW_US,
    fault: HttpFault | None = None,
    content_type: bytes = b"application/x-amz-json-1.1",
    region: str = REGION,
) -> RawRequest:
    body = parameters if isinstance(parameters, bytes) else json.dumps(parameters).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"host", b"kms.example"),
        (b"content-type", content_type),
        (b"x-amz-target", b"TrentService." + operation.encode()),
        (b"x-amz-date", datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ").encode()),
    ]
    authorization = sign(b"POST", b"/", headers, body, access_key_id=access_key_id, secret_access_key=secret, region=region)
    headers += [(b"authorization", authorization), (b"user-agent", b"tests/1")]
    return RawRequest(b"POST", b"/", tuple(headers), body, Origin("192.0.2.7"), NOW_US, fault)


GENERATE = request("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256", "EncryptionContext": {"Tenant": "acme"}})
CREATE = request("CreateAlias", {"AliasName": "alias/new", "TargetKeyId": "1"})


def require_no_secrets(world: World, *responses: RawResponse) -> None:
    import base64

    for secret in (PLAINTEXT, BLOB, SECRET.encode()):
        for form in (secret, base64.b64encode(secret), secret.hex().encode()):
            assert not any(form in text for text in (*world.log.lines, *(response.body for response in responses)))


# --- commit before release, intent before effect


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


# --- refusals and faults are outcomes


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


# --- what else a record tells


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


# --- in front of AWS


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


async def test_the_address_is_the_one_that_a_trusted_proxy_tells_and_its_own_is_kept() -> None:
    world = World(client_of=lambda raw: "198.51.100.9")
    await world.walk(GENERATE)
    assert (world.record.source_ip, world.record.peer) == ("198.51.100.9", "192.0.2.7")
    world = World(client_of=lambda raw: None)
    await world.walk(GENERATE)
    assert (world.record.source_ip, world.record.peer) == ("192.0.2.7", None)


async def test_what_was_counted() -> None:
    seen: list[tuple[str, str, int]] = []
    world = World(observe=lambda *call: seen.append(call))
    await world.walk(GENERATE)
    world.backend.outcome = KmsError("DisabledException", "it is")
    await world.walk(CREATE)
    assert seen == [("GenerateDataKey", "", 1_500), ("CreateAlias", "DisabledException", 1_500)]


async def test_only_what_is_durable_is_noted() -> None:
    seen: list[tuple[str, int]] = []

    def note(record: AuditRecord, receipt: Receipt) -> None:
        seen.append((record.event_name, receipt.sequence))

    world = World(note=note, failing=(1,))
    await world.walk(GENERATE)
    await world.walk(GENERATE)
    assert seen == [("GenerateDataKey", 0)]


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
