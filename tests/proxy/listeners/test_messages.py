"""What arrives, at once and byte by byte: each message is answered in AWS's form, or its connection is closed."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.listeners.cases import CASES, CHUNKED, Case
from tests.proxy.listeners.front import OK, listening, post, require_aws_form
from tests.proxy.listeners.loops import Run


@pytest.mark.parametrize("bytewise", [False, True], ids=["at-once", "byte-by-byte"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_case(run: Run, case: Case, bytewise: bool) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            sending = asyncio.create_task(client.send(case.sent, bytewise=bytewise))
            for status in case.statuses:
                reply = await client.reply()
                assert reply.status == status
                if status >= 400:
                    require_aws_form(reply)
            await sending
            if case.bodies is not None:
                assert tuple(raw.body for raw in world.walk.requests if raw.fault is None) == case.bodies
            assert len(world.walk.requests) == len([status for status in case.statuses if status != 100])
            if case.stays:
                await client.send(post(b"again"))
                assert (await client.reply()).status == 200
            else:
                assert await client.is_closed()

    run(scenario())


def test_what_the_walk_gets(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(b"POST /team-a%20/?x=1 HTTP/1.1\r\nHOST: a b \r\nX-Two: 1\r\nX-Two:2\r\nContent-Length: 1\r\n\r\nz")
            reply = await client.reply()
            (raw,) = world.walk.requests
            assert (raw.method, raw.target, raw.body) == (b"POST", b"/team-a%20/?x=1", b"z")
            assert raw.headers == ((b"host", b"a b"), (b"x-two", b"1"), (b"x-two", b"2"), (b"content-length", b"1"))
            assert (raw.origin.peer, raw.fault) == ("127.0.0.1", None)
            assert reply.headers["x-amzn-requestid"] == "id-1"
            assert reply.headers["content-type"] == "application/x-amz-json-1.1"
            assert "connection" not in reply.headers
            assert reply.headers["date"].endswith(" GMT")

    run(scenario())


def test_a_receipt_is_a_header_and_no_receipt_is_none(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post() + post() + post(b"1", b"Content-Length: 2"))
            told = [(await client.reply()).headers.get("x-keytrail-receipt") for _ in range(3)]
            assert told == ["log 1 leaf", "log 2 leaf", None]

    run(scenario())


def test_a_trailer_is_no_header(run: Run) -> None:
    """RFC 9110 §6.5.1: a trailer must not stand for what was signed, or not signed, in the head."""

    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(CHUNKED + b"1\r\na\r\n0\r\nX-Amz-Target: TrentService.Decrypt\r\n\r\n")
            assert (await client.reply()).status == 200
            assert dict(world.walk.requests[0].headers).get(b"x-amz-target") is None

    run(scenario())


def test_a_fault_does_not_carry_the_headers_of_the_request_before(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post(b"1", b"Authorization: alice"))
            await client.reply()
            await client.send(b"\x16\x03\x01")
            assert (await client.reply()).status == 400
            raw = world.walk.requests[1]
            assert raw.fault is not None
            assert (raw.method, raw.target, raw.headers, raw.body) == (b"", b"", (), b"")

    run(scenario())


def test_http_1_0_is_told_that_its_connection_is_kept(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post(b"{}", b"Connection: keep-alive", version=b"1.0"))
            assert (await client.reply()).headers["connection"] == "keep-alive"

    run(scenario())


def test_head_is_answered_without_a_body(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + post(b"2"))
            reply = await client.reply(to_head=True)
            assert (reply.status, reply.headers["content-length"]) == (200, str(len(OK)))
            assert (await client.reply()).body == OK

    run(scenario())


def test_expect_is_answered_before_the_body_is_sent(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            for body in (b"abc", b"defg"):
                await client.send(post(body, b"Expect: 100-continue")[: -len(body)])
                assert (await client.reply()).status == 100
                await client.send(body)
                assert (await client.reply()).status == 200
            assert [raw.body for raw in world.walk.requests] == [b"abc", b"defg"]

    run(scenario())


# --- one after the other


def test_a_pipelined_call_waits_until_the_one_before_is_answered(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(b"".join(post(b"%d" % number) for number in range(20)))
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            await client.send(post(b"20"))
            assert len(world.walk.requests) == 1
            world.walk.gate.set()
            for number in range(21):
                assert (await client.reply()).headers["x-amzn-requestid"] == f"id-{number + 1}"
            assert [raw.body for raw in world.walk.requests] == [b"%d" % number for number in range(21)]

    run(scenario())


def test_a_client_that_has_shut_its_sending_side_gets_its_answers(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post(b"1") + post(b"2"))
            client.writer.write_eof()
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            world.walk.gate.set()
            assert [(await client.reply()).status for _ in range(2)] == [200, 200]
            assert await client.is_closed()

    run(scenario())


@pytest.mark.parametrize("sent", [b"", post()[:9], post(b"abc")[:-1]], ids=["nothing", "half a head", "half a body"])
def test_a_client_that_shuts_its_sending_side_too_early_is_closed(run: Run, sent: bytes) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(sent)
            client.writer.write_eof()
            assert await client.is_closed()
            assert world.walk.requests == []

    run(scenario())


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_who_sends_too_much_gets_the_answer_while_still_sending(run: Run, chunked: bool) -> None:
    head = CHUNKED + b"400000\r\n" if chunked else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4194304\r\n\r\n"

    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            client.writer.write(head)
            for _ in range(64):
                client.writer.write(b"a" * (64 << 10))
                await client.writer.drain()
            reply = await client.reply()
            assert reply.status == 413
            assert require_aws_form(reply) == "RequestEntityTooLargeException"
            assert reply.headers["connection"] == "close"
            assert world.walk.requests[0].body == b""
            client.writer.write_eof()
            assert await client.is_closed()

    run(scenario())
