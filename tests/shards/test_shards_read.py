"""A sample by its number: the original bytes, or a named damage."""

import json
import os
import pickle
import shutil
import tarfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.manifest import describe_file
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
    assert "train/train-000000.tar" in damage and "XXH3-128 differs" in damage


@pytest.fixture(scope="session")
def truth(made) -> dict[str, tuple[bytes, ...]]:
    """Pictures by key as webdataset streams them, which are those of tarfile."""
    tars = sorted(map(str, made.folder.rglob("*.tar")))
    streamed = {
        sample["__key__"]: tuple(sample[name] for name in sorted(sample) if name[:1].isdigit())
        for sample in webdataset.WebDataset(tars, shardshuffle=False)
    }
    plain: dict[str, list[bytes]] = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in sorted(tar.getmembers(), key=lambda member: member.name):
                if not member.name.endswith(".json"):
                    plain.setdefault(member.name.partition(".")[0], []).append(tar.extractfile(member).read())
    assert streamed == {key: tuple(pictures) for key, pictures in plain.items()} and len(streamed) == 19
    return streamed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.integers(0, 18), max_size=60),
    window_samples=st.integers(1, 8),
    window_bytes=st.sampled_from([1, 3000, 2**26]),
    most_open=st.integers(1, 5),
)
def test_any_order_and_window_gives_what_webdataset_and_tarfile_read(
    made, truth, monkeypatch, order, window_samples, window_bytes, most_open
):
    monkeypatch.setattr("phi3v_dist.shards.read._WINDOW_SAMPLES", window_samples)
    monkeypatch.setattr("phi3v_dist.shards.read._WINDOW_BYTES", window_bytes)
    monkeypatch.setattr("phi3v_dist.shards.store._MAX_OPEN_FILES", most_open)
    index = load_index(made.folder)
    reader = ShardReader(index)
    read = list(reader.samples(order))
    assert [sample.number for sample in read] == order
    assert all(sample.images == truth[index.row(sample.number)["key"]] for sample in read)
    assert read == [reader.sample(number) for number in order]
    assert len(descriptors(reader)) <= most_open


def test_planned_reading_asks_the_disk_a_window_ahead_in_its_order(made, monkeypatch):
    monkeypatch.setattr("phi3v_dist.shards.read._WINDOW_SAMPLES", 4)
    index = load_index(made.folder)
    reader, asked = ShardReader(index), []
    fadvise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *place: (asked.append(place), fadvise(*place)))
    order = [18, 3, 11, 0, 7, 2, 16, 5]
    places = [reader._columns.place(number) for number in order]
    stream = reader.samples(order)
    next(stream)
    assert len(asked) == 8  # both windows, before the second sample is read
    for window, part in ((places[:4], asked[:4]), (places[4:], asked[4:])):
        assert [start for _, start, _, _ in part] == [p.start for p in sorted(window, key=lambda p: (p.shard, p.start))]
    assert len(list(stream)) == 7 and len(asked) == 8


def test_a_damaged_sample_stands_in_its_place_among_others(damaged_copy):
    index = load_index(damaged_copy)
    row = index.row(7)
    flip(damaged_copy / row["shard"], row["image_offset"][0] + 5)
    read = list(ShardReader(index).samples([6, 7, 8, 7]))
    assert [isinstance(sample, DamagedSample) for sample in read] == [False, True, False, True]
    assert (read[1].shard, read[1].key, read[1].offset) == (row["shard"], row["key"], row["image_offset"][0])


def test_a_folder_that_is_gone_is_no_samples_fault(damaged_copy):
    index = load_index(damaged_copy)
    reader = ShardReader(index)
    shutil.rmtree(damaged_copy)
    with pytest.raises(ShardError, match="can't be reached any more"):
        reader.sample(0)
    with pytest.raises(ShardError, match="can't be reached any more"):
        list(reader.samples([0]))


def test_a_number_that_does_not_exist_is_an_index_error(made):
    reader = ShardReader(load_index(made.folder))
    for number in (-1, 19):
        with pytest.raises(IndexError):
            reader.sample(number)


def test_threads_share_a_reader_of_one_open_file(made, truth, monkeypatch):
    monkeypatch.setattr("phi3v_dist.shards.store._MAX_OPEN_FILES", 1)
    reader = ShardReader(load_index(made.folder))
    faults: list[object] = []

    def read(first: int) -> None:
        try:
            for round_ in range(60):
                sample = reader.sample((first + 7 * round_) % 19)
                if sample.images != truth[sample.key]:
                    faults.append(sample.number)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_checksum_of_the_index_is_xxh3_and_verify_compares_the_file(damaged_copy):
    """An index whose XXH3 fits bytes that aren't those of the manifest: reading can't see it, verify does."""
    index, path = load_index(damaged_copy), damaged_copy / "index.parquet"
    row, table = index.row(7), pq.read_table(path)
    flip(damaged_copy / row["shard"], row["image_offset"][0] + 5)
    reader = ShardReader(index)
    contents = reader.members(7)
    whole = b"".join(contents)
    assert xxhash.xxh3_64_intdigest(whole) != row["xxh3"]
    forged = table["xxh3"].to_pylist()
    forged[7] = xxhash.xxh3_64_intdigest(whole)
    pq.write_table(table.set_column(table.column_names.index("xxh3"), "xxh3", pa.array(forged, pa.uint64())), path)
    manifest = json.loads((damaged_copy / "manifest.json").read_text())
    manifest["index"] = describe_file(damaged_copy, "index.parquet")
    (damaged_copy / "manifest.json").write_text(json.dumps(manifest))
    assert ShardReader(load_index(damaged_copy)).sample(7).number == 7
    (damage,) = verify_shards(damaged_copy)
    assert row["shard"] in damage and "XXH3-128 differs" in damage
