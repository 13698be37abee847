"""The events of the index on S3, as an Iceberg table: for questions that one host is too small for.

`storage` has the objects, `catalogue` says where the table is known, `table` changes what it holds, `publication` is the walk
from the index to the table, and `ddl` what Athena, Trino, Spark and DuckDB have to be told. The table is derived, as the index
is, and no evidence: each of its rows names the line of the log that it was made of. docs/scale-out.md, docs/adr/0014.
"""
