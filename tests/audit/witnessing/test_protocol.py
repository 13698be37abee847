"""The body of add-checkpoint: the specification's example, what comes back as it was written, and what must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.witnessing.protocol import MAX_BODY_BYTES, AddCheckpoint, Malformed, encode_size, parse_size

NOTE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 example.com/behind-the-sofa "
    "opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n"
)
EXAMPLE = (
    "old 20852014\n"
    "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
    "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
    "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
    "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
    "\n" + NOTE
).encode()
HASH = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw="


def test_the_example_of_the_specification() -> None:
    request = AddCheckpoint.parse(EXAMPLE)
    assert (request.old_size, len(request.proof), request.note) == (20852014, 4, NOTE)
    assert request.encode() == EXAMPLE


@given(st.integers(0, 10**18), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_what_is_written_comes_back(old_size: int, proof: list[bytes]) -> None:
    request = AddCheckpoint(old_size, tuple(proof), NOTE)
    assert AddCheckpoint.parse(request.encode()) == request


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 1\n" + NOTE.encode(),  # no empty line before the note's own: the note's text is taken for proof lines
        b"\n\n" + NOTE.encode(),
        b"old\n\n" + NOTE.encode(),
        b"old 01\n\n" + NOTE.encode(),
        b"old -1\n\n" + NOTE.encode(),
        b"old 1 \n\n" + NOTE.encode(),
        b"old  1\n\n" + NOTE.encode(),
        b"Old 1\n\n" + NOTE.encode(),
        b"old \xd9\xa1\n\n" + NOTE.encode(),
        b"old 10000000000000000000\n\n" + NOTE.encode(),
        f"old 1\r\n\n{NOTE}".encode(),
        f"old 1\n{HASH}\r\n\n{NOTE}".encode(),
        f"old 1\n{HASH[:-4]}\n\n{NOTE}".encode(),
        f"old 1\n {HASH}\n\n{NOTE}".encode(),
        f"old 1\n{HASH.replace('kaw=', 'kax=')}\n\n{NOTE}".encode(),  # bits that mean nothing are set
        f"old 1\n{HASH.replace('/', '_')[:-2]}==\n\n{NOTE}".encode(),
        f"old 1\n{(HASH + chr(10)) * 64}\n{NOTE}".encode(),
        f"old 1\n\n{NOTE}".encode().replace(b"sofa\n", b"sofa\xff\n"),
        f"old 1\n\n{NOTE}".encode().replace(b"sofa\n", b"sofa\t\n"),
        f"old 1\n\n{NOTE}{'x' * MAX_BODY_BYTES}".encode(),
    ],
)
def test_what_is_not_of_the_form_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        AddCheckpoint.parse(body)


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_comes_back(body: bytes) -> None:
    for prefix in (b"", b"old 5\n"):
        try:
            request = AddCheckpoint.parse(prefix + body)
        except Malformed:
            continue
        assert request.encode() == prefix + body


@pytest.mark.parametrize("body", [b"", b"5", b"5\n\n", b"05\n", b" 5\n", b"-5\n", b"5 \n", b"five\n", b"9" * 20 + b"\n"])
def test_what_is_no_size_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_size(body)


@pytest.mark.parametrize("size", [0, 1, 20852163, 10**18])
def test_a_size_comes_back(size: int) -> None:
    assert parse_size(encode_size(size)) == size
