"""Every operation of CloudTrail that is answered here, and what of it may be recorded. As `proxy.kms.operations`, which says how.

They change nothing. A NextToken is not recorded: it says nothing that the pages before it did not.

Source: AWS CloudTrail API reference; the service model for the names.
"""

from __future__ import annotations

from proxy.domain import Operation
from proxy.policy.access import TRAIL_OPERATIONS

_REQUESTS = {
    "DescribeTrails": ("trailNameList", "includeShadowTrails"),
    "GetTrail": ("Name",),
    "GetTrailStatus": ("Name",),
    "ListPublicKeys": ("StartTime", "EndTime"),
    "ListTrails": (),
    "LookupEvents": ("LookupAttributes", "StartTime", "EndTime", "EventCategory", "MaxResults"),
}
OPERATIONS: dict[str, Operation] = {name: Operation(name, request=_REQUESTS[name], key_members=()) for name in TRAIL_OPERATIONS}
