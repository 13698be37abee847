"""The index, published to SeaweedFS: DuckDB, Spark (Sail) and pyiceberg answer as the embedded engine does."""

from __future__ import annotations

import importlib.resources
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.compute as pc
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import StaticTable
from typer.testing import CliRunner, Result

from audit.instance import Instance
from audit.query.events import open_events
from audit.query.index.compact import Compactor
from audit.query.index.layout import Manifest, index_folder
from audit.query.publish.command import Dialect, app, ddl_of
from audit.query.publish.place import Place
from audit.query.publish.storage import S3Store
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint
from tests.audit.query.publish.test_storage import check_conformance
from tests.integration.components.seaweedfs import SeaweedFS, seaweedfs
from tests.integration.components.spark import Spark

DAYS, RECORDS = 6, 2_400
PLACE = Place("lake", "audit/host-1")
QUESTIONS = importlib.resources.files("audit.query.publish").joinpath("ddl", "queries")
PARAMETERS: Mapping[str, object] = {
    "fingerprint": fingerprint("blob-7"),
    "since": at(86_400).replace(tzinfo=None),
    "until": at(4 * 86_400).replace(tzinfo=None),
    "tenant": "acme",
    "refusals": 3,
}
#: More than the questions: all columns of the records, as far as every engine can print them.
EVERYTHING = """
    SELECT log, record, start, size, time, day, event_name, phase, outcome, caller, role, session_name, key, error_code, origin,
           element_at(context, 'tenant'), element_at(context, 'none'), element_at(destination_context, 'tenant')
    FROM events ORDER BY log, record"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as running:
        running.client().create_bucket(Bucket="lake")
        yield running


def plant(data: Path, publish: Any) -> None:  # Any: a callable without arguments
    """Two logs of some days, indexed, merged and published as they grow."""
    logs = [LogBuilder(data, "w0"), LogBuilder(data, "w1")]
    Instance(data, "0123456789abcdef", "111122223333", "eu-central-1", "2026-01-01T00:00:00Z", ("w0", "w1")).save()
    step = DAYS * 86_400 / RECORDS
    for number in range(RECORDS):
        log = logs[number % 3 % 2]
        log.add(number * step, **made(number))
        if number % 120 == 119:
            logs[0].rotate()
            logs[1].rotate()
            with Compactor(data, fanout=3) as compactor:
                compactor.run()
        if (number + 1) % (RECORDS // 4) == 0:
            publish()


def made(number: int) -> dict[str, Any]:  # Any: changes of a record
    """A record of many kinds, in turn."""
    blob, tenant = f"blob-{number % 40}", ("acme", "globex", "init'ech")[number % 3]
    role = {
        "type": "AssumedRole",
        "arn": f"arn:aws:sts::111122223333:assumed-role/reader-{number % 2}/eve",
        "accountId": "111122223333",
        "accessKeyId": "ASIAEVE",
    }
    kinds: list[dict[str, Any]] = [
        {"event": "GenerateDataKey", "blobs_out": [blob], "context": {"tenant": tenant, "object": str(number)}},
        {"blobs_in": [blob], "context": {"tenant": tenant}, "key": KEY_B},
        {"blobs_in": [blob], "user": "bob", "error": "InvalidCiphertextException", "context": {"tenant": "globex"}},
        {"blobs_in": [blob], "userIdentity": role},
        {
            "event": "ReEncrypt",
            "blobs_in": [blob],
            "blobs_out": ["new"],
            "requestParameters": {"destinationEncryptionContext": {"tenant": "acme"}},
        },
        {"event": "DisableKey", "phase": "intent", "readOnly": False},
        {
            "event": "DisableKey",
            "readOnly": False,
            "error": "AccessDenied",
            "key": None,
            "sourceIPAddress": f"10.0.{number % 3}.1",
        },
    ]
    kind = kinds[number % 7 if number % 50 else 6]
    newcomer = {"user": "zoe"} if number > RECORDS * 2 / 3 else {}
    return {"key": KEY_A, **newcomer, **kind}


@dataclass(frozen=True)
class Published:
    data: Path
    outputs: list[dict[str, Any]]


def publish(server: SeaweedFS, data: Path, url: str, *options: str, **environment: str) -> Result:
    """Run the command."""
    argv = [url, "--data", str(data), "--s3-endpoint", server.url, "--json", *options]
    environment = {**server.environment, "AWS_MAX_ATTEMPTS": "1", **environment}
    return CliRunner().invoke(app, argv, env={"AWS_PROFILE": None, "AWS_SESSION_TOKEN": None, **environment})


@pytest.fixture(scope="module")
def published(server: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Published:
    data = tmp_path_factory.mktemp("published") / "data"
    data.mkdir()
    outputs: list[dict[str, Any]] = []

    def run() -> None:
        ran = publish(server, data, PLACE.url(PLACE.prefix))
        assert ran.exit_code == 0, ran.stderr
        outputs.append(orjson.loads(ran.stdout))

    plant(data, run)
    return Published(data, outputs)


# --- the engines


def questions() -> dict[str, tuple[str, dict[str, object]]]:
    """The questions that are shipped, each with those of `PARAMETERS` that it names."""
    found = {entry.name.removesuffix(".sql"): entry.read_text().strip().rstrip(";") for entry in QUESTIONS.iterdir()}
    found["everything"] = EVERYTHING
    return {
        name: (text, {one: PARAMETERS[one] for one in re.findall(r"(?<![:\w]):(\w+)", text)})
        for name, text in sorted(found.items())
    }


def in_duckdb(database: duckdb.DuckDBPyConnection, text: str, parameters: dict[str, object]) -> list[list[Any]]:
    rows = database.execute(re.sub(r"(?<![:\w]):(\w+)", r"$\1", text), parameters).fetchall()
    return [[_plain(value) for value in row] for row in rows]


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


@pytest.fixture(scope="module")
def expected(published: Published) -> Mapping[str, list[list[Any]]]:
    """What the embedded engine answers, from the log itself."""
    answers = {}
    with open_events(published.data, use_index=False) as events:
        events.database.execute("CREATE MACRO element_at(pairs, wanted) AS pairs[wanted]")
        for name, (text, parameters) in questions().items():
            answers[name] = in_duckdb(events.database, text, parameters)
    assert len(answers["everything"]) == RECORDS
    assert [name for name, rows in answers.items() if not rows] == [], "what nothing answers proves nothing"
    return answers


def statements(dialect: Dialect, place: Place = PLACE) -> list[str]:
    text = re.sub(r"^\s*--.*$", "", ddl_of(dialect, place, "keytrail.published"), flags=re.MULTILINE)
    return [statement for part in text.split(";") if (statement := part.strip())]


def open_duckdb(server: SeaweedFS) -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    for name in ("httpfs", "avro", "iceberg"):
        spec = find_spec(f"duckdb_extension_{name}")
        assert spec is not None and spec.origin is not None
        (path,) = Path(spec.origin).parent.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
        database.execute(f"LOAD '{path}'")
    database.execute(
        f"""CREATE SECRET (TYPE s3, KEY_ID '{server.access_key_id}', SECRET '{server.secret_access_key}', REGION 'us-east-1',
                           ENDPOINT '{server.address}', USE_SSL false, URL_STYLE 'path')"""
    )
    return database


def test_each_run_uploads_what_is_new_and_takes_out_what_was_merged(published: Published) -> None:
    assert [sum(log["records"] for log in output["logs"]) for output in published.outputs] == [600, 1200, 1800, 2400]
    last = published.outputs[-1]
    assert [log["log"] for log in last["logs"]] == ["w0", "w1"]
    assert sum(output["removed_files"] for output in published.outputs) > 5, "nothing was merged between"
    manifest = Manifest.load(index_folder(published.data))
    files = sum(len(log.days) for log in manifest.logs.values())
    assert sum(output["added_files"] - output["removed_files"] for output in published.outputs) == files


def test_duckdb_answers_as_the_embedded_engine_does(
    server: SeaweedFS, published: Published, expected: Mapping[str, list[list[Any]]]
) -> None:
    with open_duckdb(server) as database:
        for statement in statements(Dialect.DUCKDB):
            if not statement.startswith(("INSTALL", "LOAD")):
                database.execute(statement)
        for name, (text, parameters) in questions().items():
            assert in_duckdb(database, text, parameters) == expected[name], name


def test_spark_answers_as_the_embedded_engine_does(
    server: SeaweedFS, published: Published, expected: Mapping[str, list[list[Any]]], tmp_path: Path
) -> None:
    s3 = {"AWS_ENDPOINT": server.url, "AWS_ALLOW_HTTP": "true", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}
    asked = questions()
    answers = Spark().ask(tmp_path, {**server.environment, **s3}, PLACE.location, statements(Dialect.SPARK), list(asked.values()))
    for name, rows in zip(asked, answers, strict=True):
        assert rows == expected[name], name


def test_pyiceberg_reads_the_same_from_every_snapshot(server: SeaweedFS, published: Published) -> None:
    table = StaticTable.from_metadata(f"{PLACE.location}/metadata/v{_hint(server)}.metadata.json", _pyarrow(server))
    counts = []
    for snapshot in table.snapshots():
        rows = table.scan(selected_fields=("log", "record"), snapshot_id=snapshot.snapshot_id).to_arrow()
        pairs = pc.binary_join_element_wise(rows["log"], rows["record"].cast("string"), "/")
        assert len(pc.unique(pairs)) == len(rows)
        counts.append(len(rows))
    assert counts == [600, 1200, 1800, 2400]


def test_the_files_alone_are_no_more_than_the_view_over_them_takes(
    server: SeaweedFS, published: Published, expected: Mapping[str, list[list[Any]]]
) -> None:
    """Athena's way without Iceberg: files that were merged lie beside those that they became."""
    with open_duckdb(server) as database:
        database.execute(
            f"CREATE VIEW published_files AS FROM read_parquet('{PLACE.location}/data/*/*.parquet', hive_partitioning = true)"
        )
        (view,) = [text for text in statements(Dialect.ATHENA) if "events_of_files" in text]
        database.execute("CREATE MACRO element_at(listed, place) AS listed[place]")
        database.execute("CREATE SCHEMA keytrail")
        database.execute(view.replace("keytrail.published_files", "published_files"))
        [(files,)] = database.execute("SELECT count(*) FROM published_files").fetchall()
        rows = database.execute("SELECT log, record, outcome, day FROM keytrail.events_of_files ORDER BY log, record").fetchall()
    assert files > RECORDS
    assert [[log, record, outcome, _plain(day)] for log, record, outcome, day in rows] == [
        [row[0], row[1], row[8], row[5]] for row in expected["everything"]
    ]


# --- S3 and the catalogue


def test_seaweedfs_is_a_store(server: SeaweedFS, tmp_path: Path) -> None:
    server.client().create_bucket(Bucket="store")
    check_conformance(S3Store("store", server.client()), tmp_path)


def test_a_table_of_a_rest_catalogue(server: SeaweedFS, published: Published) -> None:
    server.client("s3tables").create_table_bucket(name="tables")
    credential = f"{server.access_key_id}:{server.secret_access_key}"
    known = {"warehouse": "s3://tables", "oauth2-server-uri": f"{server.catalogue_url}/v1/oauth/tokens"}

    def run(credential: str) -> Result:
        properties = [f"--catalog-property={name}={value}" for name, value in {**known, "credential": credential}.items()]
        return publish(server, published.data, "s3://lake/rest", "--catalog-uri", server.catalogue_url, *properties)

    first, second = run(credential), run(credential)
    assert (first.exit_code, second.exit_code) == (0, 0), first.stderr + second.stderr
    assert orjson.loads(first.stdout)["added_files"] > orjson.loads(second.stdout)["added_files"] == 0
    catalogue = load_catalog("rest", type="rest", uri=server.catalogue_url, credential=credential, **known, **_pyarrow(server))
    table = catalogue.load_table("keytrail.published")
    assert (table.properties["keytrail.instance"], table.scan().count()) == ("0123456789abcdef", RECORDS)
    refused = run(f"{server.access_key_id}:canary-wrong-secret")
    assert (refused.exit_code, "canary" in refused.stderr, len(refused.stderr.splitlines())) == (3, False, 1)


def test_what_s3_refuses_is_said_without_a_secret(server: SeaweedFS, published: Published) -> None:
    refused = publish(server, published.data, "s3://lake/refused", AWS_SECRET_ACCESS_KEY="canary-wrong-secret")
    assert (refused.exit_code, "SignatureDoesNotMatch" in refused.stderr, "canary" in refused.stderr) == (3, True, False)


def test_where_s3_goes_away_the_table_stays_and_a_later_run_completes_it(
    server: SeaweedFS, published: Published, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(published.data, data)
    before = orjson.loads(publish(server, data, "s3://lake/gone").stdout)
    log = LogBuilder(data, "w2")
    log.add(86_400)
    log.rotate()
    Instance(data, "0123456789abcdef", "111122223333", "eu-central-1", "2026-01-01T00:00:00Z", ("w0", "w1", "w2")).save()
    with Compactor(data) as compactor:
        compactor.run()
    server.kill()
    failed = publish(server, data, "s3://lake/gone")
    assert (failed.exit_code, failed.stdout, len(failed.stderr.splitlines())) == (3, "", 1)
    assert "Could not connect" in failed.stderr and server.secret_access_key not in failed.stderr
    server.start()
    completed = orjson.loads(publish(server, data, "s3://lake/gone").stdout)
    assert (completed["added_files"], completed["snapshot"] != before["snapshot"]) == (1, True)
    assert [log["records"] for log in completed["logs"]] == [*(log["records"] for log in before["logs"]), 1]


def _hint(server: SeaweedFS) -> int:
    return int(server.client().get_object(Bucket="lake", Key=PLACE.key("events/metadata/version-hint.text"))["Body"].read())


def _pyarrow(server: SeaweedFS) -> dict[str, str]:
    """How pyiceberg's own reader, by pyarrow, comes to the files."""
    return {
        "s3.endpoint": server.url,
        "s3.access-key-id": server.access_key_id,
        "s3.secret-access-key": server.secret_access_key,
        "s3.region": "us-east-1",
    }
