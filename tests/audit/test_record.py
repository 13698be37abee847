"""The record's allow-list: what has no place in a record, and cannot get one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from audit.errors import RecordRejected
from audit.record import PARAMETER_NAMES, AuditRecord, JsonValue, UserIdentity


def record(**parts: Mapping[str, JsonValue]) -> AuditRecord:
    return AuditRecord(
        time_us=0,
        event_id="e",
        event_name="Decrypt",
        identity=UserIdentity("IAMUser"),
        aws_region="us-east-1",
        source_ip="192.0.2.1",
        request_parameters=parts.get("request"),
        response_elements=parts.get("response"),
    )


@pytest.mark.parametrize("part", ["request", "response"])
@pytest.mark.parametrize("name", ["plaintext", "ciphertextBlob", "message", "mac", "KeyId", "signature", "", "keyid"])
def test_a_name_outside_the_allow_list_is_rejected(part: str, name: str) -> None:
    with pytest.raises(RecordRejected, match="allow-list") as caught:
        record(**{part: {"keyId": "1", name: "the secret value"}})
    assert "the secret value" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("part", ["request", "response"])
def test_every_name_of_the_allow_list_is_taken(part: str) -> None:
    made = record(**{part: dict.fromkeys(PARAMETER_NAMES, "x")})
    assert set((made.request_parameters if part == "request" else made.response_elements) or ()) == PARAMETER_NAMES


@pytest.mark.parametrize("name", ["publicKey", "attestationDocumentNonce", "attestationDocumentEnclavePCR123", "plaintext"])
def test_of_a_recipient_only_its_measurements_are_taken(name: str) -> None:
    with pytest.raises(RecordRejected, match="allow-list"):
        replace(record(), recipient={"attestationDocumentModuleId": "i", name: "x"})


def test_the_allow_list_has_no_name_of_a_secret() -> None:
    for word in ("plaintext", "ciphertext", "blob", "secret", "password", "token", "signature", "message", "mac", "credential"):
        found = {name for name in PARAMETER_NAMES if word in name.lower()}
        assert found <= {"grantTokens", "messageType", "macAlgorithm"}


def test_a_record_has_no_room_for_anything_else() -> None:
    with pytest.raises(TypeError):
        AuditRecord(plaintext="x")  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        record().plaintext = "x"  # type: ignore[attr-defined]
