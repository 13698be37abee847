"""The command `keytrail explain`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from audit.errors import AuditError
from audit.instance import Instance
from audit.query.render import clean
from proxy import settings
from proxy.errors import ProxyError
from proxy.explaining.answer import NotAsked, Question, lines_of
from proxy.explaining.explain import explain
from proxy.opening import open_store
from proxy.sealed_store import SealedStore

app = typer.Typer()


@app.command("explain")
def command(
    caller: Annotated[str, typer.Option("--caller", help="The ARN of a user or of a role's session, or an access key id.")],
    action: Annotated[
        str, typer.Option("--action", help="kms:Decrypt, kms:CreateKey, sts:AssumeRole, cloudtrail:LookupEvents, …")
    ],
    key: Annotated[
        str | None, typer.Option("--key", help="Key id, key ARN, alias name or alias ARN; none for CreateKey and the like.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", help="A pair of the encryption context, name=value; may be repeated.")
    ] = None,
    source_ip: Annotated[str, typer.Option("--source-ip", help="The client's address.")] = "",
    grant_token: Annotated[list[str] | None, typer.Option("--grant-token", help="May be repeated.")] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="For kms:CreateAlias and its kin: the alias's name.")] = None,
    grant: Annotated[str | None, typer.Option("--grant", help="For kms:RetireGrant: the grant's id.")] = None,
    role: Annotated[str | None, typer.Option("--role", help="For sts:AssumeRole and its kin: the role's ARN.")] = None,
    session_name: Annotated[str | None, typer.Option("--session-name", help="For a role: the new session's name.")] = None,
    external_id: Annotated[str | None, typer.Option("--external-id", help="For a role: the external id that is sent.")] = None,
    source_identity: Annotated[
        str | None, typer.Option("--source-identity", help="For a role: the source identity that is to be set.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="For a role: a session tag, name=value; may be repeated.")
    ] = None,
    trail: Annotated[
        str | None, typer.Option("--trail", help="For cloudtrail:GetTrail and its kin: the trail's name or ARN.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="[default: the key's, or the instance's]")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="The data folder [default: ./keytrail-data].")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The settings file [default: config/keytrail.toml].")] = None,
) -> None:
    """Tell which guardrail, statement or grant decides whether a caller may do something, and what else was looked at.

    Exits 1 for denied, and 2 where there is no such caller, key or role.

    A key that is named by an alias is asked about as a call by that alias would ask."""
    in_arn = key.split(":")[3] if key is not None and key.count(":") >= 5 else None
    store: SealedStore | None = None
    try:
        parameters: dict[str, Any] = {  # Any: members of a request
            "AliasName": alias,
            "GrantId": grant,
            "GrantTokens": list(grant_token or ()),
            "RoleArn": role,
            "RoleSessionName": session_name,
            "ExternalId": external_id,
            "SourceIdentity": source_identity,
            "Tags": [{"Key": name, "Value": value} for name, value in _pairs("--tag", tag).items()],
            "Name": trail,
        }
        chosen = settings.load(config, os.environ, data=data)
        instance = Instance.load(chosen.data)
        question = Question(
            caller,
            action,
            region or in_arn or instance.region,
            {name: value for name, value in parameters.items() if value},
            time.time_ns() // 1_000,
            key,
            _pairs("--context", context),
            source_ip,
        )
        store = open_store(instance, chosen)
        found = explain(store, question, chosen)
    except (ProxyError, AuditError, OSError) as error:
        typer.echo(f"keytrail: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, NotAsked) else 3) from error
    finally:
        if store is not None:
            store.close()
    told = [orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2).decode()] if json else map(clean, lines_of(found))
    for line in told:
        typer.echo(line)
    raise typer.Exit(0 if found.is_allowed else 1)


def _pairs(option: str, words: Iterable[str] | None) -> dict[str, str]:
    """Raises NotAsked for what is no pair."""
    found = [word.partition("=") for word in words or ()]
    if not all(name and divider for name, divider, _ in found):
        raise NotAsked(f"{option} is name=value")
    return {name: value for name, _, value in found}
