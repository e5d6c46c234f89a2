"""How jobs begin and end without a training: what is refused, what is started once, what a node that spoils costs."""

import time

import pytest
from cases import Case, job_environment, write_site
from launching import REPOSITORY

from phi3v_dist.training.attempts import blame_node, read_events

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_a_recipe_with_a_fault_ends_the_job_in_one_line(new_case) -> None:
    case = new_case("fault").submit("train_2node", "training.stepps=3")
    job = case.end()
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 2, 0)
    assert case.log.read_text().splitlines() == [
        "ERROR command line: no such option (found 'training.stepps'). Did you mean training.steps?"
    ]


def test_without_a_recipe_the_job_says_how_one_is_given(new_case) -> None:
    case = new_case("no-recipe")
    words = ("--output", case.log, "slurm/train_1node.sh", "training.steps=3")
    job = case.cluster.sbatch(*words, cwd=REPOSITORY, env=job_environment(write_site(case.folder)))
    assert case.cluster.wait_for(job, "FAILED").exit_code == 2
    assert case.log.read_text().startswith("ERROR recipe: none given (found 'training.steps=3').")


def test_a_site_file_that_changed_after_it_was_sourced_is_noticed(new_case) -> None:
    case = new_case("site")
    case.submit("train_1node", extra="export SBATCH_PARTITION=nograce")
    job = case.end()
    assert (job.state, job.exit_code) == ("FAILED", 2)
    text = case.log.read_text()
    assert "submitted without what it says" in text
    assert "source " in text


def test_a_site_file_that_was_sourced_decides_the_partition(new_case, cluster) -> None:
    case = new_case("sourced")
    site = write_site(case.folder, extra="PYTHON=/bin/true\nexport SBATCH_PARTITION=nograce")
    words = f"source {site} && sbatch --parsable --output {case.log} slurm/train_1node.sh recipe=x"
    told = cluster.command("bash", "-c", words, cwd=REPOSITORY, env=job_environment(site))
    job = cluster.wait_for(int(told), "COMPLETED")
    assert job.fields["Partition"] == "nograce"
    assert "submitted without" not in case.log.read_text()


def test_ranks_get_the_settings_of_the_job_whatever_sbatch_exports(new_case) -> None:
    extra = "CONTAINER=(bash -c 'echo rank meets at $MASTER_ADDR; exit 2' -)\nexport SBATCH_PARTITION=nograce"
    case = new_case("export").submit("train_2node", slurm=("--export=PHI3V_SITE_ENV",), extra=extra)
    case.cluster.wait_for(case.job, "RUNNING", "PENDING", restarts=1, timeout=60)
    case.cluster.command("scancel", case.job)
    assert "rank meets at n1" in case.log.read_text()


def test_a_finished_run_is_not_started_again(new_case) -> None:
    case = new_case("finished")
    case.run_folder.mkdir()
    (case.run_folder / "FINISHED").write_text("{}")
    job = case.submit("train_2node").end()
    assert (job.state, job.restarts) == ("COMPLETED", 0)
    assert "the run is finished already" in case.log.read_text()
    assert case.steps() == []


def test_two_jobs_do_not_train_in_one_folder(new_case) -> None:
    first, second = new_case("first"), new_case("second")
    first.submit("train_2node")
    first.cluster.wait_for(first.job, "RUNNING")
    while not first.events("begin"):
        time.sleep(0.1)
    job = second.submit("train_1node", run_folder=first.run_folder)
    ended = second.cluster.wait_for(job.job, "FAILED")
    assert ended.exit_code == 2
    assert f"job {first.job} is training in this run folder. scancel {first.job}" in second.log.read_text()


def test_a_job_that_gets_nowhere_stops_after_its_attempts(new_case, survival) -> None:
    case = new_case("nowhere").submit("train_2node", attempts=2, extra="CONTAINER=(bash -c 'exit 1' -)")
    job = case.end()
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 2, 2)
    assert case.errors()[-1].endswith("Mend the cause, then submit again: the run goes on from its last checkpoint.")
    assert "2 attempts in a row saved no step beyond 0" in case.errors()[-1]
    survival.add("a job that can't work", "stopped after MAX_ATTEMPTS_WITHOUT_PROGRESS, with the reason", None, None)


def test_a_node_that_spoils_two_attempts_is_left_out(new_case, survival) -> None:
    container = "CONTAINER=(bash -c '[ $SLURMD_NODENAME != n1 ] || kill -9 $$; exit 0' -)"
    case = new_case("spoilt").submit("train_2node", slurm=("--nodelist=n1",), attempts=5, extra=container)
    case.cluster.wait_for(case.job, "RUNNING", "PENDING", restarts=1, timeout=60)
    case.cluster.wait_for(case.job, "PENDING", restarts=2, timeout=60)
    excluded = case.cluster.job(case.job).fields["ExcNodeList"]
    case.cluster.command("scancel", case.job)
    assert [event["node"] for event in case.events("blame")] == ["n1", "n1"]
    assert excluded == "n1"
    survival.add("a node that kills a rank in two attempts", "left out of the third", None, None)


def test_a_job_that_its_partition_has_too_few_good_nodes_for_stops_and_tells_why(new_case) -> None:
    case = new_case("few")
    case.run_folder.mkdir()
    for number in range(2, 10):
        blame_node(case.run_folder, "1.0", f"n{number}", "its GPU is gone", certain=True)
    job = case.submit("train_2node", extra="CONTAINER=(bash -c 'exit 1' -)").end()
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 2, 0)
    told = "1 of the partition's 9 nodes are good and the job needs 2 (n2: its GPU is gone; n3:"
    assert told in case.errors()[-1]


def test_every_rank_sees_all_gpus_of_its_node(new_case) -> None:
    show = "CONTAINER=(bash -c 'echo rank $SLURM_PROCID local $SLURM_LOCALID gpus $CUDA_VISIBLE_DEVICES; exit 2' -)"
    case = new_case("gpus").submit("train_2node", gpus=4, extra=show)
    case.cluster.wait_for(case.job, "RUNNING", "PENDING", restarts=1, timeout=60)
    case.cluster.command("scancel", case.job)
    lines = sorted(line for line in case.log.read_text().splitlines() if line.startswith("rank "))
    assert lines
    assert {line.partition("gpus ")[2] for line in lines} == {"0,1,2,3"}


def test_shards_made_by_an_array_of_jobs_are_those_made_by_one(new_case, small_demo, cluster) -> None:
    case = new_case("shards")
    environment = job_environment(write_site(case.folder))
    folder = case.folder / "shards"
    _, recipe, *options = small_demo.recipe(
        case.run_folder, "shards.samples_per_shard=40", "catalog.max_reject_share=0.5"
    )
    options = [option for option in options if not option.startswith("shards.folder")]
    job = cluster.sbatch(
        "--array=1-3", "--cpus-per-task=1", "--output", case.folder / "part-%a.log", "slurm/make_shards.sh",
        f"recipe={recipe}", f"shards.folder={folder}", *options,
        cwd=REPOSITORY, env=environment,
    )  # fmt: skip
    for part in range(1, 4):
        cluster.wait_for(f"{job}_{part}", "COMPLETED")
    made, by_one = (
        {path.relative_to(where): path.read_bytes() for path in where.rglob("*") if path.is_file()}
        for where in (folder, small_demo.folder / "shards")
    )
    assert made == by_one and len(made) > 4


def test_a_trained_run_is_exported_and_scored_by_jobs(undisturbed: Case, new_case, small_demo, cluster) -> None:
    case = new_case("after")
    environment = job_environment(write_site(case.folder))
    export = case.folder / "export"
    for script, *words in (
        ("consolidate", undisturbed.run_folder, export),
        ("evaluate", export, small_demo.folder / "shards", "--max-new-tokens", 8),
    ):
        job = cluster.sbatch("--output", case.log, f"slurm/{script}.sh", *words, cwd=REPOSITORY, env=environment)
        assert cluster.wait_for(job, "COMPLETED", "FAILED").state == "COMPLETED", case.tail()
    assert (export / "model.safetensors").exists()
    assert (case.folder / "evaluation.json").exists()


def test_a_job_told_nothing_writes_its_begin_and_end(new_case) -> None:
    case = new_case("events").submit("train_1node", extra="CONTAINER=(true)")
    case.cluster.wait_for(case.job, "PENDING", restarts=1, timeout=60)
    case.cluster.command("scancel", case.job)
    events = read_events(case.run_folder)
    assert [event["event"] for event in events] == ["begin", "end"]
    assert events[0]["nodes"] == ["n1"]
