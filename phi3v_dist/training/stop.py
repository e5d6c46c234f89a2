"""When a run stops before its last step, agreed by all ranks at the same micro-step.

Enters: a rank's stop signals, and when Slurm's time limit ends the job. Leaves: one answer per micro-step, equal on
every rank. The question of a micro-step is sent off while the one before is computed, over a gloo group of its own: no
time is lost, no GPU is waited for, and an answer is one micro-step old.
"""

import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from phi3v_dist.cluster.signals import StopSignals
from phi3v_dist.cluster.who import ClusterInfo

# What ranks tell each other; the highest number counts.
_REASONS = ("", "the job's time limit", "SIGUSR1", "SIGTERM")
_SAVE_MAY_TAKE = 1.5  # times the longest save so far: file systems of a cluster are shared


class Stop:
    """``agreed`` is asked by every rank equally often. ``reason`` is empty until all have agreed to stop."""

    def __init__(
        self,
        signals: StopSignals,
        who: ClusterInfo,
        *,
        save_seconds: float,
        spare_seconds: float,
        group_timeout: timedelta,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``save_seconds``: what a save is thought to take; ``spare_seconds``: left over before the limit."""
        self.reason = ""
        self._signals, self._job_end, self._clock = signals, who.job_end, clock
        self._spare_seconds = spare_seconds
        self._save_seconds, self._step_seconds = save_seconds, 0.0
        self._group = dist.new_group(backend="gloo", timeout=group_timeout)
        self._answer, self._question = torch.zeros(1, dtype=torch.int32), None

    def agreed(self) -> bool:
        """Whether the run stops here."""
        if self._question is not None:
            self._question.wait()
            self.reason = _REASONS[int(self._answer)]
        if not self.reason:
            self._answer.fill_(_REASONS.index(self._wish()))
            self._question = dist.all_reduce(self._answer, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return bool(self.reason)

    def learn(self, *, step_seconds: float = 0.0, save_seconds: float = 0.0) -> None:
        """Take in how long a step or a save took; the longest of each counts."""
        self._step_seconds = max(self._step_seconds, step_seconds)
        self._save_seconds = max(self._save_seconds, save_seconds)

    @property
    def needed_seconds(self) -> float:
        """What is kept for the step in hand, the save and the farewell."""
        return self._step_seconds + self._save_seconds * _SAVE_MAY_TAKE + self._spare_seconds

    def close(self) -> None:
        """Wait for the last question, so that the group can be taken down."""
        if self._question is not None:
            self._question.wait()

    def _wish(self) -> str:
        """This rank's own reason to stop."""
        if self._signals.asked:
            return self._signals.asked
        late = self._job_end is not None and self._clock() + self.needed_seconds > self._job_end
        return _REASONS[1] if late else ""
