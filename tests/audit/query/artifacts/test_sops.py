from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts.artifact import MAX_PIECE_BYTES, DamagedArtifact, WrappedKey
from audit.query.artifacts.sops import FORMAT, read_sops
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOBS = [local_blob(number) for number in range(3)]
A, B, C = (base64.b64encode(blob).decode() for blob in BLOBS)
MAC = "ENC[AES256_GCM,data:8UtjCSfZ,iv:lOsl9F4rcPpV86EN/0410Uh9qMzNguEnPUEX5kjgt6s=,tag:Zjl+zy2Cdp7OxTGkMI55+Q==,type:str]"

# As sops 3.11 wrote them, with other blobs and a shorter MAC; the role was added.
YAML = f"""a: {MAC}
b:
    - {MAC}
sops2: {MAC}
sops:
    kms:
        - arn: {KEY_ARN}
          role: arn:aws:iam::111122223333:role/r
          context:
            Env: 'prod: really'
            "n": "12"
          created_at: "2026-11-25T08:50:23Z"
          enc: {A}
          aws_profile: ""
        - arn: {KEY_ARN}
          created_at: "2026-11-25T08:50:23Z"
          enc: {B}
          aws_profile: ""
    age:
        - recipient: age1
          enc: |
            -----BEGIN AGE ENCRYPTED FILE-----
            YWdl

            -----END AGE ENCRYPTED FILE-----
    lastmodified: "2026-11-25T08:50:23Z"
    mac: {MAC}
    unencrypted_suffix: _unencrypted
    version: 3.11.0
"""
JSON = f"""{{
	"a": "{MAC}",
	"sops": {{
		"kms": [
			{{
				"arn": "{KEY_ARN}",
				"role": "arn:aws:iam::111122223333:role/r",
				"context": {{
					"Env": "prod: really",
					"n": "12"
				}},
				"created_at": "2026-11-25T08:50:23Z",
				"enc": "{A}",
				"aws_profile": ""
			}},
			{{
				"arn": "{KEY_ARN}",
				"created_at": "2026-11-25T08:50:23Z",
				"enc": "{B}",
				"aws_profile": ""
			}}
		],
		"lastmodified": "2026-11-25T08:50:23Z",
		"mac": "{MAC}",
		"version": "3.11.0"
	}}
}}
"""
DOTENV = f"""A={MAC}
sops_kms__list_0__map_arn={KEY_ARN}
sops_kms__list_0__map_aws_profile=
sops_kms__list_0__map_context__map_Env=prod: really
sops_kms__list_0__map_context__map_n=12
sops_kms__list_0__map_created_at=2026-11-25T08:50:23Z
sops_kms__list_0__map_enc={A}
sops_kms__list_0__map_role=arn:aws:iam::111122223333:role/r
sops_kms__list_1__map_arn={KEY_ARN}
sops_kms__list_1__map_enc={B}
sops_lastmodified=2026-11-25T08:50:23Z
sops_mac={MAC}
sops_unencrypted_suffix=_unencrypted
sops_version=3.11.0
"""
INI = f"""[s]
a = {MAC}

[sops]
kms__list_0__map_enc              = {A}
mac                               = {MAC}
version                           = 3.11.0
kms__list_0__map_aws_profile      = 
kms__list_0__map_context__map_n   = 12
kms__list_1__map_arn              = {KEY_ARN}
lastmodified                      = 2026-11-25T08:50:23Z
kms__list_0__map_arn              = {KEY_ARN}
kms__list_0__map_context__map_Env = prod: really
kms__list_0__map_role             = arn:aws:iam::111122223333:role/r
kms__list_1__map_enc              = {B}
"""
GROUPS_YAML = f"""a: {MAC}
sops:
    shamir_threshold: 2
    key_groups:
        - kms:
            - arn: {KEY_ARN}
              context:
                "n": "12"
              enc: {A}
              aws_profile: ""
            - arn: {KEY_ARN}
              enc: {B}
          hc_vault: []
          age: []
        - kms:
            - arn: {KEY_ARN}
              enc: {C}
          hc_vault: []
    lastmodified: "2026-11-25T08:50:23Z"
    mac: {MAC}
    version: 3.11.0
"""
GROUPS_DOTENV = f"""A={MAC}
sops_key_groups__list_0__map_kms__list_0__map_arn={KEY_ARN}
sops_key_groups__list_0__map_kms__list_0__map_context__map_n=12
sops_key_groups__list_0__map_kms__list_0__map_enc={A}
sops_key_groups__list_0__map_kms__list_1__map_arn={KEY_ARN}
sops_key_groups__list_0__map_kms__list_1__map_enc={B}
sops_key_groups__list_1__map_kms__list_0__map_arn={KEY_ARN}
sops_key_groups__list_1__map_kms__list_0__map_enc={C}
sops_lastmodified=2026-11-25T08:50:23Z
sops_mac={MAC}
sops_shamir_threshold=2
sops_version=3.11.0
"""
OLD_YAML = f"""a: {MAC}
sops:
    kms:
    -   arn: {KEY_ARN}
        created_at: '2019-01-01T00:00:00Z'
        enc: {A}
    gcp_kms: []
    pgp:
    -   fp: 85D77543B3D624B63CEA9E6DBC17301B491B3F21
        enc: |-
            -----BEGIN PGP MESSAGE-----

            hQIMA0t4uZHfl9qgAQ//
            -----END PGP MESSAGE-----
    lastmodified: '2019-01-01T00:00:00Z'
    mac: {MAC}
    version: 3.0.0
"""


def read(text: str) -> list[WrappedKey] | None:
    return read_sops(MemoryArtifact(text.encode()))


@pytest.mark.parametrize("text", [YAML, JSON, DOTENV, INI, YAML.replace("\n", "\r\n")])
def test_each_way_of_writing_gives_the_same_keys(text: str) -> None:
    keys = read(text) or []
    assert [key.blob for key in keys] == BLOBS[:2]
    assert [(key.format, key.where, key.key) for key in keys] == [(FORMAT, f"sops.kms[{at}]", KEY_ARN) for at in (0, 1)]
    assert [key.context for key in keys] == [{"Env": "prod: really", "n": "12"}, None]
    by_others = ["can be unwrapped without KMS too: it has recipients of age (1)"] if "age" in text else []
    notes = ["; ".join([*by_others, "unwrapped in the role arn:aws:iam::111122223333:role/r"]), *by_others]
    assert [key.note or "" for key in keys] == (notes if by_others else [*notes, ""])


@pytest.mark.parametrize("text", [GROUPS_YAML, GROUPS_DOTENV, "[sops]\n" + GROUPS_DOTENV.partition("\n")[2].replace("sops_", "")])
def test_the_shares_of_key_groups_are_told_as_shares(text: str) -> None:
    keys = read(text) or []
    places = ["sops.key_groups[0].kms[0]", "sops.key_groups[0].kms[1]", "sops.key_groups[1].kms[0]"]
    assert [(key.where, key.blob) for key in keys] == list(zip(places, BLOBS, strict=True))
    assert keys[0].context == {"n": "12"}
    assert {key.note for key in keys} == {"a share of the data key: 2 of 2 groups are needed"}


def test_names_that_ini_has_to_quote_are_read() -> None:
    quoted = INI.replace("kms__list_0__map_context__map_n  ", "`kms__list_0__map_context__map_a=b:c`").replace("= 12", "= `1;2`")
    assert [key.context for key in read(quoted) or []] == [{"Env": "prod: really", "a=b:c": "1;2"}, None]


def test_yaml_of_the_first_sops_3_is_read() -> None:
    assert [key.blob for key in read(OLD_YAML) or []] == BLOBS[:1]


def test_a_file_of_several_yaml_documents_tells_its_keys_once() -> None:
    assert read(YAML + "---\n" + YAML) == read(YAML)


OTHERS_YAML = """    age:
        - recipient: age1
          enc: x
        - recipient: age2
          enc: x
    pgp:
        - fp: 85D7
    gcp_kms:
        - resource_id: r
    azure_kv:
        - vault_url: u
    hc_vault:
        - vault_address: a
"""
OTHERS_JSON = """"age": [{}, {}], "pgp": [{}], "gcp_kms": [{}], "azure_kv": [{}], "hc_vault": [{}], """
OTHERS_DOTENV = """sops_age__list_0__map_recipient=age1
sops_age__list_0__map_enc=x
sops_age__list_1__map_recipient=age2
sops_pgp__list_0__map_fp=85D7
sops_gcp_kms__list_0__map_resource_id=r
sops_azure_kv__list_0__map_vault_url=u
sops_hc_vault__list_0__map_vault_address=a
"""
BY_OTHERS = "age (2), azure_kv (1), gcp_kms (1), hc_vault (1), pgp (1)"


def without_age(text: str) -> str:
    return text[: text.index("    age:")] + text[text.index("    lastmodified") :]


@pytest.mark.parametrize(
    "text",
    [
        without_age(YAML).replace("    lastmodified", OTHERS_YAML + "    lastmodified"),
        JSON.replace('"lastmodified"', OTHERS_JSON + '"lastmodified"'),
        DOTENV.replace("sops_kms__list_0__map_arn", OTHERS_DOTENV + "sops_kms__list_0__map_arn"),
        INI + OTHERS_DOTENV.replace("sops_", ""),
    ],
)
def test_recipients_of_other_kinds_are_noted(text: str) -> None:
    note = f"can be unwrapped without KMS too: it has recipients of {BY_OTHERS}"
    keys = read(text) or []
    assert [key.blob for key in keys] == BLOBS[:2]
    assert [key.note for key in keys] == [f"{note}; unwrapped in the role arn:aws:iam::111122223333:role/r", note]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("threshold", [1, 2])
def test_recipients_of_other_kinds_are_noted_for_their_group(flat: bool, threshold: int) -> None:
    if flat:
        text = GROUPS_DOTENV.replace("threshold=2", f"threshold={threshold}")
        text = text.replace("sops_lastm", "sops_key_groups__list_1__map_age__list_0__map_recipient=age1\nsops_lastm")
    else:
        text = GROUPS_YAML.replace("threshold: 2", f"threshold: {threshold}")
        text = text.replace("    lastm", "          age:\n            - recipient: age1\n    lastm")
    first, second, third = (key.note or "" for key in read(text) or [])
    assert first == second and "recipients of age" not in first and "recipients of age (1)" in third
    opened = "enough groups have recipients of other kinds: the file can be opened without KMS"
    assert [opened in note for note in (first, second, third)] == [threshold == 1] * 3


@pytest.mark.parametrize("others", [OTHERS_DOTENV, ""])
def test_a_file_without_kms_keys_tells_by_what_it_can_be_opened(others: str) -> None:
    lines = (DOTENV + others).splitlines(keepends=True)
    told = [WrappedKey("", FORMAT, "sops", note=f"no KMS blob: the recipients are of {BY_OTHERS}")]
    assert read("".join(line for line in lines if "sops_kms_" not in line)) == (told if others else [])


def test_a_byte_order_mark_is_passed_over() -> None:
    for text in (YAML, JSON, DOTENV):
        assert read("\ufeff" + text) == read(text)


@pytest.mark.parametrize(
    "text", ["", "{}", "sops:\n  kms: []\n", '{"sops": 1}', f"a: {MAC}\n", f'{{"a": "{MAC}", "sops": 1}}', "\0sops" + MAC]
)
def test_what_is_no_sops_file_is_not_read_as_one(text: str) -> None:
    assert read(text) is None


def test_a_file_that_is_too_large_is_not_read() -> None:
    artifact = MemoryArtifact(YAML.encode(), claimed_bytes=MAX_PIECE_BYTES + 1)
    assert read_sops(artifact) is None
    assert artifact.reads == []


@pytest.mark.parametrize("text", [YAML, JSON, DOTENV, INI, GROUPS_YAML])
def test_a_file_that_is_cut_off_gives_no_wrong_blob(text: str) -> None:
    whole = read(text)
    for size in range(0, len(text), 5):
        try:
            assert read(text[:size]) in (None, whole)
        except DamagedArtifact as damaged:
            assert damaged.format == FORMAT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (YAML.replace(A, "*" * len(A)), "not YAML|not base64"),
        (JSON.replace(A, A[:-1]), "not base64"),
        (JSON.replace(A, ""), "wrapped key of 0 bytes"),
        (JSON.replace('"12"', "12"), "no map of strings"),
        (JSON.replace('"arn"', '"nra"'), "has no arn"),
        (YAML.replace("          enc", "          arn"), "twice"),
        (YAML.replace("    version", "   version"), "not YAML"),
        (YAML.replace('"n"', '"\\x6e"'), "escapes"),
        (f"a: {MAC}\nsops:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 99)), "16 deep"),
        (f"a: {MAC}\nsops:\n " + "- " * 5_000 + "a\n", "16 deep"),
        (f"[sops]\nmac = {MAC}\n" + " " * 100_000 + "a\n", "no name and value"),
        (f"[sops]\nmac = {MAC}\n" + " " * 1_000_000 + "a\n", "1000001 characters"),
        (f"a: {MAC}\nsops:\n" + "\n" * 300_000, "more than 200000 lines"),
        (f"a={MAC}\n" + "sops_a=\n" * 300_000, "more than 200000 lines"),
        (DOTENV.replace("list_1", "list_2"), r"kms\[1\] is missing"),
        (DOTENV.replace("sops_mac", "sops_cam"), "has no mac"),
        (JSON.replace('"kms": [', '"kms": ' + "[" * 100_000), "broken at byte"),
    ],
)
def test_a_file_that_is_broken_is_damaged(text: str, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(text)


@given(st.sampled_from([YAML, JSON, DOTENV, INI, GROUPS_YAML, OLD_YAML, ""]), st.integers(0, 2_000), st.binary(max_size=20))
def test_whatever_the_bytes_are_the_reader_answers(text: str, at: int, junk: bytes) -> None:
    content = text.encode()
    try:
        keys = read_sops(MemoryArtifact(content[:at] + junk + content[at + len(junk) :]))
    except DamagedArtifact:
        return
    assert keys is None or len(keys) <= 3
