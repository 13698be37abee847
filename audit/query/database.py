"""The DuckDB that look-ups and scans run in: one for a process and an index, since making one takes longer than most answers.

It is in memory, reads no file but those of the index, loads no extension, and changes no setting any more. What does not fit into
its memory it spills into a temporary folder that it makes and removes itself.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from functools import lru_cache
from pathlib import Path

import duckdb

from audit.query.index.layout import quoted

_MEMORY_LIMIT = "1GB"
_SPILL_LIMIT = "4GB"  # nobody's question may fill the disk that the log is on
_INDEXES = 4  # of so many data folders at once


def connect(index: Path) -> duckdb.DuckDBPyConnection:
    """A connection of its own to the database that may read the folder `index`. Each sees the others' tables: name them apart."""
    return _database(index).cursor()


@lru_cache(maxsize=_INDEXES)
def _database(index: Path) -> duckdb.DuckDBPyConnection:
    spill = Path(tempfile.gettempdir(), f"keytrail-query-{os.getpid()}-{secrets.token_hex(4)}")
    database = duckdb.connect(
        ":memory:",
        config={
            "threads": "1",  # of DuckDB's own for one statement; the engine runs several statements at a time
            "memory_limit": _MEMORY_LIMIT,
            "temp_directory": str(spill),
            "max_temp_directory_size": _SPILL_LIMIT,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    database.execute("SET parquet_metadata_cache = true")
    database.execute(f"SET allowed_directories = [{quoted(index)}]")
    database.execute("SET enable_external_access = false")  # after temp_directory, which it freezes
    database.execute("SET lock_configuration = true")
    return database
