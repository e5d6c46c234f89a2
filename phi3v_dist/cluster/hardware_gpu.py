"""The health of this rank's GPU, as ``nvidia-smi -q -x`` tells it.

Enters: which of the node's GPUs. Leaves: a ``GpuState``, and what is wrong with it. The XML is asked for, not the
columns of --query-gpu, because an older driver ends with an error at a column that it doesn't know, while an element
that it lacks is just not there; and not NVML through Python, which reads the same and would be one more dependency.
It is asked before this process uses the GPU, so that every process found there is somebody else's.
"""

import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi3v_dist.errors import HardwareError

_ANSWER_SECONDS = 20.0
_MOST_USED_BYTES = 1 << 30  # a driver keeps some hundred MB for itself
_MIB = 1 << 20
# Those that no healthy node shows: the power cap is met in any heavy use, idle and application clocks are no fault.
_SLOWDOWNS = {
    "hw_thermal_slowdown": "too hot (hardware)",
    "sw_thermal_slowdown": "too hot (driver)",
    "hw_power_brake_slowdown": "power brake: the supply can't give enough",
    "hw_slowdown": "hardware slowdown",
}
# nvidia-smi's XML of drivers 470 to 580: element → its path under <gpu>, older names after newer ones
_REASONS = ("clocks_event_reasons/clocks_event_reason_", "clocks_throttle_reasons/clocks_throttle_reason_")


@dataclass(frozen=True)
class GpuState:
    """``uncorrected_errors``: memory errors since the GPU's last reset. ``slowdowns``: reasons of low clocks now."""

    name: str
    driver: str
    used_bytes: int
    uncorrected_errors: int
    remap_pending: bool
    remap_failed: bool
    slowdowns: tuple[str, ...]
    processes: tuple[str, ...]  # "pid 4242 (python, 1024 MiB)"


def read_gpu(rank_of_node: int, environment: Mapping[str, str] | None = None) -> GpuState:
    """Ask nvidia-smi about the GPU that this rank of the node will take. Raises ``HardwareError``."""
    env = os.environ if environment is None else environment
    visible = [name.strip() for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    gpu = visible[rank_of_node] if rank_of_node < len(visible) else str(rank_of_node)
    mend = "Try it by hand on this node; nvidia-smi that doesn't answer is a broken driver or GPU."
    try:
        command = ["nvidia-smi", "-q", "-x", "-i", gpu]
        told = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True)
        return parse_gpu(told.stdout)
    except FileNotFoundError:
        raise HardwareError("there is no nvidia-smi here", where="nvidia-smi", mend=mend) from None
    except subprocess.TimeoutExpired:
        raise HardwareError(f"no answer in {_ANSWER_SECONDS:.0f} s", where=" ".join(command), mend=mend) from None
    except subprocess.CalledProcessError as error:
        said = (error.stdout.strip() or error.stderr.strip()).splitlines()[:1]
        raise HardwareError("it ended with an error", where=" ".join(command), value=said, mend=mend) from None
    except (ET.ParseError, AttributeError, ValueError, IndexError) as error:
        raise HardwareError(f"its XML can't be read: {error!r}", where=" ".join(command), mend=mend) from None


def parse_gpu(xml: str) -> GpuState:
    """Read the first GPU of nvidia-smi's XML."""
    root = ET.fromstring(xml)
    gpu = root.find("gpu")
    if gpu is None:
        raise ValueError("no <gpu> in it")
    errors = [element for element in gpu.findall("ecc_errors/volatile/*") if "uncorrectable" in element.tag]
    pending = ("remapped_rows/remapped_row_pending", "retired_pages/pending_retirement")
    return GpuState(
        name=gpu.findtext("product_name", "GPU"),
        driver=root.findtext("driver_version", ""),
        used_bytes=_number(gpu.findtext("fb_memory_usage/used")) * _MIB,
        uncorrected_errors=sum(_number(element.text) for element in errors),
        remap_pending=any(gpu.findtext(path) == "Yes" for path in pending),
        remap_failed=gpu.findtext("remapped_rows/remapped_row_failure") == "Yes",
        slowdowns=_slowdowns(gpu),
        processes=tuple(_process(element) for element in gpu.findall("processes/process_info") if _computes(element)),
    )


def gpu_faults(state: GpuState) -> list[str]:
    """What is wrong, in words; empty for a healthy GPU that nobody uses."""
    found = []
    if state.uncorrected_errors:
        found.append(f"{state.uncorrected_errors} uncorrected memory errors since its last reset")
    if state.remap_pending:
        found.append("a broken memory row waits for a reset of the GPU to be replaced")
    if state.remap_failed:
        found.append("a broken memory row can't be replaced: the GPU must be exchanged")
    found += [f"slowed down: {reason}" for reason in state.slowdowns]
    if state.processes:
        found.append(f"used by other processes: {', '.join(state.processes)}")
    elif state.used_bytes > _MOST_USED_BYTES:
        found.append(f"{state.used_bytes / _MIB:.0f} MiB of its memory are in use")
    return found


def _slowdowns(gpu: ET.Element) -> tuple[str, ...]:
    active = [name for name in _SLOWDOWNS if any(gpu.findtext(path + name) == "Active" for path in _REASONS)]
    if len(active) > 1 and "hw_slowdown" in active:
        active.remove("hw_slowdown")  # the general word for what another one has said already
    return tuple(_SLOWDOWNS[name] for name in active)


def _computes(process: ET.Element) -> bool:
    return "C" in (process.findtext("type") or "")


def _process(process: ET.Element) -> str:
    told: dict[str, Any] = {name: process.findtext(name) or "?" for name in ("pid", "process_name", "used_memory")}
    return f"pid {told['pid']} ({told['process_name']}, {told['used_memory']})"


def _number(text: str | None) -> int:
    """``"984 MiB"`` → 984; ``"N/A"``, or an element that isn't there, → 0."""
    first = (text or "").split()[:1]
    return int(first[0]) if first and first[0].isdigit() else 0
