"""Whose word on the client's address is taken, and the PROXY protocol by its specification."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import SetupError
from proxy.forwarded import BadProxyHeader, ProxyHeader, TrustedNetworks, read_proxy_header

TRUSTED = TrustedNetworks(["10.0.0.0/8", "2001:db8::/32"])
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("192.0.2.1", [b"198.51.100.7"], None),  # not trusted, so it may say what it likes
        ("10.0.0.1", [], None),
        ("10.0.0.1", [b"203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # what the client wrote itself stands left
        ("10.0.0.1", [b"198.51.100.7, 10.0.0.9"], "198.51.100.7"),
        ("10.0.0.1", [b"203.0.113.9", b"198.51.100.7", b"10.0.0.9"], "198.51.100.7"),
        ("10.0.0.1", [b"10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        ("10.0.0.1", [b"unknown"], None),
        ("10.0.0.1", [b"rubbish, 198.51.100.7"], "198.51.100.7"),  # not read that far
        ("10.0.0.1", [b"198.51.100.7, rubbish"], None),
        ("10.0.0.1", [b"198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", [b"[2001:dead::1]:4711"], "2001:dead::1"),
        ("10.0.0.1", [b"2001:dead::1"], "2001:dead::1"),
        ("2001:db8::1", [b"::ffff:198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"198.51.100.7" + b", 10.0.0.9" * 40], "10.0.0.9"),  # bounded
        ("unknown", [b"198.51.100.7"], None),
        ("10.0.0.1", [b"fe80::1%what I like, 10.0.0.9"], None),  # a zone would bring any text into the record
    ],
)
def test_the_client_by_x_forwarded_for(peer: str, headers: list[bytes], client: str | None) -> None:
    assert TRUSTED.client_of(peer, headers) == client


@pytest.mark.parametrize("network", ["", "10.0.0.0/33", "10.0.0.1/8", "example.org"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(SetupError, match="trusted_networks"):
        TrustedNetworks([network])


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body)) + body


def ends(family: int, source: str = "", destination: str = "") -> bytes:
    if family == 3:
        return b"/tmp/a".ljust(108, b"\0") + b"/tmp/b".ljust(108, b"\0")
    return ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed + struct.pack("!HH", 4711, 443)


TLVS = b"\x03\x00\x04\x00\x00\x00\x00" + b"\x01\x00\x02h2"
HEADERS = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1"),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 56324 443\r\n", "192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (v2(0x21, 0x11, ends(1, "192.0.2.1", "192.0.2.2")), "192.0.2.1"),
    (v2(0x21, 0x11, ends(1, "192.0.2.1", "192.0.2.2") + TLVS), "192.0.2.1"),
    (v2(0x21, 0x21, ends(2, "2001:db8::1", "2001:db8::2")), "2001:db8::1"),
    (v2(0x21, 0x21, ends(2, "::ffff:192.0.2.1", "::1")), "192.0.2.1"),
    (v2(0x21, 0x31, ends(3)), None),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, ends(1, "192.0.2.1", "192.0.2.2")), None),
    (v2(0x21, 0x00, b"what is not known is skipped"), None),
]


@pytest.mark.parametrize(("header", "source"), HEADERS)
@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_header_is_read_to_the_byte(header: bytes, source: str | None, behind: bytes) -> None:
    assert read_proxy_header(header + behind) == ProxyHeader(source, len(header))


@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_a_header_that_comes_in_pieces_is_waited_for(header: bytes, source: str | None) -> None:
    assert [read_proxy_header(header[:size]) for size in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PROXY",  # and then something else
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 70000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 0443 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 443\r\n",
        b"PROXY TCP4 192.0.2.1 2001:db8::2 1 443\r\n",
        b"PROXY TCP4 evil.example 192.0.2.2 1 443\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 443\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 443\r\n",
        b"PROXY " + b"x" * 200,
        v2(0x11, 0x11, ends(1, "192.0.2.1", "192.0.2.2")),
        v2(0x22, 0x11, ends(1, "192.0.2.1", "192.0.2.2")),
        v2(0x21, 0x41, b"\0" * 300),
        v2(0x21, 0x11, b"\0" * 11),
        v2(0x21, 0x21, b"\0" * 35),
        v2(0x21, 0x11, b"\0" * 5_000),
        SIGNATURE[:-1] + b"x\x21\x11\x00\x00",
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    if data == b"PROXY":
        data += b"X"
    with pytest.raises(BadProxyHeader):
        read_proxy_header(data)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda tail: SIGNATURE + tail)
    | st.binary().map(lambda t: b"PROXY " + t)
)
def test_any_bytes_are_a_header_or_not_whole_or_refused(data: bytes) -> None:
    try:
        header = read_proxy_header(data)
    except BadProxyHeader:
        return
    assert header is None or 0 < header.size_bytes <= len(data)
