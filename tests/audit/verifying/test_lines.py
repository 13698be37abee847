"""Tampering with lines: `verify` names each by its segment and number (steps 3 and 5)."""

from __future__ import annotations

import orjson
import pytest

from audit.merkle import leaf_hash
from audit.report import Fault
from audit.segments import segment_name
from tests.audit.forge import Forge, line
from tests.audit.verifying.verdicts import failed, faults, only, places

# --- what a line says


def test_a_changed_byte(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    report = forge.verify(forge.latest)
    assert failed(report) == {5, 7}
    assert places(report, 5) == [(segment_name(10), 5)]
    assert faults(report, 5)[0].reason.startswith("record 14 is not the one that checkpoint 1 of the history")
    assert places(report, 7) == [(segment_name(10), 5)]
    assert only(report).sealed == 7


def test_every_byte_of_a_line_counts_and_so_does_its_newline(forge: Forge) -> None:
    whole = forge.segment(1).read_bytes()
    start = len(b"".join(forge.lines(1)[:4]))
    for position in range(start, start + len(forge.lines(1)[4])):
        for byte in (whole[position] ^ 1, 0x20 if whole[position] == 0x0A else 0x0A):
            forge.segment(1).write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
            report = forge.verify()
            where = sorted({fault.line for fault in report.faults if fault.segment == segment_name(10)})
            assert where and where[0] == 5, (position, byte, where)
    forge.segment(1).write_bytes(whole)
    assert forge.verify().passed


def test_many_changed_lines_are_counted_and_a_few_are_named(empty: Forge) -> None:
    empty.grow(200)
    empty.seal()
    for number in range(20):
        empty.write(number, [text.replace(b"Encrypt", b"Decrypt") for text in empty.lines(number)])
    report = empty.verify()
    assert only(report).steps[4].detail == "200 faults"
    assert places(report, 5) == [(segment_name(index // 10 * 10), index % 10 + 1) for index in range(50)]


def test_two_changed_bytes_far_apart_are_both_named(forge: Forge) -> None:
    for number, position in ((0, 2), (2, 8)):
        lines = forge.lines(number)
        lines[position] = lines[position].replace(b"Encrypt", b"Decrypt")
        forge.write(number, lines)
    assert places(forge.verify(), 5) == [(segment_name(0), 3), (segment_name(20), 9)]


def test_a_changed_byte_without_leaves_is_narrowed_down(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    (forge.checkpoints / "leaves").unlink()
    report = forge.verify()
    assert failed(report) == {5}
    assert "they differ between records 7 and 19" in faults(report, 5)[0].reason


def test_leaves_that_were_changed_along_are_not_believed(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b"Encrypt", b"Decrypt")
    forge.write(1, lines)
    leaves = bytearray((forge.checkpoints / "leaves").read_bytes())
    leaves[14 * 32 : 15 * 32] = leaf_hash(lines[4][:-1])
    (forge.checkpoints / "leaves").write_bytes(leaves)
    report = forge.verify()
    assert failed(report) == {5}
    assert "they differ between records 7 and 19" in faults(report, 5)[0].reason


def test_damaged_leaves_alone_are_no_fault(forge: Forge) -> None:
    (forge.checkpoints / "leaves").write_bytes(bytes(31 * 32))
    assert forge.verify(forge.latest).passed


@pytest.mark.parametrize("name", ["eventVersion", "userIdentity", "eventTime", "sourceIPAddress", "eventID", "responseElements"])
def test_a_record_without_what_cloudtrail_requires(forge: Forge, name: str) -> None:
    record = orjson.loads(line(35))
    del record[name]
    forge.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    reason = f"record 35 lacks what CloudTrail requires of every record: {name}"
    assert forge.verify().faults == (Fault(3, "admin", segment_name(30), 6, reason),)


@pytest.mark.parametrize("text", [b"not JSON\n", b"{}\n", b"\n", line(14, "w0")])
def test_a_line_that_is_no_record_of_this_log(forge: Forge, text: bytes) -> None:
    lines = forge.lines(1)
    lines[4] = text
    forge.write(1, lines)
    report = forge.verify()
    assert {3, 5} <= failed(report)
    assert places(report, 3) == places(report, 5) == [(segment_name(10), 5)]


# --- where it stands


def test_a_changed_number(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b'"sequence":14', b'"sequence":17')
    forge.write(1, lines)
    report = forge.verify()
    assert {3, 5} <= failed(report)
    assert faults(report, 3) == [
        Fault(3, "admin", segment_name(10), 5, "record 14 should stand here: the line says that it is record 17")
    ]
    assert places(report, 5) == [(segment_name(10), 5)]


@pytest.mark.parametrize("number", [*(str(2**power) for power in (31, 58, 59, 63, 64, 99)), "-1", "14.0", '"14"', "null", "true"])
@pytest.mark.parametrize("has_leaves", [True, False])
def test_a_number_that_no_file_could_hold(forge: Forge, number: str, has_leaves: bool) -> None:
    lines = forge.lines(1)
    lines[4] = lines[4].replace(b'"sequence":14', b'"sequence":' + number.encode())
    forge.write(1, lines)
    if not has_leaves:
        (forge.checkpoints / "leaves").unlink()
    report = forge.verify()
    assert {3, 5} <= failed(report)
    assert places(report, 3)[0] == (segment_name(10), 5)


def test_a_deleted_line(forge: Forge) -> None:
    lines = forge.lines(1)
    del lines[4]
    forge.write(1, lines)
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    assert faults(report, 3) == [Fault(3, "admin", segment_name(10), 5, "record 14 is missing: here stands record 15")]
    assert len(faults(report, 5)) == 1
    assert only(report).sealed == 7


def test_the_last_line_of_a_segment_deleted(forge: Forge) -> None:
    forge.write(1, forge.lines(1)[:-1])
    report = forge.verify()
    assert {2, 5} <= failed(report)
    assert faults(report, 2) == [Fault(2, "admin", segment_name(20), 0, "record 19 is missing before this segment")]


def test_a_duplicated_line(forge: Forge) -> None:
    lines = forge.lines(1)
    forge.write(1, [*lines[:5], lines[4], *lines[5:]])
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    reason = "record 14 stands here a second time; record 15 should"
    assert faults(report, 3) == [Fault(3, "admin", segment_name(10), 6, reason)]


def test_two_swapped_lines(forge: Forge) -> None:
    lines = forge.lines(1)
    lines[4], lines[5] = lines[5], lines[4]
    forge.write(1, lines)
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    assert faults(report, 3) == [
        Fault(3, "admin", segment_name(10), 5, "record 14 is missing: here stands record 15"),
        Fault(3, "admin", segment_name(10), 6, "record 14 stands behind record 15: out of order"),
    ]


def test_an_inserted_line(forge: Forge) -> None:
    lines = forge.lines(1)
    forge.write(1, [*lines[:4], line(14, word="Forged"), *lines[4:]])
    report = forge.verify(forge.latest)
    assert {3, 5, 7} <= failed(report)
    assert places(report, 3)[0] == (segment_name(10), 6)
    assert (segment_name(10), 5) in places(report, 5)


def test_a_log_with_a_record_taken_out_and_the_rest_renumbered(forge: Forge) -> None:
    saved = forge.latest
    kept = [text for number in range(4) for text in forge.lines(number)]
    del kept[14]
    renumbered = [text.replace(b'"sequence":%d,' % (i + (i >= 14)), b'"sequence":%d,' % i) for i, text in enumerate(kept)]
    for path in forge.folder.glob("*.jsonl"):
        path.unlink()
    forge.records = 0
    forge.append(*renumbered)
    report = forge.verify(saved)
    assert failed(report) == {5, 7}
    assert places(report, 5)[0] == (segment_name(10), 5)
    assert places(report, 7) == [(segment_name(10), 5)]
    assert only(report).sealed == 7
