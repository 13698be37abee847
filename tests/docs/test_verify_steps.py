"""docs/verify.md has the steps that `keytrail verify` has, by the same numbers and words."""

from __future__ import annotations

import re

from audit.delivery.findings import TITLES as DELIVERED
from audit.query.index.against_log import TITLES as INDEXED
from audit.verifying.titles import TITLES
from tests.docs.repository import ROOT

_ROW = re.compile(r"^\| ([0-9]+) \| ([^|]+) \|", re.MULTILINE)


def test_the_steps_are_those_of_the_code() -> None:
    told = {
        int(number): text.rstrip(".").lower() for number, text in _ROW.findall((ROOT / "docs" / "verify.md").read_text("utf-8"))
    }
    of_logs = {number: title.lower() for number, title in TITLES.items()}
    delivered = {kind.value: title.lower() for kind, title in DELIVERED.items()}
    indexed = {step: title.lower() for step, title in INDEXED.items()}
    assert told == of_logs | delivered | indexed
