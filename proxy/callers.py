"""Who may call: access keys that this keytrail gives out, each for a user or an assumed role.

The secrets are sealed in the store. They come out in two places only: to whoever adds a caller or rotates its key,
once, and to `find`, for checking signatures. An access key is never deleted here, only disabled, so that a record's
key id keeps its meaning. What one process changes is seen by the next `find` of every other.

Beside these there are sessions: temporary credentials that STS gives out (`proxy.sts`), which end. Their rows stay for a while
behind their end, so that a caller is told that they have expired, and are then deleted, when new ones are made.
"""

from __future__ import annotations

import base64
import heapq
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import orjson

from proxy.domain import Principal, SessionContext, SessionIssuer
from proxy.errors import SetupError
from proxy.kms.principals import Kind, parse_principal
from proxy.sealed_store import Body, Entry, SealedStore, Secret, Transaction

IAM_USER = "IAMUser"
ASSUMED_ROLE = "AssumedRole"

#: Kinds of rows. A session's parent is its role, or the access key of the user whose it is.
CALLER, SESSION, ROLE = "caller", "session", "role"
NO_REGION = ""  # they belong to all of them
_KEPT_US = 24 * 3600 * 1_000_000  # a session's row behind its end
_MOST_PRUNED = 100  # at a time

#: IAM: user names of up to 64, role names of up to 64, session names of 2 to 64 characters; a user may have a path.


@dataclass(frozen=True, slots=True)
class Caller:
    """An access key with its secrets. `session_token` is set for assumed roles and sessions only.

    Of a session `expires_us` is its end (microseconds since the epoch), and `of_key` a user's access key that it was made with.
    """

    principal: Principal
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    enabled: bool
    expires_us: int | None = None
    of_key: str | None = None


@dataclass(frozen=True, slots=True)
class ListedCaller:
    """An access key without its secrets; `created_s` is seconds since the epoch."""

    principal: Principal
    enabled: bool
    created_s: float


class Callers:
    """The callers in a sealed store. `find` is for one thread; the rest may be called from any.

    `clock` gives seconds since the epoch, `random(n)` n unpredictable bytes. Every change is durable when it returns; `note` is
    told of each within its transaction.
    """

    def __init__(
        self,
        store: SealedStore,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        note: Callable[[Transaction], None] = lambda tx: None,
    ) -> None:
        self._store = store
        self._note = note
        self._clock = clock
        self._random = random
        self._by_key: dict[str, Caller | Entry] = {}  # a row until it is first asked for
        self._ends: list[tuple[int, str]] = []  # of sessions, a heap
        self._generation = 0
        self._seen: int | None = None

    def find(self, access_key_id: str) -> Caller | None:
        """The caller of an access key, enabled or not, or None; a look-up in memory as long as nothing has changed.

        A user's session is as enabled as the access key that it was made with. Raises SealBroken where another hand changed
        the row.
        """
        published = self._store.published
        if published != self._seen:
            self._load()
            self._seen = published
        caller = self._look_up(access_key_id)
        if caller is not None and caller.of_key is not None:
            maker = self._look_up(caller.of_key)
            return caller if maker is not None and maker.enabled else replace(caller, enabled=False)
        return caller

    def _look_up(self, access_key_id: str) -> Caller | None:
        found = self._by_key.get(access_key_id)
        if isinstance(found, Entry):
            found = self._by_key[access_key_id] = _caller(found) if found.kind == CALLER else _session(found)
        return found

    def _load(self) -> None:
        changes = self._store.changes_since(self._generation, (CALLER, SESSION))
        if changes.complete:
            self._by_key, self._ends = {}, []
        for entry in changes.entries:
            if entry.deleted:
                self._by_key.pop(entry.id, None)
            else:
                self._by_key[entry.id] = entry
                if entry.kind == SESSION:  # its seal is for whoever looks it up
                    heapq.heappush(self._ends, (int(entry.claimed.get("expires_us", 0)), entry.id))
        self._generation = changes.generation

    def outlived(self, now_us: int) -> tuple[str, ...]:
        """The access keys of sessions that ended long ago, for whoever changes the store next to delete; each is told once."""
        found: list[str] = []
        while self._ends and len(found) < _MOST_PRUNED and self._ends[0][0] + _KEPT_US <= now_us:
            found.append(heapq.heappop(self._ends)[1])
        return tuple(found)

    def add(self, arn: str, type: str | None = None) -> Caller:
        """Give an access key to the user or assumed role that `arn` names; `type`, if given, must be the ARN's.

        Raises SetupError where the ARN is of no known shape, or has an access key already (then there is `rotate`).
        """
        found, account_id, name = _read_arn(arn)
        if type is not None and type != found:
            raise SetupError(f"{arn} is the ARN of an {found}, not of an {type}")
        with self._store.change() as tx:
            others = [_principal(entry) for entry in tx.all(CALLER, NO_REGION)]
            _check_new(arn, others)
            principal = Principal(
                type=found,
                arn=arn,
                account_id=account_id,
                access_key_id=self._new_access_key_id(tx, found),
                principal_id=self._new_principal_id(tx, found, arn, others),
                user_name=name,
            )
            return self._put_new(tx, principal)

    def require_new(self, arn: str) -> None:
        """Raises SetupError where `add` would."""
        _read_arn(arn)
        _check_new(arn, [one.principal for one in self.list()])

    def list(self) -> tuple[ListedCaller, ...]:
        """Every access key, in the order of ARNs, the oldest key of each first."""
        entries = self._store.changes_since(0, (CALLER,)).entries
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
                self._note(tx)
            return ListedCaller(_principal(entry), enabled, entry.body["created_s"])

    def _put_new(self, tx: Transaction, principal: Principal) -> Caller:
        body = {
            "type": principal.type,
            "arn": principal.arn,
            "account": principal.account_id,
            "principal_id": principal.principal_id,
            "user_name": principal.user_name,
            "enabled": True,
            "created_s": self._clock(),
        }
        caller = Caller(
            principal=_principal_in(principal.access_key_id, body),
            secret_access_key=new_secret_access_key(self._random),
            session_token=new_session_token(self._random) if principal.type == ASSUMED_ROLE else None,
            enabled=True,
        )
        _put(tx, principal.access_key_id, body, Secret(orjson.dumps([caller.secret_access_key, caller.session_token])))
        self._note(tx)
        return caller

    def _new_access_key_id(self, tx: Transaction, type: str) -> str:
        access_key_id = new_id("ASIA" if type == ASSUMED_ROLE else "AKIA", self._random)
        if any(tx.get(kind, NO_REGION, access_key_id) is not None for kind in (CALLER, SESSION)):
            raise SetupError("a new access key id came out as one that is in use: the source of randomness is broken")
        return access_key_id

    def _new_principal_id(self, tx: Transaction, type: str, arn: str, others: Sequence[Principal]) -> str:
        """As AWS's: AIDA… for a user, AROA…:SESSION for a session; AROA… is the role's, the same for its sessions."""
        if type == IAM_USER:
            return new_id("AIDA", self._random)
        head, name, session = arn.rsplit("/", 2)
        role = tx.get(ROLE, NO_REGION, role_row(head.split(":")[4], name))
        if role is not None:
            return f"{role.body['role_id']}:{session}"
        for other in others:
            if other.arn.rpartition("/")[0] == f"{head}/{name}":
                return f"{other.principal_id.partition(':')[0]}:{session}"
        return f"{new_id('AROA', self._random)}:{session}"


def new_id(prefix: str, random: Callable[[int], bytes]) -> str:
    """An id in AWS's form: an access key's of 20 characters (AKIA…, ASIA…), a principal's of 21 (AIDA…, AROA…)."""
    length = 16 if prefix in ("AKIA", "ASIA") else 17
    return prefix + base64.b32encode(random(15)).decode()[:length]


def new_secret_access_key(random: Callable[[int], bytes]) -> str:
    return base64.b64encode(random(30)).decode()  # 40 characters, as AWS's


def new_session_token(random: Callable[[int], bytes]) -> str:
    return base64.b64encode(random(96)).decode()


def role_row(account_id: str, name: str) -> str:
    """The id of a role's row: a role's name is unique in its account, whatever its path."""
    return f"{account_id}:{name}"


def _check_new(arn: str, others: Sequence[Principal]) -> None:
    for other in others:
        if other.arn == arn:
            raise SetupError(f"{arn} has the access key {other.access_key_id} already; rotate or enable that one")


def _read_arn(arn: str) -> tuple[str, str, str | None]:
    """Type, account and user name. Raises SetupError."""
    found = parse_principal(arn)
    if found is not None and found.kind is Kind.USER:
        return IAM_USER, found.account_id, found.name
    if found is not None and found.kind is Kind.SESSION:
        return ASSUMED_ROLE, found.account_id, None
    raise SetupError(
        f"{arn!r} is not the ARN of a caller: it must be arn:aws:iam::ACCOUNT:user/NAME or"
        " arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION"
    )


def _existing(tx: Transaction, access_key_id: str) -> Entry:
    entry = tx.get(CALLER, NO_REGION, access_key_id)
    if entry is None:
        raise SetupError(f"there is no caller with the access key {access_key_id}")
    return entry


def _put(tx: Transaction, access_key_id: str, body: Body, secret: Secret) -> None:
    tx.put(CALLER, NO_REGION, access_key_id, body, secret)


def _principal(entry: Entry) -> Principal:
    return _principal_in(entry.id, entry.body)


def _principal_in(access_key_id: str, body: Body) -> Principal:
    session = None
    if body["type"] == ASSUMED_ROLE:  # its role's path is not known
        head, name, _ = body["arn"].rsplit("/", 2)
        role_arn = f"{head.replace(':sts:', ':iam:', 1).removesuffix('assumed-role')}role/{name}"
        issuer = SessionIssuer(body["principal_id"].partition(":")[0], role_arn, body["account"], name)
        session = SessionContext(int(body["created_s"]) * 1_000_000, issuer)
    return Principal(body["type"], body["arn"], body["account"], access_key_id, body["principal_id"], body["user_name"], session)


def _listed(entry: Entry) -> ListedCaller:
    return ListedCaller(_principal(entry), entry.body["enabled"], entry.body["created_s"])


def _caller(entry: Entry) -> Caller:
    secret_access_key, session_token = orjson.loads(entry.secret.reveal())
    return Caller(_principal(entry), secret_access_key, session_token, entry.body["enabled"])


def session_body(principal: Principal, expires_us: int, by: str, transitive: Sequence[str] = ()) -> Body:
    """The row of a session; `by` is the ARN of who asked for it, `transitive` the keys of tags that go on to further sessions."""
    if principal.session is None:
        raise ValueError("a session's principal says whence it is")
    return {
        "type": principal.type,
        "arn": principal.arn,
        "account": principal.account_id,
        "principal_id": principal.principal_id,
        "user_name": principal.user_name,
        "created_us": principal.session.created_us,
        "expires_us": expires_us,
        "issuer": None if principal.session.issuer is None else asdict(principal.session.issuer),
        "source_identity": principal.session.source_identity,
        "tags": [list(tag) for tag in principal.tags],
        "transitive": list(transitive),
        "by": by,
    }


def _session(entry: Entry) -> Caller:
    body = entry.body
    secret_access_key, session_token = orjson.loads(entry.secret.reveal())
    issuer = None if body["issuer"] is None else SessionIssuer(**body["issuer"])
    principal = Principal(
        body["type"],
        body["arn"],
        body["account"],
        entry.id,
        body["principal_id"],
        body["user_name"],
        SessionContext(body["created_us"], issuer, body["source_identity"]),
        tuple((key, value) for key, value in body["tags"]),
    )
    of_key = entry.parent if issuer is None else None
    return Caller(principal, secret_access_key, session_token, True, body["expires_us"], of_key)
