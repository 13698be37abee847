"""Where the table is known: beside its data on S3 (`FileCatalogue`), or in a catalogue that pyiceberg knows: REST, Glue, …

The files beside the data are those of Hadoop's tables: ``metadata/vN.metadata.json``, the highest N is the table, and
``metadata/version-hint.text`` names N for readers that do not list. A commit makes N + 1 by a conditional write: of two at once,
one is refused and begins again. Source: Iceberg's table specification, "File System Tables".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import botocore.exceptions
import pyiceberg.exceptions
import requests
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, SortOrder
from pyiceberg.table.update import TableRequirement, TableUpdate, update_table_metadata
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties

from audit.query.publish.place import Choice
from audit.query.publish.storage import IMPLEMENTATION, NoObject, ObjectIO, PublishFault, Store, one_line, place_of

_METADATA = re.compile(r"v(\d+)\.metadata\.json")


def open_catalogue(choice: Choice, location: str, store: Store, endpoint_url: str | None) -> Catalog:
    """The catalogue for the table at `location`, in the bucket `store`. Raises `PublishFault`."""
    if choice.is_beside_the_data:
        return FileCatalogue(location, store)
    endpoint = {"s3.endpoint": endpoint_url} if endpoint_url else {}
    with failures(choice):
        return load_catalog(choice.name or "default", **{"py-io-impl": IMPLEMENTATION, **endpoint, **choice.properties})


class FileCatalogue(NoopCatalog):
    """The one table at `location`, whatever name it is asked for by; its files are in the bucket `store`."""

    def __init__(self, location: str, store: Store) -> None:
        super().__init__("files")
        self._location = location
        self._store = store
        self._prefix = f"{place_of(location)[1]}/metadata/"
        self._io: FileIO = ObjectIO(open_bucket=lambda _: store)

    def create_namespace_if_not_exists(self, namespace: str | Identifier, properties: Properties = EMPTY_DICT) -> None:
        """There are none."""

    def load_table(self, identifier: str | Identifier) -> Table:
        """The table as it is now. Raises `NoSuchTableError`, `PublishFault`."""
        version = self._version()
        if version == 0:
            raise NoSuchTableError(self._location)
        if self._hint() != version:
            self._tell(version)  # whoever wrote that version did not come so far
        metadata = TableMetadataUtil.parse_raw(self._store.read(self._key(version)).decode())
        return self._table(identifier, metadata, version)

    def create_table(
        self,
        identifier: str | Identifier,
        schema: Schema | object,
        location: str | None = None,
        partition_spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        sort_order: SortOrder = UNSORTED_SORT_ORDER,
        properties: Properties = EMPTY_DICT,
    ) -> Table:
        """Raises `CommitFailedException` where another made it meanwhile, `PublishFault`."""
        whole = self._convert_schema_if_needed(cast(Schema, schema))
        metadata = new_table_metadata(whole, partition_spec, sort_order, self._location, dict(properties))
        self._write(metadata, 1)
        return self._table(identifier, metadata, 1)

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Raises `CommitFailedException` where another committed meanwhile, and nothing was; `PublishFault`."""
        current = self.load_table(table.name())
        for requirement in requirements:
            requirement.validate(current.metadata)
        metadata = update_table_metadata(current.metadata, updates, metadata_location=current.metadata_location)
        version = self._number(current.metadata_location) + 1
        self._write(metadata, version)
        return CommitTableResponse(metadata=metadata, **{"metadata-location": self._url(version)})

    # --- the files

    def _write(self, metadata: TableMetadata, version: int) -> None:
        if not self._store.put_new(self._key(version), metadata.model_dump_json(exclude_none=True).encode()):
            raise CommitFailedException(f"{self._url(version)} was written by another")
        self._tell(version)

    def _tell(self, version: int) -> None:
        self._store.put(f"{self._prefix}version-hint.text", str(version).encode())

    def _hint(self) -> int:
        try:
            return int(self._store.read(f"{self._prefix}version-hint.text"))
        except (NoObject, ValueError):
            return 0

    def _version(self) -> int:
        """The highest there is; 0 where there is none."""
        return max((self._number(stored.key) for stored in self._store.objects(f"{self._prefix}v")), default=0)

    def _number(self, path: str) -> int:
        found = _METADATA.fullmatch(path.rpartition("/")[2])
        return int(found[1]) if found else 0

    def _key(self, version: int) -> str:
        return f"{self._prefix}v{version}.metadata.json"

    def _url(self, version: int) -> str:
        return f"{self._location}/metadata/v{version}.metadata.json"

    def _table(self, identifier: str | Identifier, metadata: TableMetadata, version: int) -> Table:
        return Table(self.identifier_to_tuple(identifier), metadata, self._url(version), self._io, self)


#: Properties that may stand in an error.
_NO_SECRETS = frozenset({"type", "uri", "warehouse"})
_FOREIGN: tuple[type[Exception], ...] = (
    *(kind for kind in vars(pyiceberg.exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,
    requests.RequestException,
    ValueError,
)


@contextmanager
def failures(choice: Choice) -> Iterator[None]:
    """What pyiceberg and its catalogues raise, in our words, without values of `choice`'s properties, which may be secrets."""
    try:
        yield
    except _FOREIGN as error:
        text = one_line(error)
        secrets = [value for name, value in choice.properties.items() if name not in _NO_SECRETS and value]
        for value in sorted(secrets, key=len, reverse=True):
            text = text.replace(value, "…")
        raise PublishFault(f"the Iceberg table: {type(error).__name__}: {text}") from error
