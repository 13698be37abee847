"""Step 1 of `verify`: the log is there, and so is every other that `keytrail.json`, a key or a checkpoint speaks of."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from audit.checkpoint import Checkpoint, VerifierKey, sign
from audit.instance import NoInstance
from audit.report import Verdict
from audit.segments import segment_name
from audit.verify import verify
from tests.audit.forge import Forge
from tests.audit.verifying.verdicts import failed, faults


def test_a_log_that_has_vanished(forge: Forge) -> None:
    forge.folder.rename(forge.instance.data / "elsewhere")
    report = forge.verify()
    assert {1, 5} <= failed(report)
    assert "has vanished" in faults(report, 1)[0].reason


def test_a_log_struck_off_the_list(forge: Forge) -> None:
    document = orjson.loads((forge.instance.data / "keytrail.json").read_bytes())
    (forge.instance.data / "keytrail.json").write_bytes(orjson.dumps({**document, "logs": []}))
    report = forge.verify()
    assert faults(report, 1)[0].reason == "keytrail.json does not list it"


def test_an_instance_without_logs_is_not_verified(forge: Forge) -> None:
    document = orjson.loads((forge.instance.data / "keytrail.json").read_bytes())
    (forge.instance.data / "keytrail.json").write_bytes(orjson.dumps({**document, "logs": []}))
    shutil.rmtree(forge.folder)
    shutil.rmtree(forge.checkpoints)
    report = forge.verify()
    assert [(fault.step, fault.log) for fault in report.faults] == [(1, "admin")]


def test_every_log_is_verified_and_one_fault_does_not_hide_another(forge: Forge) -> None:
    second = Forge(forge.instance.with_logs(["w0"]), "w0")
    second.grow(12)
    second.seal()
    assert forge.verify(forge.latest + "\n" + second.latest).passed
    for each in (forge, second):
        lines = each.lines(0)
        each.write(0, [lines[0], *lines[2:]])
    report = forge.verify()
    assert [(fault.log, fault.segment, fault.line) for fault in report.faults if fault.step == 3] == [
        ("admin", segment_name(0), 2),
        ("w0", segment_name(0), 2),
    ]


@pytest.mark.parametrize("origin", ["keytrail/0123456789abcdef/admin", "sum.golang.org", "../admin"])
def test_a_saved_checkpoint_of_a_log_that_is_not_here(forge: Forge, origin: str) -> None:
    note = sign(Checkpoint(origin, 1, bytes(32)), forge.key)
    report = forge.verify(note + "\n" + forge.latest)
    honest, other = report.logs
    assert not report.passed
    assert not [fault for fault in report.faults if fault.log == "admin"]
    assert honest.steps[6].passed
    assert other.log == origin
    assert {step.number for step in other.steps if step.verdict is Verdict.FAILED} == {1, 7}


def test_a_saved_checkpoint_or_a_key_of_a_log_that_vanished(forge: Forge) -> None:
    origin = forge.instance.origin("w7")
    by_checkpoint = forge.verify(sign(Checkpoint(origin, 5, bytes(32)), forge.key))
    by_key = verify(forge.instance.data, [VerifierKey.of(origin, forge.key)])
    assert [(fault.step, fault.log) for fault in by_checkpoint.faults] == [(1, "w7"), (7, "w7")]
    assert [(fault.step, fault.log) for fault in by_key.faults] == [(1, "w7")]


def test_a_folder_that_is_no_instance(tmp_path: Path) -> None:
    with pytest.raises(NoInstance):
        verify(tmp_path)
