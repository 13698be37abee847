"""Every operation, carried out once: what its record says of who, what, with which key, and for a change of its intent."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any  # members of requests and answers: JSON values, as in `proxy.domain.Members`

import pytest

from audit.record import AuditRecord, Phase
from proxy.dialect import KmsDialect
from proxy.kms.operations import OPERATIONS
from proxy.pipeline import Pipeline
from proxy.recording import Recorder
from proxy.sigv4 import Verifier
from tests.proxy.local.given import made, spki
from tests.proxy.local.importing import import_material, new_external_key, sent
from tests.proxy.local.world import ACCOUNT, ALICE, REGION, arn_of
from tests.proxy.local.xks_proxy import XksWorld, store_members
from tests.proxy.pipeline.world import NOW_US, ORIGIN, FakeLog, KnownCaller, model, request

ELSEWHERE = "eu-west-1"
POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}'
CONTEXT = {"tenant": "acme"}
#: A request, and the ids of the keys that its record is to name.
Asked = tuple[dict[str, Any], tuple[str, ...]]


def of_key(**members: Any) -> Callable[[XksWorld], Asked]:
    """A request about a new symmetric key."""
    return lambda world: _about(world.new_key(), members)


def of_pair(spec: str, usage: str, **members: Any) -> Callable[[XksWorld], Asked]:
    return lambda world: _about(world.new_key(KeySpec=spec, KeyUsage=usage), members)


def of_nothing(**members: Any) -> Callable[[XksWorld], Asked]:
    return lambda world: (members, ())


def _about(key: str, members: dict[str, Any]) -> Asked:
    return {"KeyId": key, **members}, (key,)


def _after(operation: str, *, also: dict[str, Any] | None = None, **members: Any) -> Callable[[XksWorld], Asked]:
    """A request about a new key that another operation was done to."""

    def asked(world: XksWorld) -> Asked:
        key = world.new_key()
        world(operation, KeyId=key, **members)
        return _about(key, also or {})

    return asked


def _proof(operation: str, proof: str, spec: str, usage: str, **members: Any) -> Callable[[XksWorld], Asked]:
    """A request that has, as its member `proof`, what `operation` made of the same."""

    def asked(world: XksWorld) -> Asked:
        key = world.new_key(KeySpec=spec, KeyUsage=usage)
        return _about(key, {**members, proof: world(operation, KeyId=key, **members)[proof]})

    return asked


def _grant(world: XksWorld) -> Asked:
    key = world.new_key()
    made_grant = world("CreateGrant", KeyId=key, GranteePrincipal=ALICE.arn, Operations=["Decrypt"])
    return _about(key, {"GrantId": made_grant["GrantId"]})


def _decapsulate(world: XksWorld) -> Asked:
    key = world.new_key(KeySpec="ML_KEM_768", KeyUsage="ENCAPSULATE_DECAPSULATE")
    chosen = {"KeyId": key, "EncapsulationAlgorithm": "ML_KEM"}
    blob = world("Encapsulate", **chosen)["SharedSecretCiphertextBlob"]
    return {**chosen, "SharedSecretCiphertextBlob": blob}, (key,)


def _decrypt(world: XksWorld) -> Asked:
    key = world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    return {"CiphertextBlob": blob, "EncryptionContext": CONTEXT}, (key,)


def _re_encrypt(world: XksWorld) -> Asked:
    asked, (source,) = _decrypt(world)
    members = {"SourceEncryptionContext": CONTEXT, "DestinationEncryptionContext": {"tenant": "globex"}}
    destination = world.new_key()
    return {"CiphertextBlob": asked["CiphertextBlob"], "DestinationKeyId": destination, **members}, (source, destination)


def _alias(world: XksWorld) -> Asked:
    key = world.new_key()
    world("CreateAlias", AliasName="alias/there", TargetKeyId=key)
    return {"AliasName": "alias/there"}, (key,)


def _moved_alias(world: XksWorld) -> Asked:
    _alias(world)
    key = world.new_key()
    return {"AliasName": "alias/there", "TargetKeyId": key}, (key,)


def _new_alias(world: XksWorld) -> Asked:
    key = world.new_key()
    return {"AliasName": "alias/new", "TargetKeyId": key}, (key,)


def _parameters(world: XksWorld) -> Asked:
    return _about(new_external_key(world), {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"})


def _import(world: XksWorld) -> Asked:
    key = new_external_key(world)
    return sent(world, key, bytes(32), KeyMaterialDescription="first"), (key,)


def _imported(world: XksWorld) -> Asked:
    key = new_external_key(world)
    material = import_material(world, key, bytes(32))["KeyMaterialId"]
    return _about(key, {"KeyMaterialId": material})


def _replicated(world: XksWorld) -> Asked:
    key = world.new_key(MultiRegion=True)
    world("ReplicateKey", KeyId=key, ReplicaRegion=ELSEWHERE)
    return {"KeyId": key, "PrimaryRegion": ELSEWHERE}, (key,)


def of_store(*, connected: bool, **members: Any) -> Callable[[XksWorld], Asked]:
    return lambda world: ({"CustomKeyStoreId": world.new_store(connected=connected), **members}, ())


GRANT: dict[str, Any] = {
    "GranteePrincipal": ALICE.arn,
    "Operations": ["Decrypt"],
    "Name": "one",
    "Constraints": {"EncryptionContextSubset": CONTEXT},
}
SIGNING = {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256", "MessageType": "RAW"}
MAC = {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
ROWS: dict[str, Callable[[XksWorld], Asked]] = {
    "CancelKeyDeletion": _after("ScheduleKeyDeletion"),
    "ConnectCustomKeyStore": of_store(connected=False),
    "CreateAlias": _new_alias,
    "CreateCustomKeyStore": of_nothing(**store_members()),
    "CreateGrant": of_key(**GRANT),
    "CreateKey": of_nothing(Description="new", Tags=[{"TagKey": "a", "TagValue": "b"}], Policy=POLICY),
    "Decapsulate": _decapsulate,
    "Decrypt": _decrypt,
    "DeleteAlias": _alias,
    "DeleteCustomKeyStore": of_store(connected=False),
    "DeleteImportedKeyMaterial": _imported,
    "DeriveSharedSecret": of_pair(
        "ECC_NIST_P256", "KEY_AGREEMENT", KeyAgreementAlgorithm="ECDH", PublicKey=spki(made("ECC_NIST_P256"))
    ),
    "DescribeCustomKeyStores": of_nothing(Limit=10),
    "DescribeKey": of_key(),
    "DisableKey": of_key(),
    "DisableKeyRotation": _after("EnableKeyRotation"),
    "DisconnectCustomKeyStore": of_store(connected=True),
    "EnableKey": _after("DisableKey"),
    "EnableKeyRotation": of_key(RotationPeriodInDays=90),
    "Encapsulate": of_pair("ML_KEM_768", "ENCAPSULATE_DECAPSULATE", EncapsulationAlgorithm="ML_KEM"),
    "Encrypt": of_key(Plaintext=b"x", EncryptionContext=CONTEXT),
    "GenerateDataKey": of_key(KeySpec="AES_256", EncryptionContext=CONTEXT),
    "GenerateDataKeyPair": of_key(KeyPairSpec="ECC_NIST_P256", EncryptionContext=CONTEXT),
    "GenerateDataKeyPairWithoutPlaintext": of_key(KeyPairSpec="ECC_NIST_P256", EncryptionContext=CONTEXT),
    "GenerateDataKeyWithoutPlaintext": of_key(NumberOfBytes=7, EncryptionContext=CONTEXT),
    "GenerateMac": of_pair("HMAC_256", "GENERATE_VERIFY_MAC", **MAC),
    "GenerateRandom": of_nothing(NumberOfBytes=8),
    "GetKeyLastUsage": of_key(),
    "GetKeyPolicy": of_key(PolicyName="default"),
    "GetKeyRotationStatus": of_key(),
    "GetParametersForImport": _parameters,
    "GetPublicKey": of_pair("ECC_NIST_P256", "SIGN_VERIFY"),
    "ImportKeyMaterial": _import,
    "ListAliases": of_key(Limit=10),
    "ListGrants": of_key(Limit=10, GranteePrincipal=ALICE.arn),
    "ListKeyPolicies": of_key(Limit=10),
    "ListKeyRotations": of_key(Limit=10, IncludeKeyMaterial="ALL_KEY_MATERIAL"),
    "ListKeys": of_nothing(Limit=10),
    "ListResourceTags": of_key(Limit=10),
    "ListRetirableGrants": of_nothing(RetiringPrincipal=ALICE.arn),
    "PutKeyPolicy": of_key(PolicyName="default", Policy=POLICY),
    "ReEncrypt": _re_encrypt,
    "ReplicateKey": lambda world: _about(world.new_key(MultiRegion=True), {"ReplicaRegion": ELSEWHERE, "Description": "there"}),
    "RetireGrant": _grant,
    "RevokeGrant": _grant,
    "RotateKeyOnDemand": of_key(),
    "ScheduleKeyDeletion": of_key(PendingWindowInDays=7),
    "Sign": of_pair("ECC_NIST_P256", "SIGN_VERIFY", **SIGNING),
    "TagResource": of_key(Tags=[{"TagKey": "Team", "TagValue": "A"}]),
    "UntagResource": _after("TagResource", Tags=[{"TagKey": "Team", "TagValue": "A"}], also={"TagKeys": ["Team"]}),
    "UpdateAlias": _moved_alias,
    "UpdateCustomKeyStore": of_store(connected=False, NewCustomKeyStoreName="other"),
    "UpdateKeyDescription": of_key(Description="other"),
    "UpdatePrimaryRegion": _replicated,
    "Verify": _proof("Sign", "Signature", "ECC_NIST_P256", "SIGN_VERIFY", **SIGNING),
    "VerifyMac": _proof("GenerateMac", "Mac", "HMAC_256", "GENERATE_VERIFY_MAC", **MAC),
}


class Walked:
    """A whole worker, but for its log, which keeps the records here."""

    def __init__(self, folder: Path) -> None:
        self.world = XksWorld(folder)
        self._log = FakeLog([])
        numbers = iter(range(1 << 30))
        self._pipeline = Pipeline(
            verifier=Verifier({ALICE.access_key_id: KnownCaller()}.get),
            dialect=KmsDialect(model(), forwards=False),
            backend=self.world.backend,
            recorder=Recorder(ACCOUNT, REGION, "local", "clear", lambda: f"event-{next(numbers)}", has_accounts=True),
            log=self._log,
            origin=ORIGIN,
            now_us=lambda: NOW_US,
            new_id=lambda: f"request-{next(numbers)}",
        )

    def __call__(self, operation: str, members: dict[str, Any]) -> tuple[int, bytes, list[AuditRecord]]:
        """Status and body of the response, and the records of the call."""
        response = self.world.runner.run(self._pipeline.walk(request(operation, as_json(members), region=REGION)))
        return response.status, response.body, self._log.records


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[Walked]:
    one = Walked(tmp_path)
    yield one
    one.world.close()


def as_json(members: dict[str, Any]) -> dict[str, Any]:
    return {name: base64.b64encode(one).decode() if isinstance(one, bytes) else one for name, one in members.items()}


def test_there_is_a_row_for_each_operation() -> None:
    assert set(ROWS) == set(OPERATIONS)


@pytest.mark.parametrize("operation", sorted(ROWS))
def test_the_record_says_what_was_done_and_to_which_keys(walked: Walked, operation: str) -> None:
    row, (members, keys) = OPERATIONS[operation], ROWS[operation](walked.world)
    status, body, records = walked(operation, members)
    assert status == 200, body
    *intents, outcome = records
    assert (outcome.event_name, outcome.phase, outcome.error_code) == (operation, Phase.OUTCOME, None)
    assert (outcome.identity.arn, outcome.identity.account_id, outcome.aws_region) == (ALICE.arn, ACCOUNT, REGION)
    assert outcome.read_only is row.read_only and outcome.allowed_by

    recorded = dict(outcome.request_parameters or {})
    defaults = {name[0].lower() + name[1:]: value for name, value in row.defaults}
    told = {name[0].lower() + name[1:]: value for name, value in members.items() if name in row.request}
    assert set(recorded) == set(told) | set(defaults)
    for name, value in told.items():
        assert isinstance(value, list | dict) or recorded[name] == value

    named = {resource.arn for resource in outcome.resources if resource.type == "AWS::KMS::Key"}
    if operation == "CreateKey":
        made_key = (outcome.response_elements or {})["keyMetadata"]
        assert isinstance(made_key, dict) and named == {made_key["arn"]}
    elif operation == "UpdatePrimaryRegion":
        assert named == {arn_of(keys[0]), arn_of(keys[0], ELSEWHERE)}
    else:
        assert named == {arn_of(key) for key in keys}

    assert len(intents) == row.mutates
    for intent in intents:
        assert (intent.event_name, intent.phase, intent.request_id) == (operation, Phase.INTENT, outcome.request_id)
        assert outcome.intent_id == intent.event_id and intent.request_parameters == outcome.request_parameters
