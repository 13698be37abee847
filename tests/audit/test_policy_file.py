"""Policy files: what is written comes back, what is not of the specification's form is refused, and what makes a quorum."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, VerifierKey, sign
from audit.cosignature import WitnessKey, cosign
from audit.errors import CheckpointInvalid
from audit.policy_file import Group, Log, Policy, PolicyInvalid, Witness

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in range(40)]
CHECKPOINT = Checkpoint("log.example/1", 3, bytes(32))
LOG = VerifierKey.of("log.example/1", KEYS[39])


def witness(number: int) -> WitnessKey:
    return WitnessKey.of(f"w{number}.example", KEYS[number])


def written(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def lines_of(names: Collection[str]) -> list[str]:
    return [f"witness {name} {witness(number)}" for number, name in enumerate(names)]


#: The example of the specification, with keys.
EXAMPLE = written(
    f"log {LOG}",
    "",
    *lines_of(["X1", "X2", "X3"]),
    "group X-witnesses 2 X1 X2 X3",
    "",
    *[f"witness Y{number} {witness(number + 10)}" for number in (1, 2, 3)],
    "group Y-witnesses any Y1 Y2 Y3",
    "",
    "group X-and-Y all X-witnesses Y-witnesses",
    "quorum X-and-Y",
)


def judged(policy: Policy, times: dict[str, int]) -> tuple[bool, int | None]:
    note = sign(CHECKPOINT, KEYS[39])
    for one in policy.witnesses:
        if one.name in times:
            key = next(key for key in KEYS if key.public_key().public_bytes_raw() == one.key.public_key)
            note += cosign(CHECKPOINT.text(), one.key.name, key, times[one.name])
    quorum = policy.judge(note)
    assert set(quorum.cosigners) == set(times)
    return quorum.is_fulfilled, quorum.time_s


def test_the_example_of_the_specification() -> None:
    policy = Policy.parse(EXAMPLE)
    assert policy.logs == (Log(LOG),)
    assert [one.name for one in policy.witnesses] == ["X1", "X2", "X3", "Y1", "Y2", "Y3"]
    assert [(group.name, group.threshold, len(group.members)) for group in policy.groups] == [
        ("X-witnesses", 2, 3),
        ("Y-witnesses", 1, 3),
        ("X-and-Y", 2, 2),
    ]
    for count in range(7):
        for names in itertools.combinations(["X1", "X2", "X3", "Y1", "Y2", "Y3"], count):
            expected = sum(name[0] == "X" for name in names) >= 2 and any(name[0] == "Y" for name in names)
            assert judged(policy, dict.fromkeys(names, 7)) == (expected, 7 if expected else None), names


def test_the_time_of_a_quorum_is_the_youngest_that_still_leaves_one() -> None:
    policy = Policy.parse(EXAMPLE)
    assert judged(policy, {"X1": 10, "X2": 20, "Y1": 30}) == (True, 10)
    assert judged(policy, {"X1": 10, "X2": 20, "X3": 25, "Y1": 30}) == (True, 20), "X1 is not needed any more"
    assert judged(policy, {"X1": 10, "X2": 20, "X3": 25, "Y1": 5, "Y3": 15}) == (True, 15)


@pytest.mark.parametrize("kind", ["any", "all", "2"])
def test_groups_of_witnesses(kind: str) -> None:
    policy = Policy.parse(written(*lines_of("ABC"), f"group G {kind} A B C", "quorum G"))
    needed = {"any": 1, "all": 3, "2": 2}[kind]
    for count in range(4):
        assert judged(policy, dict.fromkeys("ABC"[:count], 1))[0] == (count >= needed)


def test_a_quorum_of_one_witness_and_of_none() -> None:
    alone = Policy.parse(written(*lines_of("AB"), "quorum B"))
    assert judged(alone, {"A": 1}) == (False, None)
    assert judged(alone, {"B": 4}) == (True, 4)
    assert judged(Policy.parse(b"quorum none\n"), {}) == (True, None)


def test_a_cosignature_that_is_not_genuine_is_told() -> None:
    policy = Policy.parse(written(*lines_of("AB"), "quorum B"))
    other = Checkpoint("log.example/1", 4, bytes(32))
    note = sign(CHECKPOINT, KEYS[39]) + cosign(other.text(), "w0.example", KEYS[0], 1)
    with pytest.raises(CheckpointInvalid, match="not genuine"):
        policy.judge(note)


def test_spaces_tabs_comments_and_octets_that_are_not_ascii() -> None:
    policy = Policy.parse(
        b"  # K\xc3\xb6nig\n\n \t \nwitness\t K \t" + str(witness(0)).encode() + b"  http://\xff/ \n"
        b"witness \xe2\x84\xaa " + str(witness(1)).encode() + b"\nquorum \xe2\x84\xaa\n"
    )
    assert [one.name for one in policy.witnesses] == ["K", "\u212a"]
    assert policy.quorum == "\u212a"
    assert Policy.parse(policy.encode()) == policy


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"", 1, "not ended"),
        (b"quorum none", 1, "not ended"),
        (b"\n", 0, "no quorum line"),
        (b"# a\r\nquorum none\n", 1, "0x0d is not allowed"),
        (b"quorum none\n\x7f\n", 2, "0x7f is not allowed"),
        (b"quorum none\nquorum none\n", 2, "a quorum line already"),
        (b"quorum A\n", 1, "no witness or group of a line before"),
        (b"quorum\n", 1, "of a known form"),
        (b"quorum none none\n", 1, "of a known form"),
        (b"Quorum none\n", 1, "of a known form"),
        (b"quorum none # why\n", 1, "of a known form"),
        (b"policy 1\n", 1, "of a known form"),
        (written(f"log {witness(0)}"), 1, "not Ed25519"),
        (written(f"log {LOG} http://a b"), 1, "of a known form"),
        (written(f"log {LOG}", f"log {VerifierKey.of('other.example', KEYS[39])}"), 2, "the same public key"),
        (written(f"witness A {LOG}"), 1, "not one of cosignatures"),
        (written(f"witness {witness(0)}"), 1, "of a known form"),
        (written(f"witness none {witness(0)}"), 1, "'none' is taken"),
        (written(*lines_of("A"), f"witness B {WitnessKey.of('b.example', KEYS[0])}"), 2, "the same public key"),
        (written(*lines_of("A"), f"witness A {witness(7)}"), 2, "'A' is taken"),
        (written(*lines_of("AB"), "group G 3 A B"), 3, "threshold '3'"),
        (written(*lines_of("AB"), "group G 0 A B"), 3, "threshold '0'"),
        (written(*lines_of("AB"), "group G 01 A B"), 3, "threshold '01'"),
        (written(*lines_of("AB"), "group G most A B"), 3, "threshold 'most'"),
        (written(*lines_of("AB"), "group G all"), 3, "of a known form"),
        (written(*lines_of("AB"), "group G all A C"), 3, "'C' is no witness or group"),
        (written(*lines_of("AB"), "group G all A none"), 3, "'none' is no witness or group"),
        (written(*lines_of("AB"), "group G all G"), 3, "'G' is no witness or group"),
        (written(*lines_of("AB"), "group A all B"), 3, "'A' is taken"),
        (written(*lines_of("AB"), "group none all B"), 3, "'none' is taken"),
        (written(*lines_of("AB"), "group G any A A"), 3, "'A' is a member of a group already"),
        (written(*lines_of("AB"), "group G any A", "group H any A B"), 4, "'A' is a member of a group already"),
        (b"#" * (1 << 20) + b"\n", 0, "too long"),
    ],
)
def test_what_is_not_of_the_form_is_refused_with_its_line(text: bytes, line: int, reason: str) -> None:
    with pytest.raises(PolicyInvalid, match=reason) as told:
        Policy.parse(text)
    assert told.value.line == line


def test_thirty_two_of_each_are_read() -> None:
    logs = [f"log {VerifierKey.of(f'l{number}', KEYS[number])}" for number in range(32)]
    names = [f"W{number}" for number in range(32)]
    groups = ["group G0 any W0", *(f"group G{number} any G{number - 1} W{number}" for number in range(1, 32))]
    policy = Policy.parse(written(*logs, *lines_of(names), *groups, "quorum G31"))
    assert judged(policy, {"W0": 9}) == (True, 9)
    assert Policy.parse(policy.encode()) == policy


def test_too_many_groups_in_each_other_are_refused_not_recursed_into() -> None:
    groups = ["group G0 any W0", *(f"group G{number} any G{number - 1}" for number in range(1, 1_001))]
    with pytest.raises(PolicyInvalid, match="more than 1000 lines"):
        Policy.parse(written(*lines_of(["W0"]), *groups, "quorum G9"))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    urls = st.none() | st.sampled_from(["https://w.example/x", "http://127.0.0.1:1"])
    witnesses = [Witness(f"W{number}", witness(number), draw(urls)) for number in range(draw(st.integers(0, 6)))]
    free = [one.name for one in witnesses]
    groups: list[Group] = []
    for _ in range(draw(st.integers(0, 4)) if free else 0):
        members: list[str] = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        groups.append(Group(f"G{len(groups)}", draw(st.integers(1, len(members))), tuple(members)))
        free = [name for name in free if name not in members] + [groups[-1].name]
    names = [one.name for one in witnesses] + [group.name for group in groups]
    logs = (Log(LOG, draw(urls)),) if draw(st.booleans()) else ()
    return Policy(logs, tuple(witnesses), tuple(groups), draw(st.sampled_from(["none", *names])))


@given(policies())
def test_what_is_written_comes_back(policy: Policy) -> None:
    assert Policy.parse(policy.encode()) == policy


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_read_never_more(data: bytes) -> None:
    try:
        policy = Policy.parse(data)
    except PolicyInvalid:
        return
    assert Policy.parse(policy.encode()) == policy
