"""The ARNs of principals: which there are, and the names of a caller."""

from __future__ import annotations

import pytest

from proxy.kms.principals import Kind, known_as, names_of, owner_of, parse_principal, root_of

IAM, STS = "arn:aws:iam::111122223333:", "arn:aws:sts::111122223333:"
ROOT, USER, ROLE = f"{IAM}root", f"{IAM}user/alice", f"{IAM}role/reader"
SESSION, FEDERATED = f"{STS}assumed-role/reader/run-1", f"{STS}federated-user/bob"
PATH = "a/very.long/path+=,@-"


@pytest.mark.parametrize(
    ("arn", "kind", "name"),
    [
        (ROOT, Kind.ROOT, "root"),
        (USER, Kind.USER, "alice"),
        (f"{IAM}user/{PATH}/alice", Kind.USER, "alice"),
        (f"{IAM}user/{'x' * 64}", Kind.USER, "x" * 64),
        (ROLE, Kind.ROLE, "reader"),
        (f"{IAM}role/{PATH}/reader", Kind.ROLE, "reader"),
        (SESSION, Kind.SESSION, "reader"),
        (f"{STS}assumed-role/r/bob@example.com", Kind.SESSION, "r"),
        (FEDERATED, Kind.FEDERATED_USER, "bob"),
    ],
)
@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_each_form_is_read(arn: str, kind: Kind, name: str, partition: str) -> None:
    there = arn.replace("arn:aws:", f"arn:{partition}:")
    found = parse_principal(there)
    assert found is not None
    assert (found.text, found.kind, found.partition, found.account_id, found.name) == (
        there,
        kind,
        partition,
        "111122223333",
        name,
    )


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "*",
        "111122223333",
        f"{IAM}user/",
        f"{IAM}user/{'x' * 65}",
        f"{IAM}user//alice",
        f"{IAM}group/admins",
        f"{STS}assumed-role/reader",
        f"{STS}assumed-role/{PATH}/reader/run-1",
        f"{STS}assumed-role/reader/x",
        f"{STS}user/alice",
        "arn:aws:iam::11112222333:user/alice",
        "arn:aws:iam:us-east-1:111122223333:user/alice",
        "arn:gcp:iam::111122223333:user/alice",
        f"{USER}\n",
        f"{IAM}user/al ice",
        "arn:aws:iam::١١١١٢٢٢٢٣٣٣٣:user/alice",
    ],
)
def test_what_is_no_principal(arn: str) -> None:
    assert parse_principal(arn) is None
    assert (root_of(arn), owner_of(arn), known_as(arn), names_of(arn)) == (None, arn, arn, (arn,) if arn else ())


@pytest.mark.parametrize(
    ("arn", "names", "owner"),
    [
        (ROOT, (ROOT,), ROOT),
        (USER, (USER,), USER),
        (f"{IAM}user/{PATH}/alice", (f"{IAM}user/{PATH}/alice",), f"{IAM}user/{PATH}/alice"),
        (f"{IAM}role/{PATH}/reader", (ROLE,), ROLE),
        (SESSION, (SESSION, ROLE), ROLE),
        (FEDERATED, (FEDERATED,), FEDERATED),
    ],
)
def test_a_caller_is_known_by_its_names(arn: str, names: tuple[str, ...], owner: str) -> None:
    assert (names_of(arn), owner_of(arn), known_as(arn), root_of(arn)) == (names, owner, names[0], ROOT)
