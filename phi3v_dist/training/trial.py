"""A cut-down model that really steps, saves and loads, before the real one is loaded.

Enters: the run's configuration, some of its samples. Leaves: losses, gradient norms, seconds and bytes. The model has
the run's own widths, vocabulary, kernels and engine settings and is built under zero.Init, but its decoder and its
vision tower have two layers each and its weights are random: what can fail on a node (a kernel, a library, a network
card, the file system) fails here within seconds.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phi3v_dist.checkpoints.choose import newest_checkpoint
from phi3v_dist.checkpoints.save import save_checkpoint
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.labels import IGNORED, answer_labels
from phi3v_dist.documents.processor import Document, DocumentProcessor
from phi3v_dist.documents.prompt import answer_text
from phi3v_dist.files import write_json
from phi3v_dist.images import ImageError
from phi3v_dist.model.folder import read_config
from phi3v_dist.packing.collate import Batch, blank_batch, collate
from phi3v_dist.packing.steps import StepPlan
from phi3v_dist.shards.read import DamagedSample, Sample
from phi3v_dist.training.backend import Backend
from phi3v_dist.training.engine import build_model, deepspeed_settings, start_engine
from phi3v_dist.training.resume import load_checkpoint
from phi3v_dist.training.step import StepSums, forward, take_step

LAYERS = 2
_LEARNING_RATE = 1e-4
_NO_SAMPLE = -1
_MOST_TOKENS = 8192  # of a pack: enough to use every kernel


def cut_down(config: RunConfig, folder: Path) -> RunConfig:
    """Return the run's configuration with a model of ``LAYERS`` layers; ``folder`` gets its ``config.json``."""
    raw = read_config(config.model.folder).to_dict()
    pictures = raw.setdefault("img_processor", {})
    pictures["vision_config"] = {**pictures.get("vision_config", {}), "num_hidden_layers": LAYERS}
    write_json(folder / "config.json", {**raw, "num_hidden_layers": LAYERS})
    return config.model_copy(update={"model": config.model.model_copy(update={"folder": str(folder)})})


def build_trial_engine(config: RunConfig, backend: Backend, who: ClusterInfo) -> Any:
    """Build the cut-down model's engine as training builds the real one's, but for the weights."""
    settings = deepspeed_settings(config)
    model = build_model(config, backend, settings)
    torch.manual_seed(config.training.seed + who.rank)
    for name, parameter in model.named_parameters():
        _draw(name, parameter.ds_tensor, model.config.initializer_range)
    return start_engine(model, config, backend, settings)


def _draw(name: str, part: torch.Tensor, spread: float) -> None:
    """Fill this rank's part of a parameter: a norm's scale with ones, biases with zeros, all else at random."""
    if name.endswith("bias"):
        part.zero_()
    elif "norm" in name:
        part.fill_(1.0)
    else:
        part.normal_(0.0, spread)


def pack_with_pictures(processor: DocumentProcessor, samples: Sequence[Sample], pack_tokens: int) -> Batch:
    """Lay as many samples as fit into a pack; a blank picture where none can be used."""
    documents: list[Document] = []
    for sample in samples:
        try:
            document = processor.document(sample)
        except ImageError:
            continue  # the reading check has told
        if documents and _tokens(documents) + len(document.input_ids) > min(pack_tokens, _MOST_TOKENS):
            break
        documents.append(document)
    return collate(documents) if documents else blank_batch(processor)


def pack_of_text(processor: DocumentProcessor, samples: Sequence[Sample], pack_tokens: int) -> Batch:
    """Lay as many of the samples' texts as fit into a pack, as products without a picture would be."""
    prompt = processor.prompt([]).input_ids
    documents = [Document(prompt, [], [], np.full_like(prompt, IGNORED), _NO_SAMPLE)]  # nothing to score in it
    for sample in samples:
        answer = processor.template.answer_ids(answer_text(sample.title, sample.category, sample.price))
        ids = np.concatenate([prompt, answer])
        if _tokens(documents) + len(ids) > min(pack_tokens, _MOST_TOKENS):
            break
        documents.append(Document(ids, [], [], answer_labels(ids, len(prompt)), sample.number))
    return collate(documents)


def _tokens(documents: Sequence[Document]) -> int:
    return sum(len(document.input_ids) for document in documents)


def some_samples(reader: Any, numbers: Sequence[int]) -> list[Sample]:
    """Read those of the samples that can be read."""
    samples = []
    for number in numbers:
        try:
            samples.append(reader.sample(int(number)))
        except DamagedSample:
            continue  # the reading check has told
    return samples


@torch.no_grad()
def own_loss(engine: Any, batch: Batch) -> float:
    """Loss per supervised token of this rank's batch, before any rank's share is added; all ranks call this."""
    loss = forward(engine, batch.to(engine.device), engine.module.lm_head.weight.dtype)
    return float(loss) / max(len(batch.targets), 1)


def step_on(engine: Any, batch: Batch, who: ClusterInfo, weight: int) -> StepSums:
    """Take one optimizer step in which each rank has one pack. ``weight``: supervised tokens of all ranks' packs."""
    plan = StepPlan(0, 0, [np.array([rank]) for rank in range(who.num_ranks)], weight)
    sums = take_step(engine, plan, [batch], learning_rate=_LEARNING_RATE, num_ranks=who.num_ranks)
    assert sums is not None, "nothing stops a trial"
    return sums


def is_finite(sums: StepSums) -> bool:
    """Whether a step's loss and gradient norm are numbers."""
    return math.isfinite(sums.loss) and math.isfinite(sums.gradient_norm)


def save(engine: Any, folder: Path) -> tuple[float, int]:
    """Save as training does, as step 0 of a run in ``folder``; return seconds and bytes of all ranks."""
    saved = save_checkpoint(engine, folder, step=0, trained_on={}, longest_document=0, keep_last=1)
    return saved.seconds, saved.written_bytes


def load(engine: Any, folder: Path, who: ClusterInfo) -> float:
    """Load what ``save`` has written; return the seconds."""
    started = time.monotonic()
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None, f"no complete checkpoint in {folder}"
    load_checkpoint(engine, checkpoint, who)
    return time.monotonic() - started


def master_weights(engine: Any) -> torch.Tensor:
    """A copy of this rank's float32 master weights, laid end to end."""
    groups = engine.optimizer.fp32_partitioned_groups_flat
    return torch.cat([group.detach().flatten().cpu() for group in groups]).clone()
