"""CloudTrail's API, as far as `aws cloudtrail validate-logs` asks it: `audit.delivery.trail`'s answers over HTTP on loopback.

Signatures are not verified.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from audit.delivery.digest import PublicKey
from audit.delivery.layout import Trail
from audit.delivery.trail import describe_trails, public_keys

_SERVICE = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101."


@contextmanager
def cloudtrail_api(trail: Trail, keys: Mapping[str, PublicKey]) -> Iterator[str]:
    """The URL of a server that answers for `trail`, whose digests are signed with one of `keys`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(_answer(self.headers["X-Amz-Target"].removeprefix(_SERVICE), asked, trail, keys)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _answer(operation: str, asked: dict[str, Any], trail: Trail, keys: Mapping[str, PublicKey]) -> dict[str, Any]:  # Any: JSON
    match operation:
        case "DescribeTrails":
            return describe_trails(trail)
        case "ListPublicKeys":
            return public_keys(keys.values(), asked["StartTime"], asked["EndTime"])
    raise AssertionError(f"validate-logs asked for {operation}")
