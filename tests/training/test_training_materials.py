"""A model folder whose files don't belong together is refused before anything is loaded; what a plan warns of."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.errors import ModelFolderError, ShardError
from phi3v_dist.files import write_json
from phi3v_dist.model.demo import demo_config, demo_preprocessor_config
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan
from phi3v_dist.training.materials import Materials, gather_materials, warnings_of


def model_folder(folder: Path, *, more_tokens: int = 0, crop_size: int = 56) -> RunConfig:
    tokenizer = build_demo_tokenizer(["Product: Bag"])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "<|endoftext|>")}
    write_json(folder / "config.json", demo_config(tokenizer.get_vocab_size() + more_tokens, ids))
    write_json(folder / "preprocessor_config.json", demo_preprocessor_config() | {"crop_size": crop_size})
    save_file({}, folder / "model.safetensors")
    return RunConfig.model_validate({"model": {"folder": str(folder)}, "shards": {"folder": str(folder / "shards")}})


def test_crops_of_another_size_than_the_towers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"vision tower's 56 pixels \(found 336\)"):
        gather_materials(model_folder(tmp_path, crop_size=336))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json has more tokens than"):
        gather_materials(model_folder(tmp_path, more_tokens=-1))


@pytest.mark.parametrize("more_tokens", [0, 19])
def test_a_folder_that_fits_goes_on_to_the_shards_also_with_spare_rows(tmp_path: Path, more_tokens: int) -> None:
    with pytest.raises(ShardError):
        gather_materials(model_folder(tmp_path, more_tokens=more_tokens))


def warned(ranks: int = 2, heldout: tuple[int, ...] = (), **sources: float) -> list[str]:
    """Warnings on a plan of three packs, and a longer document, in the first source, and none in the others."""
    packing = {"pack_tokens": 64, "packs_per_step": 2, "long_documents": "drop"}
    config = RunConfig.model_validate({"packing": packing, "shards": {"sources": sources}})

    def plan(tokens: tuple[int, ...], name: str) -> Plan:
        counts = np.array(tokens)
        source = Source(np.array([[0, len(tokens)]]), 1.0, name)
        return Plan(counts, counts // 2, counts, [source], config.packing, 0, lambda number: f"k{number}")

    plans = plan((40, 50, 60, 99), next(iter(sources), "shards")), plan(heldout, "shards") if heldout else None
    return warnings_of(Materials(None, None, *plans, 3, {}), config, ranks)  # type: ignore[arg-type]


def test_documents_too_long_for_a_pack_are_counted_and_named_in_both_splits() -> None:
    assert warned(heldout=(70, 10, 65)) == [
        "1 train documents are longer than packing.pack_tokens=64: 0 cut, 1 left out (k3)",
        "2 heldout documents are longer than packing.pack_tokens=64: 0 cut, 2 left out (k0, k2)",
    ]


def test_ranks_that_would_idle_are_told_the_nearest_good_number() -> None:
    assert "nearest without: packing.packs_per_step=3" in warned(ranks=3)[0]


def test_a_source_without_a_train_sample_is_named() -> None:
    assert "shards.sources: b has no train sample, so there is nothing to take 1.5 times" in warned(a=1, b=1.5)[0]
