"""What keytrail signs with: its own credentials, found as every AWS SDK finds them, or a role assumed for each caller.

Rules kept: credentials that are current are handed out with no I/O, lock or thread. What asks a file, a process or the network
runs in a thread, once for all who wait, and nobody waits for it longer than `PATIENCE_S`. Credentials are renewed well before
they end, and used as long as they are valid where that fails. Of what went wrong only words that hold no secret are told.

Source: botocore/credentials.py (the chain; 15 and 10 minutes); AWS STS API reference, AssumeRole.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, MetadataRetrievalError
from botocore.session import Session

from proxy.domain import Principal
from proxy.errors import ProxyError, SetupError

_log = logging.getLogger(__name__)
RENEW_BEFORE_S = 15 * 60.0  # botocore's advisory refresh
URGENT_BEFORE_S = 10 * 60.0  # botocore's mandatory refresh: from here on a failure is an error, and no mere warning
PATIENCE_S = 10.0
MAX_SESSIONS = 10_000
_PAUSE_S = (2.0, 60.0)  # between two attempts, least and most
_STS_THREADS = 4
_NO_SESSION_NAME = re.compile(r"[^\w+=,.@-]", re.ASCII)
_MAX_SESSION_NAME = 64
_MARK = re.compile(r"@[0-9a-f]{16}")


class CredentialsUnavailable(ProxyError):
    """There are none to sign with; the text says why, holds no secret, and may be told to a client."""


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """What a request is signed with; `expires_s` is seconds since the epoch, None for those that do not expire."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    expires_s: float | None


class CredentialSource(Protocol):
    """Where the credentials of a call come from. For one event loop."""

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        """The credentials for a call of `principal`; does not wait while those at hand are valid.

        Raises CredentialsUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go of what is under way, and of the sources beneath."""
        ...


class _Kept:
    """One set of credentials, kept current. `fetch` gets a new one; `whose` is for the log; `tasks` holds what is under way."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[AwsCredentials]],
        now_s: Callable[[], float],
        whose: str,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._fetch = fetch
        self._now_s = now_s
        self._whose = whose
        self._tasks = tasks
        self._held: AwsCredentials | None = None
        self._settled_s = 0.0  # until then `_held` is handed out without another look
        self._next_try_s = 0.0
        self._fetching: asyncio.Task[None] | None = None
        self._failure = "none were looked for"
        self._told = logging.NOTSET

    async def get(self) -> AwsCredentials:
        """The credentials. Raises CredentialsUnavailable."""
        now_s = self._now_s()
        if self._held is not None and now_s < self._settled_s:
            return self._held
        if self._fetching is None and now_s >= self._next_try_s:
            self._begin()
        if (held := self._valid(now_s)) is not None:
            return held
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
            if (held := self._valid(self._now_s())) is not None:
                return held
        raise CredentialsUnavailable(self._failure)

    async def renew(self) -> None:
        """Fetch anew whatever is held, which stays in use until then, and after it if this fails.

        Raises CredentialsUnavailable where it fails.
        """
        while self._fetching is not None:  # it may have read what has changed since
            await asyncio.shield(self._fetching)
        await asyncio.shield(self._begin())
        if self._failure:
            raise CredentialsUnavailable(self._failure)

    def _valid(self, now_s: float) -> AwsCredentials | None:
        held = self._held
        return held if held is not None and (held.expires_s is None or now_s < held.expires_s) else None

    def _begin(self) -> asyncio.Task[None]:
        task = self._fetching = asyncio.get_running_loop().create_task(self._run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self) -> None:
        """Fetch. Raises nothing: who waits looks at what came of it."""
        failure = ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                fetched = await self._fetch()
            if fetched.expires_s is not None and fetched.expires_s <= self._now_s():
                failure = "those that were found have expired"
            else:
                self._held = fetched
        except CredentialsUnavailable as error:
            failure = str(error)
        except TimeoutError:
            failure = f"there was no answer within {PATIENCE_S:g} s"
        except asyncio.CancelledError:
            failure = "keytrail is closing"
        except Exception as error:  # the chain runs code of many kinds, and its words are not known
            failure = type(error).__name__
        self._failure, self._fetching = failure, None
        self._plan(self._now_s())

    def _plan(self, now_s: float) -> None:
        """When to look again, after an attempt. Attempts come at least 2 s apart, so that no source is hammered."""
        held = self._valid(now_s)
        left_s = 0.0 if held is None else float("inf") if held.expires_s is None else held.expires_s - now_s
        least_s, most_s = _PAUSE_S
        if self._failure:
            wait_s = min(most_s, max(least_s, left_s / 10))
        else:  # of those that live shorter, half their life
            wait_s = max(least_s, left_s - min(RENEW_BEFORE_S, left_s / 2))
        self._next_try_s = now_s + wait_s
        self._settled_s = now_s + min(wait_s, left_s)
        self._tell(left_s)

    def _tell(self, left_s: float) -> None:
        """Once for each kind of trouble, and once when it is over."""
        level = logging.NOTSET
        if self._failure:
            level = logging.WARNING if left_s > URGENT_BEFORE_S else logging.ERROR
        if level > self._told:
            left = f"; those at hand are good for {left_s:.0f} s" if left_s > 0 else ""
            _log.log(level, "credentials of %s cannot be had: %s%s", self._whose, self._failure, left)
        elif self._told and not self._failure:
            _log.info("credentials of %s can be had again", self._whose)
        self._told = max(level, self._told) if self._failure else logging.NOTSET


class OwnCredentials:
    """The same for all callers: botocore's whole chain, gone through anew each time in a session of `make_session`, so that a
    file that has changed since is read. `now_s` gives seconds since the epoch.
    """

    def __init__(self, make_session: Callable[[], Session], now_s: Callable[[], float]) -> None:
        self._make_session = make_session
        self._threads = ThreadPoolExecutor(1, "credentials")
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept = _Kept(self._fetch, now_s, "keytrail itself", self._tasks)

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        return await self._kept.get()

    async def refresh(self) -> None:
        """Go through the chain now. Raises CredentialsUnavailable where that fails; what is valid stays in use."""
        await self._kept.renew()

    async def close(self) -> None:
        await _end(self._tasks, self._threads)

    async def _fetch(self) -> AwsCredentials:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._find)

    def _find(self) -> AwsCredentials:
        """In a thread."""
        failure: str
        try:
            found = self._make_session().get_credentials()
            if found is not None:
                frozen = found.get_frozen_credentials()
                if frozen.access_key and frozen.secret_key:
                    # Private, but botocore shows the time nowhere else.
                    expires = getattr(found, "_expiry_time", None)
                    return AwsCredentials(
                        frozen.access_key,
                        frozen.secret_key,
                        frozen.token or None,
                        None if expires is None else expires.timestamp(),
                    )
            failure = "none were found in the environment, in a profile, or by a role of this host"
        except Exception as error:  # the chain runs code of many kinds
            failure = _words(error)
        raise CredentialsUnavailable(failure)


class AssumedRoles:
    """A session of a role for each caller: RoleSessionName and SourceIdentity carry the caller's name, so AWS's own CloudTrail
    keeps it. `role_arn` may have ``{caller}`` in it. Callers of the account `account_id` keep their names as they are.

    `own` gives what AssumeRole is signed with, and is closed with this. `endpoint_url` is for an STS that is not AWS's.
    Raises SetupError for a role that cannot be.
    """

    def __init__(
        self,
        own: CredentialSource,
        make_session: Callable[[], Session],
        role_arn: str,
        account_id: str,
        *,
        duration_s: int = 3_600,
        source_identity: bool = True,
        endpoint_url: str | None = None,
        now_s: Callable[[], float],
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        if set("{}") & set(role_arn.replace("{caller}", "")):
            raise SetupError(f"aws_role: of what is in braces only {{caller}} is known, in {role_arn}")
        self._own = own
        self._role_arn = role_arn
        self._account_id = account_id
        self._duration_s = duration_s
        self._source_identity = source_identity
        self._now_s = now_s
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, _Kept] = OrderedDict()  # by ARN; the one used last stands last
        self._threads = ThreadPoolExecutor(_STS_THREADS, "assume-role")
        self._tasks: set[asyncio.Task[None]] = set()
        self._sts = _Sts(make_session, endpoint_url)

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        kept = self._sessions.get(principal.arn)
        if kept is None:
            kept = self._sessions[principal.arn] = self._new(principal)
            if len(self._sessions) > self._max_sessions:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(principal.arn)
        return await kept.get()

    async def close(self) -> None:
        await _end(self._tasks, self._threads)
        await self._own.close()

    def _new(self, principal: Principal) -> _Kept:
        name = session_name(principal, self._account_id)
        request: dict[str, Any] = {  # Any: botocore's parameters
            "RoleArn": self._role_arn.replace("{caller}", name),
            "RoleSessionName": name,
            "DurationSeconds": self._duration_s,
        }
        if self._source_identity:
            request["SourceIdentity"] = name

        async def fetch() -> AwsCredentials:
            own = await self._own.for_caller(principal)
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._sts.assume_role, own, request)

        return _Kept(fetch, self._now_s, principal.arn, self._tasks)


class _Sts:
    """STS, asked in threads: one client for as long as keytrail's own credentials stay the same."""

    def __init__(self, make_session: Callable[[], Session], endpoint_url: str | None) -> None:
        self._make_session = make_session
        self._endpoint_url = endpoint_url
        self._lock = threading.Lock()  # taken by threads only
        self._made: tuple[AwsCredentials, Any] | None = None  # Any: botocore makes its clients at run time

    def assume_role(self, own: AwsCredentials, request: dict[str, Any]) -> AwsCredentials:
        try:
            told = self._client(own).assume_role(**request).get("Credentials")
            if told is None:  # what answered was no STS
                raise CredentialsUnavailable("the answer holds no credentials")
            return AwsCredentials(
                told["AccessKeyId"], told["SecretAccessKey"], told["SessionToken"], told["Expiration"].timestamp()
            )
        except Exception as error:  # a body that cannot be read is in the text of botocore's error
            failure = _words(error)
        raise CredentialsUnavailable(f"the role {request['RoleArn']} cannot be assumed: {failure}")

    def _client(self, own: AwsCredentials) -> Any:
        with self._lock:
            if self._made is None or self._made[0] != own:
                client = self._make_session().create_client(
                    "sts",
                    endpoint_url=self._endpoint_url,
                    aws_access_key_id=own.access_key_id,
                    aws_secret_access_key=own.secret_access_key,
                    aws_session_token=own.session_token,
                )
                self._made = own, client
            return self._made[1]


def session_name(principal: Principal, account_id: str) -> str:
    """The caller's name as STS takes it: 2 to 64 of ``\\w+=,.@-``, for a session of a role ROLE/SESSION.

    A user of `account_id` who has no path is called by name. Every other name is marked with a hash of the whole ARN, and so is
    one that looks marked: no two callers share a name.
    """
    said = principal.user_name or principal.arn.partition(":assumed-role/")[2] or principal.arn.rpartition(":")[2]
    name = _NO_SESSION_NAME.sub("-", said)
    is_plain = principal.arn.partition(":iam:")[2] == f":{account_id}:user/{name}"
    if is_plain and 2 <= len(name) <= _MAX_SESSION_NAME and not _MARK.fullmatch(name[-17:]):
        return name
    mark = "@" + sha256(principal.arn.encode()).hexdigest()[:16]
    return name[: _MAX_SESSION_NAME - len(mark)] + mark


def session_maker(region: str, *, egress_proxy: str = "", ca_bundle: Path | None = None) -> Callable[[], Session]:
    """What makes botocore sessions for `region`, whose clients go through `egress_proxy` and trust `ca_bundle` too."""
    config = Config(
        connect_timeout=3,
        read_timeout=5,
        retries={"total_max_attempts": 2, "mode": "standard"},
        proxies={"https": egress_proxy, "http": egress_proxy} if egress_proxy else None,
        proxies_config={"proxy_ca_bundle": str(ca_bundle)} if egress_proxy.startswith("https:") and ca_bundle else None,
    )

    def make_session() -> Session:
        session = Session()
        session.set_config_variable("region", region)
        session.set_config_variable("sts_regional_endpoints", "regional")
        if ca_bundle is not None:
            session.set_config_variable("ca_bundle", str(ca_bundle))
        session.set_default_client_config(config)
        return session

    return make_session


def _words(error: Exception) -> str:
    """What may be told of `error`. STS quotes the signed request below its first line, with the session token in it; what a
    process or a metadata service wrote may be anything; and a parser quotes what it cannot read."""
    if isinstance(error, CredentialsUnavailable):
        return str(error)
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        message = str(told.get("Message", "")).partition("\n")[0]
        return f"{str(told.get('Code', ''))[:128]}: {message[:512]}"
    if isinstance(error, CredentialRetrievalError):
        return f"{type(error).__name__} ({error.kwargs.get('provider')})"
    if isinstance(error, BotoCoreError) and not isinstance(error, MetadataRetrievalError):
        return str(error).partition("\n")[0][:512]
    return type(error).__name__


async def _end(tasks: set[asyncio.Task[None]], threads: ThreadPoolExecutor) -> None:
    under_way = list(tasks)
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    threads.shutdown(wait=False, cancel_futures=True)
