"""What AWS's answer tells of a call: its members, the keys that were used, its refusal. Pure.

The body goes to the client as it is; what is read here is for the record. So an answer that cannot be read is a fault, and is not
passed on: nobody could say afterwards what was in it.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.backends.aws.transport import UpstreamResponse
from proxy.domain import Answer, Forwarded, KeyUse, KmsCall, Members, Upstream
from proxy.errors import KmsError
from proxy.kms.arn import ALIAS_PREFIX, alias_arn, key_arn

#: Headers between two hosts (RFC 9110 §7.6.1), and those that keytrail sets itself.
_NOT_FORWARDED = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "date",
        "x-amzn-requestid",
        "x-keytrail-receipt",  # of a keytrail behind this one; ours stands in the answer
    ]
)
#: Members of answers, in the order of `resources`: ReEncrypt names its source first.
_KEY_MEMBERS = (("SourceKeyId", "SourceKeyMaterialId"), ("KeyId", "KeyMaterialId"))
#: What AWS says of credentials; here it is about keytrail's own, and not the client's to mend.
_ABOUT_CREDENTIALS = frozenset(
    (
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    )
)


def read_answer(call: KmsCall, response: UpstreamResponse, asked: Upstream, account_id: str) -> Answer:
    """The answer in `response` to `call`; `asked` says whom, and how often. `account_id` owns the keys that ids without an
    account name. Raises KmsError for AWS's refusals and for what is no answer."""
    headers = dict(response.headers)
    request_id = headers.get(b"x-amzn-requestid")
    upstream = Upstream(
        asked.host, asked.attempts, response.status, None if request_id is None else _text(request_id, 128), asked.failures
    )
    document = _document(response.body)
    if document is None or not (200 <= response.status < 300 or 400 <= response.status < 600):
        raise KmsError(
            "KMSInternalException",
            f"{asked.host} answered {response.status} with what is no answer of KMS.",
            status=500,
            keys=meant_keys(call, account_id),
            upstream=upstream,
            effect_unknown=call.operation.mutates,
        )
    forwarded = Forwarded(response.body, _forwarded(response.headers))
    if response.status < 300:
        return Answer(document, _used_keys(call, document, account_id), _aliases(call, account_id), upstream, forwarded)
    code, message = error_of(document, headers)
    raise KmsError(
        code,
        message,
        status=response.status,
        keys=meant_keys(call, account_id),
        upstream=upstream,
        forwarded=forwarded,
        effect_unknown=call.operation.mutates and response.status >= 500,
    )


def about_our_credentials(refusal: KmsError) -> bool:
    """Whether AWS refused the credentials that a call was signed with."""
    return refusal.code in _ABOUT_CREDENTIALS


def error_of(document: Members, headers: dict[bytes, bytes]) -> tuple[str, str | None]:
    """Code and message of an error: ``com.amazonaws.kms#DisabledException`` is DisabledException. Of the message the first line:
    AWS may quote the canonical request in those that follow, and with it a session token."""
    told = document.get("__type") or document.get("code") or headers.get(b"x-amzn-errortype", b"").decode("latin-1")
    code = str(told).rpartition("#")[2].partition(":")[0][:128]
    message = document.get("message", document.get("Message"))
    return code or "UnknownError", None if message is None else str(message).partition("\n")[0]


def meant_keys(call: KmsCall, account_id: str) -> tuple[KeyUse, ...]:
    """The keys that the request names by id or ARN. What an alias stands for only AWS knows."""
    named = (call.parameters.get(member) for member in (*call.operation.key_members, "TargetKeyId"))
    arns = [_key_arn(name, call.region, account_id) for name in named if isinstance(name, str)]
    return tuple(_use(arn) for arn in dict.fromkeys(arns) if arn is not None)


def _used_keys(call: KmsCall, document: Members, account_id: str) -> tuple[KeyUse, ...]:
    """The keys that the answer names, or else those that the request names."""
    used: list[KeyUse] = []
    for member, material in _KEY_MEMBERS:
        arn = document.get(member)
        if isinstance(arn, str) and (whole := _key_arn(arn, call.region, account_id)) is not None:
            if member == "KeyId" and used:  # ReEncrypt
                material = "DestinationKeyMaterialId"
            told = document.get(material)
            used.append(_use(whole, told if isinstance(told, str) else None))
    metadata = document.get("KeyMetadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("Arn"), str):
        used.append(_use(metadata["Arn"]))
    return tuple(used) or meant_keys(call, account_id)


def _aliases(call: KmsCall, account_id: str) -> tuple[str, ...]:
    name = call.parameters.get("AliasName")
    if call.operation.mutates and isinstance(name, str) and name.startswith(ALIAS_PREFIX):
        return (alias_arn(call.region, account_id, name),)
    return ()


def _key_arn(name: str, region: str, account_id: str) -> str | None:
    """The key ARN for a key id or a key ARN; None for an alias, and for what is neither."""
    if name.startswith("arn:"):
        return name if ":key/" in name else None
    return None if name.startswith(ALIAS_PREFIX) or not name else key_arn(region, account_id, name)


def _use(arn: str, material_id: str | None = None) -> KeyUse:
    parts = arn.split(":", 5)
    return KeyUse(arn, parts[4] if len(parts) == 6 else "", material_id)


def _document(body: bytes) -> dict[str, Any] | None:
    """The body's JSON object; an empty body is an empty one. None for anything else."""
    if not body:
        return {}
    try:
        document = orjson.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _forwarded(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[str, str], ...]:
    told = ((name.decode("latin-1"), value) for name, value in headers)
    return tuple((name, value.decode()) for name, value in told if name not in _NOT_FORWARDED and value.isascii())


def _text(value: bytes, limit: int) -> str:
    return value[:limit].decode("ascii", "replace")
