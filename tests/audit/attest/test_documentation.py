"""docs/attestation.md and the example: a document once made stays valid, and the page shows what is in it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from audit.attest.check import TITLES, check
from audit.attest.parsing import parse
from audit.checkpoint import VerifierKey
from audit.report import Verdict

EXAMPLE = (Path(__file__).parent / "example.json").read_bytes()
PAGE = (Path(__file__).parents[3] / "docs" / "attestation.md").read_text("utf-8")


def test_the_example_verifies_with_the_key_on_the_page() -> None:
    (key,) = re.findall(r"`(keytrail/\S+\+\S+)`", PAGE)
    report = check(EXAMPLE, [VerifierKey.parse(key)])
    assert report.passed
    assert [step.verdict for step in report.steps].count(Verdict.PASSED) == 5


def test_the_page_shows_the_example() -> None:
    payload = base64.b64decode(json.loads(EXAMPLE)["payload"])
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(shown) == json.loads(payload)
    assert parse(payload).encode() == payload


def test_the_page_names_every_field_and_every_step() -> None:
    predicate = json.loads(base64.b64decode(json.loads(EXAMPLE)["payload"]))["predicate"]
    for name in (*predicate, *predicate["question"], *predicate["logs"][0]):
        assert f"`{name}`" in PAGE, name
    for number, title in TITLES.items():
        assert re.search(rf"\| {number} \| {re.escape(title[0].upper() + title[1:])}[. ]", PAGE), title
