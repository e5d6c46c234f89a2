"""What training reads: shards, processor, and the plans of both splits.

Enters: the options. Leaves: one ``Materials``, equal on every rank. Everything that a user can have got wrong about
data and model folder shows here, before a parameter is loaded.
"""

from dataclasses import dataclass

from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.length_cache import joined_lengths
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.model.check import check_fit
from phi3v_dist.model.folder import fingerprint, read_config, shapes_in
from phi3v_dist.packing.from_shards import heldout_plan, train_plan
from phi3v_dist.packing.plan import PLAN_VERSION, Plan
from phi3v_dist.packing.planned_lengths import PlannedLengths
from phi3v_dist.packing.steps import idle_advice
from phi3v_dist.shards.sources import SourcesIndex, open_sources
from phi3v_dist.training.window_counts import recall_windows


@dataclass(frozen=True)
class Materials:
    """``plan`` of the train split, ``heldout`` of the other (None where nothing is held out), steps of the run."""

    index: SourcesIndex
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
    index = open_sources(config.shards)
    lengths = joined_lengths(index.indexes, processor, config.shards.cache_folder)
    plan, heldout = train_plan(config, index, lengths), heldout_plan(config, index, lengths)
    trained_on = {
        "shards.folder": index.content_hash,
        "model.folder": fingerprint(config.model.folder),
        "packing": f"plan {PLAN_VERSION}",
    }
    recall_windows(plan, config, trained_on)
    total_steps = config.training.steps or plan.steps_in(config.training.epochs)
    return Materials(index, processor, plan, heldout, total_steps, trained_on)


def warnings_of(materials: Materials, config: RunConfig, num_ranks: int) -> list[str]:
    """What a user should know about the plan before it is followed."""
    idle = idle_advice(len(materials.plan.step(0).packs), config.packing.packs_per_step, num_ranks)
    warnings = [idle] if idle else []
    trained = {source.name for source in materials.plan.sources}
    warnings += [
        f"shards.sources: {folder} has no train sample, so there is nothing to take {epochs:g} times an epoch"
        for folder, epochs in config.shards.sources.items()
        if folder not in trained
    ]
    plans = [("train", materials.plan), ("heldout", materials.heldout)]
    warnings += [
        _long_documents(plan.lengths, split, config.packing.pack_tokens)
        for split, plan in plans
        if plan is not None and plan.lengths.long_documents
    ]
    return warnings


def _long_documents(lengths: PlannedLengths, split: str, pack_tokens: int) -> str:
    return (
        f"{lengths.long_documents} {split} documents are longer than packing.pack_tokens={pack_tokens}: "
        f"{lengths.long_documents - lengths.dropped} cut, {lengths.dropped} left out ({lengths.some_too_long})"
    )
