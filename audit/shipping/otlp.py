"""OpenTelemetry logs: OTLP/HTTP, protobuf, gzip.

A record is a LogRecord whose body is the record's text, so that in the form `cloudtrail` its leaf hash can be made from it. What
may be tried again, and what not: OTLP specification 1.x, "Failures" and "Partial Success". It calls for dropping what is refused
for want of authority, for one; here nothing is dropped: only what a sink says against the data itself counts as a refusal.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from audit.ocsf import Severity
from audit.shipping.messages import Message
from audit.shipping.sink import BatchRefused, SinkFault, Taken

_TYPE = "application/x-protobuf"
_LONGEST_ANSWER_BYTES = 1 << 16
_LONGEST_REASON = 200
#: What says that the data cannot be taken: malformed, or too much of it at once.
_REFUSALS = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
_SEVERITIES = {
    Severity.INFORMATIONAL: (SeverityNumber.SEVERITY_NUMBER_INFO, "INFO"),
    Severity.LOW: (SeverityNumber.SEVERITY_NUMBER_WARN, "WARN"),
    Severity.MEDIUM: (SeverityNumber.SEVERITY_NUMBER_ERROR, "ERROR"),
}


class OtlpSink:
    """A collector at `url`."""

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext | None,
        headers: Sequence[tuple[str, str]],
        instance: str,
        host: str,
        timeout_s: float = 30.0,
    ) -> None:
        self._url = url
        self._resource = Resource(
            attributes=[_text("service.name", "keytrail"), _text("service.instance.id", instance), _text("host.name", host)]
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context if context is not None else True, limit=1),
            headers={"User-Agent": "keytrail", **dict(headers), "Content-Type": _TYPE, "Content-Encoding": "gzip"},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def send(self, batch: Sequence[Message]) -> Taken:
        data = gzip.compress(request_of(batch, self._resource, time.time_ns()).SerializeToString(), compresslevel=1)
        try:
            async with self._session.post(self._url, data=data, allow_redirects=False) as answer:
                return _taken(await _text_of(answer), answer, len(batch))
        except TimeoutError as error:
            raise SinkFault("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise SinkFault(f"{type(error).__name__}: {error}") from error  # it names the host and the port, and no header

    async def close(self) -> None:
        await self._session.close()
        await asyncio.sleep(0)  # so that the transports are gone with it


def request_of(batch: Sequence[Message], resource: Resource, observed_ns: int) -> ExportLogsServiceRequest:
    """The request that `batch` goes out as."""
    records = [_record(message, observed_ns) for message in batch]
    scope = ScopeLogs(scope=InstrumentationScope(name="keytrail"), log_records=records)
    return ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])])


def _record(message: Message, observed_ns: int) -> LogRecord:
    number, name = _SEVERITIES[message.severity]
    return LogRecord(
        time_unix_nano=message.time_us * 1_000,
        observed_time_unix_nano=observed_ns,
        severity_number=number,
        severity_text=name,
        event_name=message.event_name,
        body=AnyValue(string_value=message.body.decode()),
        attributes=[
            _text("keytrail.log", message.log),
            KeyValue(key="keytrail.sequence", value=AnyValue(int_value=message.sequence)),
            _text("keytrail.event_id", message.event_id),
        ],
    )


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


async def _text_of(answer: aiohttp.ClientResponse) -> bytes:
    """As much of its body as an answer has."""
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LONGEST_ANSWER_BYTES:
            raise SinkFault("its answer is too long to be one of OTLP")
    return body


def _taken(body: bytes, answer: aiohttp.ClientResponse, count: int) -> Taken:
    """Raises `SinkFault`, `BatchRefused`."""
    if answer.status != HTTPStatus.OK:
        told = f"HTTP {answer.status} {answer.reason or ''}".rstrip()
        if answer.status in _REFUSALS:
            raise BatchRefused(told)
        raise SinkFault(told, _pause(answer.headers.get("Retry-After")))
    try:
        if answer.content_type != _TYPE:
            raise DecodeError
        partial = ExportLogsServiceResponse.FromString(body).partial_success
    except DecodeError as error:  # a page of something else takes no records
        raise SinkFault("HTTP 200, and no answer of OTLP: is this the collector's /v1/logs?") from error
    rejected, why = min(partial.rejected_log_records, count), partial.error_message[:_LONGEST_REASON] or "it gives no reason"
    if rejected <= 0:
        return Taken()
    return Taken(dict.fromkeys(range(count), why)) if rejected == count else Taken(unnamed=rejected, why=why)


def _pause(retry_after: str | None) -> float | None:
    """Seconds; a date, which Retry-After may be too, is left to our own patience."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
