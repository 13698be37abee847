"""`keytrail index publish`, with moto for S3 and Glue."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import duckdb
import pyarrow as pa
import pytest
from moto import mock_aws
from pyiceberg.catalog import load_catalog
from typer.testing import CliRunner, Result

from audit.query.events import DERIVED
from audit.query.index.rows import EVENT_COLUMNS, EVENTS, LOAD
from audit.query.publish import command, storage
from audit.query.publish.command import Dialect, ddl_of
from audit.query.publish.place import Place
from tests.audit.query.publish.test_publication import Lake

CANARY = "canary-4f1b8c"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def bucket() -> Iterator[None]:
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="lake")
        yield


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One for all tests in which nothing is published; the bucket is there."""
    lake = Lake(tmp_path_factory.mktemp("untouched") / "data")
    lake.grow()
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="lake")
        yield lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "data")
    lake.grow()
    return lake


def run(lake: Lake, *arguments: str) -> Result:
    environment = {"KEYTRAIL_DATA": str(lake.data), "COLUMNS": "200"}
    return CliRunner().invoke(command.app, list(arguments), env=environment)


def test_it_tells_how_far_each_log_is_published(lake: Lake, bucket: None) -> None:
    told = run(lake, "s3://lake/audit/")
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout.splitlines()[0] == (
        "log w0: 6 records, up to 2026-01-03 00:00:05Z; what follows record 5 is not in the index yet"
    )
    assert re.fullmatch(
        r"s3://lake/audit/events: 2 files added \(\d+ bytes uploaded\), 0 removed, 0 objects deleted that nothing named",
        told.stdout.splitlines()[1],
    )
    document = json.loads(run(lake, "s3://lake/audit", "--json").stdout)
    assert document["logs"] == [{"log": "w0", "records": 6, "next": 6, "until": "2026-01-03T00:00:05Z"}]
    assert (document["uploaded_files"], document["added_files"], document["left"]) == (0, 0, None)


def test_what_was_replaced_is_kept_as_long_as_it_is_said(lake: Lake, bucket: None) -> None:
    run(lake, "s3://lake/audit")
    lake.grow()
    assert json.loads(run(lake, "s3://lake/audit", "--keep", "0", "--json").stdout)["removed_files"] == 2
    assert json.loads(run(lake, "s3://lake/audit", "--keep", "0", "--json").stdout)["deleted_objects"] > 2


def test_lines_that_cannot_be_read_are_told(lake: Lake, bucket: None) -> None:
    lake.log.raw(b"rubbish\n")
    lake.grow()
    told = run(lake, "s3://lake/audit")
    assert told.exit_code == 1
    assert "the table lacks 1 lines that cannot be read; `keytrail index status` names them" in told.stderr


def test_a_table_of_glue(lake: Lake, bucket: None) -> None:
    assert run(lake, "s3://lake/audit", "--catalog-type", "glue", "--table", "audit.published").exit_code == 0
    lake.grow()
    told = run(lake, "s3://lake/audit", "--catalog-type", "glue", "--table", "audit.published", "--json")
    assert json.loads(told.stdout)["removed_files"] == 2
    known = boto3.client("glue").get_table(DatabaseName="audit", Name="published")["Table"]
    assert (known["Parameters"]["table_type"], known["StorageDescriptor"]["Location"]) == ("ICEBERG", "s3://lake/audit/events")
    assert {column["Name"] for column in known["StorageDescriptor"]["Columns"]} == set(EVENTS)
    table = load_catalog("glue", type="glue", **{"py-io-impl": storage.IMPLEMENTATION}).load_table("audit.published")
    assert sorted(table.scan().to_arrow()["record"].to_pylist()) == list(range(12))


def test_a_table_that_is_not_ours_is_left_alone(lake: Lake, bucket: None) -> None:
    catalogue = load_catalog("glue", type="glue", **{"py-io-impl": storage.IMPLEMENTATION})
    catalogue.create_namespace("keytrail")
    catalogue.create_table("keytrail.published", table_schema(), "s3://lake/other")
    told = run(lake, "s3://lake/audit", "--catalog-type", "glue")
    assert (told.exit_code, "is no table of keytrail's" in told.stderr) == (3, True)


def table_schema() -> pa.Schema:
    return pa.schema([("time", pa.timestamp("us"))])


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["lake/audit"], 2, "not a place in S3"),
        (["s3://"], 2, "not a place in S3"),
        (["s3://lake"], 2, "no prefix for a table: ''"),
        (["s3://lake/a/../b"], 2, "no prefix for a table"),
        (["s3://lake/it's"], 2, "no prefix for a table"),
        (["s3://lake/a", "--table", "events"], 2, "no name of a table"),
        (["s3://lake/a", "--table", "a.b; DROP"], 2, "no name of a table"),
        (["s3://lake/a", "--catalog-property", CANARY], 2, "NAME=VALUE"),
        (["s3://lake/a", "--s3-endpoint", f"http://user:{CANARY}@127.0.0.1:9"], 2, "no credentials in a URL"),
        (["s3://lake/a", "--catalog-uri", f"http://user:{CANARY}@127.0.0.1:9"], 2, "no credentials in a URL"),
        (["s3://lake/a", "--s3-endpoint", "http://127.0.0.1:9"], 3, "Could not connect"),
        (["s3://lake/a", "--s3-endpoint", "nonsense"], 3, "S3 cannot be used"),
        (["s3://nowhere/a"], 3, "NoSuchBucket"),
        (["s3://lake/a", "--catalog-type", "nonsense", "--catalog-property", f"token={CANARY}"], 3, "nonsense"),
        (["s3://lake/a", "--catalog-property", f"token={CANARY}"], 3, "the Iceberg table: "),
        (
            ["s3://lake/a", "--catalog-uri", "http://127.0.0.1:9", "--catalog-property", f"token={CANARY}"],
            3,
            "the Iceberg table: ",
        ),
    ],
)
def test_one_line_says_what_is_wrong_and_no_secret(untouched: Lake, arguments: list[str], code: int, reason: str) -> None:
    told = run(untouched, *arguments)
    assert (told.exit_code, told.stdout, len(told.stderr.splitlines())) == (code, "", 1), told.stderr
    assert reason in told.stderr
    assert CANARY not in told.stderr


def test_a_folder_that_is_no_instance(lake: Lake, bucket: None) -> None:
    (lake.data / "keytrail.json").unlink()
    told = run(lake, "s3://lake/audit")
    assert (told.exit_code, "never initialised" in told.stderr) == (3, True)


# --- the SQL that is shipped


@pytest.mark.parametrize("dialect", Dialect)
def test_the_ddl_is_for_this_table(untouched: Lake, dialect: Dialect) -> None:
    told = run(untouched, "s3://lake/audit/", "--ddl", dialect, "--table", "security.kms")
    assert told.exit_code == 0
    assert "s3://lake/audit/events" in told.stdout
    assert not re.search(r"BUCKET|PREFIX|NAMESPACE|\bNAME\b|NAME_", told.stdout)
    assert "security" in told.stdout


def test_athena_is_told_every_column_with_its_type() -> None:
    text = ddl_of(Dialect.ATHENA, Place("lake", "a"), "keytrail.published")
    shown = re.findall(r"^    `(\w+)` ([a-z<>,]+?),?$", text, re.MULTILINE)
    hive = {"VARCHAR": "string", "TIMESTAMP": "timestamp", "VARCHAR[]": "array<string>", "INTEGER": "int"}
    hive |= {"MAP(VARCHAR, VARCHAR)": "map<string,string>", "BIGINT": "bigint", "BOOLEAN": "boolean"}
    database = duckdb.connect()
    database.execute("CREATE TABLE lines(n BIGINT, stop BIGINT, size BIGINT, line JSON)")
    load = LOAD.replace("$first", "0").replace("$offset", "0")
    columns = database.execute(f"DESCRIBE SELECT {EVENT_COLUMNS} FROM ({load}) AS rows").fetchall()  # noqa: S608 - of constants
    assert shown == [(name, hive[kind]) for name, kind, *_ in columns]


@pytest.mark.parametrize("dialect", Dialect)
def test_every_derived_column_is_in_every_view(dialect: Dialect) -> None:
    text = ddl_of(dialect, Place("lake", "a"), "keytrail.published")
    made = re.findall(r" AS (\w+),?$", text, re.MULTILINE)
    assert set(DERIVED) <= set(made)


def test_no_other_command_waits_for_pyiceberg() -> None:
    loaded = "import sys, audit.query.publish.command; print(any(name.startswith('pyiceberg') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True).stdout == b"False\n"
