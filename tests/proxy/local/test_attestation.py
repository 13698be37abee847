"""Attestation documents: one rule broken at a time; who is attested gets the answer, and nobody sees it in the clear."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any  # values of a document, and members of requests: JSON and more

import cbor2
import pytest
from botocore.session import get_session
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA224, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.local.attestation.cbor import NotCbor, read
from proxy.backends.local.attestation.document import BadDocument
from proxy.backends.local.attestation.envelope import envelop
from proxy.backends.local.attestation.verification import verify
from proxy.backends.local.attested import PLAINTEXT
from proxy.backends.local.backend import CHANGES, READINGS, WORKS
from proxy.domain import Attested
from tests.proxy.local.enclave import MODULE_ID, NOW, PCRS, Enclave, Holder, Nitro, Wish, leaf
from tests.proxy.local.policies import document, of_account, statement
from tests.proxy.local.world import START_S, World

NITRO = Nitro()
ENCLAVE = Enclave(NITRO)
KEY = ENCLAVE.public_key
ROOTS = (NITRO.root.certificate,)


@pytest.fixture
def attesting(tmp_path: Path) -> Iterator[World]:
    """A world that believes this Nitro system."""
    world = World(tmp_path / "keystore.db", attestation_roots=ROOTS)
    yield world
    world.close()


def opened(enveloped: bytes, enclave: Enclave, folder: Path) -> bytes:
    """What the enclave reads, by OpenSSL's own reader of CMS."""
    key, message = folder / "key.pem", folder / "message.ber"
    key.write_bytes(enclave.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    message.write_bytes(enveloped)
    run = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", str(message), "-inkey", str(key)]
    return subprocess.run(run, check=True, capture_output=True).stdout


# --- the document


def test_a_good_document_says_who_made_it() -> None:
    recipient = verify(NITRO.document(KEY), ROOTS, START_S)
    assert recipient.attested == Attested(MODULE_ID, {index: value.hex() for index, value in PCRS.items()})
    assert recipient.key == ENCLAVE.key.public_key()
    assert recipient.attested.conditions["kms:RecipientAttestation:ImageSha384"] == PCRS[0].hex()
    assert recipient.attested.conditions["kms:RecipientAttestation:PCR8"] == PCRS[8].hex()
    assert verify(NITRO.sign(cbor2.dumps(NITRO.fields(KEY)), tagged=True), ROOTS, START_S) == recipient


def test_an_instance_with_a_nitrotpm_has_condition_keys_of_its_own() -> None:
    data = NITRO.document(KEY, pcrs=..., nitrotpm_pcrs={4: b"\x04" * 48, 7: b"\x07" * 48})
    attested = verify(data, ROOTS, START_S).attested
    assert attested.is_tpm
    assert attested.conditions == {
        "kms:RecipientAttestation:NitroTPMPCR4": "04" * 48,
        "kms:RecipientAttestation:NitroTPMPCR7": "07" * 48,
    }


def test_optional_fields_up_to_their_limits() -> None:
    assert verify(NITRO.document(KEY, user_data=b"u" * 512, nonce=b"n" * 512), ROOTS, START_S).attested.module_id == MODULE_ID
    assert verify(NITRO.document(KEY, user_data=..., nonce=b""), ROOTS, START_S).attested.module_id == MODULE_ID
    assert verify(NITRO.document(KEY, pcrs=dict.fromkeys(range(32), b"p" * 64)), ROOTS, START_S).attested.module_id == MODULE_ID


def _der(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


FIELDS: list[tuple[str, dict[Any, Any], str]] = [
    *[(f"no {name}", {name: ...}, f"has no {name}") for name in ("module_id", "digest", "timestamp", "certificate", "cabundle")],
    *[
        (f"{name} null", {name: None}, f"field {name}")
        for name in ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
    ],
    ("no pcrs", {"pcrs": ...}, "either pcrs or nitrotpm_pcrs"),
    ("both kinds of pcrs", {"nitrotpm_pcrs": PCRS}, "either pcrs or nitrotpm_pcrs"),
    ("a field that is not known", {"role": "admin"}, "not known"),
    ("a key that is a number", {7: b""}, "not known"),
    ("module_id empty", {"module_id": ""}, "field module_id"),
    ("module_id bytes", {"module_id": b"x"}, "field module_id"),
    ("another digest", {"digest": "SHA256"}, "field digest"),
    ("timestamp zero", {"timestamp": 0}, "field timestamp"),
    ("timestamp negative", {"timestamp": -1}, "field timestamp"),
    ("timestamp text", {"timestamp": "now"}, "field timestamp"),
    ("pcrs empty", {"pcrs": {}}, "field pcrs"),
    ("pcrs a list", {"pcrs": [b"p" * 48]}, "field pcrs"),
    ("pcr 32", {"pcrs": {32: b"p" * 48}}, "field pcrs"),
    ("pcr -1", {"pcrs": {-1: b"p" * 48}}, "field pcrs"),
    ("pcr by a name", {"pcrs": {"0": b"p" * 48}}, "field pcrs"),
    ("pcr of 47 bytes", {"pcrs": {0: b"p" * 47}}, "field pcrs"),
    ("pcr as text", {"pcrs": {0: "p" * 48}}, "field pcrs"),
    ("certificate empty", {"certificate": b""}, "field certificate"),
    ("certificate too long", {"certificate": b"c" * 1025}, "field certificate"),
    ("certificate rubbish", {"certificate": b"c" * 600}, "cannot be read"),
    ("certificate with something behind it", {"certificate": NITRO.signer.der + b"\0"}, "cannot be read"),
    ("cabundle empty", {"cabundle": []}, "field cabundle"),
    ("cabundle of text", {"cabundle": ["x"]}, "field cabundle"),
    ("an issuer missing", {"cabundle": NITRO.cabundle[:2]}, "do not follow"),
    ("the order reversed", {"cabundle": NITRO.cabundle[::-1]}, "do not begin with a root"),
    ("the root left out", {"cabundle": NITRO.cabundle[1:]}, "do not begin with a root"),
    ("public_key empty", {"public_key": b""}, "field public_key"),
    ("public_key too long", {"public_key": b"k" * 1025}, "field public_key"),
    ("public_key missing", {"public_key": ...}, "has no public_key"),
    ("public_key null", {"public_key": None}, "has no public_key"),
    ("public_key rubbish", {"public_key": b"k" * 300}, "cannot be read"),
    ("public_key of a curve", {"public_key": _der(ec.generate_private_key(ec.SECP256R1()))}, "not an RSA key"),
    ("public_key short", {"public_key": _der(rsa.generate_private_key(65537, 1024))}, "at least 2048"),  # noqa: S505 - that is the fault
    ("user_data too long", {"user_data": b"u" * 513}, "field user_data"),
    ("nonce as text", {"nonce": "n"}, "field nonce"),
]


@pytest.mark.parametrize(("changed", "reason"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
def test_a_field_that_is_not_as_it_must_be(changed: dict[Any, Any], reason: str) -> None:
    fields = NITRO.fields(KEY) | changed
    data = NITRO.sign(cbor2.dumps({name: value for name, value in fields.items() if value is not ...}))
    with pytest.raises(BadDocument, match=reason):
        verify(data, ROOTS, START_S)


def _with_twice_a_member() -> bytes:
    fields = cbor2.dumps(NITRO.fields(KEY))
    return bytes((fields[0] + 1,)) + fields[1:] + cbor2.dumps("nonce") + cbor2.dumps(b"x")


PAYLOAD = cbor2.dumps(NITRO.fields(KEY))
SIGNING: list[tuple[str, Callable[[], bytes], str]] = [
    ("another algorithm", lambda: NITRO.sign(PAYLOAD, protected=cbor2.dumps({1: -7})), "not signed by ES384"),
    ("another header", lambda: NITRO.sign(PAYLOAD, protected=cbor2.dumps({1: -35, 4: b"k"})), "not signed by ES384"),
    ("no header", lambda: NITRO.sign(PAYLOAD, protected=b""), "not well-formed"),
    ("an unprotected header", lambda: NITRO.sign(PAYLOAD, unprotected={4: b"k"}), "COSE_Sign1"),
    ("signed by another key", lambda: NITRO.sign(PAYLOAD, key=ec.generate_private_key(ec.SECP384R1())), "signature"),
    ("signed with another hash", lambda: NITRO.sign(PAYLOAD, hash=SHA256()), "signature"),
    ("a signature that is short", lambda: NITRO.sign(PAYLOAD, spoil=lambda parts: parts.append(parts.pop()[:95])), "length"),
    (
        "a signature of zeros",
        lambda: NITRO.sign(PAYLOAD, spoil=lambda parts: parts.append(b"\0" * len(parts.pop()))),
        "signature",
    ),
    ("a part too many", lambda: NITRO.sign(PAYLOAD, spoil=lambda parts: parts.append(b"")), "COSE_Sign1"),
    ("a part too few", lambda: NITRO.sign(PAYLOAD, spoil=lambda parts: parts.pop()), "COSE_Sign1"),
    ("another tag", lambda: b"\xd1" + NITRO.sign(PAYLOAD), "not well-formed"),
    ("twice a tag", lambda: b"\xd2\xd2" + NITRO.sign(PAYLOAD), "not well-formed"),
    ("something behind it", lambda: NITRO.sign(PAYLOAD) + b"\0", "follows the end"),
    ("cut off", lambda: NITRO.sign(PAYLOAD)[:-1], "ends too early"),
    ("nothing", lambda: b"\x00", "COSE_Sign1"),
    ("a member twice", lambda: NITRO.sign(_with_twice_a_member()), "twice"),
    ("a payload of another kind", lambda: NITRO.sign(cbor2.dumps([1])), "not a map"),
    ("an empty payload", lambda: NITRO.sign(b""), "payload"),
    ("a payload too long", lambda: NITRO.sign(b"x" * 16_385), "payload"),
    ("an indefinite length", lambda: b"\x9f" + NITRO.sign(PAYLOAD)[1:] + b"\xff", "not well-formed"),
    ("a length too long", lambda: b"\x98\x04" + NITRO.sign(PAYLOAD)[1:], "longer form"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in SIGNING], ids=[row[0] for row in SIGNING])
def test_a_signature_or_form_that_is_not_as_it_must_be(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BadDocument, match=reason):
        verify(make(), ROOTS, START_S)


HOUR = timedelta(hours=1)
CHAINS: list[tuple[str, Callable[[], Nitro], str]] = [
    ("root expired", lambda: Nitro(root=Wish("r", end=NOW - timedelta(seconds=1))), "expired"),
    ("issuer expired", lambda: Nitro(middle=Wish("m", end=NOW - timedelta(seconds=1))), "expired"),
    ("signer expired", lambda: Nitro(last=leaf(end=NOW - timedelta(seconds=1))), "expired"),
    ("signer not valid yet", lambda: Nitro(last=leaf(start=NOW + timedelta(seconds=1))), "not valid yet"),
    ("issuer no authority", lambda: Nitro(middle=Wish("m", is_ca=False)), "no certificate authority"),
    ("issuer without constraints", lambda: Nitro(middle=Wish("m", has_constraints=False)), "no certificate authority"),
    ("constraints not critical", lambda: Nitro(middle=Wish("m", constraints_critical=False)), "no certificate authority"),
    ("root allows one less", lambda: Nitro(root=Wish("r", path_length=1)), "more than an issuer allows"),
    ("issuer allows one less", lambda: Nitro(middle=Wish("m", path_length=0)), "more than an issuer allows"),
    ("issuer may not sign", lambda: Nitro(middle=Wish("m", signs_certificates=False, signs=True)), "may not sign certificates"),
    ("issuer without usage", lambda: Nitro(middle=Wish("m", has_usage=False)), "may not sign certificates"),
    ("signer an authority", lambda: Nitro(last=leaf(is_ca=True)), "is a certificate authority"),
    ("signer may not sign", lambda: Nitro(last=leaf(signs=False)), "may not sign"),
    ("signer without usage", lambda: Nitro(last=leaf(has_usage=False)), "may not sign"),
    ("signer of another curve", lambda: Nitro(last=leaf(curve=ec.SECP521R1())), "no P-384 key"),
    ("an extension that is not known", lambda: Nitro(middle=Wish("m", unknown_critical=True)), "critical extension"),
    ("a weak hash", lambda: Nitro(last=leaf(hash=SHA224())), "weak hash"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_certificates_that_are_not_as_they_must_be(make: Callable[[], Nitro], reason: str) -> None:
    nitro = make()
    key = NITRO.signer.key if not isinstance(nitro.signer.key.curve, ec.SECP384R1) else None
    with pytest.raises(BadDocument, match=reason):
        verify(nitro.sign(cbor2.dumps(nitro.fields(KEY)), key=key), (nitro.root.certificate,), START_S)


def test_chains_that_are_just_long_enough_are_believed() -> None:
    nitro = Nitro(root=Wish("r", path_length=2), middle=Wish("m", path_length=1), last=leaf(has_constraints=False))
    assert verify(nitro.document(KEY), (nitro.root.certificate,), START_S).attested.module_id == MODULE_ID


def test_certificates_are_valid_up_to_their_last_second() -> None:
    last = START_S + 3 * 3600
    assert verify(NITRO.document(KEY), ROOTS, last).attested.module_id == MODULE_ID
    with pytest.raises(BadDocument, match="expired"):
        verify(NITRO.document(KEY), ROOTS, last + 1)


def test_another_root_of_the_same_name_is_not_trusted() -> None:
    with pytest.raises(BadDocument, match="root that is trusted"):
        verify(Nitro().document(KEY), ROOTS, START_S)


def test_a_root_of_the_same_name_and_an_issuer_of_another_do_not_follow() -> None:
    other = Nitro()
    with pytest.raises(BadDocument, match="do not follow"):
        verify(other.document(KEY, cabundle=[NITRO.root.der, *other.cabundle[1:]]), ROOTS, START_S)


def test_a_signer_by_the_root_alone_is_believed() -> None:
    nitro = Nitro()
    nitro.signer = Holder(leaf(), nitro.root)
    assert (
        verify(nitro.document(KEY, cabundle=[nitro.root.der]), (nitro.root.certificate,), START_S).attested.module_id == MODULE_ID
    )


DOCUMENT = NITRO.document(KEY)


@given(st.integers(0, len(DOCUMENT) * 8 - 1))
def test_a_document_with_a_bit_changed_is_not_believed(bit: int) -> None:
    changed = bytearray(DOCUMENT)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadDocument):
        verify(bytes(changed), ROOTS, START_S)


# --- CBOR

PLAIN = st.none() | st.integers(0, 2**64 - 1) | st.integers(-(2**64), -1) | st.binary(max_size=300) | st.text(max_size=100)
NESTED = st.lists(PLAIN, max_size=30) | st.dictionaries(st.integers(0, 2**64 - 1) | st.text(max_size=30), PLAIN, max_size=30)


@given(PLAIN | NESTED | st.lists(NESTED, max_size=3))
def test_what_another_writer_wrote_is_read(value: Any) -> None:
    assert read(cbor2.dumps(value)) == value


@given(st.binary(max_size=100))
def test_what_is_read_is_what_another_writer_would_write(data: bytes) -> None:
    try:
        value = read(data)
    except NotCbor:
        return
    assert cbor2.dumps(value) == data.removeprefix(b"\xd2")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81" * 200_000,
        b"\x9b\x00\x00\x00\x7f\xff\xff\xff\xff",
        b"\x5b\x00\x00\x00\x7f\xff\xff\xff\xff",
        b"\xbb" + b"\xff" * 8,
    ]
    + [cbor2.dumps(value) for value in (1.5, True, cbor2.undefined, NOW, {b"x": 1}, {(1,): 1}, cbor2.CBORTag(35, "("))],
)
def test_what_has_no_place_in_a_document_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(NotCbor):
        read(data)


# --- the envelope


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1_024, 4_096])
@pytest.mark.parametrize("bits", [2048, 4096])
def test_openssl_opens_the_envelope(size: int, bits: int, tmp_path: Path) -> None:
    enclave = ENCLAVE if bits == 2048 else Enclave(NITRO, bits)
    plaintext = bytes(range(256)) * 16
    enveloped = envelop(enclave.key.public_key(), enclave.public_key, plaintext[:size], lambda count: b"r" * count)
    assert opened(enveloped, enclave, tmp_path) == plaintext[:size]


def test_the_envelope_is_framed_as_aws_frames_it() -> None:
    """The frame of an answer of AWS KMS, with key, identifier, IV and content taken out."""
    enveloped = envelop(ENCLAVE.key.public_key(), KEY, b"x" * 28, lambda count: b"r" * count)
    assert len(enveloped) == 477
    assert enveloped.startswith(bytes.fromhex("308006092a864886f70d010703a08030800201023182016b308201670201028020"))
    assert bytes.fromhex("303c06092a864886f70d010107302fa00f300d06096086480165030402010500a11c301a") in enveloped
    head = bytes.fromhex("308006092a864886f70d010701301d060960864801650304012a0410") + b"r" * 16 + bytes.fromhex("a0800420")
    assert enveloped[:-42].endswith(head)
    assert enveloped.endswith(b"\0" * 10)


# --- the operations

CALLS: dict[str, dict[str, Any]] = {
    "Decrypt": {},
    "GenerateDataKey": {"KeySpec": "AES_256"},
    "GenerateDataKeyPair": {"KeyPairSpec": "ECC_NIST_P256"},
    "GenerateRandom": {"NumberOfBytes": 32},
    "DeriveSharedSecret": {"KeyAgreementAlgorithm": "ECDH"},
}
PEER = ec.generate_private_key(ec.SECP256R1())


def _ask(world: World, operation: str, recipient: object, **more: object) -> dict[str, Any]:
    """The members of a request that is answered but for its recipient."""
    members = CALLS[operation] | {"Recipient": recipient} | more
    if operation == "DeriveSharedSecret":
        members["KeyId"] = world.new_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
        members["PublicKey"] = PEER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    elif operation != "GenerateRandom":
        members["KeyId"] = world.new_key()
    if operation == "Decrypt":
        members["CiphertextBlob"] = world("Encrypt", KeyId=members["KeyId"], Plaintext=b"secret")["CiphertextBlob"]
    return members


@pytest.mark.parametrize("operation", CALLS)
def test_who_is_attested_gets_the_answer_and_nobody_else(attesting: World, operation: str, tmp_path: Path) -> None:
    asked = _ask(attesting, operation, ENCLAVE.recipient())
    answer = attesting.ask(operation, **asked)
    assert not {"Plaintext", "PrivateKeyPlaintext", "SharedSecret"} & answer.members.keys()
    assert ("KeyMaterialId" in answer.members) == (operation == "GenerateDataKeyPair")
    secret = opened(answer.members["CiphertextForRecipient"], ENCLAVE, tmp_path)
    match operation:
        case "Decrypt":
            assert secret == b"secret" and answer.members["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
        case "GenerateDataKey":
            assert len(secret) == 32
            assert attesting("Decrypt", CiphertextBlob=answer.members["CiphertextBlob"])["Plaintext"] == secret
        case "GenerateDataKeyPair":
            private = load_der_private_key(secret, None)
            public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert public == answer.members["PublicKey"]
            assert attesting("Decrypt", CiphertextBlob=answer.members["PrivateKeyCiphertextBlob"])["Plaintext"] == secret
        case "DeriveSharedSecret":
            own = load_der_public_key(attesting("GetPublicKey", KeyId=asked["KeyId"])["PublicKey"])
            assert isinstance(own, ec.EllipticCurvePublicKey)
            assert secret == PEER.exchange(ec.ECDH(), own)
        case "GenerateRandom":
            assert len(secret) == 32
    assert len(answer.keys) == (operation != "GenerateRandom")


@pytest.mark.parametrize("operation", CALLS)
def test_a_document_that_is_not_believed_is_refused(attesting: World, operation: str) -> None:
    refusal = attesting.refused(operation, **_ask(attesting, operation, ENCLAVE.recipient(digest="SHA1")))
    assert refusal.code == "ValidationException"
    assert refusal.message == "The field digest of the attestation document is not as it must be."


@pytest.mark.parametrize("operation", CALLS)
def test_without_a_root_there_are_no_answers_for_recipients(world: World, operation: str) -> None:
    refusal = world.refused(operation, **_ask(world, operation, ENCLAVE.recipient()))
    assert refusal.code == "UnsupportedOperationException" and "attestation_root" in (refusal.message or "")


@pytest.mark.parametrize(
    ("recipient", "message"),
    [
        ({}, "Recipient must have AttestationDocument."),
        ({"AttestationDocument": DOCUMENT}, "Recipient must have KeyEncryptionAlgorithm."),
        ({"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, "Recipient must have AttestationDocument."),
    ],
)
def test_a_recipient_is_whole(attesting: World, recipient: dict[str, Any], message: str) -> None:
    refusal = attesting.refused("GenerateRandom", NumberOfBytes=16, Recipient=recipient)
    assert (refusal.code, refusal.message) == ("ValidationException", message)


def test_a_dry_run_looks_at_the_document_too(attesting: World) -> None:
    good, bad = ENCLAVE.recipient(), ENCLAVE.recipient(digest="SHA1")
    for operation in ("Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "DeriveSharedSecret"):
        members = _ask(attesting, operation, good, DryRun=True)
        assert attesting.refused(operation, **members).code == "DryRunOperationException"
        assert attesting.refused(operation, **members | {"Recipient": bad}).code == "ValidationException"


def test_the_operations_own_refusals_stay(attesting: World) -> None:
    members = _ask(attesting, "Decrypt", ENCLAVE.recipient())
    attesting("DisableKey", KeyId=members["KeyId"])
    assert attesting.refused("Decrypt", **members).code == "DisabledException"
    blob = members["CiphertextBlob"][:-1] + b"\0"
    attesting("EnableKey", KeyId=members["KeyId"])
    assert attesting.refused("Decrypt", **members | {"CiphertextBlob": blob}).code == "InvalidCiphertextException"


def test_a_document_is_good_as_long_as_its_certificates(attesting: World) -> None:
    members = _ask(attesting, "GenerateRandom", ENCLAVE.recipient())
    attesting.clock.now_s += 3 * 3600 - 1
    assert attesting("GenerateRandom", **members)["CiphertextForRecipient"]
    attesting.clock.now_s += 2
    assert "expired" in (attesting.refused("GenerateRandom", **members).message or "")


def test_a_key_policy_can_ask_for_what_is_measured(attesting: World) -> None:
    measured = {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": PCRS[0].hex()}}
    members = _ask(attesting, "Decrypt", ENCLAVE.recipient())
    [key] = attesting("ListKeys")["Keys"]
    policy = document(of_account(), statement("Deny", "kms:Decrypt", "*", Condition=measured))
    attesting("PutKeyPolicy", KeyId=key["KeyId"], Policy=policy)
    assert "CiphertextForRecipient" in attesting("Decrypt", **members)
    other = ENCLAVE.recipient(pcrs=PCRS | {0: b"\xff" * 48})
    assert attesting.refused("Decrypt", **members | {"Recipient": other}).code == "AccessDeniedException"
    del members["Recipient"]
    assert attesting.refused("Decrypt", **members).code == "AccessDeniedException"


def test_every_operation_of_the_service_model_with_a_recipient_has_its_plaintext_taken_out() -> None:
    model = get_session().get_service_model("kms")
    with_recipient = {}
    for name in model.operation_names:
        operation = model.operation_model(name)
        if operation.input_shape is not None and "Recipient" in operation.input_shape.members:
            with_recipient[name] = set(operation.output_shape.members if operation.output_shape is not None else ())
    assert with_recipient.keys() == PLAINTEXT.keys()
    assert all(member in with_recipient[name] for name, member in PLAINTEXT.items())


def test_an_operation_that_has_no_recipient_refuses_one(attesting: World) -> None:
    for operation in sorted({*READINGS, *CHANGES, *WORKS} - PLAINTEXT.keys()):
        assert attesting.refused(operation, Recipient=ENCLAVE.recipient()).code == "UnsupportedOperationException"
