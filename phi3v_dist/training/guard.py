"""What stops a run that has gone wrong: a loss that is no number, too many damaged samples.

Enters: the sums of each step. Leaves: nothing, or a ``RunError`` that every rank raises alike (the sums are equal on
all ranks), so that none is left waiting.
"""

import math

from phi3v_dist.console import log
from phi3v_dist.errors import RunError
from phi3v_dist.training.step import StepSums


class Guard:
    """``max_damaged_share``: of the documents seen in this epoch; each epoch meets the same damaged samples again."""

    def __init__(self, max_damaged_share: float) -> None:
        self.max_damaged_share = max_damaged_share
        self.epoch = 0
        self.damaged = 0
        self.documents = 0

    def check(self, step: int, sums: StepSums, epoch: int = 0) -> None:
        """Raise ``RunError`` when the run must not go on after this step."""
        if epoch != self.epoch:
            self.epoch, self.damaged, self.documents = epoch, 0, 0
        self.damaged += sums.damaged_count
        self.documents += sums.documents
        for sample, reason in sums.damaged:
            log.warning("step %d: sample %d is damaged and was trained as a blank: %s", step, sample, reason)
        if not math.isfinite(sums.loss) or not math.isfinite(sums.gradient_norm):
            raise RunError(
                "the loss or the gradient norm is not finite",
                where=f"step {step}",
                value=f"loss {sums.loss}, gradient norm {sums.gradient_norm}",
                mend="Lower training.learning_rate, or lengthen training.warmup_share; the last checkpoint is good.",
            )
        # One damaged sample never stops a run, however small the catalogue.
        if self.damaged > 1 and self.damaged > self.max_damaged_share * self.documents:
            raise RunError(
                f"{self.damaged} of {self.documents} samples were damaged, the log names them",
                where=f"step {step}",
                mend="Check the shards (tools/inspect_shards.py --verify), or raise packing.max_damaged_share.",
            )
