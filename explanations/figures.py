"""Contributions and attention as a figure: PNG, SVG, PDF, or one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explanations.sentences import FAMILIES
from support.errors import UserError

FOR, AGAINST = "#0072B2", "#D55E00"  # Okabe and Ito's, told apart with any colour vision
BARS = 12  # interactions in a chart
MOST_FILMS = 20  # charts in a figure
NEWEST = 40  # positions in a map of attention
FORMATS = (".png", ".svg", ".pdf", ".html")


def drawable(path: str | Path) -> Path:
    """The path of a figure. Raises `UserError` for another ending than FORMATS."""
    if Path(path).suffix not in FORMATS:
        raise UserError(f"--plot {path}: give a file that ends in {', '.join(FORMATS)}")
    return Path(path)


def draw(path: Path, reasons: Sequence[dict[str, Any]], maps: Sequence[np.ndarray]) -> None:
    """Write a chart a film, of the first MOST_FILMS, and a map a layer and head.

    reasons: what `RecommendationEngine.explain` says; maps: (H, L, L) attention weights of each layer, over the same
    positions. Raises `UserError` where `drawable` does, or for a file that cannot be written.
    """
    import matplotlib

    path, reasons = drawable(path), reasons[:MOST_FILMS]
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "font.size": 8})
    figure = _figure(reasons, maps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            text = io.StringIO()
            figure.savefig(text, format="svg")
            svg = text.getvalue()
            path.write_text('<!doctype html>\n<meta charset="utf-8">\n<title>Why these films</title>\n'
                            + "".join(f"<p><b>{html.escape(why['title'])}</b>: {html.escape(why['sentence'])}</p>\n"
                                      for why in reasons) + svg[svg.index("<svg"):], encoding="utf-8")
        else:
            figure.savefig(path, dpi=110)
    except OSError as error:
        raise UserError(f"--plot {path} cannot be written: {error.strerror}; choose another place") from error


def _figure(reasons: Sequence[dict[str, Any]], maps: Sequence[np.ndarray]) -> Any:
    from matplotlib.figure import Figure

    heads = max((len(layer) for layer in maps), default=0)
    heights = [0.6 + 0.19 * len(_bars(why)) for why in reasons] + [3.4] * len(maps)
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, why in zip(parts, reasons, strict=False):
        axes, bars = part.subplots(), _bars(why)[::-1]
        axes.barh(range(len(bars)), [value for _, value in bars],
                  color=[FOR if value > 0 else AGAINST for _, value in bars])
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"{why['title']}: change of the log-probability", loc="left", fontsize=9)
        axes.grid(True, axis="x", alpha=0.3)
    for number, (part, layer) in enumerate(zip(parts[len(reasons):], maps, strict=True), start=1):
        for head, (axes, weights) in enumerate(zip(part.subplots(1, heads, squeeze=False)[0], layer, strict=False), 1):
            shown = weights[-NEWEST:, -NEWEST:]
            axes.imshow(shown, cmap="cividis", vmin=0, extent=(-len(shown), 0, 0, -len(shown)))
            axes.set_title(f"attention, layer {number}, head {head}", fontsize=9)
            axes.set_xlabel("attended position, newest on the right")
            axes.set_ylabel("asking position")
    return figure


def _bars(why: dict[str, Any]) -> list[tuple[str, float]]:
    """The largest contributions of the history by size, then those of the families."""
    films = sorted(((entry["title"], entry["effect"]) for entry in why["history"]), key=lambda pair: -abs(pair[1]))
    return films[:BARS] + [(FAMILIES[name], effect) for name, effect in why["features"].items()]
