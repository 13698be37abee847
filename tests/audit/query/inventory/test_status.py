from __future__ import annotations

import pytest

from audit.errors import QueryError
from audit.query.artifacts.artifact import WrappedKey
from audit.query.artifacts.encryption_sdk import FORMAT_V2
from audit.query.artifacts.parquet import FORMAT as PARQUET
from audit.query.artifacts.sops import FORMAT as SOPS
from audit.query.artifacts.sops import read_sops
from audit.query.inventory.keys import KeyLife, KeyState
from audit.query.inventory.status import DataKey, KmsKey, Loss, Material, is_deleted, is_going, is_under, loss, material_of
from audit.query.inventory.uses import Use, Wrapping
from tests.audit.query.artifacts import test_sops
from tests.audit.query.artifacts.memory import MemoryArtifact
from tests.audit.query.builder import KEY_A, KEY_B

MRK = "arn:aws:kms:eu-central-1:111122223333:key/mrk-0123456789abcdef0123456789abcdef"
DELETED, ALIVE = KeyState.DELETED, KeyState.UNTOLD


def data_key(
    state: KeyState = ALIVE,
    *,
    format: str = FORMAT_V2,
    where: str = "here",
    note: str | None = None,
    key: str | None = KEY_A,
    fingerprint: str = "f" * 64,
    doubt: str | None = None,
) -> DataKey:
    return DataKey(WrappedKey(fingerprint, format, where, key, note=note), life=KeyLife(state, doubt=doubt))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([ALIVE, ALIVE], Loss.NONE),
        ([DELETED, ALIVE], Loss.NONE),  # the other EDK wraps the same data key
        ([DELETED, KeyState.DISABLED], Loss.NONE),  # it can be enabled again
        ([DELETED, DELETED], Loss.WHOLE),
        ([DELETED], Loss.WHOLE),
        ([], Loss.NONE),
    ],
)
def test_a_message_is_lost_with_the_last_of_its_edks(states: list[KeyState], expected: Loss) -> None:
    assert loss([data_key(state) for state in states], is_deleted) is expected


def test_an_edk_that_is_no_kms_blob_may_open_the_message() -> None:
    raw = data_key(fingerprint="", key=None, note="no KMS blob: wrapped by the provider 'vault', which calls no KMS")
    assert loss([data_key(DELETED), raw], is_deleted) is Loss.UNTOLD
    assert loss([data_key(ALIVE), raw], is_deleted) is Loss.NONE


@pytest.mark.parametrize(
    ("states", "expected"),
    [([ALIVE, ALIVE], Loss.NONE), ([DELETED, ALIVE], Loss.PART), ([DELETED, DELETED], Loss.WHOLE)],
)
def test_each_column_of_a_parquet_file_has_a_key_of_its_own(states: list[KeyState], expected: Loss) -> None:
    assert loss([data_key(state, format=PARQUET) for state in states], is_deleted) is expected


def test_what_is_scheduled_is_lost_later() -> None:
    keys = [data_key(DELETED), data_key(KeyState.SCHEDULED)]
    assert (loss(keys, is_deleted), loss(keys, is_going)) == (Loss.NONE, Loss.WHOLE)


def test_what_is_not_known_is_not_called_safe_or_lost() -> None:
    assert loss([data_key(key=None)], is_deleted) is Loss.UNTOLD
    assert loss([data_key(key="alias/of-a-column")], is_deleted) is Loss.UNTOLD
    assert loss([data_key(doubt="ScheduleKeyDeletion at some time")], is_deleted) is Loss.UNTOLD
    cancelled = data_key(KeyState.SCHEDULED, doubt="CancelKeyDeletion at some time")
    assert loss([cancelled], is_going) is Loss.UNTOLD
    assert loss([cancelled], lambda key: is_under(key, KmsKey.parse(KEY_A)) is True) is Loss.WHOLE
    assert loss([data_key(DELETED, key=MRK)], is_deleted) is Loss.UNTOLD  # a replica may be left


def sops_key(state: KeyState, group: int | None, threshold: str = "") -> DataKey:
    place = "sops.kms[0]" if group is None else f"sops.key_groups[{group}].kms[0]"
    return data_key(state, format=SOPS, where=place, note=f"a share of the data key: {threshold} groups are needed")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([sops_key(DELETED, None), sops_key(ALIVE, None)], Loss.NONE),  # recipients of one group are alternatives
        ([sops_key(DELETED, None), sops_key(DELETED, None)], Loss.WHOLE),
        ([sops_key(DELETED, 0, "2 of 3"), sops_key(ALIVE, 1, "2 of 3"), sops_key(ALIVE, 2, "2 of 3")], Loss.NONE),
        ([sops_key(DELETED, 0, "2 of 3"), sops_key(DELETED, 1, "2 of 3"), sops_key(ALIVE, 2, "2 of 3")], Loss.WHOLE),
        ([sops_key(DELETED, 0, "2 of 3"), sops_key(ALIVE, 0, "2 of 3"), sops_key(ALIVE, 1, "2 of 3")], Loss.NONE),
        ([sops_key(DELETED, 0, "2 of 3"), sops_key(ALIVE, 1, "2 of 3")], Loss.UNTOLD),  # a group without KMS keys is not read
        ([sops_key(DELETED, 0, "2 of 2"), sops_key(ALIVE, 1, "2 of 2")], Loss.WHOLE),
        ([sops_key(DELETED, 0, "None of 2"), sops_key(ALIVE, 1, "None of 2")], Loss.WHOLE),  # all are needed
    ],
)
def test_recipients_of_sops(keys: list[DataKey], expected: Loss) -> None:
    assert loss(keys, is_deleted) is expected


@pytest.mark.parametrize("gone", [(), (0,), (0, 1), (2,)])
def test_groups_as_the_reader_of_sops_tells_them(gone: tuple[int, ...]) -> None:
    wrapped = read_sops(MemoryArtifact(test_sops.GROUPS_YAML.encode())) or []
    keys = [DataKey(key, life=KeyLife(DELETED if number in gone else ALIVE)) for number, key in enumerate(wrapped)]
    expected = {(): Loss.NONE, (0,): Loss.NONE, (0, 1): Loss.WHOLE, (2,): Loss.WHOLE}  # 2 of 2; the first group has two keys
    assert loss(keys, is_deleted) is expected[gone]


@pytest.mark.parametrize(
    ("asked", "named", "expected"),
    [
        (KEY_A, KEY_A, True),
        (KEY_A, KEY_B, False),
        (KEY_A.rpartition("/")[2], KEY_A, True),
        (KEY_A, KEY_A.rpartition("/")[2], True),
        (KEY_A, KEY_A.replace("eu-central-1", "us-east-1"), False),
        (KEY_A, "arn:aws:kms:eu-central-1:111122223333:alias/a", None),
        (KEY_A, "footer_key", None),
        (KEY_A, None, None),
    ],
)
def test_which_key_an_object_is_under(asked: str, named: str | None, expected: bool | None) -> None:
    assert is_under(data_key(key=named), KmsKey.parse(asked)) is expected


@pytest.mark.parametrize(
    "text", ["", "alias/demo", "arn:aws:kms:eu-central-1:111122223333:alias/demo", "x", "arn:aws:s3:::bucket"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="accepted: key ARN, key id"):
        KmsKey.parse(text)


def wrapping(time: str, material: str | None) -> Wrapping:
    return Wrapping(time, "c", "Encrypt", KEY_A, material)


@pytest.mark.parametrize(
    ("use", "newest", "rotated", "expected"),
    [
        (None, wrapping("3", "m1"), None, Material.UNKNOWN),
        (Use(made=wrapping("1", "m1")), wrapping("3", "m1"), None, Material.NEWEST),
        (Use(made=wrapping("1", "m1")), wrapping("3", "m2"), None, Material.OLD),
        (Use(seen=wrapping("4", "m1")), wrapping("3", "m2"), None, Material.OLD),  # minted before the log
        (Use(seen=wrapping("4", "m1")), None, None, Material.UNKNOWN),  # nothing to compare with
        (Use(made=wrapping("1", "m1")), wrapping("3", "m1"), "4", Material.OLD),  # rotated, and not used since
        (Use(made=wrapping("5", "m1")), wrapping("5", "m1"), "4", Material.NEWEST),
        (Use(made=wrapping("1", None)), None, "4", Material.OLD),
        (Use(made=wrapping("5", None)), None, "4", Material.UNKNOWN),
    ],
)
def test_old_key_material(use: Use | None, newest: Wrapping | None, rotated: str | None, expected: Material) -> None:
    assert material_of(use, newest, rotated) is expected


@pytest.mark.parametrize(("others", "expected"), [("", Loss.WHOLE), ("    age:\n        - recipient: age1\n", Loss.UNTOLD)])
def test_a_sops_file_that_others_may_open_too_is_not_called_lost(others: str, expected: Loss) -> None:
    text = test_sops.without_age(test_sops.YAML).replace("    lastmodified", f"{others}    lastmodified")
    keys = read_sops(MemoryArtifact(text.encode())) or []
    assert keys
    assert loss([DataKey(key, life=KeyLife(DELETED)) for key in keys], is_deleted) is expected
