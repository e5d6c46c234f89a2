"""A checkpoint → a model folder that others load.

Enters: a run folder. Leaves: a folder in the official layout: bf16 weights from a checkpoint's fp32 master copy (the
newest that is whole, or another by choice), every other file byte for byte from the model folder that training began
from (the run's ``base``). Works without a GPU and without the ranks that trained; parameters are merged one at a time.
What training never changes (see model/never_trained.py) comes from the base too.

Four files may differ from the base's: ``generation_config.json`` names the tokens that end an answer, ``README.md``
has the model card and ``phi3v_dist.json`` the same for programs (card.py), ``preprocessor_config.json`` the
``num_crops`` of the run where that was another.
"""

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from phi3v_dist.checkpoints.card import FACTS, Training, facts, model_card, with_card
from phi3v_dist.checkpoints.choose import ENGINE, Checkpoint, Damage, in_order_of_choice
from phi3v_dist.checkpoints.verify import first_whole, verify
from phi3v_dist.config.loading import load_config
from phi3v_dist.config.options import DocumentOptions, RunConfig
from phi3v_dist.console import progress
from phi3v_dist.documents.processor import SETTINGS, DocumentProcessor, with_num_crops
from phi3v_dist.errors import CheckpointError
from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.folder import (
    check_names,
    end_token_ids,
    iterate_weights,
    read_config,
    shapes_in,
    write_folder,
)
from phi3v_dist.model.never_trained import EMBEDDING, as_in_base, frozen_names

_CONFIG = "config.yaml"


@dataclass(frozen=True)
class Export:
    """What was written and from what."""

    folder: Path
    checkpoint: Checkpoint
    parameters: int
    passed: list[Damage]  # checkpoints that would have been taken, were they whole


def consolidate(run_folder: str | Path, target: str | Path, wanted: str = "newest") -> Export:
    """Write ``target`` from the checkpoint of ``run_folder`` that is ``wanted``: "newest", "best" or a step's number.

    Every byte of it is verified first; a damaged one gives way to the next newest or best. Raises ``CheckpointError``
    when there is none or the base or the run's options are gone, ``ModelFolderError`` when ``target`` exists.
    """
    run_folder = Path(run_folder)
    base = run_folder / "base"
    checkpoint, passed = first_whole(in_order_of_choice(run_folder, wanted), verify)
    if checkpoint is None:
        mend = "Name another checkpoint of this run by --step, or another run."
        raise CheckpointError(passed[0].reason, where=str(passed[0].folder), mend=mend)
    _need_file(base / "config.json", "the model folder that training began from is gone", str(base.resolve()))
    _need_file(run_folder / _CONFIG, "the options of this run are gone")
    run, model = load_config(run_folder / _CONFIG).config, read_config(base)
    weights = _merged_weights(checkpoint)
    shapes = shapes_in(base)
    check_names(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, checkpoint.folder)
    tensors = _with_base(_in_bf16(weights, shapes), base, shapes, model)
    write_folder(target, tensors, base, end_ids=end_token_ids(base), texts=_texts(run, model, base, checkpoint))
    return Export(Path(target), checkpoint, sum(math.prod(shape) for shape in shapes.values()), passed)


def _need_file(path: Path, what: str, value: str | None = None) -> None:
    if not path.is_file():
        mend = "Put it back, or make this link point to it." if value else "Put it back."
        raise CheckpointError(what, where=str(path.parent if value else path), value=value, mend=mend)


def _texts(run: RunConfig, model: Phi3VConfig, base: Path, checkpoint: Checkpoint) -> dict[str, str]:
    """Content of the side files that are not the base's: see above."""
    num_crops, of_base = (
        DocumentProcessor.from_folder(base, options).num_crops for options in (run.documents, DocumentOptions())
    )
    trained = Training(
        base=base.resolve().name,
        steps=checkpoint.step,
        template=run.documents.template,
        num_crops=num_crops,
        rope_mode=run.model.rope_mode,
        rope_border=model.original_max_position_embeddings if model.long_rope else None,
        longest_document=checkpoint.longest_document,
    )
    readme = base / "README.md"
    before = readme.read_text(encoding="utf-8") if readme.is_file() else None
    texts = {"README.md": with_card(before, model_card(trained)), FACTS: facts(trained)}
    if num_crops != of_base:
        texts[SETTINGS] = with_num_crops((base / SETTINGS).read_bytes(), num_crops).decode()
    return texts


def _with_base(
    trained: Iterator[tuple[str, torch.Tensor]], base: Path, names: Iterable[str], model: Phi3VConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Put back what training never changes; of the base only those tensors are held."""
    kept = dict(iterate_weights(base, {EMBEDDING, *frozen_names(names, model)}))
    for name, tensor in trained:
        yield name, as_in_base(name, tensor, kept[name], model) if name in kept else tensor


def _merged_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Names → lazily merged tensors: DeepSpeed's own reader of its ZeRO-3 files, without its chatter."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # merging needs no GPU, and must not take one that others train on
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.folder), tag=ENGINE, lazy_mode=True)


def _in_bf16(weights: dict[str, torch.Tensor], order: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name in progress(order, "tensors", len(order)):
        yield name, weights[name].contiguous().to(torch.bfloat16)
