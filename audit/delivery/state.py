"""How far a delivery has come: the one file that says so, written before and after every step that others see.

    delivery/NAME/state    JSON; NAME comes from the destination: each has a delivery of its own, from the first record on

    delivery/NAME/fault    JSON: why the last step failed, and when; it is not there where that succeeded

`begun` is what may be at the destination already, wholly or in part: the files of a piece of a log, or a digest with its
signature. It is written down before the first of its bytes goes out, and is finished as it stands there, however often that
takes. Only then is it counted as delivered, in the same write that forgets it. Values only, and their form as JSON;
`StateFile` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import orjson

from audit import durable
from audit.delivery.digest import LogFile, Previous
from audit.delivery.layout import Place
from audit.errors import AuditError

_FORMAT = 1


class StateInvalid(AuditError):
    """The state cannot be read, or is that of another trail: a person has to look."""


@dataclass(frozen=True, slots=True)
class BegunFiles:
    """The records from `start` up to `end` of `log` are being delivered as `files`, at `time`; each is of a place of its own."""

    log: str
    start: int
    end: int
    time: int
    files: tuple[tuple[Place, LogFile], ...]


@dataclass(frozen=True, slots=True)
class BegunDigest:
    """A digest of `place` up to `end`, signed, is being delivered. `document` is its text, uncompressed."""

    place: Place
    end: int
    key: str
    document: str
    signature: str

    @property
    def as_previous(self) -> Previous:
        return Previous(self.key, sha256(self.document.encode()).hexdigest(), self.signature)


@dataclass(frozen=True, slots=True)
class Chain:
    """The digests of a place: they reach up to `until`; `previous` is the last of them; `files` are what the next will name."""

    until: int
    previous: Previous | None = None
    files: tuple[LogFile, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """How far the delivery of `trail` has come. `time` is the latest that it has ever used: no later step has an earlier one.

    `next` is for each log the record that is delivered next. The rest is counted for whoever asks.
    """

    trail: str
    time: int = 0
    next: Mapping[str, int] = field(default_factory=dict)
    chains: Mapping[Place, Chain] = field(default_factory=dict)
    begun: BegunFiles | BegunDigest | None = None
    files: int = 0
    digests: int = 0
    delivered_at: int | None = None
    digested_at: int | None = None

    def with_chain(self, place: Place, until: int) -> State:
        """With a chain for `place`, which begins at `until` if it is new."""
        return self if place in self.chains else replace(self, chains={**self.chains, place: Chain(until)})

    def begin(self, step: BegunFiles | BegunDigest, now: int) -> State:
        """`step` will be at the destination."""
        return replace(self, begun=step, time=now)

    def skip(self, log: str, end: int) -> State:
        """What is before `end` in `log` has nothing to deliver."""
        return replace(self, next={**self.next, log: end})

    def finish(self) -> State:
        """What was begun is at the destination, whole."""
        match self.begun:
            case BegunFiles(log, _, end, time, files):
                chains = dict(self.chains)
                for place, one in files:
                    chains[place] = replace(chains[place], files=(*chains[place].files, one))
                done = replace(self.skip(log, end), chains=chains, files=self.files + len(files), delivered_at=time)
            case BegunDigest(place, end) as digest:
                chains = {**self.chains, place: Chain(end, digest.as_previous)}
                done = replace(self, chains=chains, digests=self.digests + 1, digested_at=end)
            case None:
                done = self
        return replace(done, begun=None)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a step failed, at `time`; for whoever asks how delivery goes."""

    reason: str
    time: int


class Journal(Protocol):
    """Where a `State` is kept."""

    def load(self) -> State | None:
        """What was saved last; None where nothing ever was. Raises `StateInvalid`, OSError."""

    def save(self, state: State) -> None:
        """Keep `state`; durable when this returns, and whole or not at all. Raises OSError."""


class StateFile:
    """The `Journal` in the folder `delivery` of the data folder, for `destination`."""

    def __init__(self, delivery: Path, destination: str) -> None:
        self._destination = destination
        self._folder = delivery / sha256(destination.encode()).hexdigest()[:16]

    def load(self) -> State | None:
        path = self._folder / "state"
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise StateInvalid(f"{path} is damaged: {type(error).__name__}") from error

    def save(self, state: State) -> None:
        if not self._folder.exists():
            durable.create_folder(self._folder)
        durable.replace(self._folder / "state", encode(state, self._destination))

    def note(self, fault: Fault | None) -> None:
        """Say why the last step failed, or that it did not; so that it is seen, and not so that it lasts. Raises OSError."""
        path = self._folder / "fault"
        if fault is None:
            path.unlink(missing_ok=True)
            return
        if not self._folder.exists():
            durable.create_folder(self._folder)
        durable.replace(path, orjson.dumps(fault))

    def fault(self) -> Fault | None:
        """Why the last step failed; None where it did not, or where that cannot be read. Raises OSError."""
        try:
            return Fault(**orjson.loads((self._folder / "fault").read_bytes()))
        except (FileNotFoundError, orjson.JSONDecodeError, TypeError):
            return None


def encode(state: State, destination: str) -> bytes:
    begun: dict[str, Any] | None = None
    match state.begun:
        case BegunFiles():
            begun = {"kind": "files"} | asdict(state.begun)
        case BegunDigest():
            begun = {"kind": "digest"} | asdict(state.begun)
    document = {"format": _FORMAT, "destination": destination} | {
        name: getattr(state, name) for name in State.__slots__ if name not in ("chains", "begun")
    }
    document["chains"] = [{"place": place, **asdict(chain)} for place, chain in state.chains.items()]
    document["begun"] = begun
    return orjson.dumps(document, default=tuple, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)  # of a Place


def decode(text: bytes) -> State:
    """Raises ValueError, KeyError, TypeError."""
    document = orjson.loads(text)
    if document.pop("format") != _FORMAT:
        raise ValueError("another format")
    del document["destination"]
    chains = {Place(*row["place"]): _chain(row) for row in document.pop("chains")}
    return State(chains=chains, begun=_begun(document.pop("begun")), **document)


def _chain(row: dict[str, Any]) -> Chain:
    previous = row["previous"]
    return Chain(row["until"], None if previous is None else Previous(**previous), tuple(LogFile(**one) for one in row["files"]))


def _begun(row: dict[str, Any] | None) -> BegunFiles | BegunDigest | None:
    if row is None:
        return None
    if row.pop("kind") == "files":
        files = tuple((Place(*place), LogFile(**one)) for place, one in row.pop("files"))
        return BegunFiles(files=files, **row)
    return BegunDigest(place=Place(*row.pop("place")), **row)
