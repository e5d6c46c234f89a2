"""A picture of what an epoch will be: how full packs of each length would get, and the length that was chosen.

Enters: a ``Forecast``. Leaves: one PNG file.
"""

from pathlib import Path

from matplotlib.figure import Figure

from phi3v_dist.files import atomic_path
from phi3v_dist.packing.forecast import Forecast


def write_plan_picture(told: Forecast, path: Path) -> None:
    """Draw the fill by pack length beside the bound of the chosen one. Raises ``OSError`` where it can't be written."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    lengths, fills = zip(*sorted(told.fill_by_pack_tokens.items()), strict=True)
    axes.plot(
        lengths, [100 * fill for fill in fills], marker="o", markersize=3, color="#2563eb", label="packs of this length"
    )
    axes.plot([told.pack_tokens], [100 * told.fill], "o", color="#c2410c", label=f"this plan, {told.fill:.1%}")
    axes.plot(
        [told.pack_tokens], [100 * told.bound], "_", markersize=16, color="black", label=f"bound, {told.bound:.1%}"
    )
    axes.set_xlabel("packing.pack_tokens")
    axes.set_ylabel("fill (%)")
    axes.grid(color="#e7e5e4")
    axes.legend(loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
