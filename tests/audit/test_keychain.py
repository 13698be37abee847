"""The chain of the sealer's keys: which key is valid for which records, and what nobody vouches for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit.checkpoint import Checkpoint, SigningKey, VerifierKey, open_checkpoint, sign
from audit.errors import CheckpointInvalid
from audit.keychain import KeyChain, LogKeys, Rotation
from audit.merkle import EMPTY_ROOT

INSTANCE = "0123456789abcdef"
ORIGIN = f"keytrail/{INSTANCE}/w0"


class P256:
    """A key as a KMS has it: ECDSA on P-256, its public part in DER."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, data: bytes, /) -> bytes:
        return self._key.sign(data, ec.ECDSA(SHA256()))

    def public_key(self) -> P256:
        return self

    def public_bytes_raw(self) -> bytes:
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


KEYS: list[SigningKey] = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(4)]
THIEF = Ed25519PrivateKey.from_private_bytes(bytes([99]) * 32)


def public(key: SigningKey) -> bytes:
    return key.public_key().public_bytes_raw()


def verifier(key: SigningKey) -> VerifierKey:
    return VerifierKey(ORIGIN, public(key))


def checkpoint(size: int, log: str = "w0") -> Checkpoint:
    return Checkpoint(f"keytrail/{INSTANCE}/{log}", size, bytes([size]) * 32 if size else EMPTY_ROOT)


def rotation(number: int, old: SigningKey, new: SigningKey, since: str | None = None, **sizes: int) -> Rotation:
    last = {log: checkpoint(size, log) for log, size in sizes.items()}
    return Rotation(INSTANCE, number, f"2026-01-0{number}T00:00:00Z", public(new), public(old), last, since)


def signed(*rotations: tuple[Rotation, SigningKey, SigningKey]) -> str:
    return "\n".join(one.sign(old, new) for one, old, new in rotations)


def two_changes(*, compromised: bool = False, keys: list[SigningKey] = KEYS) -> str:
    """The first key signed for 10 records of w0, the second up to 25; w1 was made after the first change."""
    since = "2026-01-01T12:00:00Z" if compromised else None
    first = rotation(1, keys[0], keys[1], admin=3, w0=10)
    second = rotation(2, keys[1], keys[2], since, admin=3, w0=25, w1=4)
    return signed((first, keys[0], keys[1]), (second, keys[1], keys[2]))


@pytest.mark.parametrize("trusted", [0, 1, 2])
def test_each_size_has_one_key_whichever_is_trusted(trusted: int) -> None:
    chain = KeyChain.read(two_changes(), INSTANCE)
    keys = LogKeys(verifier(KEYS[trusted]), chain)
    for size, valid in ((1, 0), (10, 0), (11, 1), (25, 1), (26, 2), (10**9, 2)):
        assert keys.at(size) == verifier(KEYS[valid]), size
    for size, valid in ((10, 0), (11, 1), (26, 2)):
        for number, key in enumerate(KEYS):
            note = sign(checkpoint(size), key)
            if number == valid:
                assert keys.open(note) == checkpoint(size)
            else:
                with pytest.raises(CheckpointInvalid, match="not signed by"):
                    keys.open(note)


def test_a_log_that_was_made_later_has_the_keys_of_its_time() -> None:
    keys = LogKeys(VerifierKey(f"keytrail/{INSTANCE}/w1", public(KEYS[0])), KeyChain.read(two_changes(), INSTANCE))
    assert [keys.at(size).public_key for size in (1, 4, 5)] == [public(KEYS[1]), public(KEYS[1]), public(KEYS[2])]
    assert list(keys.fixed()) == [(2, checkpoint(4, "w1"))]


def test_a_change_fixes_the_tree_that_the_old_key_left() -> None:
    keys = LogKeys(verifier(KEYS[0]), KeyChain.read(two_changes(), INSTANCE))
    assert list(keys.fixed()) == [(1, checkpoint(10)), (2, checkpoint(25))]


def test_a_compromised_key_vouches_for_nothing_behind_it_but_is_vouched_for() -> None:
    chain = KeyChain.read(two_changes(compromised=True), INSTANCE)
    assert chain.rotations[1].compromised_since == "2026-01-01T12:00:00Z"
    for trusted in (0, 1):
        keys = LogKeys(verifier(KEYS[trusted]), chain)
        assert keys.open(sign(checkpoint(25), KEYS[1])).size == 25
        with pytest.raises(CheckpointInvalid, match="in other hands since 2026-01-01T12:00:00Z"):
            keys.open(sign(checkpoint(26), KEYS[2]))
    keys = LogKeys(verifier(KEYS[2]), chain)
    assert [keys.open(sign(checkpoint(size), KEYS[key])).size for size, key in ((10, 0), (25, 1), (26, 2))] == [10, 25, 26]
    assert chain.vouched(public(KEYS[0])) == (public(KEYS[0]), public(KEYS[1]))
    assert chain.vouched(public(KEYS[2])) == (public(KEYS[2]),)


def test_without_a_compromise_later_keys_are_vouched_for_and_earlier_ones_are_not() -> None:
    chain = KeyChain.read(two_changes(), INSTANCE)
    assert chain.keys == tuple(map(public, KEYS[:3]))
    assert chain.vouched(public(KEYS[1])) == (public(KEYS[1]), public(KEYS[2]))
    assert chain.vouched(public(THIEF)) == (public(THIEF),)


def test_a_chain_without_the_trusted_key_says_nothing() -> None:
    keys = LogKeys(verifier(THIEF), KeyChain.read(two_changes(), INSTANCE))
    assert keys.at(5) == keys.at(500) == verifier(THIEF)
    assert not list(keys.fixed())
    foreign = LogKeys(VerifierKey("keytrail/ffffffffffffffff/w0", public(KEYS[0])), KeyChain.read(two_changes(), INSTANCE))
    assert foreign.at(500).public_key == public(KEYS[0])


def test_no_change_is_no_chain() -> None:
    chain = KeyChain.read("", INSTANCE)
    assert chain == KeyChain(INSTANCE)
    assert (chain.keys, chain.first_key(b"x"), chain.newest_key(b"x")) == ((), b"x", b"x")
    assert LogKeys(verifier(KEYS[0]), chain).at(7) == verifier(KEYS[0])


def test_what_it_reads_is_what_it_wrote() -> None:
    one = rotation(1, KEYS[0], KEYS[1], "2026-01-01T12:00:00Z", admin=0, w0=10)
    assert Rotation.parse(one.text(), INSTANCE) == one
    assert one.text().split("\n")[:3] == [f"keytrail/{INSTANCE}/sealer-keys", "1", "2026-01-01T00:00:00Z"]
    assert one.text().split("\n")[5:7] == [
        "compromised-since 2026-01-01T12:00:00Z",
        f"admin 0 {'47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='}",
    ]
    with pytest.raises(ValueError, match="other keys"):
        one.sign(KEYS[1], KEYS[0])


def one_change(**change: object) -> str:
    first = replace(rotation(1, KEYS[0], KEYS[1], w0=10), **change)  # type: ignore[arg-type] # whatever field
    return first.sign(KEYS[0], KEYS[1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (one_change(number=2), "change 2 of the sealer's key stands where 1 should"),
        (one_change(instance="f" * 16), "another instance"),
        (one_change(time="yesterday"), "not a change"),
        (one_change(compromised_since="once"), "not a change"),
        (one_change().replace("\nw0 10 ", "\nw0 11 "), "not genuine"),
        (one_change().replace("\nw0 10 ", "\nw0 010 "), "not a tree size"),
        (one_change().replace("\nw0 10 ", "\nw0  10 "), "not a change"),
        (one_change()[:-1], "not a signed note"),
        (one_change().rsplit("\u2014", 1)[0], "not signed by"),
        ("\n".join(one_change().split("\n")[:5]), "not a signed note"),
        (two_changes().split("\n\n", 2)[2], "stands where 1 should|not a signed note|not a change"),
        (two_changes(keys=[KEYS[0], KEYS[1], KEYS[0]]), "goes back to one that was given up"),
        (
            signed(
                (rotation(1, KEYS[0], KEYS[1], w0=10), KEYS[0], KEYS[1]),
                (rotation(2, KEYS[2], KEYS[3], w0=12), KEYS[2], KEYS[3]),
            ),
            "is not of the key before it",
        ),
        (
            signed(
                (rotation(1, KEYS[0], KEYS[1], w0=10), KEYS[0], KEYS[1]),
                (rotation(2, KEYS[1], KEYS[2], w0=9), KEYS[1], KEYS[2]),
            ),
            "knows less of the log w0",
        ),
        (
            signed(
                (rotation(1, KEYS[0], KEYS[1], w0=10), KEYS[0], KEYS[1]),
                (rotation(2, KEYS[1], KEYS[2], w1=9), KEYS[1], KEYS[2]),
            ),
            "knows less of the log w0",
        ),
    ],
)
def test_what_is_no_chain_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CheckpointInvalid, match=reason):
        KeyChain.read(text, INSTANCE)


def test_whoever_has_only_the_old_key_or_only_the_new_one_makes_no_change() -> None:
    genuine = rotation(1, KEYS[0], KEYS[1], w0=10)
    for old, new in ((THIEF, KEYS[1]), (KEYS[0], THIEF)):
        forged = replace(genuine, old_key=public(old), new_key=public(new)).sign(old, new)
        lines = forged.replace(replace(genuine, old_key=public(old), new_key=public(new)).text(), genuine.text())
        with pytest.raises(CheckpointInvalid, match=r"not signed by|not genuine"):
            KeyChain.read(lines, INSTANCE)


def test_a_key_of_p_256_signs_notes_of_type_2_and_may_follow_or_precede() -> None:
    first, second = P256(), P256()
    chain = KeyChain.read(
        signed(
            (rotation(1, KEYS[0], first, w0=10), KEYS[0], first),
            (rotation(2, first, second, w0=12), first, second),
            (rotation(3, second, KEYS[1], w0=14), second, KEYS[1]),
        ),
        INSTANCE,
    )
    keys = LogKeys(verifier(KEYS[0]), chain)
    for size, key in ((10, KEYS[0]), (11, first), (13, second), (15, KEYS[1])):
        assert keys.open(sign(checkpoint(size), key)) == checkpoint(size)
    with pytest.raises(CheckpointInvalid, match="not signed by"):
        keys.open(sign(checkpoint(11), second))
    text = str(verifier(first))
    assert VerifierKey.parse(text) == verifier(first)
    note = sign(checkpoint(5), first)
    with pytest.raises(CheckpointInvalid, match="not genuine"):
        open_checkpoint(note.replace("\n5\n", "\n6\n"), verifier(first))


def test_a_verifier_key_holds_a_key_of_its_algorithm() -> None:
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    other = curve.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for key in (other, b"\x00" * 91, public(P256())[:-1]):
        with pytest.raises(CheckpointInvalid, match="holds no key of its algorithm"):
            VerifierKey.parse(str(VerifierKey("example.com/log", key)))
