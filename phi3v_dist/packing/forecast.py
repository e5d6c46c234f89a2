"""What an epoch will be, before any training: packs, steps, how full, how equal the ranks' work, and whether it hangs.

Enters: a plan, a number of ranks. Leaves: a ``Forecast`` of the first epoch. Every step is made as training makes it.
"""

import time
from dataclasses import dataclass

import numpy as np

from phi3v_dist.console import progress
from phi3v_dist.packing.balance import pack_costs
from phi3v_dist.packing.bound import fill_bound
from phi3v_dist.packing.order import Numbers
from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.proof import not_once, violations_of
from phi3v_dist.packing.steps import StepPlan, idle_advice, micro_steps
from phi3v_dist.packing.subset import pack_documents

_MOST_NAMED = 20
_NEIGHBOURS = 32  # of a pack's length lie between half of it and all of it, about
_TRIED_DOCUMENTS = 50_000
_BETTER = 0.005
_LEAST_PACKS_ADVISED = 200  # of fewer the last one, half empty, decides the fill
_BOUND_BEGINS_WITH = 2000  # packs


@dataclass(frozen=True)
class Forecast:
    """An epoch in numbers. Shares are of 1; ``phase_imbalance``: time of all micro-steps, in each of which all ranks
    wait for the one with the most vision work and then for the one with the most language work, over that of equal
    shares.
    """

    documents: int
    long_documents: int
    dropped: int
    windows: int
    packs: int
    steps: int
    packs_per_step: int
    pack_tokens: int
    tokens: int
    supervised_tokens: int
    crops: int
    packs_without_picture: int
    fill: float
    bound: float
    ranks: int
    micro_steps: int
    idle_share: float
    idle_advice: str
    phase_imbalance: float
    plan_seconds: float
    fill_by_pack_tokens: dict[int, float]
    violations: list[str]

    @property
    def advice(self) -> list[str]:
        """Options that would be better, a line each."""
        lines = []
        fills = self.fill_by_pack_tokens
        enough = self.packs >= _LEAST_PACKS_ADVISED
        better = [length for length, fill in fills.items() if enough and fill > self.fill + _BETTER]
        for side in (1, -1):  # the best of the shorter ones, the best of the longer ones
            chosen = [length for length in better if side * (self.pack_tokens - length) > 0]
            if chosen:
                length = max(chosen, key=lambda length: (round(fills[length], 3), -abs(length - self.pack_tokens)))
                lines.append(f"packing.pack_tokens={length} fills {fills[length]:.1%}")
        return [*lines, self.idle_advice] if self.idle_advice else lines

    def rows(self) -> list[tuple[str, str]]:
        """What it is, and its value in words."""
        cut = self.long_documents - self.dropped
        return [
            ("documents", f"{self.documents:,}"),
            ("longer than a pack", f"{self.long_documents:,}: {cut:,} cut, {self.dropped:,} left out"),
            ("tokens", f"{self.tokens:,}, {self.supervised_tokens:,} supervised"),
            ("crops", f"{self.crops:,}; {self.packs_without_picture:,} packs without a picture run a blank one"),
            ("packs", f"{self.packs:,} of up to {self.pack_tokens:,} tokens, windows: {self.windows:,}"),
            ("steps", f"{self.steps:,} of {self.packs_per_step:,} packs"),
            ("fill", f"{self.fill:.2%}; no algorithm could fill more than {self.bound:.2%}"),
            ("micro-steps", f"{self.micro_steps:,} a step on {self.ranks:,} ranks, {self.idle_share:.1%} blank packs"),
            ("imbalance", f"{self.phase_imbalance:.3f} × the time of equal shares"),
            ("planned in", f"{self.plan_seconds:.2f} s"),
        ]


class _Sums:
    """What is added up over the steps of an epoch."""

    def __init__(self, plan: Plan, ranks: int) -> None:
        self.plan, self.ranks = plan, ranks
        self.counts = np.zeros(len(plan.tokens), np.int32)
        self.packs = self.places = self.tokens = self.supervised = self.crops = self.without_picture = 0
        self.waited = self.worked = 0.0
        self.violations: list[str] = []

    def add(self, step: StepPlan) -> None:
        documents = np.concatenate(step.packs)
        sizes = np.array([len(pack) for pack in step.packs])
        starts = np.cumsum(sizes) - sizes
        tokens, crops = self.plan.lengths.tokens(documents), self.plan.crops[documents].astype(np.int64)
        self.packs += len(step.packs)
        self.tokens += int(tokens.sum())
        self.supervised += step.weight
        self.crops += int(crops.sum())
        self.without_picture += int(np.count_nonzero(np.add.reduceat(crops, starts) == 0))
        np.add.at(self.counts, documents, 1)
        rows = micro_steps(len(step.packs), self.ranks)
        self.places += rows * self.ranks
        costs = np.zeros((2, rows * self.ranks))
        costs[:, : len(step.packs)] = pack_costs(tokens, crops, starts)
        together = costs.reshape(2, rows, self.ranks)
        self.waited += float(together.max(axis=2).sum())
        self.worked += float(together.mean(axis=2).sum())
        if len(self.violations) < _MOST_NAMED:
            self.violations += violations_of(self.plan, step, self.ranks)


def forecast(plan: Plan, ranks: int) -> Forecast:
    """Make every step of the first epoch, and tell what they come to."""
    started = time.perf_counter()
    steps = plan.steps_per_epoch()
    for number in range(steps):
        plan.step(number)
    seconds = time.perf_counter() - started
    sums = _Sums(plan, ranks)
    for number in progress(range(steps), "steps looked at", steps):
        sums.add(plan.step(number))
    options = plan.options
    lengths = plan.lengths.tokens(np.repeat(np.arange(len(sums.counts)), sums.counts))
    first = len(plan.step(0).packs)
    begin = [plan.lengths.tokens(pack) for pack in plan.window_packs(0, 0).as_lists()[:_BOUND_BEGINS_WITH]]
    return Forecast(
        documents=plan.lengths.documents,
        long_documents=plan.lengths.long_documents,
        dropped=plan.lengths.dropped,
        windows=plan.windows_per_epoch(),
        packs=sums.packs,
        steps=steps,
        packs_per_step=options.packs_per_step,
        pack_tokens=options.pack_tokens,
        tokens=sums.tokens,
        supervised_tokens=sums.supervised,
        crops=sums.crops,
        packs_without_picture=sums.without_picture,
        fill=sums.tokens / (sums.packs * options.pack_tokens),
        bound=fill_bound(lengths, options.pack_tokens, begin),
        ranks=ranks,
        micro_steps=micro_steps(first, ranks),
        idle_share=1 - sums.packs / sums.places,
        idle_advice=idle_advice(first, options.packs_per_step, ranks),
        phase_imbalance=sums.waited / sums.worked,
        plan_seconds=seconds,
        fill_by_pack_tokens=_neighbours(plan),
        violations=[*sums.violations, *not_once(plan, sums.counts)][:_MOST_NAMED],
    )


def _neighbours(plan: Plan) -> dict[int, float]:
    """Fill of packs from three quarters to five quarters of the length, tried with documents of the first windows."""
    tried: list[Numbers] = []
    for window in range(plan.windows_per_epoch()):
        tried.append(plan.window_packs(0, window).documents)
        if sum(map(len, tried)) >= _TRIED_DOCUMENTS:
            break
    lengths = np.random.default_rng(0).permutation(plan.lengths.tokens(np.concatenate(tried)))[:_TRIED_DOCUMENTS]
    options = plan.options
    unit = max(16, 1 << (options.pack_tokens // _NEIGHBOURS).bit_length() - 1)
    fills = {}
    shortest = max(options.pack_tokens * 3 // 4, plan.lengths.longest)  # a shorter pack would leave documents out
    for pack_tokens in range(-(-shortest // unit) * unit, options.pack_tokens * 5 // 4 + 1, unit):
        fitting = lengths[lengths <= pack_tokens]
        if len(fitting):
            _, ends = pack_documents(fitting, pack_tokens, options.pool_documents, options.choose_documents)
            fills[pack_tokens] = int(fitting.sum()) / (len(ends) * pack_tokens)
    return fills
