"""DuckDB, shut in: databases in memory that read no file but those of a few folders of ours, and load no extension."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import duckdb

from audit.query.index.layout import quoted

_MEMORY_LIMIT = "1GB"
_SPILL_LIMIT = "4GB"  # nobody's question may fill the disk that the log is on
_INDEXES = 4  # of so many data folders at once


def open_database(folders: Sequence[Path], *, spill: Path | None = None, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A database that may read and write within `folders`. What does not fit into its memory it spills into the folder `spill`,
    which it makes and removes; where none is given, into one of the system's. Its settings are to be locked before it runs what
    a user wrote."""
    if spill is None:
        spill = Path(tempfile.gettempdir(), f"keytrail-query-{os.getpid()}-{secrets.token_hex(4)}")
    database = duckdb.connect(
        ":memory:",
        config={
            "threads": str(threads),
            "memory_limit": _MEMORY_LIMIT,
            "temp_directory": str(spill),
            "max_temp_directory_size": _SPILL_LIMIT,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
    database.execute("SET TimeZone = 'UTC'")
    database.execute("SET enable_progress_bar = false")  # it would be printed among the rows
    database.execute("SET parquet_metadata_cache = true")
    database.execute(f"SET allowed_directories = [{', '.join(map(quoted, folders))}]")
    database.execute("SET enable_external_access = false")  # after temp_directory, which it freezes
    return database


def lock_settings(database: duckdb.DuckDBPyConnection) -> None:
    """Nothing changes its settings from now on."""
    database.execute("SET lock_configuration = true")


def connect(index: Path) -> duckdb.DuckDBPyConnection:
    """A connection of its own to the process's one database that may read the folder `index`: making one takes longer than most
    answers. Each connection sees the others' tables: name them apart."""
    return _database(index).cursor()


@lru_cache(maxsize=_INDEXES)
def _database(index: Path) -> duckdb.DuckDBPyConnection:
    database = open_database([index])  # one thread for a statement: the engine runs several at a time
    lock_settings(database)
    return database
