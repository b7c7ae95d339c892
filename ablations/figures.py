"""The figures of a study's page, as SVG and PNG: legible in print, and without colour by their marks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ablations.report import Line

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, DASHES = "os^Dv<>P", ("-", "--", "-.", ":")
CURVES = 6  # variants in one plot of curves
NAME_WIDTH = 36  # of names beside gains, in characters
Curves = Mapping[tuple[str, int], list[dict[str, float]]]


def draw(lines: Sequence[Line], alike: Sequence[Line], curves: Curves, metric: str,
         place: Path) -> dict[str, tuple[Path, str]]:
    """Title -> (SVG, what it shows) of each figure that there is something to draw for.

    alike: those of the lines whose figures may stand on one scale, what the others are compared with first.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9})
    drawn = {}
    compared = [line for line in lines if line.comparison is not None]
    if compared:
        drawn["Gains"] = _save(_forest(compared, metric), place / "gains"), (
            f"Difference in {metric} of each variant: points and 95 % intervals on the test items, filled where "
            f"p < .05 after correction; | on validation.")
        drawn["What a gain costs"] = _save(_costs(alike, metric), place / "costs"), (
            f"{metric} on the test items against what a run costs: the star is the first variant, the stepped line "
            f"joins those that nothing cheaper reaches"
            + ("." if len({line.told_time for line in alike}) == 1 else
               "; the hollow ones are told when the recommendation is asked for and are left out of it."))
    if any(curves.values()):
        shown = _telling(lines)
        drawn["Learning curves"] = _save(_curves(shown, curves, metric), place / "curves"), (
            f"{metric} on validation and each task's training loss by step, mean of the seeds that were still training"
            + (f"; {len(shown)} of {len(lines)} variants: what others are compared with, the best and the worst on "
               f"validation." if len(shown) < len(
                lines) else "."))
    return drawn


def _telling(lines: Sequence[Line]) -> list[Line]:
    """CURVES of the lines, in their order: what others are compared with, then the best and the worst in turns."""
    against = {line.variant.against for line in lines}
    ranked = sorted((line for line in lines if line.variant.name not in against),
                    key=lambda line: -line.validation.mean())
    turns = [line for pair in zip(ranked, ranked[::-1], strict=True) for line in pair]
    wanted = [line.variant.name for line in (*(line for line in lines if line.variant.name in against), *turns)]
    chosen = list(dict.fromkeys(wanted))[:CURVES]
    return [line for line in lines if line.variant.name in chosen]


def _forest(lines: Sequence[Line], metric: str) -> Any:
    """Test difference of each variant with its interval; filled where it is significant; validation beside it."""
    from matplotlib import pyplot

    names = ["\n".join(textwrap.wrap(line.named, NAME_WIDTH)) for line in reversed(lines)]
    ends = np.cumsum([0.14 + 0.14 * (1 + name.count("\n")) for name in names])  # of the rows, in inches
    places = (ends + np.append(0, ends[:-1])) / 2
    figure, axes = pyplot.subplots(figsize=(8, 1 + ends[-1]), layout="constrained")
    for place, line in zip(places, reversed(lines), strict=True):
        test = line.comparison
        axes.plot([test.low, test.high], [place, place], "-", color=COLOURS[0])
        axes.plot(test.difference, place, "o", color=COLOURS[0],
                  markerfacecolor=COLOURS[0] if line.p_value < 0.05 else "white")
        axes.plot(line.gain, place, "|", color=COLOURS[1], markersize=10, markeredgewidth=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, names)
    axes.set_ylim(0, ends[-1])
    axes.set_xlabel(f"difference in {metric}: o test, 95 % interval\n(filled: p < .05, Holm), | validation")
    axes.grid(True, axis="x", alpha=0.3)
    return figure


def _costs(lines: Sequence[Line], metric: str) -> Any:
    """The metric on the test items against time, parameters and memory, each with its Pareto front.

    The first variant is a star; who is told the time of the request is hollow and in no front.
    """
    from matplotlib import pyplot, ticker
    from matplotlib.lines import Line2D

    costs = {"processor minutes": "all_minutes", "thousand parameters": "thousands", "peak memory, MB": "memory"}
    costs = {label: name for label, name in costs.items()
             if np.isfinite([getattr(line, name) for line in lines]).all()}  # older runs lack times
    blind = [line for line in lines if not line.told_time] or lines
    fronts = {name: pareto_front([getattr(line, name) for line in blind], [line.test.mean() for line in blind])
              for name in costs.values()}
    numbered = [line for place, line in enumerate(blind)
                if line is not lines[0] and any(place in front for front in fronts.values())]
    figure, panels = pyplot.subplots(1, len(costs), figsize=(9, 4 + 0.1 * len(numbered)), sharey=True,
                                     layout="constrained")
    for axis, (label, name) in zip(panels, costs.items(), strict=True):
        front = [blind[place] for place in fronts[name]]
        axis.step([getattr(line, name) for line in front], [line.test.mean() for line in front], where="post",
                  color=COLOURS[1], linewidth=1)
        for line in lines:
            point = getattr(line, name), line.test.mean()
            if line is lines[0]:
                axis.plot(*point, "*", markersize=11, color="black", zorder=3)
            else:
                axis.plot(*point, "o", markersize=5, color=COLOURS[0],
                          markerfacecolor=COLOURS[0] if line in blind else "white")
            if line in front and line in numbered:
                axis.annotate(str(1 + numbered.index(line)), point, fontsize=8, xytext=(-4, 4), ha="right",
                              textcoords="offset points")
        axis.set_xlabel(label)
        axis.margins(0.12)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4))
        axis.xaxis.set_major_formatter("{x:,.6g}")
        axis.grid(True, alpha=0.3)
    panels[0].set_ylabel(f"test {metric}, mean of the seeds")
    marks = ["*", *(f"${number + 1}$" for number in range(len(numbered)))]
    figure.legend([Line2D([], [], linestyle="", marker=mark, color="black") for mark in marks],
                  [line.variant.name for line in (lines[0], *numbered)], loc="outside lower center", fontsize=8,
                  ncols=2)
    return figure


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Those that nothing cheaper or as cheap reaches, from the cheapest on: places in the two sequences."""
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda place: (costs[place], -values[place])):
        if not front or values[place] > values[front[-1]]:
            front.append(place)
    return front


def _curves(shown: Sequence[Line], curves: Curves, metric: str) -> Any:
    """Validation metric and each task's training loss by step."""
    from matplotlib import pyplot

    names = sorted({key for (name, _), records in curves.items() if name in [line.variant.name for line in shown]
                    for record in records for key in record if key.startswith("loss_")})
    rows = (len(names) + 2) // 2
    figure, axes = pyplot.subplots(rows, 2, figsize=(8, 2.8 * rows + 0.6), layout="constrained", squeeze=False)
    for axis in axes.flat[1 + len(names):]:
        axis.set_visible(False)
    for axis, key in zip(axes.flat, [metric, *names], strict=False):
        for number, line in enumerate(shown):
            steps, values = mean_curve([records for (name, _), records in curves.items() if name == line.variant.name],
                                       key)
            axis.plot(steps, values, DASHES[number % len(DASHES)], marker=MARKERS[number % len(MARKERS)], markersize=3,
                      color=COLOURS[number % len(COLOURS)], label=line.variant.name)
        axis.set_title(f"validation {metric}" if key == metric else f"training loss, {key.removeprefix('loss_')}")
        axis.set_xlabel("steps")
        axis.grid(True, alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def mean_curve(seeds: Sequence[list[dict[str, float]]], key: str) -> np.ndarray:
    """(2, E) steps and values: means at each epoch over the seeds that were still training and have a value there; a
    task may lack one, and the seeds' epochs differ by some steps. seeds: the records of each."""
    points: dict[int, list[tuple[float, float]]] = {}
    for record in (record for records in seeds for record in records if key in record):
        points.setdefault(record["epoch"], []).append((record["step"], record[key]))
    return np.array([np.mean(points[epoch], axis=0) for epoch in sorted(points)]).reshape(-1, 2).T


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
    return path.with_suffix(".svg")
