"""The figures of a study's page, as SVG and PNG: legible in print, and without colour by their marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ablations.report import Line

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, DASHES = "os^Dv<>", ("-", "--", "-.", ":")
CURVES = 6  # variants in one plot of curves
Curves = Mapping[tuple[str, int], list[dict[str, float]]]


def draw(lines: Sequence[Line], curves: Curves, metric: str, place: Path) -> dict[str, Path]:
    """Title -> SVG of each figure that there is something to draw for."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9})
    drawn = {}
    compared = [line for line in lines if line.comparison is not None]
    if compared:
        drawn["Gains"] = _save(_forest(compared, metric), place / "gains")
        main = [line for line in compared if line.main]
        drawn["What a gain costs"] = _save(_costs(main or compared, lines, metric), place / "costs")
    if any(curves.values()):
        drawn["Learning curves"] = _save(_curves(lines, curves, metric), place / "curves")
    return drawn


def _forest(lines: Sequence[Line], metric: str) -> Any:
    """Test difference of each variant with its interval; filled where it is significant; validation beside it."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.28 * len(lines)), layout="constrained")
    for place, line in enumerate(reversed(lines)):
        test = line.comparison
        axes.plot([test.low, test.high], [place, place], "-", color=COLOURS[0])
        axes.plot(test.difference, place, "o", color=COLOURS[0],
                  markerfacecolor=COLOURS[0] if line.p_value < 0.05 else "white")
        axes.plot(line.gain, place, "|", color=COLOURS[1], markersize=10, markeredgewidth=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line.named for line in reversed(lines)])
    axes.set_xlabel(f"difference in {metric}: test, 95 % interval (filled: p < .05, Holm)\n| on validation")
    axes.grid(True, axis="x", alpha=0.3)
    return figure


def _costs(compared: Sequence[Line], lines: Sequence[Line], metric: str) -> Any:
    """Gain on the test items against time, parameters and memory, of what is compared with the first variant (a star
    at 0)."""
    from matplotlib import pyplot

    costs = {"seconds an epoch": "seconds", "parameters": "parameters", "peak memory, MB": "memory"}
    figure, axes = pyplot.subplots(1, len(costs), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, (label, name) in zip(axes, costs.items(), strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        for line in lines:
            if not line.variant.against:
                axis.plot(getattr(line, name), 0, "*", color="black", markersize=11)
        for number, line in enumerate(compared):
            axis.plot(getattr(line, name), line.comparison.difference, MARKERS[number % len(MARKERS)],
                      color=COLOURS[number % len(COLOURS)])
            axis.annotate(line.named, (getattr(line, name), line.comparison.difference), fontsize=6,
                          xytext=(3, 3), textcoords="offset points")
        axis.set_xlabel(label)
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel(f"test difference in {metric}")
    return figure


def _curves(lines: Sequence[Line], curves: Curves, metric: str) -> Any:
    """Validation metric and each task's training loss by step: the first variant, the best and the worst ones."""
    from matplotlib import pyplot

    shown = list(lines) if len(lines) <= CURVES else [*lines[:CURVES // 2 + 1], *lines[-(CURVES // 2 - 1):]]
    names = sorted({key for records in curves.values() for record in records for key in record
                    if key.startswith("loss_")})
    figure, axes = pyplot.subplots(1, 1 + len(names), figsize=(3.2 * (1 + len(names)), 3.4), layout="constrained",
                                   squeeze=False)
    for axis, key in zip(axes[0], [metric, *names], strict=True):
        for number, line in enumerate(shown):
            points: dict[int, list[float]] = {}  # step -> the seeds' values; a task may lack one between evaluations
            for (name, _), records in curves.items():
                for record in records if name == line.variant.name else ():
                    if key in record:
                        points.setdefault(record["step"], []).append(record[key])
            axis.plot(sorted(points), [np.mean(points[step]) for step in sorted(points)], DASHES[number % len(DASHES)],
                      marker=MARKERS[number % len(MARKERS)], markersize=3, color=COLOURS[number % len(COLOURS)],
                      label=line.variant.name)
        axis.set_title(f"validation {metric}" if key == metric else f"training loss, {key.removeprefix('loss_')}")
        axis.set_xlabel("steps")
        axis.grid(True, alpha=0.3)
    axes[0, 0].legend(fontsize=6)
    return figure


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
    return path.with_suffix(".svg")
