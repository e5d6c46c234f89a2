"""launch/preflight.py as the job starts it: two real ranks, each fault provoked really, and named with its node.

Ranks that shall stand on two nodes get two node names; paths that shall differ between nodes are relative ones, and
each node its own working folder. One run proves several faults, since each costs seconds.
"""

import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import REPOSITORY, Ended, Rank, ranks_of_srun, run
from safetensors import safe_open

LIMIT_SECONDS = 60  # the issue's
CHECKS = (
    "devices",
    "versions",
    "shards and model",
    "run folder",
    "free disk",
    "clocks",
    "GPU health",
    "all-reduce in a node",
    "all-reduce between nodes",
    "reading shards",
    "compiled parts",
    "trial step",
    "save and load",
)


def recipe(small_demo, run_folder: Path | str, *options: str) -> list[str]:
    """The demo recipe's arguments that work from any folder."""
    words = small_demo.recipe(run_folder, f"training.deepspeed_config={REPOSITORY}/ds_configs/zero3.json", *options)
    return [str(REPOSITORY / word) if word.endswith("demo_cpu.yaml") else word for word in words]


@pytest.fixture(scope="module")
def cases(warm, small_demo, tmp_path_factory) -> dict[str, SimpleNamespace]:
    """Every start, by name: its ranks' ends, the verdicts of its table, its errors, its run folder."""
    work = tmp_path_factory.mktemp("preflight")
    nodes = [work / "node0", work / "node1"]
    for node in nodes:
        node.mkdir()
    (nodes[1] / "blocked").write_text("a file is in the way")
    shutil.copytree(small_demo.folder / "shards", work / "damaged")
    for shard in (work / "damaged/train").glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    shutil.copytree(small_demo.folder / "base", nodes[0] / "base")
    plain = recipe(small_demo, work / "good")
    others = recipe(small_demo, work / "many", f"shards.folder={work}/damaged", "checkpoints.keep_last=10000000")
    floors = ["--floor-network", "1000000"]
    own = recipe(small_demo, "own")
    blocked = recipe(small_demo, "blocked", "model.folder=base")
    one, none = recipe(small_demo, work / "one"), recipe(small_demo, work / "none", "training.device=cuda")
    starts = {
        "good": (work / "good", ranks_of_srun([plain, plain])),
        "many": (work / "many", ranks_of_srun([[*others, *floors], [*others, *floors, "training.seed=7"]], nodes, 2)),
        "own": (nodes[0] / "own", ranks_of_srun([own, own], nodes, 2)),
        "blocked": (nodes[0] / "blocked", ranks_of_srun([blocked, blocked], nodes, 2)),
        "no GPU on one": (work / "one", ranks_of_srun([one, [*one, "training.device=cuda"]], nodes, 2)),
        "no GPU": (work / "none", ranks_of_srun([none, none], nodes, 2)),
    }
    (work / "one").mkdir()
    (work / "none").mkdir()
    assert warm.run_alone("phi3v_dist/cluster/compiled.py").returncode == 0
    return {name: told(folder, preflight(warm, ranks)) for name, (folder, ranks) in starts.items()}


def preflight(warm, ranks: list[Rank]) -> list[Ended]:
    with warm.started("launch/preflight.py", ranks) as started:
        return started.wait(240)


def told(folder: Path, ranks: list[Ended]) -> SimpleNamespace:
    out = ranks[0].stdout
    found = re.findall(r"^([\w -]+?)  +(fine|skipped|FAULT(?:: [\w, ]+?)?)  .*$", out, re.MULTILINE)
    verdicts = dict(found)
    assert verdicts.keys() in (set(CHECKS), {"devices"}) and len(found) == len(verdicts), (out, ranks[0].stderr)
    events = folder / "attempts.jsonl"
    return SimpleNamespace(
        ranks=ranks,
        out=out,
        verdicts=verdicts,
        errors=[line for rank in ranks for line in rank.stderr.splitlines() if line.startswith("ERROR")],
        events=[json.loads(line) for line in events.read_text().splitlines()] if events.exists() else [],
        folder=folder,
    )


def only_error(case: SimpleNamespace, part: str) -> str:
    """The one line with ``part`` in it."""
    found = [line for line in case.errors if part in line]
    assert len(found) == 1, (part, case.errors)
    return found[0]


def test_on_good_nodes_every_check_is_fine_and_both_ranks_end_with_0(cases) -> None:
    good = cases["good"]
    skipped = {"GPU health", "all-reduce between nodes"}
    assert good.verdicts == {check: "skipped" if check in skipped else "fine" for check in CHECKS}
    assert [rank.returncode for rank in good.ranks] == [0, 0]
    assert good.errors == []
    assert "preflight of 2 ranks on 1 nodes: nothing is wrong" in good.out


def test_all_checks_take_less_than_a_minute_once_deepspeed_is_compiled(cases) -> None:
    assert max(rank.seconds for case in cases.values() for rank in case.ranks) < LIMIT_SECONDS


def test_nothing_stays_behind_in_the_run_folder(cases) -> None:
    assert list(cases["good"].folder.iterdir()) == []


def test_the_trial_steps_saves_and_loads_and_predicts_the_real_checkpoint(cases, small_demo) -> None:
    out = cases["good"].out
    losses = re.search(r"trial step .* loss ([\d.]+) with pictures, ([\d.]+) without; gradient norms ([\d.]+), ", out)
    assert losses and all(5 < float(loss) < 8 for loss in losses.groups()[:2])  # ln(563 tokens) = 6.3: random weights
    assert float(losses[3]) > 0
    parameters = re.search(r"([\d,]+) parameters to train", out)
    assert parameters
    trained = int(parameters[1].replace(",", ""))
    with safe_open(small_demo.folder / "base/model.safetensors", "pt") as weights:
        numbers = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    size = 12 * trained + 2 * (numbers - trained)  # bf16 weights of what is frozen
    assert f"{size / 1e6:.2f} MB: about " in out


def test_a_fault_ends_both_ranks_with_2_one_line_per_fault(cases) -> None:
    many = cases["many"]
    assert [rank.returncode for rank in many.ranks] == [2, 2]
    assert len(many.errors) == 4 and "4 faults" in many.out
    faulty = {check for check, verdict in many.verdicts.items() if verdict.startswith("FAULT")}
    assert faulty == {"versions", "free disk", "all-reduce between nodes", "reading shards"}


def test_another_configuration_on_one_of_two_nodes_is_told_with_both(cases) -> None:
    assert "training.seed differs: 0 on node0; 7 on node1" in only_error(cases["many"], "training.seed")


def test_too_little_disk_is_told_with_need_and_free(cases) -> None:
    line = only_error(cases["many"], "checkpoints need")
    assert re.search(r"10000001 checkpoints need [\d,.]+ GB, [\d,.]+ GB are free or theirs", line)


def test_a_floor_that_is_not_met_names_the_pair_of_nodes(cases) -> None:
    line = only_error(cases["many"], "all-reduce")
    assert re.search(r"between nodes node0 and node1: all-reduce runs at [\d.]+ GB/s, the floor is 1e\+06", line)


def test_damaged_shards_are_told_with_file_and_sample(cases) -> None:
    line = only_error(cases["many"], "are damaged")
    assert re.search(r"\d+ of \d+ samples that were read are damaged.*train/train-\d+\.tar, byte \d+, key \w+", line)


def test_what_a_person_must_mend_stops_the_job_and_blames_no_node(cases) -> None:
    events = cases["many"].events
    assert [(event["event"], event["code"]) for event in events] == [("verdict", 2)]


def test_a_run_folder_that_is_not_shared_is_told_for_the_node_that_has_another(cases) -> None:
    own = cases["own"]
    assert own.verdicts["run folder"] == "FAULT: node1"
    line = only_error(own, "another folder than on rank 0's node")
    assert line.startswith("ERROR node node1, own/.preflight: ")
    assert (own.verdicts["trial step"], own.verdicts["save and load"]) == ("fine", "skipped")


def test_a_fault_of_a_node_blames_it_for_certain_and_lets_the_job_go_on_without_it(cases) -> None:
    blame, verdict = cases["own"].events
    assert (blame["event"], blame["node"], blame["certain"], blame["attempt"]) == ("blame", "node1", True, "7.0")
    assert "another folder" in blame["reason"]
    assert (verdict["event"], verdict["code"]) == ("verdict", 70)


def test_an_unwritable_run_folder_and_a_missing_model_folder_name_the_node(cases) -> None:
    blocked = cases["blocked"]
    assert [rank.returncode for rank in blocked.ranks] == [2, 2]
    assert (blocked.verdicts["run folder"], blocked.verdicts["shards and model"]) == ("FAULT: node1", "FAULT: node1")
    assert "ERROR node node1, blocked/.preflight: nothing can be written here" in only_error(blocked, "written")
    assert only_error(blocked, "config.json").startswith("ERROR node node1, base: ")
    assert {blocked.verdicts[check] for check in ("reading shards", "trial step", "save and load")} == {"skipped"}


def test_a_node_without_a_gpu_of_its_own_for_each_rank_is_left_out_and_nothing_else_is_checked(cases) -> None:
    case = cases["no GPU on one"]
    assert case.verdicts == {"devices": "FAULT: node1"}
    assert [rank.returncode for rank in case.ranks] == [2, 2]
    line = only_error(case, "CUDA device")
    assert (
        line.startswith("ERROR node node1, training.device: each rank needs a CUDA device of its own")
        and "none" in line
    )
    blame, verdict = case.events
    assert (blame["node"], blame["certain"], verdict["code"]) == ("node1", True, 70)


def test_where_no_node_has_a_gpu_a_person_must_act(cases) -> None:
    case = cases["no GPU"]
    assert case.verdicts == {"devices": "FAULT"}
    assert [(event["event"], event["code"]) for event in case.events] == [("verdict", 2)]
    assert len(case.errors) == 1


def test_plain_python_tells_a_wrong_option_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "launch/preflight.py", "--config", "launch/recipes/demo_cpu.yaml", "training.stepss=3"]
    done = run(command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Did you mean training.steps?" in done.stderr
