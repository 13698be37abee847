"""CloudTrail's own tools on what is delivered: `aws cloudtrail validate-logs` on SeaweedFS and `trailscraper select`, unmodified.

A day of traffic in two regions, with made-up times: the clock is an argument. What validate-logs does not see, `check` does: each
such attack is shown to both.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions
import orjson
import pytest

from audit.companion import Status
from audit.delivery.bucket import BucketDestination, Retention
from audit.delivery.check import check
from audit.delivery.deliverer import Deliverer, Terms
from audit.delivery.destination import Destination, DestinationFault, FolderDestination
from audit.delivery.keys import open_key, read_public_keys, rotate_key
from audit.delivery.layout import Place, Trail
from audit.delivery.logs import Logs
from audit.delivery.opening import delivery_folder
from audit.delivery.process import Process
from audit.delivery.records import body_of
from audit.delivery.state import StateFile
from audit.instance import Instance
from audit.report import DeliveryReport
from audit.sealing.keys import create_key
from tests.audit.delivery.conformance import check_conformance
from tests.audit.forge import Forge
from tests.audit.query.builder import START, at, placed, record
from tests.integration.components.cloudtrail import cloudtrail_api
from tests.integration.components.seaweedfs import SeaweedFS, seaweedfs
from tests.integration.conftest import Server, keytrail_command, plain_environment, wait_until

HOME = Place("111122223333", "eu-central-1")
SOUTH = Place(HOME.account_id, "sa-east-1")
HOURS, EVERY_S = 24, 1_200
MIDNIGHT = int(START.timestamp())
RANGE = ("--start-time", "2026-01-02T00:00:00Z", "--end-time", "2026-01-03T00:30:00Z")


@dataclass
class Day:
    """A data folder with a day of traffic in its log, and where that is delivered."""

    forge: Forge
    trail: Trail
    destination: Destination
    now: float = MIDNIGHT

    @classmethod
    def begin(cls, data: Path, trail: Trail, destination: Destination) -> Day:
        data.mkdir()
        instance = Instance.create(data, HOME.account_id, HOME.region, "2026-01-02T00:00:00Z")
        create_key(instance)
        instance.save()
        delivery_folder(data).mkdir()
        return cls(Forge(instance), trail, destination)

    @property
    def data(self) -> Path:
        return self.forge.instance.data

    def open(self) -> Deliverer:
        folder = delivery_folder(self.data)
        state = StateFile(folder, self.trail.bucket)
        return Deliverer(
            self.trail,
            self.destination,
            state,
            lambda: open_key(folder, int(self.now)),
            Logs(self.data),
            lambda: self.now,
            Terms(),
        )

    def add(self, **changes: Any) -> None:  # Any: changes of a record
        number = self.forge.records
        content = record(**{"recipientAccountId": HOME.account_id, "awsRegion": HOME.region, "eventID": f"e{number}", **changes})
        self.forge.append(orjson.dumps(placed(content, self.forge.log, number, at(self.now - MIDNIGHT))) + b"\n")

    def live(self) -> None:
        """A day goes by."""
        for number in range(HOURS * 3_600 // EVERY_S):
            self.add(context={"number": str(number)})
            self.add(event="CreateAlias", phase="intent", readOnly=False)
            self.add(event="CreateAlias", readOnly=False, awsRegion=SOUTH.region if number > 30 else HOME.region)
            self.forge.seal()
            self.deliver()
            self.now += EVERY_S
            if number == 30:
                rotate_key(delivery_folder(self.data), int(self.now))
        self.deliver()

    def deliver(self) -> None:
        one = self.open()
        while one.step():
            pass

    def check(self) -> DeliveryReport:
        state = StateFile(delivery_folder(self.data), self.trail.bucket).load()
        return check(self.trail, self.destination, Logs(self.data)(), read_public_keys(delivery_folder(self.data)), state)

    def keys(self, place: Place, kind: str = "CloudTrail") -> list[str]:
        return list(self.destination.keys(f"{self.trail.root}{place.account_id}/{kind}/{place.region}/"))


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture(scope="module")
def day(weed: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Day:
    client = weed.client()
    client.create_bucket(Bucket="evidence")
    trail = Trail("keytrail", HOME, "evidence", "host-1")
    lived = Day.begin(tmp_path_factory.mktemp("day") / "data", trail, BucketDestination("evidence", client))
    lived.live()
    return lived


def validate(day: Day, weed: SeaweedFS, *options: str, region: str = HOME.region) -> tuple[int, str]:
    """Exit code and output of `aws cloudtrail validate-logs`."""
    with cloudtrail_api(day.trail, read_public_keys(delivery_folder(day.data))) as url:
        environment = (
            plain_environment()
            | weed.environment
            | {
                "AWS_ENDPOINT_URL_CLOUDTRAIL": url,
                "AWS_ENDPOINT_URL_S3": weed.url,
                "NO_PROXY": "127.0.0.1",
            }
        )
        aws = [str(Path(sys.executable).with_name("aws")), "cloudtrail", "validate-logs", "--trail-arn", day.trail.arn]
        done = subprocess.run(
            [*aws, *(options or RANGE), "--region", region],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


class Changed:
    """Objects of a bucket that are put back as they were."""

    def __init__(self, client: Any, bucket: str) -> None:  # Any: boto3's
        self._client = client
        self._bucket = bucket
        self._before: dict[str, Any] = {}

    def _keep(self, key: str) -> None:
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=key)
            self._before.setdefault(key, (found["Body"].read(), found["Metadata"]))
        except self._client.exceptions.NoSuchKey:
            self._before.setdefault(key, None)

    def put(self, key: str, body: bytes) -> None:
        self._keep(key)
        before = self._before[key]
        self._client.put_object(Bucket=self._bucket, Key=key, Body=gzip.compress(body), Metadata=before[1] if before else {})

    def body(self, key: str) -> bytes:
        return gzip.decompress(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def delete(self, key: str) -> None:
        self._keep(key)
        self._client.delete_object(Bucket=self._bucket, Key=key)

    def back(self) -> None:
        for key, before in self._before.items():
            if before is None:
                self._client.delete_object(Bucket=self._bucket, Key=key)
            else:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=before[0], Metadata=before[1])


@pytest.fixture
def changed(weed: SeaweedFS, day: Day) -> Iterator[Changed]:
    one = Changed(weed.client(), "evidence")
    yield one
    one.back()
    assert not day.check().faults


# --- aws cloudtrail validate-logs


def test_validate_logs_finds_a_day_valid(weed: SeaweedFS, day: Day) -> None:
    code, told = validate(day, weed)
    assert code == 0, told
    assert f"{HOURS}/{HOURS} digest files valid" in told
    assert f"{HOURS * 3}/{HOURS * 3} log files valid" in told
    code, told = validate(day, weed, region=SOUTH.region)
    assert (code, "INVALID" in told) == (0, False)
    assert "14/14 digest files valid" in told and "41/41 log files valid" in told
    report = day.check()
    assert not report.faults
    assert (report.files, report.digests) == (HOURS * 3 + 41, HOURS + 14)
    assert report.records == 2 * HOURS * 3


def test_validate_logs_finds_one_changed_byte(weed: SeaweedFS, day: Day, changed: Changed) -> None:
    key = day.keys(HOME)[30]
    body = changed.body(key)
    changed.put(key, body.replace(b"alice", b"alicf", 1))
    code, told = validate(day, weed)
    assert code == 1
    assert f"s3://evidence/{key}\tINVALID: hash value doesn't match" in told
    assert "1/72 log files INVALID" in told
    assert key in {fault.log for fault in day.check().faults}


def test_validate_logs_finds_a_changed_digest(weed: SeaweedFS, day: Day, changed: Changed) -> None:
    key = day.keys(HOME, "CloudTrail-Digest")[10]
    changed.put(key, changed.body(key).replace(b"2026-01-02", b"2026-01-01", 1))
    code, told = validate(day, weed)
    assert code == 1 and "INVALID: signature verification failed" in told
    assert key in {fault.log for fault in day.check().faults}


def test_validate_logs_finds_deleted_files(weed: SeaweedFS, day: Day, changed: Changed) -> None:
    log, digest = day.keys(HOME)[30], day.keys(HOME, "CloudTrail-Digest")[2]
    changed.delete(log)
    changed.delete(digest)
    code, told = validate(day, weed)
    assert code == 1 and "1/24 digest files INVALID" in told and "log files INVALID" in told
    assert {log} <= {fault.log for fault in day.check().faults}


# --- what it does not see, and we do


def test_the_newest_digests_deleted_with_their_logs(weed: SeaweedFS, day: Day, changed: Changed) -> None:
    for key in [*day.keys(HOME, "CloudTrail-Digest")[-3:], *day.keys(HOME)[-9:]]:
        changed.delete(key)
    assert validate(day, weed)[0] == 0
    assert {fault.step for fault in day.check().faults} == {20, 23}


def test_a_forged_log_file_beside_the_digests(weed: SeaweedFS, day: Day, changed: Changed) -> None:
    line = orjson.loads(changed.body(day.keys(HOME)[0]))["Records"][0]
    line["additionalEventData"]["keytrail"]["sequence"] = 7_000
    forged = body_of([orjson.dumps(line)])
    key = day.trail.log_key(HOME, MIDNIGHT + 7_260, forged)
    changed.put(key, forged)
    assert validate(day, weed)[0] == 0
    assert [(fault.step, fault.log) for fault in day.check().faults] == [(22, key)]


def test_another_region_and_a_range_without_digests_exit_0(weed: SeaweedFS, day: Day) -> None:
    """Nothing is found, and validate-logs is content. Ours begins with the log, so that it cannot be asked for nothing."""
    for told in (
        validate(day, weed, region="ap-south-1"),
        validate(day, weed, "--start-time", "2026-02-01T00:00:00Z", "--end-time", "2026-02-02T00:00:00Z"),
    ):
        assert told[0] == 0 and "No digests found" in told[1]
    elsewhere = Day(day.forge, Trail("keytrail", HOME, "evidence", "host-2"), day.destination, day.now)
    steps = {step.number: step.verdict.value for step in elsewhere.check().steps}
    assert steps[20] == steps[23] == "failed"


# --- trailscraper


def test_trailscraper_reads_every_record(day: Day, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    for key in day.destination.keys(day.trail.root):
        stored = day.destination.get(key)
        assert stored is not None
        path = folder / key.removeprefix("host-1/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored.data)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("trailscraper")),
            "select",
            "--log-dir",
            str(folder),
            "--from",
            "2026-01-01",
            "--to",
            "2026-01-05",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)["Records"]
    lines = b"".join(path.read_bytes() for path in sorted(day.forge.folder.glob("*.jsonl"))).split(b"\n")[:-1]
    ours = {
        one["eventID"]: one
        for line in lines
        if (one := orjson.loads(line))["additionalEventData"]["keytrail"]["phase"] == "outcome"
    }
    assert len(found) == len(ours) == 2 * HOURS * 3
    assert {one["eventID"]: one for one in found} == ours


# --- SeaweedFS as a destination


def test_seaweedfs_does_as_the_fake(weed: SeaweedFS) -> None:
    client = weed.client()
    client.create_bucket(Bucket="conformance")
    check_conformance(BucketDestination("conformance", client))


def test_object_lock_keeps_what_was_delivered(weed: SeaweedFS) -> None:
    client = weed.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    destination = BucketDestination("locked", client, Retention(1, "COMPLIANCE"))
    destination.put("a/k", b"data", {})
    version = client.head_object(Bucket="locked", Key="a/k")["VersionId"]
    with pytest.raises(botocore.exceptions.ClientError, match=r"AccessDenied|locked"):
        client.delete_object(Bucket="locked", Key="a/k", VersionId=version)
    assert client.get_object_retention(Bucket="locked", Key="a/k")["Retention"]["Mode"] == "COMPLIANCE"


def test_a_bucket_without_object_lock_is_said(weed: SeaweedFS) -> None:
    client = weed.client()
    client.create_bucket(Bucket="unlocked")
    with pytest.raises(DestinationFault, match="the bucket has no Object Lock"):
        BucketDestination("unlocked", client, Retention(1, "GOVERNANCE")).put("k", b"data", {})


def test_s3_down_and_back(tmp_path: Path) -> None:
    """SeaweedFS is stopped for real; the hour that passes is the clock's."""
    with seaweedfs(tmp_path) as weed:
        weed.client().create_bucket(Bucket="evidence")
        down = Day.begin(
            tmp_path / "data",
            Trail("keytrail", HOME, "evidence", ""),
            BucketDestination("evidence", weed.client(connect_timeout=2, read_timeout=5)),
        )
        told: list[Status] = []
        waits: list[float] = []

        def stopped(within_s: float) -> bool:
            """A round of the process: the clock goes on, and so does the traffic."""
            if within_s:
                waits.append(within_s)
                down.now += 60.0 if weed_is_back else within_s
                if len(waits) == 5:
                    weed.kill()
                if down.now > MIDNIGHT + 4_500 and not weed_is_back:
                    weed.start()
                    weed_is_back.append(True)
                down.add()
                down.forge.seal()
            return bool(weed_is_back) and len(told) > 0 and told[-1].ready and down.now > MIDNIGHT + 7_300

        weed_is_back: list[bool] = []
        Process(down.open, told.append, stopped, lambda: down.now).run()
        assert told[0] == Status(ready=True)
        reasons = {str(status.reason) for status in told if not status.ready}
        assert any(
            "Could not connect to the endpoint URL" in reason and "since 2026-01-02T00:0" in reason for reason in reasons
        ), reasons
        assert max(waits) == 60.0
        assert told[-1] == Status(ready=True)
        report = down.check()
        assert not report.faults
        assert report.records == down.forge.records
        assert report.digests == 2
        code, output = validate(down, weed, "--start-time", "2026-01-02T00:00:00Z", "--end-time", "2026-01-02T04:00:00Z")
        assert code == 0 and "2/2 digest files valid" in output, output


# --- beside a running keytrail


def command(data: Path, weed: SeaweedFS, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = plain_environment() | weed.environment | {"KEYTRAIL_DATA": str(data), **settings}
    return subprocess.run(
        [keytrail_command(), *words], env=environment, cwd=data.parent, capture_output=True, text=True, timeout=120, check=False
    )


def test_serve_delivers_while_it_is_killed_again_and_again(weed: SeaweedFS, own_server: Server) -> None:
    """Processes of the delivery are killed in the middle of what they do; in the end all is there once."""
    weed.client().create_bucket(Bucket="served")
    settings = {
        "KEYTRAIL_DELIVERY": "s3://served/host",
        "KEYTRAIL_DELIVERY_ENDPOINT": weed.url,
        "KEYTRAIL_DELIVERY_INTERVAL_S": "1",
        "KEYTRAIL_DELIVERY_DIGEST_S": "1",
        "KEYTRAIL_SEGMENT_MAX_BYTES": "20000",
    }
    own_server.settings |= settings | weed.environment
    own_server.start()
    destination = BucketDestination("served", weed.client())

    def delivered() -> int:
        return sum("CloudTrail-Digest" not in key for key in destination.keys("host/"))

    for number in range(4):
        for _ in range(30):
            assert own_server.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}).status == 200
        wait_until(lambda before=number: delivered() > before, "something is delivered")  # type: ignore[misc]
        if number < 3 and (pid := own_server.children().get("delivery")):
            os.kill(pid, 9)
    wait_until(lambda: own_server.health()[1]["processes"]["delivery"]["ready"], "delivery is well")
    assert own_server.stop() == 0
    done = command(own_server.data, weed, "verify", "--delivery", "s3://served/host", "--endpoint-url", weed.url, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, [report["delivery"]["faults"], done.stderr]
    calls = [one for one in own_server.records() if one["eventSource"] == "kms.amazonaws.com"]
    assert len(calls) >= 120
    state = json.loads(command(own_server.data, weed, "deliver", "status", "--json", **settings).stdout)
    sealed = {one["log"]: one for one in state["logs"]}["w0"]
    assert sealed["delivered"] == sealed["sealed"] == own_server.count_records()
    assert report["delivery"]["records"] >= len(calls)
    assert (report["delivery"]["files"], report["delivery"]["digests"]) == (state["logFiles"], state["digests"])


@pytest.mark.parametrize(
    ("key_id", "told"),
    [
        ("AKIASTRANGER", "InvalidAccessKeyId: S3 does not know this access key"),
        (
            SeaweedFS.reader_key_id,
            "AccessDenied: these credentials may not do that: delivery needs s3:PutObject and s3:GetObject",
        ),
    ],
)
def test_credentials_that_s3_refuses_are_told_and_calls_go_on(
    weed: SeaweedFS, own_server: Server, key_id: str, told: str
) -> None:
    stranger = {**weed.environment, "AWS_ACCESS_KEY_ID": key_id}
    own_server.settings |= {"KEYTRAIL_DELIVERY": "s3://served", "KEYTRAIL_DELIVERY_ENDPOINT": weed.url, **stranger}
    own_server.start()

    def reason() -> str:
        return str(own_server.health()[1]["processes"]["delivery"]["reason"])

    wait_until(lambda: told in reason() and "; what waits is in the log, since 20" in reason(), "it is told")
    assert own_server.is_ready()
    assert own_server.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}).status == 200
    assert own_server.stop() == 0


def test_the_commands(weed: SeaweedFS, initialised: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "evidence"
    shutil.copytree(initialised, data)
    done = command(data, weed, "deliver", "once")
    assert (done.returncode, done.stderr) == (
        3,
        "keytrail: nothing is delivered: set `delivery` to a folder or to s3://BUCKET/PREFIX\n",
    )
    settings = {"KEYTRAIL_DELIVERY": str(folder)}
    assert "nothing was delivered yet" in command(data, weed, "deliver", "status", **settings).stdout
    done = command(data, weed, "deliver", "once", **settings)
    assert done.returncode == 3 and "make it, or see whether it is mounted" in done.stderr
    folder.mkdir()
    done = command(data, weed, "deliver", "once", **settings)
    assert (done.returncode, done.stdout) == (0, f"{folder}: 1 log files and 0 digests were delivered.\n"), done.stderr
    status = command(data, weed, "deliver", "status", **settings).stdout
    assert "trail keytrail, 1 log files and 0 digests." in status and "The last log files were delivered at 20" in status
    found = [json.loads(gzip.decompress(path.read_bytes())) for path in folder.rglob("*.json.gz")]
    assert {one["eventSource"] for document in found for one in document["Records"]} == {"kms.amazonaws.com"}
    assert FolderDestination(folder).get(next(FolderDestination(folder).keys("AWSLogs/"))) is not None
    done = command(data, weed, "verify", "--delivery", str(folder))
    assert done.returncode == 0 and "✓ 20. every record that is due was delivered" in done.stdout, done.stdout + done.stderr
    for path in folder.rglob("*.json.gz"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"CreateKey", b"DeleteKe")))
    done = command(data, weed, "verify", "--delivery", str(folder))
    assert done.returncode == 1 and "VERIFICATION FAILED" in done.stdout


def test_the_key_of_the_digests_is_rotated_on_record(initialised: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "evidence"
    shutil.copytree(initialised, data)
    folder.mkdir()

    def keytrail(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = plain_environment() | {"KEYTRAIL_DATA": str(data), "KEYTRAIL_DELIVERY": str(folder)}
        words = [keytrail_command(), *arguments]
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    def recorded() -> list[dict[str, Any]]:
        lines = [line for path in sorted((data / "log" / "admin").glob("*.jsonl")) for line in path.read_bytes().splitlines()]
        return [record for record in map(orjson.loads, lines) if record["eventName"] == "RotateDigestKey"]

    done = keytrail("deliver", "rotate-key")
    assert done.returncode == 3 and "the key was not changed: " in done.stderr
    assert [record["additionalEventData"]["keytrail"]["phase"] for record in recorded()] == ["intent", "outcome"]
    assert recorded()[-1]["errorCode"]
    assert keytrail("deliver", "once").returncode == 0
    done = keytrail("deliver", "rotate-key")
    assert done.returncode == 0, done.stderr
    first, second = read_public_keys(delivery_folder(data))
    assert first != second and done.stdout == f"Digests are signed with the key {second} from the next one on.\n"
    assert recorded()[-1]["responseElements"] == {"keyId": second} and "errorCode" not in recorded()[-1]
    assert open_key(delivery_folder(data), 0).public.fingerprint == second


def test_the_key_is_rotated_while_digests_are_made(own_server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    settings = {"KEYTRAIL_DELIVERY": str(folder), "KEYTRAIL_DELIVERY_DIGEST_S": "1"}
    own_server.settings |= settings
    own_server.start()

    def signers() -> set[str]:
        digests = [orjson.loads(gzip.decompress(path.read_bytes())) for path in folder.rglob("*_CloudTrail-Digest_*.json.gz")]
        return {digest["digestPublicKeyFingerprint"] for digest in digests}

    def keytrail(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTRAIL_"))}
        environment |= settings | {"KEYTRAIL_DATA": str(own_server.data)}
        return subprocess.run([keytrail_command(), *arguments], env=environment, capture_output=True, text=True, check=False)

    wait_until(lambda: len(signers()) == 1, "there is a digest")
    assert keytrail("deliver", "rotate-key").returncode == 0
    wait_until(lambda: len(signers()) == 2, "there is one by the new key")
    assert own_server.stop() == 0
    assert signers() == set(read_public_keys(delivery_folder(own_server.data)))
    done = keytrail("verify", "--delivery", str(folder))
    assert done.returncode == 0, done.stdout
