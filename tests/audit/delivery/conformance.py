"""What `Destination` promises, for the fake, a folder, and S3."""

from __future__ import annotations

import pytest

from audit.delivery.destination import AlreadyThere, Destination, Stored


def check_conformance(destination: Destination) -> None:
    assert destination.get("p/AWSLogs/none") is None
    assert list(destination.keys("p/AWSLogs/")) == []
    big = bytes(range(256)) * 20_000
    destination.put("p/AWSLogs/b/two.json.gz", big, {})
    destination.put("p/AWSLogs/a/one.json.gz", b"\x1f\x8b one", {"signature": "00ff", "signature-algorithm": "SHA256withRSA"})
    destination.put("p/AWSLogs/a_b", b"", {})
    destination.put("p/other", b"other", {})
    assert destination.get("p/AWSLogs/b/two.json.gz") == Stored(big, {})
    assert destination.get("p/AWSLogs/a/one.json.gz") == Stored(
        b"\x1f\x8b one", {"signature": "00ff", "signature-algorithm": "SHA256withRSA"}
    )
    assert list(destination.keys("p/AWSLogs/")) == ["p/AWSLogs/a/one.json.gz", "p/AWSLogs/a_b", "p/AWSLogs/b/two.json.gz"]
    assert list(destination.keys("p/AWSLogs/a/")) == ["p/AWSLogs/a/one.json.gz"]
    for data in (b"\x1f\x8b one", b"another"):
        with pytest.raises(AlreadyThere):
            destination.put("p/AWSLogs/a/one.json.gz", data, {"signature": "11"})
    assert destination.get("p/AWSLogs/a/one.json.gz") == Stored(
        b"\x1f\x8b one", {"signature": "00ff", "signature-algorithm": "SHA256withRSA"}
    ), "what is there stays"
