"""What keytrail signs with: its own credentials, found as every AWS SDK finds them, or a role assumed for each caller.

Rules kept: nothing here blocks the event loop, since what may ask a file, a process or the network runs on a thread; one refresh
at a time for one set of credentials; credentials are used until they expire, while fresh ones are fetched well before; and no
secret stands in a repr, a log or an error.

Source: botocore's credential provider chain; AWS STS API reference, AssumeRole.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.session

from proxy.domain import Principal
from proxy.errors import ProxyError

_log = logging.getLogger(__name__)
_CHECK_EVERY_S = 30.0  # how often botocore is asked whether its credentials are due; it renews them 15 min before they expire
_RENEW_BEFORE_S = 300.0  # of a role session
_REMEMBER_FAILURE_S = 2.0  # so that a failing STS is not asked by every call
_MAX_SESSIONS = 10_000
_NOT_IN_SESSION_NAMES = re.compile(r"[^\w+=,.@-]", re.ASCII)
_MAX_SESSION_NAME = 64


class CredentialsUnavailable(ProxyError):
    """There are none to sign with; the text says why, with no secret."""


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """What a request is signed with; `expires_s` is seconds since the epoch, None for those that do not expire."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    expires_s: float | None


class CredentialSource(Protocol):
    """Where the credentials of a call come from."""

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        """The credentials for a call of `principal`; does not wait while those at hand are good.

        Raises CredentialsUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go of what is under way."""
        ...


class OwnCredentials:
    """The same for all callers: botocore's whole chain, in `session`. `clock` gives seconds."""

    def __init__(self, session: botocore.session.Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._found: botocore.credentials.Credentials | None = None
        self._current: AwsCredentials | None = None
        self._checked_s = float("-inf")
        self._checking: asyncio.Task[None] | None = None
        self._failure = "none were looked for"

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        if self._clock() - self._checked_s >= _CHECK_EVERY_S and self._checking is None:
            self._checking = self._loop.create_task(self._check())
        if self._current is None and self._checking is not None:
            await asyncio.shield(self._checking)
        if self._current is None:
            raise CredentialsUnavailable(self._failure)
        return self._current

    async def close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def _check(self) -> None:
        """Have botocore renew what is due. What fails is told once, and what is there is used as long as it is good."""
        try:
            self._current = await self._loop.run_in_executor(None, self._load)
            self._failure = ""
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, CredentialsUnavailable) as error:
            if str(error) != self._failure:
                self._failure = str(error)
                _log.error("credentials for AWS: %s", self._failure)
            if self._found is None or _is_expired(self._found):
                self._current = None
        finally:
            self._checked_s = self._clock() - (0.0 if self._current else _CHECK_EVERY_S - _REMEMBER_FAILURE_S)
            self._checking = None

    def _load(self) -> AwsCredentials:
        """On a thread."""
        if self._found is None:
            self._found = self._session.get_credentials()
        if self._found is None:
            raise CredentialsUnavailable("none were found: not in the environment, not in a profile, not by a role of this host")
        frozen = self._found.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise CredentialsUnavailable("those that were found are not whole")
        return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token, None)


def _is_expired(found: botocore.credentials.Credentials) -> bool:
    return isinstance(found, botocore.credentials.RefreshableCredentials) and found.refresh_needed(refresh_in=0)


class AssumedRoles:
    """A session of a role for each caller: RoleSessionName and SourceIdentity carry the caller's name, so AWS's own CloudTrail
    keeps it. `role_arn` may have ``{caller}`` in it. `sts` is botocore's client for STS; it is used on threads only. Callers of
    the account `account_id` keep their names as they are.
    """

    def __init__(
        self, sts: Any, role_arn: str, account_id: str, *, duration_s: int, source_identity: bool, clock: Callable[[], float]
    ) -> None:  # Any: botocore makes its clients at run time
        self._sts = sts
        self._role_arn = role_arn
        self._account_id = account_id
        self._duration_s = duration_s
        self._source_identity = source_identity
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._sessions: OrderedDict[str, AwsCredentials] = OrderedDict()
        self._assuming: dict[str, asyncio.Task[AwsCredentials]] = {}
        self._failed: OrderedDict[str, tuple[float, str]] = OrderedDict()

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        name, now_s = session_name(principal, self._account_id), self._clock()
        held = self._sessions.get(name)
        left_s = held.expires_s - now_s if held is not None and held.expires_s is not None else 0.0
        if held is None or left_s < _RENEW_BEFORE_S:
            assuming = self._assume_soon(name, now_s)
            if held is None or left_s <= 0:
                if assuming is None:
                    raise CredentialsUnavailable(self._failed[name][1])
                return await asyncio.shield(assuming)
        self._sessions.move_to_end(name)
        return held

    async def close(self) -> None:
        under_way = list(self._assuming.values())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def _assume_soon(self, name: str, now_s: float) -> asyncio.Task[AwsCredentials] | None:
        """The one task that assumes the role for `name`; None where that has just failed."""
        failed_s, _ = self._failed.get(name, (float("-inf"), ""))
        if name not in self._assuming and now_s - failed_s < _REMEMBER_FAILURE_S:
            return None
        task = self._assuming.get(name)
        if task is None:
            task = self._assuming[name] = self._loop.create_task(self._assume(name))
            task.add_done_callback(lambda done: self._assumed(name, done))
        return task

    def _assumed(self, name: str, done: asyncio.Task[AwsCredentials]) -> None:
        del self._assuming[name]
        if done.cancelled():
            return
        if (error := done.exception()) is not None:  # asked for here, so that nobody need wait for it
            self._failed[name] = self._clock(), str(error)
            if len(self._failed) > _MAX_SESSIONS:
                self._failed.popitem(last=False)
            return
        self._sessions[name] = done.result()
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)

    async def _assume(self, name: str) -> AwsCredentials:
        request: dict[str, Any] = {  # Any: botocore's parameters
            "RoleArn": self._role_arn.replace("{caller}", name),
            "RoleSessionName": name,
            "DurationSeconds": self._duration_s,
        }
        if self._source_identity:
            request["SourceIdentity"] = name
        try:
            answer = await self._loop.run_in_executor(None, lambda: self._sts.assume_role(**request))
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            _log.error("the role %s cannot be assumed for %s: %s", request["RoleArn"], name, error)
            raise CredentialsUnavailable(f"the role {request['RoleArn']} cannot be assumed: {error}") from None
        told = answer["Credentials"]
        return AwsCredentials(told["AccessKeyId"], told["SecretAccessKey"], told["SessionToken"], told["Expiration"].timestamp())


def session_name(principal: Principal, account_id: str) -> str:
    """The caller's name as STS takes it: 2 to 64 of ``\\w+=,.@-``. A name that had to be changed, or is of another account than
    `account_id`, ends in a hash of the whole ARN, so that no two callers share one."""
    said = principal.user_name or principal.arn.partition("assumed-role/")[2] or principal.access_key_id
    name = _NOT_IN_SESSION_NAMES.sub("-", said)
    if name == said and principal.account_id == account_id and 2 <= len(name) <= _MAX_SESSION_NAME:
        return name
    mark = hashlib.sha256(principal.arn.encode()).hexdigest()[:10]
    return f"{name[: _MAX_SESSION_NAME - len(mark) - 1]}-{mark}"


def sts_client(session: botocore.session.Session, region: str, proxy: str, ca_bundle: str | None) -> Any:
    """botocore's client for the regional STS. It is asked through `proxy` where there is one."""
    config = botocore.config.Config(
        connect_timeout=5,
        read_timeout=10,
        retries={"total_max_attempts": 3},
        proxies={"https": proxy, "http": proxy} if proxy else None,
    )
    return session.create_client("sts", region_name=region, config=config, verify=ca_bundle)
