"""The pipeline between a log and a backend that tell in which order they were asked, and that break when told to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from typing import Any

from audit import canonical
from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.merkle import leaf_hash
from audit.record import AuditRecord
from proxy.dialect import KmsDialect
from proxy.domain import (
    Answer,
    HttpFault,
    KeyUse,
    KmsCall,
    Origin,
    Principal,
    RawRequest,
    RawResponse,
)
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
    for secret in (PLAINTEXT, BLOB, SECRET.encode()):
        for form in (secret, base64.b64encode(secret), secret.hex().encode()):
            assert not any(form in text for text in (*world.log.lines, *(response.body for response in responses)))
