"""What is sent to AWS for a call, what is read of its answer, and what becomes of a call without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.backends.aws.backend import Addresser, AwsBackend
from proxy.backends.aws.credentials import AwsCredentials, CredentialsUnavailable
from proxy.backends.aws.passing import Passer
from proxy.backends.aws.resigning import Resigner
from proxy.backends.aws.transport import Endpoint, MayHaveBeenSent, NotSent, UpstreamFailed, UpstreamRequest, UpstreamResponse
from proxy.domain import Answer, KmsCall, Origin, Principal, RawRequest
from proxy.errors import KmsError
from proxy.kms import wire
from proxy.kms.operations import OPERATIONS
from proxy.sigv4 import Verifier, sign

HOST = "kms.us-east-1.amazonaws.com"
ACCOUNT = "444455556666"
KEY = "11111111-2222-3333-4444-555555555555"
ARN = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{KEY}"
OTHER = "arn:aws:kms:us-east-1:999900001111:key/99999999-2222-3333-4444-555555555555"
ALICE = Principal("IAMUser", "arn:aws:iam::111122223333:user/alice", "111122223333", "AKIAALICE", "AIDAALICE", "alice")
NOW_S = 1_700_000_000.0
STAMP = b"20231114T221320Z"


@dataclass
class ScriptedTransport:
    """A `Transport` that gives what it is told, one thing for each attempt."""

    script: list[UpstreamResponse | UpstreamFailed]
    sent: list[tuple[Endpoint, UpstreamRequest, bool]] = field(default_factory=list)

    async def send(
        self, endpoint: Endpoint, request: UpstreamRequest, *, fresh: bool = False, deadline: float
    ) -> UpstreamResponse:
        assert deadline > asyncio.get_running_loop().time()
        self.sent.append((endpoint, request, fresh))
        step = self.script.pop(0)
        if isinstance(step, UpstreamFailed):
            raise step
        return step

    async def close(self) -> None:
        pass


@dataclass
class FixedCredentials:
    credentials: AwsCredentials | None = field(
        default_factory=lambda: AwsCredentials("ASIAPROXY", "proxy-secret", "proxy-token", None)
    )

    async def for_caller(self, principal: Principal) -> AwsCredentials:
        if self.credentials is None:
            raise CredentialsUnavailable("none were found")
        return self.credentials

    async def close(self) -> None:
        pass


def raw(operation: str, parameters: Mapping[str, Any], host: str = HOST, *further: tuple[bytes, bytes]) -> RawRequest:
    body = json.dumps(parameters).encode()
    headers = [
        (b"host", host.encode()),
        (b"content-type", b"application/x-amz-json-1.1"),
        (b"x-amz-target", b"TrentService." + operation.encode()),
        (b"x-amz-date", STAMP),
    ]
    authorization = sign(b"POST", b"/", headers, body, access_key_id="AKIAALICE", secret_access_key="hers", region="us-east-1")
    headers += [(b"authorization", authorization), (b"user-agent", b"tests/1"), *further]
    return RawRequest(b"POST", b"/", tuple(headers), body, Origin("192.0.2.7"), int(NOW_S * 1e6))


def call(operation: str, parameters: Mapping[str, Any], request: RawRequest | None = None) -> KmsCall:
    row = OPERATIONS.get(operation) or wire.new_operation(b"TrentService." + operation.encode())
    return KmsCall(row, "us-east-1", ALICE, parameters, int(NOW_S * 1e6), request or raw(operation, parameters))


def answered(document: object, status: int = 200, request_id: str | None = "aws-1") -> UpstreamResponse:
    headers = [(b"content-type", b"application/x-amz-json-1.1"), (b"date", b"x"), (b"cache-control", b"no-store")]
    headers.append((b"x-keytrail-receipt", b"of a keytrail behind this one"))
    if request_id is not None:
        headers.append((b"x-amzn-requestid", request_id.encode()))
    return UpstreamResponse(status, tuple(headers), document if isinstance(document, bytes) else json.dumps(document).encode())


def resigner(credentials: FixedCredentials | None = None) -> Resigner:
    return Resigner(
        credentials or FixedCredentials(), lambda region: Endpoint(f"kms.{region}.amazonaws.com", 443), ACCOUNT, lambda: NOW_S
    )


def backend(transport: ScriptedTransport, addresser: Addresser | None = None) -> AwsBackend:
    return AwsBackend(transport, addresser or resigner(), 5.0)


async def ask(called: KmsCall, *script: UpstreamResponse | UpstreamFailed, addresser: Addresser | None = None) -> Answer:
    return await backend(ScriptedTransport(list(script)), addresser).call(called)


async def refused(called: KmsCall, *script: UpstreamResponse | UpstreamFailed, addresser: Addresser | None = None) -> KmsError:
    with pytest.raises(KmsError) as raised:
        await ask(called, *script, addresser=addresser)
    return raised.value


DECRYPT = call("Decrypt", {"CiphertextBlob": "AAAA"})
DISABLE = call("DisableKey", {"KeyId": KEY})


async def test_what_is_signed_anew_verifies_as_ours_and_has_nothing_of_the_callers() -> None:
    transport = ScriptedTransport([answered({"KeyId": ARN})])
    await backend(transport).call(DECRYPT)
    ((endpoint, request, fresh),) = transport.sent
    assert (endpoint, fresh) == (Endpoint(HOST, 443), False)

    class Ours:
        principal, secret_access_key, session_token, enabled = ALICE, "proxy-secret", "proxy-token", True

    as_received = RawRequest(request.method, request.target, request.headers, request.body, Origin("x"), 0)
    verified = Verifier({"ASIAPROXY": Ours()}.get).verify(as_received, int(NOW_S * 1e6))
    assert verified.region == "us-east-1"
    assert DECRYPT.raw is not None
    assert request.body == DECRYPT.raw.body
    sent = dict(request.headers)
    assert sent[b"user-agent"] == b"tests/1"
    assert b"AKIAALICE" not in b" ".join(sent.values())
    assert len(sent) == len(request.headers)


async def test_a_port_that_is_not_https_own_is_in_the_host_header() -> None:
    addresser = Resigner(FixedCredentials(), lambda _: Endpoint("localhost", 8443), ACCOUNT, lambda: NOW_S)
    _, request = await addresser.address(DECRYPT)
    assert dict(request.headers)[b"host"] == b"localhost:8443"


async def test_the_answer_goes_on_as_it_is_and_names_its_keys() -> None:
    body = b'{"KeyId": "%b",  "Plaintext":"cGxhaW4=", "KeyMaterialId": "m1"}' % ARN.encode()
    answer = await ask(DECRYPT, answered(body))
    assert answer.forwarded is not None and answer.upstream is not None
    assert answer.forwarded.body == body
    assert answer.forwarded.headers == (("content-type", "application/x-amz-json-1.1"), ("cache-control", "no-store"))
    upstream = answer.upstream
    assert (upstream.host, upstream.attempts, upstream.status, upstream.request_id) == (HOST, 1, 200, "aws-1")
    ((arn, account, material),) = [(use.arn, use.account_id, use.material_id) for use in answer.keys]
    assert (arn, account, material) == (ARN, ACCOUNT, "m1")


async def test_re_encrypt_names_its_source_first() -> None:
    told = {"SourceKeyId": OTHER, "KeyId": ARN, "SourceKeyMaterialId": "s", "DestinationKeyMaterialId": "d"}
    answer = await ask(call("ReEncrypt", {"CiphertextBlob": "AAAA", "DestinationKeyId": "alias/x"}), answered(told))
    assert [(use.arn, use.account_id, use.material_id) for use in answer.keys] == [
        (OTHER, "999900001111", "s"),
        (ARN, ACCOUNT, "d"),
    ]


@pytest.mark.parametrize(
    ("operation", "parameters", "told", "keys", "aliases"),
    [
        ("DisableKey", {"KeyId": KEY}, b"", [ARN], []),
        ("DisableKey", {"KeyId": OTHER}, b"", [OTHER], []),
        ("DescribeKey", {"KeyId": "alias/x"}, {"KeyMetadata": {"Arn": ARN}}, [ARN], []),
        ("CreateKey", {}, {"KeyMetadata": {"Arn": ARN}}, [ARN], []),
        ("CreateGrant", {"KeyId": KEY}, {"GrantId": "g", "GrantToken": "t"}, [ARN], []),
        ("GetPublicKey", {"KeyId": "alias/x"}, {"KeyId": ARN}, [ARN], []),
        ("ListKeys", {}, {"Keys": [{"KeyId": KEY}]}, [], []),
        ("GenerateRandom", {}, {"Plaintext": "AAAA"}, [], []),
        (
            "CreateAlias",
            {"AliasName": "alias/x", "TargetKeyId": KEY},
            b"",
            [ARN],
            [f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/x"],
        ),
    ],
)
async def test_the_keys_that_a_call_used(
    operation: str, parameters: dict[str, Any], told: object, keys: list[str], aliases: list[str]
) -> None:
    answer = await ask(call(operation, parameters), answered(told))
    assert [use.arn for use in answer.keys] == keys
    assert list(answer.aliases) == aliases


@pytest.mark.parametrize(
    ("told", "status", "code", "message"),
    [
        ({"__type": "DisabledException", "message": "it is disabled."}, 400, "DisabledException", "it is disabled."),
        ({"__type": "com.amazonaws.kms#NotFoundException", "Message": "no"}, 400, "NotFoundException", "no"),
        ({"__type": "InvalidCiphertextException"}, 400, "InvalidCiphertextException", None),
        ({"message": "?"}, 403, "UnknownError", "?"),
        (b"", 500, "UnknownError", None),
        ({"__type": "KMSInternalException:http://x"}, 500, "KMSInternalException", None),
    ],
)
async def test_a_refusal_goes_on_as_aws_said_it(told: object, status: int, code: str, message: str | None) -> None:
    response = answered(told, status)
    error = await refused(DISABLE, response)
    assert (error.code, error.message, error.status) == (code, message, status)
    assert error.forwarded is not None and error.forwarded.body == response.body
    assert error.upstream is not None and error.upstream.request_id == "aws-1"
    assert [use.arn for use in error.keys] == [ARN]
    assert error.effect_unknown is (status >= 500)


@pytest.mark.parametrize(
    "response", [answered(b"<html>"), answered(b"[]"), answered(b'"x"'), answered({}, 302), answered({}, 101)]
)
async def test_what_is_no_answer_of_kms_is_not_passed_on(response: UpstreamResponse) -> None:
    error = await refused(DISABLE, response)
    assert (error.code, error.status, error.forwarded) == ("KMSInternalException", 500, None)
    assert error.effect_unknown
    assert not (await refused(DECRYPT, response)).effect_unknown


RESET = MayHaveBeenSent(HOST, "reset")
UNREACHABLE = NotSent(HOST, "refused the connection")
SLOW = MayHaveBeenSent(HOST, "slow", timed_out=True)


@pytest.mark.parametrize("failure", [RESET, UNREACHABLE])
async def test_a_call_that_changes_nothing_is_sent_once_more_on_a_fresh_connection(failure: UpstreamFailed) -> None:
    transport = ScriptedTransport([failure, answered({"KeyId": ARN})])
    answer = await backend(transport).call(DECRYPT)
    assert [fresh for _, _, fresh in transport.sent] == [False, True]
    assert answer.upstream is not None
    assert (answer.upstream.attempts, answer.upstream.failures) == (2, (str(failure),))


async def test_two_attempts_are_all() -> None:
    error = await refused(DECRYPT, RESET, UNREACHABLE)
    assert (error.code, error.status) == ("KMSInternalException", 500)
    assert error.upstream is not None
    assert (error.upstream.attempts, error.upstream.failures) == (2, (str(RESET), str(UNREACHABLE)))
    assert (error.upstream.status, error.upstream.request_id, error.forwarded) == (None, None, None)


@pytest.mark.parametrize(("failure", "unknown"), [(RESET, True), (UNREACHABLE, False), (SLOW, True)])
async def test_a_change_is_sent_once_and_says_where_its_effect_is_unknown(failure: UpstreamFailed, unknown: bool) -> None:
    error = await refused(DISABLE, failure)  # a second attempt would find the script at its end
    assert error.effect_unknown is unknown
    assert [use.arn for use in error.keys] == [ARN]


async def test_a_new_operation_counts_as_a_change_unless_its_name_says_otherwise() -> None:
    error = await refused(call("RotateEverything", {"KeyId": KEY}), RESET)
    assert error.effect_unknown
    answer = await ask(call("DescribeEverything", {"KeyId": KEY}), RESET, answered({}))
    assert answer.upstream is not None and answer.upstream.attempts == 2


async def test_who_waited_too_long_is_told_in_kms_words_and_waits_no_second_time() -> None:
    error = await refused(DECRYPT, SLOW)
    assert (error.code, error.status) == ("DependencyTimeoutException", 503)


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"])
async def test_credentials_of_ours_that_aws_refuses_are_not_told_as_the_callers(code: str) -> None:
    response = answered({"__type": code, "message": "The security token included in the request is expired"}, 400)
    error = await refused(DECRYPT, response)
    assert (error.code, error.status) == ("ServiceUnavailableException", 503)
    assert error.message is not None and code in error.message
    assert error.upstream is not None and error.upstream.status == 400
    passed = await refused(DECRYPT, response, addresser=Passer(ACCOUNT, lambda *_: None))
    assert passed.code == code and passed.forwarded is not None


async def test_no_credentials_is_an_answer_and_nothing_is_sent() -> None:
    error = await refused(DECRYPT, addresser=resigner(FixedCredentials(None)))
    assert (error.code, error.status, error.upstream) == ("ServiceUnavailableException", 503, None)


async def test_what_is_passed_through_keeps_every_signed_byte() -> None:
    further = ((b"amz-sdk-invocation-id", b"1"), (b"accept-encoding", b"gzip"), (b"connection", b"keep-alive"), (b"expect", b"x"))
    request = raw("Decrypt", {"CiphertextBlob": "AAAA"}, HOST, *further)
    endpoint, sent = await Passer(ACCOUNT, lambda *_: None).address(call("Decrypt", {}, request))
    assert endpoint == Endpoint(HOST, 443)
    assert sent.headers == request.headers[:-3]
    assert (sent.method, sent.target, sent.body) == (request.method, request.target, request.body)


async def test_a_signed_header_is_passed_through_whatever_its_name() -> None:
    headers = [(b"host", HOST.encode()), (b"accept-encoding", b"identity"), (b"te", b"x"), (b"x-amz-date", STAMP)]
    names = b"AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=accept-encoding;host;x-amz-date, Signature=00"
    request = RawRequest(b"POST", b"/", (*headers, (b"authorization", names)), b"{}", Origin("x"), 0)
    _, sent = await Passer(ACCOUNT, lambda *_: None).address(call("Decrypt", {}, request))
    assert [name for name, _ in sent.headers] == [b"host", b"accept-encoding", b"x-amz-date", b"authorization"]


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"transfer-encoding", b"chunked"), (b"connection", b"x-amz-target"), (b"trailer", b"x"), (b"accept-encoding", b"gzip")],
)
async def test_what_lies_differently_on_the_next_connection_cannot_be_signed(name: bytes, value: bytes) -> None:
    signed = b"AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=%b;host;x-amz-date, Signature=00" % name
    headers = ((b"host", HOST.encode()), (name, value), (b"x-amz-date", STAMP), (b"authorization", signed))
    error = await refused(
        call("Decrypt", {}, RawRequest(b"POST", b"/", headers, b"{}", Origin("x"), 0)), addresser=Passer(ACCOUNT, lambda *_: None)
    )
    assert (error.code, error.upstream) == ("ValidationException", None)


@pytest.mark.parametrize(
    ("method", "target"),
    [(b"GET", b"/?Action=Decrypt"), (b"PUT", b"/"), (b"POST", b"/service/TrentService/operation/Decrypt"), (b"POST", b"/?x")],
)
async def test_only_what_kms_is_asked_by_is_passed_through(method: bytes, target: bytes) -> None:
    plain = raw("ListKeys", {}, HOST)
    request = RawRequest(method, target, plain.headers, plain.body, plain.origin, plain.received_us)
    error = await refused(call("ListKeys", {}, request), addresser=Passer(ACCOUNT, lambda *_: None))
    assert (error.code, error.upstream) == ("ValidationException", None)


async def test_of_a_refusals_text_the_first_line_is_recorded_and_the_client_has_all() -> None:
    body = {
        "__type": "InvalidSignatureException",
        "message": "It does not match.\n\nThe Canonical String\nx-amz-security-token:canary",
    }
    error = await refused(DECRYPT, answered(body, 403), addresser=Passer(ACCOUNT, lambda *_: None))
    assert error.message == "It does not match."
    assert error.forwarded is not None and b"canary" in error.forwarded.body


@pytest.mark.parametrize("host", ["keytrail.example", f"{HOST}.evil.example", "127.0.0.1:4599", ""])
async def test_only_calls_under_names_of_kms_are_passed_through(host: str) -> None:
    request = raw("Decrypt", {"CiphertextBlob": "AAAA"}, host)
    error = await refused(call("Decrypt", {}, request), addresser=Passer(ACCOUNT, lambda *_: None))
    assert error.code == "ValidationException"
    assert error.message is not None and "KMS's own host names" in error.message


async def test_what_access_denied_tells_is_learnt() -> None:
    learnt: list[tuple[str, str]] = []
    text = "User: arn:aws:iam::111122223333:user/x is not authorized to perform: kms:Decrypt"
    response = answered({"__type": "AccessDeniedException", "Message": text}, 400)
    await refused(DECRYPT, response, addresser=Passer(ACCOUNT, lambda *told: learnt.append(told)))
    assert learnt == [("AKIAALICE", text)]


def test_no_secret_is_in_a_repr() -> None:
    request = UpstreamRequest(b"POST", b"/", ((b"authorization", b"canary"),), b"canary")
    shown = repr(request) + repr(AwsCredentials("ASIA", "canary", "canary", None)) + repr(answered(b'"canary"'))
    assert "canary" not in shown
