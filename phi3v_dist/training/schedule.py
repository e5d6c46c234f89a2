"""The learning rate of a step: linear warm-up, then a cosine down to a share of the highest.

Enters: the number of a step and the options. Leaves: a number. A pure function, so a resume needs no state.
Source of the cosine: SGDR, arXiv 1608.03983, one period without restart.
"""

import math

from phi3v_dist.config.options import TrainingOptions


def learning_rate(step: int, total_steps: int, options: TrainingOptions) -> float:
    """Return the rate of step ``step`` (from 0). The first step already moves; the last ends at the lowest rate."""
    warmup_steps = round(options.warmup_share * total_steps)
    if step < warmup_steps:
        return options.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps + 1) / max(total_steps - warmup_steps, 1)
    lowest = options.learning_rate * options.min_learning_rate_share
    return lowest + (options.learning_rate - lowest) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
