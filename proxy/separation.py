"""The sealer as a user of its own: who owns what in the data folder. Needs root.

The folder's group may go through it, and read `keytrail.json` and the logs, so that the sealer's user needs to be of that group
and of no other. The checkpoints are the sealer's, and the group may read them; the key and the state are the sealer's alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audit.instance import Instance
from audit.sealing.account import account
from audit.sealing.keys import KeyPlace
from proxy.companions import sealing_plan
from proxy.errors import SetupError
from proxy.settings import Settings

_THROUGH, _READ, _FILE, _SECRET = 0o2710, 0o2750, 0o640, 0o600  # set-group-id: what is made in a folder gets its group


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Be that user within, where this is root: what is made then is theirs. For a process with one thread."""
    if os.getuid() != 0:
        yield
        return
    before = os.geteuid(), os.getegid()
    _act(uid, gid)
    try:
        yield
    finally:
        _act(*before)


def _act(uid: int, gid: int) -> None:
    os.seteuid(0)
    os.setegid(gid)
    os.seteuid(uid)


def separate(instance: Instance, settings: Settings) -> None:
    """Give the sealer's user what is its own, and let it read the logs; again and again, if need be. Raises `SetupError`,
    OSError."""
    one = account(settings.sealer_user, settings.data)
    if one is None:
        raise SetupError("`keytrail sealer separate` is for root, and needs the setting `sealer_user`")
    group = settings.data.stat().st_gid or one.gid  # the group of root is nobody's to be in
    own = KeyPlace.of(sealing_plan(settings))
    _give(settings.data, -1, group, _THROUGH)
    for path in (settings.data / "keytrail.json", instance.sealer_public_key):
        _give(path, -1, group, _FILE)
    _give_all(settings.data / "log", -1, group)
    _give_all(settings.data / "checkpoints", one.uid, group)
    for path in (own.state_file(instance), *([own.file(instance)] if own.is_file else [])):
        if path.exists():
            _give(path, one.uid, one.gid, _SECRET)


def _give_all(top: Path, uid: int, gid: int) -> None:
    """The folder `top`, and the folders and files in it. Other users may write there, so no link of theirs is followed."""
    for _, _, names, folder in os.fwalk(top, follow_symlinks=False):
        os.fchown(folder, uid, gid)
        os.fchmod(folder, _READ)
        for name in names:
            with suppress(OSError):  # a link, or gone by now
                _give(Path(name), uid, gid, _FILE, folder)


def _give(path: Path, uid: int, gid: int, mode: int, folder: int | None = None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode) or stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
    finally:
        os.close(fd)
