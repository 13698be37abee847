"""CreateGrant, ListGrants, ListRetirableGrants, RetireGrant, RevokeGrant; and calls that a grant lets through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from botocore.session import get_session

from audit.record import AllowedBy
from proxy.backends.local import granting
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.granting import grant_operations
from proxy.backends.local.grants import GRANT, allowing
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.specs import SPECS
from proxy.backends.local.tables import View
from proxy.domain import KeyUse, KmsCall, Principal
from proxy.errors import KmsError
from proxy.sealed_store import Transaction
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, REGION, START_S, World, arn_of, call

OTHER = BOB.account_id
CAROL = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/carol", ACCOUNT, "AKIACAROL", "AIDACAROL", "carol")
SESSION = Principal("AssumedRole", f"arn:aws:sts::{ACCOUNT}:assumed-role/app/i-1", ACCOUNT, "ASIA", "AROA:i-1")
ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/app"
MINIMAL: dict[str, Any] = {"GranteePrincipal": CAROL.arn, "Operations": ["Decrypt"]}
SERVICE: dict[str, Any] = {
    "GranteeServicePrincipal": "storage.example.amazonaws.com",
    "RetiringServicePrincipal": "storage.example.amazonaws.com",
    "Operations": ["Decrypt"],
    "Constraints": {"SourceArn": f"arn:aws:s3:us-east-1:{ACCOUNT}:bucket"},
}
DENIED = "AccessDeniedException"
NOTHING_OR_DRY: tuple[dict[str, Any], ...] = ({}, {"DryRun": True})


class AliceOrGrants:
    """Alice may do everything with her account's keys; everybody else what grants say."""

    delay_s = 0.0
    world: World

    def check(self, view: View, call: KmsCall, action: str, key: Key | None) -> None:
        if key is None or (call.principal is ALICE and key.account_id == ALICE.account_id):
            return
        grant = allowing(view, call, action, key, self.world.clock(), self.delay_s)
        if grant is None:
            raise KmsError(DENIED, f"{call.principal.arn} may not {action}")
        call.allowed_by.append(AllowedBy(grant=grant.id))

    def check_policy(self, view: View, call: KmsCall, key: Key, *, bypass: bool) -> None:
        """Every policy will do."""


@pytest.fixture
def granted(tmp_path: Path) -> Iterator[World]:
    """A world in which grants count."""
    authoriser = AliceOrGrants()
    world = authoriser.world = World(tmp_path / "keystore.db", authoriser=authoriser)
    yield world
    world.close()


def entries(world: World, key: str, **members: Any) -> list[dict[str, Any]]:
    grants: list[dict[str, Any]] = world("ListGrants", KeyId=key, **members)["Grants"]
    return grants


def as_caller(world: World, caller: Principal) -> World:
    world.caller = caller
    return world


# --- CreateGrant


def test_a_grant_is_listed_with_the_members_that_aws_returns(world: World) -> None:
    key = world.new_key()
    constraints = {"EncryptionContextSubset": {"Department": "IT"}}
    full: dict[str, Any] = {"RetiringPrincipal": BOB.arn, "Name": "one", "Constraints": constraints}
    answer = world.ask("CreateGrant", KeyId=key, GranteePrincipal=ROLE, Operations=["Decrypt", "RetireGrant"], **full)
    assert answer.keys == (KeyUse(arn_of(key), ACCOUNT),)
    assert set(answer.members) == {"GrantId", "GrantToken"} and len(bytes.fromhex(answer.members["GrantId"])) == 32
    world.clock.now_s += 1
    bare, service = world("CreateGrant", KeyId=arn_of(key), **MINIMAL), world("CreateGrant", KeyId=key, **SERVICE)
    common = {"KeyId": arn_of(key), "IssuingAccount": f"arn:aws:iam::{ACCOUNT}:root"}
    listed = {entry["GrantId"]: entry for entry in entries(world, key)}
    assert listed == {
        answer.members["GrantId"]: {
            **common,
            **full,
            "GrantId": answer.members["GrantId"],
            "CreationDate": START_S,
            "GranteePrincipal": ROLE,
            "Operations": ["Decrypt", "RetireGrant"],
        },
        bare["GrantId"]: {**common, **MINIMAL, "GrantId": bare["GrantId"], "CreationDate": START_S + 1, "Name": ""},
        service["GrantId"]: {**common, **SERVICE, "GrantId": service["GrantId"], "CreationDate": START_S + 1, "Name": ""},
    }
    shape = get_session().get_service_model("kms").shape_for("GrantListEntry")
    model = getattr(shape, "members")  # noqa: B009 - botocore has no types for the kinds of shapes
    assert {member for entry in listed.values() for member in entry} == set(model)


def test_a_name_makes_a_retry_of_the_same_request_find_its_grant(world: World) -> None:
    key, other = world.new_key(), world.new_key()
    asked: dict[str, Any] = {
        **MINIMAL,
        "Operations": ["Decrypt", "Encrypt"],
        "Name": "n",
        "Constraints": {"EncryptionContextEquals": {"a": "1"}},
    }
    first = world("CreateGrant", KeyId=key, **asked)
    again = world("CreateGrant", KeyId=arn_of(key), **{**asked, "Operations": ["Encrypt", "Decrypt", "Encrypt"]})
    assert again["GrantId"] == first["GrantId"] and again["GrantToken"] != first["GrantToken"]
    different: list[dict[str, Any]] = [
        {"Operations": ["Decrypt"]},
        {"Constraints": {"EncryptionContextEquals": {"A": "1"}}},
        {"RetiringPrincipal": BOB.arn},
        {"GranteePrincipal": BOB.arn},
        {"Name": "n2"},
    ]
    made = {first["GrantId"]} | {world("CreateGrant", KeyId=key, **{**asked, **one})["GrantId"] for one in different}
    made.add(world("CreateGrant", KeyId=other, **asked)["GrantId"])
    assert len(made) == len(different) + 2
    assert len(entries(world, key)) == len(different) + 1
    world("RevokeGrant", KeyId=key, GrantId=first["GrantId"])
    assert world("CreateGrant", KeyId=key, **asked)["GrantId"] not in made


def test_a_name_is_of_one_account_that_makes_grants(granted: World) -> None:
    key = granted.new_key()
    granted("CreateGrant", KeyId=key, GranteePrincipal=BOB.arn, Operations=["Decrypt", "CreateGrant"])
    alices = granted("CreateGrant", KeyId=key, **MINIMAL, Name="n")["GrantId"]
    as_caller(granted, BOB)
    bobs = granted("CreateGrant", KeyId=arn_of(key), **MINIMAL, Name="n")["GrantId"]
    assert bobs != alices
    issuers = {entry["GrantId"]: entry["IssuingAccount"] for entry in entries(as_caller(granted, ALICE), key)}
    assert (issuers[alices], issuers[bobs]) == (f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:iam::{OTHER}:root")


def test_a_retry_that_reaches_another_worker_finds_the_grant(pair: tuple[World, World]) -> None:
    one, other = pair
    key = one.new_key()
    made = {(one, other)[n % 2]("CreateGrant", KeyId=key, **MINIMAL, Name="n")["GrantId"] for n in range(4)}
    assert len(made) == len(entries(one, key)) == len(entries(other, key)) == 1


@pytest.mark.parametrize("operation", ["CreateGrant", "RetireGrant", "RevokeGrant"])
def test_a_crash_before_the_commit_changes_no_grant(world: World, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.new_key()
    made = world("CreateGrant", KeyId=key, **MINIMAL)
    members = MINIMAL if operation == "CreateGrant" else {"GrantId": made["GrantId"]}

    def crash(_: Transaction) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "finish", crash)
        with pytest.raises(KeyboardInterrupt):
            world(operation, KeyId=key, **members)
    for opened in (world, World(world.path, world.clock)):
        assert [entry["GrantId"] for entry in entries(opened, key)] == [made["GrantId"]]
        opened("Encrypt", KeyId=key, Plaintext=b"x", GrantTokens=[made["GrantToken"]])
    opened.close()


def test_without_a_name_each_request_makes_a_grant(world: World) -> None:
    key = world.new_key()
    assert world("CreateGrant", KeyId=key, **MINIMAL)["GrantId"] != world("CreateGrant", KeyId=key, **MINIMAL)["GrantId"]


def _constraint(**pairs: str) -> dict[str, Any]:
    return {"Constraints": {"EncryptionContextSubset": pairs}}


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"Operations": ["CreateGrant"]}, "ValidationException", "Grants must not contain only the CreateGrant operation."),
        ({"Operations": ["CreateGrant"] * 2}, "ValidationException", "Grants must not contain only the CreateGrant operation."),
        ({"Operations": []}, "ValidationException", "at least one operation"),
        ({"Operations": ["Decrypt", "Sign"]}, "ValidationException", "Sign cannot be granted"),
        ({"Operations": ["GetPublicKey"]}, "ValidationException", "spec SYMMETRIC_DEFAULT and key usage ENCRYPT_DECRYPT"),
        ({"GranteePrincipal": None}, "ValidationException", "either GranteePrincipal or GranteeServicePrincipal"),
        ({"GranteeServicePrincipal": "a.b.amazonaws.com"}, "ValidationException", "exclude each other"),
        (
            {"RetiringPrincipal": BOB.arn, "RetiringServicePrincipal": "a.b.amazonaws.com"},
            "ValidationException",
            "exclude each other",
        ),
        ({**SERVICE, "GranteePrincipal": None, "Constraints": {}}, "ValidationException", "SourceArn"),
        ({**SERVICE, "GranteePrincipal": None, "RetiringServicePrincipal": None}, "ValidationException", "RetiringPrincipal"),
        (_constraint(**{str(n): "" for n in range(9)}), "ValidationException", "less than or equal to 8"),
        (_constraint(a="x" * 385), "ValidationException", "less than or equal to 384"),
        ({"RetiringPrincipal": "bob"}, "InvalidArnException", "ARN does not refer to a valid principal: bob"),
    ],
)
def test_what_create_grant_refuses(world: World, asked: Mapping[str, Any], code: str, message: str) -> None:
    key = world.new_key()
    members = {name: value for name, value in {**MINIMAL, **asked}.items() if value is not None}
    refusal = world.refused("CreateGrant", KeyId=key, **members)
    assert refusal.code == code and message in (refusal.message or "")
    assert entries(world, key) == []
    world("CreateGrant", KeyId=key, **{**MINIMAL, **_constraint(**{str(n): "x" * 384 for n in range(8)})})


@pytest.mark.parametrize(
    ("principal", "listed"),
    [
        (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root"),
        (f"arn:aws:iam::{OTHER}:root", None),
        (f"arn:aws:iam::{ACCOUNT}:user/a", None),
        (f"arn:aws:iam::{ACCOUNT}:user/path/to/a.b@c", None),
        (f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/storage.amazonaws.com/AWSServiceRoleForStorage", None),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/app/i-1", None),
        (f"arn:aws:sts::{ACCOUNT}:federated-user/bob", None),
    ],
)
def test_principals_that_can_be_grantees(world: World, principal: str, listed: str | None) -> None:
    key = world.new_key()
    world("CreateGrant", KeyId=key, Operations=["Decrypt"], GranteePrincipal=principal, RetiringPrincipal=principal)
    [entry] = entries(world, key, GranteePrincipal=principal)
    assert entry["GranteePrincipal"] == entry["RetiringPrincipal"] == (listed or principal)


@pytest.mark.parametrize(
    "principal",
    [
        "alice",
        "storage.amazonaws.com",
        "11112222333",
        f"arn:aws:iam::{ACCOUNT}:group/a",
        f"arn:aws:iam::{ACCOUNT}:user/",
        f"arn:aws:iam::{ACCOUNT}:user",
        f"arn:aws:iam::{ACCOUNT}:root/a",
        f"arn:aws:iam:us-east-1:{ACCOUNT}:user/a",
        "arn:aws:iam::1234:user/a",
        f"arn:aws:sts::{ACCOUNT}:assumed-role/app",
        f"arn:aws:sts::{ACCOUNT}:assumed-role/path/app/i-1",
        f"arn:aws-cn:iam::{ACCOUNT}:user/a",
        f"arn:aws:kms:us-east-1:{ACCOUNT}:key/a",
    ],
)
def test_what_is_no_principal(world: World, principal: str) -> None:
    refusal = world.refused("CreateGrant", KeyId=world.new_key(), **{**MINIMAL, "GranteePrincipal": principal})
    assert (refusal.code, refusal.message) == ("InvalidArnException", f"ARN does not refer to a valid principal: {principal}")


KINDS = [(spec.name, usage) for spec in SPECS.values() for usage in spec.algorithms if spec.name != "ML_KEM_512"]  # see CreateKey


@pytest.mark.parametrize(("spec", "usage"), KINDS)
def test_the_operations_that_each_kind_of_key_can_be_granted_for(world: World, spec: str, usage: str) -> None:
    key_id = world.new_key(KeySpec=spec, KeyUsage=usage)
    key = world.backend._tables.find_key(ACCOUNT, REGION, key_id)
    assert key is not None
    enum: list[str] = getattr(get_session().get_service_model("kms").shape_for("GrantOperation"), "enum")  # noqa: B009 - as above
    for operation in enum:
        asked: dict[str, Any] = {"GranteePrincipal": CAROL.arn, "Operations": [operation, "DescribeKey"]}
        if operation in grant_operations(key):
            world("CreateGrant", KeyId=key_id, **asked)
        else:
            refusal = world.refused("CreateGrant", KeyId=key_id, **asked)
            assert refusal.code == "ValidationException" and (refusal.message or "").startswith(f"{operation} cannot be granted")
            assert refusal.keys == (KeyUse(arn_of(key_id), ACCOUNT),)
    if spec != "SYMMETRIC_DEFAULT":
        on_context: dict[str, Any] = {"GranteePrincipal": CAROL.arn, "Operations": ["DescribeKey"], **_constraint(a="1")}
        assert world.refused("CreateGrant", KeyId=key_id, **on_context).code == "ValidationException"


def test_every_operation_of_the_service_model_can_be_granted_on_some_key() -> None:
    enum = getattr(get_session().get_service_model("kms").shape_for("GrantOperation"), "enum")  # noqa: B009 - as above
    assert set(enum) == granting._FOR_EVERY_KEY.union(granting._BY_SYMMETRIC, *granting._BY_OTHERS.values())
    assert set(granting._BY_OTHERS) == {usage for spec in SPECS.values() for usage in spec.algorithms}


def put_in_state(world: World, key_id: str, state: KeyState) -> None:
    with world.store.change() as tx:
        keys = KeysInChange(tx)
        key = keys.find_key(ACCOUNT, REGION, key_id)
        assert key is not None
        keys.alter_key(key, state=state.value)


@pytest.mark.parametrize("state", list(KeyState))
def test_a_keys_state_and_its_grants(world: World, state: KeyState) -> None:
    refusals = {
        KeyState.DISABLED: ("DisabledException", "is disabled."),
        KeyState.PENDING_DELETION: ("KMSInvalidStateException", "is pending deletion."),
        KeyState.PENDING_REPLICA_DELETION: ("KMSInvalidStateException", "is pending replica deletion."),
        KeyState.PENDING_IMPORT: ("KMSInvalidStateException", "is pending import."),
        KeyState.CREATING: ("KMSInvalidStateException", "is creating."),
    }
    key = world.new_key()
    by_id, by_token, revoked = (world("CreateGrant", KeyId=key, **MINIMAL) for _ in range(3))
    put_in_state(world, key, state)
    if state in refusals:
        for more in NOTHING_OR_DRY:
            refusal = world.refused("CreateGrant", KeyId=key, **MINIMAL, **more)
            code, words = refusals[state]
            assert (refusal.code, refusal.message) == (code, f"{arn_of(key)} {words}")
    else:
        revoked = world("CreateGrant", KeyId=key, **MINIMAL)
    count = len(entries(world, key))
    world("RetireGrant", KeyId=key, GrantId=by_id["GrantId"])
    world("RetireGrant", GrantToken=by_token["GrantToken"])
    world("RevokeGrant", KeyId=key, GrantId=revoked["GrantId"])
    assert len(entries(world, key)) == count - 3


def test_a_key_has_so_many_grants_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granting, "MOST_GRANTS_OF_A_KEY", 3)
    key, other = world.new_key(), world.new_key()
    first, *_ = (world("CreateGrant", KeyId=key, **MINIMAL, Name=f"n{n}")["GrantId"] for n in range(3))
    for more in NOTHING_OR_DRY:
        refusal = world.refused("CreateGrant", KeyId=key, **MINIMAL, **more)
        assert refusal.code == "LimitExceededException" and refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)
    assert world("CreateGrant", KeyId=key, **MINIMAL, Name="n0")["GrantId"] == first  # a retry makes none
    world("CreateGrant", KeyId=other, **MINIMAL)
    world("RevokeGrant", KeyId=key, GrantId=first)
    world("CreateGrant", KeyId=key, **MINIMAL)


def test_the_limit_is_that_of_aws() -> None:
    assert granting.MOST_GRANTS_OF_A_KEY == 50_000


# --- who may use it


def test_a_grant_lets_a_call_through_and_is_named_as_what_did(granted: World) -> None:
    key = granted.new_key()
    blob = granted("Encrypt", KeyId=key, Plaintext=b"x", EncryptionContext={"Tenant": "a"})["CiphertextBlob"]
    as_caller(granted, CAROL)
    sent: dict[str, Any] = {"CiphertextBlob": blob, "EncryptionContext": {"Tenant": "a"}}
    assert granted.refused("Decrypt", KeyId=key, **sent).code == DENIED
    constraints = {"EncryptionContextEquals": {"tenant": "a"}}
    made = as_caller(granted, ALICE)("CreateGrant", KeyId=key, **MINIMAL, Constraints=constraints)
    as_caller(granted, CAROL)
    assert granted("Decrypt", KeyId=key, **sent)["Plaintext"] == b"x"
    without_key_id = call("Decrypt", caller=CAROL, **sent)
    assert asyncio.run(granted.backend.call(without_key_id)).members["Plaintext"] == b"x"
    assert without_key_id.allowed_by == [AllowedBy(grant=made["GrantId"])]
    assert granted.refused("Decrypt", CiphertextBlob=blob, EncryptionContext={"Tenant": "A"}).code == DENIED
    assert granted.refused("Encrypt", KeyId=key, Plaintext=b"x", EncryptionContext={"Tenant": "a"}).code == DENIED
    as_caller(granted, ALICE)("RevokeGrant", KeyId=key, GrantId=made["GrantId"])
    assert as_caller(granted, CAROL).refused("Decrypt", KeyId=key, **sent).code == DENIED


def test_a_grant_to_another_accounts_user_and_between_the_keys_of_a_re_encryption(granted: World) -> None:
    source, destination = granted.new_key(), granted.new_key()
    blob = granted("Encrypt", KeyId=source, Plaintext=b"x", EncryptionContext={"a": "1"})["CiphertextBlob"]
    for key, operation, value in ((source, "ReEncryptFrom", "1"), (destination, "ReEncryptTo", "2")):
        constraints = {"EncryptionContextEquals": {"A": value}}
        granted("CreateGrant", KeyId=key, GranteePrincipal=BOB.arn, Operations=[operation], Constraints=constraints)
    as_caller(granted, BOB)
    moved: dict[str, Any] = {
        "CiphertextBlob": blob,
        "SourceEncryptionContext": {"a": "1"},
        "DestinationKeyId": arn_of(destination),
    }
    assert granted("ReEncrypt", **moved, DestinationEncryptionContext={"a": "2"})["KeyId"] == arn_of(destination)
    assert granted.refused("ReEncrypt", **moved, DestinationEncryptionContext={"a": "1"}).code == DENIED
    assert granted.refused("ReEncrypt", **moved).code == DENIED


def test_a_child_grant_is_at_most_as_wide_as_its_parent(granted: World) -> None:
    key = granted.new_key()
    parent: dict[str, Any] = {"Operations": ["Decrypt", "CreateGrant"], **_constraint(a="1")}
    granted("CreateGrant", KeyId=key, GranteePrincipal=ROLE, **parent)
    as_caller(granted, SESSION)
    child = granted("CreateGrant", KeyId=key, GranteePrincipal=CAROL.arn, **parent)
    as_caller(granted, CAROL)  # the child's grantee may hand on what it has, too
    grandchild: dict[str, Any] = {"GranteePrincipal": BOB.arn, "Operations": ["Decrypt"], **_constraint(A="1", b="2")}
    granted("CreateGrant", KeyId=key, **grandchild)
    for wider in (
        {**grandchild, "Operations": ["Decrypt", "DescribeKey"]},
        {**grandchild, **_constraint(b="2")},
        {**grandchild, "Constraints": {}},
    ):
        assert granted.refused("CreateGrant", KeyId=key, **wider).code == DENIED
    as_caller(granted, ALICE)("RevokeGrant", KeyId=key, GrantId=child["GrantId"])
    assert as_caller(granted, CAROL).refused("CreateGrant", KeyId=key, **grandchild).code == DENIED
    assert as_caller(granted, BOB).refused("ListGrants", KeyId=arn_of(key)).code == DENIED
    assert len(entries(as_caller(granted, ALICE), key)) == 2  # what was handed on stays, as with AWS


def test_until_the_delay_is_over_a_token_is_needed(granted: World) -> None:
    authoriser, key = granted.backend._around.authoriser, granted.new_key()
    assert isinstance(authoriser, AliceOrGrants)
    authoriser.delay_s = 5.0
    blob = granted("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    made = granted("CreateGrant", KeyId=key, **MINIMAL, RetiringPrincipal=BOB.arn)
    as_caller(granted, CAROL)
    assert granted.refused("Decrypt", CiphertextBlob=blob).code == DENIED
    assert granted("Decrypt", CiphertextBlob=blob, GrantTokens=[made["GrantToken"]])["Plaintext"] == b"x"
    as_caller(granted, BOB)
    assert granted.refused("RetireGrant", KeyId=arn_of(key), GrantId=made["GrantId"]).code == DENIED
    granted.clock.now_s += 5
    assert as_caller(granted, CAROL)("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"x"
    as_caller(granted, BOB)("RetireGrant", KeyId=arn_of(key), GrantId=made["GrantId"])


def changed(token: str) -> Iterator[str]:
    yield from ("rubbish", "", token[:-4], token + "AAAA", token + "=", f" {token}", "ÿ" * 12)
    for at in (0, 2, 40, 60, 100, len(token) - 2):
        yield token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


def test_a_token_that_is_none_is_refused_whoever_sends_it(world: World) -> None:
    key = world.new_key()
    made, gone = world("CreateGrant", KeyId=key, **MINIMAL), world("CreateGrant", KeyId=key, **MINIMAL)
    world("RevokeGrant", KeyId=key, GrantId=gone["GrantId"])
    for token in (*changed(made["GrantToken"]), gone["GrantToken"]):
        for sent in ([token], [made["GrantToken"], token]):
            refusal = world.refused("Encrypt", KeyId=key, Plaintext=b"x", GrantTokens=sent)
            assert refusal.code == "InvalidGrantTokenException"
        assert world.refused("CreateGrant", KeyId=key, **MINIMAL, GrantTokens=[token]).code == "InvalidGrantTokenException"
        assert world.refused("RetireGrant", GrantToken=token).code == "InvalidGrantTokenException"
    assert world.refused("DescribeKey", "eu-west-1", KeyId=key, GrantTokens=[made["GrantToken"]]).code == (
        "InvalidGrantTokenException"
    )
    other = world.new_key()
    world("Encrypt", KeyId=other, Plaintext=b"x", GrantTokens=[made["GrantToken"], made["GrantToken"]])


def test_tokens_outlast_a_restart_and_hold_for_every_worker(pair: tuple[World, World]) -> None:
    one, other = pair
    key = one.new_key()
    token = one("CreateGrant", KeyId=key, **MINIMAL)["GrantToken"]
    other("Encrypt", KeyId=key, Plaintext=b"x", GrantTokens=[token])
    other("RetireGrant", GrantToken=token)
    assert one.refused("Encrypt", KeyId=key, Plaintext=b"x", GrantTokens=[token]).code == "InvalidGrantTokenException"
    assert entries(one, key) == []


def test_no_tokens_key_shows(world: World) -> None:
    key = world.new_key()
    made = world("CreateGrant", KeyId=key, **MINIMAL)
    grant = world.backend._tables.find_grant(REGION, made["GrantId"])
    assert grant is not None and len(grant.token_key) == 32
    assert repr(grant.token_key)[2:-1] not in repr(grant) and grant.token_key.hex() not in repr(grant)
    for file in world.path.parent.iterdir():
        content = file.read_bytes()
        assert grant.token_key not in content and made["GrantToken"].encode() not in content


# --- ends


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize(("caller", "may"), [(BOB, True), (SESSION, True), (CAROL, False), (ALICE, True)])
def test_who_may_retire(granted: World, by_token: bool, caller: Principal, may: bool) -> None:
    key = granted.new_key()
    operations = ["Decrypt", "RetireGrant"]
    made = granted("CreateGrant", KeyId=key, GranteePrincipal=ROLE, RetiringPrincipal=BOB.arn, Operations=operations)
    named = {"GrantToken": made["GrantToken"]} if by_token else {"KeyId": arn_of(key), "GrantId": made["GrantId"]}
    as_caller(granted, caller)
    if not may:
        assert granted.refused("RetireGrant", **named).code == DENIED
        assert len(entries(as_caller(granted, ALICE), key)) == 1
        return
    assert granted.refused("RetireGrant", **named, DryRun=True).code == "DryRunOperationException"
    answer = granted.ask("RetireGrant", **named)
    assert (answer.members, answer.keys) == ({}, (KeyUse(arn_of(key), ACCOUNT),))
    assert answer.recorded == ({"GrantId": made["GrantId"]} if by_token else None)
    assert entries(as_caller(granted, ALICE), key) == []


def test_revoking_is_for_who_may_with_the_key(granted: World) -> None:
    key, other = granted.new_key(), granted.new_key()
    asked: dict[str, Any] = {**MINIMAL, "Operations": ["Decrypt", "RetireGrant"], "RetiringPrincipal": CAROL.arn}
    made = granted("CreateGrant", KeyId=key, **asked)["GrantId"]
    assert as_caller(granted, CAROL).refused("RevokeGrant", KeyId=key, GrantId=made).code == DENIED
    as_caller(granted, ALICE)
    assert granted.refused("RevokeGrant", KeyId=other, GrantId=made).code == "NotFoundException"
    assert granted.refused("RevokeGrant", KeyId=key, GrantId=made, DryRun=True).code == "DryRunOperationException"
    assert len(entries(granted, key)) == 1
    answer = granted.ask("RevokeGrant", KeyId=key, GrantId=made)
    assert (answer.members, answer.keys) == ({}, (KeyUse(arn_of(key), ACCOUNT),))
    refusal = granted.refused("RevokeGrant", KeyId=key, GrantId=made)
    assert (refusal.code, refusal.message) == ("NotFoundException", f"Grant ID {made} not found")
    assert entries(granted, key) == []


@pytest.mark.parametrize("operation", ["RetireGrant", "RevokeGrant"])
def test_grants_that_are_not_there(world: World, operation: str) -> None:
    key, other = world.new_key(), world.new_key()
    made = world("CreateGrant", KeyId=key, **MINIMAL)["GrantId"]
    for grant_id, on, code in (
        ("0" * 64, key, "NotFoundException"),
        (made, other, "NotFoundException"),
        (made.upper() if made.upper() != made else "x", key, "InvalidGrantIdException"),
        ("x", key, "InvalidGrantIdException"),
        (made[:-1], key, "InvalidGrantIdException"),
    ):
        for more in NOTHING_OR_DRY:
            assert world.refused(operation, KeyId=on, GrantId=grant_id, **more).code == code
    assert world.refused(operation, KeyId="alias/a", GrantId=made).code == "InvalidArnException"
    assert len(entries(world, key)) == 1


def test_a_grant_is_retired_by_its_token_or_by_key_and_id(world: World) -> None:
    key = world.new_key()
    made = world("CreateGrant", KeyId=key, **MINIMAL)
    token, grant_id = made["GrantToken"], made["GrantId"]
    for named in ({}, {"KeyId": key}, {"GrantId": grant_id}, {"GrantToken": token, "KeyId": key}):
        assert world.refused("RetireGrant", **named).code == "ValidationException"
    assert world.refused("RetireGrant", GrantToken=token, GrantId=grant_id).code == "ValidationException"
    assert len(entries(world, key)) == 1


def test_a_key_takes_its_grants_with_it(world: World) -> None:
    key, stays = world.new_key(), world.new_key()
    made = world("CreateGrant", KeyId=key, **MINIMAL, RetiringPrincipal=CAROL.arn)
    kept = world("CreateGrant", KeyId=stays, **MINIMAL, RetiringPrincipal=CAROL.arn)["GrantId"]
    world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * 86400
    for operation in ("ListGrants", "RevokeGrant", "RetireGrant"):
        assert world.refused(operation, KeyId=key, GrantId=made["GrantId"]).code == "NotFoundException"
    assert world.refused("RetireGrant", GrantToken=made["GrantToken"]).code == "NotFoundException"
    assert [entry["GrantId"] for entry in world("ListRetirableGrants", RetiringPrincipal=CAROL.arn)["Grants"]] == [kept]
    [due] = world.due()
    assert world.carry_out(due) is not None
    with world.store.change() as tx:
        assert [entry.id for entry in tx.all(GRANT, REGION)] == [kept]


# --- lists


def test_grants_are_listed_in_pages_each_once(world: World) -> None:
    key = world.new_key()
    made = {world("CreateGrant", KeyId=key, **MINIMAL)["GrantId"] for _ in range(7)}
    found: list[str] = []
    page = world("ListGrants", KeyId=key, Limit=3)
    while True:
        found += [grant["GrantId"] for grant in page["Grants"]]
        if not page["Truncated"]:
            break
        assert len(page["Grants"]) == 3
        made.add(world("CreateGrant", KeyId=key, **MINIMAL)["GrantId"])  # the list may grow meanwhile
        page = world("ListGrants", KeyId=key, Limit=3, Marker=page["NextMarker"])
    assert len(found) == len(set(found)) and set(found) <= made and len(found) >= 7
    marker = world("ListGrants", KeyId=key, Limit=1)["NextMarker"]
    for other in ({"KeyId": world.new_key()}, {"KeyId": key, "GranteePrincipal": CAROL.arn}):
        assert world.refused("ListGrants", **other, Marker=marker).code == "InvalidMarkerException"


def test_lists_of_grants_have_filters(world: World) -> None:
    key = world.new_key()
    carols, roles = (
        world("CreateGrant", KeyId=key, **MINIMAL)["GrantId"],
        world("CreateGrant", KeyId=key, GranteePrincipal=ROLE, Operations=["Encrypt"])["GrantId"],
    )
    for members, expected in (
        ({"GranteePrincipal": CAROL.arn}, [carols]),
        ({"GranteePrincipal": ROLE}, [roles]),
        ({"GranteePrincipal": BOB.arn}, []),
        ({"GrantId": carols}, [carols]),
        ({"GrantId": carols, "GranteePrincipal": ROLE}, []),
        ({"GrantId": "x"}, []),
    ):
        assert [entry["GrantId"] for entry in entries(world, key, **members)] == expected
    assert entries(world, world.new_key(), GrantId=carols) == []
    assert world.refused("ListGrants", KeyId=key, GranteePrincipal="x").code == "InvalidArnException"
    assert world.refused("ListGrants", KeyId=key, GranteeServicePrincipal="a.b.amazonaws.com").code == DENIED
    both = {"GranteePrincipal": CAROL.arn, "GranteeServicePrincipal": "a.b.amazonaws.com"}
    assert world.refused("ListGrants", KeyId=key, **both).code == "ValidationException"


def test_a_principals_retirable_grants_are_those_of_every_account_in_the_region(world: World) -> None:
    made = []
    for region, retiring in ((REGION, CAROL.arn), (REGION, ALICE.arn), ("eu-west-1", CAROL.arn), (REGION, None)):
        more = {} if retiring is None else {"RetiringPrincipal": retiring}
        made.append(world("CreateGrant", region, KeyId=world.new_key(region), **MINIMAL, **more)["GrantId"])
    as_caller(world, BOB)
    made.append(world("CreateGrant", KeyId=world.new_key(), **MINIMAL, RetiringPrincipal=CAROL.arn)["GrantId"])
    as_caller(world, ALICE)
    listed = world("ListRetirableGrants", RetiringPrincipal=CAROL.arn)
    assert {entry["GrantId"] for entry in listed["Grants"]} == {made[0], made[4]} and listed["Truncated"] is False
    page = world("ListRetirableGrants", RetiringPrincipal=CAROL.arn, Limit=1)
    rest = world("ListRetirableGrants", RetiringPrincipal=CAROL.arn, Limit=1, Marker=page["NextMarker"])
    assert {page["Grants"][0]["GrantId"], rest["Grants"][0]["GrantId"]} == {made[0], made[4]}
    assert world.refused("ListRetirableGrants").code == "ValidationException"
    assert world.refused("ListRetirableGrants", RetiringServicePrincipal="a.b.amazonaws.com").code == DENIED
    refusal = world.refused("ListRetirableGrants", RetiringPrincipal=BOB.arn)
    assert refusal.code == DENIED and (refusal.message or "").endswith(f"kms:ListRetirableGrants on resource: {BOB.arn}")


@pytest.mark.parametrize("operation", ["CreateGrant", "ListGrants"])
def test_no_aliases(world: World, operation: str) -> None:
    world("CreateAlias", AliasName="alias/a", TargetKeyId=world.new_key())
    for form in ("alias/a", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/a"):
        refusal = world.refused(operation, KeyId=form, **MINIMAL)
        assert (refusal.code, refusal.message) == ("InvalidArnException", "Key Aliases are not supported for this operation.")


def test_a_dry_run_makes_no_grant(world: World) -> None:
    key = world.new_key()
    refusal = world.refused("CreateGrant", KeyId=key, **MINIMAL, DryRun=True)
    assert (refusal.code, refusal.message) == (
        "DryRunOperationException",
        "The request would have succeeded, but the DryRun option is set.",
    )
    assert entries(world, key) == []
