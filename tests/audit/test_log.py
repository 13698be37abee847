"""The log's state machine against a disk that breaks: no line whose append returned is ever lost, moved or renumbered."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.canonical import timestamp
from audit.errors import CommitFailed, LogIncident
from audit.log import MARK_SIZE_BYTES, LogWriter, Mark, Recovered, open_log
from tests.fakes import Effect, SimulatedDisk

EFFECTS: tuple[Effect, ...] = ("nothing", "half", "all")
SMALL_SEGMENT = 600  # two batches of `write_batches`


def line(index: int, *, word: str = "", phase: str = "outcome", event: str = "", intent: str = "", time_us: int = 0) -> bytes:
    extension = {"log": "w0", "sequence": index, "time": timestamp(time_us), "phase": phase, "word": word}
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


def write_batches(disk: SimulatedDisk, acknowledged: list[bytes], word: str, batches: int, sessions: int = 1) -> None:
    """Open the log `sessions` times, and append `batches` of three lines in each; a batch joins `acknowledged` when its append
    has returned."""
    for _ in range(sessions):
        writer, recovered = open_w0(disk)
        kept = whole(disk).splitlines(keepends=True)
        acknowledged[:] = kept[: recovered.records]  # what recovery keeps is there for good
        for _ in range(batches):
            lines = [line(writer.records + offset, word=word) for offset in range(3)]
            writer.append(lines, now_us=0)
            acknowledged.extend(lines)
        writer.close()


def count_operations(batches: int, sessions: int) -> int:
    disk = SimulatedDisk()
    write_batches(disk, [], "a", batches, sessions)
    assert disk.segments() == [0, 6, 12]
    return disk.operations


def after_kill(disk: SimulatedDisk) -> SimulatedDisk:
    return disk.after_kill()


def after_power_cut_without_mark(disk: SimulatedDisk) -> SimulatedDisk:
    return disk.after_power_cut()


def after_power_cut_with_newest_mark(disk: SimulatedDisk) -> SimulatedDisk:
    return disk.after_power_cut(disk.marks[-1] if disk.marks else None)


def after_power_cut_with_older_mark(disk: SimulatedDisk) -> SimulatedDisk:
    return disk.after_power_cut(disk.marks[-2] if len(disk.marks) > 1 else None)


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize(
    "end", [after_kill, after_power_cut_without_mark, after_power_cut_with_newest_mark, after_power_cut_with_older_mark]
)
@pytest.mark.parametrize(("batches", "sessions"), [(6, 1), (1, 6)], ids=["one-writer", "resumed"])
def test_no_acknowledged_line_is_lost_whatever_fails(
    effect: Effect, end: Callable[[SimulatedDisk], SimulatedDisk], batches: int, sessions: int
) -> None:
    for first in range(count_operations(batches, sessions)):
        for second in (None, 0, 1, 2, 3, 4, 5):
            disk = SimulatedDisk(fail_at=first, effect=effect)
            acknowledged: list[bytes] = []
            with pytest.raises((CommitFailed, OSError)):
                write_batches(disk, acknowledged, "a", batches, sessions)
            before = list(acknowledged)
            disk = end(disk)
            if second is not None:  # recovery itself meets a fault, and the process dies again
                disk.fail_at, disk.effect = second, effect
                with_fault = list(acknowledged)
                try:
                    write_batches(disk, with_fault, "b", 1)
                    before = with_fault
                except (CommitFailed, OSError):
                    pass
                disk = end(disk)
            write_batches(disk, acknowledged, "c", 1, sessions=2)
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


# --- going on in the last segment


def write(disk: SimulatedDisk, now_us: int = 0, *, lines: int = 1, new_segment: bool = False) -> Recovered:
    """As a command does: open the log, append so many lines, and let go of it."""
    writer, recovered = open_log("w0", disk, at_least=0, max_segment_bytes=1_000, max_age_us=50, new_segment=new_segment)
    writer.append([line(writer.records + offset, time_us=now_us) for offset in range(lines)], now_us)
    writer.close()
    return recovered


def test_writers_that_follow_one_another_share_a_segment() -> None:
    disk = SimulatedDisk()
    for now_us in (0, 1, 2, 49):
        assert write(disk, now_us) == Recovered(now_us if now_us < 3 else 3, 0, (), ())
    assert disk.segments() == [0]
    assert disk.platter == disk.cache == {0: b"".join(line(index, time_us=now) for index, now in enumerate((0, 1, 2, 49)))}
    assert disk.mark == Mark(4, 0, len(disk.cache[0]), 0)


def test_a_segment_that_is_old_or_large_or_begun_in_the_future_is_not_gone_on_in() -> None:
    disk = SimulatedDisk()
    for now_us in (100, 149, 150, 149, 198, 199):  # the clock was set back once
        write(disk, now_us)
    assert disk.segments() == [0, 2, 3, 5]
    while len(disk.cache[5]) < 1_000:
        write(disk, 199)
    assert disk.segments() == [0, 2, 3, 5]
    write(disk, 199)
    assert disk.segments() == [0, 2, 3, 5, disk.cache[5].count(b"\n") + 5]


def test_opening_alone_touches_nothing() -> None:
    disk = SimulatedDisk()
    write(disk)
    before = disk.after_kill()
    open_w0(disk)[0].close()
    assert disk.after_kill() == before


def test_after_a_fault_the_next_line_begins_a_segment_though_nothing_of_the_fault_is_left() -> None:
    disk = SimulatedDisk()
    write(disk)
    disk.fail_at, disk.effect = disk.operations + 1, "nothing"  # the append after the segment was opened
    with pytest.raises(CommitFailed, match="append failed"):
        write(disk)
    assert disk.mark == Mark(1, 0, len(disk.cache[0]), 0)
    write(disk, new_segment=True)
    assert disk.segments() == [0, 1]


@pytest.mark.parametrize("torn", [b"{", line(1)[:-1], line(1), line(1) + b"{"])
def test_what_stands_behind_the_mark_is_recovered_and_the_next_line_begins_a_segment(torn: bytes) -> None:
    disk = SimulatedDisk()
    write(disk)
    disk.cache[0] += torn
    recovered = write(disk)
    assert (recovered.unconfirmed, len(recovered.set_aside)) == (torn.count(b"\n"), not torn.endswith(b"\n"))
    assert disk.segments() == [0, recovered.records]


@pytest.mark.parametrize("mark", [None, Mark(1, 0, len(line(0)), 0)], ids=["none", "older"])
def test_a_mark_that_does_not_tell_the_end_begins_a_segment(mark: Mark | None) -> None:
    disk = SimulatedDisk()
    write(disk)
    write(disk)
    disk.mark = mark
    write(disk)
    assert disk.segments() == [0, 2]
    require_sound(disk, [line(index) for index in range(3)])


def test_a_segment_that_has_a_successor_is_never_written_to_though_that_is_empty() -> None:
    disk = SimulatedDisk()
    write(disk)
    disk.create(1)  # and the process dies
    disk = disk.after_kill()
    write(disk)
    assert disk.cache == {0: line(0), 1: line(1)}


@pytest.mark.parametrize(
    "first", [b"not a record\n", line(1), line(0).replace(b"1970-", b"----"), line(0).replace(b'"time"', b'"tame"')]
)
def test_a_segment_whose_first_line_does_not_tell_its_age_is_left_alone(first: bytes) -> None:
    disk = SimulatedDisk(cache={0: first}, platter={0: first}, clean={0: len(first)}, mark=Mark(1, 0, len(first), 0))
    write(disk)
    assert disk.cache == {0: first, 1: line(1)}


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4), st.booleans()),  # so many lines; and close, or be killed when it is done
    st.tuples(st.just("fault"), st.integers(0, 6), st.sampled_from(EFFECTS)),  # in the operation of that number
    st.tuples(st.just("torn"), st.sampled_from([b"{", b"\n", b"\0\0", line(3)]), st.none()),
    st.tuples(st.just("wait"), st.integers(-20, 60), st.none()),
    st.tuples(st.just("power-cut"), st.integers(0, 8), st.none()),  # what is left of the mark: so many back; at last none
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_through_any_life_lines_stay_and_only_the_last_segment_grows(steps: list[tuple[str, int | bytes, object]]) -> None:
    disk, now_us = SimulatedDisk(), 1_000
    acknowledged: list[bytes] = []
    for kind, number, how in steps:
        before = dict(disk.cache)
        match kind, number:
            case "write" | "fault", int():
                if kind == "fault":
                    disk.fail_at, disk.effect = disk.operations + number, how  # type: ignore[assignment]  # of STEPS
                try:
                    writer, recovered = open_log("w0", disk, at_least=len(acknowledged), max_segment_bytes=1_000, max_age_us=50)
                    acknowledged = whole(disk).splitlines(keepends=True)[: recovered.records]
                    is_clean = not (recovered.unconfirmed or recovered.set_aside)
                    lines = [line(writer.records + offset, time_us=now_us) for offset in range(number or 1)]
                    writer.append(lines, now_us)
                    acknowledged += lines
                    assert is_clean or (disk.mark is not None and disk.mark.segment == recovered.records), "not a new segment"
                    if how is True:
                        writer.close()
                except (CommitFailed, OSError):
                    pass
                disk = disk.after_kill()
            case "torn", bytes() if disk.cache:
                disk.cache[disk.segments()[-1]] += number
            case "wait", int():
                now_us += number
            case "power-cut", int():
                disk = disk.after_power_cut(disk.marks[-1 - number] if number < len(disk.marks) else None)
        closed = sorted(before)[:-1]
        assert [disk.cache[segment] for segment in closed] == [before[segment] for segment in closed]
        assert whole(disk).startswith(b"".join(acknowledged))
    write_batches(disk, acknowledged, "end", 1)
    require_sound(disk, acknowledged)


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
    reached = []
    for number in range(count_operations(1, 6)):
        with pytest.raises((CommitFailed, OSError)) as raised:
            write_batches(SimulatedDisk(fail_at=number), [], "a", 1, 6)
        reached.append(str(raised.value).rpartition(": ")[2].removesuffix(" failed"))
    assert {"create", "reopen", "append", "sync", "write_mark"} == set(reached)
