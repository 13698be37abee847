"""keytrail in front of AWS, signing anew: with moto and the stub as AWS, real clients, and Squid on the way out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.moto import KMS, REGION, MotoServer, moto_server
from tests.integration.components.node_client import NodeClient
from tests.integration.components.squid import SquidOptions, squid
from tests.integration.components.stub import Credential, Fault, JournalEntry, StubUpstream, stub_upstream
from tests.integration.conftest import Server, keytrail

CONTEXT = {"tenant": "acme"}
OURS = ("AKIAUPSTREAM", "upstream-secret")


@dataclass
class World:
    """The module's certificate authority, its moto, and a data folder to copy."""

    folder: Path
    authority: CertificateAuthority
    moto: MotoServer
    initialised: Path

    def settings(self, port: int, **further: str) -> dict[str, str]:
        """keytrail's environment with AWS on `port` of loopback."""
        return {
            "KEYTRAIL_BACKEND": "aws",
            "KEYTRAIL_AWS_HOSTS": f"{KMS}=127.0.0.1:{port}",
            "KEYTRAIL_AWS_CA_BUNDLE": str(self.authority.bundle),
            "AWS_ACCESS_KEY_ID": OURS[0],
            "AWS_SECRET_ACCESS_KEY": OURS[1],
            "AWS_EC2_METADATA_DISABLED": "true",
            **{name: value for name, value in further.items() if value},
        }

    @contextmanager
    def keytrail(self, folder: Path, settings: dict[str, str]) -> Iterator[Server]:
        """A running keytrail of its own."""
        data = folder / "data"
        shutil.copytree(self.initialised, data)
        server = Server(data, settings).start()
        try:
            yield server
        finally:
            assert server.stop() == 0

    def stub(self, folder: Path, credentials: dict[str, Credential] | None = None) -> AbstractContextManager[StubUpstream]:
        known = {OURS[0]: Credential(OURS[1])} if credentials is None else credentials
        return stub_upstream(folder, self.authority.server(KMS, "127.0.0.1"), known)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, initialised: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("resigning")
    authority = CertificateAuthority(folder)
    with moto_server(folder, authority) as moto:
        yield World(folder, authority, moto, initialised)


@pytest.fixture(scope="module")
def before_moto(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with world.keytrail(tmp_path_factory.mktemp("before-moto"), world.settings(world.moto.port)) as server:
        yield server


@dataclass
class BeforeStub:
    """One keytrail and one stub for many tests, each of which sees what came since it began."""

    server: Server
    stub: StubUpstream
    records_before: int = 0
    journal_before: int = 0

    def records(self) -> list[dict[str, Any]]:  # Any: JSON
        return self.server.records()[self.records_before :]

    def journal(self) -> list[JournalEntry]:
        return self.stub.journal[self.journal_before :]


@pytest.fixture(scope="module")
def shared_stub(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BeforeStub]:
    folder = tmp_path_factory.mktemp("before-stub")
    with world.stub(folder) as stub:
        settings = world.settings(stub.port) | {
            "KEYTRAIL_AWS_READ_TIMEOUT_S": "4",  # which a stub on a busy host keeps; a call that hangs takes it
            "KEYTRAIL_AWS_CALL_TIMEOUT_S": "12",
            "KEYTRAIL_AWS_CONNECTIONS": "1",
        }
        with world.keytrail(folder, settings) as server:
            yield BeforeStub(server, stub)


@pytest.fixture
def before_stub(shared_stub: BeforeStub) -> Iterator[BeforeStub]:
    shared_stub.records_before = shared_stub.server.count_records()
    shared_stub.journal_before = len(shared_stub.stub.journal)
    yield shared_stub
    shared_stub.stub.recover()


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


# --- real clients, before moto


def test_boto3_gets_what_aws_answers_and_its_record_joins_aws_trail(before_moto: Server) -> None:
    client = before_moto.client()
    key = client.create_key(Description="by way of keytrail")["KeyMetadata"]
    made = client.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256", EncryptionContext=CONTEXT)
    opened = client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["Plaintext"]
    intent, created, generated, decrypted = before_moto.records()[-4:]
    assert (keytrail(intent)["phase"], keytrail(created)["intent"]) == ("intent", intent["eventID"])
    assert generated["requestID"] == made["ResponseMetadata"]["RequestId"]
    assert keytrail(generated)["fingerprintsOut"] == keytrail(decrypted)["fingerprintsIn"]
    for record in (created, generated, decrypted):
        part = keytrail(record)
        assert (part["backend"], part["topology"], part["identityProof"]) == ("aws", "endpoint", "signature-verified")
        assert part["upstream"] == {"host": KMS, "attempts": 1, "status": 200, "requestId": record["requestID"]}
        assert [resource["ARN"] for resource in record["resources"]] == [key["Arn"]]
        assert record["userIdentity"]["arn"].endswith("user/demo")


def test_a_refusal_is_aws_own(before_moto: Server) -> None:
    with pytest.raises(ClientError) as raised:
        before_moto.client().describe_key(KeyId="alias/nobody")
    record = before_moto.records()[-1]
    assert code(raised) == record["errorCode"] == "NotFoundException"
    assert keytrail(record)["upstream"]["status"] == 400
    assert record["errorMessage"] == raised.value.response["Error"]["Message"]


def test_who_is_not_a_caller_here_gets_no_further(before_moto: Server, world: World) -> None:
    before = len(world.moto.requests)
    reply = before_moto.post("ListKeys", {})
    assert reply.status == 200
    client = before_moto.client()
    client.meta.events.register("before-sign.kms", lambda request, **_: request.headers.add_header("X-Amz-Security-Token", "x"))
    with pytest.raises(ClientError) as raised:
        client.list_keys()
    assert code(raised) == "UnrecognizedClientException"
    assert "upstream" not in keytrail(before_moto.records()[-1])
    assert len(world.moto.requests) == before + 1


def test_the_aws_cli_unmodified(before_moto: Server, world: World) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "AWS_ENDPOINT_URL_KMS": before_moto.url,
        "AWS_SHARED_CREDENTIALS_FILE": str(before_moto.data / "credentials"),
        "AWS_DEFAULT_REGION": REGION,
        "HOME": str(world.folder),
    }

    def aws(*argv: str) -> dict[str, Any]:  # Any: JSON
        command = [str(Path(sys.executable).with_name("aws")), "kms", *argv, "--output", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    key_id = aws("create-key")["KeyMetadata"]["KeyId"]
    made = aws("generate-data-key", "--key-id", key_id, "--key-spec", "AES_256", "--encryption-context", "tenant=acme")
    assert made["KeyId"].endswith(key_id)
    assert before_moto.records()[-1]["requestParameters"]["encryptionContext"] == CONTEXT


def test_nodes_sdk_by_endpoint(before_moto: Server) -> None:
    key_id = before_moto.client().create_key()["KeyMetadata"]["KeyId"]
    told = NodeClient().round_trip(before_moto.url, key_id, *before_moto.credentials())
    assert told["plaintextsAgree"] is True
    records = {record["requestID"]: record["eventName"] for record in before_moto.records()}
    recorded = {operation: {records[one] for one in ids} for operation, ids in told["requestIds"].items()}
    assert recorded == {operation: {operation} for operation in told["requestIds"]}


# --- what AWS is sent, before the stub


def test_an_operation_of_tomorrow_is_forwarded_and_recorded_by_its_name(before_stub: BeforeStub) -> None:
    reply = before_stub.server.post("ShredEverything", {"KeyId": "alias/x", "Secret": "canary"})
    assert reply.status == 200
    assert [entry.operation for entry in before_stub.journal()] == ["ShredEverything"]
    intent, outcome = before_stub.records()
    for record in (intent, outcome):
        assert (record["eventName"], record["requestParameters"]) == ("ShredEverything", {"keyId": "alias/x"})
        assert record["readOnly"] is False
    assert b"canary" not in b"".join(path.read_bytes() for path in before_stub.server.segments())


def test_connections_to_aws_are_kept(before_stub: BeforeStub) -> None:
    for _ in range(3):
        assert before_stub.server.post("DescribeKey", {"KeyId": "x"}).status == 200
    assert len({entry.connection for entry in before_stub.journal()}) == 1


GENERATE = ("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"})
DISABLE = ("DisableKey", {"KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab"})
#: What AWS does, and what the client is told: status and code; whether a second attempt mends it for what changes nothing.
FAULTS = [
    (Fault.RESET_BEFORE_READING, 500, "KMSInternalException", True),
    (Fault.RESET_AFTER_READING, 500, "KMSInternalException", True),
    (Fault.HANG, 503, "DependencyTimeoutException", False),
    (Fault.TRUNCATED, 500, "KMSInternalException", True),
    (Fault.RUBBISH, 500, "KMSInternalException", True),
    (Fault.RUBBISH_BODY, 500, "KMSInternalException", False),
    (Fault.HTML, 500, "KMSInternalException", False),
    (Fault.INTERNAL, 500, "KMSInternalException", False),
    (Fault.UNAVAILABLE, 503, "ServiceUnavailableException", False),
]


@pytest.mark.parametrize(("fault", "status", "error", "mended"), FAULTS)
def test_a_fault_of_aws_while_something_is_changed(
    before_stub: BeforeStub, fault: Fault, status: int, error: str, mended: bool
) -> None:
    before_stub.stub.fail(fault)
    reply = before_stub.server.post(*DISABLE)
    assert (reply.status, reply.code) == (status, error)
    intent, outcome = before_stub.records()
    assert (keytrail(outcome)["intent"], keytrail(outcome)["effect"]) == (intent["eventID"], "unknown")
    assert keytrail(outcome)["upstream"]["attempts"] == 1
    assert before_stub.server.post(*DISABLE).status == 200


@pytest.mark.parametrize(("fault", "status", "error", "mended"), FAULTS)
def test_a_fault_of_aws_while_nothing_is_changed(
    before_stub: BeforeStub, fault: Fault, status: int, error: str, mended: bool
) -> None:
    before_stub.stub.fail(fault)
    reply = before_stub.server.post(*GENERATE)
    (outcome,) = before_stub.records()
    assert "effect" not in keytrail(outcome)
    upstream = keytrail(outcome)["upstream"]
    if mended:
        assert reply.status == 200
        assert (upstream["attempts"], len(upstream["failures"])) == (2, 1)
    else:
        assert (reply.status, reply.code) == (status, error)
        assert upstream["attempts"] == 1
    assert outcome["requestID"] == reply.request_id
    assert before_stub.server.post(*GENERATE).status == 200


def test_a_connection_that_went_stale_is_not_noticed_by_the_client(before_stub: BeforeStub) -> None:
    before_stub.stub.fail(Fault.CLOSE_SILENTLY)
    for _ in range(3):
        assert before_stub.server.post(*GENERATE).status == 200


def test_our_credentials_having_expired_is_not_told_as_the_clients(before_stub: BeforeStub) -> None:
    before_stub.stub.fail(Fault.EXPIRED)
    reply = before_stub.server.post(*GENERATE)
    assert (reply.status, reply.code) == (503, "ServiceUnavailableException")
    assert b"keytrail signs with" in reply.body
    assert keytrail(before_stub.records()[-1])["upstream"]["status"] == 400


def test_aws_not_there(before_stub: BeforeStub) -> None:
    before_stub.stub.stop()
    reply = before_stub.server.post(*GENERATE)
    assert (reply.status, reply.code) == (500, "KMSInternalException")
    assert b"127.0.0.1" not in reply.body
    upstream = keytrail(before_stub.records()[-1])["upstream"]
    assert (upstream["attempts"], len(upstream["failures"])) == (2, 2)
    assert before_stub.server.post(*DISABLE).status == 500
    assert "effect" not in keytrail(before_stub.records()[-1])  # nothing was sent
    before_stub.stub.start()
    assert before_stub.server.post(*DISABLE).status == 200


# --- a role for each caller


def test_a_role_for_each_caller_keeps_the_callers_name(world: World, tmp_path: Path) -> None:
    with world.stub(tmp_path, {}) as stub:
        settings = world.settings(
            stub.port,
            KEYTRAIL_AWS_ROLE="arn:aws:iam::123456789012:role/kms-{caller}",
            AWS_ENDPOINT_URL_STS=world.moto.url,
        )
        with world.keytrail(tmp_path, settings) as server:
            for _ in range(3):
                assert server.post(*GENERATE).status == 200
        assert {entry.access_key_id[:4] for entry in stub.journal if entry.access_key_id} == {"ASIA"}
        assert len({entry.access_key_id for entry in stub.journal}) == 1


def test_a_role_that_cannot_be_assumed_is_an_answer(world: World, tmp_path: Path) -> None:
    with world.stub(tmp_path) as stub:
        settings = world.settings(
            stub.port,
            KEYTRAIL_AWS_ROLE="arn:aws:iam::123456789012:role/kms-{caller}",
            AWS_ENDPOINT_URL_STS=f"https://127.0.0.1:{stub.port}",  # which is no STS
        )
        with world.keytrail(tmp_path, settings) as server:
            reply = server.post(*GENERATE)
            assert (reply.status, reply.code) == (503, "ServiceUnavailableException")
            (record,) = server.records()
            assert record["errorCode"] == "ServiceUnavailableException"
            assert OURS[1] not in json.dumps(record) and OURS[1].encode() not in reply.body


# --- through a proxy on the way out


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
def test_out_through_squid_with_a_password(world: World, tmp_path: Path, tls: bool) -> None:
    certificate = world.authority.server("localhost", "127.0.0.1") if tls else None
    options = SquidOptions(users={"keytrail": "pa55 word/:@"}, certificate=certificate, hosts={KMS: "127.0.0.1"})
    with squid(tmp_path, options) as proxy:
        url = f"http{'s' * tls}://keytrail:pa55%20word%2F%3A%40@{proxy.address}"
        endpoint = f"https://{KMS}:{world.moto.port}"
        settings = world.settings(0, KEYTRAIL_AWS_EGRESS_PROXY=url, KEYTRAIL_AWS_ENDPOINT=endpoint)
        del settings["KEYTRAIL_AWS_HOSTS"]
        with world.keytrail(tmp_path, settings) as server:
            key = server.client().create_key()["KeyMetadata"]["KeyId"]
            assert server.client().generate_data_key(KeyId=key, KeySpec="AES_256")["Plaintext"]
            assert keytrail(server.records()[-1])["upstream"]["host"] == KMS
            command_lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.children().values())
            assert b"pa55" not in command_lines
    assert {(access.method, access.target, access.user) for access in proxy.accesses} == {
        ("CONNECT", f"{KMS}:{world.moto.port}", "keytrail")
    }
    written = b"".join(path.read_bytes() for path in server.outputs)
    assert b"pa55" not in written


def test_a_proxy_that_wants_another_password_is_named(world: World, tmp_path: Path) -> None:
    with squid(tmp_path, SquidOptions(users={"keytrail": "right"}, hosts={KMS: "127.0.0.1"})) as proxy:
        url = f"http://keytrail:wrong-canary@{proxy.address}"
        settings = world.settings(0, KEYTRAIL_AWS_EGRESS_PROXY=url, KEYTRAIL_AWS_ENDPOINT=f"https://{KMS}:{world.moto.port}")
        del settings["KEYTRAIL_AWS_HOSTS"]
        with world.keytrail(tmp_path, settings) as server:
            reply = server.post(*GENERATE)
            assert (reply.status, reply.code) == (500, "KMSInternalException")
            (record,) = server.records()
            assert "407" in keytrail(record)["upstream"]["failures"][0]
            assert "aws_egress_proxy" in keytrail(record)["upstream"]["failures"][0]
    assert "canary" not in json.dumps(record) + "".join(path.read_text() for path in server.outputs)
