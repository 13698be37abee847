"""Real AWS KMS behind keytrail: a call is addressed, sent, and its answer read.

Who addresses it makes the difference: `resigning.Resigner` signs it anew with keytrail's own credentials, `passing.Passer` leaves
every signed byte as it is. A call that changes nothing is sent once more, on a fresh connection, where the first attempt got no
answer; what may change something never is. Each attempt is on record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.backends.aws.answers import meant_keys, read_answer
from proxy.backends.aws.transport import Endpoint, MayHaveBeenSent, Transport, UpstreamFailed, UpstreamRequest, UpstreamResponse
from proxy.domain import Answer, KmsCall, Upstream
from proxy.errors import KmsError

_TIMED_OUT = "The system timed out while trying to fulfill the request. You can retry the request."


class Addresser(Protocol):
    """Makes of a call the request that AWS gets."""

    async def address(self, call: KmsCall) -> tuple[Endpoint, UpstreamRequest]:
        """Where `call` goes, and as what. Raises KmsError."""
        ...

    def refused(self, call: KmsCall, refusal: KmsError) -> KmsError:
        """AWS's refusal as the client is to have it."""
        ...

    def account_of(self, call: KmsCall) -> str:
        """The account that key ids without one are of."""
        ...


class AwsBackend:
    """A `Backend` on AWS KMS. `call_s` bounds a call, its second attempt included; `failed` is told of each attempt without an
    answer. Made inside a running event loop."""

    name = "aws"
    forwards = True

    def __init__(
        self, transport: Transport, addresser: Addresser, call_s: float, failed: Callable[[], None] = lambda: None
    ) -> None:
        self._transport = transport
        self._addresser = addresser
        self._call_s = call_s
        self._failed = failed
        self._loop = asyncio.get_running_loop()

    async def call(self, call: KmsCall) -> Answer:
        """Answer a call; see `Backend.call`."""
        deadline = self._loop.time() + self._call_s
        endpoint, request = await self._addresser.address(call)
        response, asked = await self._send(call, endpoint, request, deadline)
        try:
            return read_answer(call, response, asked, self._addresser.account_of(call))
        except KmsError as refusal:
            raise self._addresser.refused(call, refusal) from None

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        await self._transport.close()

    async def _send(
        self, call: KmsCall, endpoint: Endpoint, request: UpstreamRequest, deadline: float
    ) -> tuple[UpstreamResponse, Upstream]:
        failures: list[str] = []
        while True:
            try:
                response = await self._transport.send(endpoint, request, fresh=bool(failures), deadline=deadline)
                return response, Upstream(endpoint.host, len(failures) + 1, failures=tuple(failures))
            except UpstreamFailed as failure:
                failures.append(str(failure))
                self._failed()
                if failure.timed_out or call.operation.mutates or len(failures) == 2:
                    raise self._unanswered(call, endpoint, failure, failures) from failure

    def _unanswered(self, call: KmsCall, endpoint: Endpoint, failure: UpstreamFailed, failures: list[str]) -> KmsError:
        # What went wrong is in the record: it names addresses that are not for every client to know.
        code, message, status = "KMSInternalException", f"{endpoint.host} gave no answer.", 500
        if failure.timed_out:
            code, message, status = "DependencyTimeoutException", _TIMED_OUT, 503
        return KmsError(
            code,
            message,
            status=status,
            keys=meant_keys(call, self._addresser.account_of(call)),
            upstream=Upstream(endpoint.host, len(failures), failures=tuple(failures)),
            effect_unknown=call.operation.mutates and isinstance(failure, MayHaveBeenSent),
        )
