"""Forms of any kind, signed: never a fault of ours, always XML that botocore reads, and always one outcome on record."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audit.record import Phase as RecordPhase
from proxy.callers import Caller
from proxy.sts.operations import OPERATIONS
from tests.proxy.local.world import ACCOUNT
from tests.proxy.sts.test_dialect import parsed, signed_form
from tests.proxy.sts.world import ALICE, BUILDER, World, trust

#: In one pass, with no second look: a session that was made changes the store.
ONCE = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
NAMES = st.sampled_from(
    [
        *("RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId", "SourceIdentity", "SerialNumber", "TokenCode", "Policy"),
        *("Tags.member.1.Key", "Tags.member.1.Value", "Tags.member.2.Key", "Tags.member", "Tags", "TransitiveTagKeys.member.1"),
        *("PolicyArns.member.1.arn", "ProvidedContexts.member.1.ProviderArn", "RoleArn.member.1", ".", "", "Tags.member.01.Key"),
    ]
)
VALUES = st.text(max_size=20) | st.sampled_from([BUILDER, "run-1", "900", "-1", "9" * 30, "x" * 3_000, "\0", "\ufffe", "arn:"])
#: The codes of what STS refuses here: those that are common to Query services, and those of its own checks.
CODES = {
    *("AccessDenied", "ValidationError", "MalformedInput", "MissingAction", "InvalidAction", "InvalidParameterValue"),
}


@pytest.fixture
def alice(world: World) -> Caller:
    world.roles.add(BUILDER, trust(ACCOUNT, actions="sts:*"))
    return world.callers.add(ALICE)


def test_every_form_is_answered_in_xml_and_recorded(world: World, alice: Caller) -> None:
    answered = 0

    @ONCE
    @given(
        st.sampled_from([*OPERATIONS, "AssumeRole", "AssumeRole", "DecodeAuthorizationMessage"]),
        st.dictionaries(NAMES, VALUES, max_size=6),
        st.booleans(),
        st.binary(max_size=3),
    )
    def ask(operation: str, fields: dict[str, Any], sound: bool, tail: bytes) -> None:
        nonlocal answered
        base = {"RoleArn": BUILDER, "RoleSessionName": "run-1"} if sound else {}
        body = urlencode({"Action": operation, "Version": "2011-06-15", **base, **fields}).encode() + (b"" if sound else tail)
        before = len(world.log.records)
        response = world.send(signed_form(alice, body))
        told = parsed(operation if operation in OPERATIONS else "AssumeRole", response)
        records = world.log.records[before:]
        where = f"{body!r} → {response.status} {response.body!r}"
        assert response.status in (200, 400, 403), where
        answered += response.status == 200
        code = None if response.status == 200 else told["Error"]["Code"]
        assert code is None or code in CODES, where
        *intents, outcome = records
        assert [record.phase for record in intents] in ([], [RecordPhase.INTENT]), where
        assert (outcome.phase, outcome.wire_error) == (RecordPhase.OUTCOME, code), where
        assert told["ResponseMetadata"]["RequestId"] == outcome.request_id == response.request_id

    ask()
    assert answered > 10
