"""The Iceberg table: what it is, what it holds now, and the one commit that makes it hold other files.

A commit adds and removes files at once (an overwrite of Iceberg's): no snapshot has a record twice, or lacks one, whatever was
merged meanwhile. Files are added as pyiceberg's `add_files` does, which copies nothing and reads their footers; these are read
here and not on S3, since the bytes are the same. docs/adr/0014.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import BadRequestError, ForbiddenError, NoSuchTableError
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.io.pyarrow import PyArrowFileIO, _pyarrow_to_schema_without_ids, parquet_file_to_data_file
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.transforms import DayTransform
from pyiceberg.types import NestedField, TimestampType

from audit.query.index.layout import VERSION, DayFile
from audit.query.index.rows import EVENTS
from audit.query.publish.storage import PublishFault

INSTANCE = "keytrail.instance"
_INDEX_VERSION = "keytrail.index-version"
#: A snapshot of this many manifests is followed by one that has all its files in two.
MANY_MANIFESTS = 32
_FILE = re.compile(r"(?P<log>[^/]+)-\d{20}-(?P<next>\d{20})-[0-9a-f]{16}\.parquet")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PublishedLog:
    """How far a log is in the table: its records there, the index of the one after the last of them, and the newest's time."""

    log: str
    records: int
    next: int
    until: datetime | None


def file_name(day: DayFile, fingerprint: str) -> str:
    """The name of a file of `day` in the table, below its folder of data; `fingerprint` is of its footer, 16 hex digits."""
    return f"day={day.day}/{day.log}-{day.first:020d}-{day.next:020d}-{fingerprint}.parquet"


def open_table(catalogue: Catalog, identifier: tuple[str, ...], location: str, instance: str, sample: Path) -> Table:
    """The table of the instance `instance`; made at `location`, with the columns of the file `sample`, where there is none.

    Raises `PublishFault` where the table is another's, OSError, pyiceberg's exceptions.
    """
    try:
        table = catalogue.load_table(identifier)
    except NoSuchTableError:
        catalogue.create_namespace_if_not_exists(identifier[:-1])
        schema = _schema_of(sample)
        day = PartitionField(schema.find_field("time").field_id, 1000, DayTransform(), "time_day")
        properties = _properties(instance, schema)
        try:
            table = catalogue.create_table(identifier, schema, location, PartitionSpec(day), properties=properties)
        except (BadRequestError, ForbiddenError):  # a REST catalogue that has places of its own for what it writes
            table = catalogue.create_table(identifier, schema, None, PartitionSpec(day), properties=properties)
    owner = table.properties.get(INSTANCE)
    if owner != instance:
        whose = f"of the keytrail instance {owner}" if owner else "no table of keytrail's"
        raise PublishFault(f"the table {'.'.join(identifier)} is {whose}; this is the instance {instance}")
    return table


def _properties(instance: str, schema: Schema) -> dict[str, str]:
    return {
        "comment": "Derived from the logs of a keytrail instance. No evidence: the line that log and record name is.",
        INSTANCE: instance,
        _INDEX_VERSION: str(VERSION),
        "schema.name-mapping.default": schema.name_mapping.model_dump_json(),  # the files have no ids of columns
        "commit.retry.num-retries": "0",  # whoever tries again looks first what the table holds by then
        "write.metadata.previous-versions-max": "20",
    }


def _schema_of(sample: Path) -> Schema:
    """The columns of a Parquet file of the index, with ids, and what each is."""
    schema = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(pq.read_schema(sample)))
    return Schema(*(_told(field) for field in schema.fields))


def _told(field: NestedField) -> NestedField:
    return field.model_copy(update={"doc": EVENTS[field.name][1] if field.name in EVENTS else None})


def held_files(table: Table) -> dict[str, DataFile]:
    """What the table holds now: location → file. Raises `PublishFault` where rows of it were deleted."""
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot is not None else []
    if any(manifest.content == ManifestContent.DELETES for manifest in manifests):
        raise PublishFault("somebody deleted rows of the table: drop it, and publish again")
    return {file.file_path: file for file in _files_of(manifests, table.io)}


def _files_of(manifests: Iterable[ManifestFile], io: FileIO) -> Iterator[DataFile]:
    for manifest in manifests:
        for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
            yield entry.data_file


def exchange(
    table: Table, held: Mapping[str, DataFile], files: Mapping[str, Path], expired: Sequence[Snapshot], summary: Mapping[str, str]
) -> tuple[int, int]:
    """Commit that the table, which holds `held`, holds exactly `files` (location → the file here, which has the same bytes),
    and forgets the snapshots `expired`. Returns how many files were added and removed.

    Raises `CommitFailedException` where another committed meanwhile, and nothing was done; OSError, pyiceberg's exceptions.
    """
    new, gone = files.keys() - held.keys(), held.keys() - files.keys()
    transaction = table.transaction()
    if new:
        with transaction.update_schema() as update:
            update.union_by_name(_schema_of(files[min(new)]))
        if table.properties.get(_INDEX_VERSION) != str(VERSION):
            transaction.set_properties({_INDEX_VERSION: str(VERSION)})
    if new or gone:
        metadata = transaction.table_metadata
        added = [parquet_file_to_data_file(_Local(files), metadata, location) for location in sorted(new)]
        removed = [held[location] for location in gone]
        if _manifests_of(table) >= MANY_MANIFESTS:
            added, removed = [*(held[location] for location in sorted(held.keys() - gone)), *added], list(held.values())
        with transaction.update_snapshot(dict(summary)).overwrite() as overwrite:
            for file in removed:
                overwrite.delete_data_file(file)
            for file in added:
                overwrite.append_data_file(file)
    if expired:
        ExpireSnapshots(transaction).by_ids([snapshot.snapshot_id for snapshot in expired]).commit()
    transaction.commit_transaction()
    return len(new), len(gone)


def _manifests_of(table: Table) -> int:
    snapshot = table.current_snapshot()
    return len(snapshot.manifests(table.io)) if snapshot is not None else 0


def expired_snapshots(table: Table, now: datetime, keep: timedelta) -> list[Snapshot]:
    """The snapshots that were replaced longer than `keep` ago: whoever began to read one then is done. Pure."""
    in_order = sorted(table.snapshots(), key=lambda snapshot: (snapshot.sequence_number or 0, snapshot.timestamp_ms))
    kept = {ref.snapshot_id for ref in table.refs().values()}
    return [
        snapshot
        for snapshot, successor in pairwise(in_order)
        if snapshot.snapshot_id not in kept and _EPOCH + timedelta(milliseconds=successor.timestamp_ms) <= now - keep
    ]


def named_objects(table: Table) -> set[str]:
    """The locations of all that the table names: of every snapshot that it remembers, and of its own metadata."""
    metadata = table.metadata
    named = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    named |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    manifests: dict[str, ManifestFile] = {}
    for snapshot in table.snapshots():
        named.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    named |= manifests.keys()
    return named | {file.file_path for file in _files_of(manifests.values(), table.io)}


def published_logs(table: Table, held: Iterable[DataFile]) -> list[PublishedLog]:
    """How far each log is in `held`, by the files' names and statistics; files that others wrote are left out. Pure."""
    time = table.schema().find_field("time")
    logs: dict[str, PublishedLog] = {}
    for file in held:
        named = _FILE.fullmatch(file.file_path.rpartition("/")[2])
        if named is None:
            continue
        before = logs.get(named["log"], PublishedLog(named["log"], 0, 0, None))
        bound = (file.upper_bounds or {}).get(time.field_id)
        until = None if bound is None else _EPOCH + timedelta(microseconds=int(from_bytes(TimestampType(), bound)))
        logs[before.log] = PublishedLog(
            before.log,
            before.records + file.record_count,
            max(before.next, int(named["next"])),
            max(filter(None, (before.until, until)), default=None),
        )
    return [logs[name] for name in sorted(logs)]


class _Local(FileIO):
    """Reads a file of the table here, instead of on S3."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__()
        self._files = files
        self._io = PyArrowFileIO()

    def new_input(self, location: str) -> InputFile:
        return self._io.new_input(str(self._files[location]))

    def new_output(self, location: str) -> OutputFile:
        raise NotImplementedError("files of the index are not written")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise NotImplementedError("files of the index are not deleted")
