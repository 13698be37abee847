"""Guardrails from end to end: the request that is made of a call, the refusal in AWS's words, and the examples of config/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from proxy.domain import KmsCall, Origin, RawRequest, TlsDetails
from proxy.kms.operations import OPERATIONS
from proxy.policy.access import AuthorizationRequest
from proxy.policy.evaluate import load, refusal
from proxy.policy.folder import read_folder
from tests.proxy.policy.asked import ADMIN, ALICE, ID, KEY, NOON_US, STRANGER, guardrails, request, statement


def test_a_request_is_made_of_a_call() -> None:
    origin = Origin("192.0.2.1", tls=TlsDetails("TLSv1.3", "x"))
    raw = RawRequest(b"POST", b"/", ((b"host", b"x"), (b"user-agent", b"aws-cli/2")), b"{}", origin, NOON_US)
    call = KmsCall(OPERATIONS["Decrypt"], "eu-central-1", ALICE, {"KeyId": ID}, NOON_US, raw)
    made = AuthorizationRequest.of(call, "111122223333", "10.1.2.3")
    assert (made.operation, made.secure, made.headers, made.source_ip) == ("Decrypt", True, raw.headers, "10.1.2.3")
    assert "aaaa" not in repr(made)  # parameters may hold plaintext
    bare = AuthorizationRequest.of(KmsCall(OPERATIONS["ListKeys"], "x", ALICE, {}, 0), "111122223333", "10.1.2.3")
    assert (bare.secure, bare.headers) == (None, ())


@pytest.mark.parametrize(
    ("one", "parameters", "words"),
    [
        (
            statement(Sid="No"),
            {"KeyId": ID},
            f"kms:Decrypt on resource: {KEY} with an explicit deny in the guardrail p.json, statement No",
        ),
        (statement("Allow", "kms:Sign"), {"KeyId": ID}, "because no guardrail allows the kms:Decrypt action"),
        (statement(resource=KEY), {}, "key/[*] with an explicit deny .*, statement 1 .the request does not tell which key"),
    ],
)
def test_a_refusal_is_in_aws_words(one: dict[str, Any], parameters: dict[str, Any], words: str) -> None:
    asked = request("Decrypt", **parameters)
    decision = guardrails(one).decide(asked)
    error = refusal(asked, decision)
    assert error.code == "AccessDeniedException" and error.denied_by == decision.denied_by
    assert error.message is not None and error.message.startswith(f"User: {ALICE.arn} is not authorized to perform: ")
    assert re.search(words, error.message)
    assert "\0" not in error.message


# --- the examples do what they say


EXAMPLES = load(read_folder(Path(__file__).parents[3] / "config" / "policies"))


ACME = {"tenant": "acme"}


@pytest.mark.parametrize(
    ("asked", "by"),
    [
        (request("Decrypt", EncryptionContext=ACME), None),
        (request("GenerateDataKey", KeyId="alias/x", EncryptionContext=ACME), None),
        (request("Decrypt"), "TenantInEncryptionContext"),
        (request("Decrypt", EncryptionContext={"tenant": ""}), "TenantInEncryptionContext"),
        (request("Decrypt", EncryptionContext={"TENANT": "acme"}), "ExactlyThisSpelling"),
        (request("ReEncrypt", SourceEncryptionContext=ACME, DestinationKeyId=ID), "TenantInEncryptionContext"),
        (request("Sign", KeyId=ID), None),
        (request("ScheduleKeyDeletion", KeyId=ID), "KeyAdministratorsOnly"),
        (request("ScheduleKeyDeletion", ADMIN, KeyId=ID), None),
        (request("ScheduleKeyDeletion", ADMIN, KeyId=ID, PendingWindowInDays=7), "TwoWeeksToChangeYourMind"),
        (request("ScheduleKeyDeletion", STRANGER, KeyId=ID), "KeyAdministratorsOnly"),
        (request("DeleteAlias", AliasName="alias/x"), "KeyAdministratorsOnly"),
        (request("DeleteCustomKeyStore"), "KeyAdministratorsOnly"),
        (request("CreateKey"), None),
        (request("CreateKey", ADMIN, Policy="{}", BypassPolicyLockoutSafetyCheck=True), "KeyPoliciesThatCanBeChangedAgain"),
        (request("ReplicateKey", ADMIN, KeyId=ID, ReplicaRegion="ap-south-1"), "OurRegions"),
    ],
)
def test_the_examples(asked: AuthorizationRequest, by: str | None) -> None:
    decision = EXAMPLES.decide(asked)
    assert (None if decision.denied_by is None else decision.denied_by.statement) == by


@pytest.mark.parametrize(("address", "allowed"), [("10.9.9.9", True), ("::1", True), ("203.0.113.9", False), ("", False)])
def test_the_example_for_networks(address: str, allowed: bool) -> None:
    asked = request("ListKeys")
    asked.source_ip = address
    assert EXAMPLES.decide(asked).allowed == allowed
