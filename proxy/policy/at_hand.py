"""Condition keys of the key itself, of an attestation, of a session: the embedded KMS has them, a guardrail has not. Pure.

Source: as `proxy.policy.keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from proxy.policy import keys
from proxy.policy.access import CRYPTOGRAPHIC, KEY_ACTIONS, Access, AuthorizationRequest, KeyFacts
from proxy.policy.keys import ConditionKey, Read, Values
from proxy.policy.operators import Kind

_ATTESTATION = "kms:RecipientAttestation:"


def _of_key(find: Callable[[KeyFacts, str], tuple[str, ...]]) -> Read:
    return lambda request, access, suffix: () if request.key is None else find(request.key(), suffix)


def _resource_tag(key: KeyFacts, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for tag, value in key.tags.items() if tag.lower() == name.lower()))


def _principal_tag(request: AuthorizationRequest, access: Access, name: str) -> Values:
    """A tag of the caller's session; users and roles have none of their own here."""
    return tuple(value for tag, value in request.principal.tags if tag.lower() == name.lower())


def _source_identity(request: AuthorizationRequest, access: Access, _: str) -> Values:
    session = request.principal.session
    return () if session is None or session.source_identity is None else (session.source_identity,)


def _attested(request: AuthorizationRequest, access: Access, name: str) -> Values:
    """The measurement `name` (ImageSha384, PCR3) of who the answer is for."""
    if request.attested is None:
        return ()
    wanted = f"{_ATTESTATION}{name}".lower()
    return tuple(value for measured, value in request.attested.conditions.items() if measured.lower() == wanted)


_WITH_KEY = {
    "aws:sourceidentity": ConditionKey("aws:SourceIdentity", Kind.TEXT, _source_identity),
    "kms:resourcealiases": ConditionKey(
        "kms:ResourceAliases", Kind.TEXT, _of_key(lambda key, _: key.aliases()), multi=True, actions=KEY_ACTIONS
    ),
    "kms:multiregionkeytype": ConditionKey(
        "kms:MultiRegionKeyType",
        Kind.TEXT,
        _of_key(lambda key, _: () if key.multi_region_type is None else (key.multi_region_type,)),
        actions=KEY_ACTIONS,
    ),
    "aws:resourceaccount": ConditionKey(
        "aws:ResourceAccount", Kind.TEXT, _of_key(lambda key, _: (key.account_id,)), actions=KEY_ACTIONS
    ),
}
_WITH_KEY_BY_PREFIX = {
    "aws:principaltag/": ConditionKey("aws:PrincipalTag/", Kind.TEXT, _principal_tag),
    "aws:resourcetag/": ConditionKey("aws:ResourceTag/", Kind.TEXT, _of_key(_resource_tag), actions=KEY_ACTIONS),
    _ATTESTATION.lower(): ConditionKey(_ATTESTATION, Kind.TEXT, _attested, actions=CRYPTOGRAPHIC | {"kms:GenerateRandom"}),
}


@lru_cache(maxsize=1_024)
def find(name: str) -> tuple[ConditionKey, str] | None:
    """As `keys.find`, of a request whose key is at hand."""
    low = name.lower()
    if (row := _WITH_KEY.get(low)) is not None:
        return row, ""
    for prefix, row in _WITH_KEY_BY_PREFIX.items():
        if low.startswith(prefix) and len(name) > len(prefix):
            return row, name[len(prefix) :]
    return keys.find(name)
