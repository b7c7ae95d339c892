"""How well are films ranked that training never saw? `python -m ablations.cold_films`

A tenth of the films is drawn at random and every interaction with them taken out; a model is trained on the others, and
then the films join its catalogue with nothing but title, year and genres. Each person who watched some of them is asked
for one: the target is the last of them, the history what they watched of the other films before it, the candidates are
the new films that they had not watched by then. By chance every place is as likely.

A row a kind of encoder, beside the films' own vectors. The control has no encoder: it places a new film among those
with its genres, and every row is compared with it in pairs, as are two baselines that train nothing. Any flag of
trainer.py may follow and holds for all rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.once import trained
from ablations.study import code_version
from baselines.neighbours import GenreNeighbours
from baselines.popularity import GenrePopularity
from batches import History, history_batch
from command_line import parse_command_line
from data_processor import UNKNOWN, Catalogue, SequenceData, process
from evaluation.metrics import bootstrap_interval, ranks
from evaluation.protocols import Ranker
from evaluation.report import print_table, table_text
from evaluation.significance import compare, holm, mark
from item_encoders.text import available, text_vectors
from readers import read_interactions
from settings import BOOKKEEPING, Settings
from support.arguments import ArgumentParser
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tracking import git_commit

BATCH, SHARE = 128, 0.1
SENTENCE = "title, sentence encoder"
NOTHING = {"genre_encoder": False, "year_encoder": False}
CONTROL = "nothing; placed by genre"
ROWS: dict[str, dict[str, Any]] = {
    CONTROL: NOTHING,
    "genres and year": {},
    "title, n-grams": {**NOTHING, "title_encoder": "ngrams"},
    SENTENCE: {**NOTHING, "title_encoder": "sentence"},
    "graph, rgcn": {**NOTHING, "graph_encoder": "rgcn"},
    "all of them": {"title_encoder": "auto", "graph_encoder": "rgcn"},
}
BASELINES = {"popularity of the films with its genres": GenrePopularity, "genre neighbours": GenreNeighbours}


@dataclasses.dataclass(frozen=True)
class ColdRequests:
    """What people are asked. Q requests; indices are those of the whole catalogue."""

    histories: list[History]
    targets: np.ndarray  # (Q,) item_index
    candidates: list[np.ndarray]  # of each request, the target among them


def world(settings: Settings, seed: int) -> tuple[SequenceData, SequenceData, np.ndarray]:
    """(all data, the data without every interaction with the films that are drawn, their raw ids)."""
    interactions = read_interactions(settings.data.dataset, settings.data.data_dir)
    whole = process(interactions, settings.data)
    films = np.random.default_rng(seed).permutation(whole.catalogue.movie_ids)
    taken = films[:max(1, int(SHARE * len(films)))]
    ratings = interactions.ratings[~interactions.ratings["movie_id"].isin(taken)]
    return whole, process(dataclasses.replace(interactions, ratings=ratings), settings.data), taken


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


def measured(best: np.ndarray, worst: np.ndarray, requests: ColdRequests) -> dict[str, np.ndarray]:
    """HR@10 and AUC (the chance that the target stands before another candidate), (Q,) each, from the ranks of
    `cold_ranks`; of films with equal scores any order may be meant: the mean over all."""
    others = np.array([len(candidates) for candidates in requests.candidates]) - 1
    return {"HR@10": np.clip((11 - best) / (worst - best + 1), 0, 1),
            "AUC": 1 - ((best + worst) / 2 - 1) / np.maximum(1, others)}


def with_films(known: SequenceData, catalogue: Catalogue) -> SequenceData:
    """The known interactions, with the films of a larger catalogue."""
    catalogue = dataclasses.replace(catalogue, user_ids=known.catalogue.user_ids)
    items = catalogue.item_index(known.catalogue.movie_id(known.items))
    return dataclasses.replace(known, catalogue=catalogue, items=items)


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
                        help="trained models; none is trained again by the same code (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("runs/results/cold-films"),
                        help="(default: %(default)s; what is reported: results/cold-films)")
    flags, rest = parser.parse_known_args(argv)
    settings, _ = parse_command_line(rest, "", preset="quick")
    settings = settings.replace(max_minutes=0.0)  # as many steps for all
    from_nothing_alone(settings)
    rows = {name: settings.replace(**ROWS[name]) for name in flags.rows}
    for own in rows.values():  # now, not after an hour of training
        if own.model.title_encoder != "none":
            text_vectors(["is it installed?"], own.model.title_encoder)
    whole, known, taken = world(settings, flags.films_seed)
    requests = cold_requests(whole, known, np.sort(whole.catalogue.item_index(taken)))
    if len(requests.targets) == 0:
        raise UserError("nobody watched a new film after another one; use a larger data set")
    here = with_films(known, whole.catalogue)
    found = {name: measured(*cold_ranks(build(here), requests, settings.model.seq_length), requests)
             for name, build in BASELINES.items()}
    records: dict[str, dict[str, Any]] = {name: {} for name in BASELINES}
    for name, own in rows.items():
        print(f"{name}: {len(known.items):,} interactions with {len(known.catalogue.movie_ids):,} films", flush=True)
        model, best, _ = trained(own, known, flags.work)
        larger = model.for_catalogue(known.catalogue, here.catalogue)
        found[name] = measured(*cold_ranks(larger, requests, own.model.seq_length), requests)
        records[name] = {"validation": best["NDCG@10"], "seconds": round(best["seconds"], 1), "settings": recorded(own)}
    chance = {"HR@10": float(np.mean([min(1, 10 / len(among)) for among in requests.candidates])), "AUC": 0.5}
    for name, row in summary(found, chance).items():
        records[name] |= row
    note = (f"{whole.name}: {len(taken)} of {len(whole.catalogue.movie_ids):,} films drawn (seed {flags.films_seed}) "
            f"and unseen in training; {len(requests.targets):,} people asked for the last of them that they watched, "
            f"among those they had not yet, of ties the mean over all orders; training holds what they watched of the "
            f"other films, later too; 95 % bootstrap intervals over people; over the control {CONTROL!r}: paired "
            f"randomisation test over people, p corrected (Holm), * .05 ** .01 *** .001; training seed "
            f"{settings.train.seed}; validation: NDCG@10 of the known films; commit {git_commit()}"
            f"{'; ' + whole.note if whole.note else ''}")
    _write(flags.results, note, chance, records)


def summary(found: dict[str, dict[str, np.ndarray]], metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Row -> metric -> mean, its interval, and what it has over the control, in pairs; p corrected for all (Holm)."""
    result: dict[str, dict[str, Any]] = {name: {} for name in found}
    gains = []
    for name, metric in itertools.product(found, metrics):
        low, high = bootstrap_interval(found[name][metric], 1000)
        result[name][metric] = {"mean": float(found[name][metric].mean()), "low": low, "high": high}
        if name != CONTROL and CONTROL in found:
            gain = compare(found[name][metric], found[CONTROL][metric])
            gains.append({part: getattr(gain, part) for part in ("difference", "low", "high", "p_value")})
            result[name][metric]["gain"] = gains[-1]
    for gain, p_value in zip(gains, holm([gain["p_value"] for gain in gains]), strict=True):
        gain["p_value"] = p_value
    return result


def _write(place: Path, note: str, chance: dict[str, float], records: dict[str, dict[str, Any]]) -> None:
    """Print the table, and keep it and its figures."""
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "results.json", {
        "note": note, "git_commit": git_commit(), "code": code_version(), "chance": chance, "rows": records})
    header = ["what is known of new films", "HR@10", "over the control", "AUC", "over the control", "validation"]
    cells = [["by chance", *(cell for metric in chance for cell in (f"{chance[metric]:.4f}", "")), ""],
             *([name, *(cell for metric in chance for cell in _cells(row[metric])),
                f"{row['validation']:.4f}" if "validation" in row else ""] for name, row in records.items())]
    print_table("Films that training never saw", note, header, cells)
    (place / "table.md").write_text(f"{note}\n\n{table_text(header, cells)}", encoding="utf-8")


def _cells(figure: dict[str, Any]) -> tuple[str, str]:
    gain = figure.get("gain")
    over = "" if gain is None else f"{gain['difference']:+.4f}{mark(gain['p_value'])}\n" \
                                   f"{gain['low']:+.3f} to {gain['high']:+.3f}"
    return f"{figure['mean']:.4f}\n{figure['low']:.3f}-{figure['high']:.3f}", over


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings that a result depends on."""
    settings = settings.replace(title_encoder=available(settings.model.title_encoder))
    return {key: value for key, value in settings.to_dict().items() if key not in BOOKKEEPING}


if __name__ == "__main__":
    sys.exit(run_command(main))
