"""The validator against the service model that it is made of, and against the words that AWS was seen to use."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from botocore.loaders import create_loader
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import KmsError
from proxy.kms.model import MAX_CONTEXT_BYTES, ServiceModel

DESCRIPTION = create_loader().load_service_model("kms", "service-2")
SHAPES: dict[str, Any] = DESCRIPTION["shapes"]
MODEL = ServiceModel.load()
INPUTS: dict[str, str] = {
    name: operation["input"]["shape"] for name, operation in DESCRIPTION["operations"].items() if "input" in operation
}
CANARY = "canary-0f5e"
KEY = "alias/app"


def refusal(operation: str, document: dict[str, Any]) -> KmsError:
    with pytest.raises(KmsError) as caught:
        MODEL.validate(operation, document)
    assert caught.value.status == 400
    return caught.value


def faults(operation: str, document: dict[str, Any]) -> list[str]:
    """The faults of a ValidationException, whose number its first words must tell."""
    error = refusal(operation, document)
    assert error.code == "ValidationException" and error.message is not None
    head, _, rest = error.message.partition(": ")
    found = rest.split("; ")
    assert head == f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected"
    return found


def only_fault(operation: str, document: dict[str, Any]) -> str:
    (fault,) = faults(operation, document)
    return fault.replace(" failed to satisfy constraint: Member must", " | must")


def base64_of(size: int) -> str:
    return base64.b64encode(b"c" * size).decode()


# --- what is valid by the model is accepted, for every operation


@cache
def valid(shape_name: str) -> st.SearchStrategy[Any]:
    """Values of a shape as pairs: what is sent, and what comes out."""
    shape = SHAPES[shape_name]
    low, high = shape.get("min", 0), shape.get("max")
    match shape["type"]:
        case "structure":
            parts = {name: valid(member["shape"]) for name, member in shape["members"].items()}
            needed = {name: part for name, part in parts.items() if name in shape.get("required", ())}
            optional = {name: part for name, part in parts.items() if name not in needed}
            return st.fixed_dictionaries(needed, optional=optional).map(
                lambda pairs: ({n: p[0] for n, p in pairs.items()}, {n: p[1] for n, p in pairs.items()})
            )
        case "list":
            elements = st.lists(valid(shape["member"]["shape"]), min_size=low, max_size=min(high or 3, 3))
            return elements.map(lambda pairs: ([p[0] for p in pairs], [p[1] for p in pairs]))
        case "map":
            return same(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=3))
        case "string" if "enum" in shape:
            return same(st.sampled_from(shape["enum"]))
        case "string" if "pattern" in shape:
            texts = st.from_regex(f"(?a:{shape['pattern']})", fullmatch=True)
            return same(texts.filter(lambda text: low <= len(text) <= high and "\n" not in text[-1:]))
        case "string":
            return same(st.text(min_size=low, max_size=min(high or low + 20, low + 20)))
        case "blob":
            blobs = st.binary(min_size=low, max_size=min(high, low + 40))
            return blobs.map(lambda blob: (base64.b64encode(blob).decode(), blob))
        case "integer":
            return same(st.integers(low, high))
        case "boolean":
            return same(st.booleans())
        case "timestamp":
            return same(st.integers(0, 2**32) | st.floats(0, 2**32))
    raise AssertionError(shape)


def same(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values.map(lambda value: (value, value))


@pytest.mark.parametrize("operation", sorted(INPUTS))
def test_valid_requests_come_out_decoded(operation: str) -> None:
    @settings(max_examples=8, deadline=None, database=None)
    @given(valid(INPUTS[operation]))
    def check(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
        sent, wanted = pair
        assert MODEL.validate(operation, json.loads(json.dumps(sent))) == wanted

    check()


NAMES = sorted({name for shape in SHAPES.values() for name in shape.get("members", ())})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("operation", sorted(DESCRIPTION["operations"]))
def test_any_document_is_read_or_refused(operation: str) -> None:
    names = sorted(SHAPES[INPUTS[operation]]["members"]) if operation in INPUTS else NAMES

    @settings(max_examples=20, deadline=None, database=None)
    @given(st.dictionaries(st.sampled_from(names or NAMES), ANYTHING, max_size=4))
    def check(document: dict[str, Any]) -> None:
        try:
            members = MODEL.validate(operation, document)
        except KmsError as error:
            assert error.code in ("SerializationException", "ValidationException")
        else:
            assert set(members) <= set(document)

    check()


@pytest.mark.parametrize("operation", sorted(INPUTS))
def test_required_members(operation: str) -> None:
    required = SHAPES[INPUTS[operation]].get("required", [])
    if not required:
        assert MODEL.validate(operation, {}) == {}
        return
    names = [name[0].lower() + name[1:] for name in required]
    wanted = [f"Value null at '{name}' failed to satisfy constraint: Member must not be null" for name in names]
    assert faults(operation, {}) == wanted
    assert faults(operation, {name: None for name in required}) == wanted


def limits() -> Iterator[Any]:
    for operation, input_shape in INPUTS.items():
        for name, member in SHAPES[input_shape]["members"].items():
            shape = SHAPES[member["shape"]]
            if shape["type"] in ("string", "blob") and "enum" not in shape:
                for side in {"min", "max"} & set(shape):
                    yield pytest.param(operation, name, shape, side, id=f"{operation}-{name}-{side}")


@pytest.mark.parametrize(("operation", "name", "shape", "side"), list(limits()))
def test_every_length_of_the_model_is_held(operation: str, name: str, shape: dict[str, Any], side: str) -> None:
    """A length past the limit has its fault; the limit's own length has none."""
    bound = shape[side]
    word = "less" if side == "max" else "greater"
    wanted = f"Member must have length {word} than or equal to {bound}"
    for length, is_fault in ((bound, False), (bound + 1 if side == "max" else bound - 1, True)):
        if length < 0:
            continue
        value = base64_of(length) if shape["type"] == "blob" else "a" * length
        try:
            MODEL.validate(operation, {name: value})
            told = ""
        except KmsError as error:
            told = error.message or ""
        mine = [f for f in told.split("; ") if f"at '{name[0].lower() + name[1:]}'" in f and f.endswith(wanted)]
        assert bool(mine) == is_fault, told


# --- AWS's words


def test_the_messages_of_the_specification() -> None:
    assert only_fault("Encrypt", {"KeyId": KEY, "Plaintext": base64_of(4097)}) == (
        "Value at 'plaintext' | must have length less than or equal to 4096"
    )
    assert refusal("Encrypt", {"KeyId": KEY, "Plaintext": base64_of(4097)}).message == (
        "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: "
        "Member must have length less than or equal to 4096"
    )
    assert only_fault("GenerateDataKey", {"KeyId": KEY, "KeySpec": "x"}) == (
        "Value 'x' at 'keySpec' | must satisfy enum value set: [AES_256, AES_128]"
    )
    assert only_fault("DescribeKey", {}) == "Value null at 'keyId' | must not be null"
    assert only_fault("DescribeKey", {"KeyId": ""}) == "Value '' at 'keyId' | must have length greater than or equal to 1"
    assert only_fault("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": 0}) == (
        "Value '0' at 'numberOfBytes' | must have value greater than or equal to 1"
    )
    assert only_fault("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": 1025}) == (
        "Value '1025' at 'numberOfBytes' | must have value less than or equal to 1024"
    )
    assert only_fault("CreateAlias", {"AliasName": "alias/a b", "TargetKeyId": "k"}) == (
        "Value 'alias/a b' at 'aliasName' | must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
    )


def test_several_faults_are_reported_together() -> None:
    assert faults("Encrypt", {"EncryptionAlgorithm": "x"})[1:] == [
        "Value null at 'keyId' failed to satisfy constraint: Member must not be null",
        "Value null at 'plaintext' failed to satisfy constraint: Member must not be null",
    ]
    document = {"AliasName": "ä" * 257, "TargetKeyId": ""}
    assert len(faults("CreateAlias", document)) == 2


def test_paths_into_lists_of_structures() -> None:
    tags = [{"TagKey": "a", "TagValue": "b"}, {"TagKey": "", "TagValue": "v" * 257}, {"TagKey": "c"}]
    assert [fault.split(" failed")[0] for fault in faults("CreateKey", {"Tags": tags})] == [
        "Value '' at 'tags.2.member.tagKey'",
        f"Value '{'v' * 256}…' at 'tags.2.member.tagValue'",
        "Value null at 'tags.3.member.tagValue'",
    ]


def test_paths_into_structures() -> None:
    document = {"KeyId": KEY, "GranteePrincipal": "arn:x", "Operations": ["Decrypt"], "Constraints": {"SourceArn": "short"}}
    assert faults("CreateGrant", document)[0].startswith("Value 'short' at 'constraints.sourceArn' failed")


def test_lists_of_strings_are_reported_whole() -> None:
    assert only_fault("UntagResource", {"KeyId": KEY, "TagKeys": ["a", "", ""]}) == (
        "Value '[a, , ]' at 'tagKeys' | must satisfy constraint: "
        "[Member must have length less than or equal to 128, Member must have length greater than or equal to 1]"
    )
    document = {"KeyId": KEY, "GranteePrincipal": "arn:x", "Operations": ["Fly"]}
    assert only_fault("CreateGrant", document).startswith(
        "Value '[Fly]' at 'operations' | must satisfy constraint: [Member must satisfy enum value set: [Decrypt, Encrypt, "
    )
    assert only_fault("DescribeKey", {"KeyId": KEY, "GrantTokens": ["t"] * 11}) == (
        "Value at 'grantTokens' | must have length less than or equal to 10"
    )


@pytest.mark.parametrize(
    ("operation", "name", "value", "message"),
    [
        ("DescribeKey", "KeyId", 1, "NUMBER_VALUE can not be converted to a String"),
        ("DescribeKey", "KeyId", 1.5, "NUMBER_VALUE can not be converted to a String"),
        ("DescribeKey", "KeyId", True, "TRUE_VALUE can not be converted to a String"),
        ("DescribeKey", "KeyId", False, "FALSE_VALUE can not be converted to a String"),
        ("DescribeKey", "KeyId", [], "Start of list found where not expected"),
        ("DescribeKey", "KeyId", {}, "Start of structure or map found where not expected."),
        ("GenerateDataKey", "NumberOfBytes", "32", "STRING_VALUE can not be converted to an Integer"),
        ("GenerateDataKey", "NumberOfBytes", True, "TRUE_VALUE can not be converted to an Integer"),
        ("GenerateDataKey", "NumberOfBytes", [32], "Start of list found where not expected"),
        ("GenerateDataKey", "DryRun", "true", "STRING_VALUE can not be converted to an Boolean"),
        ("GenerateDataKey", "DryRun", 1, "NUMBER_VALUE can not be converted to an Boolean"),
        ("GenerateDataKey", "GrantTokens", "t", "Expected list or null"),
        ("GenerateDataKey", "GrantTokens", {}, "Start of structure or map found where not expected."),
        ("GenerateDataKey", "GrantTokens", [1], "NUMBER_VALUE can not be converted to a String"),
        ("GenerateDataKey", "EncryptionContext", "a", "Expected map or null"),
        ("GenerateDataKey", "EncryptionContext", [], "Start of list found where not expected"),
        ("GenerateDataKey", "EncryptionContext", {"a": 1}, "NUMBER_VALUE can not be converted to a String"),
        ("GenerateDataKey", "EncryptionContext", {"a": {}}, "Start of structure or map found where not expected."),
        ("CreateKey", "Tags", ["a"], "Expected null"),
        ("CreateKey", "Tags", [[]], "Start of list found where not expected"),
        ("Encrypt", "Plaintext", 1, "NUMBER_VALUE can not be converted to a Blob"),
        ("Encrypt", "Plaintext", {}, "Start of structure or map found where not expected."),
        ("ImportKeyMaterial", "ValidTo", "2026-01-01", "STRING_VALUE can not be converted to a Timestamp"),
        ("ImportKeyMaterial", "ValidTo", -1, "NUMBER_VALUE can not be converted to a Timestamp"),
        ("ImportKeyMaterial", "ValidTo", 10**300, "NUMBER_VALUE can not be converted to a Timestamp"),
    ],
)
def test_values_of_the_wrong_kind(operation: str, name: str, value: object, message: str) -> None:
    """They come before the constraints: what else is wrong, or missing, is not told."""
    error = refusal(operation, {name: value})
    assert (error.code, error.message) == ("SerializationException", message)


@pytest.mark.parametrize("text", [CANARY, "YQ", "YQ=", "YQ===", "Y Q==", "YQ==\n", "YQ==YQ==", "é===", "_-__", "=", "YR==x"])
def test_what_is_not_base64(text: str) -> None:
    error = refusal("Encrypt", {"KeyId": KEY, "Plaintext": text})
    assert (error.code, error.message) == ("SerializationException", "STRING_VALUE can not be converted to a Blob")


def test_unknown_members_and_nulls_are_dropped() -> None:
    document = {"KeyId": KEY, "Unknown": {"deep": [1]}, "KeySpec": None, "GrantTokens": ["t", None], "keyId": "other"}
    assert MODEL.validate("GenerateDataKey", document) == {"KeyId": KEY, "GrantTokens": ["t"]}
    tags = [None, {"TagKey": "a", "TagValue": "b", "Other": 1}]
    assert MODEL.validate("CreateKey", {"Tags": tags}) == {"Tags": [{"TagKey": "a", "TagValue": "b"}]}


def test_a_fraction_is_cut_off() -> None:
    assert MODEL.validate("GenerateRandom", {"NumberOfBytes": 32.9}) == {"NumberOfBytes": 32}
    assert "1e+300" not in only_fault("GenerateRandom", {"NumberOfBytes": 1e300})


def test_an_operation_that_there_is_not() -> None:
    assert refusal("Destroy", {}).code == "UnknownOperationException"


# --- the encryption context


def test_the_context_is_limited_by_its_bytes() -> None:
    for text in ("a", "é", "€", "𝄞"):
        size = len(text.encode())
        most = text * ((MAX_CONTEXT_BYTES - 1) // size)
        rest = "r" * (MAX_CONTEXT_BYTES - 1 - len(most.encode()))
        full = {"k": most + rest}
        assert MODEL.validate("GenerateDataKey", {"KeyId": KEY, "EncryptionContext": full})["EncryptionContext"] == full
        error = refusal("GenerateDataKey", {"KeyId": KEY, "EncryptionContext": {"kk": most + rest}})
        assert (error.code, error.message) == ("ValidationException", "Invalid EncryptionContext")


@pytest.mark.parametrize("context", [{"": "v"}, {"k": None}])
def test_contexts_that_are_refused(context: dict[str, Any]) -> None:
    error = refusal("Decrypt", {"CiphertextBlob": "YQ==", "EncryptionContext": context})
    assert (error.code, error.message) == ("ValidationException", "Invalid EncryptionContext")


def test_every_context_is_checked() -> None:
    for name in ("SourceEncryptionContext", "DestinationEncryptionContext"):
        assert refusal("ReEncrypt", {"DestinationKeyId": KEY, name: {"": "v"}}).message == "Invalid EncryptionContext"
    document = {"Constraints": {"EncryptionContextEquals": {"": "v"}}}
    assert refusal("CreateGrant", document).message == "Invalid EncryptionContext"


# --- what must not be told


def secret_members() -> Iterator[Any]:
    for operation, input_shape in INPUTS.items():
        for path, shape_name in leaves(input_shape):
            shape = SHAPES[shape_name]
            if shape["type"] == "blob" or shape.get("sensitive") or shape_name == "GrantTokenType":
                yield pytest.param(operation, path, shape, id=f"{operation}-{'.'.join(map(str, path))}")


def leaves(shape_name: str) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Paths to all scalar members, and their shapes' names."""
    shape = SHAPES[shape_name]
    for name, member in shape.get("members", {}).items():
        for path, leaf in leaves(member["shape"]):
            yield (name, *path), leaf
    if shape["type"] == "list":
        for path, leaf in leaves(shape["member"]["shape"]):
            yield (0, *path), leaf
    elif shape["type"] not in ("structure", "map"):
        yield (), shape_name


@pytest.mark.parametrize(("operation", "path", "shape"), list(secret_members()))
def test_secrets_are_never_echoed(operation: str, path: tuple[str | int, ...], shape: dict[str, Any]) -> None:
    too_long = CANARY * (shape["max"] // len(CANARY) + 1)
    told = []
    for value in (too_long, CANARY + "!", base64.b64encode(too_long.encode()).decode(), [CANARY], {CANARY: CANARY}):
        document: Any = value
        for part in reversed(path):
            document = [document] if part == 0 else {part: document}
        try:
            MODEL.validate(operation, document)
        except KmsError as error:
            told.append(str(error))
    assert len(told) >= 3  # what is too long, and the two of the wrong kind
    for secret in (CANARY, base64.b64encode(CANARY.encode()).decode()[:12]):
        assert secret not in "".join(told)


def test_echoes_are_bounded() -> None:
    document = {"KeyId": KEY, "TagKeys": ["é" * 1000] * 1000}
    message = refusal("UntagResource", document).message
    assert message is not None and len(message) < 600
    assert len(only_fault("CreateKey", {"Policy": "\0" * 131_072})) < 600
    assert len(only_fault("GenerateRandom", {"NumberOfBytes": 10**1000})) < 600
