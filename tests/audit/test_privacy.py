"""Forms of private values: against another implementation, and that nothing but the right key and name reads one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from audit.privacy import WITHHELD, Form, Rules, key_id_of, private_policy
from audit.private_keys import PrivacyKey, SubjectKey

SECRET = bytes(range(32))
KEY = PrivacyKey(SECRET)


def derived(what: bytes) -> bytes:
    """HKDF-Expand (RFC 5869) of one block, with the standard library."""
    return hmac.digest(SECRET, what + b"\x01", "sha256")


@given(st.text(min_size=1), st.text())
def test_a_digest_is_hmac_sha256_over_the_name_and_the_value(name: str, value: str) -> None:
    small = name.lower().encode("utf-8", "surrogatepass")
    told = len(small).to_bytes(4, "big") + small + value.encode("utf-8", "surrogatepass")
    expected = hmac.new(derived(b"keytrail/privacy/hmac"), told, hashlib.sha256).hexdigest()
    assert KEY.digest(name, value) == f"hmac-sha256:{expected}"


def test_digests_differ_by_name_value_and_key_but_not_by_the_case_of_the_name() -> None:
    told = {KEY.digest("patient", "1"), KEY.digest("room", "1"), KEY.digest("patient", "2"), KEY.digest("patien", "t1")}
    assert len(told) == 4
    assert KEY.digest("Patient", "1") == KEY.digest("patient", "1")
    assert PrivacyKey(bytes(32)).digest("patient", "1") != KEY.digest("patient", "1")


@given(st.text(min_size=1), st.text(), st.binary(min_size=12, max_size=12))
def test_an_encrypted_value_is_aes_256_gcm_with_its_name_bound_to_it(name: str, value: str, nonce: bytes) -> None:
    secret = hashlib.sha256(b"a subject").digest()
    stored = SubjectKey.of("0123456789abcdef", secret).encrypted(name, value, nonce)
    scheme, id, text = stored.split(":")
    assert (scheme, id, key_id_of(stored)) == ("aes-256-gcm", "0123456789abcdef", id)
    blob = base64.b64decode(text)
    opened = AESGCM(secret).decrypt(blob[:12], blob[12:], name.encode("utf-8", "surrogatepass"))
    assert opened.decode("utf-8", "surrogatepass") == value
    key = SubjectKey.of(id, secret)
    assert key.decrypted(name, stored) == value
    assert key.decrypted(name + "x", stored) is None
    assert SubjectKey.of(id, bytes(32)).decrypted(name, stored) is None


@pytest.mark.parametrize("text", ["", "note", "aes-256-gcm:0123456789abcdef:", "aes-256-gcm:0123456789ABCDEF:AAAA", WITHHELD])
def test_what_is_no_encrypted_value_is_not_read(text: str) -> None:
    assert key_id_of(text) is None
    assert SubjectKey.of("0123456789abcdef", SECRET).decrypted("note", text) is None


@pytest.mark.parametrize("text", ["aes-256-gcm:0123456789abcdef:AAAA", "aes-256-gcm:0123456789abcdef:A"])
def test_what_was_cut_is_not_read(text: str) -> None:
    assert SubjectKey.of("0123456789abcdef", SECRET).decrypted("note", text) is None


def test_a_seal_opens_with_its_key_for_what_it_is_about() -> None:
    sealed = KEY.seal(b"secret", "this", bytes(12))
    assert KEY.open(sealed, "this") == b"secret"
    assert KEY.open(sealed, "that") is None
    assert KEY.open(sealed[:-1], "this") is None
    assert KEY.open(b"", "this") is None
    assert PrivacyKey(bytes(32)).open(sealed, "this") is None


def test_no_key_tells_itself() -> None:
    shown = repr(KEY) + repr(SubjectKey.of("0123456789abcdef", SECRET))
    assert SECRET.hex() not in shown
    assert str(SECRET) not in shown


# --- rules


def test_rules_by_name() -> None:
    rules = Rules.parse(["Patient-Id=hmac", "note=encrypted:patient-ID", "a=b=clear", "*=hmac"])
    assert [rules.of(name).form for name in ("PATIENT-id", "Note", "a=b", "other")] == [
        Form.HMAC,
        Form.ENCRYPTED,
        Form.CLEAR,
        Form.HMAC,
    ]
    assert rules.of("note").subject == "patient-id"
    assert not rules.are_all_clear
    assert rules.encrypts


def test_without_rules_all_is_clear() -> None:
    assert Rules.parse([]).are_all_clear
    assert Rules.parse(["*=clear", "tenant=clear"]).are_all_clear
    assert not Rules.parse(["tenant=hmac"]).encrypts


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["patient"], "is none of"),
        (["patient=secret"], "is none of"),
        (["=hmac"], "is none of"),
        (["note=encrypted"], "is none of"),
        (["note=encrypted:"], "is none of"),
        (["a=hmac", "A=clear"], "twice"),
        (["note=encrypted:patient"], "needs patient=hmac"),
        (["note=encrypted:note"], "needs note=hmac"),
        (["*=encrypted:patient"], "needs patient=hmac"),
    ],
)
def test_rules_that_cannot_be_followed(words: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Rules.parse(words)


# --- policies


def hidden(name: str, value: str) -> str:
    return "###" if name == "patient" else value


def test_conditions_of_a_policy() -> None:
    document = {
        "Statement": [
            {
                "Sid": "patient",
                "Condition": {
                    "StringEquals": {"kms:EncryptionContext:patient": ["1", "2"], "KMS:encryptionCONTEXT:tenant": "acme"},
                    "StringLike": {"kms:EncryptionContext:patient": "3*", "aws:PrincipalTag/patient": "4"},
                },
            }
        ]
    }
    told = json.loads(private_policy(json.dumps(document), hidden))
    [statement] = told["Statement"]
    assert statement["Condition"] == {
        "StringEquals": {"kms:EncryptionContext:patient": ["###", "###"], "KMS:encryptionCONTEXT:tenant": "acme"},
        "StringLike": {"kms:EncryptionContext:patient": "###", "aws:PrincipalTag/patient": "4"},
    }
    assert statement["Sid"] == "patient"


def test_a_policy_about_no_context_stays_as_it_is() -> None:
    text = '{ "Statement" : [] }'
    assert private_policy(text, hidden) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"Condition":{"StringEquals":{"kms:\\u0045ncryptionContext:patient":"canary"}}}',
        '{"Condition":{"StringEquals":{"kms:EncryptionContext:patient":"canary"}},"Condition":{}}',
        '{"Condition":{"StringEquals":{"kms:EncryptionContext:patient":"canary"}}',
        '["kms:EncryptionContext:patient","canary"]',
        '{"Condition":{"Bool":{"kms:EncryptionContext:patient":{"canary":"canary"}}}}',
        '{"Condition":' * 900 + '{"kms:EncryptionContext:patient":"canary"}' + "}" * 900,
    ],
)
def test_no_spelling_gets_a_value_through(text: str) -> None:
    assert "canary" not in private_policy(text, hidden)
