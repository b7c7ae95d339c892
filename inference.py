"""Recommend films, with reasons: `python inference.py --user_id 123 --k 10`.

For somebody in the data the history is theirs; for anybody else give `--history "260,1210"` or titles
(`--history "The Matrix; Toy Story (1995)"`), and what is known of them (`--gender F --age 25 --occupation 4`), with
`--history ""` nothing but that. Everybody at once: `--users all --history_until test --output recs.parquet`. All ids
are the data set's own (raw) ids.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from batches import History, history_batch, history_of
from data_processor import FIRST_ITEM, NO_TIME, UNKNOWN, SequenceData
from evaluation.protocols import hide_seen, length_groups
from evaluation.report import write_parquet
from explanations.attribution import DEFAULT, Question, attention, carried, explain, places_lost
from explanations.counterfactual import what_if
from explanations.figures import MOST_FILMS, draw, drawable
from explanations.sentences import sentence, strongest
from explanations.tables import print_recommendations
from film_search import films_of, find_films, known_films
from model_io import data_of, load_model
from people import DEMOGRAPHICS, demographics_of, iso, parse_time, profile, typical_next_time
from readers.interactions import GENRES
from splits import Requests
from support.arguments import ArgumentParser
from support.devices import uses_bf16
from support.errors import UserError, run_command

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Query:
    """What is asked of the engine: the `k` best films after a history, with any of these `genres` (none = all), of
    `year_from` or later, films of the history left out if `filter_seen`; `or_fewer` if fewer are left."""

    history: History
    k: int = 10
    filter_seen: bool = True
    genres: Sequence[str] = ()
    year_from: int | None = None
    or_fewer: bool = False


class RecommendationEngine:
    """A trained model with its catalogue and, when somebody in the data is asked for, the data it was trained on.

    mapped: several processes share one copy of the weights (support/checkpoint.py).

    Raises `UserError` for whatever the caller can mend: unknown ids, empty histories, unusable checkpoints.
    """

    def __init__(self, model_path: str | Path = "checkpoints/best", metadata_path: str | Path | None = None,
                 data_dir: str | None = None, mapped: bool = False) -> None:
        self.model, self.settings, self.catalogue, self.info = load_model(
            Path(model_path), Path(metadata_path) if metadata_path else None, mapped, data_dir)
        self.model_path, self.data_dir = Path(model_path), data_dir
        self.trained, self.new_films = (self.model, self.catalogue), set()  # set: raw ids of films added since
        self.seq_length = self.settings.model.seq_length
        self.model.fix_item_table()

    @cached_property
    def data(self) -> SequenceData:
        """The data set of the checkpoint, read when first needed: its films and people, perhaps with newer ratings."""
        settings = self.settings.data
        return self._in_catalogue(data_of(dataclasses.replace(settings, data_dir=self.data_dir or settings.data_dir),
                                          self.info, self.model_path, same_split=False))

    @property
    def knows_request_time(self) -> bool:
        """Whether the model was trained with the time of the request."""
        return self.settings.model.model == "enhanced" and self.settings.model.query_time == "known"

    # Questions by raw ids -------------------------------------------------------------------------------------------

    def get_recommendations(self, user_id: int | None = None, item_sequence: Sequence[int] | None = None, k: int = 10,
                            filter_seen: bool = True, *, genres: Sequence[str] = (), year_from: int | None = None,
                            at: int | None = None,
                            demographics: Mapping[str, str | int | None] | None = None) -> list[dict[str, Any]]:
        """The `k` best films, best first: rank, movie_id, title, year, genres, score and, with a rating head,
        predicted_rating; a note at films that training never saw.

        Who is asked for: see `history`. genres: keep films with any of these. year_from: keep films of that year or
        later.
        """
        history = self.history(user_id, item_sequence, at, demographics)
        return self.answer([Query(history, k, filter_seen, genres, year_from)])[0]

    def explain_recommendation(self, user_id: int | None, item_sequence: Sequence[int] | None,
                               recommended_item_id: int, *, at: int | None = None,
                               demographics: Mapping[str, str | int | None] | None = None) -> dict[str, Any]:
        """What speaks for a film: how much of its log-probability is due to each history item and feature family
        (`explain`)."""
        return self.explain(Query(self.history(user_id, item_sequence, at, demographics)), [recommended_item_id])[0]

    def get_user_profile(self, user_id: int | None = None, item_sequence: Sequence[int] | None = None, *,
                         at: int | None = None,
                         demographics: Mapping[str, str | int | None] | None = None) -> dict[str, Any]:
        """What the data say of a person, {'gender': 'M', 'age_group': '25-34', ...} (people.py, `profile`), and the
        genres that the model expects next."""
        history = self.history(user_id, item_sequence, at, demographics)
        found = {"user_id": None if user_id is None else int(user_id), **profile(self.catalogue, history)}
        if getattr(self.model, "preference_head", None) is not None:
            with torch.no_grad():
                shares = self.model.preferences(history_batch([history], self.seq_length))[0]
            found["predicted_preferences"] = {GENRES[index]: round(float(shares[index]), 3)
                                              for index in shares.argsort(descending=True).tolist()}
        return found

    def add_item(self, title: str, year: int | None = None, genres: Sequence[str] = (),
                 movie_id: int | None = None) -> int:
        """Let a film that training never saw be recommended and be part of histories; returns its raw id.

        The model ranks it by what its encoders say of title, year and genres, and by the known films most like it in
        these; a model that knows films by their own vectors alone puts it where films of the nearest genres stand.
        Recommendations say so.
        """
        if movie_id is None:
            movie_id = int(self.catalogue.movie_ids.max()) + 1
        larger, (model, own) = self.catalogue.with_film(movie_id, title, year or 0, genres), self.trained
        self.model, self.catalogue = model.for_catalogue(own, larger), larger
        self.model.fix_item_table()
        if "data" in self.__dict__:
            self.data = self._in_catalogue(self.data)
        self.new_films.add(movie_id)
        return movie_id

    # Questions about a history --------------------------------------------------------------------------------------

    def history(self, user_id: int | None = None, item_sequence: Sequence[int] | None = None, at: int | None = None,
                demographics: Mapping[str, str | int | None] | None = None) -> History:
        """The history to rank from.

        user_id: somebody in the data, or None. item_sequence: film ids, oldest first, taken for a part of a past, or
        none at all for somebody who begins; without it the person's whole history. demographics: some of
        {'gender': 'F', 'age': 25, 'occupation': 4}, instead of what the data say. at: moment of the request in seconds
        since 1970, for a model trained with known request time.
        """
        if at is not None and not self.knows_request_time:
            raise UserError("--at: this model was trained with request time unknown and never sees it; drop the flag "
                            "or train with --query_time known")
        if user_id is None and item_sequence is None and demographics is None:
            raise UserError("nobody to recommend for: give --user_id, --history or --users all")
        history = History(np.zeros(0, dtype=np.int64)) if user_id is None else \
            history_of(self.data, self._person(user_id))
        if item_sequence is not None or user_id is None:
            history = dataclasses.replace(
                history, items=known_films(self.catalogue, item_sequence or (), "--history"), ratings=None,
                timestamps=None, request_time=NO_TIME, whole=not item_sequence)
        if demographics is not None:
            history = dataclasses.replace(history, demographics=demographics_of(self.catalogue, demographics,
                                                                                history.demographics))
        if self.knows_request_time:
            history = dataclasses.replace(history, request_time=NO_TIME if history.timestamps is None and at is None
                                          else at if at is not None else typical_next_time(history.timestamps))
        if not len(history.items) and not self.model.starts:
            raise UserError("the history is empty, and this model was trained without a start for people without one: "
                            "give at least one film, e.g. --history \"260,1210\", or train with --start_token")
        return history

    @torch.no_grad()
    def answer(self, queries: Sequence[Query]) -> list[list[dict[str, Any]]]:
        """Recommendations for each query as in `get_recommendations`, read by the model in one batch."""
        allowed = np.stack([self._allowed(query) for query in queries])  # (B, R)
        for query, films in zip(queries, allowed, strict=True):
            if query.k < 1 or (query.k > films.sum() and not query.or_fewer):
                raise UserError(f"--k {query.k}: between 1 and {int(films.sum())} films can be recommended here")
        batch = history_batch([query.history for query in queries], self.seq_length)
        states = self.model.request_states(batch)
        scores = self.model.rank(states, batch).masked_fill(~torch.from_numpy(allowed), -torch.inf)  # (B, R)
        counts = np.minimum(allowed.sum(1), [query.k for query in queries]).tolist()
        return [self._rows(state, row.topk(count)) for count, state, row in zip(counts, states, scores, strict=True)]

    def _rows(self, state: torch.Tensor, best: Any) -> list[dict[str, Any]]:
        rows = [{"rank": rank, **self.film(index), "score": round(float(score), 4)}
                for rank, (index, score) in enumerate(zip(best.indices.numpy(), best.values, strict=True), start=1)]
        if getattr(self.model, "rating_head", None) is not None:
            stars = self.model.rate_from(state.expand(len(rows), -1), best.indices)
            for row, expected in zip(rows, stars, strict=True):
                row["predicted_rating"] = round(float(expected), 2)
        return rows

    def explain(self, query: Query, movie_ids: Sequence[int], method: str = DEFAULT,
                in_full: bool = False) -> list[dict[str, Any]]:
        """Of each film its log-probability among those that the query allows, what each film of the history ('effect')
        and each family of features contributes to it (explanations/attribution.py has the methods), and in a sentence
        its 'reasons': the strongest of these, films of the history only if it also scores less without them alone.

        in_full: also its rank, by how many ranks it falls without each film of the history ('places') and each family
        ('feature_places'), and 'what_if', what would have to be otherwise: 'without', films of the history without
        which it is not among the first `query.k`, as few as were found (none of them if it is not there anyway, None if
        it stays without any); 'as_another', its rank were the person of another gender or age group
        (explanations/counterfactual.py).
        """
        question = self._question(query, movie_ids)
        found, answers = explain(question, method), []
        true, (fall, of_families) = carried(question, found), places_lost(question) if in_full else (None, {})
        for number, candidate in enumerate(question.candidates):
            order = np.argsort(-found.history[number], kind="stable")
            films = [{**self.film(question.read.items[place]), "effect": round(float(found.history[number, place]), 4),
                      **({} if fall is None else {"places": int(fall[number, place])})} for place in order]
            features = {name: round(float(values[number]), 4)
                        for name, values in sorted(found.families.items(), key=lambda item: -item[1][number])}
            watched, known = strongest([(film["title"], film["effect"]) for film, place in
                                        zip(films, order, strict=True) if true[number, place]], features)
            answers.append({
                **self.film(candidate), "log_probability": round(float(found.score[number]), 4), "history": films,
                "features": features, "sentence": sentence(watched, known),
                "reasons": [{"of": of, "name": name, "effect": effect} for of, pairs in
                            (("history", watched), ("features", known)) for name, effect in pairs]})
            if in_full:
                answers[-1] |= {"rank": int(question.one_by_one[1][0, number]),
                                "feature_places": {name: int(of_families[name][number]) for name in features},
                                "what_if": what_if(question, number, query.k, self.film)}
        return answers

    def plot(self, path: str | Path, query: Query, reasons: Sequence[dict[str, Any]]) -> None:
        """Write what `explain` said and the attention of each layer and head as a figure; the ending of `path` says
        which kind (explanations/figures.py)."""
        maps, first, _ = attention(self._question(query, [why["movie_id"] for why in reasons]))
        draw(Path(path), reasons, [layer[:, first:, first:].numpy() for layer in maps])

    def _allowed(self, query: Query) -> np.ndarray:
        """(R,) whether a query may be answered with each film."""
        allowed = films_of(self.catalogue, query.genres, query.year_from)
        if query.filter_seen:
            allowed[query.history.items] = False
        return allowed

    def _question(self, query: Query, movie_ids: Sequence[int]) -> Question:
        candidates, allowed = known_films(self.catalogue, movie_ids, "recommended_item_id"), self._allowed(query)
        allowed[candidates] = True
        return Question(self.model, query.history, candidates, torch.from_numpy(allowed))

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

        if k < 1 or not len(requests):
            raise UserError(f"--k {k}: must be at least 1" if k < 1 else "--users: nobody to recommend for")
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
        """Raw id, title, year and genres of a film, and a note if training never saw it."""
        movie_id = int(self.catalogue.movie_id(item_index))
        film = {"movie_id": movie_id, "title": self.catalogue.titles[item_index - FIRST_ITEM],
                "year": int(self.catalogue.years[item_index]) or None,
                "genres": [GENRES[index] for index in np.flatnonzero(self.catalogue.genres[item_index])]}
        if movie_id in self.new_films:
            told = " and ".join(name for name in ("title", "genres", "year") if name in self.model.encoders) or "genres"
            film["note"] = f"new: ranked by its {told} and by the films most like it in these" \
                if self.model.places_new_films else \
                "new: placed among the films with the nearest genres, as this model knows films by experience alone"
        return film

    def request_time_note(self, user_id: int | None, at: int | None) -> str:
        """What the output must say of the moment that recommendations are made for; '' if the model ignores it."""
        if not self.knows_request_time:
            return ""
        if at is not None:
            return f"request time: {iso(at)}"
        if user_id is None:
            return "request time: unknown (a bare history has no times; give --at)"
        return (f"request time assumed: {iso(self.history(user_id, None).request_time)}, the last interaction plus "
                f"the user's median gap (give --at to change it)")

    def _in_catalogue(self, data: SequenceData) -> SequenceData:
        """Data whose films stand where this catalogue has them, with the films that have joined it."""
        items = self.catalogue.item_index(data.catalogue.movie_id(data.items))
        return dataclasses.replace(data, catalogue=self.catalogue, items=items)

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
        if until != "end" and self.data.split_hash != self.info["split_hash"]:
            raise UserError(f"--history_until {until}: {self.model_path} was trained on other interactions or times "
                            f"than those at hand, and may know what this would ask for; use --history_until end")
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


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--model_path", default="checkpoints/best", help="folder of a trained model (default: %(default)s)")
    add("--metadata_path", help="titles, genres and years (default: metadata.json in the model's folder)")
    add("--data_dir", help="folder with the data set's original files (default: as in training)")
    add("--user_id", type=int, help="somebody in the data")
    add("--history", help='films somebody has watched, oldest first: "260,1210" or titles separated by ;')
    add("--gender", help="of somebody new, or instead of what the data say: F or M")
    add("--age", type=int, help="likewise, in years")
    add("--occupation", type=int, help="likewise, a code of the data set: 4 = college or graduate student")
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
    add("--plot", type=drawable, help=f"also draw what speaks for each film (the first {MOST_FILMS}), and the "
                                      f"attention: a .png, .svg, .pdf or .html file")
    add("--json", action="store_true", help="print JSON")
    return parser


def _many(engine: RecommendationEngine, flags: Any) -> None:
    if not flags.output:
        raise UserError("--users needs --output, e.g. --output recs.parquet")
    if flags.explain or flags.plot or flags.json or any(getattr(flags, name) not in (None, "") for name in (
            "user_id", "history", "at", "genres", "year_from", *DEMOGRAPHICS)):
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
    facts = {name: value for name in DEMOGRAPHICS if (value := getattr(flags, name)) is not None} or None
    query = Query(engine.history(flags.user_id, sequence, at, facts), flags.k, flags.filter_seen, genres,
                  flags.year_from)
    (films,) = engine.answer([query])
    reasons = engine.explain(query, [film["movie_id"] for film in films], in_full=flags.explain)
    if flags.plot:
        engine.plot(flags.plot, query, reasons)
    note = engine.request_time_note(flags.user_id if sequence is None else None, at)
    if engine.info["dataset"] == "synthetic":
        note = " ".join(filter(None, ["SYNTHETIC data: these films do not exist.", note]))
    profile = None if flags.user_id is None else engine.get_user_profile(flags.user_id, at=at, demographics=facts)
    if flags.json:
        print(json.dumps({"profile": profile, "note": note, "data_note": engine.info["data_note"], "recommendations": [
            {**film, "explanation": {
                **{name: why[name] for name in ("sentence", "reasons", "log_probability", "features", "feature_places",
                                                "what_if") if name in why},
                "history": why["history"] if flags.explain else why["history"][:5]}}
            for film, why in zip(films, reasons, strict=True)]}, ensure_ascii=False, indent=1))
        return
    titles = None if sequence is None else [engine.film(index)["title"] for index in query.history.items]
    print_recommendations(films, reasons, profile, titles, note, flags.explain)


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
