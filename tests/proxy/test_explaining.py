"""`keytrail explain` and `keytrail caller policy`: what decides, what else was looked at, and who may be given what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit.instance import ADMIN_LOG, Instance
from proxy import settings
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grants import Grant
from proxy.cli import app
from proxy.host import Host, initialise
from tests.proxy.local.policies import document, of_account, statement

DEMO, ALICE = "arn:aws:iam::111122223333:user/demo", "arn:aws:iam::111122223333:user/alice"
ROLE, SESSION = "arn:aws:iam::111122223333:role/reader", "arn:aws:sts::111122223333:assumed-role/reader/s1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new data folder."""
    for name in ("KEYTRAIL_CONFIG", "KEYTRAIL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    initialise(settings.Settings(data=tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def host(folder: Path) -> Iterator[Host]:
    """That folder, open: commands that change something have to wait for it to be closed."""
    with Host(Instance.load(folder), settings.Settings(data=folder)) as opened:
        yield opened


def run(place: Host | Path, *words: str) -> Result:
    data = place if isinstance(place, Path) else place.instance.data
    return CliRunner().invoke(app, [*words, "--data", str(data)])


def held(folder: Path, owner: str) -> Mapping[str, str]:
    with Host(Instance.load(folder), settings.Settings(data=folder)) as opened:
        return opened.permissions.held().of(owner)


def demos_access_key(folder: Path) -> str:
    with Host(Instance.load(folder), settings.Settings(data=folder)) as opened:
        return next(one.principal.access_key_id for one in opened.callers.list())


def explained(host: Host, exit_code: int, *words: str) -> dict[str, Any]:
    result = run(host, "explain", *words, "--json")
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["allowed"] is (exit_code == 0)
    return found


def key_of(host: Host) -> str:
    found: str = host.call("DescribeKey", {"KeyId": "alias/demo"}).members["KeyMetadata"]["Arn"]
    return found


def policy_file(folder: Path, name: str, *statements: dict[str, Any]) -> str:
    path = folder / f"{name}.json"
    path.write_text(document(*statements))
    return str(path)


def events(folder: Path) -> list[dict[str, Any]]:
    logs = Instance.load(folder).log_folder(ADMIN_LOG)
    lines = [line for path in sorted(logs.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


# --- explain ------------------------------------------------------------------------------------------------------------


def test_it_names_the_statement_that_allows(host: Host) -> None:
    key = key_of(host)
    found = explained(host, 0, "--caller", DEMO, "--action", "kms:decrypt", "--key", "alias/demo")
    assert (found["action"], found["resource"]) == ("kms:Decrypt", key)
    assert found["allowed_by"] == {"policy": "KMSFullAccess", "statement": "KMSFullAccess"}
    assert found["considered"] == [
        {"name": "KMSFullAccess, statement KMSFullAccess", "effect": "Allow", "why": "applies"},
        {
            "name": "key policy, statement Enable IAM User Permissions",
            "effect": "Allow",
            "why": "applies: it leaves it to the identity policies of the caller's account",
        },
    ]
    told = run(host, "explain", "--caller", DEMO, "--action", "kms:Decrypt", "--key", key)
    assert told.stdout.startswith(
        f"ALLOWED: {DEMO} may kms:Decrypt on {key}, by KMSFullAccess, statement KMSFullAccess\nlooked at:\n"
    )


def test_the_guardrails_are_asked_first(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, key = tmp_path / "policies", key_of(host)
    folder.mkdir()
    condition = {"StringNotLike": {"kms:EncryptionContext:tenant": "?*"}}
    policy_file(folder, "10-tenant", statement("Deny", "kms:Decrypt", Sid="NameTheTenant", Condition=condition))
    policy_file(
        folder, "20-network", statement("Deny", "kms:Encrypt", Condition={"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
    )
    monkeypatch.setenv("KEYTRAIL_POLICIES", str(folder))
    ask = ("--caller", DEMO, "--key", key, "--action")
    assert explained(host, 0, *ask, "kms:Decrypt", "--context", "tenant=acme")["denied_by_guardrail"] is None
    found = explained(host, 1, *ask, "kms:Decrypt")
    assert found["denied_by_guardrail"] == {"policy": "10-tenant.json", "statement": "NameTheTenant"}
    assert (found["allowed_by"], found["in_doubt"]) == (None, [])
    assert "explicit deny in the guardrail 10-tenant.json, statement NameTheTenant" in found["message"]
    assert [(one["name"], one["why"]) for one in found["considered"][:3]] == [
        ("guardrail 10-tenant.json, statement NameTheTenant", "applies"),
        ("guardrail 20-network.json, statement 1", "not about this action"),
        ("KMSFullAccess, statement KMSFullAccess", "applies"),
    ]
    told = run(host, "explain", *ask, "kms:Decrypt")
    assert "\nby the guardrail 10-tenant.json, statement NameTheTenant\n" in told.stdout
    assert explained(host, 1, *ask, "kms:Encrypt")["in_doubt"] == ["aws:SourceIp"]
    assert explained(host, 0, *ask, "kms:Encrypt", "--source-ip", "10.1.2.3")["in_doubt"] == []
    # Of the two actions of ReEncrypt each is asked about by itself, and so is a tag of an existing key.
    for action in ("kms:ReEncryptFrom", "kms:TagResource"):
        assert explained(host, 0, *ask, action)["denied_by_guardrail"] is None


def test_it_names_the_statement_that_denies_and_the_condition_that_is_not_met(host: Host) -> None:
    key = key_of(host)
    condition = {"StringEquals": {"kms:EncryptionContext:tenant": "acme"}}
    own = statement(action="kms:Decrypt", Sid="Acme", Condition=condition)
    host.put_policy(DEMO, "own", document(own, statement("Deny", "kms:Encrypt", Sid="No"), statement(action="kms:CreateKey")))
    ask = ("--caller", DEMO, "--key", key, "--action")
    assert explained(host, 0, *ask, "kms:Decrypt", "--context", "tenant=acme")["allowed_by"]["statement"] == "Acme"
    found = explained(host, 1, *ask, "kms:Decrypt", "--context", "tenant=other")
    assert found["message"].endswith("because no identity-based policy allows the kms:Decrypt action")
    assert [one["why"] for one in found["considered"][:3]] == [
        "its condition StringEquals on kms:EncryptionContext:tenant is not met",
        "not about this action",
        "not about this action",
    ]
    told = run(host, "explain", *ask, "kms:Encrypt")
    assert told.exit_code == 1
    assert "with an explicit deny in an identity-based policy\nby own, statement No\n" in told.stdout
    assert explained(host, 0, "--caller", DEMO, "--action", "kms:CreateKey")["resource"] == "*"


def test_what_is_not_known_is_named(host: Host) -> None:
    deny = statement("Deny", "kms:Decrypt", Condition={"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
    host.put_policy(DEMO, "own", document(statement(), deny))
    ask = ("--caller", DEMO, "--action", "kms:Decrypt", "--key", "alias/demo")
    assert explained(host, 1, *ask)["in_doubt"] == ["aws:SourceIp"]
    assert explained(host, 0, *ask, "--source-ip", "10.1.2.3")["in_doubt"] == []
    assert explained(host, 1, *ask, "--source-ip", "192.0.2.1")["in_doubt"] == []


def put_grant(host: Host, number: str, *operations: str, **members: Any) -> str:
    """The id of a grant of the key `alias/demo` to the user demo."""
    region, account_id, name = key_of(host).split(":")[3:]
    made = Grant(
        number * 64,
        region,
        name.removeprefix("key/"),
        account_id,
        account_id,
        DEMO,
        operations,
        token_key=bytes(32),
        **{"created_s": 1.0, **members},
    )
    with host.permissions._store.change() as tx:
        KeysInChange(tx).put_grant(made)
    return made.id


def test_it_names_the_grant_that_allows(host: Host) -> None:
    key = key_of(host)
    host.put_policy(DEMO, "own", document(statement(action="sqs:*")))
    grant = put_grant(host, "a", "Decrypt")
    found = explained(host, 0, "--caller", DEMO, "--action", "kms:Decrypt", "--key", key)
    assert found["allowed_by"] == {"grant": grant}
    assert found["considered"][-1] == {"name": f"grant {grant}", "effect": "Allow Decrypt", "why": "applies"}
    assert explained(host, 1, "--caller", DEMO, "--action", "kms:Encrypt", "--key", key)


def test_it_says_of_each_grant_why_it_does_not_decide(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ("--caller", DEMO, "--key", "alias/demo", "--action")
    host.put_policy(DEMO, "own", document(statement(action="kms:Encrypt")))
    on_context = {"EncryptionContextSubset": {"tenant": "acme"}}
    put_grant(host, "a", "Decrypt", constraints=on_context)
    put_grant(host, "b", "Encrypt", "CreateGrant", constraints=on_context)
    put_grant(host, "c", "Decrypt", constraints={"SourceArn": "arn:aws:s3:us-east-1:111122223333:bucket"})
    put_grant(host, "d", "Decrypt", created_s=time.time())

    def told(*words: str, exit_code: int) -> dict[str, str]:
        considered = explained(host, exit_code, *words)["considered"]
        return {one["name"][-1]: one["why"] for one in considered if one["name"].startswith("grant ")}

    not_met, no_service = (
        "its constraints on the encryption context are not met",
        "its constraint SourceArn is met by calls of AWS services alone",
    )
    monkeypatch.setenv("KEYTRAIL_GRANT_DELAY_S", "300")
    assert told(*ask, "kms:Decrypt", "--context", "tenant=globex", exit_code=1) == {
        "a": not_met,
        "b": "not about this action",
        "c": no_service,
        "d": "it is not in effect yet, but for calls with its token",
    }
    assert told(*ask, "kms:Decrypt", "--context", "tenant=acme", exit_code=0)["a"] == "applies"
    assert told(*ask, "kms:Encrypt", "--context", "tenant=acme", exit_code=0)["b"] == "another word decides"
    assert told(*ask, "kms:CreateGrant", exit_code=1)["b"] == "a new grant without its constraints would be wider than it"


def test_who_may_retire_a_grant_the_grant_itself_says(host: Host) -> None:
    host.put_policy(DEMO, "own", document(statement(action="kms:Encrypt")))
    own, other = put_grant(host, "a", "Decrypt", "RetireGrant"), put_grant(host, "b", "Decrypt")
    ask = ("--caller", DEMO, "--key", "alias/demo", "--action", "kms:RetireGrant")
    found = explained(host, 0, *ask, "--grant", own)
    assert found["allowed_by"] == {"grant": own}
    assert found["considered"][-1] == {"name": f"grant {own}", "effect": "Allow RetireGrant of itself", "why": "applies"}
    assert explained(host, 1, *ask, "--grant", other)["considered"][-1]["why"] == "it does not let the caller retire it"
    host.put_policy(DEMO, "own", document(statement(action="kms:RetireGrant")))
    assert explained(host, 0, *ask, "--grant", other)["considered"][-1]["why"] == "another word decides"
    for words, told in (((), "name it by --grant"), (("--grant", "c" * 64), f"the key has no grant {'c' * 64}")):
        result = run(host, "explain", *ask, *words)
        assert result.exit_code == 2 and told in result.stderr


def test_callers_are_asked_about_by_access_key_or_before_they_have_one(host: Host) -> None:
    [demo] = host.callers.list()
    found = explained(host, 0, "--caller", demo.principal.access_key_id, "--action", "kms:ListKeys")
    assert (found["caller"], found["remarks"]) == (DEMO, [])
    host.put_policy(ROLE, "own", document(statement(action="kms:ListKeys")))
    found = explained(host, 0, "--caller", SESSION, "--action", "kms:ListKeys")
    assert found["remarks"] == [f"{SESSION} has policies and no access key: nobody can call as it yet"]
    assert explained(host, 1, "--caller", SESSION, "--action", "kms:GenerateRandom")


def test_whoever_there_is_not_is_told_to_be_none(host: Host) -> None:
    for nobody in (ALICE, SESSION, "arn:aws:iam::111122223333:root", "arn:aws:iam::999999999999:user/demo"):
        result = run(host, "explain", "--caller", nobody, "--action", "kms:Decrypt", "--key", "alias/demo")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"keytrail: there is no caller {nobody} here: ")
    host.add_role(ROLE, trust_of(DEMO), 3_600, replace=False)
    found = explained(host, 0, "--caller", SESSION, "--action", "kms:ListKeys")
    assert found["remarks"] == [
        "of a session without tags and source identity: one that has some is asked about by its access key id"
    ]


def test_that_a_callers_access_key_is_disabled_is_told(host: Host) -> None:
    [demo] = host.callers.list()
    host.disable_caller(demo.principal.access_key_id)
    for caller in (DEMO, demo.principal.access_key_id):
        [remark] = explained(host, 0, "--caller", caller, "--action", "kms:ListKeys")["remarks"]
        assert remark.endswith("its calls are refused")
        assert f"{remark}\nlooked at:\n" in run(host, "explain", "--caller", caller, "--action", "kms:ListKeys").stdout
    host.rotate_caller(demo.principal.access_key_id, "demo", keep_old=True)
    assert explained(host, 0, "--caller", DEMO, "--action", "kms:ListKeys")["remarks"] == []


# --- of STS, and of CloudTrail's API ------------------------------------------------------------------------------------


def trust_of(caller: str, **members: Any) -> str:
    made = {"Effect": "Allow", "Principal": {"AWS": caller}, "Action": ["sts:AssumeRole", "sts:TagSession"], **members}
    return json.dumps({"Version": "2012-10-17", "Statement": [made]})


def test_a_roles_trust_policy_decides_who_may_assume_it(host: Host) -> None:
    host.add_role(ROLE, trust_of(DEMO, Sid="Demo"), 3_600, replace=False)
    host.callers.add(ALICE)
    found = explained(host, 0, "--caller", DEMO, "--action", "sts:assumerole", "--role", ROLE)
    policy = f"trust policy of {ROLE}"
    assert (found["action"], found["resource"]) == ("sts:AssumeRole", ROLE)
    assert found["allowed_by"] == {"policy": policy, "statement": "Demo"}
    assert found["considered"] == [{"name": f"{policy}, statement Demo", "effect": "Allow", "why": "applies"}]
    found = explained(host, 1, "--caller", ALICE, "--action", "sts:AssumeRole", "--role", ROLE)
    assert found["message"] == f"User: {ALICE} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
    assert found["considered"][0]["why"] == "not about this caller"


def test_what_an_assume_role_sends_is_asked_for(host: Host) -> None:
    condition = {"StringEquals": {"sts:ExternalId": "42"}, "StringLike": {"sts:RoleSessionName": "run-*"}}
    host.add_role(ROLE, trust_of(DEMO, Condition=condition), 3_600, replace=False)
    ask = ("--caller", DEMO, "--role", ROLE, "--action")
    sent = ("--external-id", "42", "--session-name", "run-1")
    assert explained(host, 0, *ask, "sts:AssumeRole", *sent)["in_doubt"] == []
    found = explained(host, 1, *ask, "sts:AssumeRole", "--external-id", "43", "--session-name", "run-1")
    assert found["considered"][0]["why"] == "its condition StringEquals on sts:ExternalId is not met"
    found = explained(host, 1, *ask, "sts:AssumeRole", "--external-id", "42")
    assert found["in_doubt"] == ["sts:RoleSessionName"]
    assert explained(host, 0, *ask, "sts:TagSession", *sent, "--tag", "team=a")["action"] == "sts:TagSession"
    assert explained(host, 1, *ask, "sts:SetSourceIdentity", *sent, "--source-identity", "me")["considered"] == [
        {"name": f"trust policy of {ROLE}, statement 1", "effect": "Allow", "why": "not about this action"}
    ]


def test_a_trust_policys_denial_is_named(host: Host) -> None:
    allow = json.loads(trust_of(DEMO))["Statement"][0]
    deny: dict[str, Any] = {"Sid": "NotFromOutside", "Effect": "Deny", "Principal": "*", "Action": "sts:*"}
    deny["Condition"] = {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    host.add_role(ROLE, json.dumps({"Version": "2012-10-17", "Statement": [allow, deny]}), 3_600, replace=False)
    ask = ("--caller", DEMO, "--role", ROLE, "--action", "sts:AssumeRole")
    told = run(host, "explain", *ask, "--source-ip", "192.0.2.1")
    assert f"\nby trust policy of {ROLE}, statement NotFromOutside\nlooked at:\n" in told.stdout
    assert explained(host, 1, *ask)["in_doubt"] == ["aws:SourceIp"]
    assert explained(host, 0, *ask, "--source-ip", "10.1.2.3")


def test_of_session_tokens_no_policy_is_asked(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add_role(ROLE, trust_of(DEMO), 3_600, replace=False)
    for action in ("sts:GetSessionToken", "sts:GetCallerIdentity"):
        told = run(host, "explain", "--caller", DEMO, "--action", action)
        assert (told.exit_code, told.stdout) == (0, f"ALLOWED: {DEMO} may {action} on *, as everybody may\n")
    assert explained(host, 0, "--caller", SESSION, "--action", "sts:GetCallerIdentity")["allowed_by"] == {}
    found = explained(host, 1, "--caller", SESSION, "--action", "sts:GetSessionToken")
    assert found["message"] == "Cannot call GetSessionToken with session credentials"
    folder = tmp_path / "policies"
    folder.mkdir()
    policy_file(folder, "no-sts", statement("Deny", "sts:*", Sid="No"))
    monkeypatch.setenv("KEYTRAIL_POLICIES", str(folder))
    denied = {"policy": "no-sts.json", "statement": "No"}
    assert explained(host, 1, "--caller", DEMO, "--action", "sts:GetSessionToken")["denied_by_guardrail"] == denied
    ask = ("--caller", DEMO, "--action", "sts:AssumeRole", "--role", ROLE)
    assert explained(host, 1, *ask)["denied_by_guardrail"] == denied
    assert explained(host, 0, "--caller", DEMO, "--action", "sts:GetCallerIdentity")["denied_by_guardrail"] is None


def test_cloudtrails_api_is_for_whom_it_is_given_to(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTRAIL_CLOUDTRAIL_API", "true")
    ask = ("--caller", DEMO, "--action")
    found = explained(host, 1, *ask, "cloudtrail:LookupEvents")
    assert (found["resource"], found["remarks"]) == ("*", [])
    assert found["message"].endswith("because no identity-based policy allows the cloudtrail:LookupEvents action")
    assert found["considered"] == [
        {"name": "KMSFullAccess, statement KMSFullAccess", "effect": "Allow", "why": "not about this action"}
    ]
    trail = "arn:aws:cloudtrail:us-east-1:111122223333:trail/keytrail"
    own = statement(action="cloudtrail:GetTrail*", Sid="One", Resource=trail)
    host.put_policy(DEMO, "own", document(statement(action="cloudtrail:LookupEvents", Sid="Look"), own))
    assert explained(host, 0, *ask, "cloudtrail:lookupevents")["allowed_by"] == {"policy": "own", "statement": "Look"}
    assert explained(host, 0, *ask, "cloudtrail:GetTrailStatus", "--trail", "keytrail")["resource"] == trail
    assert explained(host, 1, *ask, "cloudtrail:GetTrailStatus", "--trail", "other")["considered"][1]["why"] == (
        "not about this resource"
    )
    monkeypatch.delenv("KEYTRAIL_CLOUDTRAIL_API")
    [remark] = explained(host, 0, *ask, "cloudtrail:LookupEvents")["remarks"]
    assert "`cloudtrail_api` is false" in remark


# --- in front of AWS ----------------------------------------------------------------------------------------------------

AWS_KEY = "arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def test_in_front_of_aws_the_guardrails_alone_are_told_of(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    condition = {"Null": {"kms:EncryptionContext:tenant": "true"}}
    policy_file(folder, "10-tenant", statement("Deny", "kms:Decrypt", Sid="NameTheTenant", Condition=condition))
    monkeypatch.setenv("KEYTRAIL_POLICIES", str(folder))
    monkeypatch.setenv("KEYTRAIL_BACKEND", "aws")
    ask = ("--caller", DEMO, "--action", "kms:Decrypt", "--key", AWS_KEY)
    found = explained(host, 0, *ask, "--context", "tenant=a")
    assert (found["resource"], found["allowed_by"]) == (AWS_KEY, {"policy": "AWS"})
    assert "as far as the guardrails say: AWS decides\n" in run(host, "explain", *ask, "--context", "tenant=a").stdout
    assert explained(host, 1, *ask)["denied_by_guardrail"] == {"policy": "10-tenant.json", "statement": "NameTheTenant"}
    assert run(host, "explain", "--caller", ALICE, *ask[2:]).exit_code == 2
    assert run(host, "explain", "--caller", DEMO, "--action", "sts:AssumeRole", "--role", ROLE).exit_code == 2
    # Who is AWS's, AWS knows; whose an access key is, the map says.
    monkeypatch.setenv("KEYTRAIL_AWS_SIGNING", "pass-through")
    known = tmp_path / "access-keys.toml"
    known.write_text(f'[access_keys]\nAKIAIOSFODNN7EXAMPLE = "{ALICE}"\n')
    monkeypatch.setenv("KEYTRAIL_ACCESS_KEYS", str(known))
    for caller in (ALICE, "AKIAIOSFODNN7EXAMPLE"):
        assert explained(host, 0, "--caller", caller, *ask[2:], "--context", "tenant=a")["caller"] == ALICE


@pytest.mark.parametrize(
    "words",
    [
        ("--caller", DEMO, "--action", "kms:Frob"),
        ("--caller", "AKIANOBODY", "--action", "kms:ListKeys"),
        ("--caller", ROLE, "--action", "kms:ListKeys"),
        ("--caller", DEMO, "--action", "kms:Decrypt", "--key", "alias/none"),
        ("--caller", DEMO, "--action", "kms:Decrypt", "--key", "alias/demo", "--context", "tenant"),
        ("--caller", DEMO),
        ("--caller", DEMO, "--action", "sts:AssumeRole"),
        ("--caller", DEMO, "--action", "sts:AssumeRole", "--role", ROLE),
        ("--caller", DEMO, "--action", "sts:AssumeRole", "--role", "reader"),
        ("--caller", DEMO, "--action", "cloudtrail:GetTrail"),
        ("--caller", DEMO, "--action", "cloudtrail:PutEventSelectors"),
    ],
)
def test_what_cannot_be_asked_is_a_matter_of_usage(host: Host, words: tuple[str, ...]) -> None:
    assert run(host, "explain", *words).exit_code == 2


def test_it_changes_nothing(host: Host) -> None:
    before = {path: path.read_bytes() for path in host.instance.data.rglob("*") if path.is_file() and ".db" not in path.name}
    generation = host.callers._store.changes_since(0, ("key",)).generation
    explained(host, 0, "--caller", DEMO, "--action", "kms:Decrypt", "--key", "alias/demo")
    assert before == {path: path.read_bytes() for path in host.instance.data.rglob("*") if path in before}
    assert host.callers._store.changes_since(0, ("key",)).generation == generation


# --- caller policy ------------------------------------------------------------------------------------------------------


def test_policies_are_set_shown_and_taken_away_by_command(folder: Path, tmp_path: Path) -> None:
    path = policy_file(tmp_path, "read-only", statement(action="kms:Describe*"))
    assert run(folder, "caller", "policy", DEMO).stdout.endswith(f"{DEMO} has KMSFullAccess.\n")
    assert run(folder, "caller", "policy", DEMO, "--set", path).stdout == f"{DEMO} has read-only.\n"
    assert run(folder, "caller", "policy", DEMO, "--set", path, "--name", "more").stdout == f"{DEMO} has more, read-only.\n"
    shown = run(folder, "caller", "policy", DEMO, "--show").stdout
    assert shown.startswith(f"more:\n{Path(path).read_text()}\nread-only:\n")
    run(folder, "caller", "policy", demos_access_key(folder), "--remove", "more")
    assert held(folder, DEMO).keys() == {"read-only"}
    told = run(folder, "caller", "policy", DEMO, "--remove", "read-only")
    assert told.stdout == f"{DEMO} has no identity policy: only key policies and grants can allow it anything.\n"
    assert run(folder, "caller", "policy", DEMO, "--reset").stdout == f"{DEMO} has KMSFullAccess.\n"


def test_a_roles_policies_are_named_by_role_or_session(folder: Path, tmp_path: Path) -> None:
    path = policy_file(tmp_path, "own", statement())
    for arn in (SESSION, ROLE, ROLE.replace("role/", "role/teams/a/")):
        assert run(folder, "caller", "policy", arn, "--set", path).stdout == f"{ROLE} has own.\n"


def test_each_change_is_on_record_with_its_policy_and_each_refusal(folder: Path, tmp_path: Path) -> None:
    path = policy_file(tmp_path, "own", statement(action="kms:Encrypt"))
    before = len(events(folder))
    run(folder, "caller", "policy", DEMO, "--set", path)
    run(folder, "caller", "policy", DEMO, "--remove", "own")
    run(folder, "caller", "policy", DEMO, "--reset")
    assert run(folder, "caller", "policy", DEMO, "--remove", "own").exit_code == 3
    found = events(folder)[before:]
    assert [(one["eventName"], one["additionalEventData"]["keytrail"]["phase"], one.get("errorCode")) for one in found] == [
        (name, phase, code if phase == "outcome" else None)
        for name, code in (
            ("PutCallerPolicy", None),
            ("DeleteCallerPolicy", None),
            ("ResetCallerPolicies", None),
            ("DeleteCallerPolicy", "InvalidRequest"),
        )
        for phase in ("intent", "outcome")
    ]
    assert found[1]["requestParameters"] == {"principalArn": DEMO, "policyName": "own", "policy": Path(path).read_text()}
    assert found[1]["additionalEventData"]["keytrail"]["identityProof"] == "host-operator"


def test_a_caller_can_have_its_policies_before_it_has_an_access_key(folder: Path, tmp_path: Path) -> None:
    path = policy_file(tmp_path, "own", statement(action="kms:Encrypt"))
    assert run(folder, "caller", "add", ALICE, "--policy", path).exit_code == 0
    assert held(folder, ALICE).keys() == {"own"}
    other = policy_file(tmp_path, "other", statement())
    assert run(folder, "caller", "add", ALICE, "--policy", other).exit_code == 3  # it has an access key
    assert held(folder, ALICE).keys() == {"own"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        (document(of_account()), "Principal has no place in an identity policy"),
        (document(statement(action="Decrypt")), "'Decrypt' is no action"),
    ],
)
def test_what_is_no_identity_policy_is_refused(folder: Path, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(text)
    result = run(folder, "caller", "policy", DEMO, "--set", str(path))
    assert result.exit_code == 3 and told in result.stderr
    assert held(folder, DEMO).keys() == {"KMSFullAccess"}


def test_what_may_not_be_meant_is_told(folder: Path, tmp_path: Path) -> None:
    condition = {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}
    path = policy_file(tmp_path, "own", statement(action=["kms:Frob", "kms:Encrypt"], Condition=condition))
    result = run(folder, "caller", "policy", DEMO, "--set", path)
    assert result.exit_code == 0
    assert "own, statement 1: 'kms:Frob' is no action of KMS or CloudTrail that is known" in result.stderr
    assert "own, statement 1: no call here has the condition key aws:PrincipalOrgID" in result.stderr


def test_one_thing_at_a_time(folder: Path) -> None:
    for words in (("--reset", "--show"), ("--remove", "x", "--reset"), ("--name", "x")):
        assert run(folder, "caller", "policy", DEMO, *words).exit_code == 2
    assert run(folder, "caller", "policy", "AKIANOBODY").exit_code == 3


def test_the_hosts_own_calls_are_allowed_by_the_host(folder: Path) -> None:
    allowed = [
        one["additionalEventData"]["keytrail"].get("allowedBy") for one in events(folder) if one["eventName"] == "CreateAlias"
    ]
    assert allowed == [None, [{"policy": "host"}, {"policy": "host"}]]  # intent, outcome: alias and key
