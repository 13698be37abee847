"""The sealer as another user than who starts it, where that is root."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from audit.errors import AuditError


class NoSuchUser(AuditError):
    """The host has no user of that name."""


class NotOwn(AuditError):
    """What only the sealer, or root, should have made is another user's."""


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of a user, of its own group, and of all of its groups, with that of the data folder but without root's."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def account(user: str, data: Path) -> Account | None:
    """Whom a process that reads the data folder is to run as; None where that is whoever starts it, as it is where that is not
    root. Raises `NoSuchUser`, OSError."""
    if not user or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise NoSuchUser(f"there is no user {user}") from error
    groups = {*os.getgrouplist(entry.pw_name, entry.pw_gid), data.stat().st_gid}
    return Account(entry.pw_uid, entry.pw_gid, tuple(sorted(groups - {0})))


def require_own(file: Path | int, path: Path) -> None:
    """Raise `NotOwn` where `file`, which is at `path`, belongs to neither this process's user nor root; to root all is its own.
    Raises OSError."""
    user = os.geteuid()
    if user not in (0, owner := os.stat(file).st_uid) and owner != 0:
        raise NotOwn(f"{path} belongs to user {owner}, not to the sealer's, {user}: somebody else put it there")


def become(user: str, data: Path) -> None:
    """Be that user from now on, without a way back. Raises as `account`."""
    one = account(user, data)
    if one is not None:
        os.setgroups(one.groups)
        os.setgid(one.gid)
        os.setuid(one.uid)
