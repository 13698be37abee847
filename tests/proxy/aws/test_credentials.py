"""What is signed with: found by botocore's chain, renewed in time, a role for each caller, and no secret told."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import botocore.session
import pytest
from botocore.utils import ContainerMetadataFetcher
from hypothesis import given
from hypothesis import strategies as st

from audit.reconcile import rules
from proxy.backends.aws import credentials as module
from proxy.backends.aws.credentials import (
    AssumedRoles,
    AwsCredentials,
    CredentialsUnavailable,
    OwnCredentials,
    session_maker,
    session_name,
)
from proxy.domain import Principal
from proxy.errors import SetupError

ACCOUNT = "111122223333"
ROLE = "arn:aws:iam::123456789012:role/kms-{caller}"
CANARY = "CANARY-secret-never-shown"
LIMIT_S = 20
REGION = "us-east-1"
MAKE_SESSION = session_maker(REGION)


def user(name: str, account: str = ACCOUNT, path: str = "") -> Principal:
    arn = f"arn:aws:iam::{account}:user/{path}{name}"
    return Principal("IAMUser", arn, account, "AKIA", "AIDA", name)


def role(name: str, session: str, account: str = ACCOUNT) -> Principal:
    arn = f"arn:aws:sts::{account}:assumed-role/{name}/{session}"
    return Principal("AssumedRole", arn, account, "ASIA", f"AROA:{session}")


ALICE, BOB = user("alice"), user("bob")


@dataclass
class Clock:
    """Seconds since the epoch; moved by the test. Begins at the real time, since botocore looks at that too."""

    now_s: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Source:
    """A local server: container credentials for GET, STS for POST. Each request takes the next step of `script`, then the last
    one again; `gate` holds requests back."""

    clock: Clock
    script: list[str] = field(default_factory=lambda: ["good"])
    lifetime_s: float = 3_600
    requests: list[dict[str, list[str]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.gate.set()

    def answer(self, asked: dict[str, list[str]]) -> tuple[int, str]:
        self.requests.append(asked)
        number = len(self.requests)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        assert self.gate.wait(LIMIT_S)
        ends = datetime.fromtimestamp(self.clock.now_s + self.lifetime_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key_id = f"ASIA{number:016d}"
        if not asked:
            if step != "good":
                return 403, f"refused {CANARY}"
            told = {"AccessKeyId": key_id, "SecretAccessKey": CANARY, "Token": CANARY, "Expiration": ends}
            return 200, json.dumps(told)
        if step == "good":
            return 200, (
                "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
                f"<AccessKeyId>{key_id}</AccessKeyId><SecretAccessKey>{CANARY}</SecretAccessKey>"
                f"<SessionToken>{CANARY}</SessionToken><Expiration>{ends}</Expiration>"
                "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
            )
        if step == "empty":
            return 200, f"<AssumeRoleResponse><!-- {CANARY} --></AssumeRoleResponse>"
        if step == "rubbish":
            return 200, f"<AssumeRoleResponse><SecretAccessKey>{CANARY}"
        return 403, (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{step}</Code><Message>No, alice.\n\nThe Canonical String should"
            f" have been x-amz-security-token:{CANARY}</Message></Error></ErrorResponse>"
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(clock: Clock) -> Iterator[Source]:
    told = Source(clock)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode()))

        def _answer(self, asked: dict[str, list[str]]) -> None:
            status, body = told.answer(asked)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield told
    told.gate.set()
    server.shutdown()
    thread.join(LIMIT_S)
    server.server_close()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this host's: no variables, no files, no instance metadata, no proxy."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def by_container(monkeypatch: pytest.MonkeyPatch, source: Source) -> Source:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", source.url + "/")
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)  # between its own attempts
    return source


@asynccontextmanager
async def own(clock: Clock) -> AsyncIterator[OwnCredentials]:
    credentials = OwnCredentials(MAKE_SESSION, clock)
    try:
        yield credentials
    finally:
        await credentials.close()


class Fixed:
    """Credentials of keytrail's own that are there."""

    closed = False

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        return AwsCredentials("AKIAOWN", CANARY, CANARY, None)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def roles(clock: Clock, source: Source, **more: Any) -> AsyncIterator[AssumedRoles]:  # Any: of several types
    assumed = AssumedRoles(Fixed(), MAKE_SESSION, more.pop("role", ROLE), ACCOUNT, endpoint_url=source.url, now_s=clock, **more)
    try:
        yield assumed
    finally:
        await assumed.close()


async def soon(awaited: Awaitable[AwsCredentials]) -> AwsCredentials:
    async with asyncio.timeout(LIMIT_S):
        return await awaited


def at_once(coroutine: Coroutine[Any, Any, AwsCredentials]) -> AwsCredentials:
    """What `coroutine` returns without ever waiting."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    value: AwsCredentials = done.value.value
    return value


async def unavailable(awaited: Awaitable[AwsCredentials]) -> str:
    with pytest.raises(CredentialsUnavailable) as caught:
        await soon(awaited)
    return str(caught.value)


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - threads and a server are waited for, which know no event
            await asyncio.sleep(0)


# --- keytrail's own


async def test_the_environment_is_read_once_and_then_nothing_waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    async with own(clock) as credentials:
        found = await soon(credentials.for_caller(ALICE))
        assert found == AwsCredentials("AKIAENV", CANARY, None, None)
        clock.now_s += 365 * 86_400
        assert at_once(credentials.for_caller(BOB)) is found


async def test_a_process_and_a_profile_are_asked(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_s = int(clock.now_s) + 7_200
    told = {
        "Version": 1,
        "AccessKeyId": "ASIAPROCESS",
        "SecretAccessKey": CANARY,
        "SessionToken": "token",
        "Expiration": datetime.fromtimestamp(ends_s, UTC).isoformat(),
    }
    (tmp_path / "told.json").write_text(json.dumps(told))
    (tmp_path / "config").write_text(f"[profile kms]\ncredential_process = cat {tmp_path / 'told.json'}\n")
    monkeypatch.setenv("AWS_PROFILE", "kms")
    async with own(clock) as credentials:
        assert await soon(credentials.for_caller(ALICE)) == AwsCredentials("ASIAPROCESS", CANARY, "token", ends_s)


async def test_where_there_are_none_that_is_said_and_remembered(clock: Clock) -> None:
    async with own(clock) as credentials:
        assert "none were found" in await unavailable(credentials.for_caller(ALICE))
        with pytest.raises(CredentialsUnavailable):  # without another look
            at_once(credentials.for_caller(ALICE))


async def test_a_refresh_finds_what_has_changed_in_a_file(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = AKIAOLD\naws_secret_access_key = {CANARY}\n")
    async with own(clock) as credentials:
        assert (await soon(credentials.for_caller(ALICE))).access_key_id == "AKIAOLD"
        file.write_text(f"[default]\naws_access_key_id = AKIANEW\naws_secret_access_key = {CANARY}\n")
        assert at_once(credentials.for_caller(ALICE)).access_key_id == "AKIAOLD"
        await credentials.refresh()
        assert at_once(credentials.for_caller(ALICE)).access_key_id == "AKIANEW"
        file.unlink()
        with pytest.raises(CredentialsUnavailable):
            await credentials.refresh()
        assert at_once(credentials.for_caller(ALICE)).access_key_id == "AKIANEW"


async def test_they_are_renewed_15_minutes_before_they_end_while_nobody_waits(clock: Clock, by_container: Source) -> None:
    async with own(clock) as credentials:
        first = await soon(credentials.for_caller(ALICE))
        assert first.expires_s is not None
        clock.now_s = first.expires_s - module.RENEW_BEFORE_S - 1
        assert at_once(credentials.for_caller(ALICE)) is first
        assert not credentials._tasks
        clock.now_s += 2
        by_container.gate.clear()
        for _ in range(50):  # one refresh, however many call
            assert at_once(credentials.for_caller(ALICE)) is first
        await settled(lambda: len(by_container.requests) == 2)
        by_container.gate.set()
        await settled(lambda: not credentials._tasks)
        assert at_once(credentials.for_caller(ALICE)).access_key_id == "ASIA" + "2".zfill(16)
        assert len(by_container.requests) == 2


async def test_what_has_expired_is_never_handed_out(clock: Clock, by_container: Source) -> None:
    async with own(clock) as credentials:
        first = await soon(credentials.for_caller(ALICE))
        clock.now_s += 86_400  # nobody called for a day
        both = await asyncio.gather(*(soon(credentials.for_caller(ALICE)) for _ in range(20)))
        assert {found.access_key_id for found in both} == {"ASIA" + "2".zfill(16)} != {first.access_key_id}
        assert len(by_container.requests) == 2


async def test_a_renewal_that_fails_leaves_the_old_ones_until_they_end(
    clock: Clock, by_container: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with own(clock) as credentials:
        first = await soon(credentials.for_caller(ALICE))
        assert first.expires_s is not None
        by_container.script = ["no"]
        clock.now_s = first.expires_s - module.RENEW_BEFORE_S + 1
        while clock.now_s < first.expires_s - 1:
            assert at_once(credentials.for_caller(ALICE)) is first
            await settled(lambda: not credentials._tasks)
            clock.now_s += 30
        clock.now_s = first.expires_s
        assert "CredentialRetrievalError (container-role)" in await unavailable(credentials.for_caller(ALICE))
        said = [(record.levelname, record.name) for record in caplog.records if record.name == module.__name__]
        assert said == [("WARNING", module.__name__), ("ERROR", module.__name__)]  # once each, for hundreds of attempts

        by_container.script = ["good"]
        clock.now_s += 3
        assert (await soon(credentials.for_caller(ALICE))).access_key_id != first.access_key_id
        assert caplog.records[-1].getMessage() == "credentials of keytrail itself can be had again"
    assert CANARY not in caplog.text


async def test_a_source_that_says_nothing_keeps_nobody_waiting_for_ever(
    clock: Clock, by_container: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    by_container.gate.clear()
    async with own(clock) as credentials:
        assert "no answer within 0.05 s" in await unavailable(credentials.for_caller(ALICE))
    by_container.gate.set()


async def test_the_event_loop_goes_on_while_the_chain_is_asked(clock: Clock, by_container: Source) -> None:
    by_container.gate.clear()
    async with own(clock) as credentials:
        waiting = asyncio.create_task(soon(credentials.for_caller(ALICE)))
        await settled(lambda: len(by_container.requests) == 1)  # the loop turned meanwhile
        assert not waiting.done()
        by_container.gate.set()
        assert (await waiting).session_token == CANARY


async def test_closing_ends_who_waits(clock: Clock, by_container: Source) -> None:
    by_container.gate.clear()
    credentials = OwnCredentials(MAKE_SESSION, clock)
    waiting = asyncio.create_task(soon(credentials.for_caller(ALICE)))
    await settled(lambda: len(by_container.requests) == 1)
    await credentials.close()
    assert "closing" in await unavailable(waiting)
    by_container.gate.set()


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(clock: Clock, by_container: Source) -> None:
    by_container.gate.clear()
    async with own(clock) as credentials:
        first, second = (asyncio.create_task(soon(credentials.for_caller(ALICE))) for _ in range(2))
        await settled(lambda: len(by_container.requests) == 1)
        first.cancel()
        by_container.gate.set()
        assert (await second).secret_access_key == CANARY
        assert len(by_container.requests) == 1


# --- a role for each caller


async def test_a_session_of_a_role_is_the_callers_by_sts_own_word(clock: Clock, aws: str) -> None:
    async with roles(clock, Source(clock, url=aws)) as assumed:
        found = await soon(assumed.for_caller(ALICE))
    assert found.expires_s == pytest.approx(clock.now_s + 3_600, abs=60)
    client: Any = botocore.session.get_session().create_client(  # Any: botocore makes its clients at run time
        "sts",
        region_name=REGION,
        endpoint_url=aws,
        aws_access_key_id=found.access_key_id,
        aws_secret_access_key=found.secret_access_key,
        aws_session_token=found.session_token,
    )
    identity = await asyncio.get_running_loop().run_in_executor(None, client.get_caller_identity)
    assert identity["Arn"] == "arn:aws:sts::123456789012:assumed-role/kms-alice/alice"
    client.close()


async def test_what_sts_is_asked_for(clock: Clock, source: Source) -> None:
    async with roles(clock, source, duration_s=900) as assumed:
        await soon(assumed.for_caller(ALICE))
    async with roles(clock, source, role="arn:aws:iam::123456789012:role/kms", source_identity=False) as assumed:
        await soon(assumed.for_caller(ALICE))
    named, fixed = ({name: value for name, [value] in asked.items()} for asked in source.requests)
    assert named["Action"] == "AssumeRole"
    assert named["RoleArn"] == "arn:aws:iam::123456789012:role/kms-alice"
    assert (named["RoleSessionName"], named["SourceIdentity"], named["DurationSeconds"]) == ("alice", "alice", "900")
    assert fixed["RoleArn"] == "arn:aws:iam::123456789012:role/kms"
    assert "SourceIdentity" not in fixed and fixed["DurationSeconds"] == "3600"


async def test_a_callers_session_is_kept_and_renewed_and_no_other_callers(clock: Clock, source: Source) -> None:
    async with roles(clock, source) as assumed:
        found = await asyncio.gather(*(soon(assumed.for_caller(who)) for who in [ALICE] * 20 + [BOB] * 20))
        assert len(source.requests) == 2
        assert len({id(each) for each in found[:20]}) == 1 and found[0] != found[20]
        assert at_once(assumed.for_caller(ALICE)) is found[0]
        clock.now_s += 3_600 - 60
        assert at_once(assumed.for_caller(ALICE)) is found[0]
        await settled(lambda: not assumed._tasks)
        renewed = at_once(assumed.for_caller(ALICE))
        assert renewed.access_key_id != found[0].access_key_id
        assert len(source.requests) == 3


async def test_a_refusal_is_told_in_stss_words_and_not_asked_for_again_at_once(
    clock: Clock, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source.script = ["AccessDenied", "good"]
    async with roles(clock, source) as assumed:
        told = await asyncio.gather(*(unavailable(assumed.for_caller(ALICE)) for _ in range(20)))
        assert set(told) == {"the role arn:aws:iam::123456789012:role/kms-alice cannot be assumed: AccessDenied: No, alice."}
        with pytest.raises(CredentialsUnavailable):
            at_once(assumed.for_caller(ALICE))
        assert len(source.requests) == 1
        assert caplog.text.count("cannot be assumed") == 1
        clock.now_s += 2
        assert (await soon(assumed.for_caller(ALICE))).secret_access_key == CANARY


@pytest.mark.parametrize("step", ["SignatureDoesNotMatch", "rubbish", "empty"])
async def test_no_secret_is_told_whatever_sts_says(
    clock: Clock, source: Source, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    caplog.set_level(logging.INFO)
    source.script = [step]
    async with roles(clock, source) as assumed:
        try:
            await soon(assumed.for_caller(ALICE))
        except CredentialsUnavailable as error:
            shown = f"{error} {error!r} {error.__cause__!r} {error.__context__!r} {assumed!r}"
        else:
            pytest.fail("there were credentials")
    assert caplog.text and CANARY not in shown + caplog.text


async def test_no_secret_is_told_of_a_process_that_fails(clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for script in (f"import sys; sys.exit('{CANARY}')", f"print('{{{CANARY}')"):
        (tmp_path / "process.py").write_text(script)
        (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {tmp_path / 'process.py'}\n")
        async with own(clock) as credentials:
            assert CANARY not in await unavailable(credentials.for_caller(ALICE))
    assert caplog.text and CANARY not in caplog.text


async def test_no_secret_is_in_a_repr(clock: Clock, source: Source) -> None:
    async with roles(clock, source) as assumed:
        found = await soon(assumed.for_caller(ALICE))
        assert found.access_key_id in repr(found)
        assert CANARY not in f"{found!r} {found} {assumed!r} {assumed._sessions!r}"


async def test_as_many_sessions_are_kept_as_there_is_room_for(clock: Clock, source: Source) -> None:
    async with roles(clock, source, max_sessions=2) as assumed:
        for who in (ALICE, BOB, ALICE, user("carol")):
            await soon(assumed.for_caller(who))
        at_once(assumed.for_caller(ALICE))
        assert len(source.requests) == 3
        await soon(assumed.for_caller(BOB))  # who had called least lately
        assert len(source.requests) == 4


async def test_closing_closes_what_is_beneath(clock: Clock, source: Source) -> None:
    fixed = Fixed()
    assumed = AssumedRoles(fixed, MAKE_SESSION, ROLE, ACCOUNT, endpoint_url=source.url, now_s=clock)
    await assumed.close()
    assert fixed.closed
    assert "RuntimeError" in await unavailable(assumed.for_caller(ALICE))


def test_a_role_with_another_word_in_braces_is_refused() -> None:
    with pytest.raises(SetupError, match=r"only \{caller\} is known"):
        AssumedRoles(Fixed(), MAKE_SESSION, "arn:aws:iam::123456789012:role/{user}", ACCOUNT, now_s=time.time)


# --- names

_NAME = st.from_regex(r"[A-Za-z0-9_+=,.@-]{1,64}", fullmatch=True)
_ACCOUNTS = st.sampled_from([ACCOUNT, "444455556666"])
_CALLERS = st.one_of(
    st.builds(user, _NAME, _ACCOUNTS, st.sampled_from(["", "team/", "a/b/"])),
    st.builds(role, _NAME, st.from_regex(r"[A-Za-z0-9_+=,.@-]{2,64}", fullmatch=True), _ACCOUNTS),
)


@given(_CALLERS, _CALLERS)
def test_names_are_stss_and_two_callers_never_share_one(one: Principal, other: Principal) -> None:
    names = session_name(one, ACCOUNT), session_name(other, ACCOUNT)
    assert all(re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.ASCII) for name in names)
    assert (names[0] == names[1]) == (one.arn == other.arn)


def test_a_name_that_looks_like_anothers_marked_one_is_marked_too() -> None:
    marked = session_name(role("builder", "run-1"), ACCOUNT)
    assert re.fullmatch(r"builder-run-1@[0-9a-f]{16}", marked)
    assert session_name(user(marked), ACCOUNT) != marked
    assert session_name(user("alice"), ACCOUNT) == "alice"
    assert session_name(user("alice", path="team/"), ACCOUNT) not in (
        "alice",
        session_name(user("alice", "444455556666"), ACCOUNT),
    )
    assert len({session_name(user("x" * 63 + end), "444455556666") for end in "ab"}) == 2


@pytest.mark.parametrize(
    "principal",
    [
        Principal("IAMUser", "arn:aws:iam::111122223333:user/alice", "111122223333", "AKIA1", "", "alice"),
        Principal("IAMUser", "arn:aws:iam::111122223333:user/teams/alice", "111122223333", "AKIA1", "", "alice"),
        Principal("IAMUser", "arn:aws:iam::999922223333:user/alice", "999922223333", "AKIA1", "", "alice"),
        Principal("IAMUser", "arn:aws:iam::111122223333:user/a", "111122223333", "AKIA1", "", "a"),
        Principal("AssumedRole", "arn:aws:sts::111122223333:assumed-role/reader/bob", "111122223333", "ASIA1", "", None),
        Principal("IAMUser", f"arn:aws:iam::111122223333:user/{'x' * 64}", "111122223333", "AKIA1", "", "x" * 64),
        Principal("IAMUser", f"arn:aws:iam::111122223333:user/x@{'0' * 16}", "111122223333", "AKIA1", "", f"x@{'0' * 16}"),
    ],
)
def test_the_name_is_the_one_that_reconcile_looks_for(principal: Principal) -> None:
    identity = {"arn": principal.arn, "accountId": principal.account_id, "accessKeyId": principal.access_key_id}
    if principal.user_name is not None:
        identity["userName"] = principal.user_name
    record = {"userIdentity": identity, "recipientAccountId": "111122223333"}
    assert session_name(principal, "111122223333") == rules.session_name(record)
