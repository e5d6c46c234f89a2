"""The cut-down model's configuration, and its packs. That it steps, saves and loads: tests/launch."""

import json
from pathlib import Path

import pytest
import torch

from phi3v_dist.config.options import DocumentOptions, RunConfig
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.model.folder import read_config
from phi3v_dist.model.phi3v import Phi3VForCausalLM
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.training.trial import cut_down, pack_of_text, pack_with_pictures, some_samples

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def reader(small_demo) -> ShardReader:
    return ShardReader(load_index(small_demo.folder / "shards"))


@pytest.fixture(scope="module")
def processor(small_demo) -> DocumentProcessor:
    return DocumentProcessor.from_folder(small_demo.folder / "base", DocumentOptions())


def test_the_cut_down_model_has_two_layers_each_and_every_other_size_of_the_runs(tmp_path: Path) -> None:
    raw = {"model_type": "phi3_v"}  # the official file's sizes are the defaults
    (tmp_path / "real").mkdir()
    (tmp_path / "real/config.json").write_text(json.dumps(raw))
    config = RunConfig.model_validate({"model": {"folder": str(tmp_path / "real")}})
    small = read_config(cut_down(config, tmp_path / "small").model.folder)
    real = read_config(tmp_path / "real")
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Phi3VForCausalLM(small).named_parameters()}
        full = {name: p.shape for name, p in Phi3VForCausalLM(real).named_parameters()}
    assert (small.num_hidden_layers, small.vision().num_hidden_layers) == (2, 2)
    assert {name: full[name] for name in shapes} == shapes
    assert sum("layers." in name for name in full) == 32 * 6 + 24 * 16
    assert sum("layers." in name for name in shapes) == 2 * 6 + 2 * 16


def test_a_pack_with_pictures_holds_as_many_samples_as_fit(processor, reader) -> None:
    samples = some_samples(reader, range(40))
    batch = pack_with_pictures(processor, samples, 512)
    assert batch.weight == 1.0 and len(batch.grids) == len(batch.samples) > 1
    assert len(batch.input_ids) <= 512
    more = pack_with_pictures(processor, samples[: len(batch.samples) + 1], 8192)
    assert len(more.input_ids) > 512  # one more would not have fitted


def test_without_a_usable_sample_the_pack_is_a_blank_picture(processor) -> None:
    batch = pack_with_pictures(processor, [], 512)
    assert (batch.weight, len(batch.grids), len(batch.targets)) == (0.0, 1, 0)


def test_a_pack_of_text_has_no_picture_and_supervised_answers(processor, reader) -> None:
    batch = pack_of_text(processor, some_samples(reader, range(40)), 512)
    assert batch.grids == () and (batch.input_ids >= 0).all()
    assert len(batch.targets) > 0 and len(batch.input_ids) <= 512


def test_a_pack_of_text_of_no_sample_scores_nothing(processor) -> None:
    batch = pack_of_text(processor, [], 512)
    assert len(batch.input_ids) > 0 and len(batch.targets) == 0
