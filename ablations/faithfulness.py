"""Are the explanations true? `python -m explanations.faithfulness --model_path checkpoints/best`

For each person asked about, the film recommended first is explained by every method, and what the method says is put to
the test on the model itself, with an interaction left out in three ways: removed, masked, or replaced by a random film.
(No method looks for its answer by replacing films.)

    deletion           area under the score while the interactions leave, the most important first; low is good
    insertion          area under the score while they come back, the most important first; high is good
    comprehensiveness  fall of the score without the most important 1, 5, 10, 20, 50 %; high is good
    sufficiency        fall of the score with nothing but them; low is good (both: DeYoung et al., arXiv:1911.03429)

Areas are in units of the score (log-probability) minus the score with everything known. Beside that: how much two
methods agree on one film, and one method with itself under another seed (rank correlation). On the synthetic data,
whose causes are known, also: how often is the film that caused the next one among the first three contributions, and
how often is the family that caused it (age group, season) the first of the families?
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

from batches import history_of
from data_processor import FIRST_ITEM, SequenceData
from evaluation.metrics import bootstrap_interval
from evaluation.report import print_table, table_text
from evaluation.significance import compare, holm, mark
from explanations.attribution import METHODS, Absence, Attribution, Question, explain
from model_io import data_of, load_model
from readers import read_interactions
from settings import BOOKKEEPING, Settings
from support.arguments import ArgumentParser
from support.checkpoint import WEIGHTS, write_json
from support.errors import UserError, run_command
from support.processes import die_with
from support.tracking import git_commit

CURVE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # shares of the history
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
WAYS: tuple[Absence, ...] = ("removed", "masked", "replaced")
MEASURES = {"deletion": -1, "insertion": 1, "comprehensiveness": 1, "sufficiency": -1}  # 1 = high is good
CONTROLS = ("attention_rollout", "random")
SAMPLES = 100_000  # of the randomisation test: Holm's correction of all comparisons must leave room for p < .001
FIRST = 3  # contributions that are looked at for the true cause
FEWEST = 20  # interactions before a planted cause


def measures(question: Question, contributions: np.ndarray) -> dict[str, float]:
    """The four figures for the one film of a question and the contributions (L,) of its history."""
    length, order = question.length, np.argsort(-contributions, kind="stable")
    sizes = {share: int(np.ceil(share * length)) for share in (*CURVE, *SHARES)}
    first = {size: np.isin(np.arange(length), order[:size]) for size in sizes.values()}
    rows = list(first)
    without = dict(zip(rows, question.scores(np.stack([~first[size] for size in rows]))[:, 0], strict=True))
    alone = dict(zip(rows, question.scores(np.stack([first[size] for size in rows]))[:, 0], strict=True))
    whole = without[0]
    return {"deletion": float(np.trapezoid([without[sizes[share]] - whole for share in CURVE], CURVE)),
            "insertion": float(np.trapezoid([alone[sizes[share]] - whole for share in CURVE], CURVE)),
            "comprehensiveness": float(np.mean([whole - without[sizes[share]] for share in SHARES])),
            "sufficiency": float(np.mean([whole - alone[sizes[share]] for share in SHARES]))}


def question_of(model: torch.nn.Module, data: SequenceData, person: int, end: int | None = None,
                film: int | None = None) -> Question:
    """Why is the first recommendation (or `film`) what it is, after a person's history before `end`, or the whole?"""
    history = history_of(data, person, end)
    allowed = torch.arange(data.catalogue.num_rows) >= FIRST_ITEM
    allowed[torch.from_numpy(history.items)] = False
    everything = Question(model, history, np.flatnonzero(allowed.numpy()), allowed)
    if film is None:
        film = int(everything.candidates[everything.scores(np.ones((1, everything.length), dtype=bool))[0].argmax()])
    others = np.setdiff1d(everything.candidates, film)
    return Question(model, history, np.array([film]), allowed,
                    stand_ins=np.random.default_rng(person).choice(others, everything.length))


def figures_of(model: torch.nn.Module, data: SequenceData, methods: list[str], person: int) -> dict[str, Any]:
    """What one person adds: measures (way -> name -> method -> figure), agreement (method -> other method), seconds."""
    question, seconds = question_of(model, data, person), {}
    answers: dict[tuple[str, int], Attribution] = {}
    for method in methods:
        began = time.perf_counter()
        for seed in (0, 1):
            fresh = dataclasses.replace(question)  # knows nothing of what another method asked
            answers[method, seed] = explain(fresh, method, seed + 2 * person)
        seconds[method] = (time.perf_counter() - began) / 2
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in WAYS:
        asked = Question(question.model, question.history, question.candidates, question.allowed, way,
                         question.stand_ins)
        of_method = {method: measures(asked, answers[method, 0].history[0]) for method in methods}
        found[way] = {name: {method: of_method[method][name] for method in methods} for name in MEASURES}
    agreement: dict[str, dict[str, float]] = {one: {} for one in methods}
    for place, one in enumerate(methods):
        for other in methods[place:]:
            pair = answers[one, 0].history[0], answers[other, 1 if one == other else 0].history[0]
            agreement[one][other] = 1.0 if np.array_equal(*pair) else \
                float(np.nan_to_num(stats.spearmanr(*pair).statistic))
    return {"person": person, "measures": found, "agreement": agreement, "seconds": seconds}


def measured(place: Path, data_dir: str, people: list[int], methods: list[str], jobs: int,
             kept: Path) -> list[dict[str, Any]]:
    """`figures_of` each of these people about the model in `place`, by so many processes. A person is a line of the
    file `kept`, and one whose line stands there already is not asked again."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(kept.read_text(encoding="utf-8").rpartition("\n")[:2]) if kept.exists() else ""  # no torn one
    try:
        known = {row["person"]: row for row in map(json.loads, lines.splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{kept} is damaged ({error}): delete it, and the same command asks everybody again") from error
    kept.write_text(lines, encoding="utf-8")
    missing, ask = [person for person in people if person not in known], partial(_ask, place, data_dir, methods)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(kept.open("a", buffering=1, encoding="utf-8"))
        if jobs > 1 and missing:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(
                jobs, _begin, (os.getpid(), max(1, torch.get_num_threads() // jobs))))
            rows = pool.imap_unordered(ask, missing)
        else:
            rows = map(ask, missing)
        for row in rows:
            known[row["person"]] = row
            file.write(json.dumps(row) + "\n")
            if len(known) % 25 == 0:
                print(f"{len(known)} people asked about", flush=True)
    return [known[person] for person in people]


def _begin(parent: int, threads: int) -> None:
    """In a process that answers for a share of the people."""
    die_with(parent)
    torch.set_num_threads(threads)


def _ask(place: Path, data_dir: str, methods: list[str], person: int) -> dict[str, Any]:
    model, data, _ = _loaded(place, data_dir)
    return figures_of(model, data, methods, person)


@cache
def _loaded(place: Path, data_dir: str) -> tuple[torch.nn.Module, SequenceData, Settings]:
    """The model of a checkpoint folder, about to score many histories, and what it was trained on."""
    model, settings, _, info = load_model(place, data_dir=data_dir or None)
    model.fix_item_table()
    return model, data_of(settings.replace(data_dir=data_dir or settings.data.data_dir).data, info, place), settings


def version_of(place: Path, data: SequenceData, methods: list[str]) -> str:
    """What figures depend on: the model, the data, the methods and the code, as a hash."""
    digest = hashlib.sha256(f"{data.split_hash} {methods}".encode())
    root = Path(__file__).parent.parent
    for file in (place / WEIGHTS, *sorted(root.glob("*.py")), *sorted(root.glob("explanations/*.py")),
                 *sorted(root.glob("item_encoders/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def planted_causes(model: torch.nn.Module, data: SequenceData, methods: list[str], seed: int = 0) -> dict[str, Any]:
    """On the synthetic data, for the held-out interactions with FEWEST before them: share of those with an earlier film
    as their cause that have it among the FIRST contributions, and of those with the age group or the season as their
    cause that have that family first."""
    rows = read_interactions("synthetic", "").ratings
    known = {(row.user_id, row.movie_id): (row.cause, row.cause_movie_id) for row in rows.itertuples()}
    requests, catalogue = data.split.requests["test"], data.catalogue
    wanted = {"age_group": "demographics", "season": "times"}
    hits: dict[str, dict[str, list[float]]] = {method: {"earlier_film": [], **{name: [] for name in wanted}}
                                               for method in methods}
    for person, end in zip(requests.people.tolist(), requests.ends.tolist(), strict=True):
        film = int(data.items[end])
        cause, source = known[int(catalogue.user_ids[person]), int(catalogue.movie_id(film))]
        if cause not in ("earlier_film", *wanted) or end - data.offsets[person] < FEWEST:
            continue
        question = question_of(model, data, person, end, film)
        for method in methods:
            answer = explain(question, method, seed + person)  # no two cases by the same draw
            if cause == "earlier_film":
                first = question.read.items[np.argsort(-answer.history[0], kind="stable")[:FIRST]]
                hits[method][cause].append(float(int(catalogue.item_index([source])[0]) in first))
            elif answer.families:
                best = max(answer.families, key=lambda name: answer.families[name][0])
                hits[method][cause].append(float(best == wanted[cause]))
    return {method: {cause: {"share": float(np.mean(values)), "cases": len(values)}
                     for cause, values in of_cause.items() if values} for method, of_cause in hits.items()}


def table(found: dict[str, dict[str, dict[str, np.ndarray]]], methods: list[str],
          more: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a way and a method a row, means over people; marks: better than both controls, paired over
    people."""
    header = ["left out by being", "method", *MEASURES, "seconds a film"]
    tests: dict[tuple[str, str, str], list[float]] = {}
    for way in WAYS:
        for name, sign in MEASURES.items():
            for method in (method for method in methods if method not in CONTROLS):
                for control in (control for control in CONTROLS if control in methods):
                    test = compare(sign * found[way][name][method], sign * found[way][name][control], SAMPLES)
                    tests.setdefault((way, name, method), []).append(
                        test.p_value if test.difference > 0 else 1.0)
    worst = {key: max(values) for key, values in tests.items()}
    corrected = dict(zip(worst, holm(list(worst.values())), strict=True))
    rows = [[way, method, *(f"{found[way][name][method].mean():.3f}{mark(corrected.get((way, name, method), 1.0))}"
                            for name in MEASURES), f"{more['seconds a film'][method]:.2f}"]
            for way in WAYS for method in methods]
    return header, rows


def agreement_table(agreement: dict[str, dict[str, float]], methods: list[str]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the rank correlations; on the diagonal a method with itself under another seed."""
    return ["", *methods], [[one, *(f"{agreement[one][other]:.2f}" if other in agreement[one] else ""
                                    for other in methods)] for one in methods]


def _summary(values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(values, 1000)
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--model_path", type=Path, default=Path("checkpoints/best"), help="(default: %(default)s)")
    parser.add_argument("--data_dir", default="",
                        help="folder with the data set's original files (default: as in training)")
    parser.add_argument("--people", type=int, default=500, help="how many, drawn at random (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--jobs", type=int, default=1, help="processes; they share the cores (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/faithfulness"),
                        help="what is known of each person, so that a stopped command goes on")
    parser.add_argument("--results", type=Path, default=Path("results/faithfulness"))
    flags = parser.parse_args(argv)
    if flags.people < 1:
        raise UserError("--people must be at least 1")
    if flags.jobs < 1:
        raise UserError("--jobs must be at least 1")
    model, data, settings = _loaded(flags.model_path, flags.data_dir)
    # From the second sixth of the draw: DEFAULT, BLOCK_ENDS, BLOCK_WAYS and ATTENTION were chosen on others.
    people = np.roll(np.random.default_rng(0).permutation(data.num_users), -(data.num_users // 6))[:flags.people]
    rows = measured(flags.model_path, flags.data_dir, people.tolist(), flags.methods, flags.jobs,
                    flags.work / f"{version_of(flags.model_path, data, flags.methods)}.jsonl")
    found = {way: {name: {method: np.array([row["measures"][way][name][method] for row in rows])
                          for method in flags.methods} for name in MEASURES} for way in WAYS}
    more = {"seconds a film": {method: float(np.mean([row["seconds"][method] for row in rows]))
                               for method in flags.methods},
            "agreement": {one: {other: float(np.mean([row["agreement"][one][other] for row in rows]))
                                for other in rows[0]["agreement"][one]} for one in flags.methods}}
    controls = [name for name in CONTROLS if name in flags.methods]
    note = (f"{data.name}: the film recommended first to each of {len(people):,} random people, whole history, "
            f"its newest {settings.model.seq_length} interactions at most; split {data.split_hash}; one trained model "
            f"(seed {settings.train.seed}); * better than {' and '.join(controls)}, randomisation test over people, "
            f"Holm, p < .05, ** .01, *** .001" + (f"; {data.note}" if data.note else ""))
    header, rows = table(found, flags.methods, more)
    print_table("Faithfulness", note, header, rows)
    weights = hashlib.sha256((flags.model_path / WEIGHTS).read_bytes()).hexdigest()[:16]
    kept = {key: value for key, value in settings.to_dict().items() if key not in BOOKKEEPING}
    content = {"note": note, "git_commit": git_commit(), "weights": weights, "settings": kept, **more, "measures": {
        way: {name: {method: _summary(values) for method, values in of_method.items()}
              for name, of_method in of_name.items()} for way, of_name in found.items()}}
    texts = [note, table_text(header, rows)]
    caption = ("Spearman's rank correlation of the contributions of a film's history, by two methods; on the diagonal "
               "by one method under two seeds; means over people")
    header, rows = agreement_table(more["agreement"], flags.methods)
    print_table("Agreement", caption, header, rows)
    texts += [caption, table_text(header, rows)]
    if data.name == "synthetic":
        content["planted causes"] = planted = planted_causes(model, data, flags.methods)
        causes = ["earlier_film", "age_group", "season"]
        shares = [[method, *(f"{planted[method][cause]['share']:.1%} of {planted[method][cause]['cases']}"
                             if cause in planted[method] else "" for cause in causes)] for method in flags.methods]
        caption = (f"held-out interactions with {FEWEST} and more before them, by what caused them: the causing film "
                   f"among the first {FIRST} contributions; the causing family first")
        print_table("Planted causes", caption, ["method", *causes], shares)
        texts += [caption, table_text(["method", *causes], shares)]
    flags.results.mkdir(parents=True, exist_ok=True)
    write_json(flags.results / f"{data.name}.json", content)
    (flags.results / f"{data.name}.md").write_text("\n\n".join(text.strip() for text in texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
