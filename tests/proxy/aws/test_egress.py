"""What concerns the corporate proxy itself; that bytes come through it whole, `test_transport` tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.backends.aws.egress import Egress
from proxy.backends.aws.transport import Endpoint, NotSent, UpstreamRequest
from proxy.errors import SetupError
from tests.proxy.aws.upstream import Authority, CorporateProxy, Upstream, answers, hangs, resets

NAME = "kms.test"
REQUEST = UpstreamRequest(b"POST", b"/", ((b"host", b"kms.test"), (b"authorization", b"AWS4-HMAC-SHA256 x")), b"{}")
AUTHORITY = Authority()
TRUSTED = AUTHORITY.server(NAME, "127.0.0.1")
USER, PASSWORD = "user", "pass:w%rd@"
QUOTED = "user:pass%3Aw%25rd%40"


@contextlib.asynccontextmanager
async def egress(url: str, *, authority: Authority = AUTHORITY, connect_timeout_s: float = 5.0) -> AsyncIterator[Egress]:
    way = Egress(url, tls=authority.client(), connections=4, connect_timeout_s=connect_timeout_s, read_timeout_s=5.0)
    try:
        yield way
    finally:
        await way.close()


async def fails(way: Egress, request: UpstreamRequest = REQUEST, *, tls: bool = True) -> NotSent:
    with pytest.raises(NotSent) as caught:
        await way.send(Endpoint(NAME, 443, tls), request, deadline=asyncio.get_running_loop().time() + 10.0)
    error: BaseException | None = caught.value
    assert PASSWORD not in str(error) and QUOTED not in str(error) and PASSWORD not in repr(way)
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_password_is_for_the_proxy_and_nobody_else(scheme: str) -> None:
    async with (
        Upstream(TRUSTED) as upstream,
        CorporateProxy({NAME: upstream.port}, TRUSTED if scheme == "https" else None, f"{USER}:{PASSWORD}") as proxy,
        egress(f"{scheme}://{QUOTED}@127.0.0.1:{proxy.port}") as way,
    ):
        response = await way.send(Endpoint(NAME, 443), REQUEST, deadline=asyncio.get_running_loop().time() + 10.0)
        assert response.status == 200
        assert [received.request_line for received in proxy.received] == [b"CONNECT kms.test:443 HTTP/1.1"]
        assert b"authorization" not in dict(proxy.received[0].headers)
        assert [name for name, _ in upstream.received[0].headers] == [b"host", b"authorization", b"content-length"]


@pytest.mark.parametrize("tls", [True, False], ids=["CONNECT", "absolute form"])
@pytest.mark.parametrize("user", ["", "user:wrong@"])
async def test_407_was_not_sent_and_names_the_setting(user: str, tls: bool) -> None:
    async with (
        Upstream(TRUSTED if tls else None) as upstream,
        CorporateProxy({NAME: upstream.port}, None, f"{USER}:{PASSWORD}") as proxy,
        egress(f"http://{user}127.0.0.1:{proxy.port}") as way,
    ):
        failure = await fails(way, tls=tls)
        assert "407" in failure.what and "aws_egress_proxy" in failure.what
        assert not failure.timed_out
        assert upstream.opened == 0


async def test_an_endpoint_without_tls_is_asked_in_absolute_form() -> None:
    async with (
        Upstream(None, answers(200, b"yes")) as upstream,
        CorporateProxy({NAME: upstream.port}, None, f"{USER}:{PASSWORD}") as proxy,
        egress(f"http://{QUOTED}@127.0.0.1:{proxy.port}") as way,
    ):
        response = await way.send(Endpoint(NAME, 8080, tls=False), REQUEST, deadline=asyncio.get_running_loop().time() + 10.0)
        assert response.body == b"yes"
        assert proxy.received[0].request_line == b"POST http://kms.test:8080/ HTTP/1.1"
        assert [name for name, _ in upstream.received[0].headers] == [b"host", b"authorization", b"content-length"]


async def test_a_proxy_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with egress(f"http://{QUOTED}@127.0.0.1:{unused.getsockname()[1]}") as way:
            failure = await fails(way)
            assert "aws_egress_proxy" in failure.what and str(unused.getsockname()[1]) in failure.what


async def test_a_proxy_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    async with egress("http://nowhere.invalid:3128") as way:
        failure = await fails(way)
        assert "nowhere.invalid" in failure.what and "aws_egress_proxy" in failure.what


async def test_a_proxy_that_is_not_to_be_trusted() -> None:
    async with (
        CorporateProxy({}, TRUSTED) as proxy,
        egress(f"https://127.0.0.1:{proxy.port}", authority=Authority()) as way,
    ):
        failure = await fails(way)
        assert "certificate" in failure.what
        assert proxy.received == []


async def test_a_proxy_that_refuses_the_tunnel() -> None:
    async with CorporateProxy({}) as proxy, egress(f"http://127.0.0.1:{proxy.port}") as way:
        assert "502" in (await fails(way)).what


async def test_a_proxy_that_hangs() -> None:
    async with CorporateProxy({}) as proxy, egress(f"http://127.0.0.1:{proxy.port}", connect_timeout_s=0.2) as way:
        proxy.greeting = hangs()
        assert (await fails(way)).timed_out
        await proxy.until_open(0)


async def test_a_proxy_that_resets() -> None:
    async with CorporateProxy({}) as proxy, egress(f"http://127.0.0.1:{proxy.port}") as way:
        proxy.greeting = resets()
        assert not (await fails(way)).timed_out


@pytest.mark.parametrize(
    "request_",
    [
        UpstreamRequest(b"POST", b"/#fragment", REQUEST.headers, b""),
        UpstreamRequest(b"POST", b"/?", REQUEST.headers, b""),
        UpstreamRequest(b"POST", b"*", REQUEST.headers, b""),
        UpstreamRequest(b"POST", b"/\xff", REQUEST.headers, b""),
        UpstreamRequest(b"POST", b"/", (*REQUEST.headers, (b"x", b"\xff")), b""),
    ],
    ids=["fragment", "empty query", "asterisk", "target not UTF-8", "header not UTF-8"],
)
async def test_what_cannot_be_sent_unchanged_is_not_sent(request_: UpstreamRequest) -> None:
    async with CorporateProxy({}) as proxy, egress(f"http://127.0.0.1:{proxy.port}") as way:
        assert "unchanged" in (await fails(way, request_)).what
        assert proxy.opened == 0


@pytest.mark.parametrize("target", [b"/", b"//x/../y", b"/a%2Fb/./c?x=%zz&y", b"/%e9?q=a+b%20c", b"/\xc3\xa9", b"/a?b?c"])
async def test_the_target_stays_as_it_is(target: bytes) -> None:
    async with (
        Upstream(TRUSTED) as upstream,
        CorporateProxy({NAME: upstream.port}) as proxy,
        egress(f"http://127.0.0.1:{proxy.port}") as way,
    ):
        request = UpstreamRequest(b"POST", target, REQUEST.headers, b"")
        await way.send(Endpoint(NAME, 443), request, deadline=asyncio.get_running_loop().time() + 10.0)
        assert upstream.received[0].request_line == b"POST %b HTTP/1.1" % target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy:3128",
        "socks5://proxy:1080",
        "http://",
        "http://proxy:port",
        "http://proxy:0",
        "http://proxy/path",
        "http://u:s3cret@/",
    ],
)
async def test_what_is_no_proxy_is_refused_at_once(url: str) -> None:
    with pytest.raises(SetupError, match="aws_egress_proxy") as caught:
        Egress(url, tls=AUTHORITY.client(), connections=1, connect_timeout_s=1.0, read_timeout_s=1.0)
    assert "s3cret" not in str(caught.value)
