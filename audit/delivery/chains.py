"""The chains of digests at a destination: each signed, each naming the one before, none missing at either end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from audit.delivery.deliverer import uncompressed
from audit.delivery.destination import LONGEST_BYTES, Destination
from audit.delivery.digest import ALGORITHM, SHA256_WITH_RSA, SIGNATURE, PublicKey, text_to_sign
from audit.delivery.findings import Findings, Kind
from audit.delivery.layout import DigestKey, Place, Trail, seconds, timestamp
from audit.delivery.state import State


@dataclass(frozen=True, slots=True)
class Named:
    """What genuine digests say: the hash of each log file, by its key, and up to when those of each place reach."""

    files: Mapping[str, str]
    until: Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class _Link:
    """A digest that is genuine: what the next one has to name. `end` and `start` are its interval."""

    key: str
    start: int
    end: int
    sha256: str
    signature: str
    previous: tuple[Any, Any, Any]  # what it names: key, hash and signature, of whatever type
    files: Mapping[str, str]


class _NotGenuine(Exception):
    """A digest cannot be believed; the text says why."""


def check_chains(
    trail: Trail,
    destination: Destination,
    digests: Mapping[str, DigestKey],
    keys: Mapping[str, PublicKey],
    state: State | None,
    due: int,
    findings: Findings,
) -> Named:
    """Check the chain of each place. What began before `due` (seconds since the epoch) has its digest."""
    by_place: dict[Place, list[str]] = defaultdict(list)
    for key, name in sorted(digests.items(), key=lambda item: item[1].end):
        by_place[name.place].append(key)
    places = {*by_place, trail.home, *(state.chains if state is not None else ())}
    files: dict[str, str] = {}
    until = {}
    for place in sorted(places):
        links = []
        for key in by_place[place]:
            try:
                links.append(_open(trail, key, digests[key], destination, keys))
            except _NotGenuine as error:
                findings.add(Kind.CHAIN, key, str(error))
        _check_links(links, len(links) == len(by_place[place]), findings)
        _check_newest(place, links, state, due, findings)
        if links:
            until[place] = links[-1].end
        for link in links:
            files.update(link.files)
    return Named(files, until)


def _open(trail: Trail, key: str, name: DigestKey, destination: Destination, keys: Mapping[str, PublicKey]) -> _Link:
    """The digest `key`, by its signature. Raises `_NotGenuine`."""
    stored = destination.get(key)
    text = uncompressed(stored.data, LONGEST_BYTES) if stored is not None else None
    if stored is None or text is None:
        raise _NotGenuine("it is no gzip")
    try:
        digest = orjson.loads(text)
        signer = keys.get(digest["digestPublicKeyFingerprint"])
        signature, previous = str(stored.metadata.get(SIGNATURE)), digest["previousDigestSignature"]
        signed = text_to_sign(text, digest["digestEndTime"], digest["digestS3Bucket"], digest["digestS3Object"], previous)
        if signer is None:
            raise _NotGenuine("it is signed with a key that is not this trail's")
        if stored.metadata.get(ALGORITHM) != SHA256_WITH_RSA or not signer.verifies(signature, signed):
            raise _NotGenuine("its signature is not genuine")
        start, end = seconds(digest["digestStartTime"]), seconds(digest["digestEndTime"])
        named = (digest["digestS3Bucket"], digest["digestS3Object"], digest["awsAccountId"], end)
        if named != (trail.bucket, key, name.place.account_id, name.end):
            raise _NotGenuine("it was moved here from another place")
        before = (digest["previousDigestS3Object"], digest["previousDigestHashValue"], previous)
        files = {one["s3Object"]: one["hashValue"] for one in digest["logFiles"]}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _NotGenuine("it is no digest") from error
    return _Link(key, start, end, sha256(text).hexdigest(), signature, before, files)


def _check_links(links: list[_Link], is_whole: bool, findings: Findings) -> None:
    """Each names the one before. `is_whole` is false where one in between was not genuine: that was told."""
    before: _Link | None = None
    for link in links:
        expected = (None, None, None) if before is None else (before.key, before.sha256, before.signature)
        if link.previous != expected and is_whole:
            reason = "an older one is missing, or was replaced" if before is None else f"it does not follow {before.key}"
            findings.add(Kind.CHAIN, link.key, f"the chain is broken here: {reason}")
        elif before is not None and link.start != before.end and is_whole:
            findings.add(
                Kind.CHAIN, link.key, f"it begins at {timestamp(link.start)}, the one before it ends at {timestamp(before.end)}"
            )
        before = link


def _check_newest(place: Place, links: list[_Link], state: State | None, due: int, findings: Findings) -> None:
    """The newest digest is the one that was made last, and there is one up to `due`."""
    chain = state.chains.get(place) if state is not None else None
    newest = links[-1] if links else None
    if chain is not None and chain.previous is not None:
        there = {link.key: link.signature for link in links}
        if there.get(chain.previous.key) != chain.previous.signature:
            findings.add(Kind.CHAIN, chain.previous.key, "it was delivered, and is not there any more")
    if newest is not None and newest.end + (newest.end - newest.start) < due:
        findings.add(Kind.CHAIN, str(place), f"the newest digest ends at {timestamp(newest.end)}; later ones are missing")
