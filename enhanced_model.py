"""EnhancedBERT4Rec: one encoder over items, interactions, times and users, with up to four heads.

    e_v  = id_v + sum_c encoder_c(v) (+ graph_v)                     item v (features.py, graph.py)
    x_i  = e_{v_i} + sum_c column_c(i) + time_i + position_i         input at position i
    x_i += CrossAttention(query x_i, keys and values: the user's metadata tokens)
    x_0  = a learned start, optional, for users without a history    h_0 predicts v_1
    h    = Encoder(x; pattern, times)                                transformer.py, pre-norm

    next item    P(v | h_i) = softmax_v(h_i e_v + b_v)      causal pattern, every position
    masked item  P(v | h_i) = softmax_v(g(h_i) e_v + b'_v)  bidirectional pattern, masked positions
                 g(h) = LayerNorm(GELU(h W + c))            BERT4Rec, arXiv:1904.06690, eq. 7
    value        P(r | h_i, e_v)                            heads.py
    preference   P(f | h_i)                                 heads.py

Values of pairs of items, optional, are added to the logits after training (transitions.py).

The schema says which columns there are. On MovieLens the items are films: genres are tags, which
the preference head predicts, the release year is a number and the title a text. An interaction
has a rating, which the value head predicts. The metadata tokens of a user are the id, gender, age
group and occupation.

One set of weights serves both attention patterns; a batch carries one. No state sees what it
predicts: under the causal pattern h_i reads interactions up to i and predicts i + 1; under the
bidirectional one the masked item's id, columns and time are replaced. The time of the request
enters only with query_time 'known'.

Axes: B sequences, L positions, D width, R rows of the item table (PAD, MASK, items), V items, N
positions that predict something.
"""

from collections.abc import Set

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import Batch, append_mask
from dataset import ITEM_ROWS, MASK, NO_TIME, PAD, Catalogue, Dataset
from features import Columns, ItemColumns, TimeEncoder
from graph import ItemGraph
from heads import PreferenceHeads, ValueHeads
from outputs import ItemPrediction, Outputs
from scorer import NOTHING, Scorer
from settings import ModelSettings, TrainSettings
from support.errors import UserError
from transformer import (
    EVERY,
    Attend,
    CrossAttention,
    Dropout,
    Encoder,
    candidate_bias,
    full_precision,
    initialise,
    key_padding,
    rotation_periods,
    sinusoids,
    time_rotation,
)
from transitions import transitions_for

FEW = 50  # interactions of an item whose own vector begins half as long


class EnhancedBERT4Rec(nn.Module):
    """See the module's head. Encoders and heads that are switched off are None or absent."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        self.settings, self.catalogue = settings, catalogue
        width, rows = settings.hidden_size, len(catalogue.items)
        # PAD and MASK
        self.special = nn.Parameter(torch.zeros(ITEM_ROWS, width))
        self.item_ids = None
        if settings.item_ids:
            self.item_ids = nn.Embedding(len(catalogue.items.ids), width)
        # What the columns say is added to the item's own vector.
        self.item_columns = ItemColumns(catalogue.items, settings)
        self.graph = ItemGraph(catalogue, settings) if settings.graph else None
        self.interaction_columns = Columns(
            "interaction_features", settings, catalogue.interaction_fields
        )
        # Data without times have no encoder of times and no rotation.
        has_times = "time" in catalogue.schema.interactions.roles
        timed = has_times and bool(settings.time_parts)
        self.time = TimeEncoder(settings) if timed else None
        knows_request = settings.query_time == "known"
        if knows_request and not timed:
            raise UserError(
                "--query_time known: these data have no times; drop the flag"
            )
        self.request_time = TimeEncoder(settings) if knows_request else None
        shape = settings.seq_length, width
        if settings.positions == "learned":
            self.position = nn.Parameter(torch.zeros(shape))
        else:
            fixed = sinusoids(*shape)
            self.register_buffer("position", fixed, persistent=False)
        self.start = self.lost = None
        if settings.start_token:
            self.start = nn.Parameter(torch.zeros(1, 1, width))
            # added where the past is not known
            self.lost = nn.Parameter(torch.zeros(1, 1, width))
        self._build_user(catalogue)
        # Pairs of numbers in an attention head are what time rotates.
        pairs = width // settings.num_heads // 2
        rotated = has_times and settings.relative_time
        periods = rotation_periods(pairs) if rotated else None
        self.register_buffer("periods", periods, persistent=False)
        self.transitions = transitions_for(catalogue, settings)
        self.dropout = Dropout(settings.dropout)
        self.encoder = Encoder(settings, pre_norm=True)
        self._build_heads(catalogue, rows)
        # Tables that are no nn.Embedding; sinusoids are a buffer and stay.
        tables = (self.special, self.position, self.start)
        tables = [one for one in tables if isinstance(one, nn.Parameter)]
        initialise(self, width, *tables)

    def _build_user(self, catalogue: Catalogue) -> None:
        settings, users = self.settings, catalogue.users
        # The user as several tokens, one a fact: the id, and each column.
        rows = len(users) if settings.user_ids else 0
        self.user_tokens = Columns(
            "user_features", settings, users.fields, rows
        )
        self.user_context = None
        if self.user_tokens.state_dict():
            # A part of its name in every checkpoint.
            ask = CrossAttention(settings.hidden_size, settings.num_heads)
            self.user_context = nn.ModuleDict({"ask": ask})

    def _build_heads(self, catalogue: Catalogue, rows: int) -> None:
        settings, width = self.settings, self.settings.hidden_size
        # training interactions of each item
        self.register_buffer("counts", torch.zeros(rows))
        self.masked_head = self.masked_bias = None
        self.next_bias = self.start_bias = None
        if settings.masked_item_weight:
            self.masked_head = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)
            )
            self.masked_bias = nn.Parameter(torch.zeros(rows))
            # Without cloze training MASK is the average item (item_table).
            self.register_buffer("mask_trained", torch.tensor(False))
        if settings.next_item_weight:
            self.next_bias = nn.Parameter(torch.zeros(rows))
        if settings.next_item_weight and settings.start_token:
            # Where the past is known to be none, and where it is lost.
            self.start_bias = nn.Parameter(torch.zeros(rows, 2))
        fields = catalogue.interaction_fields if settings.value_weight else {}
        self.value_heads = ValueHeads(fields, width)
        fields = catalogue.items.fields if settings.preference_weight else {}
        self.preference_heads = PreferenceHeads(fields, catalogue.items, width)

    def prepare(self, data: Dataset) -> "EnhancedBERT4Rec":
        """Give the encoders the texts and training interactions, once, before training.

        Not needed after loading weights, which contain the result.
        """
        self.counts.copy_(torch.from_numpy(data.item_counts()))
        if self.item_ids is not None:
            # Of an item with few interactions little is learned: what stays is noise.
            known = self.counts[ITEM_ROWS:, None]
            self.item_ids.weight.data *= known / (known + FEW)
        items = data.catalogue.items
        self.item_columns.prepare(items, np.arange(len(items.ids)))
        if self.graph is not None:
            self.graph.prepare(data)
        return self

    # Training

    def cloze_share(self, train: TrainSettings) -> float:
        """Share of training batches that carry the cloze task."""
        if not self.settings.masked_item_weight:
            return 0.0
        if not self.settings.next_item_weight:
            return 1.0  # no other head that ranks
        return train.masked_batch_share

    def num_targets(self, batch: Batch) -> int:
        """Interactions that are predicted from a training batch."""
        return batch.num_targets + batch.items.shape[0] * self.from_start(batch)

    def from_start(self, batch: Batch) -> bool:
        """Whether a start predicts the first item of each sequence."""
        return self.start is not None and batch.pattern == "causal"

    def forward(self, batch: Batch) -> Outputs:
        """Predictions of the heads of the batch's pattern at the positions that have a target."""
        # (R, D), or of a sample (U, D), once for input and output
        rows = None if batch.sample is None else batch.sample.rows
        table = self.item_table(rows=rows)
        history, from_start = batch, self.from_start(batch)
        # (B, L, D), with a start (B, 1 + L, D)
        states = self.encode(batch, table, from_start)
        if from_start:  # one more position, in front
            batch = batch.with_first_target()
        predicted = batch.predicted()  # (N,)
        states = states.flatten(0, 1)[predicted]  # (N, D)
        targets = batch.targets.flatten()[predicted]  # (N,)
        if batch.pattern == "bidirectional":
            if self.training and not self.mask_trained:
                self.mask_trained.fill_(True)
            states = self.masked_head(states)
            bias = candidate_bias(batch.chosen(self.masked_bias))
            return Outputs(ItemPrediction(states, table, bias, targets))
        bias = candidate_bias(batch.chosen(self.next_bias))  # (R,)
        first_item = None
        if from_start:
            # Starts have a call of their own, in which two more columns hold their biases.
            oldest = predicted % batch.targets.shape[1] == 0
            oldest = oldest.nonzero()[:, 0]  # (B,)
            kind = F.one_hot((~history.whole).long(), 2)  # (B, 2)
            first_item = ItemPrediction(
                torch.cat([states[oldest], kind.to(states.dtype)], dim=1),
                # (R, D + 2)
                torch.cat([table, batch.chosen(self.start_bias)], dim=1),
                bias,
                targets[oldest],
            )
            targets = targets.index_fill(0, oldest, PAD)
        values = self.value_heads(batch, predicted, states, table)
        preferences = self.preference_heads(batch, predicted, states)
        views = self._views(history, table)
        item = ItemPrediction(states, table, bias, targets)
        return Outputs(item, first_item, values, preferences, views)

    def _views(
        self, batch: Batch, table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if not batch.views:
            return None
        first, second = (
            self.encoder.last_state(*self.embed(view, table), view.lengths - 1)
            for view in batch.views
        )
        # Views of histories that go on with the same item are not told apart.
        newest = batch.lengths[:, None] - 1  # (B, 1)
        return first, second, batch.targets.gather(1, newest)[:, 0]

    # Ranking

    def frozen(self, cloze: bool = False) -> Scorer:
        """This model, put in evaluation mode, with its item table computed once (scorer.py)."""
        return Scorer(self, cloze)

    @property
    def starts(self) -> bool:
        """Whether users without a history can be served: from the start, or by the cloze mask."""
        return self.start is not None or self.next_bias is None

    @property
    def families(self) -> tuple[str, ...]:
        """Families of features that the model reads, beside the items' ids (scorer.py)."""
        columns = self.interaction_columns.encoders
        found = [f"interactions.{name}" for name in columns]
        if self.time is not None or self.periods is not None:
            found.append("times")
        found += [f"users.{name}" for name in self.user_tokens.encoders]
        found += ["users.id"] if self.user_tokens.ids is not None else []
        found += [f"items.{name}" for name in self.item_columns.encoders]
        return tuple(found + (["graph"] if self.graph is not None else []))

    def as_request(self, batch: Batch, cloze: bool = False) -> Batch:
        """Histories as the ranking head reads them: with a mask appended if the cloze head ranks,
        because it is the only head or because of `cloze`."""
        if self.next_bias is not None and not cloze:
            return batch
        return append_mask(batch, self.settings.seq_length)

    def rank(
        self,
        states: Tensor,
        table: Tensor,
        batch: Batch | None = None,
        cloze: bool = False,
        part: slice = EVERY,
    ) -> Tensor:
        """Request states (B, D) to logits (B, R), in fp32 even under autocast. cloze: by the
        cloze head, of states of `as_request` with it. part: of some rows of the table alone."""
        with full_precision(states.device):
            queries, bias = self.as_query(states.float(), cloze)
            vectors = table[part].float()
            logits = queries @ vectors.T + candidate_bias(bias, part)
            if self.start_bias is None or batch is None or cloze:
                return logits
            kind = F.one_hot((~batch.whole).long(), 2)
            begins = kind * (batch.lengths == 0)[:, None]  # (B, 2)
            return logits + begins.float() @ self.start_bias[part].T

    def as_query(
        self, states: Tensor, cloze: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Request states (B, D) to queries (B, D) and biases of items (R,), of which a logit is
        query @ item + bias. cloze: as in `rank`."""
        if self.next_bias is None or cloze:
            return self.masked_head(states), self.masked_bias
        return states, self.next_bias

    # Parts

    def item_table(
        self, without: Set[str] = NOTHING, rows: Tensor | None = None
    ) -> Tensor:
        """(R, D) representation of PAD, MASK (the average item unless the cloze task trained it)
        and every item; without some families of features. rows: the part (U, D) of a sample."""
        whole = rows is None
        chosen = EVERY if whole else rows[ITEM_ROWS:] - ITEM_ROWS
        parts = []
        if self.item_ids is not None:
            parts = [self.item_ids.weight if whole else self.item_ids(chosen)]
        parts += self.item_columns(without, chosen)
        if self.graph is not None and "graph" not in without:
            parts.append(self.graph()[chosen])
        # Explanations may leave out all families of an item.
        number = len(self.catalogue.items.ids) if whole else len(chosen)
        nothing = self.special.new_zeros(number, self.special.shape[1])
        vectors = (
            sum(parts[1:], start=parts[0]) if parts else nothing
        )  # (V, D)
        mask = vectors.mean(0)  # (D,)
        cloze = self.masked_head is not None
        if cloze and (self.training or bool(self.mask_trained)):
            mask = self.special[MASK]
        return torch.cat([torch.stack([self.special[PAD], mask]), vectors])

    def encode(
        self, batch: Batch, table: Tensor, from_start: bool = False
    ) -> Tensor:
        """(B, L, D) states of a batch under its pattern; from the start's on, (B, 1 + L, D)."""
        x, attend = self.embed(batch, table)
        return self.encoder(x, attend, attend.prefix - from_start)

    def embed(self, batch: Batch, table: Tensor) -> tuple[Tensor, Attend]:
        """(B, L, D) input of the blocks, and their other inputs; with a start one position wider,
        which `Attend.prefix` counts."""
        # Looked up as embeddings: gradients are added in a fixed order.
        x = F.embedding(batch.items, table)  # (B, L, D)
        for column in self.interaction_columns(batch.columns):
            x = x + column
        if self.time is not None:
            # The first interaction of a sequence has none before it: NO_TIME.
            previous = F.pad(batch.times, (1, 0))[:, :-1]
            x = x + self.time(batch.times, previous)
        if self.request_time is not None:
            x = x + self.request_time(batch.request_times, batch.times)
        x = self.dropout(x + self.position[: x.shape[1]])
        prefix = 0
        if self.start is not None:
            prefix, start = 1, self.dropout(self._start(batch))
            x = torch.cat([start.to(x.dtype), x], dim=1)
        turns = self._rotations(batch, prefix)
        padding = key_padding(batch.lengths + prefix, x.shape[1])
        if self.user_context is not None:
            tokens = self.user_tokens(batch.user_columns, batch.users)
            tokens = torch.stack(tokens, dim=1)  # (B, T, D)
            x = x + self.dropout(self.user_context["ask"](x, tokens))
        return x, Attend(batch.pattern, padding, *turns, prefix)

    def _rotations(
        self, batch: Batch, prefix: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, prefix + L, P) rotations of queries and of keys by time.

        Keys stand at their own time. So do queries, unless the model knows the time of the
        request: then attention sees how long before it each interaction was, as the bias of
        HSTU's published code does (arXiv:2402.17152, eq. 2).
        """
        if self.periods is None:
            return None, None
        # From the oldest event, so that not even rounding depends on later ones.
        origin = batch.times[:, :1]
        # A start stands at the time of the first interaction.
        start = batch.times[:, :prefix]
        times = torch.cat([start, batch.times], dim=1)
        keys = time_rotation(times, origin, self.periods)
        if self.request_time is None:
            return keys, keys
        asked = batch.request_times
        asked = asked.where(asked != NO_TIME, batch.times)
        asked = torch.cat([start, asked], dim=1)
        return time_rotation(asked, origin, self.periods), keys

    def _start(self, batch: Batch) -> Tensor:
        """(B, 1, D) the start before each history."""
        start = self.start + self.lost * ~batch.whole[:, None, None]
        if self.request_time is None:
            return start
        first = batch.times[:, :1].where(
            batch.lengths[:, None] > 0, batch.request_times[:, :1]
        )
        return start + self.request_time(
            first, torch.full_like(first, NO_TIME)
        )
