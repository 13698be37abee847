"""What an auditor demands of a log's newest cosigned checkpoint, and in what a note falls short of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from audit.policy_file import NO_QUORUM, Policy

_SKEW_S = 300  # how far a witness's clock may be ahead of the auditor's


@dataclass(frozen=True, slots=True)
class Demand:
    """The quorum of `policy`, and of cosignatures that are not older than `max_age_s`, where that is given."""

    policy: Policy
    max_age_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether a log without a cosigned checkpoint fulfils it."""
        return self.policy.quorum == NO_QUORUM and self.max_age_s is None

    def shortcomings(self, note: str, now_s: float) -> list[str]:
        """In what `note` falls short, by the auditor's clock. Raises `CheckpointInvalid` where a cosignature is not genuine."""
        quorum = self.policy.judge(note)
        names = ", ".join(quorum.cosigners) or "none of the policy's witnesses"
        if not quorum.is_fulfilled:
            return [f"it has no quorum ({self.policy.quorum}): cosigned by {names}"]
        if quorum.time_s is None:
            return [] if self.max_age_s is None else ["the policy asks no witness, so that nothing tells its age"]
        age_s = now_s - quorum.time_s
        if age_s < -_SKEW_S:
            return [f"its cosignatures are of a time that is {-age_s:.0f} s ahead"]
        if self.max_age_s is not None and age_s > self.max_age_s:
            return [f"its quorum's cosignatures are {age_s:.0f} s old, more than {self.max_age_s:g} s"]
        return []

    def told(self, note: str, now_s: float) -> str:
        """What there is to say of a note that does not fall short. Raises `CheckpointInvalid`."""
        quorum = self.policy.judge(note)
        age = "" if quorum.time_s is None else f", {max(0, now_s - quorum.time_s):.0f} s ago"
        return f"cosigned by {', '.join(quorum.cosigners) or 'nobody, as the policy has it'}{age}"
