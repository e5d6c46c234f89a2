"""The tracker: rank 0 alone, no failure of a backend reaches the loop, console lines when due."""

import logging
import sys

import pytest

from phi3v_dist.config.options import TrackingOptions
from phi3v_dist.errors import ConfigError
from phi3v_dist.tracking import wandb_backend
from phi3v_dist.tracking.tracker import Tracker, start_tracking

QUIET = {"wandb": "disabled"}


def _start(folder, is_rank_0=True, **options):
    return start_tracking(
        TrackingOptions(**QUIET | options), folder, {}, total_steps=25, first_step=1, is_rank_0=is_rank_0
    )


class Failing:
    def __init__(self):
        self.calls = 0

    def log_step(self, step, metrics):
        self.calls += 1
        raise OSError("disk full")


class Counting:
    def __init__(self):
        self.steps = []

    def log_step(self, step, metrics):
        self.steps.append(step)


def test_other_ranks_write_nothing(tmp_path):
    tracker = _start(tmp_path / "run", is_rank_0=False)
    tracker.log_step(1, {"loss": 1.0})
    tracker.log_predictions(1, [])
    tracker.close()
    assert not (tmp_path / "run").exists()


def test_a_failing_backend_is_named_once_and_the_others_go_on(caplog):
    failing, counting = Failing(), Counting()
    tracker = Tracker([failing, counting])
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            tracker.log_step(step, {"loss": 1.0})
        tracker.close()
    assert (failing.calls, counting.steps) == (1, [1, 2, 3])
    assert [record.getMessage() for record in caplog.records] == [
        "Failing failed in log_step and is off from here on: OSError: disk full"
    ]


def test_a_wandb_that_does_not_start_is_one_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("no server\nat all")

    monkeypatch.setattr(wandb_backend.WandbBackend, "__init__", refuse)
    with caplog.at_level(logging.WARNING):
        tracker = _start(tmp_path, wandb="online")
        tracker.log_step(1, {"loss": 1.0})
    assert len(caplog.records) == 1
    assert "RuntimeError: no server at all" in caplog.text
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_metric_without_a_unit_is_our_own_mistake(tmp_path):
    with pytest.raises(AssertionError, match="losss"):
        _start(tmp_path).log_step(1, {"losss": 1.0})


def test_a_missing_tensorboard_is_an_error_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"tracking.tensorboard: .*`pip install tensorboard`"):
        _start(tmp_path, tensorboard=True)


def test_console_lines_come_first_last_every_few_steps_and_at_validations(tmp_path, capsys):
    tracker = _start(tmp_path, console_every=10)
    for step in range(1, 26):
        validation = {"validation_loss": 2.0, "price_error_median": 0.25} if step == 13 else {}
        tracker.log_step(step, {"loss": 1.0, "learning_rate": 1e-3, "tokens_per_second": 12345.6, **validation})
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split(" | ")[0] for line in lines] == [f"step {step} of 25" for step in (1, 10, 13, 20, 25)]
    assert "loss 1.0000 | lr 1.00e-03 | 12,346 tokens/s" in lines[0]
    assert "validation loss 2.0000 | median price error 25.0%" in lines[2]
    assert lines[-1].endswith("0:00:00 left") or lines[-1].endswith("0:00 left")


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError)
    tracker = _start(tmp_path, tensorboard=True)
    tracker.log_step(1, {"loss": 1.5})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.5)]
