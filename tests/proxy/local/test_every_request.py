"""Every operation, asked validly and one step off: never a fault of ours, always an error that the model knows for it, and always
one outcome on record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from audit import record
from proxy.kms.operations import OPERATIONS
from tests.proxy.local.asked import MODEL, Stock, Worker, errors_of, faults_of_answer, phases, prepare, requests

#: In one pass, with no second look: a request changes the store, so that none gives the same answer twice.
ONCE = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


#: Of these a valid request is mostly answered: none answered would mean that what was asked about was not there.
OFTEN_ANSWERED = (
    *("CreateKey", "DescribeKey", "DisableKey", "EnableKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
    *("GenerateRandom", "GetKeyPolicy", "GetKeyRotationStatus", "GetPublicKey", "ListAliases", "ListKeys", "ListResourceTags"),
    *("Sign", "TagResource", "UntagResource", "UpdateKeyDescription"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stock]:
    path = tmp_path_factory.mktemp("prepared") / "keystore.db"
    return path, prepare(path)


@pytest.fixture
def worker(prepared: tuple[Path, Stock], tmp_path: Path) -> Iterator[Worker]:
    one = Worker(prepared[0], tmp_path)
    yield one
    one.close()


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_every_request_is_answered_by_the_model_and_recorded(
    worker: Worker, prepared: tuple[Path, Stock], operation: str
) -> None:
    known, answered = errors_of(operation), 0

    @ONCE
    @given(requests(prepared[1], operation))
    def ask(body: bytes) -> None:
        nonlocal answered
        response, records = worker.post(operation, body)
        told = json.loads(response.body) if response.body else {}
        code = told.get("__type") if response.status != 200 else None
        where = f"{operation} {body!r} → {response.status} {told}"
        assert response.status in (200, 400), where
        if code is None:
            answered += 1
            shape = MODEL["operations"][operation].get("output", {}).get("shape")
            assert (faults_of_answer(shape, told) if shape else told) in ([], {}), where
        else:
            assert code in known and set(told) <= {"__type", "message"}, where
        *intents, outcome = records
        assert phases(records) in ([record.Phase.OUTCOME], [record.Phase.INTENT, record.Phase.OUTCOME]), where
        assert (outcome.request_id, outcome.event_name, outcome.wire_error) == (response.request_id, operation, code), where
        assert all(outcome.intent_id == intent.event_id for intent in intents), where
        assert OPERATIONS[operation].mutates or not intents, where

    ask()
    assert answered or operation not in OFTEN_ANSWERED
