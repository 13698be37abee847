"""Documents: what is refused, what is warned of, and where the finding says that it is."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import SetupError
from proxy.policy import keys, lint
from proxy.policy.document import MAX_BYTES, Finding, Severity, read
from proxy.policy.evaluate import load
from proxy.policy.folder import read_folder

EXAMPLES = Path(__file__).parents[3] / "config" / "policies"


def statement(**changes: Any) -> dict[str, Any]:
    made = {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*", **changes}
    return {name: value for name, value in made.items() if value is not ...}


def document(*statements: Any, **changes: Any) -> bytes:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements), **changes}).encode()


def said(content: bytes, severity: Severity = Severity.ERROR) -> list[Finding]:
    return [finding for finding in lint.check("p.json", content) if finding.severity is severity]


def condition(operator: str, key: str, value: Any = "x") -> dict[str, Any]:
    return {operator: {key: value}}


FORMS: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"null", "not text|a policy is a JSON object, not null"),
    (b"[]", "not a list"),
    (b"\xff{}", "not UTF-8"),
    (b'{"Statement": NaN}', "NaN is no JSON"),
    (b"[" * 100_000, "nested too deep"),
    (b" " * (MAX_BYTES + 1), "larger than"),
    (b"{}", "there is no Statement"),
    (document(), "Statement is an empty list"),
    (document("x"), "a statement is a JSON object, not text"),
    (document(statement(), Version="2025-01-01"), "Version"),
    (document(statement(), Id=1), "Id must be text"),
    (document(statement(), Statment=[]), "no element 'Statment'; the nearest is Statement"),
    (document(statement(effect="Deny")), "no element 'effect'; the nearest is Effect"),
    (document(statement(Principal="*")), "Principal has no place"),
    (document(statement(NotPrincipal="*")), "NotPrincipal has no place"),
    (document(statement(Effect="deny")), 'Effect is "deny"'),
    (document(statement(Effect=...)), "Effect is missing"),
    (document(statement(Action=...)), "one of Action and NotAction"),
    (document(statement(NotAction="kms:Encrypt")), "one of Action and NotAction"),
    (document(statement(Resource=...)), "one of Resource and NotResource"),
    (document(statement(Action=[])), "Action is an empty list"),
    (document(statement(Action=["kms:Decrypt", 7])), "Action must be text, not 7"),
    (document(statement(Action="Decrypt")), "'Decrypt' is no action"),
    (document(statement(Resource="alias/x")), "is no resource"),
    (document(statement(Resource="arn:aws:kms:*")), "is no resource"),
    (document(statement(Resource="arn:aws:kms:${aws:RequestedRegion}:*:key/*")), "behind the fifth colon only"),
    (document(statement(Resource="arn:aws:kms:*:*:key/${nope")), "is no policy variable"),
    (document(statement(Sid="with blanks")), "letters and digits only"),
    (document(statement(Sid="A"), statement(Sid="A")), "'A' stands for more than one statement"),
    (document(statement(Sid="2"), statement()), "'2' stands for more than one statement"),
    (document(statement(Condition=[])), "Condition must be a JSON object"),
    (document(statement(Condition={"StringEquals": {}})), "StringEquals must be a JSON object with condition keys"),
    (document(statement(Condition=condition("StringEquls", "aws:username"))), "no condition operator 'StringEquls'"),
    (document(statement(Condition=condition("StringEquals", "aws:username", []))), "empty list of values"),
    (document(statement(Condition=condition("StringEquals", "aws:username", None))), "must be text, a number, true or false"),
    (document(statement(Condition=condition("IpAddress", "aws:SourceIp", "10.0.0.0/99"))), "no network"),
    (document(statement(Condition={"StringEquals": {"aws:username": "a", "AWS:UserName": "b"}})), "stands twice"),
    (b'{"Version":"2012-10-17","Version":"2012-10-17","Statement":[]}', "stands twice in one JSON object: Version"),
    (document(statement()).replace(b'"Effect": "Deny"', b'"Effect": "Deny", "Effect": "Allow"'), "stands twice.*Effect"),
]


@pytest.mark.parametrize(("content", "words"), FORMS)
def test_what_has_not_the_form_is_refused(content: bytes, words: str) -> None:
    read_document, findings = read("p.json", content)
    assert read_document is None
    assert findings and all(finding.severity is Severity.ERROR and finding.file == "p.json" for finding in findings)
    assert any(re.search(words, finding.message) for finding in findings), findings
    with pytest.raises(SetupError, match=r"p\.json"):
        load([("p.json", content)])


MEANINGS: list[tuple[dict[str, Any], str]] = [
    (statement(Condition=condition("StringEquals", "aws:ResourceTag/team")), "UNSUPPORTED"),
    (statement(Condition=condition("ForAnyValue:StringEquals", "kms:ResourceAliases", "alias/x")), "UNSUPPORTED"),
    (statement(Condition=condition("StringEquals", "aws:PrincipalTag/team")), "UNSUPPORTED"),
    (statement(Condition=condition("Bool", "AWS:MultiFactorAuthPresent", "true")), "UNSUPPORTED"),
    (statement(Condition=condition("StringEquals", "kms:EncryptionContext:t", "${aws:PrincipalTag/t}")), "UNSUPPORTED"),
    (statement(Resource="arn:aws:kms:*:*:key/${aws:PrincipalTag/key, 'x'}"), "UNSUPPORTED"),
    (statement(Condition=condition("StringEquals", "aws:UserNam")), "no such condition key; the nearest is aws:username"),
    (statement(Condition=condition("StringEquals", "kms:EncryptionContext:")), "no such condition key"),
    (statement(Condition=condition("StringEquals", "kms:KeySpec", "RSA_2048")), "of a key that exists .* kms:Decrypt"),
    (statement(Action="*", Condition=condition("Bool", "kms:MultiRegion", True)), "of a key that exists .* and [0-9]+ more"),
    (statement(Condition=condition("StringEquals", "kms:EncryptionContextKeys")), "needs ForAllValues: or ForAnyValue:"),
    (statement(Condition=condition("ForAllValues:StringEquals", "kms:EncryptionContext:t")), "KMS refuses it too"),
    (statement(Condition=condition("Bool", "aws:username", "true")), "does not compare values of the kind String"),
    (statement(Condition=condition("NumericEquals", "aws:SourceIp", 1)), "does not compare values of the kind IP"),
    (statement(Condition=condition("ArnLike", "aws:username", "arn:aws:iam::1:x")), "does not compare"),
    (
        statement(Condition=condition("StringEquals", "aws:username", "${aws:TagKeys}")),
        "several values cannot be a policy variable",
    ),
    (statement(Condition=condition("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:role/team/x")), "write …:role/x"),
]


@pytest.mark.parametrize(("one", "words"), MEANINGS)
def test_what_would_not_do_what_it_says_is_refused(one: dict[str, Any], words: str) -> None:
    content = document(statement(), one)
    findings = said(content)
    assert [finding.statement for finding in findings] == ["2"]
    assert re.search(words, findings[0].message), findings
    with pytest.raises(SetupError, match="statement 2"):
        load([("p.json", content)])


WARNINGS: list[tuple[dict[str, Any], str]] = [
    (statement(Action="kms:ReEncrypt"), "ReEncryptFrom and kms:ReEncryptTo"),
    (statement(Action="kms:Decrpt"), "no action of KMS, STS or CloudTrail that is known; the nearest is kms:Decrypt"),
    (statement(Action="s3:*"), "no action of KMS, STS or CloudTrail that is known"),
    (statement(Resource="arn:aws:s3:us-east-1:1:bucket"), "no key and no alias"),
    (statement(Resource="arn:aws:iam::1:role/x"), "no role for an action of STS"),
    (statement(Action="sts:GetCallerIdentity"), "decided by no policy"),
    (statement(Action="sts:AssumeRoles"), "no action of KMS, STS or CloudTrail that is known; the nearest is sts:AssumeRole"),
    (statement(Resource="arn:aws:kms:*:*:alias/x"), "kms:RequestAlias"),
    (statement(Resource="arn:aws:kms:*:*:key/1234"), "kms:Decrypt are denied"),
    (statement(Effect="Allow", Resource="arn:aws:kms:*:*:key/1234"), "kms:Decrypt are not allowed"),
    (statement(Condition=condition("StringEquals", "kms:SigningAlgorithm")), "no call that the statement is about"),
    (statement(Condition=condition("StringEquals", "kms:ViaService")), "no call that the statement is about"),
    (statement(Condition=condition("ForAnyValue:StringEquals", "aws:username")), "needs no ForAnyValue"),
    (statement(Condition=condition("ForAnyValue:StringEqualsIfExists", "kms:EncryptionContextKeys")), "IfExists has no effect"),
]


@pytest.mark.parametrize(("one", "words"), WARNINGS)
def test_what_may_not_be_meant_is_warned_of(one: dict[str, Any], words: str) -> None:
    content = document({"Sid": "TheOne", **one})
    findings = said(content, Severity.WARNING)
    assert not said(content)
    assert [finding.statement for finding in findings] == ["TheOne"]
    assert re.search(words, findings[0].message), findings
    assert str(findings[0]).startswith("p.json, statement TheOne: warning: ")
    load([("p.json", content)])


@pytest.mark.parametrize(
    "one",
    [
        statement(),
        statement(Action="KMS:decrypt"),
        statement(Action=..., NotAction=["kms:List*", "kms:Describe*"]),
        statement(Resource=["arn:aws:kms:eu-central-1:111122223333:key/*", "arn:aws:kms:*:*:alias/*"], Action="kms:*Alias"),
        statement(
            Action="sts:AssumeRole",
            Resource="arn:aws:iam::*:role/ci/*",
            Condition=condition("StringNotEquals", "sts:ExternalId", "x"),
        ),
        statement(Action="kms:ScheduleKeyDeletion", Resource="arn:aws:kms:*:*:key/1234"),
        statement(Action="kms:CreateKey", Condition=condition("StringNotLike", "kms:KeySpec", "RSA_*")),
        statement(Action="kms:ImportKeyMaterial", Condition=condition("NumericLessThan", "kms:ValidTo", 1_767_225_600)),
        statement(Condition={"Null": {"kms:encryptioncontextkeys": True}, "Bool": {"aws:ViaAWSService": False}}),
        statement(Condition=condition("StringEquals", "kms:EncryptionContext:user", "${aws:username, 'nobody'}")),
        statement(Condition=condition("ArnLike", "aws:PrincipalArn", ["arn:aws:iam::1:role/x", "arn:aws:iam::1:user/a/b"])),
    ],
)
def test_what_is_right_is_not_complained_of(one: dict[str, Any]) -> None:
    assert lint.check("p.json", document(one)) == []


def test_variables_want_the_newer_version() -> None:
    one = statement(Condition=condition("StringEquals", "kms:EncryptionContext:user", "${aws:username}"))
    for version in ({"Version": "2008-10-17"}, {}):
        content = json.dumps({"Statement": one, **version}).encode()
        assert [finding.message for finding in said(content, Severity.WARNING)] == [
            'without "Version": "2012-10-17" a policy variable is plain text'
        ]


def test_every_error_of_every_file_is_told_at_once() -> None:
    with pytest.raises(SetupError) as raised:
        load(
            [
                ("a.json", document(statement(Effect="No"), statement(Action="No"))),
                ("b.json", b"{"),
                ("c.json", document(statement())),
            ]
        )
    for words in ("a.json, statement 1", "a.json, statement 2", "b.json: error: not JSON"):
        assert words in str(raised.value)
    assert "c.json" not in str(raised.value)


elements = st.sampled_from(["Version", "Statement", "Effect", "Action", "Resource", "Condition", "StringEquals", "Null", "Sid"])
anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(elements | st.text(), inner),
    max_leaves=20,
)


@given(anything)
def test_no_json_breaks_the_reader(value: Any) -> None:
    found, findings = read("p.json", json.dumps(value).encode())
    assert (found is None) == bool(findings)
    lint.check("p.json", json.dumps(value).encode())


def test_no_condition_key_is_both_known_and_unsupported() -> None:
    assert [name for name in keys.KNOWN_NAMES if keys.is_unsupported(name)] == []
    assert [name for name in keys.UNSUPPORTED if keys.find(name) is not None] == []


# --- Folders ------------------------------------------------------------------------------------------------------------


def test_the_examples_are_right() -> None:
    files = read_folder(EXAMPLES)
    assert [name for name, _ in files] == ["10-name-the-tenant.json", "20-keys-are-kept.json", "30-only-from-our-networks.json"]
    assert [str(finding) for name, content in files for finding in lint.check(name, content)] == []


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "README.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "c.json").symlink_to(tmp_path / "a.json")
    assert read_folder(tmp_path) == [("a.json", b"a.json"), ("b.json", b"b.json"), ("c.json", b"a.json")]


@pytest.mark.parametrize("make", ["folder", "fifo", "dangling"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: str) -> None:
    (tmp_path / "a.json").write_bytes(document(statement()))
    path = tmp_path / "b.json"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "gone")
    with pytest.raises(SetupError, match=r"b\.json is no regular file"):
        read_folder(tmp_path)


def test_a_folder_without_policies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no \*\.json"):
        read_folder(tmp_path)
    with pytest.raises(SetupError, match="cannot be read"):
        read_folder(tmp_path / "gone")
