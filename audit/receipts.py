"""Receipts: what a client is told of its call's record, and what becomes of those that it collected. Pure.

A receipt is one line, `ORIGIN SEQUENCE LEAF`: the log's name in checkpoints, the record's number, and its leaf hash in base64. It
is no signature: it says what the log must still hold when somebody comes with it.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from audit.errors import ReceiptInvalid
from audit.merkle import HASH_BYTES

RECEIPT_HEADER = "x-keytrail-receipt"
_FORM = re.compile(r"(?P<origin>[^\s+]{1,512}) (?P<sequence>0|[1-9][0-9]{0,17}) (?P<leaf>[A-Za-z0-9+/]{43}=)", re.ASCII)


def write_receipt(origin: str, sequence: int, leaf: bytes) -> str:
    """The receipt, as it stands in a response's header."""
    return f"{origin} {sequence} {b2a_base64(leaf, newline=False).decode()}"


@dataclass(frozen=True, slots=True)
class ClaimedReceipt:
    """A receipt that somebody has: record `sequence` of the log `origin` had this leaf hash."""

    origin: str
    sequence: int
    leaf: bytes

    @classmethod
    def parse(cls, text: str) -> ClaimedReceipt:
        """Read a receipt. Raises `ReceiptInvalid`."""
        found = _FORM.fullmatch(text)
        leaf = b""
        if found is not None:
            try:
                leaf = a2b_base64(found["leaf"], strict_mode=True)
            except Base64Error:
                found = None
        if found is None or len(leaf) != HASH_BYTES or b2a_base64(leaf, newline=False).decode() != found["leaf"]:
            raise ReceiptInvalid("not a receipt: it should be LOG SEQUENCE LEAF, as in the header x-keytrail-receipt")
        return cls(found["origin"], int(found["sequence"]), leaf)


def read_receipts(text: str, name: str) -> list[ClaimedReceipt]:
    """Those in a file, one a line; `name` is the file's. Raises `ReceiptInvalid` where a line is none, or all are missing."""
    receipts = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            receipts.append(ClaimedReceipt.parse(line))
        except ReceiptInvalid as error:
            raise ReceiptInvalid(f"{name}, line {number}: {error}") from None
    if not receipts:
        raise ReceiptInvalid(f"{name} holds no receipt")
    return receipts


class Awaited:
    """The receipts of one log, while its records are read in their order."""

    def __init__(self, receipts: Iterable[ClaimedReceipt]) -> None:
        self._leaves: dict[int, bytes] = {}
        self.count = 0
        for receipt in receipts:
            self.count += 1
            if self._leaves.setdefault(receipt.sequence, receipt.leaf) != receipt.leaf:
                self._leaves[receipt.sequence] = b""  # two that contradict each other: no record is the one of both
        self._met: list[tuple[int, str]] = []

    def has_any(self, first: int, count: int) -> bool:
        """Whether a receipt for one of the records from `first` on, `count` of them, was not met yet."""
        if len(self._leaves) < count:
            return any(first <= sequence < first + count for sequence in self._leaves)
        return any(sequence in self._leaves for sequence in range(first, first + count))

    def meet(self, sequence: int, leaf: bytes, time: str) -> bool:
        """Whether record `sequence`, which has this leaf hash, is the one that every receipt for it was given for."""
        expected = self._leaves.pop(sequence, None)
        if expected is None:
            return True
        self._met.append((sequence, time))
        return expected == leaf

    def unmet(self) -> Iterator[int]:
        """The records that a receipt was given for, and that were not met."""
        yield from sorted(self._leaves)

    def met_from(self, size: int) -> list[tuple[int, str]]:
        """Number and time of those that were met, from record `size` on."""
        return [(sequence, time) for sequence, time in self._met if sequence >= size]
