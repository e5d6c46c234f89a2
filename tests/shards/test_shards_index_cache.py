"""The decoded copy of an index: the same table, made once, never believed when the truth has changed."""

import multiprocessing
import os
import pickle
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi3v_dist.errors import ShardError
from phi3v_dist.shards import index_cache
from phi3v_dist.shards.index import SHARD_SCHEMA, load_index
from phi3v_dist.shards.read import ShardReader


@pytest.fixture(autouse=True)
def copy_small_ones_too(monkeypatch):
    monkeypatch.setattr(index_cache, "_SMALL_BYTES", 0)


def _open(folder, cache, pipe=None):
    index = load_index(folder, cache)
    if pipe is not None:
        pipe.send((str(index.mapped_from), index.table.cast(SHARD_SCHEMA).to_pylist()))
    return index


def test_a_copy_holds_what_parquet_holds(made, tmp_path):
    truth = pq.read_table(made.folder / "index.parquet", columns=SHARD_SCHEMA.names)
    for _ in range(2):  # made, and found
        index = load_index(made.folder, tmp_path)
        assert index.mapped_from is not None and index.table.cast(SHARD_SCHEMA).equals(truth)
    assert [path for path in (tmp_path / "index").iterdir() if path.is_dir()] == [index.mapped_from]


def test_a_mapped_table_takes_no_memory(made, tmp_path):
    before = pa.total_allocated_bytes()
    index = load_index(made.folder, tmp_path)
    assert index.table.nbytes > 1000
    assert pa.total_allocated_bytes() == before


def test_another_process_maps_the_copy_and_reads_no_parquet(made, tmp_path, monkeypatch):
    told = pickle.dumps(ShardReader(load_index(made.folder, tmp_path)))
    assert len(told) < 2000
    monkeypatch.setattr(pq, "ParquetFile", None)
    monkeypatch.setattr(pq, "read_schema", None)
    reader = pickle.loads(told)
    assert reader.index.mapped_from is not None and reader.sample(3).number == 3


def test_a_copy_that_is_gone_is_made_again(made, tmp_path):
    index = load_index(made.folder, tmp_path)
    told = pickle.dumps(index)
    (index.mapped_from / "title.arrow").write_bytes(b"torn")
    assert load_index(made.folder, tmp_path).table.equals(pickle.loads(told).table)


def test_a_changed_index_is_noticed_behind_its_copy(damaged_copy, tmp_path):
    assert load_index(damaged_copy, tmp_path / "cache").mapped_from
    content = bytearray((damaged_copy / "index.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged_copy / "index.parquet").write_bytes(content)
    with pytest.raises(ShardError, match="XXH3-128"):
        load_index(damaged_copy, tmp_path / "cache")


def test_where_nothing_can_be_written_the_table_lies_in_memory(made, tmp_path):
    (tmp_path / "file").write_text("no folder")
    index = load_index(made.folder, tmp_path / "file")
    assert index.mapped_from is None
    assert index.table.cast(SHARD_SCHEMA).equals(
        pq.read_table(made.folder / "index.parquet", columns=SHARD_SCHEMA.names)
    )


def test_processes_that_start_at_once_share_one_copy(made, tmp_path):
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(False) for _ in range(4)]
    processes = [context.Process(target=_open, args=(made.folder, tmp_path, send)) for _, send in ends]
    for process in processes:
        process.start()
    found = [receive.recv() for receive, _ in ends if receive.poll(60)]
    for process in processes:
        process.join(60)
    truth = pq.read_table(made.folder / "index.parquet", columns=SHARD_SCHEMA.names).to_pylist()
    assert len(found) == 4 and {place for place, _ in found} == {str(load_index(made.folder, tmp_path).mapped_from)}
    assert all(rows == truth for _, rows in found)
    assert [path.name for path in (tmp_path / "index").iterdir() if path.name.endswith(".partial")] == []


def test_copies_used_longest_ago_and_left_overs_go(made, tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "_MOST_COPIES", 2)
    for days, name in enumerate(("a", "b", "c", "d", ".killed.partial", ".working.partial"), start=1):
        folder = tmp_path / "index" / name
        folder.mkdir(parents=True)
        age_seconds = 60.0 if name == ".working.partial" else days * 86_400.0
        os.utime(folder, (time.time() - age_seconds,) * 2)
    index = load_index(made.folder, tmp_path)
    left = {path.name for path in (tmp_path / "index").iterdir() if path.is_dir()}
    assert left == {index.mapped_from.name, "a", "b", ".working.partial"}


def test_an_index_of_several_row_groups_is_one_array(made, tmp_path):
    truth = pq.read_table(made.folder / "index.parquet", columns=SHARD_SCHEMA.names)
    pq.write_table(truth, tmp_path / "groups.parquet", row_group_size=4)
    schema = load_index(made.folder).table.schema
    content = pa.py_buffer((tmp_path / "groups.parquet").read_bytes())
    table, place = index_cache.decode_index(content, tmp_path / "cache" / "x", schema)
    assert place is not None and table.cast(SHARD_SCHEMA).equals(truth)
    assert all(column.num_chunks == 1 for column in table.columns)
