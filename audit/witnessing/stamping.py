"""Time stamps of a log's checkpoints, asked of time-stamping authorities (RFC 3161) every hour or so.

In `witnessed/LOG/timestamps/`: `SIZE.note`, a checkpoint as it was signed, and `SIZE-AUTHORITY.tsr`, what an authority
answered on it (DER); SIZE is 20 decimal digits, AUTHORITY the first eight hex digits of its URL's SHA-256. An answer is kept
only where it is genuine.

Source: RFC 3161, section 3.4 (by HTTP).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from hashlib import sha256
from pathlib import Path

import aiohttp

from audit import durable
from audit.errors import AuditError
from audit.timestamp_token import Authorities, TimestampInvalid, make_request
from audit.witnessing.judgement import Signed
from audit.witnessing.notes import LogNotes
from audit.witnessing.pauses import Pauses
from audit.witnessing.submission import SubmissionFailed, read_bounded


class Stamper:
    """One log and one authority. `step` asks where it is time to; the asking ends by itself. For use inside an event loop."""

    def __init__(
        self, notes: LogNotes, url: str, authorities: Authorities, every_s: float, session: aiohttp.ClientSession
    ) -> None:
        """Goes on from the time stamps that are there. Raises OSError."""
        self.fault: str | None = None
        self._notes = notes
        self._url = url
        self._id = sha256(url.encode()).hexdigest()[:8]
        self._authorities = authorities
        self._every_s = every_s
        self._session = session
        self._folder = notes.folder / "timestamps"
        self._pauses = Pauses()
        self._running: asyncio.Task[None] | None = None
        kept = sorted(self._folder.glob(f"*-{self._id}.tsr"))
        self.size = int(kept[-1].name[:20]) if kept else 0
        self._done_s = kept[-1].stat().st_mtime if kept else float("-inf")

    def step(self) -> None:
        """Start asking where the newest checkpoint has none, and the last was asked for long enough ago."""
        try:
            newest = self._notes.newest()
        except (AuditError, OSError):
            return  # the couriers say so, or the sealer
        is_due = newest is not None and newest.checkpoint.size > self.size and self._is_time(time.time())
        if newest is not None and is_due and self._running is None and self._pauses.is_over:
            self._running = asyncio.create_task(self._run(newest))

    def _is_time(self, now_s: float) -> bool:
        """Whether the last one was long enough ago. A clock that was set back is not waited for."""
        return not self._done_s <= now_s < self._done_s + self._every_s

    async def finish(self) -> None:
        """Wait for what runs."""
        if self._running is not None:
            await self._running

    async def _run(self, signed: Signed) -> None:
        try:
            await self._ask(signed)
        except (AuditError, OSError) as error:
            self.fault = f"log {self._notes.log}: time stamps of {self._url}: {error}"
            self._pauses.begin()
        else:
            self.fault, self.size, self._done_s = None, signed.checkpoint.size, time.time()
            self._pauses.reset()
        finally:
            self._running = None

    async def _ask(self, signed: Signed) -> None:
        """Raises `AuditError`, OSError."""
        note = signed.note.encode()
        request, nonce = make_request(note)
        headers = {"Content-Type": "application/timestamp-query"}
        try:
            async with self._session.post(self._url, data=request, headers=headers, allow_redirects=False) as response:
                body = await read_bounded(response)
        except TimeoutError as error:
            raise SubmissionFailed("it did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SubmissionFailed(f"it cannot be reached: {type(error).__name__}: {error}"[:300]) from error
        if response.status != 200:
            raise TimestampInvalid(f"it answers {response.status}")
        await asyncio.to_thread(self._authorities.open, body, note, nonce)
        await asyncio.to_thread(self._keep, signed.checkpoint.size, note, body)

    def _keep(self, size: int, note: bytes, response: bytes) -> None:
        """Durable when this returns: first the note, so that no answer is there without what it speaks of."""
        self._notes.make_folder()
        with contextlib.suppress(FileExistsError):
            durable.create_folder(self._folder, 0o750)
        _create(self._folder / f"{size:020d}.note", note)
        _create(self._folder / f"{size:020d}-{self._id}.tsr", response)


def _create(path: Path, data: bytes) -> None:
    """What is there already is left: a crash came before it was known."""
    if not path.exists():
        durable.replace(path, data, 0o640)
