"""Everything that can be wrong before training, found within a minute, and the node that it is wrong on.

Enters: the run's configuration, started as training is, a rank per GPU. Leaves: a table, one line per fault, 0 or 2.
Nothing is loaded and nothing stays behind. Rank 0 speaks; what it says is what all ranks agree on. A fault of a node,
which others could do without, is also written down for the batch script (attempts.py); it leaves the node out.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from phi3v_dist.cluster.deadline import Deadline
from phi3v_dist.cluster.hardware_gpu import GpuState, read_gpu
from phi3v_dist.cluster.meeting import Meeting
from phi3v_dist.cluster.process_group import from_all_ranks, process_group
from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import LoadedConfig
from phi3v_dist.console import say
from phi3v_dist.errors import LostRankError, UserError
from phi3v_dist.training.attempts import blame_node, tell_lost_nodes, tell_verdict
from phi3v_dist.training.backend import checking_group, takes_gpu
from phi3v_dist.training.preflight_files import data_and_model, free_disk, reading, run_folder
from phi3v_dist.training.preflight_nodes import (
    bandwidth_between_nodes,
    bandwidth_in_nodes,
    clocks,
    devices,
    gpu_health,
    same_versions,
)
from phi3v_dist.training.preflight_scene import PROBE, Floors, Scene
from phi3v_dist.training.preflight_trial import compiled_parts, save_and_load, trial_step
from phi3v_dist.training.preflight_verdict import Fault, Panel, Row

CHECKS: tuple[Callable[[Scene], Row], ...] = (
    devices,  # first: a fault here ends the list
    same_versions,
    data_and_model,
    run_folder,
    free_disk,
    clocks,
    gpu_health,
    bandwidth_in_nodes,
    bandwidth_between_nodes,
    reading,
    compiled_parts,
    trial_step,
    save_and_load,
)
_MEETING_SECONDS = 50.0
_MEETING_SECONDS_PER_RANK = 0.2  # all import from one file system
_CHECK_SECONDS = 30.0  # some have several times that
_GROUP_TIMEOUT_MINUTES = 5.0  # never reached: the deadline of the check ends all before, and says why


def preflight(loaded: LoadedConfig, who: ClusterInfo, floors: Floors) -> int:
    """Run all checks on all ranks; return 0, or 2 where something is wrong."""
    started = time.monotonic()
    gpu = _own_gpu(who) if takes_gpu(loaded.config) else None  # before this process is seen on it
    tell_lost = partial(tell_lost_nodes, loaded.config.run_folder, who)
    meeting = Meeting(who, _MEETING_SECONDS + _MEETING_SECONDS_PER_RANK * who.num_ranks, tell_lost)
    with process_group(who, checking_group(loaded.config), _GROUP_TIMEOUT_MINUTES):
        meeting.over()
        deadline = Deadline(who, _CHECK_SECONDS, tell_lost)
        scene = Scene(loaded, who, Panel(who, deadline), floors, gpu)
        try:
            rows = _run_all(scene)
            from_all_ranks(None)
        except Exception as error:
            deadline.fail(error)
        if who.is_rank_0:
            shutil.rmtree(scene.run_folder / PROBE, ignore_errors=True)
            tell(rows, who, time.monotonic() - started)
            _write_down(_faults(rows), loaded.config.run_folder, who)
        deadline.at("the end")
        from_all_ranks(None)  # the others' exit codes must not end rank 0 while it speaks
        deadline.close()
    return UserError.exit_code if _faults(rows) else 0


def _write_down(faults: Sequence[Fault], run_folder: str, who: ClusterInfo) -> None:
    """Tell the batch script: bad nodes, and whether the job can go on without them or a person must act."""
    if not faults or not Path(run_folder).is_dir():
        return
    for fault in faults:
        if fault.node:
            blame_node(run_folder, who, fault.node, str(fault.error), certain=True)
    of_nobody = [fault for fault in faults if not fault.node]
    code = of_nobody[0].error.exit_code if of_nobody else LostRankError.exit_code
    tell_verdict(run_folder, who, code, str((of_nobody or faults)[0].error))


def _own_gpu(who: ClusterInfo) -> GpuState | UserError:
    try:
        return read_gpu(who.rank_of_node)
    except UserError as error:
        return error


def _run_all(scene: Scene) -> list[Row]:
    rows = []
    for check in CHECKS:
        rows.append(_run(check, scene))
        if check is devices and rows[-1].faults:
            break
    return rows


def _run(check: Callable[[Scene], Row], scene: Scene) -> Row:
    """Run one check; what is wrong on all ranks alike is its fault, like any other."""
    try:
        return check(scene)
    except UserError as error:
        return Row(check.__name__.replace("_", " "), "", faults=(Fault(error),))


def tell(rows: Sequence[Row], who: ClusterInfo, seconds: float) -> None:
    """Print the table and the faults."""
    lines = [("check", "verdict", "value (worst node)", "needed")]
    lines += [(row.check, row.verdict, row.value or row.skipped, row.needed) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:  # not a drawn table: in a log it would be cut to 80 columns, and grep finds nothing in it
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    faults = _faults(rows)
    sys.stdout.flush()
    for fault in faults:
        print(f"{fault.error.label} {fault.error}", file=sys.stderr, flush=True)
    found = f"{len(faults)} faults" if faults else "nothing is wrong"
    say(f"preflight of {who.num_ranks} ranks on {who.num_nodes} nodes: {found}, {seconds:.0f} s")


def _faults(rows: Sequence[Row]) -> list[Fault]:
    return [fault for row in rows for fault in row.faults]
