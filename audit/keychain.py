"""The chain of a sealer's keys: which key signs for which records. Pure.

Each rotation is a signed note, by the key that was and by the key that follows it. It fixes, for each log, the last checkpoint
under the old key: its size and its root. Beyond that size only the new key is valid, so that whoever has a stolen old key can
sign for nothing more, and nothing else for what was. From one key that is trusted, the chain leads to those before it and to
those after it; but not beyond a key that was given up as compromised, whose word may be a thief's: what follows it has to be
trusted by itself.

Format: docs/log-format.md, "The sealer's keys".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from audit.checkpoint import (
    Checkpoint,
    SigningKey,
    VerifierKey,
    claimed_text,
    is_public_key,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    sign_note,
    split_notes,
)
from audit.errors import CheckpointInvalid

_KIND = "sealer-keys"
_COMPROMISED = "compromised-since "
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def chain_name(instance: str) -> str:
    """The name that the instance with this id signs rotations under."""
    return f"keytrail/{instance}/{_KIND}"


@dataclass(frozen=True, slots=True)
class Rotation:
    """A change of the key: the `number` of it, from 1; its time (ISO 8601, UTC, seconds), the two public keys, and of each log by
    its name the last checkpoint under the old key, which is of the empty tree where there was none. `compromised_since`: from
    when on the old key may have been used by somebody else."""

    instance: str
    number: int
    time: str
    new_key: bytes
    old_key: bytes
    last: Mapping[str, Checkpoint]
    compromised_since: str | None = None

    def text(self) -> str:
        """What is signed."""
        lines = [chain_name(self.instance), str(self.number), self.time, _encode(self.new_key), _encode(self.old_key)]
        if self.compromised_since is not None:
            lines.append(_COMPROMISED + self.compromised_since)
        lines += [f"{log} {checkpoint.size} {_encode(checkpoint.root)}" for log, checkpoint in self.last.items()]
        return "".join(f"{line}\n" for line in lines)

    def sign(self, old: SigningKey, new: SigningKey) -> str:
        """The note: by both keys. Raises ValueError where a key is not the one that the rotation names."""
        if (old.public_key().public_bytes_raw(), new.public_key().public_bytes_raw()) != (self.old_key, self.new_key):
            raise ValueError("the rotation names other keys")
        return sign_note(self.text(), chain_name(self.instance), old, new)

    @classmethod
    def parse(cls, text: str, instance: str) -> Rotation:
        """Read a note's text. Raises `CheckpointInvalid` unless it is exactly what `text` writes."""
        try:
            name, number, time, new_key, old_key, *rest = text.removesuffix("\n").split("\n")
            compromised = None
            if rest and rest[0].startswith(_COMPROMISED):
                compromised = rest.pop(0).removeprefix(_COMPROMISED)
            last = {log: _checkpoint(instance, log, size, root) for log, size, root in (line.split(" ") for line in rest)}
            rotation = cls(instance, int(number), time, _decode(new_key), _decode(old_key), last, compromised)
        except (ValueError, binascii.Error) as error:
            raise CheckpointInvalid(f"not a change of the sealer's key: {error}") from error
        times = (time,) if compromised is None else (time, compromised)
        is_written_so = rotation.text() == text and name == chain_name(instance) and _NUMBER.fullmatch(number) is not None
        if not is_written_so or not all(_TIME.fullmatch(one) for one in times):
            raise CheckpointInvalid("not a change of the sealer's key, or of another instance")
        if not is_public_key(rotation.new_key) or not is_public_key(rotation.old_key) or rotation.new_key == rotation.old_key:
            raise CheckpointInvalid(f"change {number} of the sealer's key names no two keys")
        return rotation


@dataclass(frozen=True, slots=True)
class KeyChain:
    """The rotations of an instance, oldest first, each signed by both of its keys, and each beginning where the last one ended.

    Made by `read`. That its signatures are genuine says nothing of whose keys these are: that a key is trusted, says the caller.
    """

    instance: str
    rotations: tuple[Rotation, ...] = ()

    @classmethod
    def read(cls, text: str, instance: str) -> KeyChain:
        """Read notes with an empty line between them. Raises `CheckpointInvalid`."""
        rotations: list[Rotation] = []
        for note in split_notes(text):
            rotation = Rotation.parse(claimed_text(note), instance)
            for key in (rotation.old_key, rotation.new_key):
                open_note(note, VerifierKey(chain_name(instance), key))
            if rotation.number != len(rotations) + 1:
                raise CheckpointInvalid(f"change {rotation.number} of the sealer's key stands where {len(rotations) + 1} should")
            if rotations:
                _require_next(rotations[-1], rotation)
            rotations.append(rotation)
        return cls(instance, tuple(rotations))

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The public keys, oldest first; none where the key was never changed."""
        return (self.rotations[0].old_key, *(rotation.new_key for rotation in self.rotations)) if self.rotations else ()

    def first_key(self, default: bytes) -> bytes:
        return self.rotations[0].old_key if self.rotations else default

    def newest_key(self, default: bytes) -> bytes:
        """The key of today; `default` where it was never changed."""
        return self.rotations[-1].new_key if self.rotations else default

    def vouched(self, trusted: bytes) -> tuple[bytes, ...]:
        """The keys whose signature counts today, on what names no records, by the word of `trusted`: itself, and those after
        it."""
        if trusted not in self.keys:
            return (trusted,)
        place = self.keys.index(trusted)
        found = [trusted]
        for rotation in self.rotations[place:]:
            if rotation.compromised_since is not None:
                break
            found.append(rotation.new_key)
        return tuple(found)


def _require_next(before: Rotation, after: Rotation) -> None:
    """Raises `CheckpointInvalid` unless `after` goes on from where `before` ended."""
    if after.old_key != before.new_key:
        raise CheckpointInvalid(f"change {after.number} of the sealer's key is not of the key before it")
    if after.new_key in (before.old_key, before.new_key):
        raise CheckpointInvalid(f"change {after.number} of the sealer's key goes back to one that was given up")
    for log, checkpoint in before.last.items():
        if log not in after.last or after.last[log].size < checkpoint.size:
            raise CheckpointInvalid(
                f"change {after.number} of the sealer's key knows less of the log {log} than the one before it"
            )


class LogKeys:
    """The keys of one log, by the size of its tree, as `trusted` (the log's verifier key) vouches for them by `chain`.

    A chain that the trusted key is not in says nothing here: then that key is the only one.
    """

    def __init__(self, trusted: VerifierKey, chain: KeyChain | None = None) -> None:
        self.origin = trusted.name
        self._trusted = trusted
        self._log = trusted.name.rpartition("/")[2]
        is_of_chain = chain is not None and trusted.name == f"keytrail/{chain.instance}/{self._log}"
        self._rotations = chain.rotations if chain is not None and is_of_chain and trusted.public_key in chain.keys else ()
        self._place = chain.keys.index(trusted.public_key) if chain is not None and self._rotations else 0

    def at(self, size: int) -> VerifierKey:
        """The key that a checkpoint of `size` records is valid under. Raises `CheckpointInvalid` where nobody vouches for one."""
        place = sum(size > _last(rotation, self._log) for rotation in self._rotations)
        for rotation in self._rotations[self._place : place]:
            if rotation.compromised_since is not None:
                raise CheckpointInvalid(
                    f"the key that is trusted was given up: it may be in other hands since {rotation.compromised_since}, "
                    "and cannot vouch for those after it; get the key of today from whom you trust"
                )
        if not self._rotations:
            return self._trusted
        rotation = self._rotations[max(0, place - 1)]
        return VerifierKey(self.origin, rotation.new_key if place else rotation.old_key)

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of this log in `note`, by the key that is valid for its size. Raises `CheckpointInvalid`."""
        claimed = parse_checkpoint(claimed_text(note))
        verifier = self.at(claimed.size)
        try:
            checkpoint = open_checkpoint(note, verifier)
        except CheckpointInvalid as error:
            if not self._rotations:
                raise
            raise CheckpointInvalid(f"{error}; that key alone is valid for {claimed.size} records") from error
        if checkpoint.origin != self.origin:
            raise CheckpointInvalid(f"it is for {checkpoint.origin}, not for {self.origin}")
        return checkpoint

    def fixed(self) -> Iterable[tuple[int, Checkpoint]]:
        """What the changes of the key fix of this log: the number of each, and the checkpoint, in the order of their sizes."""
        for rotation in self._rotations:
            checkpoint = rotation.last.get(self._log)
            if checkpoint is not None and checkpoint.size:
                yield rotation.number, checkpoint


def _last(rotation: Rotation, log: str) -> int:
    """How many records of `log` the old key signed for: none of a log that was made later."""
    checkpoint = rotation.last.get(log)
    return 0 if checkpoint is None else checkpoint.size


def _checkpoint(instance: str, log: str, size: str, root: str) -> Checkpoint:
    return parse_checkpoint(f"keytrail/{instance}/{log}\n{size}\n{root}\n")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
