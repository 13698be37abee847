"""ListGrants, ListRetirableGrants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.backends.local.granting import invalid, read_party
from proxy.backends.local.grants import Grant
from proxy.backends.local.lookup import managed_key
from proxy.backends.local.pages import page
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import key_arn, partition_of
from proxy.kms.principals import known_as, root_arn


def list_grants(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key = managed_key(around, tables, call, call.parameters["KeyId"])
    grant_id, grantee = call.parameters.get("GrantId"), _filter(call, "Grantee")

    def after(last: str) -> Iterator[Grant]:
        if grant_id is not None:  # one at most
            found = tables.find_grant(key.region, grant_id)
            grants = iter(() if found is None or found.key_id != key.id or found.id <= last else (found,))
        else:
            grants = tables.all_grants.of(key, last)
        return (grant for grant in grants if grantee is None or grant.grantee == grantee)

    of = " ".join((key.id, grant_id or "", grantee or ""))
    grants, more = page(call, after, lambda grant: grant.id, of=of, default=50, most=100)
    return Answer({"Grants": [_entry(grant) for grant in grants], **more}, (key.meant,))


def list_retirable_grants(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    """About a principal, not a key: AWS asks for permission on the principal, which must be of the caller's account."""
    retiring = _filter(call, "Retiring")
    if retiring is None:
        raise invalid("Specify either RetiringPrincipal or RetiringServicePrincipal.")
    if retiring.split(":", 5)[4] != call.principal.account_id:
        raise KmsError(
            "AccessDeniedException",
            f"User: {call.principal.arn} is not authorized to perform: kms:ListRetirableGrants on resource: {retiring}",
        )
    around.authoriser.check(tables, call, "kms:ListRetirableGrants", None)
    now_s = around.clock()

    def is_there(grant: Grant) -> bool:
        key = tables.find_key(grant.account_id, grant.region, grant.key_id)
        return key is not None and not key.is_gone(now_s)

    grants, more = page(
        call,
        lambda last: (
            one for one in tables.all_grants.retirable(call.region, known_as(retiring)) if one.id > last and is_there(one)
        ),
        lambda grant: grant.id,
        of=retiring,
        default=50,
        most=100,
    )
    return Answer({"Grants": [_entry(grant) for grant in grants], **more})


def _filter(call: KmsCall, role: str) -> str | None:
    party = read_party(call, role)
    if party is not None and party.is_service:  # API reference: "only usable by callers in a service principal"
        raise KmsError("AccessDeniedException", f"{role}ServicePrincipal can be used by callers of AWS services only.")
    return None if party is None else party.name


def _entry(grant: Grant) -> dict[str, Any]:
    """GrantListEntry, with the members that AWS returns for such a grant."""
    entry: dict[str, Any] = {
        "KeyId": key_arn(grant.region, grant.account_id, grant.key_id),
        "GrantId": grant.id,
        "Name": grant.name,
        "CreationDate": grant.created_s,
        "GranteeServicePrincipal" if grant.grantee_is_service else "GranteePrincipal": grant.grantee,
        "IssuingAccount": root_arn(partition_of(grant.region), grant.issuer),
        "Operations": list(grant.operations),
    }
    if grant.retiring is not None:
        entry["RetiringServicePrincipal" if grant.retiring_is_service else "RetiringPrincipal"] = grant.retiring
    if grant.constraints:
        entry["Constraints"] = grant.constraints
    return entry


READINGS = {"ListGrants": list_grants, "ListRetirableGrants": list_retirable_grants}
