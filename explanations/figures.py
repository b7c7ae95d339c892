"""Contributions and attention as a figure: PNG, SVG, PDF, or one HTML file that needs nothing
beside it.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from answers import Explanation
from support.errors import UserError

# Okabe and Ito's, told apart with any colour vision
FOR, AGAINST = "#0072B2", "#D55E00"
BARS = 12  # interactions in a chart
MOST_ITEMS = 20  # charts in a figure
NEWEST = 40  # positions in a map of attention
FORMATS = (".png", ".svg", ".pdf", ".html")


def drawable(path: str | Path) -> Path:
    """The path of a figure. Raises `UserError` for another ending than FORMATS."""
    if Path(path).suffix not in FORMATS:
        raise UserError(f"--plot {path}: give a file that ends in {', '.join(FORMATS)}")
    return Path(path)


def draw(
    path: Path, reasons: Sequence[Explanation], maps: Sequence[np.ndarray]
) -> None:
    """Write a chart an item, of the first MOST_ITEMS, and a map a layer and head.

    maps: (H, L, L) attention weights of each layer, over the same positions. Raises `UserError`
    where `drawable` does, or for a file that cannot be written.
    """
    import matplotlib

    path, reasons = drawable(path), reasons[:MOST_ITEMS]
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "font.size": 8})
    figure = _figure(reasons, maps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            path.write_text(_page(figure, reasons), encoding="utf-8")
        else:
            figure.savefig(path, dpi=110)
    except OSError as error:
        raise UserError(
            f"--plot {path} cannot be written: {error.strerror}; choose another place"
        ) from error


def _page(figure: Any, reasons: Sequence[Explanation]) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    svg = text.getvalue()
    lines = [
        f"<p><b>{html.escape(why.name)}</b>: {html.escape(why.sentence)}</p>\n"
        for why in reasons
    ]
    head = '<!doctype html>\n<meta charset="utf-8">\n<title>Why these</title>\n'
    return head + "".join(lines) + svg[svg.index("<svg") :]


def _figure(reasons: Sequence[Explanation], maps: Sequence[np.ndarray]) -> Any:
    from matplotlib.figure import Figure

    charts = [_bars(why) for why in reasons]
    heights = [0.6 + 0.19 * len(bars) for bars in charts] + [3.4] * len(maps)
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[
        :, 0
    ]
    for part, why, bars in zip(parts, reasons, charts, strict=False):
        _chart(
            part.subplots(), f"{why.name}: change of the log-probability", bars[::-1]
        )
    heads = max((len(layer) for layer in maps), default=0)
    for number, (part, layer) in enumerate(
        zip(parts[len(reasons) :], maps, strict=True), start=1
    ):
        row = part.subplots(1, heads, squeeze=False)[0]
        for head, (axes, weights) in enumerate(zip(row, layer, strict=False), start=1):
            _map(
                axes,
                f"attention, layer {number}, head {head}",
                weights[-NEWEST:, -NEWEST:],
            )
    return figure


def _chart(axes: Any, title: str, bars: list[tuple[str, float]]) -> None:
    values = [value for _, value in bars]
    colours = [FOR if value > 0 else AGAINST for value in values]
    axes.barh(range(len(bars)), values, color=colours)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title(title, loc="left", fontsize=9)
    axes.grid(True, axis="x", alpha=0.3)


def _map(axes: Any, title: str, weights: np.ndarray) -> None:
    count = len(weights)
    axes.imshow(weights, cmap="cividis", vmin=0, extent=(-count, 0, 0, -count))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("attended position, newest on the right")
    axes.set_ylabel("asking position")


def _bars(why: Explanation) -> list[tuple[str, float]]:
    """The largest contributions of the history by size, then those of the families."""
    items = sorted(
        ((entry.name, entry.effect) for entry in why.history),
        key=lambda pair: -abs(pair[1]),
    )
    return items[:BARS] + [(feature.label, feature.effect) for feature in why.features]
