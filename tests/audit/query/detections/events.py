"""Events for tests of detection: calls as `LogBuilder` writes them, asked by one rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from audit.query.detections.findings import Finding, Severity
from audit.query.detections.rules import RULES
from audit.query.detections.run import Outcome, detect, prepare
from audit.query.detections.settings import Settings, Tuning
from audit.query.events import open_events
from tests.audit.query.builder import LogBuilder, at

DAY = 86_400
#: Findings from ten days after `START` on; the baseline before is all of them.
SINCE_S = 10 * DAY
SINCE = at(SINCE_S)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
OTHER_ACCOUNT = "999988887777"
FOREIGN_KEY = f"arn:aws:kms:eu-central-1:{OTHER_ACCOUNT}:key/ffffffff-1111-2222-3333-444455556666"


def identity(user: str, account: str = "111122223333", **changes: Any) -> dict[str, Any]:
    """A userIdentity, as an override for `LogBuilder.add`."""
    arn = f"arn:aws:iam::{account}:user/{user}"
    return {"type": "IAMUser", "arn": arn, "accountId": account, "accessKeyId": f"AKIA{user.upper()}", **changes}


def session(role: str, name: str) -> dict[str, Any]:
    return identity(role, type="AssumedRole", arn=f"arn:aws:sts::111122223333:assumed-role/{role}/{name}")


def past(log: LogBuilder, event: str = "Decrypt", **changes: Any) -> None:
    """An event of the baseline."""
    log.add(5 * DAY, event, **changes)


@contextmanager
def observed(
    data: Path, since: datetime = SINCE, baseline: timedelta = timedelta(days=10)
) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_events(data, since=since - baseline) as events:
        assert not events.damaged
        prepare(events.database)
        yield events.database


def outcome(log: LogBuilder, settings: Settings | None = None, since: datetime = SINCE, **options: Any) -> Outcome:
    """All rules, asked."""
    baseline = options.pop("baseline", timedelta(days=10))
    options = {"now": NOW, "least": Severity.INFORMATIONAL, **options}
    with observed(log.data, since, baseline) as database:
        return detect(database, settings or Settings(), since, baseline, **options)


def findings(
    log: LogBuilder, rule: str, settings: Settings | None = None, since: datetime = SINCE, **parameters: Any
) -> Sequence[Finding]:
    """What `rule` finds, with `parameters` instead of its own."""
    settings = settings or Settings()
    tunings = {one.id: Tuning(enabled=one.id == rule, parameters=parameters if one.id == rule else {}) for one in RULES}
    return [one for one in outcome(log, replace(settings, tunings=tunings), since).findings if one.rule == rule]
