"""EnhancedBERT4Rec: one encoder over films, ratings, times and the person, read by four heads.

    e_v  = sum_k encoder_k(v)                                    film v: id, genres, year, title, graph (item_encoders/)
    x_i  = e_{v_i} + rating_i + day_i + gap_i + position_i       input at position i
    x_i += CrossAttention(query x_i, keys and values: the person's metadata tokens)         context.py
    x_0  = a learned start, optional, another where earlier interactions are not known: h_0 predicts v_1, also for
           somebody without a history, with odds b_v + c_v
    h    = Encoder(x; pattern, times)                            transformer.py, pre-norm
    next item    P(v | h_i) = softmax_v(h_i e_v + b_v)           causal pattern, every position
    masked item  P(v | h_i) = softmax_v(g(h_i) e_v + b'_v)       bidirectional pattern, masked positions
                 g(h) = LayerNorm(GELU(h W + c))                 (BERT4Rec, arXiv:1904.06690, eq. 7, with a norm)
    rating       P(r | h_i, e_v), r in 1..5                      from the state before the event and the candidate film
    preference   P(genre | h_i)                                  genres of the person's next interactions

One weight set serves both attention patterns; a batch carries one. No state sees what it predicts: under the causal
pattern h_i reads interactions up to i and predicts i + 1; under the bidirectional one the masked film's id, features,
rating and time are replaced. The time of the request enters only with query_time 'known'.

Axes: B users, L positions, D width, R rows of the item table (PAD, MASK, films), T metadata tokens, F genres,
N positions that predict something.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Set

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import Batch, append_mask
from context import AskPerson, MetadataTokens, TimeEncoder, in_front
from data_processor import FIRST_ITEM, MASK, NO_RATING, NO_TIME, PAD, UNKNOWN, Catalogue, SequenceData
from item_encoders.attributes import GenreEncoder, YearEncoder, like_genres, nearest_films
from item_encoders.encoder import ItemEncoder
from item_encoders.graph import RelationalGraph
from item_encoders.ids import IdEncoder
from item_encoders.text import TitleEncoder
from losses import contrastive_loss, linear_cross_entropy, preference_loss, rating_loss
from settings import ModelSettings, TrainSettings
from transformer import (
    Attend,
    Dropout,
    Encoder,
    full_precision,
    initialise,
    key_padding,
    rotation_periods,
    sinusoids,
    time_rotation,
)
from views import last_targets

# Name of what is known of a film -> (the setting that switches it on, what builds its encoder).
ITEM_ENCODERS: dict[str, tuple[str, Callable[[Catalogue, ModelSettings], ItemEncoder]]] = {
    "id": ("id_encoder", IdEncoder), "genres": ("genre_encoder", GenreEncoder), "year": ("year_encoder", YearEncoder),
    "title": ("title_encoder", TitleEncoder), "graph": ("graph_encoder", RelationalGraph)}
FEATURE_FAMILIES = ("ratings", "times", "demographics", "user_id", "genres", "year", "title", "graph")
PREFERENCE_HORIZON = 20  # later interactions that the preference target averages over
CAUSAL_TASKS = ("next_item", "rating", "preference", "contrastive")


class RatingHead(nn.Module):
    """Five-class rating of a candidate film from the state before the event."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3 * width, width), nn.Linear(width, 5)

    def forward(self, states: Tensor, films: Tensor) -> Tensor:
        """states (N, D), film vectors (N, D) to logits (N, 5)."""
        return self.out(F.gelu(self.hidden(torch.cat([states, films, states * films], dim=-1))))


class EnhancedBERT4Rec(nn.Module):
    """See the module's head. Every encoder and head is None where its setting switches it off."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("fixed_table", None, persistent=False)
        width = settings.hidden_size
        self.special = nn.Parameter(torch.zeros(FIRST_ITEM, width))  # PAD and MASK
        self.encoders = nn.ModuleDict({name: build(catalogue, settings) for name, (switch, build) in
                                       ITEM_ENCODERS.items() if getattr(settings, switch) not in (False, "none")})
        self.rating = nn.Embedding(6, width) if settings.rating_input else None  # 0 = not known
        timed = settings.day_of_year or settings.time_gap
        self.time = TimeEncoder(settings) if timed else None
        self.request_time = TimeEncoder(settings) if timed and settings.query_time == "known" else None
        if settings.positions == "learned":
            self.position = nn.Parameter(torch.zeros(settings.seq_length, width))
        else:
            self.register_buffer("position", sinusoids(settings.seq_length, width), persistent=False)
        self.start = nn.Parameter(torch.zeros(1, 1, width)) if settings.start_token else None
        self.lost = nn.Parameter(torch.zeros(1, 1, width)) if settings.start_token else None
        has_tokens = any(getattr(settings, name) for name in ("user_id", "gender", "age", "occupation"))
        self.metadata = MetadataTokens(catalogue, settings) if has_tokens else None
        self.user_context = AskPerson(settings) if has_tokens else None
        self.register_buffer("periods", rotation_periods(settings.rotated_pairs) if settings.relative_time else None,
                             persistent=False)
        self.dropout = Dropout(settings.dropout)
        self.encoder = Encoder(settings, pre_norm=True)
        self.masked_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)) \
            if settings.masked_item_head else None
        self.masked_bias = nn.Parameter(torch.zeros(catalogue.num_rows)) if settings.masked_item_head else None
        self.next_bias = nn.Parameter(torch.zeros(catalogue.num_rows)) if settings.next_item_head else None
        self.start_bias = nn.Parameter(torch.zeros(catalogue.num_rows, 2)) \
            if settings.start_token and settings.next_item_head else None  # past known to be none, past lost
        self.rating_head = RatingHead(width) if settings.rating_head else None
        self.preference_head = nn.Linear(width, catalogue.genres.shape[1]) if settings.preference_head else None
        self.register_buffer("genre_shares", torch.from_numpy(catalogue.genre_shares), persistent=False)  # (R, F)
        self.register_buffer("counts", torch.zeros(catalogue.num_rows))  # training interactions of each film
        self.register_buffer("films", torch.arange(len(catalogue.movie_ids)), persistent=False)
        not_a_film = torch.zeros(catalogue.num_rows)
        not_a_film[:FIRST_ITEM] = -torch.inf
        self.register_buffer("not_a_film", not_a_film, persistent=False)
        self.item_loss = linear_cross_entropy  # the training loop may set another one
        std = 0.8 * width**-0.5  # 0.1 at 64 wide: BERT's 0.02 starts a narrow model slowly (ablations/LOG.md)
        initialise(self, std)
        for parameter in (self.special, *([self.position] if settings.positions == "learned" else []),
                          *([] if self.start is None else [self.start])):
            nn.init.normal_(parameter, std=std)

    def prepare(self, data: SequenceData, held_out: bool = True) -> EnhancedBERT4Rec:
        """Let the encoders look at titles and training interactions, once, before training.

        held_out: as in `SequenceData.training_rows`. Not needed after loading weights: what was seen lies in them.
        """
        rows = data.training_rows(held_out)
        self.counts.copy_(torch.from_numpy(np.bincount(data.items[rows], minlength=len(self.counts))))
        for encoder in self.encoders.values():
            encoder.prepare(data, rows)
        return self

    @property
    def places_new_films(self) -> bool:
        """Whether films without a vector of their own are ranked by what the encoders say of them."""
        return not all(encoder.by_experience for encoder in self.encoders.values())

    @torch.no_grad()
    def for_catalogue(self, own: Catalogue, larger: Catalogue) -> EnhancedBERT4Rec:
        """This model, in evaluation mode, for a catalogue that has its `own` films and others besides.

        A film that training never saw is what the encoders say of its title, year and genres, with the mean of what
        experience taught, vectors and odds, of the known films whose entries in the catalogue are the most alike, by
        how often training saw them (`nearest_films`). Only where encoders do not rank films (`places_new_films`), or
        say nothing of entries but by a graph, these are the films with the nearest genres. People follow `larger`;
        somebody new starts as unknown.
        Raises `UserError` where own films are missing.
        """
        device = self.special.device
        if device.type != "cpu":
            return copy.deepcopy(self).cpu().for_catalogue(own, larger).to(device)
        place = torch.from_numpy(own.within(larger))
        model = EnhancedBERT4Rec(larger, self.settings).eval()
        for name, encoder in model.encoders.items():
            encoder.take_over(self.encoders[name], place, larger)
        fresh = torch.from_numpy(np.setdiff1d(np.arange(len(larger.movie_ids)), place))
        told = {name for name, encoder in self.encoders.items() if not encoder.by_experience}
        parts = model.film_parts(told - {"graph"})  # new films lack most of its edges
        if parts and self.places_new_films:
            said = sum(parts.values())  # (V, D)
            weights = nearest_films(said[fresh], said[place], self.counts[FIRST_ITEM:])  # (new, own)
        else:
            weights = like_genres(torch.from_numpy(larger.genres[FIRST_ITEM:])[fresh],
                                  torch.from_numpy(own.genres[FIRST_ITEM:]))
        for encoder in model.encoders.values():
            encoder.stand_in(fresh, place, weights)
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("encoders.")}

        def with_odds(bias: Tensor) -> Tensor:
            # All 0 where nothing trained it: exactly that again, by which `item_table` tells.
            return grown(bias, place, fresh, (weights @ bias[FIRST_ITEM:].exp()).log() if bool(bias.any()) else 0.0)

        state |= {name: with_odds(state[name]) for name in {"next_bias", "masked_bias"} & set(state)}
        if self.start_bias is not None:
            state["start_bias"] = with_odds(self.next_bias[:, None] + self.start_bias) - state["next_bias"][:, None]
        state["counts"] = grown(self.counts, place, fresh, 0.0)
        if (people := "metadata.tables.user_id.weight") in state:
            state[people] = state[people][np.append(UNKNOWN, own.user_index(larger.user_ids))]
        model.load_state_dict({**model.state_dict(), **state})
        return model

    # Training -------------------------------------------------------------------------------------------------------

    def cloze_share(self, train: TrainSettings) -> float:
        """Share of training batches that carry the cloze task."""
        causal = any(train.task_weights[task] > 0 and self.has_head(task) for task in CAUSAL_TASKS)
        cloze = train.masked_item_weight > 0 and self.settings.masked_item_head
        return train.masked_batch_share if causal and cloze else float(cloze)

    def num_targets(self, batch: Batch) -> int:
        """Interactions that are predicted from a training batch."""
        return batch.num_targets + (len(batch.items) if self.predicts_first(batch) else 0)

    def predicts_first(self, batch: Batch) -> bool:
        """Whether a start predicts the first film of each sequence."""
        return self.start is not None and batch.pattern == "causal"

    def has_head(self, task: str) -> bool:
        """Whether a task's head is built; views are compared by the states that predict the next item."""
        return getattr(self.settings, f"{'next_item' if task == 'contrastive' else task}_head")

    def forward(self, batch: Batch, tasks: Set[str]) -> dict[str, Tensor]:
        """Mean loss of each of `tasks` that the batch's pattern and the built heads allow; others are not computed."""
        tasks = {task for task in tasks if self.has_head(task)}
        table = self.item_table()
        histories = batch
        states = self.encode(batch, table, self.predicts_first(batch))  # (B, L, D)
        if self.predicts_first(batch):
            batch = batch.replace(targets=torch.cat([batch.items[:, :1], batch.targets], dim=1),
                                  target_ratings=torch.cat([batch.ratings[:, :1], batch.target_ratings], dim=1))
        predicted = batch.predicted()  # (N,)
        states, targets = states.flatten(0, 1)[predicted], batch.targets.flatten()[predicted]  # (N, D), (N,)
        if batch.pattern == "bidirectional":
            if "masked_item" not in tasks:
                return {}
            return {"masked_item": self.item_loss(self.masked_head(states), table,
                                                  self.masked_bias + self.not_a_film, targets, PAD)}
        losses = {}
        if "next_item" in tasks:
            losses["next_item"] = self.next_item_loss(states, table, targets, histories,
                                                      (predicted % batch.targets.shape[1] == 0).nonzero()[:, 0])
        if "rating" in tasks:
            ratings = batch.target_ratings.flatten()[predicted]
            if bool(ratings.any()):
                films = F.embedding(targets, table)  # unlike table[targets], adds gradients in a fixed order
                losses["rating"] = rating_loss(self.rating_head(states, films), ratings)
        if "preference" in tasks:
            wanted = self.later_genres(batch.targets).flatten(0, 1)[predicted]  # (N, F)
            if bool(wanted.any()):
                losses["preference"] = preference_loss(self.preference_head(states), wanted)
        if "contrastive" in tasks and batch.views:
            first, second = (self.encoder.last_state(*self.embed(view, table), view.lengths - 1)
                             for view in batch.views)
            losses["contrastive"] = contrastive_loss(first, second, last_targets(histories))
        return losses

    def next_item_loss(self, states: Tensor, table: Tensor, targets: Tensor, batch: Batch, oldest: Tensor) -> Tensor:
        """Mean over all positions (N,). Starts, the `oldest` (B,) of their sequences, are few and a call of their own,
        in which two more columns hold their biases; a teacher says nothing of them."""
        bias = self.next_bias + self.not_a_film
        if not self.predicts_first(batch):
            return self.item_loss(states, table, bias, targets, PAD)
        later = self.item_loss(states, table, bias, targets.index_fill(0, oldest, PAD), PAD)
        kind = F.one_hot((~batch.whole).long(), 2).to(states.dtype)  # (B, 2)
        first = getattr(self.item_loss, "plain", self.item_loss)(
            torch.cat([states[oldest], kind], dim=1), torch.cat([table, self.start_bias], dim=1), bias, targets[oldest],
            PAD)
        return torch.lerp(later, first, len(kind) / (targets != PAD).sum())

    def later_genres(self, targets: Tensor) -> Tensor:
        """(B, L, F) mean genre distribution of the next PREFERENCE_HORIZON interactions after each position."""
        total = self.genre_shares[targets].cumsum(1)  # (B, L, F), inclusive
        horizon = min(PREFERENCE_HORIZON, targets.shape[1])
        ahead = torch.cat([total[:, horizon - 1:], total[:, -1:].expand(-1, horizon - 1, -1)], dim=1)
        window = ahead - F.pad(total, (0, 0, 1, 0))[:, :-1]
        return window / window.sum(-1, keepdim=True).clamp_min(1e-6)

    # Ranking --------------------------------------------------------------------------------------------------------

    def score(self, batch: Batch, without: Set[str] = frozenset()) -> Tensor:
        """(B, R) logits of each film as the next interaction; -inf for PAD and MASK.

        without: members of FEATURE_FAMILIES to leave out, for explanations; what is known of films ('genres', 'year',
        'title', 'graph') then leaves their representation on both sides, of the history and of the candidates.
        """
        table = self.item_table(without)
        return self.rank(self.request_states(batch, without, table), batch, table)

    def as_request(self, batch: Batch) -> Batch:
        """Histories in the form from whose last position the next film is read: a mask appended where it ranks."""
        return batch if self.settings.next_item_head else append_mask(batch, self.settings.seq_length)

    def request_states(self, batch: Batch, without: Set[str] = frozenset(), table: Tensor | None = None) -> Tensor:
        """(B, D) state that predicts the interaction after each history; table: what `item_table(without)` says."""
        batch = self.as_request(batch)
        table = self.item_table(without) if table is None else table
        return self.encoder.last_state(*self.embed(hide(batch, without), table, without), batch.lengths - 1)

    def rank(self, states: Tensor, batch: Batch | None = None, table: Tensor | None = None) -> Tensor:
        """Request states (B, D) to logits (B, R), in fp32 even under autocast.

        batch: the requests, among which may be empty histories; table: as in `request_states`.
        """
        head, bias = (nn.Identity(), self.next_bias) if self.settings.next_item_head else \
            (self.masked_head, self.masked_bias)
        with full_precision(states.device):
            table = self.item_table() if table is None else table.float()
            states = head(states.float())
            logits = states @ table.T + bias + self.not_a_film
            if self.start_bias is not None and batch is not None:
                begins = F.one_hot((~batch.whole).long(), 2) * (batch.lengths == 0)[:, None]  # (B, 2)
                logits = logits + begins.float() @ self.start_bias.T
            return logits

    def rate(self, batch: Batch, item_index: Tensor) -> Tensor:
        """(B,) expected rating of one candidate film (B,) each."""
        return self.rate_from(self.request_states(batch), item_index)

    def rate_from(self, states: Tensor, item_index: Tensor) -> Tensor:
        """Request states (B, D) and films (B,) to expected ratings (B,)."""
        return self.rating_probabilities(states, item_index) @ torch.arange(1.0, 6.0, device=states.device)

    def rating_probabilities(self, states: Tensor, item_index: Tensor) -> Tensor:
        """Request states (B, D) and films (B,) to the probabilities of the ratings 1 to 5, (B, 5)."""
        return self.rating_head(states, self.item_table()[item_index]).softmax(-1)

    def preferences(self, batch: Batch) -> Tensor:
        """(B, F) predicted genre distribution of the next interactions."""
        return self.preference_head(self.request_states(batch)).softmax(-1)

    def fix_item_table(self) -> EnhancedBERT4Rec:
        """This model, its item table computed once for all requests to come. `train()` and `eval()` forget it; after
        loading other weights call it again."""
        self.fixed_table = None
        with torch.no_grad():
            self.fixed_table = self.item_table()
        return self

    def train(self, mode: bool = True) -> EnhancedBERT4Rec:
        """As in `nn.Module`."""
        self.fixed_table = None
        return super().train(mode)

    # Parts ----------------------------------------------------------------------------------------------------------

    def item_table(self, without: Set[str] = frozenset()) -> Tensor:
        """(R, D) representation of PAD, MASK (the average film where the cloze task trained none) and every film."""
        if self.fixed_table is not None and not without:
            return self.fixed_table
        parts = self.film_parts(set(self.encoders) - without)
        films = sum(parts.values()) if parts else self.special.new_zeros(len(self.films), self.special.shape[1])
        # The odds of the cloze head leave 0 with its first step. In training it needs a mask before that one.
        learned = self.masked_head is not None and (self.training or bool(self.masked_bias.any()))
        mask = self.special[MASK] if learned else films.mean(0)
        return torch.cat([torch.stack([self.special[PAD], mask]), films])

    def film_parts(self, names: Set[str]) -> dict[str, Tensor]:
        """What some of the encoders say of the films, (V, D) each."""
        return {name: encoder(self.films) for name, encoder in self.encoders.items() if name in names}

    @property
    def starts(self) -> bool:
        """Whether somebody without a history can be served: from the start, or by the cloze task's mask."""
        return self.start is not None or not self.settings.next_item_head

    def encode(self, batch: Batch, table: Tensor, from_start: bool = False) -> Tensor:
        """(B, L, D) states of a batch under its pattern; from the start's on, (B, 1 + L, D)."""
        x, attend = self.embed(batch, table)
        return self.encoder(x, dataclasses.replace(attend, prefix=attend.prefix - from_start))

    def embed(self, batch: Batch, table: Tensor | None = None,
              without: Set[str] = frozenset()) -> tuple[Tensor, Attend]:
        """(B, L, D) what the blocks read, and what they are told beside it; with a start or a prefix wider by one or
        two positions, which `Attend.prefix` counts."""
        table = self.item_table(without) if table is None else table
        x = F.embedding(batch.items, table)  # (B, L, D)
        if self.rating is not None:
            x = x + self.rating(batch.ratings)
        if self.time is not None:
            x = x + self.time(batch.timestamps, F.pad(batch.timestamps, (1, 0))[:, :-1])
        if self.request_time is not None:
            x = x + self.request_time(batch.request_times, batch.timestamps)
        x = self.dropout(x + self.position[:x.shape[1]])
        attend = Attend(batch.pattern, key_padding(batch.lengths, x.shape[1]),
                        rotation=None if self.periods is None else time_rotation(batch.timestamps, self.periods))
        if self.start is not None:
            start = self.start + self.lost * ~batch.whole[:, None, None]  # (B, 1, D)
            if self.request_time is not None:
                known = batch.timestamps[:, :1].where(batch.lengths[:, None] > 0, batch.request_times[:, :1])
                start = start + self.request_time(known, torch.full_like(known, NO_TIME))
            x, attend = in_front(self.dropout(start), x, attend)
        return (x if self.metadata is None else self.user_context(x, self.metadata(batch))), attend


def grown(known: Tensor, place: Tensor, new: Tensor, of_new: Tensor | float) -> Tensor:
    """A table (R, ...) of PAD, MASK and films for more films: those known go to `place`, `of_new` goes to `new`."""
    table = known.new_empty(len(known) + len(new), *known.shape[1:])
    table[:FIRST_ITEM], films = known[:FIRST_ITEM], table[FIRST_ITEM:]
    films[place], films[new] = known[FIRST_ITEM:], of_new
    return table


def hide(batch: Batch, families: Set[str]) -> Batch:
    """Batch that says 'unknown' where it told of these families of features."""
    changes = {}
    if "ratings" in families:
        changes["ratings"] = torch.full_like(batch.ratings, NO_RATING)
    if "times" in families:
        changes["timestamps"] = torch.full_like(batch.timestamps, NO_TIME)
        changes["request_times"] = torch.full_like(batch.request_times, NO_TIME)
    if "demographics" in families:
        changes["demographics"] = torch.zeros_like(batch.demographics)
    if "user_id" in families:
        changes["users"] = torch.zeros_like(batch.users)
    return batch.replace(**changes) if changes else batch
