"""Policy files: which logs and witnesses are trusted, and which of the witnesses together are enough (the quorum). Pure.

A file is read strictly: what is not exactly of the specification's form is refused, with the line. What has the form comes back
the same when it is written and read again.

Source: C2SP tlog-policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from audit.checkpoint import VerifierKey
from audit.cosignature import WitnessKey, open_cosignatures
from audit.errors import AuditError, CheckpointInvalid

NO_QUORUM = "none"
_MAX_BYTES = 1 << 20
_MAX_ITEMS = 1_000  # lines of one kind; the specification wants 32 at least
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_WORD = re.compile(r"[^ \t]+")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class PolicyInvalid(AuditError):
    """A policy file is not as the specification says. `line` counts from 1; 0 is the file as a whole."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"policy{f', line {line}' if line else ''}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Log:
    """A log that is trusted: the key's name is its origin."""

    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness under the name that it has in this file. `url` is its submission prefix."""

    name: str
    key: WitnessKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """At least `threshold` of `members`, each a witness or a group of a line before."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """What a policy says of a note. `time_s`: since when (seconds since 1970) at the latest enough witnesses have stood by it.

    It is the youngest time that still leaves a quorum: however old one of more cosignatures than are needed is, it does not
    count. None where the quorum is not there, and where none is needed.
    """

    is_fulfilled: bool
    time_s: int | None
    cosigners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a policy file says. `quorum` names a witness or a group, or is `none`."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str

    def judge(self, note: str) -> Quorum:
        """Whether enough witnesses cosigned `note`. By whom else it is signed is not asked.

        Raises `CheckpointInvalid` where the note is none, or the cosignature of a witness of this policy is not genuine.
        """
        found = {one.key: one.time_s for one in open_cosignatures(note, [witness.key for witness in self.witnesses])}
        times = {witness.name: found[witness.key] for witness in self.witnesses if witness.key in found}
        time_s = self._quorum_time(times)
        return Quorum(time_s is not None or self.quorum == NO_QUORUM, time_s, tuple(times))

    def _quorum_time(self, times: Mapping[str, int]) -> int | None:
        """When the quorum stood by what its witnesses cosigned at `times`; None where it is not there."""
        told: dict[str, int | None] = {witness.name: times.get(witness.name) for witness in self.witnesses}
        for group in self.groups:  # each refers to what stands before it
            members = sorted((time for name in group.members if (time := told[name]) is not None), reverse=True)
            told[group.name] = members[group.threshold - 1] if len(members) >= group.threshold else None
        return told.get(self.quorum)

    def encode(self) -> bytes:
        """The file that says the same."""
        lines = [" ".join(["log", str(log.key), *_if_any(log.url)]) for log in self.logs]
        lines += [" ".join(["witness", one.name, str(one.key), *_if_any(one.url)]) for one in self.witnesses]
        lines += [" ".join(["group", group.name, str(group.threshold), *group.members]) for group in self.groups]
        return "".join(f"{line}\n" for line in [*lines, f"quorum {self.quorum}"]).encode("utf-8", "surrogateescape")

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Read a policy file. Raises `PolicyInvalid`."""
        if len(data) > _MAX_BYTES:
            raise PolicyInvalid(0, "it is too long")
        if bad := _FORBIDDEN.search(data):
            raise PolicyInvalid(data.count(b"\n", 0, bad.start()) + 1, f"the byte {bad[0][0]:#04x} is not allowed")
        if not data.endswith(b"\n"):
            raise PolicyInvalid(data.count(b"\n") + 1, "the last line is not ended")
        reader = _Reader()
        # Names are octets to the specification; so read, two that differ in one octet differ, whatever the octets are.
        for number, line in enumerate(data[:-1].decode("utf-8", "surrogateescape").split("\n"), 1):
            words = _WORD.findall(line)
            if words and not words[0].startswith("#"):
                reader.take(number, words)
        return reader.policy()


class _Reader:
    """Takes a policy file line by line."""

    def __init__(self) -> None:
        self._logs: list[Log] = []
        self._witnesses: list[Witness] = []
        self._groups: list[Group] = []
        self._quorum: str | None = None
        self._names: set[str] = set()
        self._members: set[str] = set()  # of any group

    def take(self, number: int, words: list[str]) -> None:
        try:
            match words:
                case ["log", key, *url] if len(url) <= 1:
                    self._take_log(Log(VerifierKey.parse(key), *url))
                case ["witness", name, key, *url] if len(url) <= 1:
                    self._take_witness(Witness(name, WitnessKey.parse(key), *url))
                case ["group", name, threshold, *members] if members:
                    self._take_group(name, threshold, tuple(members))
                case ["quorum", name]:
                    self._take_quorum(name)
                case _:
                    raise PolicyInvalid(number, f"{words[0]!r:.40} is no log, witness, group or quorum line of a known form")
        except (CheckpointInvalid, ValueError) as error:
            raise PolicyInvalid(number, str(error)) from error

    def policy(self) -> Policy:
        if self._quorum is None:
            raise PolicyInvalid(0, "it has no quorum line")
        return Policy(tuple(self._logs), tuple(self._witnesses), tuple(self._groups), self._quorum)

    def _take_log(self, log: Log) -> None:
        if any(log.key.public_key == other.key.public_key for other in self._logs):
            raise ValueError("a log line before has the same public key")
        self._logs.append(log)
        _require_few(self._logs)

    def _take_witness(self, witness: Witness) -> None:
        if any(witness.key.public_key == other.key.public_key for other in self._witnesses):
            raise ValueError("a witness line before has the same public key")
        self._define(witness.name)
        self._witnesses.append(witness)
        _require_few(self._witnesses)

    def _take_group(self, name: str, threshold: str, members: tuple[str, ...]) -> None:
        for member in members:
            if member == NO_QUORUM or member not in self._names:
                raise ValueError(f"the member {member!r:.40} is no witness or group of a line before")
            if member in self._members:
                raise ValueError(f"{member!r:.40} is a member of a group already")
            self._members.add(member)
        if threshold in ("any", "all"):
            needed = 1 if threshold == "any" else len(members)
        elif not _NUMBER.fullmatch(threshold) or int(threshold) > len(members):
            raise ValueError(f"the threshold {threshold!r:.40} is not any, all, or a number from 1 to {len(members)}")
        else:
            needed = int(threshold)
        self._define(name)
        self._groups.append(Group(name, needed, members))
        _require_few(self._groups)

    def _take_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise ValueError("there is a quorum line already")
        if name != NO_QUORUM and name not in self._names:
            raise ValueError(f"{name!r:.40} is no witness or group of a line before")
        self._quorum = name

    def _define(self, name: str) -> None:
        if name == NO_QUORUM or name in self._names:
            raise ValueError(f"the name {name!r:.40} is taken")
        self._names.add(name)


def _if_any(url: str | None) -> list[str]:
    return [] if url is None else [url]


def _require_few(items: list[Log] | list[Witness] | list[Group]) -> None:
    if len(items) > _MAX_ITEMS:
        raise ValueError(f"more than {_MAX_ITEMS} lines of this kind")
