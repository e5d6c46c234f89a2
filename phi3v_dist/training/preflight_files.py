"""Checks of what a run reads and writes: shards, model folder, run folder, disk. Each: a ``Scene`` → a ``Row``.

Enters: the run's configuration. Leaves: rows, equal on all ranks, and in the scene the index, the processor and the
model's size, which later checks need.
"""

import math
import time
from collections.abc import Sequence

import numpy as np

from phi3v_dist.checkpoints.space import state_bytes
from phi3v_dist.cluster import hardware
from phi3v_dist.cluster.process_group import from_rank_0
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.errors import RunError, ShardError
from phi3v_dist.model.check import check_fit
from phi3v_dist.model.folder import fingerprint, read_config, shapes_in
from phi3v_dist.model.never_trained import frozen_names
from phi3v_dist.shards.read import DamagedSample
from phi3v_dist.shards.sources import SourcesReader, open_sources
from phi3v_dist.training.preflight_scene import PROBE, Scene, in_gb
from phi3v_dist.training.preflight_verdict import Fault, Row, differences, faults_of, values_of

_VISION = "model.vision_embed_tokens."
_READ_SAMPLES = 64
_READ_SECONDS = 3.0


def data_and_model(scene: Scene) -> Row:
    """Shards and model folder visible on each node, with the same content."""
    answers = scene.panel.ask("shards and model", lambda: _open(scene))
    mend = "The folders must be the same ones on all nodes: mount the shared file system there."
    faults = [*faults_of(answers), *differences(answers, mend)]
    if faults:
        # on every rank: what one could read would send it into checks that the others skip
        scene.index, scene.processor, scene.trained_parameters, scene.checkpoint_bytes = None, None, 0, 0
        scene.no_trial = "shards or model folder can't be read on all nodes"
    samples = 0 if scene.index is None else len(scene.index)
    value = f"{samples:,} samples, {scene.trained_parameters:,} parameters to train" if samples else "not readable"
    return Row("shards and model", value, "the same content on all nodes", tuple(faults))


def _open(scene: Scene) -> dict[str, str]:
    """Read what training reads first; tell what must be the same on all ranks."""
    config, folder = scene.config, scene.config.model.folder
    model, shapes = read_config(folder), shapes_in(folder)
    frozen = set(frozen_names(shapes, model))
    frozen |= set() if config.model.train_vision else {name for name in shapes if name.startswith(_VISION)}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    scene.trained_parameters = sum(size for name, size in sizes.items() if name not in frozen)
    frozen_bytes = sum(sizes[name] for name in frozen) * (2 if config.training.precision == "bf16" else 4)
    scene.checkpoint_bytes = state_bytes(scene.trained_parameters, frozen_bytes)
    scene.processor = DocumentProcessor.from_folder(folder, config.documents)
    check_fit(model, scene.processor.template.vocabulary_size, scene.processor.crop_size, folder)
    scene.index = open_sources(config.shards)
    return {"index of shards.folder": scene.index.content_hash[:12], "model.folder": fingerprint(folder)[:12]}


def run_folder(scene: Scene) -> Row:
    """The run folder writable on each node, and one and the same folder."""
    folder, who = scene.run_folder / PROBE, scene.who
    token = from_rank_0(f"{who.attempt} {time.time_ns()}")
    written = scene.panel.ask("run folder", lambda: hardware.leave_token(folder, f"rank-{who.rank}", token))
    faults = list(faults_of(written))
    seen = []
    if written[0].error is None:
        answers = scene.panel.ask("run folder of rank 0", lambda: hardware.find_token(folder, "rank-0", token))
        unwritable = {fault.node for fault in faults}
        faults += [fault for fault in faults_of(answers) if fault.node not in unwritable]
        seen = [seconds for _, seconds in values_of(answers)]
    if faults:
        scene.no_save = "the run folder is not shared, or not writable"
    value = f"written, and seen by all after {max(seen):.1f} s" if seen else "not writable"
    return Row("run folder", value, "writable and shared", tuple(faults))


def free_disk(scene: Scene) -> Row:
    """Room for the checkpoints that are kept, and the one that is being written."""
    if not scene.checkpoint_bytes:
        return Row("free disk", "", skipped="the number of parameters is not known")
    options = scene.config.checkpoints
    count = options.keep_last + options.keep_best + 1
    need_bytes = scene.checkpoint_bytes * count

    def measure() -> tuple[int, int]:
        there_bytes = hardware.bytes_in(scene.run_folder / "checkpoints")
        free_bytes = hardware.free_bytes(scene.run_folder)
        if free_bytes + there_bytes < need_bytes:
            what = f"{count} checkpoints need {in_gb(need_bytes)}, {in_gb(free_bytes + there_bytes)} are free or theirs"
            mend = "Free space, lower checkpoints.keep_last, or set run_folder to another disk."
            raise RunError(what, where=str(scene.run_folder), mend=mend)
        return free_bytes, there_bytes

    answers = scene.panel.ask("free disk", measure)
    values = [value for _, value in values_of(answers)]
    value = "too little"
    if values:
        free_bytes, there_bytes = min(values)
        value = f"{in_gb(free_bytes)} free" + (
            f", {in_gb(there_bytes)} of checkpoints are there" if there_bytes else ""
        )
    if len(values) < len(answers):
        scene.no_save = "too little disk"
    return Row("free disk", value, f"{in_gb(need_bytes)} for {count} checkpoints", faults_of(answers, of_node=False))


def reading(scene: Scene) -> Row:
    """How fast each rank reads samples, and whether their bytes are those that were written."""
    if scene.index is None:
        return Row("reading shards", "", skipped="the shards can't be read on all nodes")
    index, who = scene.index, scene.who
    numbers = index.numbers("train")[who.rank :: who.num_ranks]
    chosen = numbers[np.linspace(0, len(numbers) - 1, min(_READ_SAMPLES, len(numbers))).astype(int)]
    answers = scene.panel.ask("reading shards", lambda: read_some(SourcesReader(index), chosen))
    told = [(node, *value) for node, value in values_of(answers)]
    faults = [*faults_of(answers), *_damaged(scene, told)]
    if not told:
        return Row("reading shards", "nothing could be read", "all samples whole", tuple(faults))
    node, count, size, seconds, _ = min(told, key=lambda rank: rank[1] / rank[3])
    value = f"{count / seconds:,.0f} samples/s, {size / seconds / 1e6:,.1f} MB/s for a rank on {node}"
    all_damaged = [text for rank in told for text in rank[4]]
    if all_damaged and not faults:
        value += f"; damaged, trained as a blank: {all_damaged[0]}"
    return Row("reading shards", value, "all samples whole", tuple(faults))


def read_some(reader: SourcesReader, numbers: Sequence[int]) -> tuple[int, int, float, list[str]]:
    """Read samples for a few seconds; return how many, their bytes, the seconds, and what was damaged."""
    count, size, damaged, started = 0, 0, [], time.monotonic()
    for number in numbers:
        if time.monotonic() - started > _READ_SECONDS:
            break
        count += 1
        try:
            size += sum(map(len, reader.sample(int(number)).images))
        except DamagedSample as damage:
            damaged.append(str(damage))
    return count, size, max(time.monotonic() - started, 1e-6), damaged


def _damaged(scene: Scene, told: Sequence[tuple[str, int, int, float, list[str]]]) -> list[Fault]:
    """By the rule that stops training (guard.py): one damaged sample never does."""
    count = sum(rank[1] for rank in told)
    damaged = [(rank[0], text) for rank in told for text in rank[4]]
    if len(damaged) <= 1 or len(damaged) <= scene.config.packing.max_damaged_share * count:
        return []
    node, text = damaged[0]
    what = f"{len(damaged)} of {count} samples that were read are damaged, the first on node {node}: {text}"
    mend = "Check the shards (tools/inspect_shards.py --verify), or raise packing.max_damaged_share."
    return [Fault(ShardError(what, where=scene.config.shards.folder, mend=mend))]
