"""What of a call is written down, operation by operation, and that nothing else ever is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import botocore.loaders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import canonical
from audit.record import PARAMETER_NAMES, AuditRecord
from proxy.domain import Answer, Attested, KeyUse, KmsCall, Operation, Origin, Principal, RawRequest
from proxy.errors import KmsError
from proxy.kms.operations import OPERATIONS
from proxy.recording import Exchange, GrantTokens, Recorder, fingerprints, operation_name, plausible

ACCOUNT = "111122223333"
ALICE = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/alice", ACCOUNT, "AKIAIOSFODNN7EXAMPLE", "AIDAEXAMPLE", "alice")
KEY = KeyUse(f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1", ACCOUNT, "ab" * 32)
OTHER = KeyUse(f"arn:aws:kms:us-east-1:{ACCOUNT}:key/2", ACCOUNT, "cd" * 32)
MODEL: Mapping[str, Any] = botocore.loaders.create_loader().load_service_model("kms", "service-2")  # Any: JSON
#: What no record may hold, by the member's name; and every blob.
SECRET_MEMBERS = frozenset(
    [
        "Plaintext",
        "PrivateKeyPlaintext",
        "Message",
        "Mac",
        "SharedSecret",
        "ImportToken",
        "KeyStorePassword",
        "XksProxyAuthenticationCredential",
        "TrustAnchorCertificate",
    ]
)


def recorder(grant_tokens: GrantTokens = "clear") -> Recorder:
    return Recorder(ACCOUNT, "us-east-1", "local", grant_tokens, lambda: "event")


def exchange(operation: str, parameters: Mapping[str, object], user_agent: bytes = b"tests") -> Exchange:
    raw = RawRequest(b"POST", b"/", ((b"user-agent", user_agent),), b"", Origin("192.0.2.1"), 1_700_000_000_000_000)
    row = OPERATIONS.get(operation) or Operation(operation)
    return Exchange(raw, "request", operation=row, parameters=parameters, principal=ALICE, region="us-east-1")


def record(operation: str, parameters: Mapping[str, object], outcome: Answer | KmsError | None = None) -> AuditRecord:
    return recorder().outcome(exchange(operation, parameters), outcome or Answer({}, (KEY,)), 1_700_000_000_000_000)


# --- canaries: every member of the model, at any depth, filled with values that can be told apart


class Filled:
    """A structure of the model, every member filled. `values` maps each value that was put in to the names on the way to it."""

    def __init__(self, operation: str, direction: str) -> None:
        self.values: dict[str, tuple[str, ...]] = {}
        self._prefix = f"canary-{operation}-{direction}"
        reference = MODEL["operations"][operation].get(direction)
        self.members: dict[str, Any] = {} if reference is None else self._fill(reference["shape"], ())

    def _fill(self, name: str, path: tuple[str, ...]) -> Any:
        shape = MODEL["shapes"][name]
        match shape["type"]:
            case "structure":
                return {member: self._fill(ref["shape"], (*path, member)) for member, ref in shape["members"].items()}
            case "list":
                return [self._fill(shape["member"]["shape"], path) for _ in range(2)]
            case "map":
                return {self._canary((*path, "a key")): self._canary((*path, "a value"))}
            case "blob":
                return self._canary(path).encode()
            case "integer" | "long":
                return 7
            case "boolean":
                return True
            case "timestamp":
                return 1.7e9
            case _:
                return self._canary(path)

    def _canary(self, path: tuple[str, ...]) -> str:
        value = f"{self._prefix}-{len(self.values):03d}"
        self.values[value] = path
        return value


def camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_but_the_members_of_the_table_is_recorded(operation: str) -> None:
    row = OPERATIONS[operation]
    sent, answered = Filled(operation, "input"), Filled(operation, "output")
    outcome = recorder().outcome(exchange(operation, sent.members), Answer(answered.members, (KEY,)), 1_700_000_000_000_000)
    line = canonical.encode(outcome, "w0", 0)
    document = json.loads(line)
    found_in, found_out = set(strings(document["requestParameters"])), set(strings(document["responseElements"]))
    for value, path in sent.values.items():
        assert (value in found_in) == (path[0] in row.request), f"{'.'.join(path)} of the request"
        assert value not in found_out
    for value, path in answered.values.items():
        assert (value in found_out) == (path[0] in row.response), f"{'.'.join(path)} of the response"
        assert value not in found_in
    rest = {key: value for key, value in document.items() if key not in ("requestParameters", "responseElements")}
    assert b"canary" not in json.dumps(rest).encode()
    assert set(document["requestParameters"] or ()) <= PARAMETER_NAMES
    assert set(document["responseElements"] or ()) <= PARAMETER_NAMES


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("what", ["intent", "refusal", "unvalidated"])
def test_neither_does_anything_else_come_in_another_way(operation: str, what: str) -> None:
    row, sent = OPERATIONS[operation], Filled(operation, "input")
    if what == "intent":
        made = recorder().intent(exchange(operation, sent.members))
    elif what == "refusal":
        made = recorder().outcome(exchange(operation, sent.members), KmsError("DisabledException", "no", keys=(KEY,)), 0)
    else:
        raw = json.loads(json.dumps(sent.members, default=lambda blob: blob.decode()))
        made = recorder().outcome(exchange(operation, plausible(raw)), KmsError("ValidationException", "no"), 0)
    line = canonical.encode(made, "w0", 0).decode()
    for value, path in sent.values.items():
        assert value not in line or path[0] in row.request, f"{'.'.join(path)} of the request"


def test_no_row_names_a_secret() -> None:
    for row in OPERATIONS.values():
        shapes = MODEL["shapes"]
        for direction, names in (("input", row.request), ("output", row.response)):
            reference = MODEL["operations"][row.name].get(direction, {}).get("shape")
            for name in names:
                assert reference is not None and name in shapes[reference]["members"], f"{row.name}: no member {name}"
                member = shapes[shapes[reference]["members"][name]["shape"]]
                assert member["type"] != "blob", f"{row.name}.{name} is a blob"
                assert not member.get("sensitive"), f"{row.name}.{name} is sensitive"
                assert name not in SECRET_MEMBERS


def test_the_table_has_every_operation_of_the_model() -> None:
    assert set(OPERATIONS) == set(MODEL["operations"])


# --- what is recorded


def test_nested_names_are_in_lower_camel_case_and_the_users_own_are_not_touched() -> None:
    context = {"Tenant": "acme", "X-ID": "1", "Plaintext": "a user may name it so"}
    made = record(
        "CreateGrant",
        {
            "KeyId": "1",
            "GranteePrincipal": ALICE.arn,
            "Operations": ["Decrypt", "Encrypt"],
            "Constraints": {"EncryptionContextSubset": context, "EncryptionContextEquals": {"A": "b"}},
        },
        Answer({"GrantId": "g", "GrantToken": "secret token"}, (KEY,)),
    )
    assert made.request_parameters == {
        "keyId": "1",
        "granteePrincipal": ALICE.arn,
        "operations": ["Decrypt", "Encrypt"],
        "constraints": {"encryptionContextSubset": context, "encryptionContextEquals": {"A": "b"}},
    }
    assert made.response_elements == {"grantId": "g", "keyId": KEY.arn}


@pytest.mark.parametrize("operation", ["Encrypt", "GenerateDataKey", "GenerateDataKeyPair"])
def test_an_encryption_context_is_recorded_as_it_is(operation: str) -> None:
    context = {"Tenant": "acme", "tenant": "Acme", "EncryptionContext": "x", "": "", "ключ": "значение"}
    made = record(operation, {"KeyId": "1", "EncryptionContext": context})
    assert made.request_parameters is not None
    assert made.request_parameters["encryptionContext"] == context


def test_tags_and_metadata_are_written_as_cloudtrail_writes_them() -> None:
    metadata = {"KeyId": "1", "CreationDate": 1_700_000_000.5, "MultiRegionConfiguration": {"PrimaryKey": {"Arn": "a"}}}
    made = record("CreateKey", {"Tags": [{"TagKey": "Team", "TagValue": "A"}]}, Answer({"KeyMetadata": metadata}, (KEY,)))
    assert made.request_parameters == {"tags": [{"tagKey": "Team", "tagValue": "A"}]}
    assert made.response_elements == {
        "keyMetadata": {
            "keyId": "1",
            "creationDate": "2023-11-14T22:13:20Z",
            "multiRegionConfiguration": {"primaryKey": {"arn": "a"}},
        }
    }


def test_defaults_are_recorded_where_nothing_was_sent() -> None:
    assert record("Encrypt", {"KeyId": "1"}).request_parameters == {"keyId": "1", "encryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    assert record("Encrypt", {"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}).request_parameters == {
        "encryptionAlgorithm": "RSAES_OAEP_SHA_256"
    }
    assert record("ListKeys", {}).request_parameters is None


def test_grant_tokens_in_clear_or_hashed() -> None:
    tokens = ["token-one", "token-two"]
    call = exchange("Decrypt", {"GrantTokens": tokens})
    clear = recorder("clear").outcome(call, Answer({}), 0).request_parameters
    hashed = recorder("sha256").outcome(call, Answer({}), 0).request_parameters
    assert clear is not None and hashed is not None
    assert clear["grantTokens"] == tokens
    assert hashed["grantTokens"] == ["sha256:" + sha256(token.encode()).hexdigest() for token in tokens]
    assert tokens == ["token-one", "token-two"]


@pytest.mark.parametrize("value", [["token-one"], "token-one", {"token-one": "token-one"}])
def test_hashed_grant_tokens_stay_hidden_where_the_request_was_not_valid(value: object) -> None:
    call = exchange("Decrypt", plausible({"GrantTokens": value}))
    made = recorder("sha256").outcome(call, KmsError("ValidationException", "no"), 0)
    assert b"token-one" not in canonical.encode(made, "w0", 0)


def test_resources_material_and_fingerprints_of_a_reencryption_name_both_keys() -> None:
    made = record("ReEncrypt", {"CiphertextBlob": b"old"}, Answer({"CiphertextBlob": b"new"}, (KEY, OTHER)))
    assert [resource.arn for resource in made.resources] == [KEY.arn, OTHER.arn]
    assert made.key_material_ids == {"sourceKeyMaterialId": KEY.material_id, "destinationKeyMaterialId": OTHER.material_id}
    assert made.fingerprints_in == (sha256(b"old").hexdigest(),)
    assert made.fingerprints_out == (sha256(b"new").hexdigest(),)


def test_aliases_are_resources_and_a_change_tells_its_key() -> None:
    alias = f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/a"
    made = record("CreateAlias", {"AliasName": "alias/a", "TargetKeyId": "1"}, Answer({}, (KEY,), (alias,)))
    assert [(resource.arn, resource.type) for resource in made.resources] == [
        (KEY.arn, "AWS::KMS::Key"),
        (alias, "AWS::KMS::Alias"),
    ]
    assert made.response_elements == {"keyId": KEY.arn}
    assert not made.read_only


def test_read_only_is_what_changes_nothing() -> None:
    changing = {"CreateKey", "DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion", "CreateGrant", "TagResource", "DeleteAlias"}
    for name in changing:
        assert not record(name, {}).read_only
    for name in ("Decrypt", "GenerateDataKey", "DescribeKey", "ListKeys", "Sign"):
        assert record(name, {}).read_only


def test_a_user_agent_that_is_no_text_is_recorded_all_the_same() -> None:
    made = recorder().outcome(exchange("ListKeys", {}, user_agent=b"\xff\xfe agent"), Answer({}), 0)
    assert made.user_agent == "�� agent"
    canonical.encode(made, "w0", 0)


def test_a_clock_that_went_back_gives_no_negative_latency() -> None:
    assert recorder().outcome(exchange("ListKeys", {}), Answer({}), 0).latency_us == 0


@pytest.mark.parametrize("blob", ["not base64!", "", None, 7, ["YQ=="], {"a": "b"}])
def test_what_is_no_blob_has_no_fingerprint(blob: object) -> None:
    assert fingerprints({"CiphertextBlob": blob}, ("CiphertextBlob",)) == ()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted({name for row in OPERATIONS.values() for name in row.request}))


@given(st.sampled_from(sorted(OPERATIONS)), st.dictionaries(NAMES, JSON, max_size=5))
def test_whatever_was_sent_can_be_recorded(operation: str, document: dict[str, Any]) -> None:
    made = recorder("sha256").outcome(exchange(operation, plausible(document)), KmsError("ValidationException", "no"), 0)
    assert canonical.decode(canonical.encode(made, "w0", 0)) == made


@given(st.text(max_size=200))
def test_an_unknown_operations_name_is_a_name_or_not_told(claimed: str) -> None:
    name = operation_name(claimed)
    assert name == "UnknownOperation" or (name == claimed and name.isascii() and name.isalnum() and len(name) <= 128)


@pytest.mark.parametrize(
    ("attested", "recipient"),
    [
        (
            Attested("i-1-enc2", {0: "aa", 1: "bb", 5: "cc", 8: "dd"}),
            {
                "attestationDocumentModuleId": "i-1-enc2",
                "attestationDocumentEnclaveImageDigest": "aa",
                "attestationDocumentEnclavePCR1": "bb",
                "attestationDocumentEnclavePCR8": "dd",
            },
        ),
        (
            Attested("i-1-tpm0", {0: "aa", 4: "bb", 23: "cc"}, is_tpm=True),
            {
                "attestationDocumentModuleId": "i-1-tpm0",
                "attestationDocumentNitroTPMPCR4": "bb",
                "attestationDocumentNitroTPMPCR23": "cc",
            },
        ),
        (None, None),
    ],
)
@pytest.mark.parametrize("outcome", [Answer({}, (KEY,)), KmsError("AccessDeniedException", "no", keys=(KEY,))])
def test_who_was_attested_is_recorded_as_cloudtrail_does(
    attested: Attested | None, recipient: dict[str, str] | None, outcome: Answer | KmsError
) -> None:
    given = exchange("Decrypt", {})
    given.call = KmsCall(OPERATIONS["Decrypt"], "us-east-1", ALICE, {}, 0, attested=attested)
    record = recorder().outcome(given, outcome, 1_700_000_000_000_000)
    line = canonical.encode(record, "w0", 0)
    assert json.loads(line)["additionalEventData"].get("recipient") == recipient
    assert canonical.decode(line) == record


def test_what_the_api_does_not_return_is_recorded_where_its_row_says_so() -> None:
    answer = Answer({}, recorded={"GrantId": "g", "Name": "n"})
    record = recorder().outcome(exchange("RetireGrant", {"GrantToken": "t"}), answer, 0)
    assert (record.request_parameters, record.response_elements) == (None, {"grantId": "g"})
    assert recorder().outcome(exchange("RevokeGrant", {}), answer, 0).response_elements is None
