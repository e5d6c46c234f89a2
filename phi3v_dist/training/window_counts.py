"""How many packs each window gave, kept in the run's folder: a resume finds step n without packing what lies before it.

Enters: a plan, the options. Leaves: ``RUN/windows.json``::

    {"meaning": SHA-256, "packs": {"0": [packs of each window of epoch 0, -1 where unknown], …}}

It saves time and decides nothing: of another meaning, damaged or gone, it is made anew, which takes a
second per million documents.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from phi3v_dist.config.options import RunConfig
from phi3v_dist.console import log
from phi3v_dist.files import write_json
from phi3v_dist.packing.plan import Plan

WINDOWS = "windows.json"
_NO_MATTER = {"workers", "prefetch_packs", "shared_memory_gb", "wait_minutes", "max_damaged_share"}


def recall_windows(plan: Plan, config: RunConfig, trained_on: dict[str, str]) -> None:
    """Tell the plan what an earlier start of the run found out."""
    try:
        told = json.loads(Path(config.run_folder, WINDOWS).read_text(encoding="utf-8"))
        if told["meaning"] == _meaning(config, trained_on):
            known = {int(epoch): np.array(packs, dtype=np.int32) for epoch, packs in told["packs"].items()}
            plan.recall(known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def remember_windows(plan: Plan, config: RunConfig, trained_on: dict[str, str]) -> None:
    """Write down what the plan has found out so far."""
    packs = {str(epoch): counts.tolist() for epoch, counts in plan.packs_known().items()}
    try:
        write_json(Path(config.run_folder, WINDOWS), {"meaning": _meaning(config, trained_on), "packs": packs})
    except OSError as error:
        log.warning("%s can't be written (%s): the next start takes longer", WINDOWS, error.strerror)


def _meaning(config: RunConfig, trained_on: dict[str, str]) -> str:
    """Whatever decides how many packs a window gives."""
    options = [config.documents.model_dump(), config.packing.model_dump(exclude=_NO_MATTER), config.shards.sources]
    told = json.dumps([trained_on, *options, config.training.seed], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
