"""A checkpoint → a model folder that others load.

Enters: a run folder. Leaves: a folder in the official layout: bf16 weights from the newest complete checkpoint's fp32
master copy, every other file byte for byte from the model folder that training began from (the run's ``base``). Works
without a GPU and without the ranks that trained; parameters are merged one at a time.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from phi3v_dist.checkpoints.choose import ENGINE, Checkpoint, newest_checkpoint
from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.console import progress
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import CheckpointError
from phi3v_dist.model.folder import check_names, shapes_in, write_folder


@dataclass(frozen=True)
class Export:
    """What was written and from what."""

    folder: Path
    checkpoint: Checkpoint
    parameters: int


def consolidate(run_folder: str | Path, target: str | Path) -> Export:
    """Write ``target`` from the newest checkpoint of ``run_folder``.

    Raises ``CheckpointError`` when there is none or the base is gone, ``ModelFolderError`` when ``target`` exists.
    """
    run_folder = Path(run_folder)
    base = run_folder / "base"
    checkpoint = newest_checkpoint(run_folder)
    if checkpoint is None:
        raise CheckpointError(
            "no complete checkpoint in this run", where=str(run_folder), mend="Name a run folder that has trained."
        )
    if not (base / "config.json").is_file():
        raise CheckpointError(
            "the model folder that training began from is gone",
            where=str(base),
            value=str(base.resolve()),
            mend="Put it back, or make this link point to it.",
        )
    weights = _merged_weights(checkpoint)
    shapes = shapes_in(base)
    check_names(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, checkpoint.folder)
    processor = DocumentProcessor.from_folder(base, DocumentOptions())
    write_folder(target, _in_bf16(weights, shapes), base, end_ids=processor.end_ids)
    return Export(Path(target), checkpoint, sum(math.prod(shape) for shape in shapes.values()))


def _merged_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Names → lazily merged tensors: DeepSpeed's own reader of its ZeRO-3 files, without its chatter."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # merging needs no GPU, and must not take one that others train on
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.folder), tag=ENGINE, lazy_mode=True)


def _in_bf16(weights: dict[str, torch.Tensor], order: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name in progress(order, "tensors", len(order)):
        yield name, weights[name].contiguous().to(torch.bfloat16)
