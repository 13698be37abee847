"""CloudTrail's names of what the view `observed` has: name → SQL that gives text, so that all values compare as text does.

A name that is not here is not in the events: a rule that uses it cannot be asked.
"""

from __future__ import annotations

from collections.abc import Mapping

_OF_ALIAS = "event_name IN ('CreateAlias', 'UpdateAlias')"
_KEYTRAIL = "additionalEventData.keytrail"

FIELDS: Mapping[str, str] = {
    "eventTime": "strftime(time, '%Y-%m-%dT%H:%M:%SZ')",
    "eventSource": "event_source",
    "eventName": "event_name",
    "eventType": "event_type",
    "eventID": "event_id",
    "eventCategory": "'Management'",  # all events of KMS are
    "managementEvent": "'true'",
    "readOnly": "read_only::VARCHAR",
    "requestID": "request_id",
    "awsRegion": "region",
    "recipientAccountId": "recipient_account_id",
    "sourceIPAddress": "source_ip",
    "userAgent": "user_agent",
    "errorCode": "error_code",
    "errorMessage": "error_message",
    "userIdentity.type": "identity_type",
    "userIdentity.arn": "caller",
    "userIdentity.accountId": "account_id",
    "userIdentity.accessKeyId": "access_key_id",
    "userIdentity.userName": "user_name",
    "userIdentity.sessionContext.sessionIssuer.type": "CASE WHEN role IS NOT NULL THEN 'Role' END",
    "userIdentity.sessionContext.sessionIssuer.userName": "role",
    "requestParameters.keyId": f"CASE WHEN NOT {_OF_ALIAS} THEN key_name END",
    "requestParameters.targetKeyId": f"CASE WHEN {_OF_ALIAS} THEN key_name END",
    "requestParameters.aliasName": "alias_name",
    "requestParameters.keySpec": "key_spec",
    "requestParameters.policy": "policy",
    "requestParameters.granteePrincipal": "grantee",
    "requestParameters.grantId": "CASE WHEN event_name <> 'CreateGrant' THEN grant_id END",
    "responseElements.grantId": "CASE WHEN event_name = 'CreateGrant' THEN grant_id END",
    "responseElements.deletionDate": "strftime(deletion_date, '%Y-%m-%dT%H:%M:%SZ')",
    "additionalEventData.keyMaterialId": "key_material_id",
    f"{_KEYTRAIL}.log": "log",
    f"{_KEYTRAIL}.sequence": "record::VARCHAR",
    f"{_KEYTRAIL}.phase": "phase",
    f"{_KEYTRAIL}.wireError": "wire_error",
    f"{_KEYTRAIL}.identityProof": "identity_proof",
    f"{_KEYTRAIL}.backend": "backend",
    f"{_KEYTRAIL}.topology": "topology",
    f"{_KEYTRAIL}.peer": "peer",
    f"{_KEYTRAIL}.effect": "effect",
    f"{_KEYTRAIL}.latencyMicros": "latency_us::VARCHAR",
    f"{_KEYTRAIL}.upstream.host": "upstream_host",
    f"{_KEYTRAIL}.upstream.status": "upstream_status::VARCHAR",
    f"{_KEYTRAIL}.deniedBy.policy": "denied_policy",
    f"{_KEYTRAIL}.deniedBy.statement": "denied_statement",
}
#: Names of which an event has several values; a condition holds where one of them satisfies it.
LISTS: Mapping[str, str] = {
    "resources.ARN": "keys",
    "resources.accountId": "[split_part(arn, ':', 5) FOR arn IN keys]",
    "requestParameters.grantTokens": "grant_tokens",
    f"{_KEYTRAIL}.fingerprintsIn": "fingerprints_in",
    f"{_KEYTRAIL}.fingerprintsOut": "fingerprints_out",
}
#: Names that go on with the name of a pair.
CONTEXTS: Mapping[str, str] = {
    "requestParameters.encryptionContext.": "context",
    "requestParameters.sourceEncryptionContext.": "source_context",
    "requestParameters.destinationEncryptionContext.": "destination_context",
}


def sql_of(name: str) -> str | None:
    """The SQL for a field of one value; None where the events do not have it."""
    if name in FIELDS:
        return f"({FIELDS[name]})"
    for prefix, column in CONTEXTS.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return f"{column}[{literal(name.removeprefix(prefix))}]"
    return None


def literal(text: str) -> str:
    """`text` as a literal of SQL, in which nothing but a quote is special."""
    return "'" + text.replace("'", "''") + "'"
