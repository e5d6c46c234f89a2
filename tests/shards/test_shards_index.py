"""The index tells the truth about the tar files, and says so when it can't."""

import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import TABLE_SCHEMA, load_index


def test_offsets_are_those_of_tarfile(made):
    index = load_index(made.folder)
    assert index.table.schema.equals(TABLE_SCHEMA)
    for number in range(len(index)):
        row = index.row(number)
        with tarfile.open(made.folder / row["shard"]) as tar:
            members = {name: tar.getmember(name) for name in tar.getnames() if name.startswith(row["key"] + ".")}
        text = members.pop(f"{row['key']}.json")
        (picture,) = members.values()
        assert (row["json_offset"], row["json_bytes"]) == (text.offset_data, text.size)
        assert (row["image_offset"], row["image_bytes"]) == ([picture.offset_data], [picture.size])


def test_samples_are_numbered_over_both_splits(made):
    index = load_index(made.folder)
    train, heldout = index.numbers("train"), index.numbers("heldout")
    assert train.dtype == heldout.dtype == np.int64
    assert sorted([*train, *heldout]) == list(range(19))
    assert pq.read_table(index.folder / "index.parquet")["sample"].to_pylist() == list(range(19))
    assert (np.diff(train) > 0).all() and (np.diff(heldout) > 0).all()


def test_picture_sizes_are_columns_and_lists_alike(made):
    index = load_index(made.folder)
    starts, widths, heights = index.picture_sizes
    assert (starts.dtype, widths.dtype, heights.dtype) == (np.int64, np.int32, np.int32)
    assert starts.tolist() == list(range(20))
    assert [index.sizes(number) for number in range(19)] == [
        [(width, height)] for width, height in zip(widths.tolist(), heights.tolist(), strict=True)
    ]


def test_index_survives_pickling(made):
    index = load_index(made.folder)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.table.equals(index.table)
    assert (copy.folder, copy.index_hash) == (index.folder, index.index_hash)


def test_category_counts_add_up(made):
    counts = load_index(made.folder).category_counts()
    assert sum(count for _, _, count in counts) == 19
    assert {category for _, category, _ in counts} == {"Bags", "Belts"}


def test_missing_folder_names_the_tool(tmp_path):
    with pytest.raises(ShardError, match=r"no shards here.*tools/make_shards\.py"):
        load_index(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("manifest.json", b"{", "manifest can't be read"),
        ("manifest.json", b'{"schema_version": 99}', r"schema_version must be 5 \(found 99\)"),
        ("index.parquet", b"short", "bytes expected"),
        ("train/train-000000.tar", b"short", "bytes expected"),
        ("train/train-000000.tar", None, "missing"),
    ],
)
def test_damaged_folder_is_one_line_with_a_mend(damaged_copy, name, content, line):
    (damaged_copy / name).unlink()
    if content is not None:
        (damaged_copy / name).write_bytes(content)
    with pytest.raises(ShardError, match=line) as caught:
        load_index(damaged_copy)
    assert "make_shards.py" in str(caught.value) and "\n" not in str(caught.value)


def test_index_with_one_changed_byte_is_refused(damaged_copy):
    content = bytearray((damaged_copy / "index.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged_copy / "index.parquet").write_bytes(content)
    with pytest.raises(ShardError, match="XXH3-128"):
        load_index(damaged_copy)


def test_reading_shards_needs_no_torch():
    code = "import sys, phi3v_dist.shards.read, phi3v_dist.shards.index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
