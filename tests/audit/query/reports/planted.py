"""A log in which every table of every report has something to find, and the interval that the tests ask about."""

from __future__ import annotations

import functools
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from audit.instance import Instance
from audit.query.events import open_events
from audit.query.imported import EventsFile, Manifest, import_folder
from audit.query.index.rows import EVENTS
from audit.query.reports.build import ACCESS_REVIEW, INCIDENT, KEY_USAGE, QUARTERLY, Document, ReportKind, build
from audit.query.reports.scope import Asked
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, fingerprint

SINCE, UNTIL = datetime(2026, 1, 10, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
INSTANCE = "0123456789abcdef"
DAY = 86_400
TENANT = {"tenant": "acme"}
ROLE = "arn:aws:sts::111122223333:assumed-role/reader"
ROLE_IN_IAM = "arn:aws:iam::111122223333:role/team/reader"
ALICE, BOB, EVE = (f"arn:aws:iam::111122223333:user/{name}" for name in ("alice", "bob", "eve"))
STRANGER = "arn:aws:iam::999988887777:user/partner"
POLICY_1 = json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "use", "Effect": "Allow", "Action": "kms:Decrypt"}]})
POLICY_2 = POLICY_1.replace("kms:Decrypt", "kms:*")
_CHANGES = ("PutKeyPolicy", "DisableKey", "EnableKey", "CreateGrant", "RevokeGrant", "ScheduleKeyDeletion")
SCRIPT = "<script>alert('x')</script>"
BREAKOUT = '"><img src=x onerror=alert(1)>\u202e\x1b[31m'
NOTHING = Asked()
KINDS = [KEY_USAGE, ACCESS_REVIEW, QUARTERLY, INCIDENT]
#: January 10 at midnight, as seconds after the builder's START.
FIRST = 8 * DAY


def session(name: str, access_key: str) -> dict[str, Any]:
    return {"type": "AssumedRole", "arn": f"{ROLE}/{name}", "accountId": "111122223333", "accessKeyId": access_key}


class Planted:
    """The log, in the folder `data`; each record has a request id and an event id of its own, by its number."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = LogBuilder(data)
        Instance(data, INSTANCE, "111122223333", "eu-central-1", "2026-01-01T00:00:00Z", ("w0",)).save()

    @property
    def state(self) -> tuple[Path, int, int]:
        """What a report on it depends on."""
        return self.data, len(self.log.lines), len(list(self.data.glob("imported/*")))

    def add(self, seconds: float, event: str = "Decrypt", *, material: str | None = None, **changes: Any) -> None:
        number = self.log.sequence
        names = {"requestID": f"request-{number}", "eventID": f"event-{number}", "readOnly": event not in _CHANGES}
        changes = {**names, **changes}
        if material is not None:
            facts: dict[str, Any] = {"phase": "outcome", "identityProof": "signature-verified"}
            for which, name in (("blobs_in", "fingerprintsIn"), ("blobs_out", "fingerprintsOut")):
                facts[name] = [fingerprint(blob) for blob in changes.pop(which, ())]
            changes["additionalEventData"] = {"keyMaterialId": material, "keytrail": facts}
        self.log.add(seconds, event, **changes)

    def plant(self) -> None:
        """Before the interval, in it, and after it."""
        grant = {"grantId": "grant-1"}
        # Before.
        self.add(60, "GenerateDataKey", material="M1", blobs_out=["one"], context=TENANT)
        self.add(70, "PutKeyPolicy", requestParameters={"keyId": KEY_A, "policy": POLICY_1})
        self.add(DAY, user="bob", key=KEY_B, blobs_in=["zero"])
        # In the interval. Number 3 is the first.
        self.add(FIRST + 60, "GenerateDataKey", material="M1", blobs_out=["two"], context=TENANT | {"object": "1"})
        self.add(FIRST + 120, material="M1", blobs_in=["one"], context=TENANT, userIdentity=session("sam", "ASIASAM"))
        self.add(FIRST + 180, material="M1", blobs_in=["one"], userIdentity=session("tim", "ASIATIM"), sourceIPAddress="10.9.0.1")
        self.add(FIRST + DAY, "GenerateDataKey", material="M2", blobs_out=["three"], context=TENANT)
        self.add(
            FIRST + DAY + 60,
            "ReEncrypt",
            blobs_in=["one"],
            blobs_out=["four"],
            resources=[{"ARN": KEY_A}, {"ARN": KEY_B}],
            requestParameters={"sourceEncryptionContext": TENANT, "destinationEncryptionContext": TENANT | {"copy": "yes"}},
        )
        self.add(
            FIRST + 2 * DAY,
            user="eve",
            key=None,
            error="AccessDenied",
            requestParameters={"keyId": "alias/a", "encryptionContext": {"tenant": "globex"}},
            sourceIPAddress="10.9.0.1",
            additionalEventData={"keytrail": {"phase": "outcome", "deniedBy": {"policy": "strict.json", "statement": "no"}}},
        )
        self.add(
            FIRST + 2 * DAY + 60,
            blobs_in=["two"],
            userIdentity={"type": "IAMUser", "arn": STRANGER, "accountId": "999988887777", "accessKeyId": "AKIAFAR"},
        )
        self.add(FIRST + 3 * DAY, "DisableKey", phase="intent")
        self.add(FIRST + 3 * DAY + 1, "DisableKey")
        self.add(FIRST + 3 * DAY + 60, user="bob", blobs_in=["two"], error="DisabledException")
        self.add(FIRST + 4 * DAY, "EnableKey")
        self.add(
            FIRST + 4 * DAY + 60, user="bob", blobs_in=["two"], requestParameters={"keyId": "alias/a"}, userAgent="aws-cli/2.0"
        )
        self.add(FIRST + 5 * DAY, "PutKeyPolicy", requestParameters={"keyId": KEY_A, "policy": POLICY_2})
        self.add(
            FIRST + 5 * DAY + 60,
            "CreateGrant",
            requestParameters={"keyId": KEY_A, "granteePrincipal": ROLE_IN_IAM},
            responseElements=grant,
        )
        self.add(
            FIRST + 6 * DAY,
            userIdentity=session("sam", "ASIASAM"),
            blobs_in=["three"],
            requestParameters={"grantTokens": ["token-1"], "encryptionContext": TENANT},
        )
        self.add(FIRST + 6 * DAY + 60, "RevokeGrant", user="bob", requestParameters={"keyId": KEY_A, **grant})
        self.add(FIRST + 7 * DAY, "ScheduleKeyDeletion", user="eve", key=KEY_B, phase="unknown")
        self.add(
            FIRST + 8 * DAY,
            key=None,
            error="MissingAuthenticationTokenException",
            userIdentity={"type": "Unknown"},
            sourceIPAddress=None,
            requestParameters=None,
        )
        # After it: who else took what was unwrapped in it.
        self.add(40 * DAY, user="bob", blobs_in=["one"])

    def plant_hostile(self) -> None:
        """A call whose every word is meant to break out of a page."""
        self.add(
            FIRST + 10 * DAY,
            user=SCRIPT,
            key=None,
            error=BREAKOUT,
            requestParameters={"keyId": f"alias/{BREAKOUT}", "encryptionContext": {SCRIPT: SCRIPT, "b": BREAKOUT}},
            userAgent=f"</td></tr></table>{SCRIPT}",
            sourceIPAddress=SCRIPT,
        )
        policy = f"{SCRIPT}\n{BREAKOUT}"
        self.add(FIRST + 10 * DAY + 1, "PutKeyPolicy", requestParameters={"keyId": KEY_A, "policy": policy})

    def import_events(self, *events: dict[str, Any]) -> None:
        """Events of CloudTrail as an import leaves them; `events` are arguments of `LogBuilder.add`."""
        folder = import_folder(self.data, "aws")
        with tempfile.TemporaryDirectory() as temporary:
            other = LogBuilder(Path(temporary), "cloudtrail")
            for event in events:
                other.add(**event)
            with open_events(Path(temporary)) as made:
                table = made.database.execute("FROM events").to_arrow_table().select(list(EVENTS))
        file = EventsFile(0, len(events), 0, "2026-01-01T00:00:00Z", "2026-12-31T00:00:00Z")
        file.path(folder).parent.mkdir(parents=True)
        parquet.write_table(table, file.path(folder))
        Manifest(tuple(EVENTS), files=[file]).save(folder)


def make(planted: Planted, kind: ReportKind, asked: Asked = NOTHING, **how: Any) -> Document:
    """The report `kind` of the interval; `how` are other arguments of `build`. What was made once is not made again."""
    terms: dict[str, Any] = {"since": SINCE, "until": UNTIL, "made_at": UNTIL, "version": "9.9", "verify_logs": None} | how
    return _made(planted.state, kind, asked, tuple(terms.items()))


@functools.cache
def _made(state: tuple[Path, int, int], kind: ReportKind, asked: Asked, terms: tuple[tuple[str, Any], ...]) -> Document:
    return build(kind, state[0], asked, **dict(terms))
