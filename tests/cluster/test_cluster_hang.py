"""Reports of ranks in every constellation: who is named, and what the one line says."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist.cluster.hang import explain, place_of
from phi3v_dist.cluster.hang_report import Frame, Report, Stack

SITE = "/opt/venv/lib/python3.11/site-packages"
C10D = f"{SITE}/torch/distributed/distributed_c10d.py"
LOGGER = f"{SITE}/torch/distributed/c10d_logger.py"
FOLDER = Path("/runs/a/hangs/7.0")

START = Frame("/code/launch/train.py", 47, "main", "train(loaded, who)")
TAKE_STEP = Frame("/code/phi3v_dist/training/step.py", 71, "take_step", "loss = forward(engine, batch)")
SUMS = Frame("/code/phi3v_dist/cluster/process_group.py", 70, "sum_over_ranks", "dist.all_reduce(values)")
WRAPPER = Frame(LOGGER, 83, "wrapper", "return func(*args, **kwargs)")
ALL_REDUCE = Frame(C10D, 3000, "all_reduce", "work.wait()")
BARRIER = Frame(C10D, 5356, "barrier", "work.wait()")
READING = Frame("/code/phi3v_dist/shards/read.py", 30, "sample", "data = os.pread(file, size, offset)")
FETCH = Frame(f"{SITE}/deepspeed/runtime/zero/partitioned_param_coordinator.py", 300, "fetch_sub_module", "h.wait()")
HANDLE = Frame(f"{SITE}/deepspeed/runtime/zero/partition_parameters.py", 80, "wait", "self.handle.wait()")
QUEUE = (
    Frame("/usr/lib/python3.11/queue.py", 171, "get", "self.not_empty.wait()"),
    Frame("/usr/lib/python3.11/threading.py", 327, "wait", "waiter.acquire()"),
)

IN_ALL_REDUCE = (START, TAKE_STEP, SUMS, WRAPPER, ALL_REDUCE)
IN_BARRIER = (START, TAKE_STEP, WRAPPER, BARRIER)
IN_READING = (START, TAKE_STEP, READING)
IN_FETCH = (START, TAKE_STEP, FETCH, HANDLE)


def report(rank, frames=IN_ALL_REDUCE, **changes):
    values = {"node": f"n{rank}", "phase": "forward", "step": 5, "micro_step": 2, "seconds": 600.4}
    return Report(rank=rank, stacks=(Stack("MainThread", tuple(frames)),), **(values | changes))


def told(*reports, num_ranks=None, **more):
    return explain(reports, num_ranks or len(reports), FOLDER, **more)


@pytest.mark.parametrize(
    ("frames", "collective", "line"),
    [
        (IN_ALL_REDUCE, "all_reduce", "sum_over_ranks phi3v_dist/cluster/process_group.py:70"),
        (IN_BARRIER, "barrier", "take_step phi3v_dist/training/step.py:71"),
        (
            (START, SUMS, WRAPPER, Frame(C10D, 3300, "all_gather_object"), WRAPPER, Frame(C10D, 4200, "all_gather")),
            "all_gather_object",
            "sum_over_ranks phi3v_dist/cluster/process_group.py:70",
        ),
        (
            (
                TAKE_STEP,
                FETCH,
                Frame(f"{SITE}/deepspeed/utils/nvtx.py", 20, "wrapped_fn", "return func(*args)"),
                Frame(f"{SITE}/deepspeed/comm/comm.py", 111, "log_wrapper", "return func(*args)"),
                Frame(f"{SITE}/deepspeed/comm/comm.py", 230, "all_gather_into_tensor", ""),
                Frame(f"{SITE}/torch/_dynamo/eval_frame.py", 1, "_fn", "return fn(*args)"),
                Frame(f"{SITE}/deepspeed/comm/torch.py", 140, "all_gather_into_tensor", ""),
                WRAPPER,
                Frame(f"{SITE}/typing_extensions.py", 3140, "wrapper", "return arg(*args, **kwargs)"),
                Frame(C10D, 4300, "all_gather_into_tensor", ""),
                WRAPPER,
                Frame(C10D, 4290, "all_gather_single", "work.wait()"),
            ),
            "all_gather_into_tensor",
            "fetch_sub_module deepspeed/runtime/zero/partitioned_param_coordinator.py:300, "
            "called from phi3v_dist/training/step.py:71",
        ),
        (
            IN_FETCH,
            "a handle's wait",
            "wait deepspeed/runtime/zero/partition_parameters.py:80, called from phi3v_dist/training/step.py:71",
        ),
        (
            (START, replace(TAKE_STEP, text="total = sums.tolist()")),
            "a wait for its device",
            "take_step phi3v_dist/training/step.py:71",
        ),
        (
            (START, TAKE_STEP, *QUEUE),
            "",
            "wait python3.11/threading.py:327 [waiter.acquire()], called from phi3v_dist/training/step.py:71",
        ),
        (IN_READING, "", "sample phi3v_dist/shards/read.py:30 [data = os.pread(file, size, offset)]"),
        ((), "", "no Python"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_stack_says_whether_it_waits_in_a_collective_and_who_asked_for_it(frames, collective, line):
    place = place_of(report(0, frames))
    assert (place.collective, place.line) == (collective, line)


@pytest.mark.parametrize("turned", [False, True])
def test_in_a_backward_pass_on_a_gpu_the_autograd_thread_counts(turned):
    main = Stack("MainThread", (TAKE_STEP, Frame(f"{SITE}/torch/autograd/graph.py", 820, "_engine_run_backward")))
    natives = [Stack("native-1", (READING,), native=True), Stack("native-2", IN_ALL_REDUCE, native=True)]
    loader = Stack("loader", IN_BARRIER)
    stacks = (main, loader, *(reversed(natives) if turned else natives))
    assert place_of(replace(report(0), stacks=stacks)).collective == "all_reduce"
    assert place_of(replace(report(0), stacks=(main, loader))).collective == ""


def test_a_rank_without_a_report_is_named_first_with_its_node():
    hang = told(report(0), report(1), report(3, IN_BARRIER), num_ranks=4, nodes={2: "n2"})
    assert (hang.kind, hang.ranks, hang.nodes, hang.folder) == ("silent", (2,), ("n2",), FOLDER)
    assert hang.text == (
        "no progress for 600 s: rank 2 (node n2) gave no sign (frozen, dead or cut off); "
        "ranks 0, 1 wait in all_reduce at sum_over_ranks phi3v_dist/cluster/process_group.py:70 "
        "(step 5, micro-step 2, forward); "
        "rank 3 waits in barrier at take_step phi3v_dist/training/step.py:71 (step 5, micro-step 2, forward). "
        "All stacks: /runs/a/hangs/7.0"
    )


def test_many_silent_ranks_are_told_as_a_range():
    hang = told(report(0), num_ranks=8, nodes={rank: f"n{rank // 4}" for rank in range(8)} | {0: "n0"})
    assert (hang.ranks, hang.nodes) == ((1, 2, 3, 4, 5, 6, 7), ("n0", "n1"))
    assert ": ranks 1 to 7 (nodes n0, n1) gave no sign" in hang.text


def test_without_any_node_name_a_silent_rank_is_still_named():
    hang = told(report(0), num_ranks=2)
    assert (hang.ranks, hang.nodes) == ((1,), ())
    assert ": rank 1 gave no sign" in hang.text


@pytest.mark.parametrize(
    ("frame", "where"), [(READING, ", its main thread is in sample phi3v_dist/shards/read.py:30;"), (None, ";")]
)
def test_a_rank_in_which_pythons_lock_is_held_is_told_from_a_frozen_one(frame, where):
    hang = told(report(0), num_ranks=2, nodes={1: "n1"}, locked={1: frame})
    assert (hang.kind, hang.ranks) == ("busy", (1,))
    assert f": rank 1 (node n1) holds Python's lock{where} rank 0 waits" in hang.text


def test_beside_a_frozen_rank_a_locked_one_is_named_too():
    hang = told(report(0), num_ranks=3, nodes={1: "n1", 2: "n2"}, locked={1: READING})
    assert (hang.kind, hang.ranks) == ("silent", (1, 2))
    assert "rank 2 (node n2) gave no sign" in hang.text
    assert "rank 1 (node n1) holds Python's lock" in hang.text


@pytest.mark.parametrize("guilty", range(4))
def test_a_rank_in_no_collective_held_the_others_up(guilty):
    frames = {guilty: IN_READING}
    hang = told(*(report(rank, frames.get(rank, IN_FETCH), samples=("a", 17)) for rank in range(4)))
    assert (hang.kind, hang.ranks, hang.nodes) == ("busy", (guilty,), (f"n{guilty}",))
    assert (
        f": rank {guilty} (node n{guilty}) held the others up: it is in sample phi3v_dist/shards/read.py:30 "
        "[data = os.pread(file, size, offset)] (step 5, micro-step 2, forward) with samples a, 17; ranks "
    ) in hang.text


def test_most_ranks_may_be_busy_while_one_waits():
    hang = told(report(0, IN_READING), report(1, IN_READING), report(2))
    assert (hang.kind, hang.ranks) == ("busy", (0, 1))
    assert "ranks 0, 1 (nodes n0, n1) held the others up: they are in sample" in hang.text


@pytest.mark.parametrize(
    "change",
    [
        {"frames": IN_BARRIER},
        {"step": 6},
        {"micro_step": 1},
        {"module": "model.layers.3"},
        {"phase": "backward"},
        {"collectives": 811},
        {"frames": (START, TAKE_STEP, replace(SUMS, line=74), WRAPPER, ALL_REDUCE)},
    ],
    ids=["collective", "step", "micro-step", "module", "phase", "number of collectives", "called from elsewhere"],
)
def test_the_minority_left_the_common_order(change):
    common = {"module": "model.layers.2", "collectives": 812}
    hang = told(*(report(rank, **common) for rank in (0, 1, 3)), report(2, **(common | change)))
    assert (hang.kind, hang.ranks, hang.nodes) == ("elsewhere", (2,), ("n2",))
    assert ": rank 2 (node n2) left the common order: it waits in " in hang.text
    assert "; ranks 0, 1, 3 wait in all_reduce (collective 812) at sum_over_ranks" in hang.text


def test_of_two_ranks_the_one_that_is_further_on_skipped_something():
    for ahead in ({"step": 6}, {"micro_step": 3}, {"marks": 1, "phase": "end"}, {"modules": 2, "module": "b"}):
        for rank in (0, 1):
            hang = told(*(report(number, **(ahead if number == rank else {})) for number in (0, 1)))
            assert (hang.kind, hang.ranks) == ("elsewhere", (rank,)), ahead


def test_of_two_equal_groups_the_one_further_on_is_named():
    hang = told(report(0, step=6), report(1), report(2, step=6), report(3))
    assert (hang.kind, hang.ranks) == ("elsewhere", (0, 2))


def test_of_ranks_that_are_all_at_different_places_the_one_furthest_on_is_named():
    hang = told(report(0, step=6), report(1, step=7), report(2))
    assert (hang.kind, hang.ranks) == ("elsewhere", (1,))


def test_two_ranks_at_different_lines_of_the_same_step_are_both_told_and_none_is_blamed():
    hang = told(report(0), report(1, IN_BARRIER))
    assert (hang.kind, hang.ranks, hang.nodes) == ("unclear", (), ())
    assert "which of them left the common order can't be told" in hang.text
    assert "rank 0 waits in all_reduce at" in hang.text
    assert "rank 1 waits in barrier at" in hang.text


def test_where_all_wait_in_the_same_collective_the_network_is_named():
    hang = told(*(report(rank) for rank in range(3)))
    assert (hang.kind, hang.ranks) == ("unclear", ())
    assert "no rank differs from the others, look at the network; ranks 0 to 2 wait in all_reduce" in hang.text


def test_where_nobody_waits_the_rank_that_lags_is_named():
    hang = told(report(0, IN_READING), report(1, (START, TAKE_STEP), micro_step=1), report(2, (START, TAKE_STEP)))
    assert (hang.kind, hang.ranks) == ("busy", (1,))


def test_where_all_read_at_the_same_line_no_rank_is_blamed():
    hang = told(*(report(rank, IN_READING) for rank in range(3)))
    assert (hang.kind, hang.ranks) == ("unclear", ())
    assert "look at disks and the limit; ranks 0 to 2 are in sample phi3v_dist/shards/read.py:30" in hang.text


def test_a_run_of_one_tells_where_it_is():
    hang = told(report(0, IN_READING))
    assert "it is in sample phi3v_dist/shards/read.py:30" in hang.text


def test_long_lists_of_samples_and_places_are_cut():
    waiting = [report(rank, step=rank) for rank in range(6)]
    hang = told(*waiting, report(6, IN_READING, samples=tuple(range(100, 120))))
    assert "with samples 100, 101, 102, 103, 104, 105, 106, 107, …; " in hang.text
    assert "3 ranks are at other places. All stacks" in hang.text


FRAMES = [IN_ALL_REDUCE, IN_BARRIER, IN_READING, IN_FETCH, ()]


@given(st.lists(st.none() | st.tuples(st.sampled_from(FRAMES), st.integers(0, 2)), min_size=1, max_size=9))
def test_whatever_the_ranks_do_the_explanation_is_one_line_and_a_verdict_on_some_ranks(ranks):
    reports = [report(rank, at[0], step=at[1]) for rank, at in enumerate(ranks) if at]
    hang = explain(reports, len(ranks), FOLDER, nodes={rank: f"n{rank}" for rank in range(len(ranks))})
    assert len(hang.text.splitlines()) == 1
    assert (hang.kind == "unclear") == (not hang.ranks)
    assert hang.nodes == tuple(f"n{rank}" for rank in hang.ranks)
    silent = tuple(rank for rank, at in enumerate(ranks) if at is None)
    if silent:
        assert (hang.kind, hang.ranks) == ("silent", silent)
    elif hang.ranks and len(ranks) > 1:
        assert len(hang.ranks) < len(ranks)
    assert explain(list(reversed(reports)), len(ranks), FOLDER, nodes={}).ranks == hang.ranks
