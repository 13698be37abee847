"""What CloudTrail's API says of the trail, as JSON 1.1 writes it: DescribeTrails, GetTrail, GetTrailStatus, ListTrails and
ListPublicKeys. Pure.

`aws cloudtrail validate-logs` needs the first and the last, and S3. Source: AWS CloudTrail API reference.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from audit.delivery.digest import PublicKey
from audit.delivery.layout import Trail, timestamp

#: How long a key that signs now will be good, as AWS's answer has to say. Digests say which key signed them.
_VALID_S = 10 * 365 * 86_400
_DAY_S = 86_400


def describe_trails(trail: Trail) -> dict[str, Any]:
    """DescribeTrails: the one trail that there is."""
    return {"trailList": [described(trail)]}


def described(trail: Trail) -> dict[str, Any]:
    """A trail, as DescribeTrails and GetTrail tell it."""
    return {
        "Name": trail.name,
        "S3BucketName": trail.bucket,
        **({"S3KeyPrefix": trail.prefix} if trail.prefix else {}),
        "IncludeGlobalServiceEvents": True,
        "IsMultiRegionTrail": True,
        "HomeRegion": trail.home.region,
        "TrailARN": trail.arn,
        "LogFileValidationEnabled": True,
        "HasCustomEventSelectors": False,
        "HasInsightSelectors": False,
        "IsOrganizationTrail": False,
    }


def listed(trail: Trail) -> dict[str, Any]:
    """A trail, as ListTrails tells it."""
    return {"TrailARN": trail.arn, "Name": trail.name, "HomeRegion": trail.home.region}


def trail_status(
    since: int | None, delivered: int | None, digested: int | None, failed: tuple[int, str] | None
) -> dict[str, Any]:
    """GetTrailStatus: since when it is on, when files and a digest were delivered last (seconds since the epoch), and when and
    why the last step failed, if it did."""
    attempted = max((at for at in (delivered, None if failed is None else failed[0]) if at is not None), default=None)
    told: dict[str, Any] = {
        "IsLogging": True,
        "LatestDeliveryTime": _time(delivered),
        "LatestDigestDeliveryTime": _time(digested),
        "StartLoggingTime": _time(since),
        "LatestDeliveryError": None if failed is None else failed[1],
        "LatestDeliveryAttemptTime": _text(attempted),
        "LatestDeliveryAttemptSucceeded": _text(delivered),
        "TimeLoggingStarted": _text(since),
    }
    return {name: value for name, value in told.items() if value is not None}


def _time(seconds: int | None) -> float | None:
    return None if seconds is None else float(seconds)


def _text(seconds: int | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def public_keys(keys: Iterable[PublicKey], start: float, end: float) -> dict[str, Any]:
    """ListPublicKeys: those of `keys`, oldest first, that were good at any time from `start` to `end` (seconds since the epoch).

    A key is good for as long as it is the newest, and for a day more: a digest that was begun is finished as it was begun.
    """
    ordered = list(keys)
    rows = []
    for number, key in enumerate(ordered):
        until = ordered[number + 1].since + _DAY_S if number + 1 < len(ordered) else key.since + _VALID_S
        if key.since - _DAY_S <= end and start <= until:
            rows.append(
                {
                    "Value": base64.b64encode(key.der).decode(),
                    "ValidityStartTime": float(key.since - _DAY_S),  # the first interval began before the key was made
                    "ValidityEndTime": float(until),
                    "Fingerprint": key.fingerprint,
                }
            )
    return {"PublicKeyList": rows}
