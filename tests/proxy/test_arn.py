"""Key ids in their four forms, and what AWS says of the rest."""

from __future__ import annotations

import pytest

from proxy.errors import KmsError
from proxy.kms.arn import KeyRef, alias_arn, key_arn, parse_key_ref, partition_of

ACCOUNT = "111122223333"
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (KEY_ID, KeyRef(KEY_ID)),
        (MRK, KeyRef(MRK)),
        ("alias/a/b_c-D", KeyRef("alias/a/b_c-D")),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{KEY_ID}", KeyRef(KEY_ID, ACCOUNT)),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{MRK}", KeyRef(MRK, ACCOUNT)),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:alias/a/b", KeyRef("alias/a/b", ACCOUNT)),
    ],
)
def test_the_four_forms(value: str, expected: KeyRef) -> None:
    assert parse_key_ref(value, "eu-west-1") == expected
    assert expected.is_alias is expected.name.startswith("alias/")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fake-key-id", "Invalid keyId 'fake-key-id'"),
        ("134f2428cec14b25a1ae9048164dba47", "Invalid keyId '134f2428cec14b25a1ae9048164dba47'"),
        ("mrk-fake-key-id", "Invalid keyId 'mrk-fake-key-id'"),
        ("", "Invalid keyId ''"),
        ("alias/", "Invalid keyId 'alias/'"),
        ("alias/a:b", "Invalid keyId 'alias/a:b'"),
        (KEY_ID + "\n", f"Invalid keyId '{KEY_ID}\n'"),
        (f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{KEY_ID}", "Invalid arn us-east-1"),
        (f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/a", "Invalid arn us-east-1"),
        (f"arn:aws-cn:kms:eu-west-1:{ACCOUNT}:key/{KEY_ID}", "Invalid arn aws-cn"),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/alias/aws/sqs", "Invalid keyId 'alias/aws/sqs'"),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/", "Invalid keyId ''"),
        (f"arn:aws:s3:eu-west-1:{ACCOUNT}:key/{KEY_ID}", f"Invalid arn arn:aws:s3:eu-west-1:{ACCOUNT}:key/{KEY_ID}"),
        (f"arn:aws:kms:eu-west-1:1:key/{KEY_ID}", f"Invalid arn arn:aws:kms:eu-west-1:1:key/{KEY_ID}"),
        ("arn:aws:kms", "Invalid arn arn:aws:kms"),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:grant/x", f"Invalid arn arn:aws:kms:eu-west-1:{ACCOUNT}:grant/x"),
    ],
)
def test_what_is_no_key_id_here(value: str, message: str) -> None:
    with pytest.raises(KmsError) as refusal:
        parse_key_ref(value, "eu-west-1")
    assert (refusal.value.code, refusal.value.message) == ("NotFoundException", message)


@pytest.mark.parametrize(
    ("region", "partition"), [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_that_are_built_are_read_back(region: str, partition: str) -> None:
    assert partition_of(region) == partition
    assert key_arn(region, ACCOUNT, KEY_ID) == f"arn:{partition}:kms:{region}:{ACCOUNT}:key/{KEY_ID}"
    assert alias_arn(region, ACCOUNT, "alias/x") == f"arn:{partition}:kms:{region}:{ACCOUNT}:alias/x"
    assert parse_key_ref(key_arn(region, ACCOUNT, KEY_ID), region) == KeyRef(KEY_ID, ACCOUNT)
    assert parse_key_ref(alias_arn(region, ACCOUNT, "alias/x"), region) == KeyRef("alias/x", ACCOUNT)
