"""A witness: takes checkpoints, and cosigns those that extend what it saw before. For any number of threads.

The order for one log, under its lock: judge → cosign → remember (durable) → answer. So two requests for one log cannot both be
judged by the same memory, and no cosignature leaves that a crash could make it forget.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from audit.canonical import timestamp
from audit.cosignature import cosign
from audit.witnessing.evidence import Evidence
from audit.witnessing.judgement import Code, Contradiction, LogKeys, Refused, Signed, authenticate, judge
from audit.witnessing.memory import Memory, digest_of
from audit.witnessing.protocol import SIZE_TYPE, AddCheckpoint, Malformed, encode_size

_log = logging.getLogger(__name__)
TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status code of HTTP, and the body that goes with it."""

    status: int
    body: bytes
    content_type: str = TEXT_TYPE


class Witness:
    """Answers for the logs of `keys`, by `memory`. `now_s` is the time that cosignatures bear."""

    def __init__(self, memory: Memory, keys: LogKeys, now_s: Callable[[], float]) -> None:
        self._memory = memory
        self._keys = keys
        self._now_s = now_s
        self._turns = {origin: threading.Lock() for origin in keys}

    def add_checkpoint(self, body: bytes) -> Answer:
        """The answer to a request with this body. Raises OSError where it could not be remembered: nothing was cosigned then."""
        try:
            request = AddCheckpoint.parse(body)
            signed = authenticate(request.note, self._keys)
        except Malformed as error:
            return Answer(Code.MALFORMED, f"{error}\n".encode())
        except Refused as error:
            return Answer(error.code, f"{error}\n".encode())
        origin = signed.checkpoint.origin
        with self._turns[origin]:
            latest = self._memory.latest(origin)
            try:
                judge(request, signed.checkpoint, latest)
            except Refused as error:
                if error.contradiction is not None:
                    self._keep(error.contradiction, request, signed)
                if error.code is Code.CONFLICT:
                    return Answer(error.code, encode_size(latest.size), SIZE_TYPE)
                return Answer(error.code, f"{error}\n".encode())
            line = cosign(signed.text, self._memory.name, self._memory.private_key, int(self._now_s()))
            if signed.checkpoint != latest:
                self._memory.remember(origin, signed.note + line)
            return Answer(200, line.encode())

    def checkpoint(self, digest: str) -> Answer:
        """The newest cosigned checkpoint of the log whose origin has this SHA-256 (hex): for whoever audits the log."""
        note = self._memory.note(digest)
        return Answer(404, b"nothing was cosigned for such a log\n") if note is None else Answer(200, note.encode())

    def _keep(self, kind: Contradiction, request: AddCheckpoint, signed: Signed) -> None:
        """Evidence that cannot be kept changes nothing of the refusal."""
        origin = signed.checkpoint.origin
        _log.warning("%s: a checkpoint that contradicts what was cosigned (%s)", origin, kind.value)
        time = timestamp(int(self._now_s() * 1_000_000))
        keys = tuple(self._keys[origin])
        evidence = Evidence(kind, time, keys, self._memory.note(digest_of(origin)) or "", signed.note, request.proof)
        try:
            self._memory.keep(evidence)
        except OSError:
            _log.exception("%s: the evidence could not be kept", origin)
