"""A sample by its number: the original bytes, or a named damage."""

import os
import pickle
from pathlib import Path

import pytest

from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import DamagedSample, ShardReader
from phi3v_dist.shards.verify import verify_shards


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def descriptors(reader: ShardReader) -> set[int]:
    return {file.descriptor for file in reader._store._files.values()}


def test_every_sample_is_the_product_of_the_table(made, catalog, good_rows):
    reader = ShardReader(load_index(made.folder))
    for number in range(19):
        sample = reader.sample(number)
        row = good_rows[sample.product_code]
        assert (sample.number, sample.title, sample.category) == (number, row["title"], row["category3_code"])
        assert (sample.price, sample.currency) == (float(row["full_price"]), "EUR")
        assert sample.images == ((Path(catalog.table).parent / row["local_image_path"]).read_bytes(),)


@pytest.mark.parametrize("member", ["json_offset", "image_offset"])
def test_one_changed_byte_is_a_named_damage(damaged_copy, member):
    index = load_index(damaged_copy)
    row = index.row(7)
    offset = row[member] if member == "json_offset" else row[member][0]
    flip(damaged_copy / row["shard"], offset + 5)
    reader = ShardReader(index)
    with pytest.raises(DamagedSample) as caught:
        reader.sample(7)
    assert (caught.value.shard, caught.value.key) == (row["shard"], row["key"])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert reader.sample(6).number == 6 and reader.sample(8).number == 8


def test_cut_and_vanished_files_are_damages(damaged_copy):
    index = load_index(damaged_copy)
    last = index.row(len(index) - 1)
    os.truncate(damaged_copy / last["shard"], last["json_offset"] + 3)
    with pytest.raises(DamagedSample, match="too early"):
        ShardReader(index).sample(len(index) - 1)
    (damaged_copy / last["shard"]).unlink()
    with pytest.raises(DamagedSample, match="No such file"):
        ShardReader(index).sample(len(index) - 1)


def test_a_pickled_reader_opens_its_own_files(made):
    reader = ShardReader(load_index(made.folder))
    before = reader.sample(3)
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert copy.sample(3) == before == reader.sample(3)


def test_a_forked_reader_opens_its_own_files(made):
    reader = ShardReader(load_index(made.folder))
    reader.sample(3)
    inherited = descriptors(reader)
    child = os.fork()
    if child == 0:
        reader.sample(3)
        os._exit(0 if descriptors(reader).isdisjoint(inherited) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert descriptors(reader) == inherited
    assert reader.sample(3).number == 3  # the child's end has closed nothing of ours


def test_few_files_stay_open(made, monkeypatch):
    monkeypatch.setattr("phi3v_dist.shards.store._MAX_OPEN_FILES", 1)
    reader = ShardReader(load_index(made.folder))
    for number in (0, 18, 0, 18):
        assert reader.sample(number).number == number
        assert len(descriptors(reader)) == 1


def test_verify_is_silent_on_whole_shards(made):
    assert verify_shards(made.folder) == []


def test_verify_names_shard_offset_and_key(damaged_copy):
    row = load_index(damaged_copy).row(7)
    flip(damaged_copy / row["shard"], row["image_offset"][0] + 20)
    (damage,) = verify_shards(damaged_copy)
    assert row["shard"] in damage and row["key"] in damage and str(row["image_offset"][0]) in damage


def test_verify_sees_damage_outside_the_samples(damaged_copy):
    flip(damaged_copy / "train/train-000000.tar", 110)  # inside the first header
    (damage,) = verify_shards(damaged_copy)
    assert "train/train-000000.tar" in damage and "no sample is touched" in damage
