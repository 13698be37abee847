"""The operations table against the service model: complete, of names that exist, and without a way in for what is secret."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import create_loader

from audit.record import PARAMETER_NAMES
from proxy.domain import Operation
from proxy.kms.operations import OPERATIONS

MODEL = create_loader().load_service_model("kms", "service-2")
ROWS = [pytest.param(row, id=name) for name, row in OPERATIONS.items()]


def members(operation: str, side: str) -> dict[str, str]:
    """The members of an operation's "input" or "output", and the shapes' names."""
    reference = MODEL["operations"][operation].get(side)
    if reference is None:
        return {}
    return {name: member["shape"] for name, member in MODEL["shapes"][reference["shape"]]["members"].items()}


def is_secret(shape_name: str) -> bool:
    """Whether a value of the shape is, or holds anywhere within, a blob or something that the model marks sensitive."""
    shape: dict[str, Any] = MODEL["shapes"][shape_name]
    if shape["type"] == "blob" or shape.get("sensitive"):
        return True
    inner = [member["shape"] for member in shape.get("members", {}).values()]
    inner += [shape[part]["shape"] for part in ("member", "key", "value") if part in shape]
    return any(is_secret(name) for name in inner)


def test_the_table_names_every_operation_and_no_other() -> None:
    assert set(OPERATIONS) == set(MODEL["operations"])


def test_the_model_marks_what_the_next_tests_look_for() -> None:
    assert is_secret("PlaintextType")
    assert is_secret("CiphertextType")
    assert is_secret("XksProxyAuthenticationCredentialType")
    assert not is_secret("KeyMetadata")


@pytest.mark.parametrize("row", ROWS)
def test_named_members_exist(row: Operation) -> None:
    sent, returned = members(row.name, "input"), members(row.name, "output")
    defaults = {name for name, _ in row.defaults}
    assert {*row.request, *row.ciphertexts_in, *defaults} <= set(sent)
    assert {*row.response, *row.ciphertexts_out} <= set(returned)
    assert defaults <= set(row.request)


@pytest.mark.parametrize("row", ROWS)
def test_members_that_name_a_key_exist(row: Operation) -> None:
    sent = members(row.name, "input")
    if any(name in sent for name in ("KeyId", "SourceKeyId", "DestinationKeyId")):
        assert row.key_members
        for name in row.key_members:
            assert name in sent


@pytest.mark.parametrize("row", ROWS)
def test_ciphertexts_are_blobs(row: Operation) -> None:
    shapes = [members(row.name, "input")[name] for name in row.ciphertexts_in]
    shapes += [members(row.name, "output")[name] for name in row.ciphertexts_out]
    assert [MODEL["shapes"][shape]["type"] for shape in shapes] == ["blob"] * len(shapes)


@pytest.mark.parametrize("row", ROWS)
def test_what_is_recorded_is_on_the_records_own_list(row: Operation) -> None:
    recorded = {name[0].lower() + name[1:] for name in (*row.request, *row.response, *row.also_recorded)}
    assert recorded <= PARAMETER_NAMES


@pytest.mark.parametrize("row", ROWS)
def test_nothing_secret_is_recorded(row: Operation) -> None:
    for side, names in (("input", row.request), ("output", row.response)):
        shapes = members(row.name, side)
        assert [name for name in names if is_secret(shapes[name])] == []


def test_what_a_default_says_is_a_value_of_the_model() -> None:
    for row in OPERATIONS.values():
        for name, value in row.defaults:
            assert value in MODEL["shapes"][members(row.name, "input")[name]]["enum"]


#: Members of changes that no record holds, though the model does not mark them: what admits to a grant or to a key store, a
#: certificate of 5,000 characters.
KEPT_BACK = {"GrantToken", "XksProxyAuthenticationCredential", "TrustAnchorCertificate"}


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.mutates], ids=lambda row: row.name)
def test_a_change_is_recorded_with_all_that_it_asked_for(row: Operation) -> None:
    shapes = members(row.name, "input")
    assert {name for name in shapes if not is_secret(shapes[name])} - KEPT_BACK == set(row.request)


USES = ["Encrypt", "Decrypt", "ReEncrypt", "Sign", "Verify", "VerifyMac", "DeriveSharedSecret", "Encapsulate", "Decapsulate"]


@pytest.mark.parametrize("row", ROWS)
def test_what_reads_and_what_uses_a_key_changes_nothing(row: Operation) -> None:
    reads = row.name.startswith(("Get", "List", "Describe", "Generate")) or row.name in USES
    assert row.mutates != reads
    assert row.read_only == reads


@pytest.mark.parametrize("row", ROWS)
def test_every_ciphertext_is_fingerprinted(row: Operation) -> None:
    """What KMS encrypted; imported material, of the same shape, was encrypted by somebody else."""
    for side, found in (("input", row.ciphertexts_in), ("output", row.ciphertexts_out)):
        shapes = members(row.name, side)
        blobs = {name for name, shape in shapes.items() if shape == "CiphertextType" and name.endswith("CiphertextBlob")}
        assert blobs == set(found)


def test_no_recorded_name_is_that_of_a_secret() -> None:
    """The second wall by itself: what the record's list admits is no secret of any operation."""
    for operation in MODEL["operations"]:
        for side in ("input", "output"):
            for name, shape in members(operation, side).items():
                if is_secret(shape) or name in KEPT_BACK:
                    assert name[0].lower() + name[1:] not in PARAMETER_NAMES
