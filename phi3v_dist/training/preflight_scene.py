"""What the checks before training share: where this rank stands, and what one check leaves for later ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3v_dist.cluster.hardware_gpu import GpuState
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig
from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import UserError
from phi3v_dist.shards.sources import SourcesIndex
from phi3v_dist.training.backend import Backend
from phi3v_dist.training.preflight_verdict import Panel

PROBE = ".preflight"  # in the run folder, gone afterwards


@dataclass(frozen=True)
class Floors:
    """Least bus bandwidth in GB/s; 0: it is measured and not judged."""

    node: float = 0.0
    network: float = 0.0


@dataclass
class Scene:
    """What checks read, and what they leave for later ones (from ``backend`` on).

    ``gpu``: None where the run takes none. ``no_trial``, ``no_save``: why a later check would make no sense.
    """

    loaded: LoadedConfig
    who: ClusterInfo
    panel: Panel
    floors: Floors
    gpu: GpuState | UserError | None
    backend: Backend | None = None
    index: SourcesIndex | None = None
    processor: DocumentProcessor | None = None
    trained_parameters: int = 0
    checkpoint_bytes: int = 0
    no_trial: str = ""
    no_save: str = ""
    engine: Any = None

    @property
    def config(self) -> RunConfig:
        """The run's options."""
        return self.loaded.config

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        return Path(self.config.run_folder)


def in_gb(size_bytes: float) -> str:
    """Bytes in words."""
    return f"{size_bytes / 1e9:,.2f} GB" if size_bytes >= 1e7 else f"{size_bytes / 1e6:,.2f} MB"
