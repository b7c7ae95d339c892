"""Are the explanations true? `python -m ablations.faithfulness --model_path checkpoints/best`

For each user asked about, the item recommended first is explained by every method, and what the
method says is put to the test on the model itself, with an interaction left out in three ways:
removed, masked, or replaced by a random item. (No method looks for its answer by replacing
items.)

    deletion           area under the score while the interactions leave, the most important first; low is good
    insertion          area under the score while they come back, the most important first; high is good
    comprehensiveness  fall of the score without the most important 1, 5, 10, 20, 50 %; high is good
    sufficiency        fall of the score with nothing but them; low is good (both: DeYoung et al., arXiv:1911.03429)

Areas are in units of the score (log-probability) minus the score with everything known. Beside
that: how much two methods agree on one item, and one method with itself under another seed (rank
correlation). On the synthetic data, whose causes are known, also: how often is the item that
caused the next one among the first three contributions, and how often is the family that caused
it (age, season) the first of the families?
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from ablations.cold_start import recorded
from ablations.study import code_version
from batches import history_of
from dataset import Dataset
from evaluation.report import interval, print_table, table_text
from evaluation.significance import compare, holm, mark
from explanations.attribution import METHODS, Absence, Attribution, Question, explain
from model_io import data_of, load_model
from readers.synthetic import FAMILY_OF_CAUSE as CAUSES
from readers.synthetic import true_causes
from scorer import Scorer
from settings import Settings
from support.arguments import ArgumentParser
from support.checkpoint import WEIGHTS, write_json
from support.errors import UserError, run_command
from support.processes import die_with
from support.tracking import git_commit

CURVE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # shares of the history
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
WAYS: tuple[Absence, ...] = ("removed", "masked", "replaced")
# 1 = high is good
MEASURES = {"deletion": -1, "insertion": 1, "comprehensiveness": 1, "sufficiency": -1}
CONTROLS = ("attention_rollout", "random")
# of the randomisation test: Holm's correction of all comparisons must leave room for p < .001
SAMPLES = 100_000
FIRST = 3  # contributions that are looked at for the true cause
FEWEST = 20  # interactions before a planted cause
Found = dict[str, dict[str, dict[str, np.ndarray]]]  # way -> measure -> method -> (P,)


def measures(question: Question, contributions: np.ndarray) -> dict[str, float]:
    """The four figures for the one item of a question and the contributions (L,) of its history."""
    length, order = question.length, np.argsort(-contributions, kind="stable")
    sizes = {share: int(np.ceil(share * length)) for share in (*CURVE, *SHARES)}
    rows = sorted(set(sizes.values()))
    first = np.stack([np.isin(np.arange(length), order[:size]) for size in rows])
    without = dict(zip(rows, question.scores(~first)[:, 0], strict=True))
    alone = dict(zip(rows, question.scores(first)[:, 0], strict=True))
    whole = without[0]
    falling = [without[sizes[share]] - whole for share in CURVE]
    rising = [alone[sizes[share]] - whole for share in CURVE]
    return {
        "deletion": float(np.trapezoid(falling, CURVE)),
        "insertion": float(np.trapezoid(rising, CURVE)),
        "comprehensiveness": float(
            np.mean([whole - without[sizes[share]] for share in SHARES])
        ),
        "sufficiency": float(
            np.mean([whole - alone[sizes[share]] for share in SHARES])
        ),
    }


def question_of(
    scorer: Scorer,
    data: Dataset,
    user: int,
    end: int | None = None,
    item: int | None = None,
) -> Question:
    """Why is the first recommendation (or `item`) what it is, after a user's history before
    `end`, or the whole?
    """
    history, items = history_of(data, user, end), data.catalogue.items
    allowed = torch.arange(len(items)) >= items.first
    allowed[torch.from_numpy(history.items)] = False
    everything = Question(
        scorer, data.catalogue, history, np.flatnonzero(allowed.numpy()), allowed
    )
    if item is None:
        item = int(
            everything.candidates[everything.scores(everything.everything)[0].argmax()]
        )
    others = np.setdiff1d(everything.candidates, item)
    stand_ins = np.random.default_rng(user).choice(others, everything.length)
    return dataclasses.replace(
        everything, candidates=np.array([item]), stand_ins=stand_ins
    )


def figures_of(
    scorer: Scorer, data: Dataset, methods: list[str], user: int
) -> dict[str, Any]:
    """What one user adds: measures (way -> name -> method -> figure), agreement (method -> other
    method), seconds.
    """
    question, seconds = question_of(scorer, data, user), {}
    answers: dict[tuple[str, int], Attribution] = {}
    for method in methods:
        began = time.perf_counter()
        for seed in (0, 1):
            # knows nothing of what another method asked
            fresh = dataclasses.replace(question)
            answers[method, seed] = explain(fresh, method, seed + 2 * user)
        seconds[method] = (time.perf_counter() - began) / 2
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in WAYS:
        asked = dataclasses.replace(question, absent=way)
        of_method = {
            method: measures(asked, answers[method, 0].history[0]) for method in methods
        }
        found[way] = {
            name: {method: of_method[method][name] for method in methods}
            for name in MEASURES
        }
    agreement: dict[str, dict[str, float]] = {one: {} for one in methods}
    for place, one in enumerate(methods):
        for other in methods[place:]:
            second = answers[other, 1 if one == other else 0]
            agreement[one][other] = _correlation(
                answers[one, 0].history[0], second.history[0]
            )
    return {"user": user, "measures": found, "agreement": agreement, "seconds": seconds}


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if np.array_equal(one, other):
        return 1.0
    return float(np.nan_to_num(stats.spearmanr(one, other).statistic))


def measured(
    place: Path,
    data_dir: str,
    users: list[int],
    methods: list[str],
    jobs: int,
    file_of_lines: Path,
) -> list[dict[str, Any]]:
    """`figures_of` each of these users about the model in `place`, by so many processes. A user
    is a line of a file, and one whose line stands there already is not asked again."""
    file_of_lines.parent.mkdir(parents=True, exist_ok=True)
    text = file_of_lines.read_text(encoding="utf-8") if file_of_lines.exists() else ""
    lines = "".join(text.rpartition("\n")[:2])  # no torn one
    try:
        known = {row["user"]: row for row in map(json.loads, lines.splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file_of_lines} is damaged ({error}): delete it, and the same command asks everybody again"
        ) from error
    file_of_lines.write_text(lines, encoding="utf-8")
    missing = [user for user in users if user not in known]
    ask = partial(_ask, place, data_dir, methods)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(
            file_of_lines.open("a", buffering=1, encoding="utf-8")
        )
        rows = map(ask, missing)
        if jobs > 1 and missing:
            threads = max(1, torch.get_num_threads() // jobs)
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(
                context.Pool(jobs, _begin, (os.getpid(), threads))
            )
            rows = pool.imap_unordered(ask, missing)
        for row in rows:
            known[row["user"]] = row
            file.write(json.dumps(row) + "\n")
            if len(known) % 25 == 0:
                print(f"{len(known)} users asked about", flush=True)
    return [known[user] for user in users]


def _begin(parent: int, threads: int) -> None:
    """In a process that answers for a share of the users."""
    die_with(parent)
    torch.set_num_threads(threads)


def _ask(place: Path, data_dir: str, methods: list[str], user: int) -> dict[str, Any]:
    scorer, data, _ = _loaded(place, data_dir)
    return figures_of(scorer, data, methods, user)


@cache
def _loaded(place: Path, data_dir: str) -> tuple[Scorer, Dataset, Settings]:
    """The model of a checkpoint folder, and what it was trained on."""
    checkpoint = load_model(place, data_dir=data_dir or None)
    return (
        checkpoint.model.frozen(),
        data_of(checkpoint, place, data_dir or None),
        checkpoint.settings,
    )


def version_of(place: Path, data: Dataset, methods: list[str]) -> str:
    """What figures depend on: the model, the data, the methods and the code, as a hash."""
    digest = hashlib.sha256(f"{data.split_hash} {methods} {code_version()}".encode())
    code = Path(__file__).parent.parent / "explanations"
    for file in (place / WEIGHTS, Path(__file__), *sorted(code.glob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def planted_causes(
    scorer: Scorer, data: Dataset, methods: list[str], seed: int = 0
) -> dict[str, Any]:
    """On the synthetic data, for the held-out interactions with FEWEST before them: share of
    those with an earlier item as their cause that have it among the FIRST contributions, and of
    those with the age group or the season as their cause that have that family first."""
    known = true_causes()
    requests, catalogue = data.split.requests["test"], data.catalogue
    hits: dict[str, dict[str, list[float]]] = {
        method: {cause: [] for cause in CAUSES} for method in methods
    }
    for user, end in zip(requests.users.tolist(), requests.ends.tolist(), strict=True):
        item = int(data.items[end])
        cause, source = known[catalogue.users.id(user), catalogue.items.id(item)]
        if cause not in CAUSES or end - data.offsets[user] < FEWEST:
            continue
        question = question_of(scorer, data, user, end, item)
        for method in methods:
            # no two cases by the same draw
            answer = explain(question, method, seed + user)
            if not CAUSES[cause]:
                first = question.read.items[
                    np.argsort(-answer.history[0], kind="stable")[:FIRST]
                ]
                hits[method][cause].append(
                    float(int(catalogue.items.index([int(source)])[0]) in first)
                )
            elif answer.families:
                best = max(answer.families, key=lambda name: answer.families[name][0])
                hits[method][cause].append(float(best == CAUSES[cause]))
    return {
        method: {
            cause: {"share": float(np.mean(values)), "cases": len(values)}
            for cause, values in of_cause.items()
            if values
        }
        for method, of_cause in hits.items()
    }


def table(
    found: Found, methods: list[str], seconds: dict[str, float]
) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a way and a method a row, means over users; marks: better than both
    controls, paired over users.
    """
    controls = [control for control in CONTROLS if control in methods]
    worst: dict[tuple[str, str, str], float] = {}
    for way in WAYS:
        for name, sign in MEASURES.items():
            for method in methods:
                for control in controls if method not in CONTROLS else ():
                    test = compare(
                        sign * found[way][name][method],
                        sign * found[way][name][control],
                        SAMPLES,
                    )
                    p_value = test.p_value if test.difference > 0 else 1.0
                    key = way, name, method
                    worst[key] = max(worst.get(key, 0.0), p_value)
    corrected = dict(zip(worst, holm(list(worst.values())), strict=True))
    rows = []
    for way in WAYS:
        for method in methods:
            cells = [
                f"{found[way][name][method].mean():.3f}{mark(corrected.get((way, name, method), 1.0))}"
                for name in MEASURES
            ]
            rows.append([way, method, *cells, f"{seconds[method]:.2f}"])
    return ["left out by being", "method", *MEASURES, "seconds an item"], rows


def _causes_table(planted: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for method, of_cause in planted.items():
        cells = [
            f"{of_cause[cause]['share']:.1%} of {of_cause[cause]['cases']}"
            if cause in of_cause
            else ""
            for cause in CAUSES
        ]
        rows.append([method, *cells])
    return ["method", *CAUSES], rows


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--model_path",
        type=Path,
        default=Path("checkpoints/best"),
        help="(default: %(default)s)",
    )
    add(
        "--data_dir",
        default="",
        help="folder with the data set's files (default: as in training)",
    )
    add(
        "--users",
        type=int,
        default=500,
        help="how many, drawn at random (default: %(default)s)",
    )
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add(
        "--jobs",
        type=int,
        default=1,
        help="processes; they share the cores (default: %(default)s)",
    )
    add(
        "--work",
        type=Path,
        default=Path("runs/faithfulness"),
        help="what is known of each user, so that a stopped command goes on",
    )
    add(
        "--results",
        type=Path,
        default=Path("runs/results/faithfulness"),
        help="(default: %(default)s)",
    )
    return parser


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    if flags.users < 1 or flags.jobs < 1:
        raise UserError("--users and --jobs must be at least 1")
    scorer, data, settings = _loaded(flags.model_path, flags.data_dir)
    # From the second sixth of the draw: DEFAULT, BLOCK_ENDS, BLOCK_WAYS and ATTENTION were chosen
    # on others.
    draw = 1 + np.random.default_rng(0).permutation(data.num_users)
    users = np.roll(draw, -(data.num_users // 6))[: flags.users].tolist()
    lines = flags.work / f"{version_of(flags.model_path, data, flags.methods)}.jsonl"
    rows = measured(
        flags.model_path, flags.data_dir, users, flags.methods, flags.jobs, lines
    )
    found = {
        way: {
            name: {
                method: np.array([row["measures"][way][name][method] for row in rows])
                for method in flags.methods
            }
            for name in MEASURES
        }
        for way in WAYS
    }
    seconds = {
        method: float(np.mean([row["seconds"][method] for row in rows]))
        for method in flags.methods
    }
    agreement = {
        one: {
            other: float(np.mean([row["agreement"][one][other] for row in rows]))
            for other in rows[0]["agreement"][one]
        }
        for one in flags.methods
    }
    note = (
        f"{data.name}: the item recommended first to each of {len(users):,} random users, whole history, its newest "
        f"{settings.model.seq_length} interactions at most; split {data.split_hash}; one trained model (seed "
        f"{settings.train.seed}); * better than {' and '.join(CONTROLS)}, randomisation test over users, Holm, "
        f"p < .05, ** .01, *** .001; {data.note}"
    )
    tables = [("Faithfulness", note, *table(found, flags.methods, seconds))]
    caption = (
        "Spearman's rank correlation of the contributions of an item's history, by two methods; on the diagonal "
        "by one method under two seeds; means over users"
    )
    cells = [
        [
            one,
            *(
                f"{agreement[one][other]:.2f}" if other in agreement[one] else ""
                for other in flags.methods
            ),
        ]
        for one in flags.methods
    ]
    tables.append(("Agreement", caption, ["", *flags.methods], cells))
    weights = hashlib.sha256((flags.model_path / WEIGHTS).read_bytes()).hexdigest()[:16]
    summaries = {
        way: {
            name: {method: interval(values) for method, values in of_method.items()}
            for name, of_method in of_name.items()
        }
        for way, of_name in found.items()
    }
    content = {
        "note": note,
        "git_commit": git_commit(),
        "weights": weights,
        "settings": recorded(settings),
        "seconds an item": seconds,
        "agreement": agreement,
        "measures": summaries,
    }
    if data.name == "synthetic":
        content["planted causes"] = planted = planted_causes(
            scorer, data, flags.methods
        )
        caption = (
            f"held-out interactions with {FEWEST} and more before them, by what caused them: the causing item "
            f"among the first {FIRST} contributions; the causing family first"
        )
        tables.append(("Planted causes", caption, *_causes_table(planted)))
    flags.results.mkdir(parents=True, exist_ok=True)
    texts = []
    for title, caption, header, cells in tables:
        print_table(title, caption, header, cells)
        texts += [caption, table_text(header, cells).strip()]
    write_json(flags.results / f"{data.name}.json", content)
    (flags.results / f"{data.name}.md").write_text(
        "\n\n".join(texts) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
