"""Are the explanations true? `python -m ablations.faithfulness --model_path checkpoints/best`

For each user asked about, the item recommended first is explained by every method, and what the
method says is put to the test on the model itself, with an interaction left out in three ways:
removed, masked, or replaced by a random item. (No method looks for its answer by replacing
items.)

    deletion           area under the score while the interactions leave, the most important
                       first; low is good
    insertion          area under the score while they come back, the most important first; high
                       is good
    comprehensiveness  fall of the score without the most important 1, 5, 10, 20, 50 %; high is
                       good
    sufficiency        fall of the score with nothing but them; low is good (both: DeYoung et al.,
                       arXiv:1911.03429)

Areas are in units of the score (log-probability) minus the score with everything known. On the
synthetic data, whose causes are known, also: how often is the item that caused the next one among
the first three contributions, and how often is the family that caused it (age, season) the first
of the families?

Axes: P users, W ways, N methods, M measures.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ablations.comparison import write_results
from batches import history_of
from dataset import ITEM_ROWS, Dataset
from evaluation.metrics import interval
from evaluation.significance import compare, holm, mark
from explanations.attribution import METHODS, explain
from explanations.question import Absence, Question
from model_io import load_with_data
from readers import DATASETS
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
FIRST = 3  # contributions that are looked at for the true cause
FEWEST = 20  # interactions before a planted cause
PLANTED = (
    "held-out interactions with {fewest} and more before them, by what caused them: the causing "
    "item among the first {first} contributions; the causing family first"
)


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


def question_of(
    scorer: Scorer,
    data: Dataset,
    user: int,
    end: int | None = None,
    item: int | None = None,
) -> Question:
    """Why is the first recommendation (or `item`) what it is, after a user's history before
    `end`, or the whole?"""
    history = history_of(data, user, end)
    allowed = torch.arange(len(data.catalogue.items)) >= ITEM_ROWS
    allowed[torch.from_numpy(history.items)] = False
    rows = np.flatnonzero(allowed.numpy())
    question = Question(scorer, data.catalogue, history, rows, allowed)
    if item is None:
        item = int(rows[question.scores(question.everything)[0].argmax()])
    others = np.setdiff1d(rows, item)
    stand_ins = np.random.default_rng(user).choice(others, question.length)
    return dataclasses.replace(
        question, candidates=np.array([item]), stand_ins=stand_ins
    )


def figures_of(
    scorer: Scorer, data: Dataset, methods: Sequence[str], user: int
) -> tuple[np.ndarray, np.ndarray]:
    """(measures (W, N, M), seconds (N,)) of one user in each way and by each method."""
    question = question_of(scorer, data, user)
    figures, seconds = [], []
    for method in methods:
        began = time.perf_counter()
        # A copy, so that no method profits from what another one has asked.
        answer = explain(dataclasses.replace(question), method, user)
        seconds.append(time.perf_counter() - began)
        for way in WAYS:
            asked = dataclasses.replace(question, absent=way)
            figures.append(measures(asked, answer.history[0]))
    found = np.array(figures).reshape(len(methods), len(WAYS), -1)
    return found.swapaxes(0, 1), np.array(seconds)


def true_causes() -> pd.DataFrame:
    """Of each interaction of the synthetic data what caused it (datasets/README.md): `family` is
    what an explanation should name first, or 'history' for the item `source`; '' for no cause."""
    path = DATASETS / "synthetic" / "causes.csv.gz"
    return pd.read_csv(path, keep_default_na=False)


def planted_causes(
    scorer: Scorer, data: Dataset, methods: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """On the synthetic data, for the held-out interactions with FEWEST before them: method ->
    cause -> the share of those with this cause that the method names, and how many there are."""
    known = true_causes().set_index(["user", "item"])
    requests, catalogue = data.split.requests["test"], data.catalogue
    hits: dict[str, dict[str, list[bool]]] = {name: {} for name in methods}
    for user, end in zip(
        requests.users.tolist(), requests.ends.tolist(), strict=True
    ):
        item = int(data.items[end])
        cause = known.loc[(catalogue.users.id(user), catalogue.items.id(item))]
        if not cause["family"] or end - data.offsets[user] < FEWEST:
            continue
        question = question_of(scorer, data, user, end, item)
        for method in methods:
            # No two cases by the same draw.
            answer = explain(question, method, user)
            if cause["family"] == "history":
                order = np.argsort(-answer.history[0], kind="stable")
                rows = question.read.items[order[:FIRST]]
                named = catalogue.items.id_array(rows).tolist()
                true = cause["source"]
            else:
                true, effects = cause["family"], answer.families
                named = sorted(effects, key=lambda name: effects[name][0])[-1:]
            if named:
                found = hits[method].setdefault(cause["cause"], [])
                found.append(true in named)
    return {
        method: {
            cause: {"share": np.mean(found), "cases": len(found)}
            for cause, found in of_cause.items()
        }
        for method, of_cause in hits.items()
    }


def faithfulness_table(
    found: np.ndarray, seconds: np.ndarray, methods: Sequence[str]
) -> tuple[list[list[str]], dict[str, Any]]:
    """(rows of the table, way -> measure -> method -> mean and interval over users) of measures
    (P, W, N, M) and seconds (P, N); marks: better than both controls, paired over users."""
    signed = found * list(MEASURES.values())
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
    cells = []
    intervals = {way: {name: {} for name in MEASURES} for way in WAYS}
    for way, method in np.ndindex(found.shape[1:3]):
        row = [WAYS[way], methods[method]]
        for measure, name in enumerate(MEASURES):
            place = way, method, measure
            figure = interval(found[:, *place])
            intervals[WAYS[way]][name][methods[method]] = figure
            stars = mark(corrected.get(place, 1.0))
            row.append(f"{figure['mean']:.3f}{stars}")
        cells.append([*row, f"{seconds[:, method].mean():.2f}"])
    return cells, intervals


def _parser():
    parser = model_parser(__doc__)
    add = parser.add_argument
    add(
        "--users", type=whole(1), default=500, help="how many, drawn at random"
    )
    methods = [*METHODS, "random"]
    add("--methods", nargs="+", choices=methods, default=methods)
    add("--results", type=Path, default=Path("runs/results/faithfulness"))
    return parser


def drawn_users(data: Dataset, count: int) -> list[int]:
    """Some users at random, from the second sixth of the draw: DEFAULT, BLOCK_ENDS, BLOCK_WAYS
    and ATTENTION were chosen on others."""
    draw = 1 + np.random.default_rng(0).permutation(data.num_users)
    return np.roll(draw, -(data.num_users // 6))[:count].tolist()


def _cell(found):
    return f"{found['share']:.1%} of {found['cases']}" if found else ""


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    model, settings, data = load_with_data(flags.model_path, flags.data_dir)
    scorer, methods = model.frozen(), flags.methods
    users = drawn_users(data, flags.users)
    answers = [
        figures_of(scorer, data, methods, user)
        for user in tqdm(users, disable=None)
    ]
    found, seconds = map(np.stack, zip(*answers, strict=True))
    note = (
        f"{data.name}: the item recommended first to each of {len(users):,} random users, whole "
        f"history, its newest {settings.model.seq_length} interactions at most; split "
        f"{data.split_hash}; one trained model (seed {settings.train.seed}); * better than "
        f"{' and '.join(CONTROLS)}, randomisation test over users, Holm, p < .05, ** .01, *** "
        f".001; {data.note}"
    )
    rows, intervals = faithfulness_table(found, seconds, methods)
    header = ["left out by being", "method", *MEASURES, "seconds an item"]
    tables = [("Faithfulness", note, header, rows)]
    content = {"settings": settings.recorded(), "measures": intervals}
    if data.name == "synthetic":
        planted = planted_causes(scorer, data, methods)
        content["planted causes"] = planted
        causes = sorted(
            {cause for found in planted.values() for cause in found}
        )
        caption = PLANTED.format(fewest=FEWEST, first=FIRST)
        rows = [
            [method, *(_cell(found.get(cause)) for cause in causes)]
            for method, found in planted.items()
        ]
        header = ["method", *causes]
        tables.append(("Planted causes", caption, header, rows))
    write_results(flags.results / data.name, tables, content)


if __name__ == "__main__":
    sys.exit(run_command(main))
