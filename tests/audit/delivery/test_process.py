"""The process that delivers: what it reports, how it waits, and that nothing ends it but its end."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.companion import Status
from audit.delivery.check import check
from audit.delivery.comparing import compare_delivery
from audit.delivery.deliverer import Deliverer
from audit.delivery.destination import FolderDestination
from audit.delivery.logs import FollowedLog
from audit.delivery.opening import Delivery, DeliveryBusy, held, open_deliverer
from audit.delivery.process import Process
from audit.delivery.state import StateFile
from audit.errors import LogIncident
from audit.reconcile.files import Wanted, find_files
from tests.audit.delivery.fakes import TRAIL, Crash, Fuse, keys_of
from tests.audit.delivery.test_deliverer import KEY, NOON, World
from tests.audit.forge import Forge


class Turns:
    """`stopped`, which ends after so many rounds, and what it was asked to wait; `each` is done in every round."""

    def __init__(self, world: World, rounds: int) -> None:
        self.waits: list[float] = []
        self._world = world
        self._rounds = rounds

    def __call__(self, within_s: float) -> bool:
        if within_s:
            self.waits.append(within_s)
            self._world.now += within_s
        return len(self.waits) > self._rounds


def run(world: World, rounds: int) -> tuple[list[Status], list[float]]:
    told: list[Status] = []
    turns = Turns(world, rounds)
    Process(world.open, told.append, turns, lambda: world.now).run()
    return told, turns.waits


def test_it_delivers_and_says_that_it_is_well() -> None:
    world = World()
    world.add()
    told, waits = run(world, 3)
    assert set(told) == {Status(ready=True)}
    assert waits == [1.0] * 4
    world.require_whole()


def test_it_delivers_what_is_sealed_when_it_ends() -> None:
    world = World()

    class Late(Turns):
        def __call__(self, within_s: float) -> bool:
            ended = super().__call__(within_s)
            if len(self.waits) == 2 and not world.logs["w0"].lines:
                world.add()
            return ended

    Process(world.open, lambda _: None, Late(world, 2), lambda: world.now).run()
    assert len(world.records()) == 1


def test_it_waits_longer_after_each_fault_up_to_a_minute_and_says_since_when() -> None:
    world = World()
    world.add()
    world.destination.fault = "s3://evidence: NoSuchBucket: there is no such bucket"
    told, waits = run(world, 10)
    assert waits == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]
    assert set(told) == {
        Status(
            False, "s3://evidence: NoSuchBucket: there is no such bucket; what waits is in the log, since 2026-01-02T12:00:01Z"
        )
    }
    assert len(told) == 10, "not once more, when it ends"


def test_it_is_well_again_when_the_destination_is() -> None:
    world = World()
    world.add()
    world.destination.fault = "down"

    class Back(Turns):
        def __call__(self, within_s: float) -> bool:
            if len(self.waits) == 5:
                world.destination.fault = None
            return super().__call__(within_s)

    told: list[Status] = []
    turns = Back(world, 8)
    Process(world.open, told.append, turns, lambda: world.now).run()
    assert [status.ready for status in told][:4] == [False] * 4 and told[-1] == Status(ready=True)
    assert turns.waits[-1] == 1.0
    world.require_whole()


def test_it_ends_between_two_steps() -> None:
    world = World()
    world.add()
    world.now += 0
    for _ in range(3):
        world.add("w1")
    asked = []

    def stopped(within_s: float) -> bool:
        asked.append(within_s)
        return len(asked) > 1

    one = Process(world.open, lambda _: None, stopped, lambda: world.now)
    one.deliver(lambda: stopped(0))
    assert world.records() and len(world.records()) < 5


def test_an_incident_of_a_log_is_told_while_others_are_delivered() -> None:
    world = World()
    world.add()
    world.logs["w1"].lines.append(b"no record")
    world.logs["w1"].signed = 1
    told, _ = run(world, 2)
    assert not told[-1].ready and "INCIDENT: log w1: record 0" in str(told[-1].reason)
    assert len(world.records()) == 1


# --- on a data folder


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    (tmp_path / "data").mkdir()
    return Forge.create(tmp_path / "data")


def open_on(forge: Forge, destination: Path) -> Deliverer:
    return open_deliverer(forge.instance.data, Delivery(str(destination)), lambda: NOON)


def test_a_log_is_read_as_far_as_it_is_sealed_and_durable(forge: Forge) -> None:
    log = FollowedLog(forge.folder, forge.checkpoints)
    assert log.sealed() == 0
    forge.grow(5)
    forge.seal()
    assert log.sealed() == 5
    lines = b"".join(path.read_bytes() for path in sorted(forge.folder.glob("*.jsonl"))).split(b"\n")[:-1]
    assert log.read(0, 2) + log.read(2, 99) == lines
    assert log.read(1, 1) == lines[1:2]
    forge.grow(3)
    assert log.sealed() == 5
    (forge.checkpoints / "latest").write_bytes(b"torn")
    assert log.sealed() == 0, "a power cut: until the sealer has mended it"


def test_two_at_once_take_turns(forge: Forge) -> None:
    with held(forge.instance.data, wait=False), pytest.raises(DeliveryBusy), held(forge.instance.data, wait=False):
        raise AssertionError("never here")
    with held(forge.instance.data, wait=True):
        pass


def test_the_process_delivers_to_a_folder_and_ends_when_its_input_does(forge: Forge, tmp_path: Path) -> None:
    forge.grow(5)
    forge.seal()
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    plan = orjson.dumps({"destination": str(evidence)}) + b"\n"
    argv = [sys.executable, "-m", "audit.delivery", str(forge.instance.data)]
    done = subprocess.run(argv, input=plan, capture_output=True, timeout=60, check=True)
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == [{"ready": True, "reason": None, "failed": False}]
    files = [path for path in evidence.rglob("*.json.gz") if "CloudTrail-Digest" not in str(path)]
    found = [record for path in files for record in orjson.loads(gzip.decompress(path.read_bytes()))["Records"]]
    assert len(found) == 5
    assert not done.stderr


@pytest.mark.parametrize(
    ("data", "plan", "told"), [("data", b"", "no plan of a delivery"), ("none", b'{"destination": "x"}', "never initialised")]
)
def test_a_start_that_cannot_be_is_told(forge: Forge, tmp_path: Path, data: str, plan: bytes, told: str) -> None:
    argv = [sys.executable, "-m", "audit.delivery", str(tmp_path / data)]
    done = subprocess.run(argv, input=plan + b"\n" * bool(plan), capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert told in orjson.loads(done.stdout)["reason"]
    assert not done.stderr


def test_other_readers_of_cloudtrail_find_the_log_files_and_nothing_else(tmp_path: Path) -> None:
    """`keytrail reconcile` and `keytrail import` go by the same layout as tools do."""
    world = World()
    world.add()
    world.deliver()
    world.now += 3_600
    world.deliver()
    folder = FolderDestination(tmp_path)
    for key, stored in world.destination.objects.items():
        folder.put(key, stored.data, stored.metadata)
    (found,) = find_files(str(tmp_path), Wanted(accounts=["111122223333"], regions=["eu-central-1"]))
    assert "/CloudTrail/eu-central-1/2026/01/02/" in found.name
    assert not list(find_files(str(tmp_path), Wanted(regions=["us-east-1"])))


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_each_system_call_on_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    """State and folder as they are in production: whatever rename or sync is the last, before or after it."""
    points, number = 1, 0
    while number < points:
        points = _crash_at(tmp_path / str(number), monkeypatch, number, before)
        number += 1
    assert points > 30


def _crash_at(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, before: bool) -> int:
    """Deliver and digest; the process is gone at the system call `number`, and others go on. Gives how many calls there were."""
    world, fuse = World(), Fuse(at=number)
    (folder / "evidence").mkdir(parents=True)
    world.add()
    world.add("w1", awsRegion="us-east-1")

    def fused(call: Any) -> Any:  # Any: of os
        def one(*arguments: Any) -> Any:
            if before:
                fuse.point()
            done = call(*arguments)
            if not before:
                fuse.point()
            return done

        return one

    def deliver() -> None:
        destination, journal = FolderDestination(folder / "evidence"), StateFile(folder, "evidence")
        one = Deliverer(TRAIL, destination, journal, lambda: KEY, lambda: world.logs, lambda: world.now, world.terms)
        while one.step():
            pass

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fused(os.rename))
        patch.setattr(os, "fsync", fused(lambda fd: None))  # a killed process leaves what it wrote, synced or not
        for _ in range(2):
            try:
                deliver()
            except Crash:
                world.now += 61
                deliver()
            world.now += 3_600
    state = StateFile(folder, "evidence").load()
    report = check(TRAIL, FolderDestination(folder / "evidence"), world.logs, keys_of(KEY), state)
    assert (report.faults, report.records, report.files, report.digests) == ((), 2, 2, 2)
    return fuse.points


def test_a_destination_is_compared_also_where_only_the_log_is_left(forge: Forge, tmp_path: Path) -> None:
    """The state is gone, and with it the trail's name, which the digests have; the keys are an auditor's copy."""
    forge.grow(5)
    forge.seal()
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    data, now = forge.instance.data, float(NOON)
    with held(data, wait=False):
        one = open_deliverer(data, Delivery(str(evidence), trail="other"), lambda: now)
        assert one.step() and not one.step()
        now += 3_600
        assert one.step() and not one.step()
    assert not compare_delivery(data, str(evidence), None).faults
    copy = tmp_path / "digest.pub"
    copy.write_bytes((data / "delivery" / "digest.pub").read_bytes())
    shutil.rmtree(data / "delivery")
    report = compare_delivery(data, str(evidence), copy)
    assert (report.faults, report.records, report.digests) == ((), 5, 1)
    reasons = [fault.reason for fault in compare_delivery(data, str(evidence), None).faults]
    assert reasons == ["it is signed with a key that is not this trail's"]


def test_a_segment_that_is_gone_is_an_incident(forge: Forge, tmp_path: Path) -> None:
    forge.grow(5)
    forge.seal()
    for path in forge.folder.glob("*.jsonl"):
        path.unlink()
    with held(forge.instance.data, wait=False):
        one = open_on(forge, tmp_path)
        assert not one.step()
    assert "INCIDENT" in one.incidents[forge.log]
    with pytest.raises(LogIncident):
        FollowedLog(forge.folder, forge.checkpoints).read(0, 1)
