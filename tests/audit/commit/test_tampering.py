"""A folder that is tampered with while it is written, or between two writers: an incident, where evidence is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from audit.commit import AuditLog, LogPlace
from audit.errors import LogIncident
from audit.log import Mark
from audit.record import Phase
from audit.segments import is_being_written, list_segments, read_mark
from tests.audit.commit.log_folder import failures, is_healthy, names, opened, record
from tests.audit.commit.tampering import cut_a_line, cut_segment, remove_folder, remove_segment, replace_segment


@pytest.mark.parametrize("tamper", [remove_folder, remove_segment, replace_segment, cut_segment, cut_a_line])
@pytest.mark.parametrize("records", [1, 2, 7])
async def test_tampering_is_noticed_at_the_next_commit_and_stays_an_incident(
    place: LogPlace, tamper: Callable[[LogPlace], None], records: int
) -> None:
    async with opened(place) as log:
        for _ in range(records):
            await log.commit(record("acknowledged"))
        if tamper is cut_a_line and records == 1:
            return
        tamper(place)
        await failures([log.commit(record("acknowledged"))])
        for _ in range(2):
            with pytest.raises(LogIncident):
                await log.recover()
            assert not is_healthy(log)
        assert place.folder.exists() is (tamper is not remove_folder), "what had vanished was made anew"
    with pytest.raises(LogIncident):
        AuditLog(place, asyncio.get_running_loop())


async def test_a_log_shorter_than_its_newest_checkpoint_is_an_incident(place: LogPlace) -> None:
    note = "keytrail/0/w0\n%d\nroot\n\n— keytrail/0/w0 signature\n"
    async with opened(place) as log:
        await log.commit(record("r"))
    (place.checkpoints / "history").write_text(note % 1)
    async with opened(place):
        pass
    (place.checkpoints / "history").write_text(note % 1 + "\n" + note % 2)
    with pytest.raises(LogIncident, match="2 were signed"):
        AuditLog(place, asyncio.get_running_loop())
    (place.checkpoints / "history").write_text(note % 1 + "\n" + (note % 2)[:-12])  # torn: never published
    async with opened(place):
        pass


async def test_what_the_sealer_derives_may_be_empty_after_a_power_cut(place: LogPlace) -> None:
    (place.checkpoints / "latest").write_bytes(b"")
    (place.checkpoints / "history").write_bytes(b"")
    async with opened(place) as log:
        await log.commit(record("r"))


@pytest.mark.parametrize("data", [None, b"", b"damaged", Mark(1, 0, 1, 0).encode()[:-5]])
async def test_a_missing_or_damaged_mark_costs_time_only(place: LogPlace, data: bytes | None) -> None:
    async with opened(place) as log:
        for _ in range(3):
            await log.commit(record("r"))
    if data is None:
        (place.folder / "mark").unlink()
    else:
        (place.folder / "mark").write_bytes(data)
    async with opened(place) as log:
        await log.commit(record("after"))
    found = names(place)
    assert found[:3] == ["r"] * 3 and found[-1] == "after"
    mark = read_mark(place.folder)
    assert mark is not None and mark.records == len(found)


async def test_a_line_that_cannot_be_read_is_an_incident(place: LogPlace) -> None:
    async with opened(place) as log:
        await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="i"))
    path = list_segments(place.folder)[-1].path
    path.write_bytes(path.read_bytes().replace(b'"eventName"', b'"eventNeme"'))
    with pytest.raises(LogIncident, match="cannot be read"):
        AuditLog(place, asyncio.get_running_loop())
    assert not is_being_written(place.folder)
