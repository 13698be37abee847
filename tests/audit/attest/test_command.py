"""The commands: options, exits, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audit.attest.command import app
from audit.checkpoint import VerifierKey
from tests.audit.attest.builder import House
from tests.audit.query.builder import KEY_A, fingerprint


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path / "data")
    house.add(0, "Init", log="admin", user="root", key=None)
    house.add(10, blobs_in=["one"], context={"tenant": "acme"})
    house.add(20, user="eve\x1b[31m", error="AccessDenied")
    house.seal()
    return house


@pytest.fixture(autouse=True)
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def run(house: House, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments], input=stdin, env={"KEYTRAIL_DATA": str(house.data), "COLUMNS": "200"})


def attested(house: House, *arguments: str) -> bytes:
    result = run(house, "attest-absence", *(arguments or ("--fingerprint", fingerprint("four"))))
    assert result.exit_code == 0, result.stderr
    return result.stdout_bytes


def verified(house: House, document: bytes, *arguments: str) -> Result:
    return run(house, "verify-attestation", "-", *arguments, stdin=document)


def test_what_is_absent_is_attested_and_verified(house: House, tmp_path: Path) -> None:
    out = tmp_path / "absence.json"
    result = run(house, "attest-absence", "--fingerprint", fingerprint("four").upper(), "--from", "2026-01-02", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"No record with fingerprint {fingerprint('four')}, from 2026-01-02T00:00:00.000000Z to before " in result.stderr
    assert "  w0: 2 records, 2 of them in the interval, the newest of 2026-01-02T00:00:20.000000Z" in result.stderr
    result = run(house, "verify-attestation", str(out), "--key", str(house.verifier))
    assert result.exit_code == 0, result.stdout
    assert "✓ 1. it is signed by the key that is trusted" in result.stdout
    assert "– 8. no record of the log at hand matches: the log was not given" in result.stdout
    assert result.stdout.endswith("It holds.\n")


def test_the_document_goes_to_standard_output(house: House) -> None:
    document = attested(house)
    assert json.loads(document)["payloadType"] == "application/vnd.in-toto+json"
    assert document.isascii() and document.count(b"\n") == 1
    result = verified(house, document, "--key", str(house.verifier), "--data", str(house.data))
    assert (result.exit_code, "✗" in result.stdout) == (0, False)


@pytest.mark.parametrize(
    "options",
    [
        ["--fingerprint", fingerprint("four"), "--fingerprint", fingerprint("one")],
        ["--key", KEY_A],
        ["--caller", "user/alice"],
        ["--caller", "alice"],
        ["--access-key", "AKIAALICE"],
        ["--context", "tenant=acme"],
        ["--event", "Dec*"],
        ["--error", "AccessDenied"],
        ["--caller", "alice", "--from", "2026-01-02T00:00:10Z", "--to", "2026-01-02T00:00:10.000001Z"],
    ],
)
def test_what_is_there_is_listed_and_nothing_is_signed(house: House, options: list[str], tmp_path: Path) -> None:
    result = run(house, "attest-absence", *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "NOT ABSENT: " in result.stderr
    assert "w0/00000000000000000000.jsonl:" in result.stderr
    assert "\x1b" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert result.stdout == ""


@pytest.mark.parametrize(
    "options",
    [
        ["--fingerprint", fingerprint("four")],
        ["--key", "alias/none"],
        ["--caller", "user/bob"],
        ["--access-key", "AKIABOB"],
        ["--context", "tenant=acme", "--context", "user=7"],
        ["--event", "Encrypt"],
        ["--error", "NotFoundException"],
        ["--caller", "alice", "--error", "any"],
        ["--caller", "alice", "--to", "2026-01-02T00:00:10Z"],
    ],
)
def test_every_condition_can_be_attested(house: House, options: list[str]) -> None:
    assert verified(house, attested(house, *options), "--key", str(house.verifier), "--data", str(house.data)).exit_code == 0


def test_many_hits_are_counted(house: House) -> None:
    for second in range(30, 60):
        house.add(second)
    result = run(house, "attest-absence", "--caller", "alice")
    assert "NOT ABSENT: 31 records, from 2026-01-02T00:00:10.000000Z to 2026-01-02T00:00:59.000000Z" in result.stderr
    assert "  and " in result.stderr


def test_a_limited_attestation_is_written_and_said_to_be_one(house: House) -> None:
    result = run(house, "attest-absence", "--caller", "bob", "--from", "2025-12-31")
    assert result.exit_code == 1
    assert "LIMITED: the logs begin at 2026-01-02T00:00:00.000000Z" in result.stderr
    result = verified(house, result.stdout_bytes, "--key", str(house.verifier))
    assert result.exit_code == 1
    assert "✗ 6. it holds for all that was asked" in result.stdout
    assert "before that nothing was recorded (step 6)" in result.stdout
    assert result.stdout.endswith("IT DOES NOT HOLD AS IT STANDS.\n")


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ([], 2, "has to say what is absent"),
        (["--from", "7d"], 2, "has to say what is absent"),
        (["--fingerprint", "ff"], 2, "not a fingerprint"),
        (["--caller", "bob", "--to", "2999-01-01"], 2, "in the future"),
        (["--caller", "bob", "--from", "soon"], 2, "not a time"),
        (["--caller", "bob", "--context", "tenant"], 2, "not a context pair"),
        (["--caller", "bob", "--checkpoint", "/nowhere/at/all"], 3, "No such file"),
        (["--caller", "bob", "--out", "/nowhere/at/all"], 3, "No such file"),
        (["--caller", "bob", "--data", "/nowhere/at/all"], 3, "never initialised"),
    ],
)
def test_what_cannot_be_asked_is_one_line(house: House, options: list[str], code: int, reason: str) -> None:
    result = run(house, "attest-absence", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert reason in result.stderr.splitlines()[-1]


def test_an_incident_is_a_finding(house: House) -> None:
    house.edit(b"AKIAALICE", b"AKIAALICF")
    result = run(house, "attest-absence", "--caller", "bob")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "INCIDENT: log w0: its lines are not those" in result.stderr


def test_saved_checkpoints_are_proved_to_be_extended(house: House, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.write_text(house.latest().replace("\n", "\r\n") + "\r\n" + house.latest("admin"), "utf-8")
    house.add(60)
    house.seal()
    options = ("--checkpoint", str(saved), "--key", str(house.verifier))
    result = verified(house, attested(house, "--caller", "bob"), *options)
    assert (result.exit_code, "cannot be compared without the log" in result.stdout) == (1, True)
    result = verified(house, attested(house, "--caller", "bob", "--checkpoint", str(saved)), *options)
    assert result.exit_code == 0, result.stdout
    assert "✓ 5. every saved checkpoint is of the same tree: 2 saved checkpoints" in result.stdout


def test_without_a_key_it_fails_and_says_so(house: House) -> None:
    result = verified(house, attested(house))
    assert result.exit_code == 1
    assert "no key was given: only the form was checked (step 1)" in result.stdout


def test_other_keys_fail_or_are_mistyped(house: House) -> None:
    other = VerifierKey(house.verifier.name, bytes(32))
    assert verified(house, attested(house), "--key", str(other)).exit_code == 1
    result = verified(house, attested(house), "--key", "nonsense")
    assert result.exit_code == 2
    assert "--key: not a verifier key" in result.stderr
    result = verified(house, attested(house), "--key", str(VerifierKey("sum.golang.org", bytes(32))))
    assert result.exit_code == 2
    assert "not the name of a key of keytrail" in result.stderr


def test_the_report_as_json_is_plain_ascii(house: House) -> None:
    document = attested(house, "--context", "tenant=\x1b[31mé")
    result = verified(house, document, "--key", str(house.verifier), "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [step["verdict"] for step in report["steps"]] == ["passed"] * 4 + ["not-checked", "passed"] + ["not-checked"] * 2
    assert report["statement"]["predicate"]["question"]["context"] == [["tenant", "\x1b[31mé"]]
    assert result.stdout.isascii() and "\x1b" not in result.stdout
    assert "\x1b" not in verified(house, document, "--key", str(house.verifier)).stdout


def test_a_file_that_is_no_attestation_fails(house: House) -> None:
    result = verified(house, b"\x1b[31m", "--key", str(house.verifier))
    assert result.exit_code == 1
    assert "not an attestation" in result.stdout
    assert run(house, "verify-attestation", "/nowhere/at/all", "--key", str(house.verifier)).exit_code == 3


def test_what_occurs_nowhere_is_hinted_at(house: House) -> None:
    result = run(house, "attest-absence", "--event", "Decrpyt", "--caller", "user/nobody", "--from", "2026-01-02")
    assert result.exit_code == 0, result.stderr
    assert [line.partition(" is in no")[0] for line in result.stderr.splitlines() if line.startswith("HINT")] == [
        "HINT: caller *:user/nobody",
        "HINT: event Decrpyt",
    ]
    # what does occur, though not in the interval, is no hint
    known = run(house, "attest-absence", "--context", "tenant=acme", "--from", "2026-01-02T00:00:15Z")
    assert (known.exit_code, "HINT" in known.stderr) == (0, False), known.stderr
