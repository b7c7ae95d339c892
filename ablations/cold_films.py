"""How well are films ranked that training never saw? `python -m ablations.cold_films`

A tenth of the films is drawn at random and every interaction with them taken out; a model is trained on the others, and
then the films join its catalogue with nothing but title, year and genres. Each person who watched some of them is asked
for one: the target is the last of them, the history what they watched of the other films before it, the candidates are
the new films that they had not watched by then. By chance every place is as likely.

A row a kind of encoder, beside the films' own vectors, which the model learns to do without (`--id_dropout`), in all
rows but one; the first row has none, and places a new film among those with its genres. Any flag of trainer.py may
follow and holds for all rows.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.once import trained
from ablations.study import code_version
from batches import History, history_batch
from command_line import parse_command_line
from data_processor import UNKNOWN, SequenceData, process
from evaluation.metrics import bootstrap_interval, ranks
from evaluation.protocols import Ranker
from evaluation.report import print_table, table_text
from item_encoders.text import available, text_vectors
from readers import read_interactions
from settings import BOOKKEEPING, Settings
from support.arguments import ArgumentParser
from support.checkpoint import read_json, write_json
from support.errors import UserError, run_command
from support.tracking import git_commit

BATCH, SHARE = 128, 0.1
SENTENCE = "title, sentence encoder"
NOTHING = {"genre_encoder": False, "year_encoder": False}
ROWS: dict[str, dict[str, Any]] = {
    "nothing; placed by genre": NOTHING,
    "genres and year": {},
    "genres and year, ids always there": {"id_dropout": 0.0},
    "title, n-grams": {**NOTHING, "title_encoder": "ngrams"},
    SENTENCE: {**NOTHING, "title_encoder": "sentence"},
    "graph, rgcn": {**NOTHING, "graph_encoder": "rgcn"},
    "all of them": {"title_encoder": "auto", "graph_encoder": "rgcn"},
}


@dataclasses.dataclass(frozen=True)
class ColdRequests:
    """What people are asked. Q requests; indices are those of the whole catalogue."""

    histories: list[History]
    targets: np.ndarray  # (Q,) item_index
    candidates: list[np.ndarray]  # of each request, the target among them


def cold_requests(whole: SequenceData, known: SequenceData, new: np.ndarray) -> ColdRequests:
    """Requests for the films `new` (item_index in the whole catalogue) by the people of the data without them."""
    is_new = np.zeros(whole.catalogue.num_rows, dtype=bool)
    is_new[new] = True
    histories, targets, candidates = [], [], []
    for person, user in enumerate(known.catalogue.user_index(whole.catalogue.user_ids).tolist()):
        rows = np.arange(whole.offsets[person], whole.offsets[person + 1])
        asked = rows[is_new[whole.items[rows]]]
        past = rows[(rows < asked[-1]) & ~is_new[whole.items[rows]]] if user and len(asked) else []
        if len(past) == 0:
            continue
        trained = known.split.train_ends[user - 1] > known.offsets[user - 1]
        histories.append(History(whole.items[past], whole.ratings[past], whole.timestamps[past],
                                 user if trained else UNKNOWN, tuple(whole.demographics[person].tolist())))
        targets.append(whole.items[asked[-1]])
        candidates.append(np.setdiff1d(new, whole.items[asked[:-1]]))
    return ColdRequests(histories, np.array(targets), candidates)


@torch.no_grad()
def cold_ranks(ranker: Ranker, requests: ColdRequests, seq_length: int) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) rank of each target among its candidates, ties for it and ties against it."""
    found = []
    for start in range(0, len(requests.targets), BATCH):
        part = slice(start, start + BATCH)
        scores = ranker.score(history_batch(requests.histories[part], seq_length))
        kept = torch.full_like(scores, -torch.inf)
        for row, candidates in enumerate(requests.candidates[part]):
            kept[row, candidates] = scores[row, candidates]
        targets = torch.from_numpy(requests.targets[part])[:, None]  # (B, 1)
        worst = ranks(kept, targets)[:, 0]
        found.append((worst + 1 - (kept == kept.gather(1, targets)).sum(1), worst))
    best, worst = (torch.cat(column).numpy() for column in zip(*found, strict=True))
    return best, worst


def measure(rank: np.ndarray, requests: ColdRequests) -> dict[str, dict[str, float]]:
    """HR@10 and AUC (the chance that the target stands before another candidate) beside what chance gives."""
    others = np.array([len(candidates) for candidates in requests.candidates]) - 1
    values = {"HR@10": (rank <= 10, np.minimum(1.0, 10 / (others + 1))),
              "AUC": (1 - (rank - 1) / np.maximum(1, others), np.full(len(rank), 0.5))}
    result = {}
    for name, (value, chance) in values.items():
        low, high = bootstrap_interval(value.astype(float), 1000)
        result[name] = {"mean": float(value.mean()), "low": low, "high": high, "chance": float(chance.mean())}
    return result


def from_nothing_alone(settings: Settings) -> None:
    """Raises `UserError` for settings that another model enters by: it may know what is new here."""
    if settings.train.teacher or settings.train.start_from:
        raise UserError("what the models of this table begin with is not to be chosen: drop --teacher and --start_from")


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    installed = [name for name in ROWS if name != SENTENCE or available("auto") == "sentence"]
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=installed,
                        help=f"(default: all; {SENTENCE!r} where requirements-text.txt is installed)")
    parser.add_argument("--films_seed", type=int, default=0, help="of the draw of new films")
    parser.add_argument("--work", type=Path, default=Path("runs/cold_films"),
                        help="trained models (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("runs/results/cold-films"),
                        help="rows that lie there already stay, and are not trained again by the same code (default: "
                             "%(default)s; what is reported: results/cold-films)")
    flags, rest = parser.parse_known_args(argv)
    settings, _ = parse_command_line(["--id_dropout", "0.3", *rest], "", preset="quick")
    settings = settings.replace(max_minutes=0.0)  # as many steps for all
    from_nothing_alone(settings)
    if settings.model.fusion == "query_key":
        raise UserError("--fusion query_key ranks films by their own vectors alone, which new ones lack; take another")
    rows = {name: settings.replace(**ROWS[name]) for name in flags.rows}
    for own in rows.values():  # now, not after an hour of training
        if own.model.title_encoder != "none":
            text_vectors(["is it installed?"], own.model.title_encoder)
    interactions = read_interactions(settings.data.dataset, settings.data.data_dir)
    whole = process(interactions, settings.data)
    films = np.random.default_rng(flags.films_seed).permutation(whole.catalogue.movie_ids)
    taken = films[:max(1, int(SHARE * len(films)))]
    known = process(dataclasses.replace(interactions, ratings=interactions.ratings[
        ~interactions.ratings["movie_id"].isin(taken)]), settings.data)
    requests = cold_requests(whole, known, np.sort(whole.catalogue.item_index(taken)))
    if len(requests.targets) == 0:
        raise UserError("nobody watched a new film after another one; use a larger data set")
    note = (f"{whole.name}: {len(taken)} of {len(films):,} films drawn (seed {flags.films_seed}) and unseen in "
            f"training; {len(requests.targets):,} people asked for the last of them that they watched, among those "
            f"they had not yet, ties against it; training holds what they watched of the other films, later too; 95 % "
            f"bootstrap intervals over people, training seed {settings.train.seed}; validation: NDCG@10 of the known "
            f"films{'; ' + whole.note if whole.note else ''}")
    path = flags.results / "results.json"
    reported = read_json(path) if path.exists() else {}
    records = {name: row for name, row in reported["rows"].items() if name in ROWS and row["settings"] == recorded(
        settings.replace(**ROWS[name]))} if reported.get("note") == note else {}
    for name, own in rows.items():
        if records.get(name, {}).get("code") == code_version():
            continue
        print(f"{name}: training on {len(known.items):,} interactions with {len(known.catalogue.movie_ids):,} films",
              flush=True)
        records[name] = trained_row(own, known, whole, requests, flags.work)
        flags.results.mkdir(parents=True, exist_ok=True)
        write_json(path, {"note": note, "rows": records})
    header = ["what is known of new films", "HR@10", "by chance", "AUC", "by chance", "validation", "commit"]
    cells = [[name, *(cell for metric in ("HR@10", "AUC") for cell in (
        f"{row[metric]['mean']:.4f}\n{row[metric]['low']:.3f}-{row[metric]['high']:.3f}",
        f"{row[metric]['chance']:.4f}")), f"{row['validation']:.4f}", row["git_commit"]]
        for name, row in records.items()]
    print_table("Films that training never saw", note, header, cells)
    (flags.results / "table.md").write_text(f"{note}\n\n{table_text(header, cells)}", encoding="utf-8")


def trained_row(settings: Settings, known: SequenceData, whole: SequenceData, requests: ColdRequests,
                work: Path) -> dict[str, Any]:
    """Train on the known films, add the new ones, ask."""
    model, best, _ = trained(settings, known, work)
    films = dataclasses.replace(whole.catalogue, user_ids=known.catalogue.user_ids)
    _, rank = cold_ranks(model.for_catalogue(known.catalogue, films), requests, settings.model.seq_length)
    return {**measure(rank, requests), "validation": best["NDCG@10"], "seconds": round(best["seconds"], 1),
            "git_commit": git_commit(), "code": code_version(), "settings": recorded(settings)}


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings that a result depends on."""
    settings = settings.replace(title_encoder=available(settings.model.title_encoder))
    return {key: value for key, value in settings.to_dict().items() if key not in BOOKKEEPING}


if __name__ == "__main__":
    sys.exit(run_command(main))
