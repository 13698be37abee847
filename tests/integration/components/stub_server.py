"""The stub upstream's own process: answers like KMS, verifies what arrives, keeps a journal, and fails when it is told to.

It holds no state but what it is told: a ciphertext of its own carries its plaintext, so it opens after a restart too. The first
line of standard input is the configuration, each further one an order, answered by a line on standard output; at its end the
process ends. Settings and orders are JSON, made in `stub.py`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import socket
import ssl
import struct
import sys
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from enum import StrEnum
from typing import Any, cast

import httptools
import orjson
import uvloop

from tests.integration.components.signature import Credential, Refused, access_key_id, verify

ACCOUNT = "111122223333"
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY_ARN = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{KEY_ID}"
_OURS = b"stub"
_OVERHEAD = 152  # bytes that a ciphertext is longer than its plaintext: KMS's, for AES-256
_REASONS = {200: b"OK", 400: b"Bad Request", 500: b"Internal Server Error", 503: b"Service Unavailable"}
_NO_LINGER = struct.pack("ii", 1, 0)

Document = dict[str, Any]  # Any: JSON


class Fault(StrEnum):
    """What can go wrong with a call."""

    RESET_ON_CONNECT = "reset-on-connect"  # RST when the connection is made, after TLS
    RESET_BEFORE_READING = "reset-before-reading"  # RST at a request's first byte
    RESET_AFTER_READING = "reset-after-reading"  # RST when the request was read and done
    HANG = "hang"  # the request is read and done, and never answered
    INTERNAL = "internal-500"
    UNAVAILABLE = "unavailable-503"
    HTML = "html-503"  # as a load balancer says it
    THROTTLED = "throttled-400"
    DENIED = "denied-400"
    EXPIRED = "expired-400"
    RUBBISH = "rubbish"  # bytes that are not HTTP
    RUBBISH_BODY = "rubbish-body"  # 200, and a body that is not JSON
    TRUNCATED = "truncated"  # half of the body, and the end
    CLOSE = "close"  # answered, with `Connection: close`
    CLOSE_SILENTLY = "close-silently"  # answered, then closed unannounced: a pooled connection goes stale
    TRICKLE = "trickle"  # answered, each byte in a segment of its own


#: Those that strike before there is an operation.
UNCALLED = frozenset({Fault.RESET_ON_CONNECT, Fault.RESET_BEFORE_READING})
_OF_CALLS = frozenset(Fault) - UNCALLED

#: Faults that are answers: status, code, message. {arn}, {operation} are the call's.
_ERRORS: dict[Fault, tuple[int, str, str]] = {
    Fault.INTERNAL: (500, "KMSInternalException", "An internal error occurred."),
    Fault.UNAVAILABLE: (503, "ServiceUnavailableException", "The service is unavailable."),
    Fault.THROTTLED: (400, "ThrottlingException", "You have exceeded the rate at which you may call KMS."),
    Fault.DENIED: (
        400,
        "AccessDeniedException",
        f"User: {{arn}} is not authorized to perform: kms:{{operation}} on resource: {KEY_ARN} because no identity-based policy "
        "allows the kms:{operation} action",
    ),
    Fault.EXPIRED: (400, "ExpiredTokenException", "The security token included in the request is expired"),
}


class Stub:
    """The answers and the faults that are still to come, for all connections."""

    def __init__(self, credentials: dict[str, Credential], journal: str | None) -> None:
        self.credentials = credentials  # empty: signatures are not looked at
        self.faults: deque[tuple[Fault, str | None]] = deque()
        self.connections = itertools.count()
        self._journal = None if journal is None else os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def take(self, faults: frozenset[Fault], operation: str | None = None) -> Fault | None:
        """The next fault, used up, if it is one of `faults` and meant for `operation` or for all."""
        if not self.faults:
            return None
        fault, only = self.faults[0]
        if fault not in faults or only not in (None, operation):
            return None
        self.faults.popleft()
        return fault

    def answer(
        self, connection: int, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, Document, str, Fault | None]:
        """Status, document, request id and fault of a call, which is in the journal when this returns."""
        names = {name.lower(): value for name, value in headers}
        operation = names.get(b"x-amz-target", b"").decode("latin-1").removeprefix("TrentService.")
        request_id = str(uuid.uuid4())
        refused: Refused | None = None
        arn = ""
        parameters: Document = {}
        try:
            if self.credentials:
                arn = verify(method, target, headers, body, self.credentials).arn
            parameters = orjson.loads(body or b"{}")
        except Refused as error:
            refused = error
        except orjson.JSONDecodeError:
            refused = Refused("SerializationException", "the body is not JSON")
        fault = None if refused else self.take(_OF_CALLS, operation)
        if refused is not None:
            status, document = 400, {"__type": refused.code, "message": refused.reason}
        elif fault in _ERRORS:
            status, code, message = _ERRORS[fault]
            document = {"__type": code, "message": message.format(arn=arn, operation=operation)}
        else:
            status, document = _OPERATIONS.get(operation, _nothing)(parameters)
        if self._journal is not None:
            blob = document.get("CiphertextBlob") or parameters.get("CiphertextBlob")
            line = {
                "requestId": request_id,
                "connection": connection,
                "operation": operation,
                "accessKeyId": access_key_id(headers),
                "refused": None if refused is None else f"{refused.code}: {refused.reason}",
                "status": status,
                "fault": fault,
                "fingerprint": blob and hashlib.sha256(base64.b64decode(blob)).hexdigest(),
                "method": method,
                "target": target,
                "bodySha256": hashlib.sha256(body).hexdigest(),
                "headers": [
                    [name.decode("latin-1"), value.decode("latin-1")]
                    for name, value in headers
                    if name.lower() not in (b"authorization", b"x-amz-security-token")
                ],
            }
            os.write(self._journal, orjson.dumps(line) + b"\n")  # one write: whole after SIGKILL as well
        return status, document, request_id, fault


class _Connection(asyncio.Protocol):
    """One connection. Pipelined requests are answered in their order."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._number = next(stub.connections)
        self._parser = httptools.HttpRequestParser(self)
        self._begun = False  # the first bytes of a request have come
        self._hanging = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's TLS transport is none by class
        if self._stub.take(frozenset({Fault.RESET_ON_CONNECT})):
            self._reset()

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if self._stub.take(frozenset({Fault.RESET_BEFORE_READING})):
                self._reset()
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            traceback.print_exc()
            self._transport.close()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.close()

    # --- httptools

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", list[tuple[bytes, bytes]](), b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._hanging or self._transport.is_closing():
            return
        self._begun = False
        method, target = self._parser.get_method().decode(), self._target.decode("latin-1")
        status, document, request_id, fault = self._stub.answer(self._number, method, target, self._headers, self._body)
        body, content_type = orjson.dumps(document), b"application/x-amz-json-1.1"
        if fault is Fault.HTML:
            status, content_type = 503, b"text/html"
        if fault in (Fault.HTML, Fault.RUBBISH_BODY):
            body = b"<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>"
        closing = fault is Fault.CLOSE or not self._parser.should_keep_alive()
        head = b"HTTP/1.1 %d %s\r\nx-amzn-RequestId: %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n" % (
            status,
            _REASONS[status],
            request_id.encode(),
            formatdate(usegmt=True).encode(),
            content_type,
            len(body),
            b"Connection: close\r\n" if closing else b"",
        )
        self._send(head + body, fault, closing or fault is Fault.CLOSE_SILENTLY, len(body))

    def _send(self, answer: bytes, fault: Fault | None, closing: bool, body_bytes: int) -> None:
        if fault is Fault.RESET_AFTER_READING:
            self._reset()
        elif fault is Fault.HANG:
            self._hanging = True
        elif fault is Fault.RUBBISH:
            self._transport.write(b"\x16\x03\x01 220 this is not HTTP\r\n\r\n")
            self._transport.close()
        elif fault is Fault.TRUNCATED:
            self._transport.write(answer[: len(answer) - body_bytes // 2 - 1])
            self._transport.close()
        elif fault is Fault.TRICKLE:
            self._trickle(answer, closing)
        else:
            self._transport.write(answer)
            if closing:
                self._transport.close()

    def _trickle(self, answer: bytes, closing: bool) -> None:
        """The rest of `answer`, a byte in each turn of the loop."""
        self._transport.write(answer[:1])
        if answer[1:]:
            asyncio.get_running_loop().call_soon(self._trickle, answer[1:], closing)
        elif closing:
            self._transport.close()

    def _reset(self) -> None:
        """RST instead of FIN."""
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()


# --- what the operations answer: a status and a document for the parameters


def _sealed(plaintext: bytes) -> str:
    return base64.b64encode(_OURS + os.urandom(_OVERHEAD - len(_OURS)) + plaintext).decode()


def _decrypt(parameters: Document) -> tuple[int, Document]:
    blob = base64.b64decode(parameters.get("CiphertextBlob") or "")
    if len(blob) <= _OVERHEAD or not blob.startswith(_OURS):
        return 400, {"__type": "InvalidCiphertextException"}
    plaintext = base64.b64encode(blob[_OVERHEAD:]).decode()
    return 200, {"KeyId": KEY_ARN, "Plaintext": plaintext, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def _generate(parameters: Document) -> tuple[int, Document]:
    size = parameters.get("NumberOfBytes") or (16 if parameters.get("KeySpec") == "AES_128" else 32)
    plaintext = os.urandom(size)
    return 200, {
        "CiphertextBlob": _sealed(plaintext),
        "Plaintext": base64.b64encode(plaintext).decode(),
        "KeyId": KEY_ARN,
    }


def _encrypt(parameters: Document) -> tuple[int, Document]:
    blob = _sealed(base64.b64decode(parameters["Plaintext"]))
    return 200, {"CiphertextBlob": blob, "KeyId": KEY_ARN, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def _key(parameters: Document) -> tuple[int, Document]:
    metadata = {"AWSAccountId": ACCOUNT, "KeyId": KEY_ID, "Arn": KEY_ARN, "Enabled": True, "KeyState": "Enabled"}
    return 200, {
        "KeyMetadata": {**metadata, "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "KeyManager": "CUSTOMER"}
    }


def _nothing(parameters: Document) -> tuple[int, Document]:
    return 200, {}


#: Every other operation, known to KMS or not, is answered with nothing.
_OPERATIONS: dict[str, Callable[[Document], tuple[int, Document]]] = {
    "Decrypt": _decrypt,
    "GenerateDataKey": _generate,
    "Encrypt": _encrypt,
    "CreateKey": _key,
    "DescribeKey": _key,
}


async def _serve(configuration: Document) -> None:
    loop = asyncio.get_running_loop()
    credentials = {name: Credential(**known) for name, known in configuration["credentials"].items()}
    stub = Stub(credentials, configuration["journal"])
    context = None
    if configuration["certificate"] is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*configuration["certificate"])
        context.set_alpn_protocols(["http/1.1"])
    server = await loop.create_server(lambda: _Connection(stub), "127.0.0.1", configuration["port"], ssl=context, backlog=512)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)

    def obey(order: Document) -> None:
        if order["faults"]:
            stub.faults.extend((Fault(fault), order["operation"]) for fault in order["faults"])
        else:
            stub.faults.clear()
        print(f"done {order['number']}", flush=True)

    def read_orders() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(obey, json.loads(line))
        os._exit(0)  # whoever started it has closed its end, or is gone

    threading.Thread(target=read_orders, daemon=True).start()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(json.loads(sys.stdin.readline())))
