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
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.comparison import recorded
from ablations.study import code_version
from batches import history_of
from dataset import Dataset
from evaluation.report import interval
from evaluation.significance import compare, holm, mark
from explanations.attribution import METHODS, Attribution, explain
from explanations.question import Absence, Question
from model_io import data_of, load_model
from readers.synthetic import FAMILY_OF_CAUSE as CAUSES
from readers.synthetic import true_causes
from scorer import Scorer
from support.arguments import ArgumentParser
from support.checkpoint import WEIGHTS, write_json
from support.errors import UserError, run_command
from support.tables import print_table, table_text
from support.tracking import git_commit

CURVE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # shares of the history
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
WAYS: tuple[Absence, ...] = ("removed", "masked", "replaced")
# 1 = high is good
MEASURES = {"deletion": -1, "insertion": 1, "comprehensiveness": 1, "sufficiency": -1}
CONTROLS = ("attention_rollout", "random")
# Of the randomisation test: Holm's correction must leave room for p < .001.
SAMPLES = 100_000
FIRST = 3  # contributions that are looked at for the true cause
FEWEST = 20  # interactions before a planted cause
EVERY = 25  # users between two lines of progress
PLANTED = (
    "held-out interactions with {fewest} and more before them, by what caused them: the causing "
    "item among the first {first} contributions; the causing family first"
)
Rows = list[dict[str, Any]]  # what each user adds (`figures_of`)


def measures(question: Question, contributions: np.ndarray) -> dict[str, float]:
    """The four figures for the one item of a question and the contributions (L,) of its history."""
    length = question.length
    order = np.argsort(-contributions, kind="stable")
    sizes = {share: int(np.ceil(share * length)) for share in (*CURVE, *SHARES)}
    counts = sorted(set(sizes.values()))
    first = np.stack([np.isin(np.arange(length), order[:count]) for count in counts])
    without = dict(zip(counts, question.scores(~first)[:, 0], strict=True))
    alone = dict(zip(counts, question.scores(first)[:, 0], strict=True))
    whole = without[0]
    fall = {share: whole - without[size] for share, size in sizes.items()}
    left = {share: whole - alone[size] for share, size in sizes.items()}
    return {
        "deletion": -float(np.trapezoid([fall[share] for share in CURVE], CURVE)),
        "insertion": -float(np.trapezoid([left[share] for share in CURVE], CURVE)),
        "comprehensiveness": float(np.mean([fall[share] for share in SHARES])),
        "sufficiency": float(np.mean([left[share] for share in SHARES])),
    }


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
) -> dict[str, Any]:
    """What one user adds: measures (way -> name -> method -> figure), seconds of each method."""
    question = question_of(scorer, data, user)
    seconds: dict[str, float] = {}
    answers: dict[str, Attribution] = {}
    for method in methods:
        began = time.perf_counter()
        # A copy, so that no method profits from what another one has asked.
        answers[method] = explain(dataclasses.replace(question), method, user)
        seconds[method] = time.perf_counter() - began
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in WAYS:
        asked = dataclasses.replace(question, absent=way)
        found[way] = {name: {} for name in MEASURES}
        for method in methods:
            figures = measures(asked, answers[method].history[0])
            for name, value in figures.items():
                found[way][name][method] = value
    return {"user": user, "measures": found, "seconds": seconds}


def measured(
    scorer: Scorer,
    data: Dataset,
    users: Sequence[int],
    methods: Sequence[str],
    path: Path,
) -> Rows:
    """`figures_of` each of these users. A user is a line of the file at `path`; one whose line
    stands there already is not asked again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = "".join(text.rpartition("\n")[:2])  # without a torn one
    try:
        known = {row["user"]: row for row in map(json.loads, lines.splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and the same command asks everybody again"
        ) from error
    path.write_text(lines, encoding="utf-8")
    with path.open("a", buffering=1, encoding="utf-8") as file:
        for user in users:
            if user in known:
                continue
            known[user] = figures_of(scorer, data, methods, user)
            file.write(json.dumps(known[user]) + "\n")
            if len(known) % EVERY == 0:
                print(f"{len(known)} users asked about", flush=True)
    return [known[user] for user in users]


def version_of(place: Path, data: Dataset, methods: Sequence[str]) -> str:
    """What figures depend on: the model, the data, the methods and the code, as a hash."""
    digest = hashlib.sha256(f"{data.split_hash} {methods} {code_version()}".encode())
    code = Path(__file__).parent.parent / "explanations"
    for file in (place / WEIGHTS, Path(__file__), *sorted(code.glob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def planted_causes(
    scorer: Scorer, data: Dataset, methods: Sequence[str], seed: int = 0
) -> dict[str, dict[str, dict[str, float]]]:
    """On the synthetic data, for the held-out interactions with FEWEST before them: method ->
    cause -> the share of those with this cause that the method names, and how many there are."""
    known = true_causes()
    requests, catalogue = data.split.requests["test"], data.catalogue
    hits: dict[str, dict[str, list[bool]]] = {
        method: {cause: [] for cause in CAUSES} for method in methods
    }
    for user, end in zip(requests.users.tolist(), requests.ends.tolist(), strict=True):
        item = int(data.items[end])
        cause, source = known[catalogue.users.id(user), catalogue.items.id(item)]
        if cause not in CAUSES or end - data.offsets[user] < FEWEST:
            continue
        question = question_of(scorer, data, user, end, item)
        for method in methods:
            # No two cases by the same draw.
            answer = explain(question, method, seed + user)
            if CAUSES[cause] and not answer.families:
                continue
            hits[method][cause].append(_names(answer, question, cause, source))
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for method, of_cause in hits.items():
        shares[method] = {
            cause: {"share": float(np.mean(values)), "cases": len(values)}
            for cause, values in of_cause.items()
            if values
        }
    return shares


def _names(answer: Attribution, question: Question, cause: str, source: Any) -> bool:
    """Whether an answer has the true cause first, or its item among the FIRST."""
    if CAUSES[cause]:
        strongest = max(answer.families, key=lambda name: answer.families[name][0])
        return strongest == CAUSES[cause]
    order = np.argsort(-answer.history[0], kind="stable")
    row = question.catalogue.items.index([int(source)])[0]
    return int(row) in question.read.items[order[:FIRST]]


def figures_by_method(rows: Rows, way: str, name: str) -> dict[str, np.ndarray]:
    """Method -> (P,) one measure of each user."""
    methods = rows[0]["measures"][way][name]
    return {
        method: np.array([row["measures"][way][name][method] for row in rows])
        for method in methods
    }


def faithfulness_table(
    rows: Rows, methods: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a way and a method a row, means over users; marks: better than both
    controls, paired over users."""
    worst: dict[tuple[str, str, str], float] = {}
    means = {}
    for way in WAYS:
        for name, sign in MEASURES.items():
            found = figures_by_method(rows, way, name)
            controls = [found[method] for method in CONTROLS if method in found]
            for method, values in found.items():
                key = way, name, method
                means[key] = values.mean()
                if method in CONTROLS:
                    continue
                for control in controls:
                    test = compare(sign * values, sign * control, SAMPLES)
                    p_value = test.p_value if test.difference > 0 else 1.0
                    worst[key] = max(worst.get(key, 0.0), p_value)
    corrected = dict(zip(worst, holm(list(worst.values())), strict=True))
    cells = []
    for way in WAYS:
        for method in methods:
            keys = [(way, name, method) for name in MEASURES]
            shown = [f"{means[key]:.3f}{mark(corrected.get(key, 1.0))}" for key in keys]
            seconds = np.mean([row["seconds"][method] for row in rows])
            cells.append([way, method, *shown, f"{seconds:.2f}"])
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
            shown.append(f"{found['share']:.1%} of {found['cases']}" if found else "")
        cells.append([method, *shown])
    return ["method", *CAUSES], cells


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--model_path", type=Path, default=Path("checkpoints/best"))
    add("--data_dir", help="folder with the data set's files (default: as in training)")
    add("--users", type=int, default=500, help="how many, drawn at random")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add(
        "--work",
        type=Path,
        default=Path("runs/faithfulness"),
        help="a line for each user",
    )
    add("--results", type=Path, default=Path("runs/results/faithfulness"))
    return parser


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    if flags.users < 1:
        raise UserError("--users must be at least 1")
    checkpoint = load_model(flags.model_path, data_dir=flags.data_dir)
    data = data_of(checkpoint, flags.model_path, flags.data_dir)
    settings, scorer = checkpoint.settings, checkpoint.model.frozen()
    # From the second sixth of the draw: DEFAULT, BLOCK_ENDS, BLOCK_WAYS and ATTENTION were
    # chosen on others.
    draw = 1 + np.random.default_rng(0).permutation(data.num_users)
    users = np.roll(draw, -(data.num_users // 6))[: flags.users].tolist()
    path = flags.work / f"{version_of(flags.model_path, data, flags.methods)}.jsonl"
    rows = measured(scorer, data, users, flags.methods, path)
    note = (
        f"{data.name}: the item recommended first to each of {len(users):,} random users, whole "
        f"history, its newest {settings.model.seq_length} interactions at most; split "
        f"{data.split_hash}; one trained model (seed {settings.train.seed}); * better than "
        f"{' and '.join(CONTROLS)}, randomisation test over users, Holm, p < .05, ** .01, *** "
        f".001; {data.note}"
    )
    weights = hashlib.sha256((flags.model_path / WEIGHTS).read_bytes()).hexdigest()[:16]
    content: dict[str, Any] = {
        "note": note,
        "git_commit": git_commit(),
        "weights": weights,
        "settings": recorded(settings),
        "measures": {way: _intervals(rows, way) for way in WAYS},
    }
    tables = [
        ("Faithfulness", note, *faithfulness_table(rows, flags.methods)),
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


def _intervals(rows: Rows, way: str) -> dict[str, dict[str, dict[str, float]]]:
    """Measure -> method -> mean and interval over users."""
    found = {}
    for name in MEASURES:
        each = figures_by_method(rows, way, name)
        found[name] = {method: interval(values) for method, values in each.items()}
    return found


if __name__ == "__main__":
    sys.exit(run_command(main))
