"""Readers of the files of published vectors: those of the package cryptography-vectors, and our copies in tests/vectors/kms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cryptography_vectors
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers, RSAPublicNumbers

OWN = Path(__file__).parents[2] / "vectors" / "kms"
Record = dict[str, str]


def lines(name: str) -> list[str]:
    with cryptography_vectors.open_vector_file(name, "r") as file:
        return [line.strip() for line in file]


def records(name: str, last: str) -> Iterator[Record]:
    """Those of a file of `name = value` lines under `[section]`s; a record ends with the member `last`, and what it does not say
    it has from the one before."""
    state: Record = {}
    for line in lines(name):
        if line.startswith("["):
            state["section"] = line[1:-1]
        elif " = " in line and not line.startswith("#"):
            key, _, value = line.partition(" = ")
            state[key] = value
            if key == last:
                yield dict(state)


def oaep(name: str) -> Iterator[tuple[RSAPrivateKey, bytes, bytes]]:
    """Private key, plaintext and ciphertext, of a file where each number stands under a `# Title:`."""
    state: dict[str, str] = {}
    title = ""
    for line in [*lines(name), "#"]:
        if not line.startswith("#"):
            state[title] = state.get(title, "") + line.replace(" ", "")
            continue
        if title == "Encryption":
            yield _rsa_of(state), bytes.fromhex(state["Message"]), bytes.fromhex(state["Encryption"])
        title = line.strip("# :")
        state[title] = ""


def _rsa_of(state: dict[str, str]) -> RSAPrivateKey:
    names = ("Prime 1", "Prime 2", "Exponent", "Prime exponent 1", "Prime exponent 2", "Coefficient")
    p, q, d, dmp1, dmq1, iqmp = (int(state[name], 16) for name in names)
    public = RSAPublicNumbers(int(state["Public exponent"], 16), int(state["Modulus"], 16))
    return RSAPrivateNumbers(p, q, d, dmp1, dmq1, iqmp, public).private_key(unsafe_skip_rsa_key_validation=True)


@cache
def own(name: str) -> Any:  # Any: JSON
    return json.loads((OWN / name).read_text())
