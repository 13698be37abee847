"""The log's state machine against a disk that breaks: no line whose append returned is ever lost, moved or renumbered."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import CommitFailed, LogIncident
from audit.log import MARK_SIZE_BYTES, LogWriter, Mark, Recovered, open_log
from tests.fakes import Effect, SimulatedDisk

EFFECTS: tuple[Effect, ...] = ("nothing", "half", "all")
SMALL_SEGMENT = 400  # a few lines


def line(index: int, *, word: str = "", phase: str = "outcome", event: str = "", intent: str = "") -> bytes:
    extension = {"log": "w0", "sequence": index, "phase": phase, "word": word}
    if intent:
        extension["intent"] = intent
    document = {"eventID": event or f"e{index}", "additionalEventData": {"keytrail": extension}}
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def open_w0(disk: SimulatedDisk, at_least: int = 0) -> tuple[LogWriter, Recovered]:
    return open_log("w0", disk, at_least=at_least, max_segment_bytes=SMALL_SEGMENT)


def whole(disk: SimulatedDisk) -> bytes:
    return b"".join(disk.cache[segment] for segment in disk.segments())


def require_sound(disk: SimulatedDisk, acknowledged: list[bytes]) -> None:
    """The invariant: dense numbers, segments named by their first record, every acknowledged line in its place."""
    lines = whole(disk).splitlines(keepends=True)
    assert [orjson.loads(text)["additionalEventData"]["keytrail"]["sequence"] for text in lines] == list(range(len(lines)))
    count = 0
    for segment in disk.segments():
        assert segment == count
        count += disk.cache[segment].count(b"\n")
    assert lines[: len(acknowledged)] == acknowledged


def write_batches(disk: SimulatedDisk, acknowledged: list[bytes], word: str, batches: int) -> None:
    """Recover and append `batches` of three lines; each batch whose append returned joins `acknowledged`."""
    writer, recovered = open_w0(disk)
    del acknowledged[recovered.records :]
    kept = whole(disk).splitlines(keepends=True)
    acknowledged[:] = kept[: recovered.records]  # what recovery keeps is there for good
    for _ in range(batches):
        lines = [line(writer.records + offset, word=word) for offset in range(3)]
        writer.append(lines, now_us=0)
        acknowledged.extend(lines)


def count_operations() -> int:
    disk = SimulatedDisk()
    write_batches(disk, [], "a", 6)
    return disk.operations


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power-cut"])
def test_no_acknowledged_line_is_lost_whatever_fails(effect: Effect, power_cut: bool) -> None:
    for first in range(count_operations()):
        for second in (None, 0, 1, 2, 3, 4):
            disk = SimulatedDisk(fail_at=first, effect=effect)
            acknowledged: list[bytes] = []
            with pytest.raises((CommitFailed, OSError)):
                write_batches(disk, acknowledged, "a", 6)
            before = list(acknowledged)
            disk = disk.after_power_cut() if power_cut else disk.after_kill()
            if second is not None:  # recovery itself meets a fault, and the process dies again
                disk.fail_at, disk.effect = second, effect
                with_fault = list(acknowledged)
                try:
                    write_batches(disk, with_fault, "b", 1)
                    before = with_fault
                except (CommitFailed, OSError):
                    pass
                disk = disk.after_power_cut() if power_cut else disk.after_kill()
            write_batches(disk, acknowledged, "c", 2)
            require_sound(disk, acknowledged)
            assert acknowledged[: len(before)] == before
            assert acknowledged[-1] in disk.after_power_cut().cache[disk.segments()[-1]]


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_poisoned_writer_refuses_until_the_log_is_opened_anew(effect: Effect) -> None:
    disk = SimulatedDisk(fail_at=2, effect=effect)  # create, append, and then the sync fails
    writer, _ = open_w0(disk)
    with pytest.raises(CommitFailed, match="sync failed"):
        writer.append([line(0)], now_us=0)
    operations = disk.operations
    with pytest.raises(CommitFailed, match="sync failed"):
        writer.append([line(0)], now_us=0)
    assert disk.operations == operations, "the failed segment was touched again"


def test_what_was_lost_behind_a_failed_sync_is_written_again() -> None:
    disk = SimulatedDisk(fail_at=2, effect="nothing")
    writer, _ = open_w0(disk)
    with pytest.raises(CommitFailed):
        writer.append([line(0), line(1)], now_us=0)
    disk = disk.after_kill()
    assert disk.platter[0] == b""
    _, recovered = open_w0(disk)
    assert (recovered.records, recovered.unconfirmed) == (2, 2)
    assert disk.platter[0] == line(0) + line(1)


@pytest.mark.parametrize("torn", [b"{", b"\0\0\0\n", line(7), line(1)[:-1], b"\xff\n" + line(1)])
def test_a_torn_tail_is_set_aside_and_not_dropped(torn: bytes) -> None:
    disk = SimulatedDisk()
    writer, _ = open_w0(disk)
    writer.append([line(0)], now_us=0)
    disk.cache[0] += torn
    disk = disk.after_kill()
    writer, recovered = open_w0(disk)
    assert [(tail.segment, tail.offset, tail.size) for tail in recovered.set_aside] == [(0, len(line(0)), len(torn))]
    assert disk.aside == [(0, len(line(0)), torn)]
    assert whole(disk) == line(0)
    writer.append([line(1)], now_us=0)
    require_sound(disk, [line(0), line(1)])


def test_a_clean_shutdown_leaves_nothing_to_recover() -> None:
    disk = SimulatedDisk()
    write_batches(disk, [], "a", 4)
    operations = disk.operations
    _, recovered = open_w0(disk)
    assert recovered == Recovered(12, 0, (), ())
    assert disk.operations == operations


def test_a_log_that_is_shorter_than_what_was_signed_is_an_incident() -> None:
    disk = SimulatedDisk()
    write_batches(disk, [], "a", 1)
    assert open_w0(disk, at_least=3)[1].records == 3
    with pytest.raises(LogIncident, match="3 records, but 4 were signed"):
        open_w0(disk, at_least=4)


def test_segments_that_have_gone_are_an_incident() -> None:
    disk = SimulatedDisk()
    write_batches(disk, [], "a", 4)
    last = disk.segments()[-1]
    kept = disk.cache.pop(last)
    with pytest.raises(LogIncident, match=f"segment {last} is gone"):
        open_w0(disk)
    disk.cache = {}
    with pytest.raises(LogIncident, match="its segments are gone; 12 records"):
        open_w0(disk)
    assert kept


def test_damage_in_a_segment_that_is_not_the_last_is_an_incident_and_nothing_is_touched() -> None:
    disk = SimulatedDisk()
    write_batches(disk, [], "a", 2)
    disk.mark = Mark(3, 0, len(disk.cache[0]), 0)
    first = disk.cache[0]
    disk.cache[0] += b"torn"
    disk.cache[len(first.splitlines())] = disk.cache.pop(disk.segments()[-1]) if len(disk.segments()) > 1 else line(6)
    before = dict(disk.cache)
    with pytest.raises(LogIncident, match="not the last"):
        open_w0(disk)
    assert disk.cache == before


def test_rotation_is_by_size_and_by_age() -> None:
    disk = SimulatedDisk()
    writer, _ = open_log("w0", disk, at_least=0, max_segment_bytes=10_000, max_age_us=50)
    for index, now_us in enumerate((0, 49, 50, 60, 101)):
        writer.append([line(index)], now_us)
    assert disk.segments() == [0, 2, 4]
    writer, _ = open_log("w0", disk, at_least=0, max_segment_bytes=1, max_age_us=1_000_000)
    for index in range(5, 8):
        writer.append([line(index)], 0)
    assert disk.segments() == [0, 2, 4, 5, 6, 7]


@given(st.lists(st.sampled_from(["open", "close", "other"]), max_size=40), st.booleans())
def test_intents_without_an_outcome_are_found_wherever_they_are(steps: list[str], lose_mark: bool) -> None:
    disk = SimulatedDisk()
    writer, _ = open_w0(disk)
    pending: dict[str, bytes] = {}
    for step in steps:
        index = writer.records
        if step == "open":
            pending[f"i{index}"] = text = line(index, phase="intent", event=f"i{index}")
            writer.append([text], 0, opened=[f"i{index}"])
        elif step == "close" and pending:
            intent = next(iter(pending))
            del pending[intent]
            writer.append([line(index, intent=intent)], 0, closed=[intent])
        else:
            writer.append([line(index, word='"phase":"intent"')], 0)
    if lose_mark:
        disk.mark = None
    writer, recovered = open_w0(disk)
    assert list(recovered.intents) == [text.rstrip(b"\n") for text in pending.values()]
    for intent in list(pending):
        writer.append([line(writer.records, phase="unknown", intent=intent)], 0, closed=[intent])
    assert open_w0(disk)[1].intents == ()


@given(st.tuples(*[st.integers(0, 2**63)] * 4), st.data())
def test_a_mark_is_read_as_it_was_written_or_not_at_all(numbers: tuple[int, int, int, int], data: st.DataObject) -> None:
    mark = Mark(*numbers)
    encoded = mark.encode()
    assert len(encoded) == MARK_SIZE_BYTES
    assert Mark.decode(encoded) == mark
    place = data.draw(st.integers(0, len(encoded.rstrip()) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != encoded[place]))
    damaged = encoded[:place] + bytes([other]) + encoded[place + 1 :]
    assert Mark.decode(damaged) is None


def test_every_operation_of_the_disk_is_reached_by_the_fault_test() -> None:
    reached = set(itertools.chain.from_iterable([_names_reached()]))
    assert {"create", "append", "sync", "write_mark"} <= reached


def _names_reached() -> list[str]:
    names = []
    for number in range(count_operations()):
        disk = SimulatedDisk(fail_at=number)
        try:
            write_batches(disk, [], "a", 6)
        except (CommitFailed, OSError) as error:
            names.append(str(error).rpartition(": ")[2].removesuffix(" failed"))
    return names
