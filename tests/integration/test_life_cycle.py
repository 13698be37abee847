"""Time goes by for a running server: keys are rotated and deleted, once, and the log tells it. The clock is a file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any  # JSON

from tests.integration.conftest import Server, keytrail, keytrail_command, wait_until

DAY_S = 86_400
LOGS = ("w0", "w1")


def clocked(server: Server) -> Path:
    clock = server.data.parent / "clock"
    clock.write_text("0")
    server.settings |= {"KEYTRAIL_CLOCK": str(clock), "KEYTRAIL_WORKERS": "2", "KEYTRAIL_INDEX": "false"}
    return clock


def call(server: Server, operation: str, **parameters: object) -> dict[str, Any]:
    reply = server.post(operation, parameters)
    assert reply.status == 200, reply.body
    answer: dict[str, Any] = json.loads(reply.body or b"{}")
    return answer


def new_key(server: Server) -> str:
    key: str = call(server, "CreateKey")["KeyMetadata"]["KeyId"]
    return key


def events(server: Server, name: str, phase: str = "outcome") -> list[dict[str, Any]]:
    found = [record for log in LOGS for record in server.records(log)]
    return [one for one in found if one["eventName"] == name and keytrail(one)["phase"] == phase]


def test_keys_rotate_and_are_deleted_when_their_time_has_come(own_server: Server) -> None:
    clock = clocked(own_server)
    own_server.start()
    rotating, dying, demo = new_key(own_server), new_key(own_server), own_server.demo_key_id()
    blob = call(own_server, "Encrypt", KeyId=rotating, Plaintext="b2xk")["CiphertextBlob"]
    call(own_server, "EnableKeyRotation", KeyId=rotating, RotationPeriodInDays=90)
    call(own_server, "ScheduleKeyDeletion", KeyId=dying, PendingWindowInDays=7)
    clock.write_text(str(91 * DAY_S))
    wait_until(lambda: bool(events(own_server, "RotateKey") and events(own_server, "DeleteKey")), "the events are recorded")

    assert own_server.post("DescribeKey", {"KeyId": dying}).code == "NotFoundException"
    assert call(own_server, "Decrypt", CiphertextBlob=blob)["Plaintext"] == "b2xk"
    [rotation] = call(own_server, "ListKeyRotations", KeyId=rotating)["Rotations"]
    [rotated], [deleted] = events(own_server, "RotateKey"), events(own_server, "DeleteKey")
    assert rotated["serviceEventDetails"]["currentKeyMaterialId"] == rotation["KeyMaterialId"]
    assert rotation["RotationType"] == rotated["serviceEventDetails"]["rotationType"] == "AUTOMATIC"
    assert deleted["serviceEventDetails"] == {"keyId": dying}
    call(own_server, "DescribeKey", KeyId=demo)
    assert {one["serviceEventDetails"]["offsetSeconds"] for one in events(own_server, "SetVirtualClock")} == {0, 91 * DAY_S}

    environment = os.environ | {"KEYTRAIL_DATA": str(own_server.data), "KEYTRAIL_CLOCK": str(clock)}
    told = subprocess.run(
        [keytrail_command(), "doctor"], env=environment, capture_output=True, text=True, cwd=own_server.data.parent
    )
    assert f"virtual clock, +{91 * DAY_S} s" in told.stdout
    assert own_server.stop() == 0
    verified = subprocess.run([keytrail_command(), "verify", "--data", str(own_server.data)], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout


def test_after_a_kill_in_the_midst_of_it_everything_is_done_once_and_told(own_server: Server) -> None:
    clock = clocked(own_server)
    own_server.start()
    keys = {new_key(own_server) for _ in range(10)}
    for key in keys:
        call(own_server, "EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    used = min(keys)
    call(own_server, "Encrypt", KeyId=used, Plaintext="eA==")
    clock.write_text(str(91 * DAY_S))
    wait_until(lambda: bool(events(own_server, "RotateKey", "intent")), "maintenance has begun")
    own_server.kill_all()
    own_server.start()
    wait_until(lambda: all(call(own_server, "ListKeyRotations", KeyId=key)["Rotations"] for key in keys), "all have rotated")
    for key in keys:
        [rotation] = call(own_server, "ListKeyRotations", KeyId=key)["Rotations"]
        assert rotation["RotationType"] == "AUTOMATIC"

    def last_use() -> dict[str, Any]:
        found: dict[str, Any] = call(own_server, "GetKeyLastUsage", KeyId=used)["KeyLastUsage"]
        return found

    wait_until(lambda: bool(last_use()), "the use is told from the log")
    [encrypted] = events(own_server, "Encrypt")
    told = last_use()
    assert (told["Operation"], told["CloudTrailEventId"]) == ("Encrypt", encrypted["eventID"])
    assert told["KmsRequestId"] == encrypted["requestID"]
    assert own_server.stop() == 0
    ends = events(own_server, "RotateKey") + events(own_server, "RotateKey", "unknown")
    assert {one["serviceEventDetails"]["keyId"] for one in ends} == keys
    assert {keytrail(one)["intent"] for one in ends} == {one["eventID"] for one in events(own_server, "RotateKey", "intent")}
