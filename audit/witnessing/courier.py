"""Takes a log's newest checkpoint to every witness of a policy, and keeps what they give for it.

A witness and a log are an errand. Errands wait for nobody: a witness that hangs keeps only itself from the next checkpoint. One
that fails is tried again after a pause that doubles, with jitter, so that many logs do not come back to it at once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp

from audit.canonical import timestamp
from audit.cosignature import Cosignature
from audit.errors import AuditError, CheckpointInvalid
from audit.instance import Instance
from audit.policy_file import NO_QUORUM, Policy, Witness
from audit.witnessing.gathering import Gathering
from audit.witnessing.judgement import Signed
from audit.witnessing.notes import LogNotes
from audit.witnessing.pauses import Pauses
from audit.witnessing.protocol import AddCheckpoint
from audit.witnessing.submission import SubmissionFailed, SubmissionRefused, submit

STALE_S = 600  # a cosigned checkpoint that is older is a fault
_AHEAD_S = 300  # so is one that is so far ahead: this clock was set back, and no witness's is believed any more
_REFRESH_S = 240.0  # when a log that stands still is witnessed anew, so that it does not become stale
_TRIES = 3  # the size that is known, the one that the witness tells, and once more


@dataclass(slots=True)
class Errand:
    """One witness and one log. Times are those of the event loop's clock."""

    witness: Witness
    size: int  # of the largest tree that it is known to have cosigned
    done_s: float = float("-inf")
    pauses: Pauses = field(default_factory=Pauses)
    fault: str | None = None  # of the last try
    contradiction: str | None = None  # it and this log do not agree on the past: a person has to look
    forgot: str | None = None  # it went back behind what it cosigned; this stays told
    running: asyncio.Task[None] | None = None


class Courier:
    """The errands of one log. `step` starts those whose time has come; each ends by itself. For use inside an event loop."""

    def __init__(self, instance: Instance, log: str, policy: Policy, session: aiohttp.ClientSession) -> None:
        """Goes on from what is kept of the log's cosignatures. Raises OSError."""
        self.log = log
        self._session = session
        self._policy = policy
        self._notes = LogNotes(instance, log)
        self._writing = asyncio.Lock()
        try:
            self._gathering = Gathering(policy, self._notes.cosigned())
        except CheckpointInvalid:  # damaged; `verify` says so, and the next one takes its place
            self._gathering = Gathering(policy)
        self.cosigned_s = self._gathering.time_s  # since when the quorum stands by what is in `cosigned`; 0 where nothing is
        witnesses = [witness for witness in policy.witnesses if witness.url is not None]
        sizes = self._notes.sizes(witness.key for witness in witnesses)
        self.errands = [Errand(witness, sizes.get(witness.key, 0)) for witness in witnesses]
        self._newest: Signed | None = None
        self._fault: str | None = None

    @property
    def cosigned_size(self) -> int:
        """Of the newest tree that the quorum stands by; 0 where there is none."""
        return self._gathering.size if self.cosigned_s else 0

    def step(self) -> None:
        """Look what is newest, and start the errands whose time has come."""
        try:
            self._newest, self._fault = self._notes.newest(), None
        except (AuditError, OSError) as error:
            self._fault = str(error)
            return
        if self._newest is None:
            return
        now_s = asyncio.get_running_loop().time()
        for errand in self.errands:
            is_due = errand.size != self._newest.checkpoint.size or now_s - errand.done_s >= _REFRESH_S
            if errand.running is None and is_due and errand.pauses.is_over:
                errand.running = asyncio.create_task(self._run(errand, self._newest))

    async def finish(self) -> None:
        """Wait for the errands that run."""
        await asyncio.gather(*(errand.running for errand in self.errands if errand.running is not None))

    def grave_faults(self, now_s: float) -> list[str]:
        """What keeps this log from being witnessed as the policy wants it. `now_s`: since 1970."""
        faults = [] if self._fault is None else [self._fault]
        faults += [f"INCIDENT: {one.contradiction}" for one in self.errands if one.contradiction is not None]
        if self._newest is not None and self._policy.quorum != NO_QUORUM:
            if not self.cosigned_s:
                faults.append("no checkpoint has been cosigned by the quorum")
            elif not -_AHEAD_S <= now_s - self.cosigned_s <= STALE_S:
                faults.append(f"the newest cosigned checkpoint is of {timestamp(self.cosigned_s * 1_000_000)}")
        return [f"log {self.log}: {fault}" for fault in faults]

    def slight_faults(self) -> list[str]:
        """What is wrong with single witnesses."""
        told = [(one.witness.name, fault) for one in self.errands for fault in (one.forgot, one.fault) if fault is not None]
        return [f"log {self.log}: witness {name}: {fault}" for name, fault in told]

    async def _run(self, errand: Errand, signed: Signed) -> None:
        try:
            await self._submit(errand, signed)
        except (AuditError, OSError) as error:
            errand.fault = str(error)
            errand.pauses.begin()
        else:
            errand.fault = errand.contradiction = None
            errand.done_s = asyncio.get_running_loop().time()
            errand.pauses.reset()
        finally:
            errand.running = None

    async def _submit(self, errand: Errand, signed: Signed) -> None:
        """Have one witness cosign `signed`, and keep what it gives. Raises `AuditError`, OSError."""
        name, new = errand.witness.name, signed.checkpoint
        if errand.size > new.size:
            errand.contradiction = f"{name} cosigned {errand.size} records, and here are {new.size}: the log was rolled back"
            raise SubmissionFailed("it has cosigned more records than there are")
        old_size = errand.size
        for _ in range(_TRIES):
            request = AddCheckpoint(old_size, await asyncio.to_thread(self._notes.prove, old_size, new), signed.note)
            try:
                answer = await submit(self._session, errand.witness.url or "", errand.witness.key, request, time.time())
            except SubmissionRefused:
                errand.contradiction = _refused(name, old_size, new.size)
                raise
            if isinstance(answer, Cosignature):
                errand.size = new.size
                await self._keep(signed, answer)
                return
            self._take_size(errand, answer.size, old_size, new.size)
            old_size = answer.size
        raise SubmissionFailed("it answers with one size after another")

    def _take_size(self, errand: Errand, told: int, old_size: int, new_size: int) -> None:
        """Look at the size that a witness says it is at, after it was asked from `old_size`. Raises `SubmissionFailed`."""
        name = errand.witness.name
        if told > new_size:
            errand.contradiction = f"{name} says that it has cosigned {told} records, and here are {new_size}: rolled back?"
            raise SubmissionFailed(f"it says that it has cosigned {told} records, of {new_size}")
        if told == old_size:
            if told == new_size:
                errand.contradiction = _refused(name, told, told)
            raise SubmissionFailed(f"it says that it has cosigned {told} records, and refuses a proof from there")
        if told < errand.size:
            errand.forgot = f"it went back to {told} records after it had cosigned {errand.size}"

    async def _keep(self, signed: Signed, cosignature: Cosignature) -> None:
        async with self._writing:
            await asyncio.to_thread(self._notes.keep, signed.note + cosignature.line)
            news = self._gathering.add(signed.note, cosignature)
            if news is not None:
                await asyncio.to_thread(self._notes.publish, news)
                self.cosigned_s = self._gathering.time_s


def _refused(name: str, old_size: int, new_size: int) -> str:
    """What it means that a witness does not accept a genuine proof."""
    if old_size == new_size:
        return f"{name} says that it has cosigned another tree of {old_size} records: a split view?"
    begin = f"the {new_size} records here begin with the {old_size} that it has cosigned"
    return f"{name} does not accept that {begin}: the log was rewritten, or another one was shown to that witness"
