"""The command `keytrail verify`: its output and its exits."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import VerifierKey
from audit.segments import segment_name
from audit.verifying.titles import TITLES
from tests.audit.forge import Forge, line
from tests.audit.verifying.verdicts import run


def test_the_command_prints_the_numbered_steps_and_what_is_wrong(forge: Forge) -> None:
    result = run(forge)
    assert result.exit_code == 0
    steps = result.stdout.splitlines()[1:-1]
    assert [text.split()[:2] for text in steps] == [
        ["\u2013" if n in (7, 8, 10, 11, 12, 13, 14) else "\u2713", f"{n}."] for n in TITLES
    ]
    assert result.stdout.splitlines()[-1] == "Verified."

    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    result = run(forge)
    assert result.exit_code == 1
    faults = result.stdout.splitlines()[-2:]
    assert faults[0].startswith(f"admin/{segment_name(10)} line 5: record 14 is not the one that checkpoint 1 of the history")
    assert faults[1] == "VERIFICATION FAILED."
    assert orjson.loads(run(forge, "--json").stdout)["passed"] is False


def test_the_command_takes_saved_checkpoints_and_keys(forge: Forge, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.write_bytes(forge.latest.encode().replace(b"\n", b"\r\n"))  # it went by mail
    key = str(forge.verifier)
    assert run(forge, "--checkpoint", str(saved), "--checkpoint", "-", "--key", key, given=forge.latest.encode()).exit_code == 0
    wrong = VerifierKey.of(forge.instance.origin("admin"), Ed25519PrivateKey.generate())
    assert run(forge, "--checkpoint", str(saved), "--key", str(wrong)).exit_code == 1


def test_the_exits_of_the_command(forge: Forge, tmp_path: Path) -> None:
    assert run(forge, "--key", "mistyped").exit_code == 2
    assert run(forge, "--checkpoint", str(tmp_path / "none")).exit_code == 3
    refused = run(forge, "--checkpoint", "-", given=b"\xff\xfe\x00")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: not a signed note")
    (forge.instance.data / "keytrail.json").unlink()
    assert run(forge).exit_code == 3


@pytest.mark.parametrize("evil", ["\x1b[31m", "\u009b31m", "\u202e", "\x07"])
def test_the_log_cannot_command_the_terminal(forge: Forge, evil: str) -> None:
    record = orjson.loads(line(35, phase="intent"))
    forge.append(orjson.dumps({**record, "eventID": evil}, option=orjson.OPT_APPEND_NEWLINE))
    for arguments in ((), ("--json",)):
        result = run(forge, *arguments)
        assert result.exit_code == 1
        assert evil not in result.stdout


def test_the_log_cannot_pass_for_markup(forge: Forge) -> None:
    record = orjson.loads(line(35, phase="intent"))
    forge.append(orjson.dumps({**record, "eventID": "[red]x[/red]"}, option=orjson.OPT_APPEND_NEWLINE))
    assert "(event [red]x[/red])" in run(forge).stdout
