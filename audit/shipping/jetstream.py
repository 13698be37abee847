"""NATS JetStream: a message a record, on SUBJECT.LOG, which counts when the stream has acknowledged it.

`Nats-Msg-Id` is the record's event id: within the stream's window for duplicates (two minutes, unless it is set otherwise)
JetStream keeps what is sent again only once. The stream is made by whoever runs NATS, with subjects `SUBJECT.*`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoServersError
from nats.js.errors import APIError, NoStreamResponseError

from audit.shipping.messages import Message
from audit.shipping.sink import SinkFault, Taken

_AT_ONCE = 128
_GOODBYE_S = 2.0
_EXCEEDS_MAXIMUM = 10054  # JetStream's error code for a message that is larger than its stream lets it be


class JetStreamSink:
    """A server at the URL `server`. One connection, made at the first batch."""

    def __init__(
        self,
        server: str,
        subject: str,
        context: ssl.SSLContext | None,
        user: str | None,
        password: str | None,
        timeout_s: float = 10.0,
    ) -> None:
        self._server = server
        self._subject = subject
        self._context = context
        self._user = user
        self._password = password
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._last_fault = ""
        self._gone = asyncio.Event()  # the connection broke off

    async def send(self, batch: Sequence[Message]) -> Taken:
        try:
            if self._client is None:
                self._client = await self._connect()
            refused: dict[int, str] = {}
            for start in range(0, len(batch), _AT_ONCE):
                part = batch[start : start + _AT_ONCE]
                answers = await self._publish(self._client, part)
                refused |= {start + number: why for number, answer in enumerate(answers) if (why := _reason(answer))}
            return Taken(refused)
        except NoStreamResponseError as error:
            raise SinkFault(f"no stream of this server has the subject {self._subject}.*") from error
        except NoServersError as error:  # it was not reached: the library noted why
            raise SinkFault(self._last_fault or "it is not reached") from error
        except (NatsError, OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            raise SinkFault(_told(error) or self._last_fault or "no answer in time") from error

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def _connect(self) -> Client:
        """A connection that is not made anew by itself: that is for whoever counts what was acknowledged."""
        client = Client()
        try:
            await asyncio.wait_for(
                client.connect(
                    self._server,
                    name="keytrail",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # with 0 the library tries for ever
                    reconnect_time_wait=0,
                    connect_timeout=int(self._timeout_s),
                    tls=self._context,
                    user=self._user if self._password is not None else None,
                    password=self._password,
                    token=self._user if self._password is None else None,
                    error_cb=self._note,
                    disconnected_cb=self._note_the_end,
                ),
                self._timeout_s,
            )
        except BaseException:
            await _close(client)  # the library leaves what it has opened
            raise
        return client

    async def _note(self, error: Exception) -> None:
        """Instead of the library's own log."""
        self._last_fault = _told(error)

    async def _note_the_end(self) -> None:
        self._gone.set()

    async def _publish(self, client: Client, messages: Sequence[Message]) -> list[BaseException | None]:
        """What came of each. Raises `SinkFault` where the connection ends before that is known."""
        stream = client.jetstream()

        async def publish(message: Message) -> None:
            subject, headers = f"{self._subject}.{message.log}", {"Nats-Msg-Id": message.event_id}
            await stream.publish(subject, message.body, timeout=self._timeout_s, headers=headers)

        answers = asyncio.gather(*map(publish, messages), return_exceptions=True)
        gone = asyncio.create_task(self._gone.wait())
        try:
            either: set[asyncio.Future[Any]] = {answers, gone}  # Any: what they give is not asked
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                raise SinkFault(self._last_fault or "the connection broke off")
            return answers.result()
        finally:
            gone.cancel()
            answers.cancel()
            await asyncio.gather(gone, answers, return_exceptions=True)


async def _close(client: Client) -> None:
    """Within seconds: a server that hangs says no goodbye."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        await asyncio.wait_for(client.close(), _GOODBYE_S)


def _reason(answer: BaseException | None) -> str | None:
    """Why a message was refused; None where it was taken. Raises what says nothing against the message."""
    match answer:
        case None:
            return None
        case MaxPayloadError():
            return "it is larger than the server takes (max_payload)"
        case APIError() if answer.err_code == _EXCEEDS_MAXIMUM:
            return answer.description or f"JetStream error {answer.err_code}"
        case _:
            raise answer


def _told(error: BaseException) -> str:
    match error:
        case APIError():
            return f"JetStream: {error.description or error.err_code}"
        case TimeoutError():
            return ""
        case OSError():
            return f"{type(error).__name__}: {error.strerror or error}"
        case _:
            return str(error) or type(error).__name__
