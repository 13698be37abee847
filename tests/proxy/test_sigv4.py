"""Verifying signatures: what botocore signs is accepted, what is changed by a byte is not, and each refusal has AWS's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.domain import Origin, Principal, RawRequest
from proxy.sigv4 import AuthenticationFailed, SeenSignatures, SigningKeys, Verifier, sign
from proxy.sigv4.canonical import SignedHeaders, canonical_request, gather_headers, string_to_sign
from proxy.sigv4.verify import _MAX_KNOWN_CLAIMS, _ONCE

ALICE = Principal("IAMUser", "arn:aws:iam::111122223333:user/alice", "111122223333", "AKIAALICE", "AIDAALICE", "alice")
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW_US = 1_700_000_000_000_000
NOW = b"20231114T221320Z"
BODY = b'{"KeyId":"alias/app","KeySpec":"AES_256"}'
HEADERS = (
    (b"content-type", b"application/x-amz-json-1.1"),
    (b"host", b"127.0.0.1:8443"),
    (b"x-amz-date", NOW),
    (b"x-amz-target", b"TrentService.GenerateDataKey"),
)
TOKEN = (b"x-amz-security-token", b"FwoGZXIvYXdzEXAMPLE")
INVALID, INCOMPLETE = "InvalidSignatureException", "IncompleteSignatureException"
INVALID_TOKEN = ("UnrecognizedClientException", "The security token included in the request is invalid.")
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing "
    "method. Consult the service documentation for details."
)


@dataclass
class KnownCaller:
    principal: Principal = ALICE
    secret_access_key: str = SECRET
    session_token: str | None = None
    enabled: bool = True


@dataclass
class PassingCaller(KnownCaller):
    expires_us: int = 0


def verifier(caller: KnownCaller | None = None) -> Verifier:
    known = caller or KnownCaller()
    return Verifier({"AKIAALICE": known}.get)


def request(
    headers: tuple[tuple[bytes, bytes], ...] = HEADERS,
    *,
    target: bytes = b"/",
    body: bytes = BODY,
    key_id: str = "AKIAALICE",
    secret: str = SECRET,
    region: str = "eu-west-1",
    service: str = "kms",
) -> RawRequest:
    """A request whose every header is signed."""
    value = sign(b"POST", target, headers, body, access_key_id=key_id, secret_access_key=secret, region=region, service=service)
    return RawRequest(b"POST", target, (*headers, (b"authorization", value)), body, Origin("192.0.2.1"), NOW_US)


def with_header(raw: RawRequest, name: bytes, value: bytes | None) -> RawRequest:
    """`raw` with the header set anew after signing, or taken away."""
    kept = tuple(pair for pair in raw.headers if pair[0] != name)
    return replace(raw, headers=kept if value is None else (*kept, (name, value)))


def authorization(raw: RawRequest) -> bytes:
    value = dict(raw.headers).get(b"authorization")
    assert value is not None
    return value


def refusal(raw: RawRequest, caller: KnownCaller | None = None, now_us: int = NOW_US) -> AuthenticationFailed:
    """Why `raw` is refused: the same by a verifier that never met its caller and by one that knows the caller's claims."""
    told = []
    for checks in (verifier(caller), acquainted(caller or KnownCaller())):
        with pytest.raises(AuthenticationFailed) as caught:
            checks.verify(raw, now_us)
        told.append(caught.value)
    assert caught.value.status == 400
    assert str(told[0]) == str(told[1]) and vars(told[0]) == vars(told[1])
    return caught.value


def acquainted(caller: KnownCaller) -> Verifier:
    """A verifier that has verified requests of the caller, as it was then, and remembers how they are signed."""
    found = KnownCaller()
    checks = Verifier(lambda key_id: found if key_id == "AKIAALICE" else None)
    checks.verify(request(), NOW_US)
    found = KnownCaller(session_token=TOKEN[1].decode())
    checks.verify(request((*HEADERS, TOKEN)), NOW_US)
    assert len(checks._known) == 2
    found = caller
    return checks


def test_a_signed_request_is_verified() -> None:
    raw = request()
    verified = verifier().verify(raw, NOW_US)
    assert (verified.principal, verified.region) == (ALICE, "eu-west-1")
    assert authorization(raw).endswith(verified.signature.encode())


def test_headers_that_are_not_signed_do_not_matter() -> None:
    raw = with_header(request(), b"amz-sdk-invocation-id", b"1")
    assert verifier().verify(raw, NOW_US) == verifier().verify(request(), NOW_US)


@pytest.mark.parametrize("separator", [b",", b",   ", b" , "])
def test_the_parameters_may_stand_in_any_order(separator: bytes) -> None:
    raw = request()
    first, *rest = authorization(raw).replace(b"AWS4-HMAC-SHA256 ", b"").split(b", ")
    shuffled = b"AWS4-HMAC-SHA256 " + separator.join([*reversed(rest), first])
    assert verifier().verify(with_header(raw, b"authorization", shuffled), NOW_US).principal == ALICE


REGIONS = ["us-east-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "eusc-de-east-1"]


@pytest.mark.parametrize("region", REGIONS)
def test_regions_of_every_partition(region: str) -> None:
    assert verifier().verify(request(region=region), NOW_US).region == region


@pytest.mark.parametrize("date", [b"Tue, 14 Nov 2023 22:13:20 GMT", b"Tue, 14 Nov 2023 22:13:20 -0000", NOW])
def test_the_date_header_stands_in_for_x_amz_date(date: bytes) -> None:
    headers = tuple((b"date", date) if name == b"x-amz-date" else (name, value) for name, value in HEADERS)
    assert verifier().verify(replace(request(), headers=sign_by_hand(headers)), NOW_US).principal == ALICE


def sign_by_hand(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Signed headers for a request without x-amz-date, its timestamp NOW."""
    signed = SignedHeaders(b";".join(sorted({name for name, _ in headers})))
    canonical = canonical_request(b"POST", b"/", gather_headers(headers), signed, sha256(BODY).hexdigest().encode())
    scope = NOW[:8] + b"/eu-west-1/kms/aws4_request"
    signature = SigningKeys().sign(SECRET, scope, string_to_sign(NOW, scope, canonical)).encode()
    value = b"AWS4-HMAC-SHA256 Credential=AKIAALICE/%b, SignedHeaders=%b, Signature=%b" % (scope, signed.line, signature)
    return (*headers, (b"authorization", value))


# --- against botocore's own signer

NAMES = st.from_regex(r"[A-Z][A-Za-z]{3,20}", fullmatch=True)
TOKENS = st.none() | st.text("ABCDEFabcdef0123456789+/=", min_size=16, max_size=400)
PATHS = st.lists(st.text("abcXYZ019-._~ %é", max_size=6), max_size=3).map(lambda parts: "/" + "/".join(parts))
PORTS = st.sampled_from(["", ":8443", ":1"])
EXTRA = st.text("abc \t,;=", max_size=20)


@settings(max_examples=300, deadline=None)
@given(NAMES, TOKENS, PATHS, PORTS, EXTRA, st.binary(max_size=300), st.sampled_from(REGIONS))
def test_what_botocore_signs_is_verified(
    operation: str, token: str | None, path: str, port: str, extra: str, body: bytes, region: str
) -> None:
    raw, timestamp_us = sign_with_botocore(operation, token, path, port, extra, body, region)
    verified = verifier(KnownCaller(session_token=token)).verify(raw, timestamp_us)
    assert (verified.principal, verified.region) == (ALICE, region)


def sign_with_botocore(
    operation: str, token: str | None, path: str, port: str, extra: str, body: bytes, region: str
) -> tuple[RawRequest, int]:
    path = quote(path, safe="/")  # as urllib3 puts it on the wire
    sent = {"X-Amz-Target": f"TrentService.{operation}", "Content-Type": "application/x-amz-json-1.1", "X-Custom": extra}
    prepared = AWSRequest("POST", f"https://kms.example.org{port}{path}", headers=sent, data=body)
    SigV4Auth(Credentials("AKIAALICE", SECRET, token), "kms", region).add_auth(prepared)
    headers = [(b"host", f"kms.example.org{port}".encode()), (b"amz-sdk-request", b"attempt=1")]
    headers += [(name.lower().encode(), value.strip().encode()) for name, value in prepared.headers.items()]
    stamp = datetime.strptime(prepared.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    raw = RawRequest(b"POST", path.encode(), tuple(headers), body, Origin("192.0.2.1"), 0)
    return raw, int(stamp.timestamp()) * 1_000_000


@given(st.binary(max_size=60), st.text("abcXYZ/.~- %?&=é", max_size=20), EXTRA)
@settings(max_examples=200, deadline=None)
def test_sign_and_verify_agree(body: bytes, path: str, extra: str) -> None:
    headers = (*HEADERS, (b"x-custom", extra.strip().encode()))
    raw = request(headers, target=b"/" + path.encode(), body=body)
    assert verifier().verify(raw, NOW_US).principal == ALICE


def test_header_names_may_hold_any_character_of_a_token() -> None:
    raw = request((*HEADERS, (b"x-100%b!#$&'*+.^_`|~", b"100%b")))
    assert verifier().verify(raw, NOW_US).principal == ALICE
    assert refusal(with_header(raw, b"x-100%b!#$&'*+.^_`|~", b"100%d")).message == MISMATCH


def test_a_single_signed_header_has_the_same_form() -> None:
    canonical = canonical_request(b"GET", b"/", {b"host": b"a  b"}, SignedHeaders(b"host"), b"00")
    assert canonical == b"GET\n/\n\nhost:a b\n\nhost\n00"


# --- changed requests


def one_bit_off(original: bytes) -> Iterator[bytes]:
    for position in range(len(original)):
        for bit in range(8):
            changed = bytearray(original)
            changed[position] ^= 1 << bit
            yield bytes(changed)


def test_every_changed_bit_of_body_target_and_method_is_refused() -> None:
    raw = request(target=b"/team-a")
    mutants = [replace(raw, body=changed) for changed in one_bit_off(raw.body)]
    mutants += [replace(raw, target=changed) for changed in one_bit_off(raw.target)]
    mutants += [replace(raw, method=changed) for changed in one_bit_off(raw.method)]
    for mutant in mutants:
        assert refusal(mutant).code == INVALID, mutant


@pytest.mark.parametrize("name", [name for name, _ in (*HEADERS, TOKEN)])
def test_every_changed_bit_of_a_signed_header_is_refused(name: bytes) -> None:
    caller = KnownCaller(session_token=TOKEN[1].decode())
    raw = request((*HEADERS, TOKEN))
    assert verifier(caller).verify(raw, NOW_US).principal == ALICE
    original = dict(raw.headers).get(name)
    assert original is not None
    for changed in one_bit_off(original):
        refusal(with_header(raw, name, changed), caller)


@pytest.mark.parametrize("name", [name for name, _ in HEADERS])
def test_a_signed_header_that_is_gone_is_refused(name: bytes) -> None:
    refusal(with_header(request(), name, None))


def test_every_changed_digit_of_the_signature_is_refused() -> None:
    raw = request()
    value = authorization(raw)
    for position in range(len(value) - 64, len(value)):
        changed = value[:position] + (b"0" if value[position : position + 1] != b"0" else b"1") + value[position + 1 :]
        assert refusal(with_header(raw, b"authorization", changed)).message == MISMATCH
    for signature in (value[-64:].upper(), value[-64:-1], value[-64:] + b"0", b"\xff" * 64):
        assert refusal(with_header(raw, b"authorization", value[:-64] + signature)).message == MISMATCH


@pytest.mark.parametrize("payload", [b"UNSIGNED-PAYLOAD", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", b"0" * 64, b""])
def test_the_body_is_always_hashed(payload: bytes) -> None:
    assert refusal(request((*HEADERS, (b"x-amz-content-sha256", payload)))).message == MISMATCH


def test_the_hash_of_the_body_may_be_sent() -> None:
    headers = (*HEADERS, (b"x-amz-content-sha256", sha256(BODY).hexdigest().encode()))
    assert verifier().verify(request(headers), NOW_US).principal == ALICE


@pytest.mark.parametrize("name", sorted(_ONCE))
def test_headers_that_decide_must_not_stand_twice(name: bytes) -> None:
    raw = request()
    value = dict(raw.headers).get(name) or b"x"
    twice = replace(raw, headers=(*raw.headers, (name, value), (name, value)))
    assert refusal(twice).message == f"Header '{name.decode()}' must not be sent more than once."


def test_a_repeated_header_is_signed_as_one() -> None:
    raw = replace(request(), headers=sign_by_hand((*HEADERS, (b"x-custom", b"a  b"), (b"x-custom", b"c"))))
    assert verifier().verify(raw, NOW_US).principal == ALICE
    assert refusal(with_header(raw, b"x-custom", b"c,a b")).message == MISMATCH


# --- AWS's words


def refused_with(code: str, message: str, raw: RawRequest, caller: KnownCaller | None = None, now_us: int = NOW_US) -> None:
    error = refusal(raw, caller, now_us)
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize("value", [None, b"", b"Bearer abc", b"AWS AKIAALICE:c2ln"])
def test_a_request_without_a_signature(value: bytes | None) -> None:
    code = "MissingAuthenticationTokenException"
    refused_with(code, "Request is missing Authentication Token", with_header(request(), b"authorization", value))


CREDENTIAL = b"Credential=AKIAALICE/20231114/eu-west-1/kms/aws4_request"
HOSTED = b"SignedHeaders=content-type;host;x-amz-date;x-amz-target"


@pytest.mark.parametrize(
    ("value", "missing"),
    [
        (b"AWS4-HMAC-SHA256", ["Credential", "Signature", "SignedHeaders"]),
        (b"AWS4-HMAC-SHA256 Signature=ab", ["Credential", "SignedHeaders"]),
        (b"AWS4-HMAC-SHA256 " + CREDENTIAL + b", " + HOSTED, ["Signature"]),
        (b"AWS4-HMAC-SHA256 " + CREDENTIAL + b", Signature=ab", ["SignedHeaders"]),
        (b"AWS4-HMAC-SHA256 " + CREDENTIAL + b", Signature=, " + HOSTED, ["Signature"]),
    ],
)
def test_missing_parameters(value: bytes, missing: list[str]) -> None:
    error = refusal(with_header(request(), b"authorization", value))
    sentences = "".join(f"Authorization header requires '{name}' parameter. " for name in missing)
    assert error.code == INCOMPLETE
    assert error.message is not None
    assert re.fullmatch(
        re.escape(sentences) + r"\(Hashed with SHA-256 and encoded with Base64\) Authorization=.{44}", error.message
    )


def test_a_missing_date() -> None:
    error = refusal(with_header(request(), b"x-amz-date", None))
    assert error.code == INCOMPLETE
    wanted = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
    assert error.message is not None and error.message.startswith(wanted)


OTHER_DATES = [b"", b"201", b"20231314T221320Z", b"20231114T221320", b"2023-11-14T22:13:20Z", b"20231114T221360Z"]


@pytest.mark.parametrize("date", [*OTHER_DATES, b"Tue, 14 Nov 2023 22:13:20 GMT"])
def test_a_date_in_another_form(date: bytes) -> None:
    wanted = f"Date must be in ISO-8601 'basic format'. Got '{date.decode()}'. See http://en.wikipedia.org/wiki/ISO_8601"
    refused_with(INCOMPLETE, wanted, with_header(request(), b"x-amz-date", date))


def test_skew() -> None:
    raw, minutes = request(), 60_000_000
    for edge in (-5, 5):
        assert verifier().verify(raw, NOW_US + edge * minutes).principal == ALICE
    expired = "Signature expired: 20231114T221320Z is now earlier than 20231114T221321Z (20231114T221821Z - 5 min.)"
    refused_with(INVALID, expired, raw, now_us=NOW_US + 5 * minutes + 1_000_000)
    early = "Signature not yet current: 20231114T221320Z is still later than 20231114T221319Z (20231114T220819Z + 5 min.)"
    refused_with(INVALID, early, raw, now_us=NOW_US - 5 * minutes - 1_000_000)
    assert refusal(raw, now_us=NOW_US + 5 * minutes + 1).code == INVALID


@pytest.mark.parametrize("name", ["Host", "X-Amz-Date", "X-Amz-Target", "X-Amz-Security-Token"])
def test_what_must_be_signed(name: str) -> None:
    lower = name.lower().encode()
    headers = (*HEADERS, TOKEN)
    raw = request(tuple(pair for pair in headers if pair[0] != lower) if lower != b"x-amz-date" else headers)
    if lower == b"x-amz-date":
        raw = with_header(raw, b"authorization", authorization(raw).replace(b"x-amz-date;", b""))
    raw = with_header(raw, lower, dict(headers)[lower])
    title = "'Host' or ':authority'" if name == "Host" else f"'{name}'"
    caller = KnownCaller(session_token=TOKEN[1].decode())
    refused_with(INVALID, f"{title} must be a 'SignedHeader' in the AWS Authorization.", raw, caller)


def test_another_algorithm() -> None:
    raw = request()
    changed = authorization(raw).replace(b"SHA256 ", b"SHA1 ")
    wanted = "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA1' (only AWS4-HMAC-SHA256 for now). "
    refused_with(INCOMPLETE, wanted, with_header(raw, b"authorization", changed))


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("20231114/Mars/kms", "Credential should be scoped to a valid region, not 'Mars'. "),
        ("20231114/eu-west-1/s3", "Credential should be scoped to correct service: 'kms'. "),
        (
            "20231113/eu-west-1/kms",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            "'20231113' != '20231114', from '20231114T221320Z'.",
        ),
        (
            "20231114/x/y",
            "Credential should be scoped to a valid region, not 'x'. Credential should be scoped to correct service: 'kms'. ",
        ),
    ],
)
def test_scope(scope: str, message: str) -> None:
    raw = request()
    changed = authorization(raw).replace(b"20231114/eu-west-1/kms", scope.encode())
    refused_with(INVALID, message, with_header(raw, b"authorization", changed))


def test_a_wrong_terminator() -> None:
    raw = request()
    changed = authorization(raw).replace(b"aws4_request", b"aws5")
    wanted = "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5'. "
    refused_with(INVALID, wanted, with_header(raw, b"authorization", changed))


def test_a_secret_in_the_key_ids_place_goes_into_no_message_and_no_claim() -> None:
    for secret in ("Zm9vYmFy/K7MDENG/bPxRfiCYEXAMPLEKEYabcde", "Zm9vYmFyK7MDENGbPxRfiCYEXAMPLEKEYabcdefg"):
        error = refusal(request(key_id=secret))
        assert secret[:8] not in str(error)
        assert error.claimed_access_key_id is None


def test_unknown_disabled_and_wrong_token() -> None:
    refused_with(*INVALID_TOKEN, request(key_id="AKIANOBODY"))
    refused_with(*INVALID_TOKEN, request(), KnownCaller(enabled=False))
    refused_with(*INVALID_TOKEN, request(), KnownCaller(session_token="expected"))
    refused_with(*INVALID_TOKEN, request((*HEADERS, TOKEN)), KnownCaller(session_token="another"))
    refused_with(*INVALID_TOKEN, request((*HEADERS, TOKEN)), KnownCaller())


def test_sessions_that_ended() -> None:
    raw, token = request((*HEADERS, TOKEN)), TOKEN[1].decode()
    assert verifier(PassingCaller(session_token=token, expires_us=NOW_US + 1)).verify(raw, NOW_US).principal == ALICE
    message = "The security token included in the request is expired"
    refused_with("ExpiredTokenException", message, raw, PassingCaller(session_token=token, expires_us=NOW_US))


def test_another_secret_and_a_rotated_one() -> None:
    refused_with(INVALID, MISMATCH, request(secret="another"))
    caller = KnownCaller()
    checks = verifier(caller)
    assert checks.verify(request(), NOW_US).principal == ALICE
    caller.secret_access_key = "rotated"
    assert checks.verify(request(secret="rotated"), NOW_US).principal == ALICE
    with pytest.raises(AuthenticationFailed):
        checks.verify(request(), NOW_US)


def test_presigned_urls() -> None:
    target = b"/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=ab"
    found_both = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
    refused_with(INVALID, found_both, request(target=target))
    alone = with_header(request(target=target), b"authorization", None)
    refused_with(INCOMPLETE, "Presigned URLs are not accepted. Send the signature in the Authorization header.", alone)


def test_refusals_name_who_it_claimed_to_be() -> None:
    for raw, now_us in ((request(secret="another"), NOW_US), (request(key_id="AKIANOBODY"), NOW_US), (request(), NOW_US * 2)):
        error = refusal(raw, now_us=now_us)
        assert error.claimed_access_key_id in ("AKIAALICE", "AKIANOBODY")
        assert error.claimed_region == "eu-west-1"
    assert refusal(with_header(request(), b"authorization", None)).claimed_access_key_id is None


def test_the_signature_that_was_expected_is_in_no_message() -> None:
    expected = authorization(request())[-64:].decode()
    wrong = with_header(request(), b"authorization", authorization(request())[:-64] + b"0" * 64)
    error = refusal(wrong)
    assert expected not in f"{error!s} {error!r} {error.__dict__}"


def words(raw: RawRequest, caller: KnownCaller | None = None, now_us: int = NOW_US) -> str:
    message = refusal(raw, caller, now_us).message
    assert message is not None
    return message


def test_the_order_of_the_checks() -> None:
    """A request with a fault in everything; each is mended in turn, and the next one is told."""
    raw = request(key_id="AKIANOBODY", region="mars", secret="another")
    raw = with_header(replace(raw, body=b"changed"), *TOKEN)
    told = [refusal(raw := with_header(raw, b"x-amz-date", b"yesterday")).code]
    raw = with_header(raw, b"x-amz-date", NOW)
    told.append(words(raw, now_us=0)[:24])
    told.append(words(raw)[:22])
    raw = with_header(raw, TOKEN[0], None)
    told.append(words(raw)[:44])
    raw = with_header(raw, b"authorization", authorization(raw).replace(b"/mars/", b"/eu-west-1/"))
    told.append(refusal(raw).code)
    raw = with_header(raw, b"authorization", authorization(raw).replace(b"AKIANOBODY", b"AKIAALICE"))
    told.append(words(raw, PassingCaller(session_token="expected"))[:21])
    raw = request()
    told.append(refusal(raw, PassingCaller(session_token="expected")).code)
    told.append(refusal(raw, PassingCaller()).code)
    assert told == [
        INCOMPLETE,
        "Signature not yet curren",
        "'X-Amz-Security-Token'",
        "Credential should be scoped to a valid regio",
        "UnrecognizedClientException",
        MISMATCH[:21],
        "UnrecognizedClientException",
        "ExpiredTokenException",
    ]


def test_a_disabled_caller_and_an_unknown_one_are_answered_alike() -> None:
    unknown, disabled = refusal(request(key_id="AKIANOBODY")), refusal(request(), KnownCaller(enabled=False))
    assert (str(unknown), unknown.status) == (str(disabled), disabled.status)


def test_no_secret_is_in_a_repr() -> None:
    token = TOKEN[1].decode()
    caller = KnownCaller(session_token=token)
    checks, raw = verifier(caller), request((*HEADERS, TOKEN))
    verified = checks.verify(raw, NOW_US)
    shown = [
        repr(checks),
        repr(verified),
        repr(checks._keys),
        repr(list(checks._known.values())),
        repr(vars(checks._keys)["_limit"]),
    ]
    shown += [repr(refusal(with_header(raw, b"host", b"other"), caller)), repr(SeenSignatures(1))]
    for secret in (SECRET, token, verified.signature):
        assert secret not in "".join(shown)


# --- bounds


def test_only_what_was_verified_is_remembered_and_only_so_much() -> None:
    checks = verifier()
    for raw in (request(secret="another"), request(key_id="AKIANOBODY"), request(region="mars"), replace(request(), body=b"")):
        with pytest.raises(AuthenticationFailed):
            checks.verify(raw, NOW_US)
    assert not checks._known
    for number in range(_MAX_KNOWN_CLAIMS + 3):
        checks.verify(request((*HEADERS, (b"x-number-%d" % number, b"1"))), NOW_US)
    assert len(checks._known) == _MAX_KNOWN_CLAIMS


def test_what_is_remembered_admits_no_second_reading() -> None:
    """The signature is what stands behind the first `Signature=`, whatever was remembered of other requests."""
    checks = acquainted(KnownCaller())
    raw = request()
    value = authorization(raw)
    head, signature = value[:-64], value[-64:]
    for changed in (
        head + b"0" * 64 + b", XSignature=" + signature,
        head + signature[:50] + b",Signature=abc",
        head[:-1] + signature,
    ):
        with pytest.raises(AuthenticationFailed):
            checks.verify(with_header(raw, b"authorization", changed), NOW_US)
    behind = head + signature + b", XSignature=" + signature
    assert checks.verify(with_header(raw, b"authorization", behind), NOW_US).principal == ALICE
    assert len(checks._known) == 2


def test_seen_signatures() -> None:
    seen = SeenSignatures(3)
    assert not seen.seen("a")
    assert seen.seen("a")
    for signature in "bcdef":
        assert not seen.seen(signature)
    assert [signature for signature in "def" if seen.seen(signature)] == ["d", "e", "f"]


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 8))
def test_seen_signatures_remembers_the_last_and_stays_bounded(numbers: list[int], limit: int) -> None:
    seen = SeenSignatures(limit)
    distinct: list[int] = []  # newest last
    for number in numbers:
        answer = seen.seen(str(number))
        assert answer or number not in distinct[-limit:]
        assert not answer or number in distinct
        if number in distinct:
            distinct.remove(number)
        distinct.append(number)
        assert len(seen._young) + len(seen._old) <= 2 * limit


def test_signing_keys_are_bounded_and_right_after_eviction() -> None:
    keys = SigningKeys(limit=2)
    first = keys.sign("secret", b"20231114/eu-west-1/kms/aws4_request", b"text")
    for number in range(10):
        keys.sign("secret", b"20231114/eu-west-%d/kms/aws4_request" % number, b"text")
        assert len(keys._keys) <= 2
    assert keys.sign("secret", b"20231114/eu-west-1/kms/aws4_request", b"text") == first
