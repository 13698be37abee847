"""The log that docs/questions.md is asked of: three months with one answer planted for each question, and what must not be
taken for it. Beside the log: a file, a row and an object with data keys, a folder of archived files, what was saved of the
log's checkpoints, and files of CloudTrail.

Asked about is the last quarter of 2025; the log begins a year before, and ends after it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from audit.checkpoint import VerifierKey
from tests.audit.attest.builder import House
from tests.audit.imports import write
from tests.audit.query.artifacts.blobs import local_blob
from tests.audit.query.builder import placed, record

ACCOUNT, PARTNER = "111122223333", "999988887777"
CONTRACTS, PAYROLL, ARCHIVE, LOCKER, RETIRED = (
    f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/{letter * 8}-1111-2222-3333-444455556666" for letter in "abcde"
)
DATA_FOLDER, BUCKET, OBJECT = "keytrail-data", "records", "2025/contract-8.json"
STOLEN = "AKIASTOLEN"
_RECORDED = "request-in-both"
_CHANGES = ("CreateKey", "PutKeyPolicy", "DisableKey", "EnableKey", "CreateGrant", "ScheduleKeyDeletion", "AddCaller")

#: The data keys, each with a ciphertext of its own.
_NAMES = "contract object row idle first second third other elsewhere shared fresh daily exchange pay old globex"
BLOBS = {name: local_blob(number) for number, name in enumerate(_NAMES.split())}


def fingerprint(name: str) -> str:
    """Of a data key of `BLOBS`, or of one that is only a name."""
    return sha256(BLOBS.get(name, name.encode())).hexdigest()


def _user(name: str, access_key: str | None = None, account: str = ACCOUNT) -> dict[str, Any]:
    arn = f"arn:aws:iam::{account}:user/{name}"
    key = access_key or f"AKIA{name.upper()}"
    return {"type": "IAMUser", "arn": arn, "accountId": account, "accessKeyId": key, "userName": name}


def _session(role: str, name: str) -> dict[str, Any]:
    arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{name}"
    return {"type": "AssumedRole", "arn": arn, "accountId": ACCOUNT, "accessKeyId": f"ASIA{name.upper()}"}


def _operator(name: str) -> dict[str, Any]:
    """Who gives a command on the host."""
    return {"type": "Unknown", "principalId": "host:1000", "userName": name}


INGEST, ADMIN, EVE = _user("ingest"), _user("admin"), _user("eve")
ALICE, BOB = _session("reader", "alice"), _session("reader", "bob")


def _context(document: object, tenant: str = "acme") -> dict[str, str]:
    return {"tenant": tenant, "document": str(document)}


@dataclass
class Plan:
    """Calls, in no order; `write` puts them into the logs of `house` in the order of time."""

    calls: list[tuple[datetime, str, dict[str, Any]]] = field(default_factory=list)

    def add(
        self,
        at: str | datetime,
        who: Mapping[str, Any],
        event: str = "Decrypt",
        key: str | None = CONTRACTS,
        *,
        log: str = "w0",
        blobs: Iterable[str] = (),
        made: Iterable[str] = (),
        material: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        allowed_by: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> None:
        """A call at `at` (UTC) with the ciphertexts `blobs`, which returns `made`. `changes` are as of the builder's `record`."""
        moment = datetime.fromisoformat(at).replace(tzinfo=UTC) if isinstance(at, str) else at
        number = len(self.calls)
        names = {"requestID": f"request-{number}", "eventID": f"event-{number}", "eventCategory": "Management"}
        content = record(event, key=key, userIdentity=dict(who), readOnly=event not in _CHANGES, **(names | changes))
        extension = content["additionalEventData"]["keytrail"]
        for name, prints in (("fingerprintsIn", blobs), ("fingerprintsOut", made)):
            if prints:
                extension[name] = [fingerprint(blob) for blob in prints]
        if "principalId" in who:
            extension |= {"identityProof": "host-operator", "topology": "host"}
        if allowed_by is not None:
            extension["allowedBy"] = [allowed_by]
        if material is not None:
            content["additionalEventData"]["keyMaterialId"] = material
        content["requestParameters"] = {**(content["requestParameters"] or {}), **(parameters or {})}
        self.calls.append((moment, log, content))

    def make(self, at: str, who: Mapping[str, Any], *made: str, key: str = CONTRACTS, **changes: Any) -> None:
        self.add(at, who, "GenerateDataKey", key, made=made, **changes)

    def repeat(self, count: int, at: str, apart: timedelta, who: Mapping[str, Any], **call: Any) -> None:
        first = datetime.fromisoformat(at).replace(tzinfo=UTC)
        for number in range(count):
            self.add(first + number * apart, who, **call)

    def write(self, house: House) -> None:
        for moment, name, content in sorted(self.calls, key=lambda call: call[0]):
            log = house.logs[name]
            log.raw(orjson.dumps(placed(content, name, log.sequence, moment)) + b"\n")


def _before(plan: Plan) -> None:
    """From the log's beginning to the quarter that is asked about."""
    plan.add("2024-12-01 08:00", _operator("root"), "Init", None, log="admin", eventSource="keytrail")
    plan.add("2024-12-01 08:01", ADMIN, "CreateKey", parameters={"policy": _policy("kms:Decrypt", "first")})
    plan.add("2025-06-01 10:00", _user("retired"), key=RETIRED, blobs=["globex"])
    plan.add("2025-08-01 10:00", BOB, key=RETIRED, blobs=["globex"], context=_context(1, "oldco"))
    for day in range(1, 14):  # what is usual for the role: four calls an hour, two hours a day
        for hour in (9, 15):
            at = f"2025-09-{day:02} {hour:02}:00"
            tenant = "acme" if hour == 9 else "globex"
            plan.repeat(4, at, timedelta(minutes=7), ALICE, blobs=["daily"], context=_context(day, tenant), material="M1")
    plan.make("2025-09-20 10:00", INGEST, "contract", context=_context(7), material="M1")
    plan.make("2025-09-20 10:05", _user("neighbour"), "globex", context=_context(70, "globex"), material="M1")
    plan.make("2025-09-21 10:00", INGEST, "object", context=_context(8), material="M1")
    plan.make("2025-09-22 10:00", _user("payroll"), "first", key=PAYROLL)
    plan.make("2025-09-22 10:02", _user("payroll"), "old", key=PAYROLL)
    plan.make("2025-09-22 10:01", _user("payroll"), "other", key=PAYROLL)
    plan.add("2025-09-23 10:00", _user("backup"), key=ARCHIVE, blobs=["pay"])


def _data(plan: Plan) -> None:
    plan.add("2025-10-05 09:30", ALICE, blobs=["contract"], context=_context(7), material="M1")
    for tenant in ("globex", "initech"):  # whoever has the ciphertext, and not its context
        plan.add("2025-10-06 22:00", EVE, blobs=["contract"], context=_context(7, tenant), error="InvalidCiphertextException")
    plan.add("2025-10-06 23:00", _user("clumsy"), blobs=["daily"], context=_context(1), error="AccessDenied")
    plan.add("2025-10-07 11:00", BOB, blobs=["object"], context=_context(8), material="M1")
    plan.add("2025-10-08 12:00", _user("billing"), blobs=["row"], context=_context(9), material="M1")
    plan.add("2025-10-08 13:00", BOB, blobs=["daily"], context=_context(1), material="M1")
    plan.make("2025-10-09 10:00", INGEST, "idle", context=_context(10), material="M1")
    plan.make("2025-10-14 10:00", INGEST, "shared", context=_context(11), material="M1")
    plan.add("2025-10-14 11:00", ALICE, blobs=["shared"], context=_context(11), material="M1")
    plan.add("2025-10-14 12:00", _user("neighbour"), blobs=["globex"], context=_context(70, "globex"), material="M1")
    for at, who, before, after, keys in (
        ("2025-10-10 10:00", "mover", "first", "second", (PAYROLL, ARCHIVE)),
        ("2025-10-11 10:00", "stranger", "other", "elsewhere", (PAYROLL, ARCHIVE)),
        ("2025-10-12 10:00", "mover", "second", "third", (ARCHIVE, ARCHIVE)),
    ):
        resources = [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": key} for key in keys]
        into = {"destinationEncryptionContext": {"tenant": "acme" if who == "mover" else "globex"}}
        plan.add(at, _user(who), "ReEncrypt", blobs=[before], made=[after], resources=resources, parameters=into)
    plan.add("2025-10-13 10:00", _user("mover"), key=ARCHIVE, blobs=["third"])


def _principals(plan: Plan) -> None:
    plan.add("2025-10-15 10:00", BOB, key=ARCHIVE, blobs=["pay"], userAgent="aws-cli/2.30", sourceIPAddress="198.51.100.9")
    plan.add("2025-10-16 10:00", _session("writer", "deploy"), "Encrypt", PAYROLL, made=["deployed"])
    stolen: dict[str, Any] = {"who": _user("ingest", STOLEN), "sourceIPAddress": "203.0.113.66"}
    plan.add("2025-11-10 02:00", blobs=["contract"], context=_context(7), material="M1", **stolen)
    plan.add("2025-11-10 02:01", key=PAYROLL, blobs=["old"], error="AccessDenied", **stolen)
    plan.add("2025-11-10 09:00", INGEST, "Encrypt", ARCHIVE, made=["backup"])
    for grant, grantee, maker, key in (
        ("grant-1", f"arn:aws:iam::{ACCOUNT}:role/exporter", "admin", CONTRACTS),
        ("grant-2", f"arn:aws:iam::{ACCOUNT}:role/exporter", "intern", ARCHIVE),
        ("grant-3", f"arn:aws:iam::{ACCOUNT}:role/reporter", "deputy", CONTRACTS),
    ):
        parameters = {"keyId": key, "granteePrincipal": grantee}
        response = {"grantId": grant}
        plan.add("2025-10-20 10:00", _user(maker), "CreateGrant", key, parameters=parameters, responseElements=response)
    nightly = _session("exporter", "nightly")
    token = {"grantTokens": ["token-1"]}
    by_policy = {"policy": "key policy", "statement": "grant"}
    plan.add(
        "2025-10-20 10:01", nightly, blobs=["daily"], context=_context(12), material="M1", parameters=token, allowed_by=by_policy
    )
    by_grant = {"grant": "grant-1"}
    plan.add("2025-10-20 10:05", nightly, blobs=["daily"], context=_context(12), material="M1", allowed_by=by_grant)


def _keys(plan: Plan) -> None:
    plan.add("2025-10-25 10:00", ADMIN, "DisableKey", ARCHIVE)
    plan.add("2025-10-26 10:00", ADMIN, "EnableKey", ARCHIVE)
    plan.add("2025-10-27 10:00", _user("backup"), key=ARCHIVE, blobs=["pay"])
    plan.make("2025-11-02 10:00", INGEST, "fresh", context=_context(13), material="M2")
    for who in (ALICE, BOB):
        plan.add("2025-11-02 11:00", who, blobs=["fresh"], context=_context(13), material="M2")
    plan.add("2025-11-05 10:00", ADMIN, "PutKeyPolicy", parameters={"policy": _policy("kms:*", "first")})
    plan.add("2025-11-05 11:00", ADMIN, "PutKeyPolicy", ARCHIVE, parameters={"policy": _policy("kms:Encrypt", "archive-only")})
    partner = _user("partner", account=PARTNER)
    plan.add("2025-11-08 10:00", partner, blobs=["exchange"], context=_context(14), material="M1")
    plan.add("2025-11-20 14:00", _user("wages"), key=PAYROLL, blobs=["old"])
    plan.add("2025-12-01 10:00", ADMIN, "DescribeKey", PAYROLL)
    plan.add("2025-12-02 10:00", ADMIN, "DisableKey", PAYROLL)
    plan.add("2025-12-03 10:00", _user("bonus"), key=PAYROLL, blobs=["old"], error="DisabledException")
    deletion = {"deletionDate": "2025-12-20T00:00:00Z"}
    plan.add("2025-12-10 10:00", ADMIN, "ScheduleKeyDeletion", PAYROLL, responseElements=deletion)


def _anomalies(plan: Plan) -> None:
    denied: dict[str, Any] = {"blobs": ["daily"], "error": "AccessDenied", "context": _context(1)}
    plan.repeat(25, "2025-11-12 03:00", timedelta(seconds=10), EVE, **denied)
    plan.repeat(5, "2025-11-13 03:00", timedelta(seconds=10), _user("clumsy"), **denied)
    usual: dict[str, Any] = {"blobs": ["daily"], "context": _context(1), "material": "M1"}
    plan.repeat(120, "2025-11-15 14:00", timedelta(seconds=20), BOB, **usual)
    fewer = usual | {"blobs": ["globex"], "context": _context(70, "globex")}
    plan.repeat(5, "2025-11-16 14:00", timedelta(seconds=20), _user("neighbour"), **fewer)
    first = datetime(2025, 11, 18, 4, tzinfo=UTC)
    for number in range(101):
        plan.add(first + number * timedelta(seconds=20), _user("locker"), "GenerateDataKey", LOCKER, made=[f"locked {number}"])
    plan.add("2025-11-20 10:00", _user("sloppy"), blobs=["daily"], context={"document": "15"}, material="M1")
    plan.add("2025-11-20 11:00", _user("typist"), blobs=["daily"], context=_context("sixteen"), material="M1")


def _compliance(plan: Plan) -> None:
    plan.add("2025-11-01 00:00", _user("neighbour"), log="w1", blobs=["globex"], context=_context(70, "globex"), material="M1")
    plan.add("2025-11-21 10:00", _user("billing"), blobs=["row"], context=_context(9), material="M1", requestID=_RECORDED)
    plan.add(
        *("2025-12-11 10:00", {"type": "Unknown"}, "Decrypt", None),
        error="MissingAuthenticationTokenException",
        requestParameters=None,
    )
    plan.add(
        *("2025-12-15 10:00", _operator("auditor"), "SearchLog", None),
        log="admin",
        eventSource="keytrail",
        parameters={"command": "trace", "question": {"artifact": "contract-7.bin"}},
    )
    plan.add(
        *("2025-12-16 10:00", _operator("operator"), "AddCaller", None),
        log="admin",
        eventSource="keytrail",
        parameters={"principalArn": f"arn:aws:iam::{ACCOUNT}:user/new"},
    )
    plan.add("2026-01-15 10:00", _user("later"), blobs=["contract"], context=_context(7), material="M1")


def _policy(action: str, sid: str) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": sid, "Effect": "Allow", "Action": action}]})


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def _message(blob: str, key: str, context: Mapping[str, str]) -> bytes:
    """A message of the AWS Encryption SDK, as far as it tells its data key."""
    pairs = b"".join(_sized(name.encode()) + _sized(value.encode()) for name, value in context.items())
    edk = _sized(b"aws-kms") + _sized(key.encode()) + _sized(BLOBS[blob])
    return b"\x02\x05\x78" + bytes(32) + _sized(len(context).to_bytes(2, "big") + pairs) + b"\0\1" + edk + b"\x02" + bytes(64)


def object_metadata() -> dict[str, str]:
    """Of the object in S3, as the S3 Encryption Client leaves it."""
    wrapped = base64.b64encode(BLOBS["object"]).decode()
    return {"x-amz-key-v2": wrapped, "x-amz-wrap-alg": "kms+context", "x-amz-matdesc": json.dumps(_context(8))}


def _event(who: Mapping[str, Any], request_id: str, event_id: str) -> dict[str, Any]:
    """An event of CloudTrail's."""
    content = record("Decrypt", key=CONTRACTS, userIdentity=dict(who), requestID=request_id, eventID=event_id)
    del content["additionalEventData"]
    return {**content, "eventTime": "2025-11-21T10:00:00Z", "eventCategory": "Management", "recipientAccountId": ACCOUNT}


PARTS: tuple[Callable[[Plan], None], ...] = (_before, _data, _principals, _keys, _anomalies, _compliance)


def plant(folder: Path) -> House:
    """Everything, as it lies in `folder`, from which the commands of the document are given."""
    data = folder / DATA_FOLDER
    data.mkdir(parents=True)
    house = House(data, "w1")
    plan = Plan()
    for part in PARTS:
        part(plan)
    plan.write(house)
    house.seal()
    saved = [house.latest(log) for log in house.logs]
    (folder / "saved-checkpoint.txt").write_text("\n".join(saved))
    keys = [str(VerifierKey.of(house.instance.origin(log), house.key)) for log in house.logs]
    (folder / "verifier-keys.txt").write_text("\n".join(keys) + "\n")
    row = {"name": {"S": "invoice-9"}, "key": {"S": base64.b64encode(BLOBS["row"]).decode()}}
    (folder / "row.json").write_text(json.dumps({"Item": row | {"contents": {"S": "…"}, "hmac": {"B": "aG1hYw=="}}}))
    (folder / "contract-7.bin").write_bytes(_message("contract", CONTRACTS, _context(7)))
    archive = folder / "archive"
    archive.mkdir()
    for name, blob, key, context in (
        ("a.bin", "shared", CONTRACTS, _context(11)),
        ("b.bin", "shared", CONTRACTS, _context(11)),
        ("idle.bin", "idle", CONTRACTS, _context(10)),
        ("new.bin", "fresh", CONTRACTS, _context(13)),
        ("other.bin", "globex", CONTRACTS, _context(70, "globex")),
        ("wages.bin", "old", PAYROLL, {}),
    ):
        (archive / name).write_bytes(_message(blob, key, context))
    recorded = _event(_user("billing"), _RECORDED, "aws-1"), _event(_user("shadow"), "request-past-keytrail", "aws-2")
    write(folder / "cloudtrail", list(recorded))
    return house
