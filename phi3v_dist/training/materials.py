"""What training reads: shards, processor, and the plans of both splits.

Enters: the options. Leaves: one ``Materials``, equal on every rank. Everything that a user can have got wrong about
data and model folder shows here, before a parameter is loaded.
"""

import math
from dataclasses import dataclass

from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.length_cache import cached_lengths
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import ShardError
from phi3v_dist.model.check import check_fit
from phi3v_dist.model.folder import fingerprint, read_config, shapes_in
from phi3v_dist.packing.plan import Plan, shards_of
from phi3v_dist.shards.index import ShardIndex, load_index


@dataclass(frozen=True)
class Materials:
    """``plan`` of the train split, ``heldout`` of the other (None where nothing is held out), steps of the run."""

    index: ShardIndex
    processor: DocumentProcessor
    plan: Plan
    heldout: Plan | None
    total_steps: int
    trained_on: dict[str, str]  # fingerprints, see checkpoints.choose.Checkpoint


def gather_materials(config: RunConfig) -> Materials:
    """Read index, tokenizer and lengths. Raises ShardError, ModelFolderError, DocumentError."""
    model = read_config(config.model.folder)
    shapes_in(config.model.folder)  # reads the weights' headers, which tell a file that was cut off
    processor = DocumentProcessor.from_folder(config.model.folder, config.documents)
    check_fit(model, processor.template.vocabulary_size, processor.crop_size, config.model.folder)
    index = load_index(config.shards.folder, config.shards.cache_folder)
    lengths = cached_lengths(index, processor, config.shards.cache_folder)
    train = shards_of(index, "train")
    if not sum(map(len, train)):
        raise ShardError(
            "no sample to train on", where=config.shards.folder, mend="Make shards with catalog.heldout_share below 1."
        )
    plan = Plan(lengths.tokens, lengths.supervised, train, config.packing, config.training.seed)
    heldout = None
    if len(index.numbers("heldout")) and config.evaluation.loss_packs:
        # One step of the held-out plan is one validation: always the same packs, whatever the seed of the run.
        packing = config.packing.model_copy(update={"packs_per_step": config.evaluation.loss_packs})
        heldout = Plan(lengths.tokens, lengths.supervised, shards_of(index, "heldout"), packing, seed=0)
    trained_on = {"shards.folder": index.index_hash, "model.folder": fingerprint(config.model.folder)}
    return Materials(index, processor, plan, heldout, _total_steps(config, plan), trained_on)


def _total_steps(config: RunConfig, plan: Plan) -> int:
    if config.training.steps:
        return config.training.steps
    whole = math.floor(config.training.epochs)
    steps = sum(plan.steps_per_epoch(epoch) for epoch in range(whole))
    part = config.training.epochs - whole
    return max(1, steps + (round(part * plan.steps_per_epoch(whole)) if part else 0))
