"""Curves over the steps of a run as pictures inside a page.

Enters: steps and values. Leaves: SVG drawings as data URIs, for light and for dark pages, so that the page needs
no other file and no script.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

_MOST_POINTS = 1500  # per curve; more are not seen and make the page heavy
_SMOOTHING_SHARE = 0.02  # of the run, for the mean that is drawn over a noisy curve
_LIGHT = {"text": "#57534e", "grid": "#e7e5e4", "curves": ("#2563eb", "#c2410c")}
_DARK = {"text": "#a8a29e", "grid": "#3f3b38", "curves": ("#7cabff", "#fb923c")}


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
    light, dark = (_svg(drawn, colours, from_zero, inches) for colours in (_LIGHT, _DARK))
    return Chart(title, light, dark, words)


def _svg(curves: Sequence[Curve], colours: dict, from_zero: bool, inches: tuple[float, float]) -> str:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "phi3v-dist",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        _dress(axes, colours)
        for curve, colour in zip(curves, colours["curves"], strict=False):
            _draw(axes, curve, colour)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=colours["text"])
        content = io.StringIO()
        # No date, so that equal runs give equal pages.
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue().encode()).decode()


def _dress(axes: Axes, colours: dict) -> None:
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=colours["grid"], linewidth=0.8)
    axes.tick_params(colors=colours["text"], length=0)
    axes.set_xlabel("step", color=colours["text"])
    axes.set_axisbelow(True)


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
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
