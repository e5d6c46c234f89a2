"""A model folder whose files don't belong together is refused before anything is loaded."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.errors import ModelFolderError, ShardError
from phi3v_dist.files import write_json
from phi3v_dist.model.demo import demo_config, demo_preprocessor_config
from phi3v_dist.training.materials import gather_materials


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
