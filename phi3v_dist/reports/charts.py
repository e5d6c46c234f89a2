"""Curves over the steps of a run, and histograms, as pictures inside a page.

Enters: steps and values, or a counted histogram. Leaves: SVG drawings as data URIs, for light and for dark pages, so
that the page needs no other file and no script.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from phi3v_dist.shards.statistics import Histogram

_MOST_POINTS = 1500  # per curve; more are not seen and make the page heavy
_SMOOTHING_SHARE = 0.02  # of the run, for the mean that is drawn over a noisy curve
_FEWEST_PLACES = 4  # for named bars
_SIGNS_PER_INCH = 15  # names that need more stand upright
_LIGHT = {"text": "#57534e", "grid": "#e7e5e4", "first": "#2563eb", "second": "#c2410c"}
_DARK = {"text": "#a8a29e", "grid": "#3f3b38", "first": "#7cabff", "second": "#fb923c"}


@dataclass(frozen=True)
class Curve:
    """One curve: ``steps`` [n] and ``values`` [n]. ``noisy``: drawn faint, its running mean over it."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    noisy: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing in both colour schemes as data URIs, with its heading and what it says in words."""

    title: str
    light: str
    dark: str
    words: str


def draw_chart(title: str, curves: Sequence[Curve], *, from_zero: bool = False, inches: tuple[float, float]) -> Chart:
    """Draw curves over steps. ``from_zero``: the scale begins at 0, for values whose size matters more than change."""
    drawn = [curve for curve in curves if len(curve.steps)]
    words = "; ".join(
        f"{curve.name} from {curve.values[0]:.4g} at step {curve.steps[0]} to {curve.values[-1]:.4g} at step "
        f"{curve.steps[-1]}"
        for curve in drawn
    )

    def draw(axes: Axes) -> None:
        for curve, colour in zip(drawn, (_LIGHT["first"], _LIGHT["second"]), strict=False):
            _draw_curve(axes, curve, colour)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(drawn) > 1:
            axes.legend(frameon=False, labelcolor=_LIGHT["text"])

    return Chart(title, *_in_both_schemes(draw, "step", inches), words)


def draw_histogram(title: str, told: Histogram, unit: str, *, inches: tuple[float, float]) -> Chart:
    """Draw how many there are of each value: a bar with its name where bars are values, else over a scale."""
    words = "; ".join(
        f"{name}: {count:,}" for name, count in zip(told.names, told.counts.tolist(), strict=True) if count
    )

    def draw(axes: Axes) -> None:
        colour = _LIGHT["first"]
        if told.own:
            bars = axes.bar(range(len(told.counts)), told.counts, width=0.7, color=colour)
            crowded = sum(len(name) + 2 for name in told.names) > _SIGNS_PER_INCH * inches[0]
            axes.set_xticks(range(len(told.counts)), told.names, rotation=90 if crowded else 0)
            axes.set_xlim(-0.6, max(len(told.names), _FEWEST_PLACES) - 0.4)  # one bar alone isn't a wall
        else:
            gap = 0.94
            bars = axes.bar(told.edges[:-1], told.counts, np.diff(told.edges) * gap, align="edge", color=colour)
            if told.log:
                axes.set_xscale("log")
                few = told.edges[-1] < told.edges[0] * 10 ** (inches[0] / 2)  # decades, with room for three names each
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=16))
                axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))
        for place, bar in enumerate(bars):
            bar.set_gid(f"bar-{place}")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))

    return Chart(title, *_in_both_schemes(draw, unit, inches), words)


def _plain_number(value: float, _place: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"


def _in_both_schemes(draw: Callable[[Axes], None], x_label: str, inches: tuple[float, float]) -> tuple[str, str]:
    """A drawing in the light colours, and the same with each replaced by its dark one: drawing twice costs double."""
    light = dark = _svg(draw, x_label, inches)
    for name, colour in _LIGHT.items():
        dark = dark.replace(colour, _DARK[name])
    return _data_uri(light), _data_uri(dark)


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _svg(draw: Callable[[Axes], None], x_label: str, inches: tuple[float, float]) -> str:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "phi3v-dist",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        _dress(axes, x_label)
        draw(axes)
        content = io.StringIO()
        # No date, so that equal runs give equal pages.
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()


def _dress(axes: Axes, x_label: str) -> None:
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=_LIGHT["grid"], linewidth=0.8)
    axes.tick_params(colors=_LIGHT["text"], length=0)
    axes.set_xlabel(x_label, color=_LIGHT["text"], parse_math=False)  # a currency may be $
    axes.set_axisbelow(True)


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    steps, values = np.asarray(curve.steps), np.asarray(curve.values, dtype=float)
    if not curve.noisy:
        marker = "o" if len(steps) <= 50 else ""
        axes.plot(*_thin(steps, values), color=colour, linewidth=1.8, marker=marker, markersize=4, label=curve.name)
        return
    axes.plot(*_thin(steps, values), color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(*_thin(steps, _running_mean(values)), color=colour, linewidth=1.8, label=curve.name)


def _thin(steps: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    stride = -(-len(steps) // _MOST_POINTS)
    return steps[::stride], values[::stride]


def _running_mean(values: NDArray) -> NDArray:
    """Mean over the steps around each, of fewer at both ends; [n]. Centred, so that a falling curve doesn't lag."""
    half = round(len(values) * _SMOOTHING_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    starts, ends = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[ends] - sums[starts]) / (ends - starts)
