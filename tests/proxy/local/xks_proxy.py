"""An external key store proxy with its key manager, in process and on loopback: TLS, verified signatures, real AES-GCM.

It does what AWS's specification of the XKS proxy API says, and answers with a script of faults when it is given one.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any  # JSON of requests and answers, and members of KMS's

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.backends.aws.pool import Pool
from proxy.backends.aws.resolver import StaticResolver, SystemResolver
from proxy.backends.local.xks.client import XksClient
from proxy.domain import Answer
from tests.proxy.aws.upstream import Authority, Channel, Listening, Received, Step, answers
from tests.proxy.local.world import REGION, World, call

NAME = "xks.test"
ENDPOINT = f"https://{NAME}"
PATH = "/acme/kms/xks/v1"
ACCESS_KEY_ID = "BETWEENTWOANDSEVEN234567"
SECRET = "kZ3xQ9/rT+uW1vY5nB7mC2dF4gH6jK8lP0oI3aS5dE="
AUTHORITY = Authority()
_ERRORS = {"AuthenticationFailedException": 401, "KeyNotFoundException": 404, "InvalidUriPathException": 404}
HEALTH: dict[str, Any] = {
    "xksProxyFleetSize": 1,
    "xksProxyVendor": "Acme",
    "xksProxyModel": "Acme 1.0",
    "ekmVendor": "Acme",
    "ekmFleetDetails": [{"id": "hsm-1", "model": "Luna", "healthStatus": "ACTIVE"}],
}


class Refused(Exception):
    """The proxy's answer is an error; the argument is its errorName."""


class XksProxy(Listening):
    """Each request takes the next step of `script`, else it is answered in earnest; `spoil` may change the good answers."""

    def __init__(self) -> None:
        super().__init__(AUTHORITY.server(NAME, "127.0.0.1"))
        self.keys = {"first": os.urandom(32), "second.key_2": os.urandom(32)}
        self.disabled: set[str] = set()
        self.script: deque[Step] = deque()
        self.spoil: Callable[[dict[str, Any]], object] = lambda answer: None
        self.received: list[tuple[str, dict[str, Any]]] = []  # what each request asked for, and its body
        self.health: dict[str, Any] = HEALTH

    async def serve(self, channel: Channel) -> None:
        keep = True
        while keep and (received := await channel.request()) is not None:
            step = self.script.popleft() if self.script else self._answer(received)
            keep = await step(channel)

    def _answer(self, received: Received) -> Step:
        try:
            answer = self._answer_to(received)
            self.spoil(answer)
            return answers(200, orjson.dumps(answer), ("Content-Type", "application/json"))
        except Refused as refused:
            return error(str(refused))

    def _answer_to(self, received: Received) -> dict[str, Any]:
        method, target, _ = received.request_line.split(b" ")
        assert method == b"POST" and dict(received.headers)[b"content-type"] == b"application/json"
        if dict(received.headers)[b"authorization"] != _authorization(received):
            raise Refused("AuthenticationFailedException")
        path, body = target.decode(), orjson.loads(received.body)
        self.received.append((path.removeprefix(PATH), body))
        if not path.startswith(PATH + "/"):
            raise Refused("InvalidUriPathException")
        match path.removeprefix(PATH).split("/")[1:]:
            case ["health"]:
                return dict(self.health)
            case ["keys", key_id, operation]:
                if key_id not in self.keys:
                    raise Refused("KeyNotFoundException")
                if operation == "metadata":
                    status = "DISABLED" if key_id in self.disabled else "ENABLED"
                    return {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT", "WRAP"], "keyStatus": status}
                if key_id in self.disabled:
                    raise Refused("InvalidStateException")
                assert body["encryptionAlgorithm"] == "AES_GCM"
                return self._encrypt(key_id, body) if operation == "encrypt" else self._decrypt(key_id, body)
        raise Refused("InvalidUriPathException")

    def _encrypt(self, key_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert body["ciphertextDataIntegrityValueAlgorithm"] == "SHA_256"
        associated, iv, metadata = _bytes(body["additionalAuthenticatedData"]), os.urandom(12), b"key_version=1"
        sealed = AESGCM(self.keys[key_id]).encrypt(iv, _bytes(body["plaintext"]), _bound(associated, metadata))
        ciphertext, tag = sealed[:-16], sealed[-16:]
        integrity = sha256(associated + metadata + iv + ciphertext + tag).digest()
        return {
            "ciphertext": _text(ciphertext),
            "ciphertextMetadata": _text(metadata),
            "initializationVector": _text(iv),
            "authenticationTag": _text(tag),
            "ciphertextDataIntegrityValue": _text(integrity),
        }

    def _decrypt(self, key_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        associated, metadata = _bytes(body["additionalAuthenticatedData"]), _bytes(body.get("ciphertextMetadata", ""))
        sealed = _bytes(body["ciphertext"]) + _bytes(body["authenticationTag"])
        try:
            opened = AESGCM(self.keys[key_id]).decrypt(_bytes(body["initializationVector"]), sealed, _bound(associated, metadata))
        except InvalidTag:
            raise Refused("InvalidCiphertextException") from None
        return {"plaintext": _text(opened)}


def error(name: str, status: int | None = None) -> Step:
    """The step that answers with an error."""
    body = {"errorName": name, "errorMessage": "the hidden reason"}
    return answers(status or _ERRORS.get(name, 400), orjson.dumps(body), ("Content-Type", "application/json"))


def _authorization(received: Received) -> bytes:
    """What the header must be, by appendix A of the specification."""
    headers = dict(received.headers)
    date = headers[b"x-amz-date"]
    age = datetime.now(UTC) - datetime.strptime(date.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(age) < timedelta(minutes=5)
    target, body_sha256 = received.request_line.split(b" ")[1], sha256(received.body).hexdigest().encode()
    signed = b"host:%b\nx-amz-date:%b\n\nhost;x-amz-date" % (headers[b"host"], date)
    canonical = b"POST\n%b\n\n%b\n%b" % (target, signed, body_sha256)
    scope = b"%b/%b/kms-xks-proxy/aws4_request" % (date[:8], REGION.encode())
    key = b"AWS4" + SECRET.encode()
    for part in scope.split(b"/"):
        key = hmac.digest(key, part, "sha256")
    text = b"AWS4-HMAC-SHA256\n%b\n%b\n%b" % (date, scope, sha256(canonical).hexdigest().encode())
    credential = b"Credential=%b/%b, SignedHeaders=host;x-amz-date" % (ACCESS_KEY_ID.encode(), scope)
    return b"AWS4-HMAC-SHA256 %b, Signature=%b" % (credential, hmac.digest(key, text, "sha256").hex().encode())


def _bound(associated: bytes, metadata: bytes) -> bytes:
    return len(associated).to_bytes(2, "big") + associated + bytes((len(metadata),)) + metadata


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


class XksWorld(World):
    """A world with a way to external key stores, which all lead to `proxy`; one event loop for all of it."""

    def __init__(self, folder: Path, timeout_s: float = 20.0) -> None:
        self.runner = asyncio.Runner()
        self.proxy = self.runner.run(XksProxy().__aenter__())
        self.port = self.proxy.port  # where the name of the proxy leads
        self.tls = AUTHORITY.client()
        self.client = XksClient(self._pool, time.time, timeout_s)
        super().__init__(folder / "keystore.db", xks=self.client)

    def _pool(self) -> Pool:
        resolver = StaticResolver({NAME: f"127.0.0.1:{self.port}"}, SystemResolver())
        return Pool(resolver, tls=self.tls, connections=4, connect_timeout_s=20.0, read_timeout_s=20.0)

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.run(self.proxy.stop())
        self.runner.close()
        super().close()

    def ask(self, operation: str, region: str = REGION, **parameters: object) -> Answer:
        asked = call(operation, region, self.caller, **parameters)
        asked.request_id = "request-1"
        return self.runner.run(self.backend.call(asked))

    def new_store(self, name: str = "ours", *, connected: bool = True, **parameters: object) -> str:
        """The id of a new external key store."""
        store_id: str = self("CreateCustomKeyStore", **store_members(name) | parameters)["CustomKeyStoreId"]
        if connected:
            self("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
            assert self.store_entry(store_id)["ConnectionState"] == "CONNECTED"
        return store_id

    def store_entry(self, store_id: str) -> Mapping[str, Any]:
        [entry] = self("DescribeCustomKeyStores", CustomKeyStoreId=store_id)["CustomKeyStores"]
        found: Mapping[str, Any] = entry
        return found

    def external_key(self, store_id: str, external: str = "first") -> str:
        """The id of a new key in the store."""
        return self.new_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=external)


def store_members(name: str = "ours") -> dict[str, Any]:
    return {
        "CustomKeyStoreName": name,
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyUriEndpoint": ENDPOINT,
        "XksProxyUriPath": PATH,
        "XksProxyAuthenticationCredential": {"AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": SECRET},
    }
