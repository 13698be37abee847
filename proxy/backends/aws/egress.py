"""The way to AWS through another proxy: CONNECT, with basic authentication, over HTTP or HTTPS; then TLS to AWS within.

On aiohttp's client session, which knows proxies and TLS within TLS, and takes two to six times the
CPU of `pool` (docs/adr/0008). Rules kept:

- What is sent is what was given: no header added or left out, the target as it is, the body not compressed. What aiohttp could
  not send so is refused. Only the place of Host among the headers is aiohttp's: the first.
- Whether a request can have been sent is not guessed from an exception: it can, from the moment that there is a connection for
  it, which aiohttp tells (`_TRACE`).
- Names are resolved by the proxy, but for its own.
- A request is a task, which aiohttp needs; who calls waits for that.

Known limits: a GET on a kept connection that the peer has closed is repeated by aiohttp itself; an endpoint without TLS is asked
in absolute form, where an answer of the proxy's own (but for 407) cannot be told from the endpoint's.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import aiohttp
from yarl import URL

from proxy.backends.aws.transport import (
    BROKEN_OFF,
    CLOSED,
    LARGE,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    NO_ROOM,
    SLOW,
    UNANSWERED,
    UNCONNECTED,
    Endpoint,
    MayHaveBeenSent,
    NotSent,
    UpstreamFailed,
    UpstreamRequest,
    UpstreamResponse,
    encode,
)
from proxy.errors import SetupError

_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_NO_USER = "the egress proxy wants a user name and password that it accepts (407): set them in aws_egress_proxy"


@dataclass(slots=True)
class _Attempt:
    """How far a request has come."""

    has_place: bool = False
    is_connected: bool = False


class Egress:
    """Connections to AWS through `proxy`, ``http[s]://[USER:PASSWORD@]HOST[:PORT]``, with user and password percent-encoded.

    One `tls` serves the proxy and AWS: it must trust the CAs of both. At most `connections` calls are under way at a time, each
    on a connection of its own; a `fresh` one is not kept. `connect_timeout_s` is for the proxy, its tunnel and TLS together; the
    other seconds are as for `pool.Pool`. Raises SetupError for another `proxy`. One for each worker, made on its event loop.
    """

    def __init__(
        self,
        proxy: str,
        *,
        tls: ssl.SSLContext,
        connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        idle_s: float = 20.0,
    ) -> None:
        tls.minimum_version = max(tls.minimum_version, ssl.TLSVersion.TLSv1_2)
        parts = _proxy_parts(proxy)
        self._proxy = URL.build(scheme=parts.scheme, host=parts.hostname or "", port=parts.port)
        self._authorization = _basic(parts)
        self._tls = tls
        self._limit = connections
        self._idle_s = idle_s
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_read=read_timeout_s, ceil_threshold=float("inf")
        )
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(connections)
        self._session = self._new_session()
        self._under_way: set[asyncio.Task[UpstreamResponse]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"Egress({str(self._proxy)!r})"

    async def send(
        self, endpoint: Endpoint, request: UpstreamRequest, *, fresh: bool = False, deadline: float
    ) -> UpstreamResponse:
        if self._closed:
            raise NotSent(endpoint.host, CLOSED)
        encode(endpoint.host, request)  # what cannot be sent directly is not sent by this way either
        task = self._loop.create_task(self._send(endpoint, request, fresh, deadline))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await task
        finally:
            task.cancel()  # where the caller is gone

    async def close(self) -> None:
        self._closed = True
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._session.close()

    async def _send(self, endpoint: Endpoint, request: UpstreamRequest, fresh: bool, deadline: float) -> UpstreamResponse:
        attempt = _Attempt()
        try:
            async with asyncio.timeout_at(deadline), self._places:
                attempt.has_place = True
                if not fresh:
                    return await self._exchange(self._session, endpoint, request, attempt)
                async with self._new_session() as session:
                    return await self._exchange(session, endpoint, request, attempt)
        except TimeoutError as error:  # the deadline's, or aiohttp's own
            if attempt.is_connected:
                raise MayHaveBeenSent(endpoint.host, SLOW, timed_out=True) from error
            raise NotSent(endpoint.host, UNCONNECTED if attempt.has_place else NO_ROOM, timed_out=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failure(endpoint.host, error, attempt.is_connected) from error
        except asyncio.CancelledError:
            if not self._closed:
                raise
            failure = MayHaveBeenSent if attempt.is_connected else NotSent
            raise failure(endpoint.host, CLOSED) from None

    async def _exchange(
        self, session: aiohttp.ClientSession, endpoint: Endpoint, request: UpstreamRequest, attempt: _Attempt
    ) -> UpstreamResponse:
        headers = [(_text(endpoint.host, name), _text(endpoint.host, value)) for name, value in request.headers]
        proxy_headers = {}
        if self._authorization is not None:
            if endpoint.tls:
                proxy_headers["Proxy-Authorization"] = self._authorization
            else:
                headers.append(("Proxy-Authorization", self._authorization))
        async with session.request(
            request.method.decode("ascii"),
            _url(endpoint, request.target),
            headers=headers,
            data=request.body,
            proxy=self._proxy,
            proxy_headers=proxy_headers,
            ssl=self._tls,
            allow_redirects=False,
            trace_request_ctx=attempt,
        ) as response:
            if response.status == 407 and not endpoint.tls:
                raise NotSent(endpoint.host, _NO_USER)
            head = tuple((name.lower(), value.strip()) for name, value in response.raw_headers)
            if sum(len(name) + len(value) + 4 for name, value in head) > MAX_HEAD_BYTES:
                response.close()
                raise MayHaveBeenSent(endpoint.host, LARGE)
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    response.close()
                    raise MayHaveBeenSent(endpoint.host, LARGE)
            return UpstreamResponse(response.status, head, bytes(body))

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._limit, keepalive_timeout=self._idle_s, ttl_dns_cache=10, resolver=aiohttp.ThreadedResolver()
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
            trust_env=False,
            trace_configs=[_TRACE],
        )

    def _failure(self, host: str, error: Exception, is_connected: bool) -> UpstreamFailed:
        """What `error` means. Its own text, which may quote a header, goes no further."""
        if is_connected:
            if isinstance(error, aiohttp.ClientPayloadError):
                return MayHaveBeenSent(host, BROKEN_OFF)
            if isinstance(error, aiohttp.ClientResponseError):
                return MayHaveBeenSent(host, "answered with something that is not HTTP, or with too much head")
            return MayHaveBeenSent(host, UNANSWERED)
        proxy = f"the egress proxy {self._proxy.host}:{self._proxy.port}"
        untrusted = _untrusted(error)
        if untrusted is not None:
            return NotSent(host, f"a certificate, its own or that of {proxy}, is not to be trusted: {untrusted.verify_message}")
        match error:
            case aiohttp.ClientHttpProxyError(status=407):
                return NotSent(host, _NO_USER)
            case aiohttp.ClientHttpProxyError():
                return NotSent(host, f"{proxy} refused the tunnel with status {error.status}")
            case aiohttp.ClientConnectorSSLError():
                return NotSent(host, f"TLS failed with {error.host}")
            case aiohttp.ClientConnectorDNSError():
                return NotSent(host, f"the name of {proxy} could not be resolved: see aws_egress_proxy")
            case aiohttp.ClientProxyConnectionError():
                words = error.os_error.strerror or type(error.os_error).__name__
                return NotSent(host, f"{proxy} could not be connected ({words}): see aws_egress_proxy")
        return NotSent(host, f"{proxy} did not open a tunnel ({type(error).__name__})")


def _trace() -> aiohttp.TraceConfig:
    """Notes in an attempt that it has a connection, new or kept."""

    async def connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:  # Any: either event's parameters
        context.trace_request_ctx.is_connected = True

    trace: aiohttp.TraceConfig = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    trace.on_connection_reuseconn.append(connected)
    trace.freeze()
    return trace


_TRACE = _trace()


def _url(endpoint: Endpoint, target: bytes) -> URL:
    """Raises NotSent for a target that aiohttp would send as another."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    text = _text(endpoint.host, target)
    if text.startswith("/"):
        url = URL(f"{'https' if endpoint.tls else 'http'}://{host}:{endpoint.port}{text}", encoded=True)
        if url.raw_path_qs == text:
            return url
    raise NotSent(endpoint.host, "the request's target cannot be sent unchanged through the egress proxy")


def _text(host: str, octets: bytes) -> str:
    """As aiohttp takes it; it writes UTF-8. Raises NotSent."""
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise NotSent(host, "a header that is not UTF-8 cannot be sent unchanged through the egress proxy") from error


def _untrusted(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What was wrong with a certificate, wherever in the chain of errors that led to `error` it stands."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) and not isinstance(error, aiohttp.ClientError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _proxy_parts(proxy: str) -> SplitResult:
    try:
        parts = urlsplit(proxy)
        is_proxy = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_proxy = False
    if not is_proxy or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SetupError("aws_egress_proxy is not of the form http[s]://[USER:PASSWORD@]HOST[:PORT]")
    return parts


def _basic(parts: SplitResult) -> str | None:
    """The value of Proxy-Authorization (RFC 7617)."""
    if parts.username is None:
        return None
    user = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
    return "Basic " + base64.b64encode(user).decode()
