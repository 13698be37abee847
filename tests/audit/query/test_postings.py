"""A file of postings gives those of a term among some records, whatever its row groups are, and reads few of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.query.index.layout import IndexFault
from audit.query.index.postings import PostingsFile, open_postings
from audit.query.index.sums import BLOCK_BYTES, sums_path, write_sums

HASHES = (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1)


def write(path: Path, postings: list[tuple[int, int]], group: int = 3) -> Path:
    """A file of (term, record), each of which starts at ten times its record."""
    table = pa.table(
        {
            "term": pa.array([term for term, _ in postings], pa.uint64()),
            "record": pa.array([record for _, record in postings], pa.int64()),
            "start": pa.array([record * 10 for _, record in postings], pa.int64()),
        }
    )
    return put(path, table, row_group_size=group)


def put(path: Path, table: pa.Table, **how: Any) -> Path:
    """The table as a file with its sums."""
    pq.write_table(table, str(path), **how)
    write_sums(path)
    return path


def found(file: PostingsFile, term: int, first: int, next: int) -> list[tuple[int, int]]:
    read = [file.read(rows) for rows in file.find(term, first, next)]
    return [(row["record"], row["start"]) for table in read for row in table.to_pylist()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(HASHES), st.integers(0, 40))),
    st.integers(1, 5),
    st.sampled_from(HASHES),
    st.integers(0, 41),
    st.integers(0, 41),
)
def test_it_gives_the_postings_of_a_term_in_order(
    postings: list[tuple[int, int]], group: int, term: int, first: int, next: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = PostingsFile(write(Path(folder, "postings.parquet"), sorted(postings), group))
        expected = sorted(record for one, record in postings if one == term and first <= record < next)
        assert found(file, term, first, next) == [(record, record * 10) for record in expected]
        assert sum(rows.count for rows in file.find(term, first, next)) == len(expected)


def test_it_reads_the_row_groups_alone_that_have_more_than_the_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postings = sorted((term, record) for term, records in ((5, 2), (7, 20), (9, 2)) for record in range(records))
    file = PostingsFile(write(tmp_path / "postings.parquet", postings, group=4))
    read: list[int] = []
    read_group = file._read

    def counted(group: int, columns: list[str]) -> pa.Table:
        read.append(group)
        return read_group(group, columns)

    monkeypatch.setattr(file, "_read", counted)
    assert sum(rows.count for rows in file.find(7, 0, 100)) == 20
    assert set(read) == {0, 5}  # 2 of the first group's 4 and of the last one's are of other terms
    read.clear()
    assert sum(rows.count for rows in file.find(7, 0, 2)) == 2
    assert set(read) == {0, 5}
    assert list(file.find(8, 0, 100)) == [] and list(file.find(10, 0, 100)) == []


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "postings.parquet", [(5, 1)])
    assert found(open_postings(path), 5, 0, 10) == [(1, 10)]
    assert open_postings(path) is open_postings(path)
    new = write(tmp_path / "new.parquet", [(5, 1), (5, 2)])
    sums_path(new).replace(sums_path(path))
    new.replace(path)
    assert found(open_postings(path), 5, 0, 10) == [(1, 10), (2, 20)]


def test_what_is_no_file_of_postings_is_a_fault_of_the_index(tmp_path: Path) -> None:
    path = tmp_path / "postings.parquet"
    with pytest.raises(IndexFault, match="No such file"):
        open_postings(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(IndexFault, match="rebuild"):
        open_postings(path)
    write_sums(path)
    with pytest.raises(IndexFault, match="rebuild"):
        open_postings(path)
    put(path, pa.table({"term": [1], "other": [2]}))
    with pytest.raises(IndexFault, match="rebuild"):
        open_postings(path)
    table = pa.table({"term": pa.array([1], pa.uint64()), "record": [2], "start": [3]})
    put(path, table, write_statistics=False)
    with pytest.raises(IndexFault, match="rebuild"):
        found(open_postings(path), 1, 0, 9)


def test_a_file_whose_columns_are_of_another_kind_is_a_fault_of_the_index(tmp_path: Path) -> None:
    path = tmp_path / "postings.parquet"
    put(path, pa.table({"term": ["a", "b"], "record": [2, 3], "start": [3, 4]}))
    with pytest.raises(IndexFault, match="rebuild"):
        open_postings(path)


@pytest.mark.parametrize("place", range(4, 400, 9))
def test_a_changed_byte_with_sums_that_fit_gives_other_rows_or_a_fault_and_nothing_worse(tmp_path: Path, place: int) -> None:
    path = write(tmp_path / "postings.parquet", [(term, term) for term in range(50)], group=50)
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    write_sums(path)
    try:
        rows = found(open_postings(path), 25, 0, 100)
    except IndexFault:
        return
    assert all(isinstance(record, int | None) for record, _ in rows)


def test_a_file_that_rotted_is_a_fault_of_the_index_wherever_it_is_read(tmp_path: Path) -> None:
    postings = [(term << 49, term) for term in range(20_000)]
    path = write(tmp_path / "postings.parquet", postings, group=5_000)
    sound = path.read_bytes()
    assert len(sound) > 6 * BLOCK_BYTES
    for place in range(0, len(sound), len(sound) // 50):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        with pytest.raises(IndexFault, match="rebuild"):
            file = PostingsFile(path)
            for term, record in postings[::2_500]:
                assert found(file, term, 0, len(postings)) == [(record, record * 10)]
    for cut in (1, BLOCK_BYTES, len(sound) - 1):
        path.write_bytes(sound[:-cut])
        with pytest.raises(IndexFault, match="rebuild"):
            PostingsFile(path)
    path.write_bytes(sound)
    assert found(PostingsFile(path), 7 << 49, 0, 100) == [(7, 70)]
    sums = sums_path(path).read_bytes()
    for rotted in (b"", sums[:-1], sums[:-4], bytes([sums[0] ^ 1]) + sums[1:]):
        sums_path(path).write_bytes(rotted)
        with pytest.raises(IndexFault, match="rebuild"):
            PostingsFile(path)
