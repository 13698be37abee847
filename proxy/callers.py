"""Who may call: access keys that this keytrail gives out, each for a user or an assumed role.

The secrets are sealed in the store. They come out in two places only: to whoever adds a caller or rotates its key,
once, and to `find`, for checking signatures. An access key is never deleted here, only disabled, so that a record's
key id keeps its meaning. What one process changes is seen by the next `find` of every other.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from proxy.domain import Principal
from proxy.errors import SetupError
from proxy.sealed_store import Body, Entry, SealedStore, Secret, Transaction

IAM_USER = "IAMUser"
ASSUMED_ROLE = "AssumedRole"

_CALLER = "caller"
_NO_REGION = ""  # a caller belongs to all of them

#: IAM: user names of up to 64, role names of up to 64, session names of 2 to 64 characters; a user may have a path.
_USER_ARN = re.compile(r"arn:aws:iam::([0-9]{12}):user/(?:[!-.0-~]+/)*([\w+=,.@-]{1,64})", re.ASCII)
_ROLE_ARN = re.compile(r"arn:aws:sts::([0-9]{12}):assumed-role/([\w+=,.@-]{1,64})/([\w+=,.@-]{2,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """An access key with its secrets. `session_token` is set for assumed roles only."""

    principal: Principal
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    enabled: bool


@dataclass(frozen=True, slots=True)
class ListedCaller:
    """An access key without its secrets; `created_s` is seconds since the epoch."""

    principal: Principal
    enabled: bool
    created_s: float


class Callers:
    """The callers in a sealed store. `find` is for one thread; the rest may be called from any.

    `clock` gives seconds since the epoch, `random(n)` n unpredictable bytes. Every change is durable when it returns.
    """

    def __init__(
        self,
        store: SealedStore,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._by_key: dict[str, Caller | Entry] = {}  # a row until it is first asked for
        self._generation = 0
        self._seen: int | None = None

    def find(self, access_key_id: str) -> Caller | None:
        """The caller of an access key, enabled or not, or None; a look-up in memory as long as nothing has changed.

        Raises SealBroken where another hand changed its row.
        """
        published = self._store.published
        if published != self._seen:
            self._load()
            self._seen = published
        found = self._by_key.get(access_key_id)
        if isinstance(found, Entry):
            found = self._by_key[access_key_id] = _caller(found)
        return found

    def _load(self) -> None:
        changes = self._store.changes_since(self._generation, (_CALLER,))
        if changes.complete:
            self._by_key = {}
        for entry in changes.entries:
            if entry.deleted:
                self._by_key.pop(entry.id, None)
            else:
                self._by_key[entry.id] = entry
        self._generation = changes.generation

    def add(self, arn: str, type: str | None = None) -> Caller:
        """Give an access key to the user or assumed role that `arn` names; `type`, if given, must be the ARN's.

        Raises SetupError where the ARN is of no known shape, or has an access key already (then there is `rotate`).
        """
        found, account_id, name = _read_arn(arn)
        if type is not None and type != found:
            raise SetupError(f"{arn} is the ARN of an {found}, not of an {type}")
        with self._store.change() as tx:
            others = [_principal(entry) for entry in tx.all(_CALLER, _NO_REGION)]
            for other in others:
                if other.arn == arn:
                    raise SetupError(f"{arn} has the access key {other.access_key_id} already; rotate or enable that one")
            principal = Principal(
                type=found,
                arn=arn,
                account_id=account_id,
                access_key_id=self._new_access_key_id(tx, found),
                principal_id=self._new_principal_id(found, arn, others),
                user_name=name,
            )
            return self._put_new(tx, principal)

    def list(self) -> tuple[ListedCaller, ...]:
        """Every access key, in the order of ARNs, the oldest key of each first."""
        entries = self._store.changes_since(0, (_CALLER,)).entries
        return tuple(sorted(map(_listed, entries), key=lambda one: (one.principal.arn, one.created_s)))

    def disable(self, access_key_id: str) -> ListedCaller:
        """Refuse this access key from now on. Raises SetupError if it is unknown."""
        return self._turn(access_key_id, enabled=False)

    def enable(self, access_key_id: str) -> ListedCaller:
        """Accept this access key again. Raises SetupError if it is unknown."""
        return self._turn(access_key_id, enabled=True)

    def rotate(self, access_key_id: str, keep_old: bool = False) -> Caller:
        """A new access key for the same principal; the old one is disabled, or stays as it is with `keep_old`.

        Raises SetupError if it is unknown.
        """
        with self._store.change() as tx:
            entry = _existing(tx, access_key_id)
            old = _principal(entry)
            principal = Principal(
                type=old.type,
                arn=old.arn,
                account_id=old.account_id,
                access_key_id=self._new_access_key_id(tx, old.type),
                principal_id=old.principal_id,
                user_name=old.user_name,
            )
            if not keep_old:
                _put(tx, access_key_id, {**entry.body, "enabled": False}, entry.secret)
            return self._put_new(tx, principal)

    def _turn(self, access_key_id: str, *, enabled: bool) -> ListedCaller:
        with self._store.change() as tx:
            entry = _existing(tx, access_key_id)
            if entry.body["enabled"] is not enabled:
                _put(tx, access_key_id, {**entry.body, "enabled": enabled}, entry.secret)
            return ListedCaller(_principal(entry), enabled, entry.body["created_s"])

    def _put_new(self, tx: Transaction, principal: Principal) -> Caller:
        caller = Caller(
            principal=principal,
            secret_access_key=base64.b64encode(self._random(30)).decode(),  # 40 characters, as AWS's
            session_token=base64.b64encode(self._random(96)).decode() if principal.type == ASSUMED_ROLE else None,
            enabled=True,
        )
        body = {
            "type": principal.type,
            "arn": principal.arn,
            "account": principal.account_id,
            "principal_id": principal.principal_id,
            "user_name": principal.user_name,
            "enabled": True,
            "created_s": self._clock(),
        }
        _put(tx, principal.access_key_id, body, Secret(orjson.dumps([caller.secret_access_key, caller.session_token])))
        return caller

    def _new_access_key_id(self, tx: Transaction, type: str) -> str:
        prefix = "ASIA" if type == ASSUMED_ROLE else "AKIA"
        access_key_id = prefix + self._base32(16)
        if tx.get(_CALLER, _NO_REGION, access_key_id) is not None:
            raise SetupError("a new access key id came out as one that is in use: the source of randomness is broken")
        return access_key_id

    def _new_principal_id(self, type: str, arn: str, others: Sequence[Principal]) -> str:
        """As AWS's: AIDA… for a user, AROA…:SESSION for a session; AROA… is the role's, the same for its sessions."""
        if type == IAM_USER:
            return "AIDA" + self._base32(17)
        role, _, session = arn.rpartition("/")
        for other in others:
            if other.arn.rpartition("/")[0] == role:
                return f"{other.principal_id.partition(':')[0]}:{session}"
        return f"AROA{self._base32(17)}:{session}"

    def _base32(self, length: int) -> str:
        return base64.b32encode(self._random(15)).decode()[:length]


def _read_arn(arn: str) -> tuple[str, str, str | None]:
    """Type, account and user name. Raises SetupError."""
    if user := _USER_ARN.fullmatch(arn):
        return IAM_USER, user[1], user[2]
    if role := _ROLE_ARN.fullmatch(arn):
        return ASSUMED_ROLE, role[1], None
    raise SetupError(
        f"{arn!r} is not the ARN of a caller: it must be arn:aws:iam::ACCOUNT:user/NAME or"
        " arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION"
    )


def _existing(tx: Transaction, access_key_id: str) -> Entry:
    entry = tx.get(_CALLER, _NO_REGION, access_key_id)
    if entry is None:
        raise SetupError(f"there is no caller with the access key {access_key_id}")
    return entry


def _put(tx: Transaction, access_key_id: str, body: Body, secret: Secret) -> None:
    tx.put(_CALLER, _NO_REGION, access_key_id, body, secret)


def _principal(entry: Entry) -> Principal:
    body = entry.body
    return Principal(body["type"], body["arn"], body["account"], entry.id, body["principal_id"], body["user_name"])


def _listed(entry: Entry) -> ListedCaller:
    return ListedCaller(_principal(entry), entry.body["enabled"], entry.body["created_s"])


def _caller(entry: Entry) -> Caller:
    secret_access_key, session_token = orjson.loads(entry.secret.reveal())
    return Caller(_principal(entry), secret_access_key, session_token, entry.body["enabled"])
