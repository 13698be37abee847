"""Every operation of STS that is answered here, and what of it may be recorded. As `proxy.kms.operations`, which says how.

Of credentials that are given out, a record has the access key id and the end, directly in responseElements. AssumeRole and
GetSessionToken are read-only to CloudTrail; here they leave a session behind, so that their intent is committed first.

Source: IAM user guide, "Logging IAM and AWS STS API calls with AWS CloudTrail".
"""

from __future__ import annotations

from proxy.domain import Operation

_CREDENTIALS = ("Credentials.AccessKeyId", "Credentials.Expiration")

_ROWS = (
    Operation("GetCallerIdentity", key_members=()),
    Operation(
        "AssumeRole",
        mutates=True,
        told_as_read=True,
        request=(
            "RoleArn",
            "RoleSessionName",
            "DurationSeconds",
            "ExternalId",
            "SourceIdentity",
            "SerialNumber",
            "Tags",
            "TransitiveTagKeys",
        ),
        response=(*_CREDENTIALS, "AssumedRoleUser", "SourceIdentity"),
        key_members=(),
    ),
    Operation(
        "GetSessionToken",
        mutates=True,
        told_as_read=True,
        request=("DurationSeconds", "SerialNumber"),
        response=_CREDENTIALS,
        key_members=(),
    ),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
