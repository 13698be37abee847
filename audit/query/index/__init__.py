"""The index: the log as Parquet, piece by piece, so that a question does not read the whole log. Derived: it can be deleted.

- `terms`: the words by which records are found, of a record and of a question. Pure.
- `rows`: how lines become rows of events, and postings (term → place), said to DuckDB.
- `layout`: the folder, and the manifest that says which files are the index.
- `pieces`: which bytes of a log the index has, and which come next.
- `load`: lines of the log → rows.
- `compact`: pieces → files → manifest; and several files of a kind → one.
- `lookup`: a question → the places of the records that may answer it; whoever asks reads them, and judges.
- `follow`: the process that does so beside a running keytrail.

Rules kept: nothing in it is evidence. `query` and `trace` take only places to look from it; SQL, reports, detections and what is
published take its rows of events as they are, and nothing verifies those. What a manifest does not name does not exist: a crash
leaves files that the next compaction removes. A line that cannot be read is named in the manifest.
"""
