"""Batches waiting in shared memory never exceed the option nor the node's room."""

import logging
import shutil
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.documents.crops import crop_grid, image_tokens
from phi3v_dist.documents.processor import Document
from phi3v_dist.errors import ConfigError, RunError
from phi3v_dist.packing import shared_memory
from phi3v_dist.packing.collate import collate
from phi3v_dist.packing.shared_memory import largest_batch_bytes, prefetch_depth

Usage = namedtuple("Usage", "total used free")
PACK = largest_batch_bytes(8192)
pictures = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=3)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    def set_free(bytes_free: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, bytes_free))

    set_free(1e15)
    return set_free


def _options(gigabytes: float, workers: int = 2, prefetch: int = 4) -> PackingOptions:
    return PackingOptions(workers=workers, prefetch_packs=prefetch, shared_memory_gb=gigabytes)


@pytest.mark.parametrize("side", [56, 336])
@given(pictures, st.sampled_from([4, 16]))
def test_no_batch_is_larger_than_the_largest(side: int, sizes: list, num_crops: int):
    grids = [crop_grid(*size, num_crops, side) for size in sizes]
    tokens = sum(image_tokens(*size, num_crops, side // 28) for size in sizes) + 20
    crops = [np.empty((rows * columns, 3, side, side), np.uint8) for rows, columns in grids]
    ids = np.ones(tokens, np.int64)
    batch = collate([Document(ids, crops, grids, ids, 0)])  # every position supervised: more than can be
    parts = (batch.input_ids, batch.positions, batch.cu_seqlens, batch.supervised, batch.targets, batch.crops)
    assert sum(part.nbytes for part in (*parts, batch.samples)) <= largest_batch_bytes(tokens)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("batches", [5, 6, 10, 11, 14, 15, 100])
def test_as_many_packs_are_prepared_as_fit(free, workers: int, batches: int):
    depth = prefetch_depth(_options(batches * PACK / 1e9, workers), 1)
    assert 1 <= depth <= 4
    assert depth * workers + 2 <= batches  # those ahead, the one in use, the next one
    assert depth == 4 or (depth + 1) * workers + 2 > batches


def test_an_option_too_small_for_one_pack_per_process_names_what_is_enough(free):
    with pytest.raises(ConfigError, match=r"^packing.shared_memory_gb: 2 .* \(found 0.07\).*=(\S+) or more") as told:
        prefetch_depth(_options(0.07), 1)
    enough = float(str(told.value).split("shared_memory_gb=")[1].split()[0])
    assert prefetch_depth(_options(enough), 1) == 1


def test_a_small_dev_shm_is_named_with_its_size_and_mend(free):
    free(64 * 2**20)  # docker's default
    with pytest.raises(
        RunError, match=r"^/dev/shm: loader .* 8 ranks need 0.64 GB .*\(found '0.06 GB free'\).*--shm-size"
    ):
        prefetch_depth(_options(4.0), 8)


def test_a_dev_shm_that_holds_some_packs_is_used_with_a_warning(free, caplog: pytest.LogCaptureFixture):
    free(8 * 6 * PACK)
    with caplog.at_level(logging.WARNING, "phi3v_dist"):
        assert prefetch_depth(_options(4.0), 8) == 2
    (record,) = caplog.records
    assert "for 8 ranks: each loader process prepares 2 packs ahead, not 4" in record.getMessage()


def test_without_a_dev_shm_the_option_decides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", "/no/such/folder")
    assert prefetch_depth(_options(4.0), 8) == 4


def test_the_defaults_hold_packs_of_128k():
    assert (1 * 2 + 2) * largest_batch_bytes(131_072) < PackingOptions().shared_memory_gb * 1e9
