"""Receipts: read as they are written, and held against the log: a deleted tail, an altered record, a log that is not here."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from audit import cli
from audit.canonical import timestamp
from audit.errors import ReceiptInvalid
from audit.log import Mark
from audit.merkle import leaf_hash
from audit.receipts import Awaited, ClaimedReceipt, read_receipts, write_receipt
from audit.report import Report, Verdict
from audit.verify import verify
from tests.audit.forge import Forge, line

LEAF = leaf_hash(b"x")
ORIGIN = "keytrail/0123456789abcdef/w0"


@given(st.integers(0, 10**18 - 1), st.binary(min_size=32, max_size=32))
def test_a_receipt_is_read_as_it_was_written(sequence: int, leaf: bytes) -> None:
    assert ClaimedReceipt.parse(write_receipt(ORIGIN, sequence, leaf)) == ClaimedReceipt(ORIGIN, sequence, leaf)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ORIGIN,
        f"{ORIGIN} 7",
        f"{ORIGIN} 07 {'A' * 43}=",
        f"{ORIGIN} -7 {'A' * 43}=",
        f"{ORIGIN} 7 {'A' * 40}",
        f"{ORIGIN} 7 {'A' * 42}B=",
        f"{ORIGIN}  7 {'A' * 43}=",
        f"{ORIGIN} 7 {'A' * 43}= ",
        f"x-keytrail-receipt: {ORIGIN} 7 {'A' * 43}=",
        f"{ORIGIN} ٧ {'A' * 43}=",
    ],
)
def test_what_is_no_receipt(text: str) -> None:
    with pytest.raises(ReceiptInvalid, match="not a receipt: it should be LOG SEQUENCE LEAF"):
        ClaimedReceipt.parse(text)


def test_a_file_names_its_line() -> None:
    good = write_receipt(ORIGIN, 7, LEAF)
    assert read_receipts(f"{good}\n{good}\n", "f") == [ClaimedReceipt(ORIGIN, 7, LEAF)] * 2
    with pytest.raises(ReceiptInvalid, match=r"^f, line 2: not a receipt"):
        read_receipts(f"{good}\nrubbish\n", "f")
    with pytest.raises(ReceiptInvalid, match="f holds no receipt"):
        read_receipts("", "f")


def test_two_receipts_for_one_record_have_to_agree() -> None:
    other = leaf_hash(b"y")
    assert Awaited([ClaimedReceipt(ORIGIN, 0, LEAF)] * 2).meet(0, LEAF, "")
    assert not Awaited([ClaimedReceipt(ORIGIN, 0, LEAF), ClaimedReceipt(ORIGIN, 0, other)]).meet(0, LEAF, "")


# --- against a log


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    (tmp_path / "data").mkdir()
    made = Forge.create(tmp_path / "data")
    made.grow(25)
    made.seal()
    return made


def receipts(forge: Forge, *numbers: int) -> list[ClaimedReceipt]:
    lines = b"".join(path.read_bytes() for path in sorted(forge.folder.glob("*.jsonl"))).split(b"\n")
    return [ClaimedReceipt(forge.instance.origin(forge.log), number, leaf_hash(lines[number])) for number in numbers]


def verified(forge: Forge, given_: list[ClaimedReceipt]) -> Report:
    return verify(forge.instance.data, receipts=given_)


def faults(report: Report) -> list[str]:
    return [str(fault) for fault in report.faults if fault.step == 10]


def step(report: Report) -> tuple[Verdict, str]:
    (found,) = [one for one in report.logs[0].steps if one.number == 10]
    return found.verdict, found.detail


def test_receipts_of_an_honest_log(forge: Forge) -> None:
    report = verified(forge, receipts(forge, *range(25)))
    assert report.passed and step(report) == (Verdict.PASSED, "25 given")
    assert step(verified(forge, [])) == (Verdict.NOT_CHECKED, "none was given")


def test_a_deleted_tail_shows_though_everything_on_the_host_agrees(forge: Forge) -> None:
    collected = receipts(forge, 3, 21, 24)
    forge.write(2, forge.lines(2)[:2])
    (forge.folder / "mark").write_bytes(Mark(22, 20, forge.segment(2).stat().st_size, 0).encode())
    for name in ("history", "latest", "frontier", "leaves"):
        (forge.checkpoints / name).unlink()
    forge.seal()
    assert verified(forge, []).passed, "without a receipt nobody can tell"
    report = verified(forge, collected)
    assert not report.passed
    assert faults(report) == ["admin: a receipt was given for record 24: the log ends with record 21"]


def test_a_record_that_was_rewritten_and_signed_anew_shows(forge: Forge) -> None:
    collected = receipts(forge, 3, 12)
    lines = forge.lines(1)
    forge.write(1, [*lines[:2], line(12, word="Decrypt"), *lines[3:]])
    (forge.folder / "mark").write_bytes(Mark(25, 20, forge.segment(2).stat().st_size, 0).encode())
    for name in ("history", "latest", "frontier", "leaves"):
        (forge.checkpoints / name).unlink()
    forge.seal()
    report = verified(forge, collected)
    assert faults(report) == ["admin/00000000000000000010.jsonl line 3: record 12 is not the one that a receipt was given for"]


def test_a_record_that_is_missing_in_the_middle(forge: Forge) -> None:
    collected = receipts(forge, 12)
    lines = forge.lines(1)
    forge.write(1, [*lines[:2], *lines[3:]])
    assert faults(verified(forge, collected)) == ["admin: a receipt was given for record 12: it is missing"]


def test_what_is_under_no_checkpoint_has_to_be_young(forge: Forge) -> None:
    forge.grow(1)  # of another year
    assert faults(verified(forge, receipts(forge, 3, 25))) == [
        "admin: record 25, which a receipt was given for, is under no checkpoint that agrees"
    ]


@pytest.mark.parametrize(("age_s", "is_young"), [(0, True), (9, True), (11, False), (-9, True), (-11, False), (-86_400, False)])
def test_how_young_what_is_under_no_checkpoint_may_be(forge: Forge, age_s: int, is_young: bool) -> None:
    """Of another year is one of the future too: whoever rewrites a record writes its time."""
    now_us = 1_800_000_000_000_000
    record = orjson.loads(line(25))
    record["additionalEventData"]["keytrail"]["time"] = timestamp(now_us - age_s * 1_000_000)
    forge.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    report = verify(forge.instance.data, receipts=receipts(forge, 25), now_us=lambda: now_us)
    assert (faults(report) == []) is is_young


def test_receipts_of_a_log_that_is_not_here(forge: Forge) -> None:
    foreign = ClaimedReceipt("keytrail/ffffffffffffffff/w0", 3, LEAF)
    report = verified(forge, [*receipts(forge, 3), foreign])
    assert not report.passed
    assert [str(fault) for fault in report.faults] == [
        "keytrail/ffffffffffffffff/w0: this instance has no such log",
        "keytrail/ffffffffffffffff/w0: a receipt was given for record 3: the log is empty",
    ]


# --- the command


def run(forge: Forge, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, ["verify", "--data", str(forge.instance.data), *arguments], input=stdin)


def test_the_command_takes_files_and_standard_input(forge: Forge, tmp_path: Path) -> None:
    texts = [write_receipt(one.origin, one.sequence, one.leaf) for one in receipts(forge, 1, 2)]
    file = tmp_path / "receipts.txt"
    file.write_text(texts[0] + "\n")
    result = run(forge, "--receipts", str(file), "--receipts", "-", stdin=texts[1] + "\n")
    assert result.exit_code == 0, result.output
    assert "✓ 10. every receipt that was given is of a record that is here, under a checkpoint: 2 given" in result.stdout
    file.write_text(texts[0][:-2] + "\n")
    result = run(forge, "--receipts", str(file))
    assert result.exit_code == 1 and f"error: {file}, line 1: not a receipt" in result.stderr
    result = run(forge, "--receipts", str(tmp_path / "none"))
    assert result.exit_code == 3
