"""The line that a person watching the run reads, every few steps and at each validation.

Enters: metrics of rank 0. Leaves: lines through ``console.say``.
"""

import time
from collections.abc import Callable

from phi3v_dist.console import say

_COLUMNS: dict[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4f}",
    "learning_rate": lambda value: f"lr {value:.2e}",
    "gradient_norm": lambda value: f"gradient {value:.2f}",
    "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
    "validation_loss": lambda value: f"validation loss {value:.4f}",
    "category_accuracy": lambda value: f"category {value:.1%}",
    "title_word_f1": lambda value: f"title F1 {value:.2f}",
    "price_error_median": lambda value: f"median price error {value:.1%}",
    "price_error_mean": lambda value: f"mean {value:.1%}",
}


class ConsoleBackend:
    """Says one line at the first step, every ``every_steps`` steps, at the last one and at each validation."""

    def __init__(self, every_steps: int, first_step: int, total_steps: int) -> None:
        self._every_steps, self._first_step, self._total_steps = every_steps, first_step, total_steps
        self._started = time.monotonic()

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Say the line of ``step`` when it is due."""
        due = step % self._every_steps == 0 or step in (self._first_step, self._total_steps)
        if due or "validation_loss" in metrics:
            shown = [show(metrics[name]) for name, show in _COLUMNS.items() if name in metrics]
            say(" | ".join([f"step {step} of {self._total_steps}", *shown, self._remaining(step)]))

    def _remaining(self, step: int) -> str:
        done = max(step - self._first_step + 1, 1)
        seconds = (time.monotonic() - self._started) / done * (self._total_steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left"
