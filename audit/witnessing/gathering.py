"""Cosignatures of one log's checkpoints, gathered until enough witnesses stand by one. Pure.

Witnesses answer each in their own time, so that for a while there may be some cosignatures of several checkpoints. What is
given out as cosigned is never older than what was given out before.
"""

from __future__ import annotations

from audit.checkpoint import claimed_checkpoint
from audit.cosignature import Cosignature, WitnessKey, open_cosignatures
from audit.policy_file import Policy

_MAX_NOTES = 64  # waiting for a quorum at once; the oldest are given up


class Gathering:
    """For one log and one policy. `cosigned` is the newest note that had the quorum, "" where there is none."""

    def __init__(self, policy: Policy, cosigned: str = "") -> None:
        """Go on from the note `cosigned`; one that has no quorum by `policy` is gone on from all the same, but for its size.

        Raises `CheckpointInvalid` where it is no checkpoint, or has a cosignature that is not genuine.
        """
        self._policy = policy
        self._notes: dict[str, dict[WitnessKey, Cosignature]] = {}
        self.cosigned = ""
        self.size = self.time_s = 0  # of `cosigned`; the time is that of the quorum
        self._count = 0
        if cosigned:
            keys = [witness.key for witness in policy.witnesses]
            bare = _without(cosigned, found := open_cosignatures(cosigned, keys))
            self._notes[bare] = {one.key: one for one in found}
            self.size = claimed_checkpoint(cosigned).size
            self._judge(bare)

    def add(self, note: str, cosignature: Cosignature) -> str | None:
        """Take a cosignature of `note`, as the log signed it. The note with all its cosignatures, where that is news."""
        size = claimed_checkpoint(note).size
        if size < self.size:
            return None
        cosigners = self._notes.setdefault(note, {})
        known = cosigners.get(cosignature.key)
        if known is None or known.time_s < cosignature.time_s:
            cosigners[cosignature.key] = cosignature
        while len(self._notes) > _MAX_NOTES:
            del self._notes[min(self._notes, key=lambda one: claimed_checkpoint(one).size)]
        return self.cosigned if note in self._notes and self._judge(note) else None

    def _judge(self, note: str) -> bool:
        """Whether `note` is news: it has the quorum, and of a larger tree, by a later time, or by more witnesses."""
        whole = note + "".join(one.line for one in self._notes[note].values())
        quorum = self._policy.judge(whole)
        size, time_s, count = claimed_checkpoint(note).size, quorum.time_s or 0, len(quorum.cosigners)
        known = (self.size, self.time_s, self._count)
        if not quorum.is_fulfilled or (size, time_s, count) <= known:
            return False
        self.cosigned, self.size, self.time_s, self._count = whole, size, time_s, count
        self._notes = {one: kept for one, kept in self._notes.items() if claimed_checkpoint(one).size >= size}
        return True


def _without(note: str, cosignatures: list[Cosignature]) -> str:
    for one in cosignatures:
        note = note.replace(one.line, "")
    return note
