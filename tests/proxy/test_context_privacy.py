"""What is private in a request reaches no record in clear, whatever the operation, the outcome and the request's form are."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from audit import canonical
from audit.instance import Instance
from audit.privacy import Rules, key_id_of
from audit.private_keys import PrivacyKey, SubjectKey
from audit.record import Phase
from audit.subjects import Subjects, load_privacy_key, subjects_path
from proxy.context_privacy import ContextPrivacy
from proxy.domain import Answer, Operation, Origin, RawRequest
from proxy.errors import KmsError, SetupError
from proxy.kms.operations import OPERATIONS
from proxy.privacy_keys import PrivacyKeys, privacy_keys
from proxy.recording import Exchange, Recorder, plausible
from tests.proxy.pipeline.world import ALICE, World, request
from tests.proxy.test_recording import ACCOUNT, KEY, MODEL

CANARY = "canary-7f3a"
SECRET = PrivacyKey(bytes(range(32)))
SUBJECT = SubjectKey.of("0123456789abcdef", bytes(32))
ANNA = SECRET.digest("patient", "anna")
RULES = ["patient=hmac", "note=encrypted:patient", "tenant=clear", "*=hmac"]
CONTEXTS = ("EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext")


def privacy(*words: str) -> ContextPrivacy:
    return ContextPrivacy(Rules.parse(words or RULES), SECRET, {ANNA: SUBJECT}.get, lambda size: bytes(size))


def recorder(hides: ContextPrivacy | None = None) -> Recorder:
    return Recorder(ACCOUNT, "us-east-1", "local", "clear", lambda: "event", privacy=hides or privacy())


def exchange(operation: str, parameters: Mapping[str, object]) -> Exchange:
    raw = RawRequest(b"POST", b"/", (), b"", Origin("192.0.2.1"), 1_700_000_000_000_000)
    row = OPERATIONS.get(operation) or Operation(operation)
    return Exchange(raw, "request", operation=row, parameters=parameters, principal=ALICE, region="us-east-1")


def recorded(operation: str, parameters: Mapping[str, object], outcome: Answer | KmsError | None = None) -> dict[str, Any]:
    record = recorder().outcome(exchange(operation, parameters), outcome or Answer({}, (KEY,)), 1_700_000_000_000_001)
    line = canonical.encode(record, "w0", 0)
    assert canonical.decode(line).private_context == record.private_context
    found: dict[str, Any] = json.loads(line)
    return found


def marks(record: Mapping[str, Any]) -> Mapping[str, str]:
    told: Mapping[str, str] = record["additionalEventData"]["keytrail"].get("privateContext", {})
    return told


def test_each_name_in_its_form() -> None:
    found = recorded("Decrypt", {"EncryptionContext": {"tenant": "acme", "patient": "anna", "Note": "asthma", "room": "7"}})
    context = found["requestParameters"]["encryptionContext"]
    assert context["tenant"] == "acme"
    assert context["patient"] == ANNA
    assert context["room"] == SECRET.digest("room", "7")
    assert SUBJECT.decrypted("Note", context["Note"]) == "asthma"
    assert marks(found) == {"patient": "hmac", "Note": "encrypted", "room": "hmac"}


def test_what_has_no_key_at_hand_is_withheld() -> None:
    for context in ({"note": "asthma"}, {"note": "asthma", "patient": "ben"}):
        found = recorded("Decrypt", {"EncryptionContext": context})
        assert found["requestParameters"]["encryptionContext"]["note"] == "[withheld]"
        assert marks(found)["note"] == "withheld"


def test_each_context_of_re_encrypt_has_its_own_subject() -> None:
    sent = {"SourceEncryptionContext": {"note": "a", "patient": "anna"}, "DestinationEncryptionContext": {"note": "a"}}
    found = recorded("ReEncrypt", sent)
    assert key_id_of(found["requestParameters"]["sourceEncryptionContext"]["note"]) == SUBJECT.id
    assert found["requestParameters"]["destinationEncryptionContext"] == {"note": "[withheld]"}
    assert marks(found) == {"note": "withheld", "patient": "hmac"}


def test_nothing_private_leaves_the_record_as_it_was() -> None:
    sent = {"KeyId": "alias/a", "EncryptionContext": {"tenant": CANARY}}
    hides = privacy("patient=hmac")
    assert hides.hide(sent).parameters is sent
    made = recorder(hides).outcome(exchange("Decrypt", sent), Answer({}, (KEY,)), 0)
    assert made.private_context is None
    assert b"privateContext" not in canonical.encode(made, "w0", 0)


# --- canaries


def filled(operation: str) -> dict[str, Any]:
    """A request of `operation` with every map and policy that the model has, about private values."""
    shape = MODEL["shapes"][MODEL["operations"][operation]["input"]["shape"]]
    sent: dict[str, Any] = {}
    context = {"patient": CANARY, "note": CANARY + "-note", "room": f'"{CANARY}"\\'}
    for name in shape["members"]:
        if name in CONTEXTS:
            sent[name] = context
        elif name == "Constraints":
            sent[name] = {"EncryptionContextEquals": context, "EncryptionContextSubset": context, "SourceArn": "arn:aws:s3:::b"}
        elif name == "Policy":
            condition = {"StringLike": {"kms:EncryptionContext:patient": [CANARY, "*"], "kms:encryptioncontext:note": CANARY}}
            sent[name] = json.dumps({"Statement": [{"Effect": "Deny", "Condition": condition}]})
        elif name == "KeyId":
            sent[name] = "alias/a"
    return sent


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_private_value_of_any_operation_is_in_a_record(operation: str) -> None:
    sent = filled(operation)
    quoting = f'1 validation error detected: {CANARY} and \\"{CANARY}\\"\\\\ and {CANARY}-note are not allowed'
    aws = "Value '{patient=canary-7f…}' at 'encryptionContext' failed to satisfy constraint: Map value must …"
    outcomes: list[Answer | KmsError] = [
        Answer({}, (KEY,)),
        KmsError("ValidationException", quoting, keys=(KEY,)),
        KmsError("ValidationException", aws),
    ]
    lines = [canonical.encode(recorder().intent(exchange(operation, sent)), "w0", 0)]
    lines += [canonical.encode(recorder().outcome(exchange(operation, sent), one, 0), "w0", 0) for one in outcomes]
    has_any = any(name in sent for name in (*CONTEXTS, "Constraints", "Policy"))
    for line in lines:
        if has_any:
            assert b"canary" not in line
            assert marks(json.loads(line)).keys() >= {"patient"}
        else:
            assert not marks(json.loads(line))


MALFORMED: list[Any] = [
    CANARY,
    [CANARY],
    {"patient": [CANARY]},
    {"patient": {"deep": CANARY}},
    {"patient": None, "room": CANARY},
    [{"patient": CANARY}],
]


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_context_that_is_none_is_not_recorded_in_clear_either(malformed: Any, validated: bool) -> None:
    for operation, sent in (
        ("Encrypt", {"EncryptionContext": malformed}),
        ("CreateGrant", {"Constraints": {"EncryptionContextSubset": malformed}}),
        ("CreateGrant", {"Constraints": malformed}),
        ("PutKeyPolicy", {"Policy": malformed}),
    ):
        parameters = sent if validated else plausible(sent)
        error = KmsError("SerializationException", f"{CANARY} can not be converted")
        found = recorded(operation, parameters, error)
        assert CANARY not in json.dumps(found["requestParameters"])
        if parameters:
            assert CANARY not in found["errorMessage"] or operation == "PutKeyPolicy"


def test_a_context_of_very_many_names_is_left_out_whole() -> None:
    sent = {"EncryptionContext": {f"name-{number}": CANARY for number in range(20_000)}, "KeyId": "alias/a"}
    found = recorded("Encrypt", sent, KmsError("ValidationException", f"not {CANARY}"))
    assert found["requestParameters"] == {"keyId": "alias/a", "encryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    assert marks(found) == {"*": "withheld"}
    assert CANARY not in json.dumps(found)


# --- the keys, and the walk of a call


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "data").mkdir()
    return Instance.create(tmp_path / "data", ACCOUNT, "us-east-1", "2026-01-01T00:00:00Z")


@pytest.fixture
def keys(instance: Instance) -> Iterator[PrivacyKeys]:
    made = privacy_keys(tuple(RULES), instance, os.urandom)
    assert made is not None
    yield made
    made.close()


def private_world(keys: PrivacyKeys, outcome: Any = None) -> World:
    world = World(outcome) if outcome is not None else World()
    world.pipeline._recorder = Recorder(ACCOUNT, "us-east-1", "local", "clear", os.urandom(8).hex, privacy=keys.privacy)
    world.pipeline._confide = keys.confide
    return world


def test_nothing_is_made_where_nothing_is_private(instance: Instance) -> None:
    assert privacy_keys(("*=clear",), instance, os.urandom) is None
    assert not subjects_path(instance).parent.exists()


async def test_a_subject_has_a_durable_key_before_the_first_record_and_kms_sees_the_clear_value(
    keys: PrivacyKeys, instance: Instance
) -> None:
    world = private_world(keys)
    sent = {"KeyId": "alias/a", "KeySpec": "AES_256", "EncryptionContext": {"patient": "anna", "note": "asthma"}}
    assert (await world.pipeline.walk(request("GenerateDataKey", sent))).status == 200
    [call] = world.backend.calls
    assert call.parameters["EncryptionContext"] == sent["EncryptionContext"]
    [line] = world.log.lines
    assert b"asthma" not in line
    assert b"anna" not in line
    stored = json.loads(line)["requestParameters"]["encryptionContext"]["note"]
    other = Subjects(subjects_path(instance), load_privacy_key(instance), os.urandom)  # as after a crash
    key = other.by_id(key_id_of(stored) or "")
    assert key is not None
    assert key.decrypted("note", stored) == "asthma"
    other.close()


async def test_two_workers_make_the_same_subjects_key_at_once(keys: PrivacyKeys, instance: Instance) -> None:
    other = privacy_keys(tuple(RULES), instance, os.urandom)
    assert other is not None
    worlds = [private_world(keys), private_world(other)]
    sent = {"KeyId": "alias/a", "KeySpec": "AES_256", "EncryptionContext": {"patient": "anna", "note": "asthma"}}
    await asyncio.gather(*(world.pipeline.walk(request("GenerateDataKey", sent)) for world in worlds for _ in range(4)))
    lines = [json.loads(line) for world in worlds for line in world.log.lines]
    assert len({key_id_of(line["requestParameters"]["encryptionContext"]["note"]) for line in lines}) == 1
    assert len(lines) == 8
    other.close()


async def test_an_intent_is_as_private_as_its_outcome(keys: PrivacyKeys) -> None:
    world = private_world(keys, Answer({"GrantId": "a" * 64}, (KEY,)))
    constraints = {"EncryptionContextSubset": {"patient": "anna", "note": "asthma"}}
    sent = {"KeyId": "alias/a", "GranteePrincipal": ALICE.arn, "Operations": ["Decrypt"], "Constraints": constraints}
    assert (await world.pipeline.walk(request("CreateGrant", sent))).status == 200
    assert [record.phase for record in world.log.records] == [Phase.INTENT, Phase.OUTCOME]
    for line in world.log.lines:
        assert b"asthma" not in line
        told = json.loads(line)["requestParameters"]["constraints"]["encryptionContextSubset"]
        assert key_id_of(told["note"]) is not None


async def test_where_no_key_can_be_made_the_call_is_refused_and_its_record_withholds(
    keys: PrivacyKeys, instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    world = private_world(keys)
    keys._subjects._writer.execute("PRAGMA query_only = ON")
    sent = {"KeyId": "alias/a", "KeySpec": "AES_256", "EncryptionContext": {"patient": "anna", "note": "asthma"}}
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert (await world.pipeline.walk(request("GenerateDataKey", sent))).status == 500
    assert world.backend.calls == []
    assert len(caplog.records) == 1, "it is told once"
    line = world.log.lines[-1]
    assert len(world.log.lines) == 3
    assert json.loads(line)["requestParameters"]["encryptionContext"]["note"] == "[withheld]"
    assert "asthma" not in caplog.text
    assert "anna" not in caplog.text
    keys._subjects._writer.execute("PRAGMA query_only = OFF")
    assert (await world.pipeline.walk(request("GenerateDataKey", sent))).status == 200


async def test_a_caller_who_is_not_authenticated_makes_no_key(keys: PrivacyKeys, instance: Instance) -> None:
    world = private_world(keys)
    sent = {"KeyId": "alias/a", "KeySpec": "AES_256", "EncryptionContext": {"patient": "anna", "note": "asthma"}}
    raw = request("GenerateDataKey", sent)
    raw.headers = tuple((name, value) for name, value in raw.headers if name != b"authorization")
    assert (await world.pipeline.walk(raw)).status == 400
    [line] = world.log.lines
    assert b"asthma" not in line
    assert json.loads(line)["requestParameters"]["encryptionContext"]["note"] == "[withheld]"
    assert keys._subjects.find(SECRET.digest("patient", "anna")) is None


async def test_after_a_shred_the_next_call_makes_a_new_key(keys: PrivacyKeys, instance: Instance) -> None:
    world = private_world(keys)
    sent = {"KeyId": "alias/a", "KeySpec": "AES_256", "EncryptionContext": {"patient": "anna", "note": "asthma"}}
    operator = Subjects(subjects_path(instance), load_privacy_key(instance), os.urandom)
    for _ in range(2):
        await world.pipeline.walk(request("GenerateDataKey", sent))
        assert operator.shred(load_privacy_key(instance).digest("patient", "anna"))
    keys.forget_shredded()
    ids = [key_id_of(json.loads(line)["requestParameters"]["encryptionContext"]["note"]) for line in world.log.lines]
    assert None not in ids
    assert len(set(ids)) == 2
    operator.close()


def test_a_privacy_key_that_vanished_keeps_it_from_starting(keys: PrivacyKeys, instance: Instance) -> None:
    (instance.data / "privacy.key").unlink()
    with pytest.raises(SetupError, match=r"context_privacy: .* has vanished"):
        privacy_keys(tuple(RULES), instance, os.urandom)
