"""Whose access key it is, as far as anybody says; and what is refused unread all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.claims import MAX_LEARNT, ClaimReader, account_of, read_access_keys
from proxy.domain import Origin, RawRequest
from proxy.errors import SetupError
from proxy.sigv4 import AuthenticationFailed, sign

ALICE = "arn:aws:iam::111122223333:user/teams/alice"
SESSION = "arn:aws:sts::444455556666:assumed-role/reader/bob"
KEY = "AKIAIOSFODNN7EXAMPLE"
STAMP = b"20200101T000000Z"  # long ago: the time is for AWS to judge


def request(key: str = KEY, service: str = "kms") -> RawRequest:
    headers = [(b"host", b"kms.us-east-1.amazonaws.com"), (b"x-amz-date", STAMP), (b"x-amz-target", b"TrentService.Decrypt")]
    value = sign(
        b"POST", b"/", headers, b"{}", access_key_id=key, secret_access_key="not ours", region="eu-west-1", service=service
    )
    return RawRequest(b"POST", b"/", (*headers, (b"authorization", value)), b"{}", Origin("192.0.2.1"), 0)


def test_the_map_says_who_it_is() -> None:
    verified = ClaimReader({KEY: ALICE}).verify(request(), 0)
    principal = verified.principal
    assert (principal.type, principal.arn, principal.account_id) == ("IAMUser", ALICE, "111122223333")
    assert (principal.user_name, principal.access_key_id) == ("alice", KEY)
    assert verified.region == "eu-west-1"
    assert len(verified.signature) == 64 and verified.signature not in repr(verified)


def test_aws_refusals_teach_who_it_is() -> None:
    reader = ClaimReader({})
    assert reader.verify(request(), 0).principal.type == "Unknown"
    reader.learn(KEY, f"User: {SESSION} is not authorized to perform: kms:Decrypt on resource: *")
    principal = reader.verify(request(), 0).principal
    assert (principal.type, principal.arn, principal.account_id) == ("AssumedRole", SESSION, "444455556666")


@pytest.mark.parametrize(
    "text", ["", "no", "User: alice is not authorized to perform: x", f"The User: {ALICE} is not authorized to perform: x"]
)
def test_other_texts_teach_nothing(text: str) -> None:
    reader = ClaimReader({})
    reader.learn(KEY, text)
    assert reader.verify(request(), 0).principal.arn == ""


def test_the_map_is_believed_before_what_was_learnt() -> None:
    reader = ClaimReader({KEY: ALICE})
    reader.learn(KEY, f"User: {SESSION} is not authorized to perform: x")
    assert reader.verify(request(), 0).principal.arn == ALICE


def test_what_is_learnt_is_bounded() -> None:
    reader = ClaimReader({})
    for number in range(MAX_LEARNT + 10):
        reader.learn(f"AKIA{number:016d}", f"User: {ALICE} is not authorized to perform: x")
    assert len(reader._learnt) == MAX_LEARNT


#: Published by those who found the encoding out: Aidan Steele, and Tal Be'ery.
@pytest.mark.parametrize(("key", "account"), [("ASIAY34FZKBOKMUTVV7A", "609629065308"), ("ASIAQNZGKIQY56JQ7WML", "029608264753")])
def test_a_key_id_tells_its_account(key: str, account: str) -> None:
    assert account_of(key) == account
    principal = ClaimReader({}).verify(request(key), 0).principal
    assert (principal.type, principal.account_id, principal.arn) == ("Unknown", account, "")


@pytest.mark.parametrize("key", ["AKIAIOSFODNN7EXAMPLE", "test", "ASIA", "ASIAY34FZKBOKMUTVV71", "AROAY34FZKBOKMUTVV7A"])
def test_other_key_ids_tell_none(key: str) -> None:
    assert account_of(key) is None


@pytest.mark.parametrize(
    "changed",
    [
        replace(request(), headers=request().headers[:-1]),
        replace(request(), headers=(*request().headers, (b"x-amz-target", b"TrentService.Encrypt"))),
        replace(request(), target=b"/?X-Amz-Signature=0"),
        replace(request(), headers=(*request().headers[:-1], (b"authorization", request().headers[-1][1][:-64] + b"g" * 64))),
        replace(
            request(),
            headers=(*request().headers[:-1], (b"authorization", request().headers[-1][1].replace(b"x-amz-target", b"x"))),
        ),
        request(service="s3"),
        replace(request(), headers=(*request().headers, (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"))),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(changed: RawRequest) -> None:
    with pytest.raises(AuthenticationFailed):
        ClaimReader({KEY: ALICE}).verify(changed, 0)


def test_the_map_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[access_keys]\n{KEY} = "{ALICE}"\nASIAY34FZKBOKMUTVV7A = "{SESSION}"\n')
    assert read_access_keys(path) == {KEY: ALICE, "ASIAY34FZKBOKMUTVV7A": SESSION}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[access_keys",
        "x = 1",
        "access_keys = 1",
        '[access_keys]\nshort = "x"',
        f'[access_keys]\n{KEY} = "x"',
        f"[access_keys]\n{KEY} = 1",
    ],
)
def test_a_map_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"keys\.toml"):
        read_access_keys(path)


def test_a_secret_put_in_the_key_ids_place_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    for entry in ('"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" = "x"', f'{KEY} = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"'):
        path.write_text(f"[access_keys]\n{entry}\n")
        with pytest.raises(SetupError) as raised:
            read_access_keys(path)
        assert "wJalrXUt" not in str(raised.value)
