"""Every recipe of launch/recipes trains, and what its comments claim about memory is what the formula gives.

Each runs for two real steps, on one rank and the CPU, with the small demo in the place of the real model and products.
"""

import json
import math
import re
from types import SimpleNamespace

import pytest
import yaml
from launching import REPOSITORY

from phi3v_dist.checkpoints.choose import newest_checkpoint
from phi3v_dist.config.loading import list_recipes, load_config
from phi3v_dist.costs import training_memory

pytestmark = pytest.mark.timeout(600)  # four runs in one fixture

RECIPES = dict(list_recipes(REPOSITORY / "launch/recipes"))
NAMES = [path.stem for path in RECIPES]
FOR_REAL_USERS = [path.stem for path in RECIPES if path.stem.startswith("phi3v_")]
CROPS_PER_TOKEN = 51 / 8192  # the mix of perf.md, 5: 3 pictures of 17 crops with their text in 8K tokens
USABLE_GB = {141: 149, 80: 84}  # what a GPU is called by, and what it has (perf.md, 4)

# The only options that aren't the recipe's own, and why.
OTHERWISE = {
    # Where products, shards, model and run lie.
    "catalog.table": "{demo}/catalog/products.csv",
    "shards.folder": "{demo}/shards",
    "model.folder": "{demo}/base",
    "run_folder": "{run}",
    # Two steps on a machine without a GPU, told nobody. At step 2, the last, each recipe validates and saves anyway.
    "training.device": "cpu",
    "training.steps": "2",
    "tracking.wandb": "disabled",
    # The demo has 200 products of about 100 tokens: one pack of 32,768 would hold them all, and no step a second pack.
    "packing.pack_tokens": "512",
    "packing.packs_per_step": "4",
    "evaluation.loss_packs": "2",
    "evaluation.generate_products": "2",
    "evaluation.max_new_tokens": "4",
}


@pytest.fixture(scope="module")
def trained(warm, small_demo, tmp_path_factory) -> dict[str, SimpleNamespace]:
    """The run of each recipe, one after the other."""
    runs, found = tmp_path_factory.mktemp("runs"), {}
    for name in NAMES:
        given = [f"{key}={value.format(demo=small_demo.folder, run=runs / name)}" for key, value in OTHERWISE.items()]
        ended = warm.run_alone("launch/train.py", "--config", f"launch/recipes/{name}.yaml", *given)
        found[name] = SimpleNamespace(folder=runs / name, ended=ended)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_two_steps_validates_and_saves(trained, name):
    run = trained[name]
    assert run.ended.returncode == 0, run.ended.stderr
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in lines)
    assert math.isfinite(lines[-1]["validation_loss"])
    assert newest_checkpoint(run.folder).step == 2 and (run.folder / "FINISHED").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_with_its_own_options_but_for_those_named_above(trained, name):
    recipe = load_config(REPOSITORY / f"launch/recipes/{name}.yaml")
    ran = load_config(trained[name].folder / "config.yaml")
    told = [line.partition("#") for line in (trained[name].folder / "config.yaml").read_text().splitlines()]
    overridden = [text.split(":")[0].strip() for text, _, origin in told if origin.strip() == "command line"]
    assert sorted(overridden) == sorted(key.split(".")[-1] for key in OTHERWISE)
    same = load_config(REPOSITORY / f"launch/recipes/{name}.yaml", [f"{key}={_value(ran, key)}" for key in OTHERWISE])
    assert ran.config == same.config != recipe.config


def _value(loaded, key: str) -> object:
    value = loaded.config
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", FOR_REAL_USERS)
def test_the_memory_line_is_the_formulas_and_fits_the_gpu(name):
    path = REPOSITORY / f"launch/recipes/{name}.yaml"
    title, memory, *_ = path.read_text().splitlines()
    stated, ranks = map(int, re.search(r"memory: (\d+) GB per GPU, ranks: (\d+) \(by formula", memory).groups())
    config = load_config(path).config
    assert config.model.activation_checkpointing and config.model.train_vision  # what the formula is of
    settings = json.loads((REPOSITORY / config.training.deepspeed_config).read_text())["zero_optimization"]
    keep = settings["stage3_max_reuse_distance"] > 4.2e9
    tokens = config.packing.pack_tokens
    found = training_memory(ranks, tokens, round(tokens * CROPS_PER_TOKEN), keep_gathered=keep).total / 1e9
    assert stated == math.ceil(found)
    size = int(re.search(r"of (\d+) GB", title).group(1))
    assert stated < 0.8 * USABLE_GB[size]  # nobody has measured, so much is left


@pytest.mark.parametrize("name", FOR_REAL_USERS)
def test_other_memory_figures_in_comments_are_the_formulas(name):
    """``131072 fits (68 GB)`` and the like, beside pack_tokens."""
    path = REPOSITORY / f"launch/recipes/{name}.yaml"
    text = path.read_text()
    ranks = int(re.search(r"ranks: (\d+)", text).group(1))
    keep = load_config(path).config.training.deepspeed_config.endswith("keep.json")
    for tokens, stated in re.findall(r"(\d{5,6})[^()\n\d]*\((\d+) GB\)", text):
        found = training_memory(ranks, int(tokens), round(int(tokens) * CROPS_PER_TOKEN), keep_gathered=keep).total
        assert int(stated) == math.ceil(found / 1e9), tokens


@pytest.mark.parametrize("name", FOR_REAL_USERS)
def test_every_option_says_what_it_is_for_and_steps_share_out_evenly(name):
    path = REPOSITORY / f"launch/recipes/{name}.yaml"
    text = path.read_text()
    raw = yaml.safe_load(text)
    for room, options in raw.items():
        for option in options if isinstance(options, dict) else [None]:
            (line,) = re.findall(rf"^  {option}:.*$" if option else rf"^{room}:.*$", _room(text, room), re.MULTILINE)
            assert "# " in line, line
    ranks = int(re.search(r"ranks: (\d+)", text).group(1))
    assert raw["packing"]["packs_per_step"] % ranks == 0


def _room(text: str, room: str) -> str:
    return re.search(rf"^{room}:.*\n(?:  .*\n|\n(?=  ))*", text, re.MULTILINE).group(0)


def test_each_recipe_says_in_its_first_line_what_it_is_for():
    assert {"demo_cpu", "phi3v_1gpu", "phi3v_8gpu", "phi3v_8node"} <= set(NAMES)
    assert len(set(RECIPES.values())) == len(RECIPES) and all(len(line) > 40 for line in RECIPES.values())
