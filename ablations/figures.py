"""The figures of a study's page, as SVG: legible in print, and without colour by their marks."""

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
COSTS = {
    "processor minutes": "minutes",
    "parameters": "parameters",
    "peak memory, MB": "memory",
}
Curves = Mapping[tuple[str, int], list[dict[str, Any]]]


def draw(
    lines: Sequence[Line],
    alike: Sequence[Line],
    curves: Curves,
    metric: str,
    place: Path,
) -> dict[str, tuple[Path, str]]:
    """Title -> (SVG, what it shows) of each figure that there is something to draw for.

    alike: those of the lines whose figures may stand on one scale, what the others are compared
    with first.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9}
    )
    drawn = {}
    compared = [line for line in lines if line.comparison is not None]
    if compared:
        drawn["Gains"] = (
            _save(_forest(compared, metric), place / "gains.svg"),
            (
                f"Difference in {metric} of each variant: points and 95 % intervals on the test items, filled where p < .05 "
                f"after correction; | on validation."
            ),
        )
        drawn["What a gain costs"] = (
            _save(_costs(alike, metric), place / "costs.svg"),
            (
                f"{metric} on the test items against what a run costs: the star is the first variant, the stepped line "
                f"joins those that nothing cheaper reaches; hollow ones are told when the recommendation is asked for and "
                f"are left out of it."
            ),
        )
    if any(curves.values()):
        shown = _shown(lines)
        drawn["Learning curves"] = (
            _save(_curves(shown, curves, metric), place / "curves.svg"),
            (
                f"{metric} on validation and each task's training loss by step, mean of the seeds that were still training; "
                f"{len(shown)} of {len(lines)} variants."
            ),
        )
    return drawn


def _shown(lines: Sequence[Line]) -> list[Line]:
    """CURVES of the lines, in their order: what others are compared with, then the best and the
    worst in turns.
    """
    against = {line.variant.against for line in lines}
    references = [line for line in lines if line.variant.name in against]
    ranked = sorted(
        (line for line in lines if line not in references),
        key=lambda line: -line.validation.mean(),
    )
    wanted = [*references]
    while ranked and len(wanted) < CURVES:
        wanted.append(ranked.pop(0 if len(wanted) % 2 else -1))
    return [line for line in lines if line in wanted[:CURVES]]


def _forest(lines: Sequence[Line], metric: str) -> Any:
    """Test difference of each variant with its interval; filled where it is significant;
    validation beside it.
    """
    from matplotlib import pyplot

    names = [
        "\n".join(textwrap.wrap(line.title, NAME_WIDTH)) for line in reversed(lines)
    ]
    # of the rows, in inches
    ends = np.cumsum([0.14 + 0.14 * (1 + name.count("\n")) for name in names])
    places = (ends + np.append(0, ends[:-1])) / 2
    figure, axes = pyplot.subplots(figsize=(8, 1 + ends[-1]), layout="constrained")
    for place, line in zip(places, reversed(lines), strict=True):
        test = line.comparison
        axes.plot([test.low, test.high], [place, place], "-", color=COLOURS[0])
        filled = COLOURS[0] if line.p_value < 0.05 else "white"
        axes.plot(test.difference, place, "o", color=COLOURS[0], markerfacecolor=filled)
        axes.plot(
            line.gain, place, "|", color=COLOURS[1], markersize=10, markeredgewidth=2
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, names)
    axes.set_ylim(0, ends[-1])
    axes.set_xlabel(
        f"difference in {metric}: o test, 95 % interval\n(filled: p < .05, Holm), | validation"
    )
    axes.grid(True, axis="x", alpha=0.3)
    return figure


def _costs(lines: Sequence[Line], metric: str) -> Any:
    """The metric on the test items against time, parameters and memory, each with its Pareto
    front.
    """
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(COSTS), figsize=(9, 4), sharey=True, layout="constrained"
    )
    blind = [line for line in lines if not line.knows_time] or list(lines)
    for axis, (label, name) in zip(panels, COSTS.items(), strict=True):
        front = pareto_front(
            [getattr(line, name) for line in blind],
            [line.test.mean() for line in blind],
        )
        axis.step(
            [getattr(blind[place], name) for place in front],
            [blind[place].test.mean() for place in front],
            where="post",
            color=COLOURS[1],
            linewidth=1,
        )
        for line in lines:
            point = getattr(line, name), line.test.mean()
            filled = COLOURS[0] if line in blind else "white"
            marker = "*" if line is lines[0] else "o"
            axis.plot(*point, marker, color=COLOURS[0], markerfacecolor=filled)
        for place in front:
            point = getattr(blind[place], name), blind[place].test.mean()
            axis.annotate(blind[place].variant.name[:NAME_WIDTH], point, fontsize=7)
        axis.set_xlabel(label)
        axis.grid(True, alpha=0.3)
    panels[0].set_ylabel(f"test {metric}, mean of the seeds")
    return figure


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Those that nothing cheaper or as cheap reaches, from the cheapest on: places in the two
    sequences.
    """
    front: list[int] = []
    for place in sorted(
        range(len(costs)), key=lambda place: (costs[place], -values[place])
    ):
        if not front or values[place] > values[front[-1]]:
            front.append(place)
    return front


def _curves(shown: Sequence[Line], curves: Curves, metric: str) -> Any:
    """Validation metric and each task's training loss against steps."""
    from matplotlib import pyplot

    records = [record for seeds in curves.values() for record in seeds]
    losses = sorted(
        {name for record in records for name in record if name.startswith("loss_")}
    )
    keys = [metric, *losses]
    rows = -(-len(keys) // 2)
    figure, axes = pyplot.subplots(
        rows, 2, figsize=(9, 3 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    for axis, key in zip(axes.flat, keys, strict=False):
        for number, line in enumerate(shown):
            seeds = [
                found
                for (name, _), found in curves.items()
                if name == line.variant.name
            ]
            steps, values = mean_curve(seeds, key)
            axis.plot(
                steps,
                values,
                DASHES[number % len(DASHES)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=3,
                color=COLOURS[number % len(COLOURS)],
                label=line.variant.name,
            )
        axis.set_title(
            f"validation {metric}"
            if key == metric
            else f"training loss, {key.removeprefix('loss_')}"
        )
        axis.set_xlabel("steps")
        axis.grid(True, alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def mean_curve(seeds: Sequence[list[dict[str, Any]]], key: str) -> np.ndarray:
    """(2, E) steps and values: means at each epoch over the seeds that were still training and
    have a value there.
    """
    points: dict[int, list[tuple[float, float]]] = {}
    for records in seeds:
        for record in records:
            if key in record:
                points.setdefault(record["epoch"], []).append(
                    (record["step"], record[key])
                )
    means = [np.mean(points[epoch], axis=0) for epoch in sorted(points)]
    return np.array(means).reshape(-1, 2).T


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
