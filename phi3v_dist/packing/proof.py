"""Will it hang? What must hold of a planned step, so that all ranks run the same modules equally often.

Enters: a step, a number of ranks. Leaves: one line for each thing that doesn't hold. Ranks that leave the common order
wait for one another for ever, and a step that teaches nothing or overflows a GPU ends a run after hours: all of it can
be known before.
"""

from collections.abc import Iterator

import numpy as np

from phi3v_dist.packing.plan import Plan
from phi3v_dist.packing.steps import StepPlan, micro_steps, pack_of

_LEAST_TOKENS_OF_CROP = 4  # a picture brings more tokens than that for each of its crops, whatever the crop's size


def violations_of(plan: Plan, step: StepPlan, ranks: int) -> Iterator[str]:
    """What is wrong with a step, each with its numbers."""
    name = f"step {step.step + 1}"
    documents = np.concatenate(step.packs)
    weight = int(plan.lengths.supervised(documents).sum())
    if weight <= 0:
        yield f"{name}: no supervised token in {len(documents)} documents, nothing would be learned"
    if weight != step.weight:
        yield f"{name}: its weight is {step.weight}, its documents have {weight} supervised tokens"
    yield from _packs_over_budget(plan, step, name)
    yield from _shared_wrongly(step, ranks, name)
    odd = documents[plan.crops[documents] * _LEAST_TOKENS_OF_CROP > plan.tokens[documents]]
    for number in odd.tolist():
        yield (
            f"{name}, sample {number}: {plan.crops[number]} crops and only {plan.tokens[number]} tokens, the vision "
            "tower would give more image tokens than the text has places for"
        )


def _packs_over_budget(plan: Plan, step: StepPlan, name: str) -> Iterator[str]:
    for number, pack in enumerate(step.packs):
        tokens = int(plan.lengths.tokens(pack).sum())
        if not 0 < tokens <= plan.options.pack_tokens:
            yield f"{name}, pack {number}: {tokens} tokens, packing.pack_tokens={plan.options.pack_tokens}"


def _shared_wrongly(step: StepPlan, ranks: int, name: str) -> Iterator[str]:
    """Every rank takes as many micro-steps, each pack is taken once, blank ones stand in the last row alone."""
    rows = [
        [pack_of(step, row, rank, ranks) for rank in range(ranks)] for row in range(micro_steps(len(step.packs), ranks))
    ]
    taken = [id(pack) for row in rows for pack in row if pack is not None]
    if sorted(taken) != sorted(map(id, step.packs)):
        yield f"{name}: {len(step.packs)} packs, of which the ranks take {len(set(taken))}, {len(taken)} times"
    blank = sum(pack is None for row in rows[:-1] for pack in row)
    if blank:
        yield f"{name}: {blank} blank packs before the last micro-step"


def not_once(plan: Plan, counts: np.ndarray) -> Iterator[str]:
    """``counts`` [samples]: how often an epoch takes each; it must be the source's epochs, rounded down or up."""
    for source in plan.sources:
        least, most = int(np.floor(source.epochs)), int(np.ceil(source.epochs))
        for first, end in source.shards.tolist():
            inside = counts[plan.lengths.numbers(first, end)]
            wrong = np.flatnonzero((inside < least) | (inside > most))
            if len(wrong):
                yield f"{source.name}, samples {first} to {end - 1}: {len(wrong)} of them not {source.epochs:g} times"
