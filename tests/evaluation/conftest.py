"""Shards of the demo catalogue, small, and the demo model with random weights."""

import pytest

from phi3v_dist.catalog.demo import make_demo_catalog
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.documents.demo_tokenizer import build_demo_tokenizer
from phi3v_dist.files import write_json
from phi3v_dist.model.demo import demo_config, demo_model, demo_preprocessor_config
from phi3v_dist.model.folder import write_folder
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.write import make_shards


@pytest.fixture(scope="session")
def run_parent(tmp_path_factory):
    """A folder with ``shards/`` of about 60 products and ``export/``, a model that was never trained."""
    parent = tmp_path_factory.mktemp("run")
    make_demo_catalog(parent / "catalog", 60, 0)
    catalog = CatalogOptions(table=str(parent / "catalog/products.csv"), heldout_share=0.3)
    make_shards(catalog, ShardOptions(folder=str(parent / "shards"), workers=1))
    _make_model(parent)
    return parent


def _make_model(parent):
    titles = load_index(parent / "shards").column("title")
    tokenizer = build_demo_tokenizer(f"Product: {title}, Category: , Full Price:" for title in titles)
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "<|endoftext|>", "<|end|>")}
    config = demo_config(tokenizer.get_vocab_size(), ids)
    side_files = parent / "side_files"
    write_json(side_files / "config.json", config)
    write_json(side_files / "preprocessor_config.json", demo_preprocessor_config())
    tokenizer.save(str(side_files / "tokenizer.json"))
    tensors = demo_model(config, seed=0).bfloat16().state_dict().items()
    write_folder(parent / "export", tensors, side_files, end_ids=(ids["<|endoftext|>"], ids["<|end|>"]))
