"""The files that whoever verifies has kept elsewhere, as they are given to a command: `-` is standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from audit.receipts import ClaimedReceipt, read_receipts


def kept_text(path: Path) -> str:
    """The text of a kept file. What is not UTF-8 in it is no checkpoint and no receipt either: who reads it says so."""
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def kept_receipts(paths: Iterable[Path]) -> list[ClaimedReceipt]:
    """Those in all of these files. Raises `ReceiptInvalid`, OSError."""
    return [receipt for path in paths for receipt in read_receipts(kept_text(path), str(path))]
