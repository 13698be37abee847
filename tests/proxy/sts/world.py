"""STS and KMS beside each other in one process, called by boto3: what it would send goes to the pipeline.

Credentials end by a clock that is set by hand; requests are signed by the true time.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import orjson
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ClientError

from audit import canonical
from audit.commit import Receipt
from audit.record import AuditRecord
from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.backend import LocalBackend
from proxy.callers import Caller, Callers
from proxy.dialect import KmsDialect
from proxy.domain import Origin, RawRequest, RawResponse
from proxy.kms.model import ServiceModel
from proxy.permissions import Permissions
from proxy.pipeline import Pipeline
from proxy.recording import Recorder
from proxy.sealed_store import SealedStore
from proxy.sigv4 import HOST_SIGNED, Verifier
from proxy.sts.dialect import StsDialect, is_for_sts
from proxy.sts.roles import Roles
from proxy.sts.service import StsService
from tests.proxy.local.world import ACCOUNT, INSTANCE, MASTER_KEY, REGION, Clock

OTHER_ACCOUNT = "444455556666"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
BOB = f"arn:aws:iam::{OTHER_ACCOUNT}:user/team/bob"
BUILDER = f"arn:aws:iam::{ACCOUNT}:role/ci/builder"
DEPLOYER = f"arn:aws:iam::{OTHER_ACCOUNT}:role/deployer"
Json = Any

kms_model = lru_cache(maxsize=1)(ServiceModel.load)
sts_dialect = lru_cache(maxsize=1)(StsDialect.load)
_session = lru_cache(maxsize=1)(boto3.Session)  # one, so that models are read once


class KeptLog:
    """A log that keeps records in memory, as lines too."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.records: list[AuditRecord] = []

    async def commit(self, record: AuditRecord) -> Receipt:
        self.records.append(record)
        canonical.encode(record, "w0", len(self.records) - 1)
        return Receipt("w0", len(self.records) - 1, bytes(32))

    @property
    def lines(self) -> list[dict[str, Json]]:
        return [orjson.loads(canonical.encode(record, "w0", number)) for number, record in enumerate(self.records)]


class World:
    """One worker. Two of them on one path are two workers, or one before and after a restart."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        if not path.exists():
            SealedStore.create(path, MASTER_KEY, INSTANCE).close()
        self.clock = clock or Clock()
        self.path = path
        self.store = SealedStore.at(path, MASTER_KEY)
        self.callers = Callers(self.store, self.clock, os.urandom)
        self.roles = Roles(self.store, self.clock, os.urandom)
        self.sts = StsService(self.store, self.callers, self.clock, os.urandom)
        authoriser = PolicyAuthoriser(Permissions(self.store), self.clock)
        self.kms = LocalBackend(self.store, self.clock, os.urandom, authoriser)
        self.log = KeptLog()
        numbers = count(1)
        new_id = lambda: f"id-{next(numbers)}"  # noqa: E731 - it stands in for a source of ids
        recording = partial(Recorder, ACCOUNT, REGION, "local", "clear", new_id, has_accounts=True)
        verifier_of = partial(Verifier, self.callers.find, clock_us=lambda: int(self.clock() * 1_000_000))
        pipeline_of = partial(
            Pipeline,
            log=self.log,
            origin="keytrail/0123456789abcdef/w0",
            now_us=lambda: time.time_ns() // 1_000,
            new_id=new_id,
        )
        beside = pipeline_of(
            verifier=verifier_of(service="sts", must_sign=HOST_SIGNED),
            dialect=sts_dialect(),
            backend=self.sts,
            recorder=recording(event_source="sts.amazonaws.com", resource_type="AWS::IAM::Role"),
        )
        self.pipeline = pipeline_of(
            verifier=verifier_of(),
            dialect=KmsDialect(kms_model(), forwards=False),
            backend=self.kms,
            recorder=recording(),
            beside=beside,
            is_for_beside=is_for_sts,
        )

    def close(self) -> None:
        self.sts.close()
        self.kms.close()
        self.store.close()

    def send(self, raw: RawRequest) -> RawResponse:
        return asyncio.run(self.pipeline.walk(raw))

    def client(self, service: str, credentials: Caller | dict[str, Json], host: str = "keytrail.example") -> Json:
        """A boto3 client of a caller, or of the credentials that STS answered."""
        if isinstance(credentials, Caller):
            given = (credentials.principal.access_key_id, credentials.secret_access_key, credentials.session_token)
        else:
            given = (credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"])
        session: Json = _session()  # its types have a client for each service's name
        made = session.client(
            service,
            endpoint_url=f"http://{host}",
            region_name=REGION,
            aws_access_key_id=given[0],
            aws_secret_access_key=given[1],
            aws_session_token=given[2],
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )
        made.meta.events.register("before-send.*.*", self._answer)
        return made

    def _answer(self, request: AWSPreparedRequest, **_: Json) -> AWSResponse:
        sent: Json = request.body  # bytes for a JSON body, text for a form
        body = sent.encode() if isinstance(sent, str) else bytes(sent or b"")
        headers = [(b"host", request.url.split("/")[2].encode())]
        value: Json  # bytes, where botocore signed it
        for name, value in request.headers.items():
            headers.append((name.lower().encode(), value if isinstance(value, bytes) else str(value).encode()))
        target = b"/" + request.url.split("/", 3)[3].encode()
        raw = RawRequest(request.method.encode(), target, tuple(headers), body, Origin("192.0.2.7"), time.time_ns() // 1_000)
        response = self.send(raw)
        answered = HTTPHeaders()
        for name, value in (("x-amzn-RequestId", response.request_id), *response.headers):
            answered[name] = value
        return AWSResponse(request.url, response.status, answered, _Body(response.body))


class _Body(io.BytesIO):
    """A body as botocore reads it."""

    def stream(self, *_: Json, **__: Json) -> Json:
        yield self.read()


def trust(*principals: str, actions: Json = "sts:AssumeRole", **more: Json) -> str:
    """A trust policy of one statement."""
    statement = {"Effect": "Allow", "Principal": {"AWS": list(principals)}, "Action": actions, **more}
    return orjson.dumps({"Version": "2012-10-17", "Statement": [statement]}).decode()


def refusal(client: Json, operation: str, **parameters: Json) -> tuple[str, str, int]:
    """Code, message and status of the error that a call ends in; fails when it is answered."""
    try:
        answer = getattr(client, operation)(**parameters)
    except ClientError as error:
        told = error.response
        return told["Error"]["Code"], told["Error"]["Message"], told["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError(f"{operation} was answered: {sorted(answer)}")
