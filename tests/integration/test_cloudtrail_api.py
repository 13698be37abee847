"""CloudTrail's API on the admin listener of a running keytrail, by the unmodified aws CLI and boto3.

The last test is the whole way: calls to KMS, delivered into SeaweedFS by `serve`, and judged by `aws cloudtrail validate-logs`,
which finds the trail and its keys at the admin listener.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.config
import botocore.exceptions
import pytest

from tests.integration.components.seaweedfs import seaweedfs
from tests.integration.conftest import REGION, Server, keytrail, keytrail_command, plain_environment, wait_until

ACCOUNT = "111122223333"
READER, NOBODY, FOREIGNER = (
    f"arn:aws:iam::{account}:user/{name}"
    for account, name in ((ACCOUNT, "auditor"), (ACCOUNT, "nobody"), ("444455556666", "foreigner"))
)
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["cloudtrail:LookupEvents", "cloudtrail:Describe*", "cloudtrail:List*"], "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["cloudtrail:GetTrail", "cloudtrail:GetTrailStatus"],
            "Resource": f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/keytrail",
        },
    ],
}
Json = Any


class Api:
    """The API of a running server, as one of its callers asks it."""

    def __init__(self, server: Server, profile: str) -> None:
        self.server = server
        self.key, self.secret = server.credentials(profile)

    def client(self, region: str = REGION, secret: str = "") -> Json:
        return boto3.client(
            "cloudtrail",
            endpoint_url=self.server.admin_url,
            region_name=region,
            aws_access_key_id=self.key,
            aws_secret_access_key=secret or self.secret,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )

    def events(self, *attributes: tuple[str, str], **asked: Json) -> list[Json]:
        """All events, page by page."""
        wanted = [{"AttributeKey": key, "AttributeValue": value} for key, value in attributes]
        pages = self.client().get_paginator("lookup_events").paginate(LookupAttributes=wanted, **asked)
        return [json.loads(event["CloudTrailEvent"]) for page in pages for event in page["Events"]]

    def aws(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = plain_environment() | {
            "AWS_ENDPOINT_URL_CLOUDTRAIL": self.server.admin_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "NO_PROXY": "127.0.0.1",
        }
        command = [str(Path(sys.executable).with_name("aws")), "cloudtrail", *arguments, "--output", "json"]
        return subprocess.run(command, env=own | environment, capture_output=True, text=True, timeout=120, check=False)


def refused(ask: Json, **arguments: Json) -> tuple[str, int]:
    """Error code and HTTP status of a call that is refused."""
    with pytest.raises(botocore.exceptions.ClientError) as told:
        ask(**arguments)
    return told.value.response["Error"]["Code"], told.value.response["ResponseMetadata"]["HTTPStatusCode"]


def add_caller(data: Path, arn: str, policy: Path | None) -> None:
    options = [] if policy is None else ["--policy", str(policy)]
    command = [keytrail_command(), "caller", "add", arn, *options, "--data", str(data)]
    subprocess.run(command, env=plain_environment(), check=True, capture_output=True, cwd=data.parent)


def is_answering(server: Server) -> bool:
    return bool(server.health()[1]["processes"]["trail"]["ready"])


@pytest.fixture(scope="module")
def prepared(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three callers besides the first. Copy it: it is the module's."""
    data = tmp_path_factory.mktemp("prepared") / "data"
    shutil.copytree(initialised, data)
    policy = data.parent / "audit-reader.json"
    policy.write_text(json.dumps(POLICY))
    for arn, given in ((READER, policy), (NOBODY, None), (FOREIGNER, policy)):
        add_caller(data, arn, given)
    return data


@pytest.fixture(scope="module")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with some calls in its log: sixty by the first caller, by all four names of the key, and one refused."""
    data = tmp_path_factory.mktemp("served") / "data"
    shutil.copytree(prepared, data)
    running = Server(data, {"KEYTRAIL_CLOUDTRAIL_API": "true"}).start()
    key_id = running.demo_key_id()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    for name in ("alias/demo", arn.replace(f"key/{key_id}", "alias/demo"), key_id, arn) * 15:
        assert running.post("GenerateDataKey", {"KeyId": name, "KeySpec": "AES_256"}).status == 200
    assert running.post("GenerateDataKey", {"KeyId": "alias/none", "KeySpec": "AES_256"}).status == 400
    assert running.post("CreateAlias", {"AliasName": "alias/second", "TargetKeyId": key_id}).status == 200
    wait_until(lambda: is_answering(running), "CloudTrail's API answers", 60)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def reader(server: Server) -> Api:
    return Api(server, "auditor")


def own(server: Server) -> list[Json]:
    """The records of the logs that LookupEvents tells of, but for those of itself."""
    return [one for log in ("admin", "w0") for one in server.records(log) if keytrail(one)["phase"] != "intent"]


def ids(events: list[Json]) -> list[str]:
    return [event["eventID"] for event in events if event["eventSource"] != "cloudtrail.amazonaws.com"]


def test_the_cli_pages_through_the_whole_log_and_has_every_record_once(server: Server, reader: Api) -> None:
    done = reader.aws("lookup-events", "--page-size", "7")
    assert done.returncode == 0, done.stderr
    told = [json.loads(event["CloudTrailEvent"]) for event in json.loads(done.stdout)["Events"]]
    assert sorted(ids(told)) == sorted(ids(own(server))) and len(told) > 60
    times = [keytrail(event)["time"] for event in told]
    assert times == sorted(times, reverse=True)
    by_id = {one["eventID"]: one for one in own(server)}
    assert all(by_id[event["eventID"]] == event for event in told if event["eventID"] in by_id)


def test_boto3_has_at_most_fifty_in_a_page_and_its_types(reader: Api) -> None:
    page = reader.client().lookup_events()
    assert len(page["Events"]) == 50 and page["NextToken"]
    (event, *_) = reader.client().lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateAlias"}]
    )["Events"]
    assert isinstance(event["EventTime"], datetime) and event["ReadOnly"] == "false" and event["Username"] == "demo"
    assert {one["ResourceType"] for one in event["Resources"]} == {"AWS::KMS::Key", "AWS::KMS::Alias"}


def test_each_attribute_finds_what_has_it(server: Server, reader: Api) -> None:
    records = own(server)
    one = next(record for record in reversed(records) if record["eventName"] == "CreateAlias")
    for key, value, expected in (
        ("EventId", one["eventID"], [one]),
        ("EventName", "GenerateDataKey", [record for record in records if record["eventName"] == "GenerateDataKey"]),
        ("ReadOnly", "false", [record for record in records if not record["readOnly"]]),
        ("Username", "demo", [record for record in records if record["userIdentity"].get("userName") == "demo"]),
        ("AccessKeyId", one["userIdentity"]["accessKeyId"], [r for r in records if "accessKeyId" in r["userIdentity"]]),
        ("EventSource", "kms.amazonaws.com", [record for record in records if record["eventSource"] == "kms.amazonaws.com"]),
        ("ResourceType", "AWS::KMS::Alias", [r for r in records if any(x["type"] == "AWS::KMS::Alias" for x in r["resources"])]),
    ):
        assert expected, key
        assert sorted(ids(reader.events((key, value)))) == sorted(ids(expected)), key
    both = reader.events(("EventName", "GenerateDataKey"), ("ReadOnly", "true"), ("Username", "demo"))
    assert len(both) == 61
    assert not reader.events(("EventName", "GenerateDataKey"), ("ReadOnly", "false"))


def test_any_name_of_the_key_finds_the_calls_by_every_name(server: Server, reader: Api) -> None:
    key_id = server.demo_key_id()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    found = {
        name: ids(reader.events(("ResourceName", name), ("EventName", "GenerateDataKey")))
        for name in (arn, key_id, "alias/demo", arn.replace(f"key/{key_id}", "alias/demo"))
    }
    assert [len(one) for one in found.values()] == [60] * 4
    assert len({tuple(one) for one in found.values()}) == 1


def test_an_interval_is_kept(server: Server, reader: Api) -> None:
    times = sorted(datetime.fromisoformat(one["eventTime"]) for one in own(server))
    assert len(ids(reader.events(StartTime=times[0], EndTime=times[-1]))) == len(times)
    assert not reader.events(EndTime=times[0] - timedelta(seconds=1))
    assert not reader.events(StartTime=datetime.now(UTC) + timedelta(hours=1))


def test_another_account_sees_its_own_events_and_no_other(server: Server) -> None:
    foreigner = Api(server, "foreigner")
    foreigner.events()
    seen = foreigner.events()
    assert {event["eventName"] for event in seen} == {"LookupEvents"}
    assert {event["recipientAccountId"] for event in seen} == {"444455556666"}


def test_another_region_has_its_own_events(reader: Api) -> None:
    reader.client("eu-west-3").lookup_events()
    assert {json.loads(one["CloudTrailEvent"])["eventName"] for one in reader.client("eu-west-3").lookup_events()["Events"]} == {
        "LookupEvents"
    }


def test_every_call_is_on_record_and_so_is_every_refusal(server: Server, reader: Api) -> None:
    before = len(server.records("trail"))
    reader.client().lookup_events(LookupAttributes=[{"AttributeKey": "Username", "AttributeValue": "demo"}], MaxResults=1)
    nobody = Api(server, "nobody")
    assert refused(nobody.client().lookup_events) == ("AccessDeniedException", 400)
    assert refused(reader.client(secret="wrong").lookup_events) == ("InvalidSignatureException", 400)
    assert refused(reader.client().get_trail, Name="other-trail") == ("AccessDeniedException", 400)
    answered, denied, unsigned, elsewhere = server.records("trail")[before:]
    for record in (answered, denied, unsigned, elsewhere):
        assert record["eventSource"] == "cloudtrail.amazonaws.com" and record["readOnly"] is True
        assert record["sourceIPAddress"] == "127.0.0.1"
    assert answered["requestParameters"] == {
        "lookupAttributes": [{"attributeKey": "Username", "attributeValue": "demo"}],
        "maxResults": 1,
    }
    assert answered["userIdentity"]["arn"] == READER
    assert keytrail(answered)["allowedBy"] == [{"policy": "audit-reader", "statement": "1"}]
    assert (denied["errorCode"], denied["userIdentity"]["arn"]) == ("AccessDenied", NOBODY)
    assert unsigned["errorCode"] == "InvalidSignatureException" and unsigned["userIdentity"]["type"] == "Unknown"
    assert elsewhere["errorCode"] == "AccessDenied" and elsewhere["requestParameters"] == {"name": "other-trail"}


def test_what_is_no_question_has_cloudtrails_error(reader: Api) -> None:
    ask = reader.client().lookup_events
    zero = datetime(2026, 1, 1, tzinfo=UTC)
    for arguments, code in (
        ({"MaxResults": 51}, "InvalidMaxResultsException"),
        ({"MaxResults": 0}, "InvalidMaxResultsException"),
        ({"LookupAttributes": [{"AttributeKey": "Colour", "AttributeValue": "red"}]}, "InvalidLookupAttributesException"),
        ({"LookupAttributes": [{"AttributeKey": "ReadOnly", "AttributeValue": "red"}]}, "InvalidLookupAttributesException"),
        ({"StartTime": zero, "EndTime": zero - timedelta(seconds=1)}, "InvalidTimeRangeException"),
        ({"EventCategory": "other"}, "InvalidEventCategoryException"),
        ({"NextToken": "made up"}, "InvalidNextTokenException"),
    ):
        assert refused(ask, **arguments) == (code, 400), arguments
    assert ask(EventCategory="insight")["Events"] == []
    assert refused(reader.client().get_trail, Name="keytrail") == ("TrailNotFoundException", 400)
    assert reader.client().describe_trails()["trailList"] == []
    assert reader.client().list_trails()["Trails"] == []
    assert reader.client().list_public_keys()["PublicKeyList"] == []
    assert refused(reader.client().create_trail, Name="mine", S3BucketName="b") == ("UnsupportedOperationException", 400)


def test_a_token_is_for_its_question_its_caller_and_unchanged(server: Server, reader: Api) -> None:
    ask = reader.client().lookup_events
    token = ask(MaxResults=2)["NextToken"]
    assert len(ask(MaxResults=5, NextToken=token)["Events"]) == 5
    changed = token[:60] + ("A" if token[60] != "A" else "B") + token[61:]
    named = [{"AttributeKey": "Username", "AttributeValue": "demo"}]
    for again, arguments in (
        (ask, {"NextToken": changed}),
        (ask, {"NextToken": token, "LookupAttributes": named}),
        (reader.client("eu-west-3").lookup_events, {"NextToken": token}),
        (Api(server, "foreigner").client().lookup_events, {"NextToken": token}),
    ):
        assert refused(again, **arguments) == ("InvalidNextTokenException", 400)


def test_rubbish_is_refused_and_harms_nobody(server: Server, reader: Api) -> None:
    address = urlsplit(server.admin_url)
    assert address.hostname is not None
    for body, headers in (
        (b"", {}),
        (b"{", {"X-Amz-Target": "CloudTrail_20131101.LookupEvents"}),
        (b"\0" * 1_000_000, {"Authorization": "AWS4-HMAC-SHA256 Credential=a/b/c"}),
        (b"x", {"X-Keytrail-Peer": "203.0.113.9", "Transfer-Encoding": "chunked"}),
    ):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        connection.request("POST", "/", iter([body]) if "Transfer-Encoding" in headers else body, headers, encode_chunked=True)
        response = connection.getresponse()
        assert response.status in (400, 413) and json.loads(response.read())["__type"]
        connection.close()
    assert {record["sourceIPAddress"] for record in server.records("trail")} == {"127.0.0.1"}
    with pytest.raises(urllib.error.HTTPError) as told, urllib.request.urlopen(server.admin_url, timeout=20):  # noqa: S310 - http
        pass
    assert told.value.code == 405
    told.value.close()
    assert len(reader.events(("EventName", "CreateAlias"), ("Username", "demo"))) == 1


def test_the_socket_is_for_its_owner_alone(server: Server) -> None:
    folder = server.data / "trail"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"socket": "0o600", "token.key": "0o600"}


def deny(action: str) -> Json:
    return {"Version": "2012-10-17", "Statement": [{"Sid": "No", "Effect": "Deny", "Action": action, "Resource": "*"}]}


@pytest.fixture
def own_api(prepared: Path, tmp_path: Path) -> Iterator[Server]:
    """A running server of the test's own, whose guardrails are in the folder `policies` beside its data."""
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "10-nothing.json").write_text(json.dumps(deny("kms:DisableKey")))
    running = Server(data, {"KEYTRAIL_CLOUDTRAIL_API": "true", "KEYTRAIL_POLICIES": str(tmp_path / "policies")})
    running.settings["KEYTRAIL_HEARTBEAT_S"] = "60"
    try:
        running.start()
        wait_until(lambda: is_answering(running), "CloudTrail's API answers", 60)
        yield running
    finally:
        running.kill_all()


def test_a_process_that_is_killed_is_started_anew_and_calls_to_kms_go_on(own_api: Server) -> None:
    client = Api(own_api, "auditor").client()
    token = client.lookup_events(MaxResults=1)["NextToken"]
    killed = own_api.children()["trail"]
    os.kill(killed, signal.SIGKILL)
    assert own_api.post("DescribeKey", {"KeyId": "alias/demo"}).status == 200
    wait_until(lambda: own_api.children().get("trail", killed) != killed and is_answering(own_api), "it is started anew", 60)
    assert client.lookup_events(MaxResults=1, NextToken=token)["Events"]
    names = [record["eventName"] for record in own_api.records("trail")]
    assert names == ["StartServing", "LookupEvents", "StartServing", "LookupEvents"]
    assert own_api.stop() == 0
    assert own_api.records("trail")[-1]["eventName"] == "StopServing"
    verify = [keytrail_command(), "verify", "--data", str(own_api.data)]
    verified = subprocess.run(verify, capture_output=True, text=True, check=False, cwd=own_api.data.parent)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_guardrails_that_change_are_kept_from_a_sighup_on(own_api: Server) -> None:
    client = Api(own_api, "auditor").client()
    assert client.lookup_events()["Events"]
    (own_api.data.parent / "policies" / "no.json").write_text(json.dumps(deny("cloudtrail:*")))
    before = own_api.children()["trail"]
    os.kill(own_api.process.pid, signal.SIGHUP)
    wait_until(lambda: own_api.children().get("trail", before) != before and is_answering(own_api), "it is started anew", 60)
    assert refused(client.lookup_events) == ("AccessDeniedException", 400)
    assert keytrail(own_api.records("trail")[-1])["deniedBy"] == {"policy": "no.json", "statement": "No"}


def test_without_the_setting_there_is_no_api(own_server: Server) -> None:
    own_server.start()
    access_key_id, secret = own_server.credentials()
    client = boto3.client(
        "cloudtrail",
        endpoint_url=own_server.admin_url,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
    )
    assert refused(client.lookup_events)[1] == 404
    assert not (own_server.data / "log" / "trail").exists()


def test_what_is_delivered_by_serve_is_valid_to_the_cli(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    (tmp_path / "weed").mkdir()
    auditor = Server(data).credentials("auditor")  # the CLI signs for S3 as it signs for CloudTrail
    with seaweedfs(tmp_path / "weed", dict([auditor])) as weed:
        weed.client().create_bucket(Bucket="evidence")
        served = Server(
            data,
            {
                "KEYTRAIL_CLOUDTRAIL_API": "true",
                "KEYTRAIL_DELIVERY": "s3://evidence/host-1",
                "KEYTRAIL_DELIVERY_ENDPOINT": weed.url,
                "KEYTRAIL_DELIVERY_INTERVAL_S": "1",
                "KEYTRAIL_DELIVERY_DIGEST_S": "2",
                **weed.environment,
            },
        )
        began = datetime.now(UTC) - timedelta(minutes=1)
        try:
            served.start()
            wait_until(lambda: is_answering(served), "CloudTrail's API answers", 60)
            for _ in range(20):
                assert served.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}).status == 200
            api = Api(served, "auditor")
            client = api.client()
            wait_until(
                lambda: "LatestDigestDeliveryTime" in client.get_trail_status(Name="keytrail"), "a digest is delivered", 90
            )
            status = client.get_trail_status(Name="keytrail")
            assert status["IsLogging"] and began < status["LatestDeliveryTime"] <= datetime.now(UTC)
            assert "LatestDeliveryError" not in status
            (trail,) = client.describe_trails()["trailList"]
            assert client.get_trail(Name=trail["TrailARN"])["Trail"] == trail and trail["S3KeyPrefix"] == "host-1"
            assert client.list_trails()["Trails"][0]["TrailARN"] == trail["TrailARN"]
            assert Api(served, "foreigner").client().describe_trails()["trailList"] == []
            valid = validate(api, weed.url, trail["TrailARN"], began)
            assert valid.returncode == 0 and "log files valid" in valid.stdout, valid.stdout + valid.stderr
            assert "INVALID" not in valid.stdout
            forge(weed.client())
            invalid = validate(api, weed.url, trail["TrailARN"], began)
            assert invalid.returncode == 1 and "INVALID: hash value doesn't match" in invalid.stderr, invalid.stderr
            weed.kill()
            wait_until(lambda: "LatestDeliveryError" in client.get_trail_status(Name="keytrail"), "the trail tells of it", 60)
        finally:
            served.kill_all()


def validate(api: Api, s3: str, arn: str, start: datetime) -> subprocess.CompletedProcess[str]:
    """`aws cloudtrail validate-logs`: the trail and its keys from keytrail, and the files from S3."""
    return api.aws("validate-logs", "--verbose", "--trail-arn", arn, "--start-time", start.isoformat(), AWS_ENDPOINT_URL_S3=s3)


def forge(client: Json) -> None:
    """Change one byte of each log file."""
    for key in [one["Key"] for one in client.list_objects_v2(Bucket="evidence")["Contents"]]:
        if "/CloudTrail/" in key:
            text = gzip.decompress(client.get_object(Bucket="evidence", Key=key)["Body"].read())
            client.put_object(Bucket="evidence", Key=key, Body=gzip.compress(text.replace(b'"1.11"', b'"1.12"', 1)))
