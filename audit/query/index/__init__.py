"""The index: closed segments as Parquet, so that a question does not read the whole log. Derived: it can be deleted.

- `terms`: the words by which records are found, of a record and of a question. Pure.
- `rows`: how lines become rows of events, and postings (term → place), said to DuckDB.
- `layout`: the folder, and the manifest that says which files are the index.
- `compact`: closed segments → files → manifest; and several files of a kind → one.
- `lookup`: a question → the places of the records that may answer it; whoever asks reads them, and judges.
- `follow`: the process that does so beside a running keytrail.

Rules kept: an answer is never taken from the index, only the place to look; so nothing in it is evidence. What a manifest does
not name does not exist: a crash leaves files that the next compaction removes. A line that cannot be read is named in the
manifest.
"""
