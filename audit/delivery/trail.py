"""What CloudTrail's API says of the trail: the answers to DescribeTrails and ListPublicKeys, as JSON 1.1 writes them. Pure.

`aws cloudtrail validate-logs` needs these two, and S3.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from audit.delivery.digest import PublicKey
from audit.delivery.layout import Trail

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
