"""TensorBoard files, when ``tracking.tensorboard`` asks for them.

Enters: metrics of rank 0. Leaves: event files under ``tensorboard/`` in the run folder.
"""

from pathlib import Path

from phi3v_dist.errors import ConfigError


class TensorboardBackend:
    """One writer of scalars. Raises ``ConfigError`` when the package is missing."""

    def __init__(self, run_folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "the tensorboard package is missing",
                where="tracking.tensorboard",
                value=True,
                mend="Run `pip install tensorboard`, or set tracking.tensorboard=false.",
            ) from error
        # purge_step hides what a killed run wrote of the steps that are done again.
        self._writer = SummaryWriter(str(run_folder / "tensorboard"), purge_step=first_step)

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Write each metric as a scalar of ``step``."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
