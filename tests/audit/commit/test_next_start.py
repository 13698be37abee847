"""What the next start finds: intents without an outcome, and torn tails. Each is recorded."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from audit import canonical, durable
from audit.commit import AuditLog, BlockingLog, Known, LogPlace
from audit.record import Effect, Phase, Resource
from audit.segments import list_segments
from tests.audit.commit.log_folder import lines, names, opened, record


async def test_an_intent_without_an_outcome_is_closed_by_the_next_start(place: LogPlace) -> None:
    async with opened(place) as log:
        await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="intent-1"))
        await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="intent-2"))
        await log.commit(record("CreateKey", intent_id="intent-1"))
    async with opened(place):
        pass
    async with opened(place):
        pass
    found = lines(place)
    assert names(place) == ["CreateKey"] * 3 + ["RecoverLog", "CreateKey"]
    unknown = canonical.decode(orjson.dumps(found[-1]))
    assert (unknown.phase, unknown.intent_id) == (Phase.UNKNOWN, "intent-2")
    assert "unknown" in (unknown.error_message or "")
    assert found[3]["serviceEventDetails"] == {"unconfirmedRecords": 0, "tornTails": [], "unknownOutcomes": 1}


KNOWN = {
    "made": Known(Effect.MADE, (Resource("arn:aws:kms:us-east-1:111122223333:key/k", "111122223333"),)),
    "made, with a grant": Known(Effect.MADE, grant_id="a" * 64),
    "not made": Known(Effect.NONE),
    "not known": None,
}


@pytest.mark.parametrize("what", KNOWN)
def test_recovery_tells_what_is_known_of_a_lost_outcome(place: LogPlace, what: str) -> None:
    with BlockingLog(place) as log:
        log.commit(record("CreateKey", phase=Phase.INTENT, event_id="i"))
    with BlockingLog(place, effect_of=lambda intent: KNOWN[what] if intent.event_id == "i" else None):
        pass
    told, known = lines(place)[-1], KNOWN[what]
    extension = told["additionalEventData"]["keytrail"]
    assert (extension["phase"], extension["intent"], told["errorCode"]) == ("unknown", "i", "KMSInternalException")
    assert extension.get("effect") == (None if known is None else known.effect.value)
    assert [resource["ARN"] for resource in told["resources"]] == [one.arn for one in (known.resources if known else ())]
    assert told["responseElements"] == (None if known is None or known.grant_id is None else {"grantId": known.grant_id})


@pytest.mark.parametrize("what", KNOWN)
async def test_a_log_that_its_own_process_recovers_does_not_say_that_a_change_was_not_made(place: LogPlace, what: str) -> None:
    """The call may be under way still, and make it afterwards."""
    log = AuditLog(place, asyncio.get_running_loop(), lambda intent: KNOWN[what])
    await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="i"))
    await log.recover()
    await log.close()
    extension = lines(place)[-1]["additionalEventData"]["keytrail"]
    assert extension["phase"] == "unknown"
    assert extension.get("effect") == ("made" if what.startswith("made") else None)


@pytest.mark.parametrize("torn", [b"{", b'{"eventVersion":"1.11"}', b"\0" * 100, b"\xff\n"])
async def test_a_torn_tail_is_kept_aside_and_recorded_by_the_next_start(place: LogPlace, torn: bytes) -> None:
    async with opened(place) as log:
        await log.commit(record("r"))
    path = list_segments(place.folder)[-1].path
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(torn)
    async with opened(place) as log:
        await log.commit(record("after"))
    assert names(place) == ["r", "RecoverLog", "after"]
    (tail,) = lines(place)[1]["serviceEventDetails"]["tornTails"]
    assert (tail["segment"], tail["offset"], tail["sizeBytes"]) == (path.name, size, len(torn))
    assert (place.folder / tail["movedTo"]).read_bytes() == torn


async def test_a_torn_tail_that_does_not_fit_leaves_no_pieces(place: LogPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(place) as log:
        await log.commit(record("r"))
    with list_segments(place.folder)[-1].path.open("ab") as file:
        file.write(b"torn")

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_all", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                AuditLog(place, asyncio.get_running_loop())
    assert os.listdir(place.folder / "torn") == []
    async with opened(place):
        pass
    assert len(os.listdir(place.folder / "torn")) == 1


async def test_a_clean_stop_leaves_nothing_to_say(place: LogPlace) -> None:
    for _ in range(3):
        async with opened(place) as log:
            await log.commit(record("r"))
    assert names(place) == ["r"] * 3
