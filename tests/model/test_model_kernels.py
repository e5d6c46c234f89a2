"""Kernels are chosen by trying them: best first, and every refusal says why."""

import pytest
import torch

from phi3v_dist.errors import HardwareError
from phi3v_dist.model.kernels import choose, trial


def never() -> str | None:
    raise AssertionError("tried though a better one had run")


def test_auto_takes_the_first_that_runs_and_tries_none_after_it() -> None:
    candidates = {"best": lambda: "no package", "good": lambda: None, "plain": never}
    assert choose("model.thing", "auto", candidates) == ("good", "first that runs here; best: no package")
    assert choose("model.thing", "auto", {"best": lambda: None, "plain": never})[1] == "first choice, and it runs here"


def test_one_asked_for_is_taken_without_trying_others_or_refused_in_one_line() -> None:
    assert choose("model.thing", "good", {"best": never, "good": lambda: None})[0] == "good"
    with pytest.raises(HardwareError) as caught:
        choose("model.thing", "best", {"best": lambda: "no package", "good": never})
    told = str(caught.value)
    assert told.startswith("model.thing: ") and "no package" in told and "model.thing=auto" in told


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([1.0, -4.0], None),
        ([1.0, -4.1], None),
        ([1.0, -4.2], "off by 5.0% of the largest"),
        ([1.0, float("nan")], "off by nan%"),
    ],
)
def test_a_trial_compares_with_the_largest_entry(found: list[float], reason: str | None) -> None:
    told = trial(lambda: (torch.tensor(found),), lambda: (torch.tensor([1.0, -4.0]),))
    assert told is None if reason is None else reason in str(told)


def test_a_trial_that_fails_is_a_reason_in_one_line() -> None:
    def fails() -> tuple[torch.Tensor, ...]:
        raise RuntimeError("head size 96\nwas left out of the build")

    assert trial(fails, tuple) == "RuntimeError head size 96"
    assert "ValueError" in str(trial(tuple, lambda: (torch.ones(1),)))
