"""Shards and the lengths of their documents → the plans of both splits.

Enters: the options, an open index, lengths. Leaves: the plan that training follows and the one that validation follows.
"""

from collections.abc import Sequence

from phi3v_dist.config.options import RunConfig
from phi3v_dist.documents.lengths import DocumentLengths
from phi3v_dist.errors import ShardError
from phi3v_dist.packing.order import Source
from phi3v_dist.packing.plan import Plan
from phi3v_dist.shards.sources import SourcesIndex


def train_plan(config: RunConfig, index: SourcesIndex, lengths: DocumentLengths) -> Plan:
    """The plan of the train split. Raises ``ShardError`` where it is empty, ``DocumentError`` as ``Plan`` does."""
    sources = _sources(config, index, "train", index.epochs)
    if not sources:
        raise ShardError(
            "no sample to train on", where=config.shards.folder, mend="Make shards with catalog.heldout_share below 1."
        )
    counts = lengths.tokens, lengths.supervised, lengths.crops
    return Plan(*counts, sources, config.packing, config.training.seed, index.key)


def heldout_plan(config: RunConfig, index: SourcesIndex, lengths: DocumentLengths) -> Plan | None:
    """The plan whose first step is one validation: always the same packs, whatever the seed. None: there is none."""
    sources = _sources(config, index, "heldout", [1.0] * len(index.epochs))
    if not sources or not config.evaluation.loss_packs:
        return None
    # Packs as they come: dealt by cost, the one step that is looked at would be of one kind.
    packing = config.packing.model_copy(update={"packs_per_step": config.evaluation.loss_packs, "balance_steps": 1})
    return Plan(lengths.tokens, lengths.supervised, lengths.crops, sources, packing, seed=0, name=index.key)


def _sources(config: RunConfig, index: SourcesIndex, split: str, epochs: Sequence[float]) -> list[Source]:
    """The sources that have samples of a split."""
    names = config.shards.sources or [config.shards.folder]
    told = zip(index.shards(split), epochs, names, strict=True)
    return [Source(shards, weight, name) for shards, weight, name in told if len(shards)]
