"""Every command as a user meets it: help that ends with an example, errors of one line, what the fronts print.

The commands run inside this process as ``__main__``, except where time and imports are what is looked at.
"""

import csv
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from launching import REPOSITORY
from parsing import parsed

from phi3v_dist.config.loading import load_config
from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents import length_cache
from phi3v_dist.packing.plan import Plan
from phi3v_dist.tracking.metrics import MetricsFile

COMMANDS = sorted(
    str(path.relative_to(REPOSITORY)) for room in ("launch", "tools") for path in (REPOSITORY / room).glob("*.py")
)
RECIPE = "launch/recipes/demo_cpu.yaml"
SHAPE = re.compile(r"ERROR [^:]+: .+\. \S.+")  # where: what (found value). mend
RAN = (
    "import runpy, sys\nsys.argv = sys.argv[1:]\ntry:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nfinally:\n"
    "    print({'torch', 'transformers', 'scipy', 'numba', 'pandas'} & sys.modules.keys(), file=sys.stderr)"
)


@pytest.fixture
def call(monkeypatch, capfd):
    """Run a command in this process, in the checkout's folder; its exit code and outputs."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(REPOSITORY)
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(words[0]), run_name="__main__")
        return ended.value.code or 0, *capfd.readouterr()

    return call


@pytest.fixture(scope="module", params=COMMANDS)
def helped(request):
    """A command, and its help."""
    done = subprocess.run([sys.executable, "-c", RAN, request.param, "--help"], cwd=REPOSITORY, capture_output=True,
                          text=True, timeout=60, check=True)  # fmt: skip
    return request.param, done


def test_help_comes_without_what_takes_long_to_import(helped):
    _, done = helped
    assert done.stderr.strip() == "set()"


def test_help_ends_with_an_example_that_the_command_takes(helped, monkeypatch):
    command, done = helped
    *_, title, example = done.stdout.splitlines()
    assert title == "example:" and example.startswith("  ")
    launcher, *words = shlex.split(example)
    assert (launcher, words[0]) in {("python", command), ("deepspeed", "--num_gpus")}
    given = words[words.index(command) + 1 :]
    taken = parsed(command, given, monkeypatch)
    paths = [value for value in vars(taken).values() if isinstance(value, Path)]
    assert all((REPOSITORY / path).exists() or path.parts[:2] == ("runs", "demo") for path in paths), paths
    if "config" in taken:
        assert load_config(REPOSITORY / taken.config, taken.overrides).config != RunConfig()


# {work}: a folder with nothing but a file called "file"; {demo}: the small demo
PLAN_DEMO = "shards.folder={demo}/shards model.folder={demo}/base"
WRONG = {
    "demo catalogue below a file": ("tools/make_demo_catalog.py {work}/file/x", ["{work}/file/x", "can't be made"]),
    "demo catalogue without products": ("tools/make_demo_catalog.py --products 0 {work}/x", ["--products", "found 0"]),
    "demo catalogue over a table": ("tools/make_demo_catalog.py {work}/own", ["own/products.csv", "of your own"]),
    "no recipe": ("tools/make_shards.py --config {work}/none.yaml", ["{work}/none.yaml", RECIPE]),
    "recipe is no YAML": ("tools/make_shards.py --config {work}/file", ["{work}/file line", "isn't YAML"]),
    "unknown key": (f"tools/make_shards.py --config {RECIPE} shards.workerz=1", ["Did you mean shards.workers?"]),
    "no table": (f"tools/make_shards.py --config {RECIPE} catalog.table={{work}}/none.csv", ["{work}/none.csv"]),
    "table below a file": (
        f"tools/make_shards.py --config {RECIPE} catalog.table={{work}}/file/x.csv",
        ["{work}/file/x.csv"],
    ),
    "table without rows": (
        f"tools/make_shards.py --config {RECIPE} catalog.table={{work}}/head.csv shards.folder={{work}}/x",
        ["{work}/head.csv", "no row"],
    ),
    "nothing to fetch from": (
        f"tools/fetch_products.py --config {RECIPE} catalog.table={{work}}/none.csv catalog.fetched_folder={{work}}/x",
        ["{work}/none.csv"],
    ),
    "no URL to fetch": (
        f"tools/fetch_products.py --config {RECIPE} catalog.table={{work}}/one.csv catalog.fetched_folder={{work}}/x",
        ["{work}/one.csv column local_image_path", "no picture is a URL", "catalog.columns.image_path"],
    ),
    "shards over a file": (
        f"tools/make_shards.py --config {RECIPE} catalog.table={{work}}/one.csv shards.folder={{work}}/file",
        ["{work}/file", "in the way"],
    ),
    "shards below a file": (
        f"tools/make_shards.py --config {RECIPE} catalog.table={{work}}/one.csv shards.folder={{work}}/file/x",
        ["{work}/file/x", "can't be made", "shards.folder"],
    ),
    "plan for no rank": (f"tools/plan_packs.py --config {RECIPE} --ranks 0", ["--ranks", "found '0'"]),
    "plan with fewer names than none": (f"tools/plan_packs.py --config {RECIPE} --name-long=-1", ["--name-long", "-1"]),
    "plan of no shards": (
        f"tools/plan_packs.py --config {RECIPE} {PLAN_DEMO} shards.folder={{work}}/none",
        ["{work}/none"],
    ),
    "plan drawn over a folder": (
        f"tools/plan_packs.py --config {RECIPE} {PLAN_DEMO} --picture {{work}}",
        ["{work}: "],
    ),
    "plan with documents longer than a pack": (
        f"tools/plan_packs.py --config {RECIPE} {PLAN_DEMO} packing.pack_tokens=64 documents.num_crops=9",
        ["packing.pack_tokens", "the longest has", "(8000", ", …)", "found 64", "packing.long_documents=drop"],
    ),
    "more than all parts": (f"tools/make_shards.py --config {RECIPE} --part 3/2", ["--part", "found '3/2'", "2/8"]),
    "model of no catalogue": (
        "tools/make_demo_model.py --catalog {work}/none.csv {work}/x",
        ["{work}/none.csv", "no such product table"],
    ),
    "model of a picture": (
        "tools/make_demo_model.py --catalog {demo}/base/model.safetensors {work}/x",
        ["model.safetensors", "UTF-8"],
    ),
    "no tars to index": (f"tools/index_shards.py {{work}} --config {RECIPE}", ["{work}", "*.tar"]),
    "no such sample": ("tools/inspect_shards.py {demo}/shards --sample 9999", ["/shards: no such sample (found 9999)"]),
    "no such key": ("tools/inspect_shards.py {demo}/shards --key nobody", ["/shards: no sample", "found 'nobody'"]),
    "no shards to inspect": ("tools/inspect_shards.py {work}/none", ["{work}/none", "tools/make_shards.py"]),
    "nothing to consolidate": ("tools/consolidate.py {work}/none {work}/x", ["{work}/none", "no complete checkpoint"]),
    "no model to score": ("tools/evaluate.py {work}/none {demo}/shards", ["{work}/none", "tools/consolidate.py"]),
    "no shards to score on": ("tools/evaluate.py {demo}/base {work}/none", ["{work}/none", "tools/make_shards.py"]),
    "nothing to report": (
        "tools/report.py {work}/none",
        ["{work}/none: holds neither shards", "manifest.json", "train/metrics.jsonl", "launch/train.py"],
    ),
    "demo below a file": ("tools/demo.py {work}/file/x", ["{work}/file", "Mend the path"]),
    "demo with another seed": (
        "tools/demo.py --seed 1 {work}/seed0",
        ["{work}/seed0/demo.json", "products 2600, seed 1, steps 1300", '"seed": 0', "another folder"],
    ),
    "demo with more steps": ("tools/demo.py --steps 1400 {work}/seed0", ["{work}/seed0/demo.json", "steps 1400"]),
    "demo with fewer products": ("tools/demo.py --products 9 {work}/seed0", ["products 9, seed 0"]),
    "demo whose settings are no JSON": ("tools/demo.py {work}/torn", ["{work}/torn/demo.json", "another folder"]),
    "demo too short to be killed": ("tools/demo.py --steps 3 {work}/x", ["--steps", "found 3", "10 or more"]),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    header = "product_code,title,category3_code,full_price,currency_code,imageurl,local_image_path\n"
    (folder / "file").write_text("a: [\n")
    (folder / "head.csv").write_text(header)
    (folder / "one.csv").write_text(header + "1,Bag,BAGS,10,EUR,,none.jpg\n")
    (folder / "own").mkdir()
    (folder / "own/products.csv").write_text(header)
    for name, settings in (("seed0", '{"products": 2600, "seed": 0, "steps": 1300}'), ("torn", '{"prod')):
        (folder / name).mkdir()
        (folder / name / "demo.json").write_text(settings)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_code_2(name, call, work, small_demo):
    command, parts = WRONG[name]
    before = sorted(work.rglob("*"))
    code, out, err = call(*shlex.split(command.format(work=work, demo=small_demo.folder)))
    assert code == 2, err
    assert SHAPE.fullmatch(err.rstrip("\n")) and err.count("\n") == 1, err
    assert [part for part in parts if part.format(work=work) not in err] == []
    assert "Traceback" not in out
    assert sorted(work.rglob("*")) == before


@pytest.fixture(scope="module")
def catalog(small_demo, tmp_path_factory) -> Path:
    """Twenty good products of the small demo and three wrong rows; returns the table."""
    folder = tmp_path_factory.mktemp("catalog")
    with open(small_demo.folder / "catalog/products.csv", newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
    known = pq.read_table(small_demo.folder / "shards/rejects.parquet")["product_code"].to_pylist()
    good = [row for row in rows if row[0] not in known][:20]
    price, picture = header.index("full_price"), header.index("local_image_path")
    wrong = [["W1", *good[0][1:]], ["W2", *good[1][1:]], ["W3", *good[2][1:]]]
    wrong[0][price], wrong[1][picture] = "12,50", "images/none.jpg"
    wrong[2][picture] = "broken.jpg"
    (folder / "broken.jpg").write_bytes(b"no picture")
    shutil.copytree(small_demo.folder / "catalog/images", folder / "images")
    with open(folder / "products.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *good, *wrong])
    return folder / "products.csv"


def test_wrong_products_are_named_and_the_rest_becomes_shards(call, catalog, tmp_path):
    recipe = ("--config", RECIPE, f"catalog.table={catalog}", f"shards.folder={tmp_path}/shards", "shards.workers=1")
    code, out, err = call("tools/make_shards.py", *recipe, "catalog.max_reject_share=0.2")
    assert (code, err) == (0, "")
    rejects = {row["product_code"]: row for row in pq.read_table(tmp_path / "shards/rejects.parquet").to_pylist()}
    assert {name: row["reason"] for name, row in rejects.items()} == {
        "W1": "price: not a number",
        "W2": "picture: missing",
        "W3": "picture: not a picture",
    }
    assert [rejects[name]["row"] for name in ("W1", "W2", "W3")] == [22, 23, 24]
    assert rejects["W1"]["value"] == "12,50" and rejects["W2"]["value"].endswith("images/none.jpg")
    for reason in ("price: not a number", "picture: missing"):
        assert f"rejected: {reason}" in out
    manifest = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert sum(manifest["counts"].values()) == 20

    code, out, err = call("tools/make_shards.py", *recipe, "catalog.max_reject_share=0.1")
    assert code == 3 and "nothing to do" in out
    assert SHAPE.fullmatch(err.rstrip("\n")) and "rejects.parquet: 13.0% of the products" in err


def test_inspecting_shards_counts_every_sample(call, small_demo):
    code, out, err = call("tools/inspect_shards.py", small_demo.folder / "shards", "--verify")
    assert (code, err) == (0, "")
    manifest = json.loads((small_demo.folder / "shards/manifest.json").read_text())
    assert "every file and every sample is as it was written" in out
    assert re.search(rf"both\W+all\W+{sum(manifest['counts'].values())}\b", out), out


def test_a_plan_is_told_in_words_and_as_json_and_drawn(call, small_demo, tmp_path):
    demo = (f"shards.folder={small_demo.folder}/shards", f"model.folder={small_demo.folder}/base")
    recipe = ("--config", RECIPE, "--ranks", 4, "--picture", tmp_path / "fill.png", *demo)
    code, out, err = call("tools/plan_packs.py", *recipe)
    assert code == 0, err
    assert "no violation found" in out and (tmp_path / "fill.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = call(
        *("tools/plan_packs.py", *recipe, "--json", "packing.pack_tokens=80", "packing.long_documents=drop"),
        "documents.num_crops=9",
    )
    assert code == 0, err
    told = json.loads(out)
    train = json.loads((small_demo.folder / "shards/manifest.json").read_text())["counts"]["train"]
    assert told["documents"] + told["dropped"] == train
    assert len(told["long_keys"]) == min(10, told["long_documents"]) > 0
    assert {"fill", "bound", "phase_imbalance", "plan_seconds", "violations", "advice"} <= told.keys()


def test_a_plan_that_would_not_train_is_told_with_code_2(call, small_demo, monkeypatch):
    """Planted where steps are made, behind all that could have seen it."""
    made = Plan.step

    def with_too_much(plan, number):
        step = made(plan, number)
        return replace(step, packs=[np.concatenate(step.packs[:2]), *step.packs[2:]])

    monkeypatch.setattr(Plan, "step", with_too_much)
    demo = (f"shards.folder={small_demo.folder}/shards", f"model.folder={small_demo.folder}/base")
    code, out, err = call("tools/plan_packs.py", "--config", RECIPE, *demo)
    assert (code, err) == (2, "")
    assert re.search(r"VIOLATION step 1, pack 0: \d+ tokens, packing.pack_tokens=\d+", out), out
    assert "it would not train" in out and "it won't hang" not in out


def test_a_plan_s_json_is_json_also_where_lengths_are_counted_first(call, small_demo, monkeypatch, tmp_path):
    monkeypatch.setattr(length_cache, "_SMALL_SAMPLES", 1)  # as if the demo were large
    demo = (f"shards.folder={small_demo.folder}/shards", f"model.folder={small_demo.folder}/base")
    words = ("--config", RECIPE, "--json", *demo, f"shards.cache_folder={tmp_path}")
    code, out, err = call("tools/plan_packs.py", *words)
    assert code == 0 and "lengths, " in err
    assert json.loads(out)["documents"] > 0


def test_scoring_writes_where_it_was_told(call, small_demo, tmp_path):
    words = (small_demo.folder / "base", small_demo.folder / "shards", "--output", tmp_path, "--max-new-tokens", 2)
    code, out, err = call("tools/evaluate.py", *words)
    assert code == 0, err
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert scores["count"] == len((tmp_path / "predictions.jsonl").read_text().splitlines()) > 0
    assert f"{scores['count']} products of heldout" in out and "category_accuracy" in out


def test_report_of_a_run_alone_says_where_it_is(call, tmp_path):
    (tmp_path / "train").mkdir()
    metrics = MetricsFile(tmp_path / "train")
    for step in (1, 2):
        metrics.log_step(step, {"loss": 1 / step, "tokens": 100, "tokens_per_second": 50.0})
    metrics.close()
    code, out, err = call("tools/report.py", tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {tmp_path}/report.html (") and (tmp_path / "report.html").stat().st_size > 10_000


def test_report_of_shards_says_where_it_is(call, small_demo):
    shards = small_demo.folder / "shards"
    code, out, err = call("tools/report.py", shards)
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {shards}/report.html (")
    assert "What became of every row" in (shards / "report.html").read_text(encoding="utf-8")


def test_demo_stops_at_the_stage_that_fails_and_names_it_also_when_started_again(call, tmp_path):
    (tmp_path / "catalog").touch()
    call("tools/demo.py", "--steps", 10, tmp_path)
    code, out, err = call("tools/demo.py", "--steps", 10, tmp_path)
    assert json.loads((tmp_path / "demo.json").read_text()) == {"products": 2600, "seed": 0, "steps": 10}
    assert code == 2
    cause, stage = err.splitlines()
    assert SHAPE.fullmatch(cause) and "can't be made" in cause
    assert stage.startswith("ERROR 1 of 7, products: the stage failed")
    assert out.count("---") == 1
