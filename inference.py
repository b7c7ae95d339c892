"""Recommend films, with reasons: `python inference.py --user_id 123 --k 10`.

For somebody in the data the history is theirs; for anybody else give `--history "260,1210"` or titles
(`--history "Star Wars; Toy Story (1995)"`). Everybody at once:
`--users all --history_until test --output recs.parquet`. All ids are the data set's own (raw) ids.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from batches import History, history_batch, history_of
from data_processor import FIRST_ITEM, NO_TIME, PAD, UNKNOWN, SequenceData
from evaluation.protocols import hide_seen, length_groups
from evaluation.report import write_parquet
from explanations.attribution import Question, attention, explain
from explanations.counterfactual import other_people, smallest_set
from explanations.figures import draw
from explanations.sentences import sentence
from explanations.tables import EXPLANATION, UNIT, explanation_table
from film_search import find_films
from model_io import data_of, load_model
from readers.interactions import AGE_GROUPS, GENDERS, GENRES
from splits import Requests
from support.arguments import ArgumentParser
from support.devices import uses_bf16
from support.errors import UserError, run_command

if TYPE_CHECKING:
    import pandas as pd


class RecommendationEngine:
    """A trained model with its catalogue and, when somebody in the data is asked for, the data it was trained on.

    Raises `UserError` for whatever the caller can mend: unknown ids, empty histories, unusable checkpoints.
    """

    def __init__(self, model_path: str | Path = "checkpoints/best", metadata_path: str | Path | None = None,
                 data_dir: str | None = None) -> None:
        self.model, self.settings, self.catalogue, self.info = load_model(
            Path(model_path), Path(metadata_path) if metadata_path else None)
        self.model_path, self.data_dir = Path(model_path), data_dir
        if hasattr(self.model, "fix_item_table"):
            self.model.fix_item_table()
        self.seq_length = self.settings.model.seq_length

    @cached_property
    def data(self) -> SequenceData:
        """The data set of the checkpoint, read when first needed and checked against the checkpoint's hash."""
        settings = self.settings.data
        return data_of(dataclasses.replace(settings, data_dir=self.data_dir or settings.data_dir), self.info,
                       self.model_path)

    @property
    def knows_request_time(self) -> bool:
        """Whether the model was trained with the time of the request."""
        return self.settings.model.model == "enhanced" and self.settings.model.query_time == "known"

    # The three questions --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def get_recommendations(self, user_id: int | None = None, item_sequence: Sequence[int] | None = None, k: int = 10,
                            filter_seen: bool = True, *, genres: Sequence[str] = (), year_from: int | None = None,
                            at: int | None = None) -> list[dict[str, Any]]:
        """The `k` best films, best first: rank, movie_id, title, year, genres, score and, with a rating head,
        predicted_rating.

        user_id: somebody in the data, or None. item_sequence: film ids, oldest first; without it the person's whole
        history. genres: keep films with any of these. year_from: keep films of that year or later. at: moment of the
        request in seconds since 1970, for a model trained with known request time.
        """
        history = self.history(user_id, item_sequence, at)
        states = self.model.request_states(history_batch([history], self.seq_length))  # (1, D)
        scores = self.model.rank(states)[0]  # (R,)
        allowed = self._allowed(history, filter_seen, genres, year_from)
        if not 1 <= k <= int(allowed.sum()):
            raise UserError(f"--k {k}: between 1 and {int(allowed.sum())} films can be recommended here")
        best = scores.masked_fill(~allowed, -torch.inf).topk(k)
        films = best.indices.numpy()
        rows = [{"rank": rank, **self.film(index), "score": round(float(score), 4)}
                for rank, (index, score) in enumerate(zip(films, best.values, strict=True), start=1)]
        if getattr(self.model, "rating_head", None) is not None:
            for row, stars in zip(rows, self.model.rate_from(states.expand(k, -1), best.indices), strict=True):
                row["predicted_rating"] = round(float(stars), 2)
        return rows

    def explain_recommendation(self, user_id: int | None, item_sequence: Sequence[int] | None,
                               recommended_item_id: int, *, at: int | None = None) -> dict[str, Any]:
        """What speaks for a film: the effect on its log-probability of each history item and each feature family,
        found by leaving it out and scoring again (explanations/attribution.py)."""
        return self.explain_many(user_id, item_sequence, [recommended_item_id], at=at)[0]

    def explain_many(self, user_id: int | None, item_sequence: Sequence[int] | None, movie_ids: Sequence[int], *,
                     at: int | None = None) -> list[dict[str, Any]]:
        """`explain_recommendation` for several films at the cost of one."""
        question = self._question(user_id, item_sequence, movie_ids, at)
        found, answers = explain(question), []
        for number, candidate in enumerate(question.candidates):
            order = np.argsort(-found.history[number], kind="stable")
            films = [{**self.film(question.read.items[place]), "effect": round(float(found.history[number, place]), 4),
                      "places": int(found.places[number, place])} for place in order]
            features = {name: round(float(values[number]), 4)
                        for name, values in sorted(found.families.items(), key=lambda item: -item[1][number])}
            answers.append({
                **self.film(candidate), "rank": int(found.rank[number]), "log_probability":
                round(float(found.score[number]), 4), "history": films, "features": features,
                "sentence": sentence([(film["title"], film["effect"]) for film in films], features)})
        return answers

    def what_if(self, user_id: int | None, item_sequence: Sequence[int] | None, movie_id: int, k: int = 10, *,
                at: int | None = None) -> dict[str, Any]:
        """What would have to be otherwise: 'without', films of the history without which the film is not among the
        first k (None if it stays without any), as few as were found; 'as_another', its rank were the person of
        another gender or age group (explanations/counterfactual.py)."""
        question = self._question(user_id, item_sequence, [movie_id], at)
        places = smallest_set(question, explain(question).history[0], k)
        return {"without": None if places is None else [self.film(question.read.items[place]) for place in places],
                "as_another": [{"fact": fact, "value": value, "rank": int(ranks[0]),
                                "log_probability": round(float(scores[0]), 4)}
                               for fact, value, scores, ranks in other_people(question)]}

    def plot(self, path: str | Path, user_id: int | None, item_sequence: Sequence[int] | None,
             movie_ids: Sequence[int], *, at: int | None = None) -> None:
        """Write the contributions to each film and the attention of each layer and head as a figure; the ending of
        `path` says which kind (explanations/figures.py)."""
        maps, first, _ = attention(self._question(user_id, item_sequence, movie_ids, at))
        draw(Path(path), self.explain_many(user_id, item_sequence, movie_ids, at=at),
             [layer[:, first:, first:].numpy() for layer in maps])

    def _question(self, user_id: int | None, item_sequence: Sequence[int] | None, movie_ids: Sequence[int],
                  at: int | None) -> Question:
        history = self.history(user_id, item_sequence, at)
        candidates = self._known_films(movie_ids, "recommended_item_id")
        allowed = self._allowed(history, True, (), None)
        allowed[torch.from_numpy(candidates)] = True
        return Question(self.model, history, candidates, allowed)

    def get_user_profile(self, user_id: int) -> dict[str, Any]:
        """What the data say of a person: {'gender': 'M', 'age_group': '25-34', 'occupation_code': 7, ...}."""
        person = self._person(user_id)
        gender, age, occupation = (self.data.demographics[person] - 1).tolist()
        history = history_of(self.data, person)
        shares = self.catalogue.genres[history.items].mean(0)
        code = sorted(self.catalogue.occupations)[occupation]
        return {"user_id": int(user_id), "gender": GENDERS[gender], "age_group": list(AGE_GROUPS.values())[age],
                "occupation_code": code, "occupation": self.catalogue.occupations[code],
                "interactions": len(history.items), "mean_rating": round(float(history.ratings.mean()), 2),
                "favourite_genres": [GENRES[index] for index in np.argsort(-shares, kind="stable")[:3]],
                "last_interaction": _iso(int(history.timestamps[-1]))}

    # Everybody ------------------------------------------------------------------------------------------------------

    def recommend_all(self, user_ids: Sequence[int] | None = None, k: int = 10, until: str = "end",
                      filter_seen: bool = True, precision: str = "auto") -> pd.DataFrame:
        """Data frame user_id, item_id, rank (from 1), score for these people, or for all.

        until: 'end' ranks from whole histories; 'test' and 'validation' from what comes before that target, at its
        time if the model knows request times; for all people in the very batches that the trainer evaluates.
        precision: 'auto' encodes whole histories in bf16 where the processor has it, 'fp32' never; what ranks before
        a target is always encoded in fp32, as the trainer does. Scores are fp32 products in any case.
        """
        import pandas as pd

        data, requests = self.data, self._requests(user_ids, until)
        bf16 = until == "end" and uses_bf16(precision, torch.device("cpu"))

        @torch.no_grad()
        def rank(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            people, ends = requests.people[chosen], requests.ends[chosen]
            if until == "end" and self.knows_request_time:
                histories = [self.history(int(data.catalogue.user_ids[person]), None, None) for person in people]
            else:
                histories = [history_of(data, person, end) for person, end in zip(people, ends, strict=True)]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                scores = self.model.score(history_batch(histories, self.seq_length))  # (B, R)
            if filter_seen:
                hide_seen(scores, data, people, ends)
            best = scores.topk(min(k, scores.shape[1]))
            if k > scores.shape[1] or not bool(best.values[:, -1].isfinite().all()):
                left = int(scores.isfinite().sum(1).min())
                raise UserError(f"--k {k}: for one of these people only {left} films can be recommended")
            return people, best.indices.numpy(), best.values.numpy()

        if k < 1:
            raise UserError(f"--k {k}: must be at least 1")
        lengths = requests.ends - data.offsets[requests.people]
        groups = length_groups(lengths, self.seq_length, self.settings.eval.eval_batch_size, torch.device("cpu"))
        people, films, scores = (np.concatenate(parts) for parts in zip(*map(rank, groups), strict=True))
        order = np.argsort(people)
        return pd.DataFrame({
            "user_id": np.repeat(data.catalogue.user_ids[people[order]], k),
            "item_id": self.catalogue.movie_id(films[order].ravel()),
            "rank": np.tile(np.arange(1, k + 1), len(people)), "score": scores[order].ravel()})

    # Parts ----------------------------------------------------------------------------------------------------------

    def film(self, item_index: int) -> dict[str, Any]:
        """Raw id, title, year and genres of a film."""
        return {"movie_id": int(self.catalogue.movie_id(item_index)),
                "title": self.catalogue.titles[item_index - FIRST_ITEM],
                "year": int(self.catalogue.years[item_index]) or None,
                "genres": [GENRES[index] for index in np.flatnonzero(self.catalogue.genres[item_index])]}

    def history(self, user_id: int | None, item_sequence: Sequence[int] | None, at: int | None = None) -> History:
        """The history to rank from, with its request time if the model knows request times."""
        if at is not None and not self.knows_request_time:
            raise UserError("--at: this model was trained with request time unknown and never sees it; drop the flag "
                            "or train with --query_time known")
        if user_id is None and item_sequence is None:
            raise UserError("nobody to recommend for: give --user_id, --history or --users all")
        person = None if user_id is None else self._person(user_id)
        if item_sequence is None:
            history = history_of(self.data, person)
        else:
            items = self._known_films(item_sequence, "--history")
            if not len(items):
                raise UserError("the history is empty; give at least one film, e.g. --history \"260,1210\"")
            known = {} if person is None else {
                "user": person + 1, "demographics": tuple(self.data.demographics[person].tolist())}
            history = History(items, **known)
        if self.knows_request_time:
            history = dataclasses.replace(history, request_time=NO_TIME if history.timestamps is None and at is None
                                          else at if at is not None else typical_next_time(history.timestamps))
        return history

    def request_time_note(self, user_id: int | None, at: int | None) -> str:
        """What the output must say of the moment that recommendations are made for; '' if the model ignores it."""
        if not self.knows_request_time:
            return ""
        if at is not None:
            return f"request time: {_iso(at)}"
        if user_id is None:
            return "request time: unknown (a bare history has no times; give --at)"
        return (f"request time assumed: {_iso(self.history(user_id, None).request_time)}, the last interaction plus "
                f"the user's median gap (give --at to change it)")

    def _person(self, user_id: int) -> int:
        return int(self._people([user_id])[0])

    def _people(self, user_ids: Sequence[int]) -> np.ndarray:
        """Rows of people in the data. Raises `UserError` for somebody who is not there."""
        indices = self.catalogue.user_index(list(user_ids))
        if (indices == UNKNOWN).any():
            ids, stranger = self.catalogue.user_ids, list(user_ids)[int(np.argmax(indices == UNKNOWN))]
            raise UserError(f"user {stranger} is not in {self.info['dataset']} (ids {ids.min()} to {ids.max()}); for "
                            f"somebody new give --history \"260,1210\"")
        return indices - 1

    def _requests(self, user_ids: Sequence[int] | None, until: str) -> Requests:
        """What is asked of these people, or of all. Raises `UserError` unless it is one request a person."""
        requests = self.data.split.requests[until]
        if len(np.unique(requests.people)) < len(requests):
            raise UserError(f"--history_until {until}: the protocol {self.data.split.protocol} asks for a person "
                            f"several times; use --history_until end")
        if user_ids is None:
            return requests
        wanted = np.unique(self._people(user_ids))
        absent = np.setdiff1d(wanted, requests.people)
        if len(absent):
            raise UserError(f"--history_until {until}: user {self.catalogue.user_ids[absent[0]]} is not asked for in "
                            f"this split ({self.data.split.protocol}); use --history_until end")
        chosen = np.isin(requests.people, wanted)
        return Requests(requests.people[chosen], requests.ends[chosen], requests.count)

    def _known_films(self, movie_ids: Sequence[int], what: str) -> np.ndarray:
        indices = self.catalogue.item_index(list(movie_ids))
        unknown = [movie_id for movie_id, index in zip(movie_ids, indices, strict=True) if index == PAD]
        if unknown:
            raise UserError(f"{what}: film {unknown[0]} is not in this model's catalogue of "
                            f"{len(self.catalogue.movie_ids)} films; ids and titles are in metadata.json")
        return indices

    def _allowed(self, history: History, filter_seen: bool, genres: Sequence[str],
                 year_from: int | None) -> torch.Tensor:
        """(R,) True at the films that may be recommended."""
        allowed = np.arange(self.catalogue.num_rows) >= FIRST_ITEM
        if filter_seen:
            allowed[history.items] = False
        if genres:
            columns = []
            for name in genres:
                match = next((index for index, genre in enumerate(GENRES) if genre.lower() == name.lower()), None)
                if match is None:
                    near = difflib.get_close_matches(name, GENRES, n=1, cutoff=0.4)
                    raise UserError(f"--genres: {name!r} is none of {', '.join(GENRES)}"
                                    + (f"; did you mean {near[0]!r}?" if near else ""))
                columns.append(match)
            allowed &= self.catalogue.genres[:, columns].any(1)
        if year_from is not None:
            allowed &= self.catalogue.years >= year_from
        return torch.from_numpy(allowed)


def typical_next_time(timestamps: np.ndarray) -> int:
    """The moment of the last interaction plus the person's median gap."""
    gaps = np.diff(timestamps)
    return int(timestamps[-1] + (np.median(gaps) if len(gaps) else 0))


def parse_time(text: str) -> int:
    """Seconds since 1970 of '978300760' or an ISO date such as '2001-01-31' or '2001-01-31T20:00' (UTC)."""
    try:
        moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not 1970 <= moment.year < 2200:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise UserError(f"--at {text!r}: give seconds since 1970 or an ISO time such as 2001-01-31T20:00") from None
    return int(moment.timestamp())


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--model_path", default="checkpoints/best", help="folder of a trained model (default: %(default)s)")
    add("--metadata_path", help="titles, genres and years (default: metadata.json in the model's folder)")
    add("--data_dir", help="folder with the data set's original files (default: as in training)")
    add("--user_id", type=int, help="somebody in the data")
    add("--history", help='films somebody has watched, oldest first: "260,1210" or titles separated by ;')
    add("--users", help="'all' or a list of ids: recommendations for many, to --output")
    add("--history_until", choices=("end", "test", "validation"), default="end",
        help="with --users: use whole histories, or what comes before the held-out interaction (default: %(default)s)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="with --users: bf16 encodes whole histories faster where the processor has it (default: %(default)s); "
             "before a held-out interaction it is always fp32")
    add("--output", help="with --users: the Parquet file to write")
    add("--k", type=int, default=10, help="how many films (default: %(default)s)")
    add("--genres", default="", help="keep films with any of these genres: Comedy,Drama")
    add("--year_from", type=int, help="keep films of this year or later")
    add("--filter_seen", action="store_true", default=True, help="leave out films of the history (default)")
    add("--no-filter_seen", "--no_filter_seen", dest="filter_seen", action="store_false",
        help="let films of the history come up again")
    add("--at", help="moment of the request (ISO, UTC, or seconds), for a model trained with --query_time known")
    add("--explain", action="store_true", help="all that speaks for each film, without what it would leave the list, "
                                               "and how it would rank for others")
    add("--plot", help="also draw what speaks for each film, and the attention: a .png, .svg, .pdf or .html file")
    add("--json", action="store_true", help="print JSON")
    return parser


def _many(engine: RecommendationEngine, flags: Any) -> None:
    if not flags.output:
        raise UserError("--users needs --output, e.g. --output recs.parquet")
    if flags.user_id is not None or flags.history or flags.at or flags.genres or flags.year_from:
        raise UserError("--users goes with --k, --history_until, --filter_seen, --precision and --output only")
    users = None
    if flags.users != "all":
        if not re.fullmatch(r"\d+(,\d+)*", flags.users):
            raise UserError(f"--users {flags.users!r}: give 'all' or ids separated by commas")
        users = [int(part) for part in flags.users.split(",")]
    table = engine.recommend_all(users, flags.k, flags.history_until, flags.filter_seen, flags.precision)
    write_parquet(Path(flags.output), table)
    print(f"{len(table):,} recommendations for {table['user_id'].nunique():,} people: {flags.output} "
          f"(histories until {flags.history_until}, split {engine.info['split_hash']})")


def _one(engine: RecommendationEngine, flags: Any) -> None:
    sequence = None if flags.history is None else find_films(engine.catalogue, flags.history)
    at = None if flags.at is None else parse_time(flags.at)
    genres = [name.strip() for name in flags.genres.split(",") if name.strip()]
    films = engine.get_recommendations(flags.user_id, sequence, flags.k, flags.filter_seen, genres=genres,
                                       year_from=flags.year_from, at=at)
    reasons = engine.explain_many(flags.user_id, sequence, [film["movie_id"] for film in films], at=at)
    if flags.explain:
        for why in reasons:
            why["what_if"] = engine.what_if(flags.user_id, sequence, why["movie_id"], flags.k, at=at)
    if flags.plot:
        engine.plot(flags.plot, flags.user_id, sequence, [film["movie_id"] for film in films], at=at)
    note = engine.request_time_note(flags.user_id if sequence is None else None, at)
    profile = None if flags.user_id is None else engine.get_user_profile(flags.user_id)
    if flags.json:
        print(json.dumps({"profile": profile, "note": note, "data_note": engine.info["data_note"], "recommendations": [
            {**film, "explanation": {"sentence": why["sentence"], "log_probability": why["log_probability"], "history":
                                     why["history"] if flags.explain else why["history"][:5],
                                     "features": why["features"],
                                     **({"what_if": why["what_if"]} if flags.explain else {})}}
            for film, why in zip(films, reasons, strict=True)]}, ensure_ascii=False, indent=1))
        return
    _print(engine, films, reasons, profile, sequence, note, flags.explain)


def _print(engine: RecommendationEngine, films: list[dict[str, Any]], reasons: list[dict[str, Any]],
           profile: dict[str, Any] | None, sequence: list[int] | None, note: str, explained: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 180)
    if engine.info["dataset"] == "synthetic":
        console.print("[bold]SYNTHETIC data: these films do not exist[/bold]")
    if profile:
        console.print(f"User {profile['user_id']}: {profile['gender']}, {profile['age_group']}, "
                      f"{profile['occupation']}, {profile['interactions']} ratings, mean {profile['mean_rating']}, "
                      f"likes {', '.join(profile['favourite_genres'])}")
    if sequence is not None:
        titles = [engine.film(index)["title"] for index in engine.catalogue.item_index(sequence)]
        console.print(f"History: {'; '.join(titles)}", markup=False)
    if note:
        console.print(note, markup=False)
    if explained:
        console.print(explanation_table(films, reasons))
        console.print(EXPLANATION, style="dim")
        return
    for film, why in zip(films, reasons, strict=True):
        stars = f"  {film['predicted_rating']:.1f} stars expected" if "predicted_rating" in film else ""
        console.print(f"{film['rank']:3d}. {film['title']}  [{', '.join(film['genres'])}]{stars}", markup=False,
                      style="bold")
        console.print(f"     {why['sentence']}", markup=False)
    console.print(f"\n{UNIT}", style="dim")


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    engine = RecommendationEngine(flags.model_path, flags.metadata_path, flags.data_dir)
    if flags.users:
        _many(engine, flags)
    else:
        if flags.output or flags.history_until != "end" or flags.precision != "auto":
            raise UserError("--output, --history_until and --precision go with --users")
        _one(engine, flags)


if __name__ == "__main__":
    sys.exit(run_command(main))
