"""metrics.jsonl: each step once, also after kills; steps done again are kept and compared."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3v_dist.errors import RunError
from phi3v_dist.tracking.metrics import METRICS_FILE, REPLAYED_FILE, MetricsFile, compare_replayed, read_metrics, rewind


def _log(folder, steps, loss=lambda step: 1 / step):
    metrics = MetricsFile(folder)
    for step in steps:
        metrics.log_step(step, {"loss": loss(step)})
    metrics.close()


def _steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_each_line_is_on_disk_before_the_next_step(tmp_path):
    metrics = MetricsFile(tmp_path)
    for step in (1, 2, 3):
        metrics.log_step(step, {"loss": 0.5})
        assert _steps(tmp_path / METRICS_FILE) == list(range(1, step + 1))


def test_a_resumed_run_has_each_step_once_and_keeps_the_first_doing(tmp_path):
    _log(tmp_path, range(1, 8))
    _log(tmp_path, range(5, 11))
    assert _steps(tmp_path / METRICS_FILE) == list(range(1, 11))
    assert _steps(tmp_path / REPLAYED_FILE) == [5, 6, 7]
    assert compare_replayed(tmp_path) == (3, [])


def test_a_loss_that_differs_in_its_last_bit_is_found(tmp_path):
    _log(tmp_path, range(1, 8))
    _log(tmp_path, range(5, 11), lambda step: math.nextafter(1 / step, 2) if step == 6 else 1 / step)
    assert compare_replayed(tmp_path) == (3, [6])


def test_replayed_steps_that_are_not_done_again_yet_are_not_counted(tmp_path):
    _log(tmp_path, range(1, 8))
    rewind(tmp_path, 4)
    assert compare_replayed(tmp_path) == (0, [])


def test_a_line_torn_by_a_kill_is_dropped(tmp_path):
    _log(tmp_path, [1, 2])
    with open(tmp_path / METRICS_FILE, "a") as handle:
        handle.write('{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [1, 2]
    _log(tmp_path, [3])
    assert _steps(tmp_path / METRICS_FILE) == [1, 2, 3]


def test_a_damaged_whole_line_is_named_with_its_number(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(RunError, match=r"metrics.jsonl:2: .*'nonsense'"):
        read_metrics(tmp_path / METRICS_FILE)


def test_a_loss_that_is_not_finite_is_written_as_null(tmp_path):
    _log(tmp_path, [1], lambda step: math.nan)
    assert '"loss": null' in (tmp_path / METRICS_FILE).read_text()


@settings(max_examples=25, deadline=None)
@given(kills=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=5))
def test_any_kills_leave_one_unbroken_curve(tmp_path_factory, kills):
    folder = tmp_path_factory.mktemp("run")
    done = 0
    for more, back in kills:
        first = max(done - back, 0) + 1
        done = first + more - 1
        _log(folder, range(first, done + 1))
        assert [line["step"] for line in read_metrics(folder / METRICS_FILE)] == list(range(1, done + 1))
    assert compare_replayed(folder)[1] == []
