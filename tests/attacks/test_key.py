"""Attacks with the sealer's key, before and after it was changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.sealing.keys import verifier_keys
from tests.attacks.honest import Honest
from tests.attacks.root import Root, assert_caught, assert_passes
from tests.integration.test_serve import run_keytrail


@pytest.fixture
def stolen(root: Root) -> Ed25519PrivateKey:
    """The key as it was before it was changed."""
    return root.key


def rotate(root: Root, *options: str) -> tuple[str, ...]:
    """Change the sealer's key; gives the options of `verify` with the key of today."""
    done = run_keytrail(root.data.parent, "sealer", "rotate", "--data", str(root.data), *options)
    assert done.returncode == 0, done.stderr
    keys = verifier_keys(root.instance)
    return tuple(word for log in root.instance.logs for word in ("--key", str(keys[log])))


def hide(root: Root, number: int) -> None:
    """Take a record out, and renumber the rest."""
    lines = root.lines()
    root.replace([*lines[:number], *lines[number + 1 :]])


def test_a_stolen_key_before_it_is_changed(honest: Honest, root: Root) -> None:
    hide(root, root.calls()[1])
    root.sign_anew()
    assert_passes(root.data, *honest.keys)
    assert_caught(root.data, 7, "--checkpoint", str(honest.saved))


def test_a_stolen_key_after_it_was_changed_signs_nothing_more(honest: Honest, root: Root, stolen: Ed25519PrivateKey) -> None:
    today = rotate(root)
    lines = root.lines()
    root.replace([*lines, lines[root.calls()[1]]])  # one record more, which the old key may not sign for
    root.sign_anew(stolen)
    assert_caught(root.data, 4, *today)
    assert_caught(root.data, 4, *honest.keys)  # the first key leads to the one of today
    assert_caught(root.data, 4)


def test_a_stolen_key_after_it_was_changed_rewrites_nothing(honest: Honest, root: Root, stolen: Ed25519PrivateKey) -> None:
    today = rotate(root)
    lines = root.lines()
    number = root.calls()[1]
    lines[number] = lines[number].replace(b'"tenant":"t', b'"tenant":"u')
    root.replace(lines)
    root.sign_anew(stolen)
    assert_caught(root.data, 5, *today)
    assert_caught(root.data, 5, *honest.keys)


def test_a_stolen_key_with_the_change_taken_away(honest: Honest, root: Root, stolen: Ed25519PrivateKey) -> None:
    """Who only has the first key, and not the change, believes its thief."""
    today = rotate(root)
    (root.data / "checkpoints" / "keys").unlink()
    for log in root.instance.logs:
        one = Root(root.data, log)
        if log == "w0":
            hide(one, one.calls()[1])
        one.sign_anew(stolen)
    assert_passes(root.data, *honest.keys)
    assert_caught(root.data, 4, *today)


def test_a_key_that_may_be_in_other_hands_vouches_for_none(honest: Honest, root: Root) -> None:
    """Its thief could have signed a change to a key of his own: whoever trusts the old key has to be given the new one."""
    today = rotate(root, "--compromised", "2026-01-31T08:30:00Z")
    lines = root.lines()
    root.replace([*lines, lines[root.calls()[1]]])
    root.sign_anew()
    assert_passes(root.data, *today)
    assert_caught(root.data, 4, *honest.keys)


def test_a_signature_by_any_other_key(root: Root, tmp_path: Path) -> None:
    root.sign_anew(Ed25519PrivateKey.generate())
    assert_caught(root.data, 4)
