"""What the backend asks of the way to AWS: one HTTP/1.1 exchange with an endpoint, and how it can fail.

Two ways keep this interface, `pool.Pool` (direct) and `egress.Egress` (through another proxy); one conformance suite runs on both
(`tests/proxy/aws/test_transport.py`). Neither repeats a call (see `egress` for the one exception): whether that is safe, the
backend knows. What it needs to know of a failure is whether the call can have had an effect, so that is the failure's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from proxy.errors import ProxyError

MAX_HEAD_BYTES = 64 << 10  # of a response, interim responses (1xx) included
MAX_BODY_BYTES = 8 << 20  # KMS answers in some 10 KiB at most

#: What stands in a failure, the same on both ways.
UNANSWERED = "closed the connection before it answered"
BROKEN_OFF = "closed the connection in the middle of its answer"
SLOW = "did not answer in time"
LARGE = f"answered with more than {MAX_HEAD_BYTES >> 10} KiB of head or {MAX_BODY_BYTES >> 20} MiB of body"
NO_ROOM = "no connection became free in time"
UNCONNECTED = "could not be connected in time"
CLOSED = "the way to AWS was closed, since this process is stopping"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to send to. `host` is a name or an address, in lower case; with `tls` its certificate must be for `host`."""

    host: str
    port: int
    tls: bool = True


@dataclass(slots=True)
class UpstreamRequest:
    """One request as it is to be sent: `target` as in the request line; `headers` in their order, Host among them.

    Content-Length is added where it is not given. The body may hold key material.
    """

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)  # credentials among them
    body: bytes = field(repr=False)


@dataclass(slots=True)
class UpstreamResponse:
    """One final response. Header names are lower-case, values without surrounding blanks; the body is free of chunks, and
    otherwise as it was sent. It may hold key material."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(repr=False)


class UpstreamFailed(ProxyError):
    """There is no answer. `host` is the endpoint's; `what` happened, in plain words and with no secret; `timed_out`: by a
    time-out of ours."""

    def __init__(self, host: str, what: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{host}: {what}")
        self.host = host
        self.what = what
        self.timed_out = timed_out


class NotSent(UpstreamFailed):
    """Nothing of the request can have reached the endpoint: it is safe to repeat."""


class MayHaveBeenSent(UpstreamFailed):
    """At least one byte was handed on: the endpoint may have acted on the request."""


class Transport(Protocol):
    """A way to AWS, with connections that are kept and used again."""

    async def send(
        self, endpoint: Endpoint, request: UpstreamRequest, *, fresh: bool = False, deadline: float
    ) -> UpstreamResponse:
        """Send `request` and return the response, whatever its status.

        `fresh` takes a connection that was not used before. `deadline` is a time of the event loop, for everything. What it waits
        for is a plain future: it needs no task around it. Whoever gives up (cancels, or closes the coroutine) leaves a
        connection that is closed, and not used again.

        Raises NotSent, MayHaveBeenSent.
        """
        ...

    async def close(self) -> None:
        """Close every connection; calls under way fail. When this returns, no task and no descriptor is left."""
        ...


def encode(host: str, request: UpstreamRequest) -> bytes:
    """The request's bytes, in one piece.

    Raises NotSent where a line break stands in the head: what follows it would be a header, or a request, that nobody signed.
    """
    lines = [b"%b %b HTTP/1.1" % (request.method, request.target)]
    has_length = False
    for name, value in request.headers:
        lines.append(b"%b: %b" % (name, value))
        if len(name) == 14 and name.lower() == b"content-length":
            has_length = True
    if not has_length:
        lines.append(b"content-length: %d" % len(request.body))
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise NotSent(host, "the request has a line break within a header line, and is not sent")
    return b"%b\r\n\r\n%b" % (head, request.body)
