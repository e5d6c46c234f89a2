"""Several shard folders as one: numbers go on, samples come from the right folder, shards stay whole."""

from dataclasses import replace

import numpy as np
import pytest

from phi3v_dist.config.options import ShardOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import DamagedSample, ShardReader
from phi3v_dist.shards.sources import SourcesIndex, SourcesReader, open_sources


def test_one_folder_is_what_it_was(made):
    index = open_sources(ShardOptions(folder=str(made.folder)))
    alone = load_index(made.folder)
    assert index.content_hash == alone.index_hash
    assert index.row(7) == alone.row(7)
    assert SourcesReader(index).sample(7) == ShardReader(alone).sample(7)
    assert index.numbers("train").tolist() == alone.numbers("train").tolist()


def test_samples_of_the_second_folder_follow_those_of_the_first(made, damaged_copy):
    index = open_sources(ShardOptions(sources={str(made.folder): 1.0, str(damaged_copy): 2.0}))
    alone = ShardReader(load_index(made.folder))
    count = len(alone.index)
    assert len(index) == 2 * count
    order = [3, count + 3, count, 0, 2 * count - 1]
    for number, sample in zip(order, SourcesReader(index).samples(order), strict=True):
        assert sample == replace(alone.sample(number % count), number=number)
        assert index.key(number) == sample.key
        assert index.sizes(number) == alone.index.sizes(number % count)
        assert index.row(number) == alone.index.row(number % count) | {"sample": number}
    first = alone.index.numbers("train")
    assert index.numbers("train").tolist() == [*first, *(count + first)]


def test_a_damaged_sample_tells_which_of_several_folders_it_lies_in(made, damaged_copy):
    index = open_sources(ShardOptions(sources={str(made.folder): 1.0, str(damaged_copy): 1.0}))
    number = len(index) - 1
    row = index.row(number)
    with open(damaged_copy / row["shard"], "r+b") as file:
        file.seek(row["json_offset"])
        file.write(b"#")
    reader = SourcesReader(index)
    (told,) = reader.samples([number])
    assert isinstance(told, DamagedSample)
    assert str(told).startswith(f"{damaged_copy}/{row['shard']}, byte ")
    with pytest.raises(DamagedSample, match=str(damaged_copy)):
        reader.sample(number)


@pytest.mark.parametrize("split", ["train", "heldout", "none"])
def test_bounds_of_shards_hold_the_samples_of_the_split_and_no_other(made, damaged_copy, split):
    index = open_sources(ShardOptions(sources={str(made.folder): 1.0, str(damaged_copy): 1.0}))
    numbers = [number for bounds in index.shards(split) for first, end in bounds for number in range(first, end)]
    assert numbers == index.numbers(split).tolist()
    for bounds in index.shards(split):
        assert [len({index.row(number)["shard"] for number in range(first, end)}) for first, end in bounds] == [
            1
        ] * len(bounds)


def test_another_order_or_weight_is_another_content(made, damaged_copy):
    one, two = load_index(made.folder), load_index(damaged_copy)
    two = replace(two, index_hash="another")
    told = [
        SourcesIndex([one, two], [1.0, 1.0]),
        SourcesIndex([two, one], [1.0, 1.0]),
        SourcesIndex([one, two], [1.0, 2.0]),
        SourcesIndex([one], [2.0]),
        SourcesIndex([one], [1.0]),
    ]
    assert len({index.content_hash for index in told}) == len(told)


def test_a_shard_whose_samples_lie_apart_is_refused(made):
    index = load_index(made.folder)
    mixed = replace(index, table=index.table.take(np.random.default_rng(0).permutation(len(index))).combine_chunks())
    with pytest.raises(ShardError, match="side by side"):
        SourcesIndex([mixed], [1.0]).shards("train")
