"""A look at the held-out split during a run: its loss, and answers generated from its pictures.

Enters: the engine between two steps. Leaves: metrics, and predictions for the tracker. Every rank takes an equal
number of packs and products (blank ones where they run out), since under ZeRO-3 all must run the same modules equally
often. Between packs and between the tokens of answers it asks whether the run goes on: nobody knows how long a first
validation takes, and Slurm waits for none.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from phi3v_dist.cluster.process_group import everyone, gather_on_rank_0, sum_over_ranks
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.options import RunConfig
from phi3v_dist.evaluation.answers import Prediction
from phi3v_dist.evaluation.generate import answer_samples, show_predictions
from phi3v_dist.evaluation.scores import score
from phi3v_dist.packing.loader import PackLoader
from phi3v_dist.shards.sources import SourcesReader
from phi3v_dist.tracking.tracker import Tracker
from phi3v_dist.training.materials import Materials
from phi3v_dist.training.step import forward

_NAMES = {  # scores → metrics
    "category_accuracy": "category_accuracy",
    "title_exact": "title_exact",
    "title_word_f1": "title_word_f1",
    "parsed_share": "parsed_share",
    "price_mean_relative_error": "price_error_mean",
    "price_median_relative_error": "price_error_median",
}


class Validation:
    """Validates an engine on the same packs and products each time."""

    def __init__(self, config: RunConfig, materials: Materials, who: ClusterInfo) -> None:
        self.options = config.evaluation
        self.materials = materials
        self.who = who
        self.reader = SourcesReader(materials.index, config.shards)
        self.products = _spread(materials.index.numbers("heldout").tolist(), self.options.generate_products)
        self.loader: PackLoader | None = None
        if materials.heldout is not None:
            # Validations are rare: no processes of their own, the training loader's are idle meanwhile.
            packing = config.packing.model_copy(update={"workers": 0})
            self.loader = PackLoader(
                materials.heldout, self.reader, materials.processor, packing, rank=who.rank, ranks=who.num_ranks
            )

    @torch.no_grad()
    def run(self, engine: Any, step: int, tracker: Tracker, goes_on: Callable[[], bool]) -> dict[str, float] | None:
        """Return the metrics of this validation; its predictions go to the tracker.

        Where ``goes_on`` says no, on every rank alike, it is broken off and forgotten: the result is None.
        """
        started = time.monotonic()
        engine.eval()
        try:
            metrics = self._loss(engine, goes_on) | self._answers(engine, step, tracker, goes_on)
        except _BrokenOffError:
            return None
        finally:
            engine.train()
        return metrics | {"validation_seconds": time.monotonic() - started}

    def _loss(self, engine: Any, goes_on: Callable[[], bool]) -> dict[str, float]:
        if self.loader is None:
            return {}
        sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
        for _, batches in self.loader.steps(0, 1):
            for batch in batches:
                _break_off_unless(goes_on())
                loss = forward(engine, batch.to(engine.device), engine.module.lm_head.weight.dtype)
                sums[0] += loss.double()
                sums[1] += len(batch.targets)
        loss, supervised = sum_over_ranks(sums).tolist()
        return {"validation_loss": loss / max(supervised, 1)}

    def _answers(self, engine: Any, step: int, tracker: Tracker, goes_on: Callable[[], bool]) -> dict[str, float]:
        if not self.products:
            return {}

        def everyone_done(done: bool) -> bool:
            _break_off_unless(goes_on())
            return everyone(done, engine.device)

        mine = answer_samples(
            engine.module,
            self.materials.processor,
            self.reader,
            _share_of(self.products, self.who),
            max_new_tokens=self.options.max_new_tokens,
            everyone_done=everyone_done,
        )
        parts = gather_on_rank_0(mine, self.who)
        if parts is None:
            return {}
        predictions = _in_order(parts, self.products)
        tracker.log_predictions(step, show_predictions(predictions, self.reader))
        scores = score([p.truth for p in predictions], [p.parsed for p in predictions])
        return {metric: float(scores[name]) for name, metric in _NAMES.items()}


class _BrokenOffError(Exception):
    """The run was asked to stop in the middle of a validation."""


def _break_off_unless(goes_on: bool) -> None:
    if not goes_on:
        raise _BrokenOffError


def _spread(numbers: list[int], count: int) -> list[int]:
    """``count`` numbers spread evenly over all (all of them when there are fewer)."""
    count = min(count, len(numbers))
    return [numbers[place * len(numbers) // count] for place in range(count)]


def _share_of(products: Sequence[int], who: ClusterInfo) -> list[int]:
    """This rank's products, as many on every rank: the last ones are taken twice where they don't divide evenly."""
    rows = -(-len(products) // who.num_ranks)
    return [products[min(row * who.num_ranks + who.rank, len(products) - 1)] for row in range(rows)]


def _in_order(parts: list[list[Prediction]], products: Sequence[int]) -> list[Prediction]:
    """Each product's prediction once, in the order of ``products``."""
    by_sample = {prediction.sample: prediction for part in parts for prediction in part}
    return [by_sample[number] for number in products]
