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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.comparison import recorded
from batches import history_of
from dataset import Dataset
from evaluation.metrics import interval
from evaluation.significance import compare, holm, mark
from explanations.attribution import METHODS, Attribution, explain
from explanations.question import Absence, Question
from model_io import data_of, load_model
from readers.synthetic import FAMILY_OF_CAUSE as CAUSES
from readers.synthetic import true_causes
from scorer import Scorer
from support.arguments import ArgumentParser
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tables import print_table, table_text
from support.tracking import git_commit

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
    length = question.length
    order = np.argsort(-contributions, kind="stable")
    sizes = {
        share: int(np.ceil(share * length)) for share in (*CURVE, *SHARES)
    }
    counts = sorted(set(sizes.values()))
    first = np.stack(
        [np.isin(np.arange(length), order[:count]) for count in counts]
    )
    without = dict(zip(counts, question.scores(~first)[:, 0], strict=True))
    alone = dict(zip(counts, question.scores(first)[:, 0], strict=True))
    whole = without[0]
    fall = {share: whole - without[size] for share, size in sizes.items()}
    left = {share: whole - alone[size] for share, size in sizes.items()}
    return np.array(
        [
            -np.trapezoid([fall[share] for share in CURVE], CURVE),
            -np.trapezoid([left[share] for share in CURVE], CURVE),
            np.mean([fall[share] for share in SHARES]),
            np.mean([left[share] for share in SHARES]),
        ]
    )


def question_of(
    scorer: Scorer,
    data: Dataset,
    user: int,
    end: int | None = None,
    item: int | None = None,
) -> Question:
    """Why is the first recommendation (or `item`) what it is, after a user's history before
    `end`, or the whole?"""
    history, items = history_of(data, user, end), data.catalogue.items
    allowed = torch.arange(len(items)) >= items.first
    allowed[torch.from_numpy(history.items)] = False
    candidates = np.flatnonzero(allowed.numpy())
    everything = Question(scorer, data.catalogue, history, candidates, allowed)
    if item is None:
        best = everything.scores(everything.everything)[0].argmax()
        item = int(candidates[best])
    others = np.setdiff1d(candidates, item)
    stand_ins = np.random.default_rng(user).choice(others, everything.length)
    return dataclasses.replace(
        everything, candidates=np.array([item]), stand_ins=stand_ins
    )


def figures_of(
    scorer: Scorer, data: Dataset, methods: Sequence[str], user: int
) -> tuple[np.ndarray, np.ndarray]:
    """(measures (W, N, M), seconds (N,)) of one user in each way and by each method."""
    question = question_of(scorer, data, user)
    ways = [dataclasses.replace(question, absent=way) for way in WAYS]
    found = np.empty((len(WAYS), len(methods), len(MEASURES)))
    seconds = np.empty(len(methods))
    for place, method in enumerate(methods):
        began = time.perf_counter()
        # A copy, so that no method profits from what another one has asked.
        answer = explain(dataclasses.replace(question), method, user)
        seconds[place] = time.perf_counter() - began
        for way, asked in enumerate(ways):
            found[way, place] = measures(asked, answer.history[0])
    return found, seconds


def planted_causes(
    scorer: Scorer, data: Dataset, methods: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """On the synthetic data, for the held-out interactions with FEWEST before them: method ->
    cause -> the share of those with this cause that the method names, and how many there are."""
    known = true_causes()
    requests, catalogue = data.split.requests["test"], data.catalogue
    hits: dict[str, dict[str, list[bool]]] = {}
    for user, end in zip(
        requests.users.tolist(), requests.ends.tolist(), strict=True
    ):
        item = int(data.items[end])
        cause, source = known[
            catalogue.users.id(user), catalogue.items.id(item)
        ]
        if cause not in CAUSES or end - data.offsets[user] < FEWEST:
            continue
        question = question_of(scorer, data, user, end, item)
        for method in methods:
            # No two cases by the same draw.
            answer = explain(question, method, user)
            if CAUSES[cause] and not answer.families:
                continue
            found = hits.setdefault(method, {}).setdefault(cause, [])
            found.append(_names(answer, question, cause, source))
    return {
        method: {
            cause: {"share": float(np.mean(found)), "cases": len(found)}
            for cause, found in of_cause.items()
        }
        for method, of_cause in hits.items()
    }


def _names(
    answer: Attribution, question: Question, cause: str, source: Any
) -> bool:
    """Whether an answer has the true cause first, or its item among the FIRST."""
    if CAUSES[cause]:
        strongest = max(
            answer.families, key=lambda name: answer.families[name][0]
        )
        return strongest == CAUSES[cause]
    order = np.argsort(-answer.history[0], kind="stable")
    row = question.catalogue.items.index([int(source)])[0]
    return int(row) in question.read.items[order[:FIRST]]


def faithfulness_table(
    found: np.ndarray, seconds: np.ndarray, methods: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a way and a method a row, means over users of measures (P, W, N, M) and
    seconds (P, N); marks: better than both controls, paired over users."""
    signed = found * list(MEASURES.values())
    controls = [methods.index(name) for name in CONTROLS if name in methods]
    worst: dict[tuple[int, ...], float] = {}
    for way, method, measure in np.ndindex(found.shape[1:]):
        if method in controls:
            continue
        for control in controls:
            ours, theirs = (
                signed[:, way, method, measure],
                signed[:, way, control, measure],
            )
            test = compare(ours, theirs, SAMPLES)
            p_value = test.p_value if test.difference > 0 else 1.0
            key = way, method, measure
            worst[key] = max(worst.get(key, 0.0), p_value)
    corrected = dict(zip(worst, holm(list(worst.values())), strict=True))
    means = found.mean(0)
    cells = []
    for way, method in np.ndindex(means.shape[:2]):
        row = [WAYS[way], methods[method]]
        for measure, mean in enumerate(means[way, method]):
            row.append(
                f"{mean:.3f}{mark(corrected.get((way, method, measure), 1.0))}"
            )
        cells.append([*row, f"{seconds[:, method].mean():.2f}"])
    return ["left out by being", "method", *MEASURES, "seconds an item"], cells


def causes_table(
    planted: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of what `planted_causes` found."""
    cells = []
    for method, of_cause in planted.items():
        shown = []
        for cause in CAUSES:
            found = of_cause.get(cause)
            shown.append(
                f"{found['share']:.1%} of {found['cases']}" if found else ""
            )
        cells.append([method, *shown])
    return ["method", *CAUSES], cells


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--model_path", type=Path, default=Path("checkpoints/best"))
    add(
        "--data_dir",
        help="folder with the data set's files (default: as in training)",
    )
    add("--users", type=int, default=500, help="how many, drawn at random")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--results", type=Path, default=Path("runs/results/faithfulness"))
    return parser


def drawn_users(data: Dataset, count: int) -> list[int]:
    """Some users at random, from the second sixth of the draw: DEFAULT, BLOCK_ENDS, BLOCK_WAYS
    and ATTENTION were chosen on others."""
    draw = 1 + np.random.default_rng(0).permutation(data.num_users)
    return np.roll(draw, -(data.num_users // 6))[:count].tolist()


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    if flags.users < 1:
        raise UserError("--users must be at least 1")
    checkpoint = load_model(flags.model_path, data_dir=flags.data_dir)
    data = data_of(checkpoint, flags.model_path, flags.data_dir)
    settings, scorer = checkpoint.settings, checkpoint.model.frozen()
    users = drawn_users(data, flags.users)
    from rich.progress import track

    answers = []
    for user in track(users, "asking"):
        answers.append(figures_of(scorer, data, flags.methods, user))
    found, seconds = map(np.stack, zip(*answers, strict=True))
    note = (
        f"{data.name}: the item recommended first to each of {len(users):,} random users, whole "
        f"history, its newest {settings.model.seq_length} interactions at most; split "
        f"{data.split_hash}; one trained model (seed {settings.train.seed}); * better than "
        f"{' and '.join(CONTROLS)}, randomisation test over users, Holm, p < .05, ** .01, *** "
        f".001; {data.note}"
    )
    content: dict[str, Any] = {
        "note": note,
        "git_commit": git_commit(),
        "settings": recorded(settings),
        "measures": _intervals(found, flags.methods),
    }
    tables = [
        (
            "Faithfulness",
            note,
            *faithfulness_table(found, seconds, flags.methods),
        ),
    ]
    if data.name == "synthetic":
        planted = content["planted causes"] = planted_causes(
            scorer, data, flags.methods
        )
        caption = PLANTED.format(fewest=FEWEST, first=FIRST)
        tables.append(("Planted causes", caption, *causes_table(planted)))
    texts = []
    for title, caption, header, cells in tables:
        print_table(title, caption, header, cells)
        texts += [caption, table_text(header, cells).strip()]
    flags.results.mkdir(parents=True, exist_ok=True)
    write_json(flags.results / f"{data.name}.json", content)
    text = "\n\n".join(texts) + "\n"
    (flags.results / f"{data.name}.md").write_text(text, encoding="utf-8")


def _intervals(found: np.ndarray, methods: Sequence[str]) -> dict[str, Any]:
    """Way -> measure -> method -> mean and interval over users."""
    content: dict[str, Any] = {
        way: {name: {} for name in MEASURES} for way in WAYS
    }
    for way, of_way in enumerate(WAYS):
        for measure, name in enumerate(MEASURES):
            for place, method in enumerate(methods):
                values = found[:, way, place, measure]
                content[of_way][name][method] = interval(values)
    return content


if __name__ == "__main__":
    sys.exit(run_command(main))
