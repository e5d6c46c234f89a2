"""Reading samples: counted, timed, damaged ones told."""

from pathlib import Path

import pytest

from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.training.preflight_files import read_some


@pytest.fixture(scope="module")
def reader(small_demo) -> ShardReader:
    return ShardReader(load_index(small_demo.folder / "shards"))


def test_every_sample_asked_for_is_read_and_its_pictures_counted(reader: ShardReader) -> None:
    numbers = [3, 50, 199]
    count, size, seconds, damaged = read_some(reader, numbers)
    assert (count, damaged) == (3, [])
    assert size == sum(sum(reader.index.row(number)["image_bytes"]) for number in numbers)
    assert 0 < seconds < 60


def test_a_damaged_sample_is_told_and_the_others_are_read(small_demo, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_demo.folder / "shards", tmp_path / "shards")
    index = load_index(tmp_path / "shards")
    row = index.row(0)
    with open(tmp_path / "shards" / row["shard"], "r+b") as file:
        file.seek(row["image_offset"][0] + 10)
        file.write(b"xx")
    count, _, _, damaged = read_some(ShardReader(index), [0, 1, 2])
    assert count == 3
    assert len(damaged) == 1 and row["shard"] in damaged[0] and "XXH3 differs" in damaged[0]
