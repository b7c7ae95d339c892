"""The figure of a study's report, as SVG: legible in print, and without colour by its marks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Of Okabe and Ito, told apart with any colour vision.
TEST, VALIDATION = "#0072B2", "#D55E00"
NAME_WIDTH = 36  # characters
CAPTION = (
    "Difference in {metric} of each variant: points and 95 % intervals on the test items, "
    "filled where p < .05 after correction; | on validation."
)


def draw_gains(lines: Sequence[Any], metric: str, path: Path) -> None:
    """Write the figure that CAPTION describes, of lines of a report that have a comparison."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9}
    )
    from matplotlib import pyplot

    lines = lines[::-1]  # the first one on top
    names = ["\n".join(textwrap.wrap(line.title, NAME_WIDTH)) for line in lines]
    heights = [0.28 + 0.14 * name.count("\n") for name in names]  # inches
    ends = np.cumsum(heights)
    places = ends - np.array(heights) / 2
    figure, axes = pyplot.subplots(figsize=(8, 1 + ends[-1]), layout="constrained")
    for place, line in zip(places, lines, strict=True):
        test = line.comparison
        filled = TEST if line.p_value < 0.05 else "white"
        axes.plot([test.low, test.high], [place, place], "-", color=TEST)
        axes.plot(test.difference, place, "o", color=TEST, markerfacecolor=filled)
        axes.plot(
            line.gain, place, "|", color=VALIDATION, markersize=10, markeredgewidth=2
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, names)
    axes.set_ylim(0, ends[-1])
    axes.set_xlabel(f"difference in {metric}")
    axes.grid(True, axis="x", alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
