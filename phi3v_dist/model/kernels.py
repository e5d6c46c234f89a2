"""Choosing one of several kernels that compute the same: the first that runs here, with the reason.

Enters: candidates by name, best first, each with a function that says why it can't run here. Leaves: a name and one
line for the log. A foreign package isn't judged by its version: it is imported and tried on a few tokens, values and
gradients are compared with plain PyTorch's, and whatever goes wrong (no package, another signature, a GPU too old, a
head size left out of the build) is the reason why it isn't taken.
"""

from collections.abc import Callable, Mapping

import torch

from phi3v_dist.errors import HardwareError

WhyNot = Callable[[], str | None]
_LARGEST_DIFFERENCE = 0.03  # of the largest entry; bf16 keeps 8 bits, a wrong mask or scale is off by far more


def choose(option: str, wanted: str, candidates: Mapping[str, WhyNot]) -> tuple[str, str]:
    """Return (name, reason). ``auto`` takes the first candidate that runs here; ``option``: the recipe's key.

    Raises ``HardwareError`` when the one asked for can't run here.
    """
    if wanted == "auto":
        return _first(candidates)
    refusal = candidates[wanted]()
    if refusal is not None:
        raise HardwareError(
            f"this kernel can't run here: {refusal}", where=option, value=wanted, mend=f"Set {option}=auto."
        )
    return wanted, f"asked for by {option}"


def _first(candidates: Mapping[str, WhyNot]) -> tuple[str, str]:
    refused = []
    for name, why_not in candidates.items():
        refusal = why_not()
        if refusal is None:
            return name, f"first that runs here; {'; '.join(refused)}" if refused else "first choice, and it runs here"
        refused.append(f"{name}: {refusal}")
    raise AssertionError("the last candidate must run everywhere")


Results = Callable[[], tuple[torch.Tensor, ...]]


def trial(found: Results, expected: Results) -> str | None:
    """Return None when both give the same tensors but for rounding, else why not."""
    try:
        pairs = list(zip(found(), expected(), strict=True))
        worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    except Exception as error:  # whatever a foreign package raises, another kernel can be taken
        told = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__} {told[0]}".strip()
    if not worst <= _LARGEST_DIFFERENCE:
        return f"its values are off by {worst:.1%} of the largest"
    return None
