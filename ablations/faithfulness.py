"""Faithfulness of explanations: `python -m ablations.faithfulness --model_path checkpoints/best`

For each user, the item recommended first is explained by every method. The contributions are tested
on the model itself, which leaves out interactions in three ways: removed, masked, or replaced by a
random item.

    deletion           area under the curve of the score while the interactions leave, the most
                       important first; low is good
    insertion          the same while they come back, the most important first; high is good
    comprehensiveness  fall of the score without the most important 1, 5, 10, 20, 50 %; high is
                       good
    sufficiency        fall of the score with nothing but them; low is good (both: DeYoung et al.,
                       arXiv:1911.03429)

The curve is the score (log-probability) minus the score with everything known, over the share of
the history that is left out. Further tables: measures of the recommender literature; the known
reasons of a copy of the model in which only the transition counts rank (both: fidelity.py); the
planted causes of the synthetic data (planted.py).

Axes: P users, W ways to leave out or sizes of an explanation, N methods, M measures.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ablations import fidelity
from ablations.comparison import write_results
from ablations.planted import planted_causes, planted_table
from ablations.questions import drawn_users, question_of
from dataset import Dataset
from evaluation.metrics import interval
from evaluation.significance import compare, holm, mark
from explanations.attribution import DRAWN, METHODS, explain
from explanations.question import Absence, Question
from model_io import load_with_data
from scorer import Scorer
from support.arguments import model_parser, whole
from support.errors import run_command

CURVE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # shares of the history
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
WAYS: tuple[Absence, ...] = ("removed", "masked", "replaced")
# 1 = high is good
MEASURES = {
    "deletion": -1,
    "insertion": 1,
    "comprehensiveness": 1,
    "sufficiency": -1,
}
CONTROLS = ("attention_rollout", "random")
# Of the randomisation test: Holm's correction must leave room for p < .001.
SAMPLES = 100_000
NOTES = {
    "Faithfulness": "Areas and falls of the log-probability.",
    "Standard measures": "The strongest 1 to 5 interactions removed, or nothing but them; means "
    "over these five sizes, each of which is in results.json.",
    "Known reasons": "In a copy of the model only the counts of transitions rank, and the item "
    "that they rank first is explained; rollout reads the attention of the copy, in which it "
    "decides nothing. Users are left out whose history has one item, or reasons of equal size.",
}


def measures(question: Question, contributions: np.ndarray) -> np.ndarray:
    """(M,) MEASURES for the one item of a question and the contributions (L,) of its history."""
    sizes = np.ceil(np.array(CURVE + SHARES) * question.length)
    counts, place = np.unique(sizes, return_inverse=True)
    # (K, L) the most important first
    order = np.argsort(-contributions, kind="stable")
    first = np.argsort(order) < counts[:, None]
    without, alone = (
        question.scores(known)[place, 0] for known in (~first, first)
    )
    falls = without[0] - np.stack([without, alone])  # (2, CURVE + SHARES)
    areas = -np.trapezoid(falls[:, : len(CURVE)], CURVE)
    return np.concatenate([areas, falls[:, len(CURVE) :].mean(1)])


def figures_of(
    scorer: Scorer,
    alone: Scorer | None,
    data: Dataset,
    methods: Sequence[str],
    user: int,
) -> dict[str, np.ndarray]:
    """For one user: name of a table in NOTES -> measures of each method (W, N, M), and 'seconds'
    (N,). alone: `counts_alone` of a model that has counts."""
    question = question_of(scorer, data, user)
    figures, by_size, seconds = [], [], []
    for method in methods:
        began = time.perf_counter()
        # A copy, so that no method profits from what another one has asked.
        answer = explain(dataclasses.replace(question), method, user)
        seconds.append(time.perf_counter() - began)
        contributions = answer.history[0]
        asked = [dataclasses.replace(question, absent=way) for way in WAYS]
        figures.append([measures(one, contributions) for one in asked])
        by_size.append(fidelity.by_size(question, contributions).T)
    found = {
        "Faithfulness": np.array(figures).swapaxes(0, 1),
        "Standard measures": np.array(by_size).swapaxes(0, 1),
        "seconds": np.array(seconds),
    }
    if alone is not None:
        reasons = question_of(alone, data, user)
        known = []
        for method in methods:
            answer = explain(dataclasses.replace(reasons), method, user)
            known.append(fidelity.known_reasons(reasons, answer.history[0]))
        found["Known reasons"] = np.array(known)[None]
    return found


def marks(
    found: np.ndarray, signs: Sequence[int], methods: Sequence[str]
) -> dict[tuple[int, ...], str]:
    """(way, method, measure) -> stars, of measures (P, W, N, M): better than both controls, paired
    over users."""
    signed = found * list(signs)
    controls = [methods.index(name) for name in CONTROLS if name in methods]
    worst: dict[tuple[int, ...], float] = {}
    for place in np.ndindex(found.shape[1:]):
        way, method, measure = place
        if method in controls:
            continue
        for control in controls:
            theirs = signed[:, way, control, measure]
            test = compare(signed[:, *place], theirs, SAMPLES)
            p_value = test.p_value if test.difference > 0 else 1.0
            worst[place] = max(worst.get(place, 0.0), p_value)
    corrected = holm(worst)
    return {place: mark(p_value) for place, p_value in corrected.items()}


def measured_table(
    found: np.ndarray,
    ways: Sequence[str],
    measured: dict[str, int],
    methods: Sequence[str],
) -> tuple[list[list[str]], dict[str, Any]]:
    """(rows of the table, way -> measure -> method -> mean and interval over users) of measures
    (P, W, N, M), with the signs of `measured`."""
    stars = marks(found, list(measured.values()), methods)
    rows = []
    intervals = {way: {name: {} for name in measured} for way in ways}
    for way, method in np.ndindex(found.shape[1:3]):
        row = [methods[method]]
        for measure, name in enumerate(measured):
            place = way, method, measure
            figure = interval(found[:, *place])
            intervals[ways[way]][name][methods[method]] = figure
            row.append(f"{figure['mean']:.3f}{stars.get(place, '')}")
        rows.append(row)
    return rows, intervals


def _parser():
    parser = model_parser(__doc__)
    add = parser.add_argument
    add(
        "--users", type=whole(1), default=500, help="how many, drawn at random"
    )
    methods = [*METHODS, *DRAWN, "random"]
    add("--methods", nargs="+", choices=methods, default=methods)
    add("--results", type=Path, default=Path("runs/results/faithfulness"))
    return parser


def _by_way(found, methods):
    """(header, rows, figures) of the areas and falls."""
    rows, figures = measured_table(
        found["Faithfulness"], WAYS, MEASURES, methods
    )
    seconds = found["seconds"].mean(0)
    for number, row in enumerate(rows):
        way, method = divmod(number, len(methods))
        row.insert(0, WAYS[way])
        row.append(f"{seconds[method]:.2f}")
    header = ["left out by being", "method", *MEASURES, "seconds an item"]
    return header, rows, figures


def _by_size(found, methods):
    """(header, rows, figures) of the standard measures: the mean over sizes, and each size."""
    measured, each = fidelity.MEASURES, found["Standard measures"]
    sizes = [str(size) for size in fidelity.SIZES]
    mean = each.mean(1, keepdims=True)
    rows, figures = measured_table(mean, ["mean"], measured, methods)
    for place, size in enumerate(sizes):
        of_size = each[:, [place]]
        figures |= measured_table(of_size, [size], measured, methods)[1]
    return ["method", *measured], rows, figures


def _known(found, methods):
    """(header, rows, figures) of the reasons that are known; None without transitions."""
    if "Known reasons" not in found:
        return None
    each = found["Known reasons"]
    # A history of one item has no order.
    each = each[np.isfinite(each).all((1, 2, 3))]
    rows, figures = measured_table(
        each, ["counts alone"], fidelity.KNOWN, methods
    )
    return ["method", *fidelity.KNOWN], rows, figures


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    model, settings, data = load_with_data(flags.model_path, flags.data_dir)
    scorer, methods = model.frozen(), flags.methods
    users = drawn_users(data, flags.users)
    alone = fidelity.counts_alone(scorer) if fidelity.counts(scorer) else None
    answers = [
        figures_of(scorer, alone, data, methods, user)
        for user in tqdm(users, disable=None)
    ]
    found = {
        name: np.stack([answer[name] for answer in answers])
        for name in answers[0]
    }
    note = (
        f"{data.name}: the item recommended first to each of {len(users):,} random users, whole "
        f"history, its newest {settings.model.seq_length} interactions at most; split "
        f"{data.split_hash}; one trained model (seed {settings.train.seed}); * better than "
        f"{' and '.join(CONTROLS)}, randomisation test over users, Holm, p < .05, ** .01, *** "
        f".001; {data.note}"
    )
    content = {"settings": settings.recorded()}
    tables = []
    for name, contents in (
        ("Faithfulness", _by_way(found, methods)),
        ("Standard measures", _by_size(found, methods)),
        ("Known reasons", _known(found, methods)),
    ):
        if contents is not None:
            header, rows, content[name] = contents
            tables.append((name, f"{NOTES[name]} {note}", header, rows))
    if data.name == "synthetic":
        planted = planted_causes(scorer, data, methods)
        content["planted causes"] = planted
        tables.append(planted_table(planted))
    write_results(flags.results / data.name, tables, content)


if __name__ == "__main__":
    sys.exit(run_command(main))
