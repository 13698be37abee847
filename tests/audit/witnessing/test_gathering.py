"""Cosignatures that come one after another: what is given out, and when."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.cosignature import Cosignature, WitnessKey, cosign, open_cosignatures
from audit.policy_file import Policy
from audit.witnessing.gathering import Gathering
from tests.audit.witnessing.history import History

LOG = History()
KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number, name in enumerate("abc", 1)}
WITNESSES = [WitnessKey.of(f"{name}.example", key) for name, key in KEYS.items()]


def policy(needed: int) -> Policy:
    lines = "".join(f"witness {key.name[0]} {key}\n" for key in WITNESSES)
    return Policy.parse(f"{lines}group some {needed} a b c\nquorum some\n".encode())


def given(name: str, size: int, time_s: int) -> Cosignature:
    """What the witness `name` gives for a tree of `size`."""
    line = cosign(LOG.checkpoint(size).text(), f"{name}.example", KEYS[name], time_s)
    (found,) = open_cosignatures(LOG.note(size) + line, WITNESSES)
    return found


def times(note: str | None) -> dict[str, int]:
    assert note is not None, "it is no news"
    return {one.key.name[0]: one.time_s for one in open_cosignatures(note, WITNESSES)}


def test_one_more_witness_is_news_though_the_quorum_is_as_old() -> None:
    gathering = Gathering(policy(1))
    assert times(gathering.add(LOG.note(5), given("a", 5, 100))) == {"a": 100}
    assert times(gathering.add(LOG.note(5), given("b", 5, 50))) == {"a": 100, "b": 50}
    assert gathering.time_s == 100
    assert gathering.add(LOG.note(5), given("b", 5, 50)) is None, "known"


@pytest.mark.parametrize("again_s", [50, 100])
def test_an_older_one_of_the_same_witness_takes_no_newer_ones_place(again_s: int) -> None:
    gathering = Gathering(policy(1))
    gathering.add(LOG.note(5), given("a", 5, 100))
    assert gathering.add(LOG.note(5), given("a", 5, again_s)) is None
    assert times(gathering.add(LOG.note(5), given("c", 5, 90))) == {"a": 100, "c": 90}


def test_a_smaller_tree_is_no_news_and_a_larger_one_waits_for_its_quorum() -> None:
    gathering = Gathering(policy(2))
    assert gathering.add(LOG.note(5), given("a", 5, 100)) is None
    assert gathering.add(LOG.note(7), given("b", 7, 110)) is None
    assert times(gathering.add(LOG.note(5), given("b", 5, 120))) == {"a": 100, "b": 120}
    assert (gathering.size, gathering.time_s) == (5, 100)
    assert times(gathering.add(LOG.note(7), given("c", 7, 105))) == {"b": 110, "c": 105}
    assert (gathering.size, gathering.time_s) == (7, 105)
    assert gathering.add(LOG.note(5), given("c", 5, 200)) is None


def test_it_goes_on_from_what_was_given_out() -> None:
    before = Gathering(policy(1))
    cosigned = before.add(LOG.note(5), given("a", 5, 100))
    assert cosigned is not None
    after = Gathering(policy(1), cosigned)
    assert (after.cosigned, after.size, after.time_s) == (cosigned, 5, 100)
    assert after.add(LOG.note(5), given("a", 5, 100)) is None
    assert times(after.add(LOG.note(5), given("b", 5, 100))) == {"a": 100, "b": 100}
