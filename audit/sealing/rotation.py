"""The change of the sealer's key, by the sealer itself, so that nobody else ever holds a signing key.

Whoever wants it leaves a request in `checkpoints/rotation`. The sealer, at its next step: makes the next key (`….next`, durable)
· seals every log once more with the old one · writes the note that both keys sign to the chain (durable, whole or not at all:
from here on the new key is the key) · puts the next key in the old one's place · takes the request away. After a crash between
any two of these, the next step goes on: before the chain names the new key, everything is done again with the same next key;
after it, only what is left. The request names the number of the change that it wants, so that none is made twice. It has to be
the sealer's own user's, or root's: whoever may put another folder in the place of the checkpoints gets no key named so.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from audit import durable
from audit.checkpoint import Checkpoint, SigningKey
from audit.errors import CheckpointInvalid
from audit.instance import Instance
from audit.keychain import KeyChain, Rotation
from audit.sealing.account import require_own
from audit.sealing.keys import KeyPlace, first_key, load_key, new_key_file, read_chain
from audit.segments import is_locked

_LONGEST_REQUEST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """A wanted change: the `number` that it will have; where the new key is, "" for a new one in the old one's file; and from
    when on the old one may have been used by somebody else (ISO 8601, UTC, seconds)."""

    number: int
    new: str = ""
    compromised_since: str | None = None


def ask(instance: Instance, request: Request) -> None:
    """Leave a request for the sealer; durable when this returns. Raises OSError."""
    durable.replace(_request_file(instance), orjson.dumps(asdict(request)), mode=0o640)  # the sealer may be another user


def asked(instance: Instance) -> Request | None:
    """The request that stands there. Raises `CheckpointInvalid` where it is none, or another user's, OSError."""
    path = _request_file(instance)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            require_own(fd, path)
            document = orjson.loads(file.read(_LONGEST_REQUEST_BYTES))
        return Request(int(document["number"]), str(document["new"]), document["compromised_since"])
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid(f"{path} is no request of a change of the key: {error}") from error


def withdraw(instance: Instance) -> None:
    """Take a request away, done or not; durable when this returns."""
    path = _request_file(instance)
    path.unlink(missing_ok=True)
    durable.sync_folder(path.parent)


def is_sealed(instance: Instance) -> bool:
    """Whether a sealer runs on the instance. Raises OSError."""
    lock = instance.data / "checkpoints" / "lock"
    return lock.exists() and is_locked(lock)


def encoded(public_key: bytes) -> str:
    """A public key as the chain writes it."""
    return base64.b64encode(public_key).decode()


def open_current(instance: Instance, place: KeyPlace) -> tuple[SigningKey, KeyChain]:
    """The key that signs today, and the chain up to it; a change that a crash has interrupted behind the chain is finished first.

    Raises `CheckpointInvalid` where the key at `place` is not the newest one, `SigningUnavailable`, OSError.
    """
    chain, key = read_chain(instance), place.open(instance)
    newest = chain.newest_key(first_key(instance))
    if _public(key) == newest:
        return key, chain
    following = place.next_file(instance)
    if place.is_file and following.exists() and _public(load_key(following)) == newest:
        _promote(following, place.file(instance))
        return place.open(instance), chain
    where = place.file(instance) if place.is_file else place.key
    since = f"change {len(chain.rotations)} of the key" if chain.rotations else instance.sealer_public_key.name
    raise CheckpointInvalid(f"{where} is not the key of today, which {since} names: does `sealer_key` say where that is?")


def carry_out(
    instance: Instance,
    place: KeyPlace,
    request: Request,
    key: SigningKey,
    last: Mapping[str, Checkpoint],
    time: str,
) -> KeyPlace:
    """Change the key as `request` says; gives where it is then. `key` has sealed every log, and `last` is what it signed last for
    each; `time` is now.

    Raises `CheckpointInvalid`, `SigningUnavailable`, OSError; it may be tried again then.
    """
    chain = read_chain(instance)
    if len(chain.rotations) >= request.number:  # it was done, before a crash
        withdraw(instance)
        return place
    following = _following(instance, place, request)
    rotation = Rotation(
        instance.id, len(chain.rotations) + 1, time, _public(following), _public(key), last, request.compromised_since
    )
    text = "\n".join([*_notes(instance), rotation.sign(key, following)])
    KeyChain.read(text, instance.id)  # what nobody could verify is not written
    durable.replace(instance.key_chain, text.encode(), mode=0o644)
    if not request.new:
        _promote(place.next_file(instance), place.file(instance))
    withdraw(instance)
    return replace(place, key=request.new or place.key)


def _following(instance: Instance, place: KeyPlace, request: Request) -> SigningKey:
    if request.new:
        return replace(place, key=request.new).open(instance)
    if not place.is_file:
        raise CheckpointInvalid("a key in a KMS is followed by one that is named: `keytrail sealer rotate --new`")
    path = place.next_file(instance)
    if not path.exists():
        durable.replace(path, new_key_file())  # whole or not at all
    return load_key(path)


def _notes(instance: Instance) -> list[str]:
    path = instance.key_chain
    return [path.read_text("utf-8")] if path.exists() else []


def _promote(following: Path, path: Path) -> None:
    following.rename(path)
    durable.sync_folder(path.parent)


def _request_file(instance: Instance) -> Path:
    return instance.key_chain.with_name("rotation")


def _public(key: SigningKey) -> bytes:
    return key.public_key().public_bytes_raw()
