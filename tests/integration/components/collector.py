"""An OpenTelemetry collector stand-in: OTLP/HTTP logs in protobuf, decoded by the classes that OpenTelemetry publishes."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tests.integration.components.certificates import Certificate
from tests.integration.components.ports import free_ports

#: Of the records of a request: the status to answer, and the body.
Answer = Callable[[list[LogRecord]], tuple[int, bytes]]


def takes_all(records: list[LogRecord]) -> tuple[int, bytes]:
    return 200, ExportLogsServiceResponse().SerializeToString()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    collector: Collector

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust this server, or goes away, is no news."""


class Collector:
    """One on a port of its own, which it keeps when it is started again. `headers` are those of the last request."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.answer: Answer = takes_all
        self.content_type = "application/x-protobuf"
        self.records: list[LogRecord] = []
        self.headers: dict[str, str] = {}
        self.paths: set[str] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()
        self._certificate = certificate
        (self._port,) = free_ports(1)
        self._server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificate else ''}://127.0.0.1:{self._port}"

    @property
    def bodies(self) -> list[bytes]:
        return [record.body.string_value.encode() for record in self.records]

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.collector = self
        if self._certificate is not None:
            context = self._certificate.server_context()
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.may_answer.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection each: a collector that is stopped leaves none behind

    def do_POST(self) -> None:
        collector = cast(_Server, self.server).collector
        assert self.headers["Content-Type"] == "application/x-protobuf" and self.headers["Content-Encoding"] == "gzip"
        request = ExportLogsServiceRequest.FromString(gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))))
        records = [one for resource in request.resource_logs for scope in resource.scope_logs for one in scope.log_records]
        collector.headers = dict(self.headers)
        collector.paths.add(self.path)
        status, body = collector.answer(records)
        if status == 200:
            collector.records += records
        collector.asked.set()
        collector.may_answer.wait()
        self.send_response(status)
        self.send_header("Content-Type", collector.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error."""

    def setup(self) -> None:
        cast(socket.socket, self.request).settimeout(30)
        super().setup()


@contextmanager
def collector(certificate: Certificate | None = None) -> Iterator[Collector]:
    """A running one, gone at the end."""
    server = Collector(certificate)
    try:
        yield server
    finally:
        server.stop()
