"""A token is good for what it was given out for, and for nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.query.newest import Mark
from proxy.cloudtrail.page_token import KEY_BYTES, read_token, write_token
from proxy.errors import KmsError

KEY, OTHER = b"k" * KEY_BYTES, b"o" * KEY_BYTES
MARKS = st.dictionaries(st.text(max_size=8), st.builds(Mark, st.integers(0, 2**40), st.integers(0, 2**32)), max_size=4)


def refused(key: bytes, question: bytes, token: str) -> bool:
    with pytest.raises(KmsError) as told:
        read_token(key, question, token)
    return told.value.code == "InvalidNextTokenException"


@given(MARKS, st.binary())
def test_it_tells_where_the_next_page_begins(marks: dict[str, Mark], question: bytes) -> None:
    token = write_token(KEY, question, marks)
    assert read_token(KEY, question, token) == marks
    assert refused(OTHER, question, token)
    assert refused(KEY, question + b"x", token)


@given(MARKS, st.data())
def test_no_byte_of_it_can_be_changed(marks: dict[str, Mark], data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(write_token(KEY, b"q", marks)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert refused(KEY, b"q", base64.urlsafe_b64encode(raw).decode())


def test_a_piece_of_the_question_is_no_piece_of_the_marks() -> None:
    token = write_token(KEY, b"question", {})
    mac = base64.urlsafe_b64decode(token)[:32]
    assert refused(KEY, b"questio", base64.urlsafe_b64encode(mac + b"n\0{}").decode())


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 43, "=" * 10, "A" * 100_000, "AAAA AAAA"])
def test_rubbish_is_refused(token: str) -> None:
    assert refused(KEY, b"q", token)
