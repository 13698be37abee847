"""One checkpoint submitted to one witness. Whatever the witness answers, or does not, this ends in time and with a clear result.

Source: C2SP tlog-witness, "add-checkpoint".
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from audit.checkpoint import SIGNATURE_PREFIX
from audit.cosignature import Cosignature, WitnessKey, open_cosignatures
from audit.errors import AuditError, CheckpointInvalid
from audit.witnessing.protocol import AddCheckpoint, Malformed, parse_size

_TOTAL_S, _CONNECT_S = 10.0, 5.0
_MAX_ANSWER_BYTES = 64 << 10
_SKEW_S = 300  # how far a witness's clock may be ahead of this one


class SubmissionFailed(AuditError):
    """There is no cosignature, and why."""


class SubmissionRefused(SubmissionFailed):
    """The witness says that the proof does not hold: the checkpoint does not extend what it knows of the log (422)."""


@dataclass(frozen=True, slots=True)
class OtherSize:
    """The witness's newest checkpoint of the log has this size: the proof has to begin there."""

    size: int


def open_session() -> aiohttp.ClientSession:
    """A session for `submit`: no cookies, no proxy of the environment, nothing decompressed. To be closed."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_TOTAL_S, sock_connect=_CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


async def submit(
    session: aiohttp.ClientSession, url: str, key: WitnessKey, request: AddCheckpoint, now_s: float
) -> Cosignature | OtherSize:
    """Submit `request` to the witness `key`, whose submission prefix is `url`. Raises `SubmissionFailed`."""
    try:
        async with session.post(f"{url.rstrip('/')}/add-checkpoint", data=request.encode(), allow_redirects=False) as response:
            body = await read_bounded(response)
    except TimeoutError as error:
        raise SubmissionFailed("it did not answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SubmissionFailed(f"it cannot be reached: {type(error).__name__}: {error}"[:300]) from error
    if response.status == 200:
        return _cosignature(key, request.note, body, now_s)
    if response.status == 409:
        try:
            return OtherSize(parse_size(body))
        except Malformed as error:
            raise SubmissionFailed(f"it answers 409, and {error}") from error
    said = body[:200].decode("ascii", "backslashreplace").strip()
    raise (SubmissionRefused if response.status == 422 else SubmissionFailed)(f"it answers {response.status}: {said!r}")


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Its body. Raises `SubmissionFailed` where it is too long, and what aiohttp raises."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise SubmissionFailed(f"its answer is longer than {_MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _cosignature(key: WitnessKey, note: str, body: bytes, now_s: float) -> Cosignature:
    """The one in an answer, on the note that was submitted. A body can add signature lines to it, and nothing else."""
    try:
        lines = body.decode()
        if not lines or not all(line.startswith(SIGNATURE_PREFIX) for line in lines.removesuffix("\n").split("\n")):
            raise SubmissionFailed("its answer is not made of signature lines")
        found = open_cosignatures(note + lines, [key])
    except (UnicodeDecodeError, CheckpointInvalid) as error:
        raise SubmissionFailed(f"its answer is no cosignature: {error}") from error
    if not found:
        raise SubmissionFailed("its answer has no cosignature by its key")
    if found[0].time_s > now_s + _SKEW_S:
        raise SubmissionFailed(f"its clock is {found[0].time_s - now_s:.0f} s ahead")
    return found[0]
