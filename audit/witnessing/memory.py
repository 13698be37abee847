"""What a witness remembers, in a folder of its own: for each log the newest checkpoint that it cosigned, and evidence.

    witness.json    the name, the public key, and of which logs there is a checkpoint
    witness.key     0600: the private key, Ed25519 or ML-DSA-44, PEM (PKCS #8)
    lock            held (flock) by the one process that serves it
    logs/SHA256     the newest cosigned note of the log whose origin has this digest
    evidence/       requests that contradict what was cosigned, JSON

A witness that forgets can be shown a second history, and would cosign it. So a checkpoint is durable before it is cosigned for
anybody, and a folder that lacks one which was there is refused: a person has to look. (A folder put back from a backup cannot
be told from here. Do not put one back: make a new witness, with a new key.)
"""

from __future__ import annotations

import contextlib
import os
import threading
from hashlib import sha256
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from audit import durable
from audit.checkpoint import Checkpoint, claimed_checkpoint
from audit.cosignature import WitnessKey, WitnessPrivateKey, open_cosignatures
from audit.errors import AuditError, CheckpointInvalid
from audit.segments import take_lock
from audit.witnessing.evidence import Evidence
from audit.witnessing.judgement import Contradiction, nothing_yet

_FORMAT = 1
#: Of one kind, against one log: a sender of rubbish must not fill the disk, nor keep a fork, or another log's, from being kept.
_MAX_EVIDENCE = 1_000


class MemoryLost(AuditError):
    """The folder does not hold what a witness has to remember."""


class MemoryInUse(AuditError):
    """Another process serves this witness."""


class Memory:
    """The memory in `folder`, held for this process alone until `close`. `remember` and `keep` may be called from any thread.

    Raises `MemoryLost` where something that was remembered is missing or damaged, `MemoryInUse`, OSError.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not all((folder / name).exists() for name in ("witness.json", "lock", "logs")):
            raise MemoryLost(
                f"{folder} holds no witness, or what it remembered is lost: a new one is made by `keytrail witness init`"
            )
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                take_lock(self._lock)
            except BlockingIOError as error:
                raise MemoryInUse(f"another process serves the witness in {folder}") from error
            self._load()
        except BaseException:
            os.close(self._lock)
            raise
        self._registering = threading.Lock()

    @staticmethod
    def create(folder: Path, name: str, created: str, key: WitnessPrivateKey | None = None) -> WitnessKey:
        """Make a witness in `folder`, which must be empty or not there; durable when this returns. By default its key is a new
        one, Ed25519.

        Raises `CheckpointInvalid` where no key can have this name, FileExistsError, OSError.
        """
        key = key or Ed25519PrivateKey.generate()
        public = WitnessKey.parse(str(WitnessKey.of(name, key)))
        if not folder.exists():
            durable.create_folder(folder)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty")
        durable.create_folder(folder / "logs")
        durable.create_folder(folder / "evidence")
        durable.create(folder / "lock", b"")
        durable.create(folder / "witness.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        _save(folder, public, created, [])
        return public

    @property
    def name(self) -> str:
        return self.public_key.name

    def latest(self, origin: str) -> Checkpoint:
        """The newest checkpoint that was cosigned for `origin`; the empty tree where there was none."""
        note = self.note(digest_of(origin))
        return claimed_checkpoint(note) if note is not None else nothing_yet(origin)

    def note(self, digest: str) -> str | None:
        """The note of `latest`, of the origin with this `digest_of` it; None where there is none."""
        return self._notes.get(digest)

    def remember(self, origin: str, note: str) -> None:
        """Have `note`, cosigned, be the newest of `origin`; durable when this returns. One call at a time for an origin."""
        durable.replace(self._folder / "logs" / digest_of(origin), note.encode())
        if origin not in self._listed:
            with self._registering:
                _save(self._folder, self.public_key, self._created, [*self._listed, origin])
                self._listed.append(origin)
        self._notes[digest_of(origin)] = note

    def keep(self, evidence: Evidence) -> None:
        """Keep `evidence`, once; durable when this returns. Of a thousand of a kind against one log no more are kept. Raises
        OSError."""
        folder = self._folder / "evidence"
        with self._registering:
            if len(list(folder.glob(f"{evidence.group}*"))) < _MAX_EVIDENCE:
                with contextlib.suppress(FileExistsError):
                    durable.create(folder / evidence.name, evidence.encode())

    def close(self) -> None:
        os.close(self._lock)

    def _load(self) -> None:
        try:
            document = orjson.loads((self._folder / "witness.json").read_bytes())
            if document["format"] != _FORMAT:
                raise MemoryLost(f"{self._folder}: its format is {document['format']}, this version reads {_FORMAT}")
            self.public_key, self._created = WitnessKey.parse(document["key"]), str(document["created"])
            self._listed = [str(origin) for origin in document["logs"]]
            key = load_pem_private_key((self._folder / "witness.key").read_bytes(), None)
        except (orjson.JSONDecodeError, CheckpointInvalid, KeyError, TypeError, ValueError, AttributeError) as error:
            raise MemoryLost(f"{self._folder}: witness.json or witness.key is damaged") from error
        except FileNotFoundError as error:
            raise MemoryLost(f"{error.filename} is missing") from error
        if not isinstance(key, WitnessPrivateKey) or WitnessKey.of(self.public_key.name, key) != self.public_key:
            raise MemoryLost(f"{self._folder}: witness.key is not the key that witness.json names")
        self.private_key = key
        self._notes: dict[str, str] = {}  # by the digest of their origin
        for path in sorted((self._folder / "logs").glob("*[0-9a-f]")):
            self._notes[path.name] = self._read(path)
        for origin in self._listed:
            if digest_of(origin) not in self._notes:
                raise MemoryLost(f"{self._folder}: the checkpoint that was cosigned for {origin} is missing")
        found = [claimed_checkpoint(note).origin for note in self._notes.values()]
        if new := [origin for origin in found if origin not in self._listed]:  # a crash came before they were listed
            _save(self._folder, self.public_key, self._created, [*self._listed, *new])
            self._listed += new

    def _read(self, path: Path) -> str:
        try:
            note = path.read_bytes().decode()
            is_ours = bool(open_cosignatures(note, [self.public_key])) and digest_of(claimed_checkpoint(note).origin) == path.name
        except (UnicodeDecodeError, CheckpointInvalid):
            is_ours = False
        if not is_ours:
            raise MemoryLost(f"{path} is not a checkpoint that this witness cosigned")
        return note


def read_evidence(folder: Path) -> list[tuple[Path, bytes]]:
    """The files of evidence in the witness's `folder`, oldest first. Raises `MemoryLost`, OSError. Needs no lock."""
    if not (folder / "witness.json").exists():
        raise MemoryLost(f"{folder} holds no witness")
    files = [path for kind in Contradiction for path in (folder / "evidence").glob(f"{kind.value}-*.json")]
    return [(path, path.read_bytes()) for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))]


def digest_of(origin: str) -> str:
    """What a log is called in the names of files, and of the witness's URLs."""
    return sha256(origin.encode()).hexdigest()


def _save(folder: Path, key: WitnessKey, created: str, logs: list[str]) -> None:
    document = {"format": _FORMAT, "key": str(key), "created": created, "logs": logs}
    durable.replace(folder / "witness.json", orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
