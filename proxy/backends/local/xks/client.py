"""The way to external key store proxies: one request, one answer, within the time that KMS gives them.

There is no key in a request's effect: whatever is asked may be asked again. So a request that met with a connection that was just
being closed is sent once more, on a new one, as long as there is time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from proxy.backends.aws.transport import (
    UNANSWERED,
    Endpoint,
    MayHaveBeenSent,
    Transport,
    UpstreamFailed,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.backends.local.xks import messages
from proxy.backends.local.xks.blob import Outer
from proxy.backends.local.xks.faults import Fault, XksFailed
from proxy.backends.local.xks.messages import ProxyAddress, Reason

TIMEOUT_S = 0.25
_PORT = 443


class XksClient:
    """Asks external key store proxies. One for each worker. `make_transport` is called once, at the first request, on the event
    loop; `clock` gives the time that requests are signed with. Every method raises XksFailed."""

    def __init__(self, make_transport: Callable[[], Transport], clock: Callable[[], float], timeout_s: float = TIMEOUT_S) -> None:
        self._make_transport = make_transport
        self._clock = clock
        self._timeout_s = timeout_s
        self._transport: Transport | None = None

    async def check_health(self, address: ProxyAddress, region: str, reason: Reason) -> None:
        messages.check_health(await self._ask(address, "/health", messages.about(reason), region))

    async def check_key(self, address: ProxyAddress, key_id: str, region: str, reason: Reason) -> None:
        messages.check_key(await self._ask(address, f"/keys/{key_id}/metadata", messages.about(reason), region))

    async def encrypt(
        self, address: ProxyAddress, key_id: str, region: str, reason: Reason, plaintext: bytes, associated: bytes
    ) -> Outer:
        body = messages.encryption(reason, plaintext, associated)
        answer = await self._ask(address, f"/keys/{key_id}/encrypt", body, region)
        return messages.encrypted(answer, len(plaintext), associated)

    async def decrypt(
        self, address: ProxyAddress, key_id: str, region: str, reason: Reason, outer: Outer, associated: bytes
    ) -> bytes:
        body = messages.decryption(reason, outer, associated)
        return messages.decrypted(await self._ask(address, f"/keys/{key_id}/decrypt", body, region), outer)

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def _ask(self, address: ProxyAddress, place: str, body: bytes, region: str) -> UpstreamResponse:
        if self._transport is None:
            self._transport = self._make_transport()
        request = messages.request(address, place, body, region, self._clock())
        endpoint = Endpoint(address.host.lower(), _PORT)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        try:
            return await self._send(self._transport, endpoint, request, deadline)
        except UpstreamFailed as failure:
            raise XksFailed(_fault(failure, loop.time() >= deadline)) from failure

    async def _send(
        self, transport: Transport, endpoint: Endpoint, request: UpstreamRequest, deadline: float
    ) -> UpstreamResponse:
        try:
            return await transport.send(endpoint, request, deadline=deadline)
        except UpstreamFailed as failure:
            if failure.timed_out or _is_tls(failure) or asyncio.get_running_loop().time() >= deadline:
                raise
            return await transport.send(endpoint, request, fresh=True, deadline=deadline)


def _is_tls(failure: UpstreamFailed) -> bool:
    return isinstance(failure.__cause__, ssl.SSLError)


def _fault(failure: UpstreamFailed, is_late: bool) -> Fault:
    if _is_tls(failure):
        return Fault.TLS
    if failure.timed_out or is_late:
        return Fault.TIMED_OUT
    has_answered = isinstance(failure, MayHaveBeenSent) and failure.what != UNANSWERED
    return Fault.UNREADABLE if has_answered else Fault.UNREACHABLE
