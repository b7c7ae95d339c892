"""Vanilla BERT4Rec: the model of Sun et al. (CIKM 2019, arXiv:1904.06690).

    x_i  = E_{v_i} + p_i                                           eq. 5, then norm and dropout
    H^l  = Block(H^{l-1}), bidirectional, post-norm                  eq. 1-4 and 6, transformer.py
    P(v | h) = softmax_v(norm(GELU(h W_P + b_P)) E^T + b_O)          eq. 7, E shared with the input
    loss = mean over masked positions of -log P(v_masked | h)        eq. 8

The norm of the head is in the authors' code and not in eq. 7. Two things differ from their code.
Initial weights are wider than BERT's 0.02, with which a model of this size stays at popularity's
level for long. And Muon updates the matrices of the blocks (optimizer.py).

Training masks a share of the positions at random and, in a share of the sequences, the last
position alone; to recommend, MASK is appended to the history and its state ranks the items.

    from bert4rec import BERT4Rec, SequentialDataset, BERT4RecTrainer
    model = BERT4Rec(vocab_size=10000, hidden_size=256, num_layers=6, num_heads=8)
    dataset = SequentialDataset(user_sequences=[[1, 5, 3], [2, 4]], max_length=50, mask_prob=0.15)
    BERT4RecTrainer(model, dataset).train(epochs=100, batch_size=256)
    model.recommend([1, 5, 3], top_k=10)

Items are numbers 1 to vocab_size here. Axes: B sequences, L positions, D width, R rows of E (PAD,
MASK, items), N masked positions.
"""

import dataclasses
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import Batch, History, append_mask, history_batch
from data_processor import from_sequences
from dataset import ITEM_ROWS, MASK, Catalogue, Dataset
from outputs import ItemPrediction, Outputs
from scorer import NOTHING, Scorer
from settings import ModelSettings, Settings, TrainSettings
from support.checkpoint import (
    load_weights,
    read_checkpoint,
    require_no_other_files,
    write_checkpoint,
)
from support.errors import UserError
from training_loop import fit
from training_state import Progress
from transformer import (
    EVERY,
    Attend,
    Dropout,
    Encoder,
    candidate_bias,
    full_precision,
    initialise,
    key_padding,
    positions_from_end,
)


class BERT4Rec(nn.Module):
    """Bidirectional transformer trained by masking.

    options: further fields of `ModelSettings`. attention_type is 'bidirectional' as published, or
    'causal' to let positions see only what came before. segment_embeddings adds a vector that
    tells observed interactions from the appended request.
    """

    families = ()  # of features: it reads ids alone
    starts = True  # users without a history are the appended mask alone

    transitions = None  # counts that are added to the logits (transitions.py)

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        max_seq_length: int = 200,
        dropout_rate: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__()
        if vocab_size < 1:
            raise UserError("vocab_size must be at least 1")
        shape = {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "seq_length": max_seq_length,
            "dropout": dropout_rate,
        }
        options["model"] = "vanilla"
        self.settings = Settings().replace(**{**options, **shape}).model
        rows = vocab_size + ITEM_ROWS
        self.vocab_size = vocab_size
        self.catalogue = from_sequences([[1]], vocab_size).catalogue
        self.items = nn.Embedding(rows, hidden_size)
        self.positions = nn.Embedding(max_seq_length, hidden_size)
        segmented = self.settings.segment_embeddings
        self.segments = nn.Embedding(2, hidden_size) if segmented else None
        self.input_norm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(dropout_rate)
        self.encoder = Encoder(self.settings, pre_norm=False)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.head_norm = nn.LayerNorm(hidden_size)
        self.item_bias = nn.Parameter(torch.zeros(rows))
        initialise(self, hidden_size)

    @classmethod
    def from_settings(
        cls, catalogue: Catalogue, settings: ModelSettings
    ) -> "BERT4Rec":
        """The model that settings describe, for the items of a catalogue."""
        model = cls(
            len(catalogue.items.ids),
            max_seq_length=settings.seq_length,
            dropout_rate=settings.dropout,
            **dataclasses.asdict(settings),
        )
        model.catalogue = catalogue
        return model

    def prepare(self, _data: Dataset) -> "BERT4Rec":
        """Needs no preparation."""
        return self

    def cloze_share(self, _train: TrainSettings) -> float:
        """Every training batch carries the cloze task."""
        return 1.0

    def num_targets(self, batch: Batch) -> int:
        """Interactions that are predicted from a training batch."""
        return batch.num_targets

    def forward(self, batch: Batch) -> Outputs:
        """What the head predicts at the masked positions."""
        masked = batch.predicted()  # (N,)
        table = self.items.weight
        if batch.sample is not None:
            table = self.items(batch.sample.rows)
        states = self.encode(batch, table).flatten(0, 1)[masked]  # (N, D)
        targets = batch.targets.flatten()[masked]
        bias = candidate_bias(batch.chosen(self.item_bias))
        return Outputs(ItemPrediction(self.head(states), table, bias, targets))

    def encode(self, batch: Batch, table: Tensor) -> Tensor:
        """(B, L, D) states."""
        return self.encoder(*self.embed(batch, table))

    def embed(self, batch: Batch, table: Tensor) -> tuple[Tensor, Attend]:
        """(B, L, D) input of the blocks, and the attention mask."""
        length = batch.items.shape[1]
        from_end = positions_from_end(batch.lengths, length)
        # (B, L, D)
        x = F.embedding(batch.items, table) + self.positions(from_end)
        if self.segments is not None:
            newest = (batch.items == MASK) & (from_end == 0)
            x = x + self.segments(newest.long())
        padding = key_padding(batch.lengths, length)
        return self.dropout(self.input_norm(x)), Attend(
            self.settings.attention_type, padding
        )

    def head(self, states: Tensor) -> Tensor:
        """Projection of eq. 7, (..., D) to (..., D)."""
        return self.head_norm(F.gelu(self.projection(states)))

    def frozen(self, cloze: bool = True) -> Scorer:
        """The ranker of this model, in evaluation mode."""
        return Scorer(self, cloze)

    def item_table(self, _without: Set[str] = NOTHING) -> Tensor:
        """(R, D) E."""
        return self.items.weight

    def as_request(self, batch: Batch, _cloze: bool = True) -> Batch:
        """Histories in the form from whose last position the next item is read: a mask appended."""
        return append_mask(batch, self.settings.seq_length)

    def rank(
        self,
        states: Tensor,
        table: Tensor,
        _batch: Batch | None = None,
        _cloze: bool = True,
        part: slice = EVERY,
    ) -> Tensor:
        """Request states (B, D) to logits (B, R), in fp32 even under autocast. part: of some rows
        of the table alone."""
        with full_precision(states.device):
            queries, bias = self.as_query(states.float())
            return queries @ table[part].T + candidate_bias(bias, part)

    def as_query(
        self, states: Tensor, _cloze: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Request states (B, D) to queries (B, D) and biases of items (R,), of which a logit is
        query @ item + bias."""
        return self.head(states), self.item_bias

    @torch.no_grad()
    def recommend(
        self,
        user_sequence: Sequence[int],
        top_k: int = 10,
        filter_seen: bool = True,
    ) -> list[tuple[int, float]]:
        """The `top_k` best (item, score), best first, for a history of item numbers, oldest
        first.

        Raises `UserError` for an empty history, an item number outside 1 to vocab_size, or a
        top_k that cannot be met.
        """
        history = from_sequences([list(user_sequence)], self.vocab_size).items
        left = self.vocab_size - (
            len(set(history.tolist())) if filter_seen else 0
        )
        if not 1 <= top_k <= left:
            raise UserError(
                f"top_k must lie in 1 to {left}, the items that can be recommended; got "
                f"{top_k}"
            )
        device = self.item_bias.device
        batch = history_batch(
            [History(history)], self.catalogue, self.settings.seq_length
        )
        scores = self.frozen().score(batch.to(device))[0]  # (R,)
        if filter_seen:
            scores[torch.from_numpy(history).to(device)] = -torch.inf
        best = scores.topk(top_k)
        numbers = (best.indices - ITEM_ROWS + 1).tolist()
        return list(zip(numbers, best.values.tolist(), strict=True))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and settings to a new folder, or to one that `save_pretrained` wrote.

        Raises `UserError` if it holds other files.
        """
        require_no_other_files(Path(folder))
        settings = Settings(model=self.settings).to_dict()
        write_checkpoint(
            Path(folder),
            self.state_dict(),
            {"settings": settings, "num_items": self.vocab_size},
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "BERT4Rec":
        """The model of a folder that `save_pretrained` or `trainer.py --model vanilla` wrote."""
        _, info = read_checkpoint(Path(folder))
        settings = Settings().replace(**info["settings"]).model
        catalogue = from_sequences([[1]], info["num_items"]).catalogue
        return cls.from_settings(catalogue, settings).load_pretrained(folder)

    def load_pretrained(self, folder: str | Path) -> "BERT4Rec":
        """Take the weights of a folder that `save_pretrained` or `trainer.py --model vanilla`
        wrote.

        Raises `UserError` if shapes or settings do not fit this model.
        """
        tensors, info = read_checkpoint(Path(folder))
        for name in ("num_heads", "attention_type", "segment_embeddings"):
            theirs, ours = info["settings"][name], getattr(self.settings, name)
            if theirs != ours:
                raise UserError(
                    f"{folder} is of another model: {name} is {theirs} there and {ours} "
                    f"here; build the model with the same"
                )
        load_weights(self, tensors, str(folder))
        return self

    def fine_tune(
        self,
        target_dataset: "SequentialDataset",
        epochs: int = 20,
        **options: float,
    ) -> Progress:
        """Train further on other sequences; item numbers above `vocab_size` join the vocabulary.

        Options as in `BERT4RecTrainer.train`.
        """
        largest = [
            max(sequence, default=0)
            for sequence in target_dataset.user_sequences
        ]
        self._grow(max(largest, default=0))
        return BERT4RecTrainer(self, target_dataset).train(
            epochs=epochs, **options
        )

    @torch.no_grad()
    def _grow(self, vocab_size: int) -> None:
        """New items start with the mean vector of the known ones, and the log of their mean
        exp(bias)."""
        more, known = vocab_size - self.vocab_size, self.items.weight
        if more <= 0:
            return
        mean = known[ITEM_ROWS:].mean(0).expand(more, -1)
        bias = self.item_bias[ITEM_ROWS:].exp().mean().log()
        self.items = nn.Embedding.from_pretrained(
            torch.cat([known, mean]), freeze=False
        )
        self.item_bias = nn.Parameter(
            torch.cat([self.item_bias, bias.expand(more)])
        )
        self.vocab_size = vocab_size
        self.catalogue = from_sequences([[1]], vocab_size).catalogue


class SequentialDataset:
    """Users' item sequences, oldest first.

    user_sequences: a list of lists of item numbers, or a mapping from user to such a list
    max_length: longest sequence that a training example holds; at most the model's max_seq_length
    mask_prob: share of positions masked
    """

    def __init__(
        self,
        user_sequences: Sequence[Sequence[int]] | dict[object, Sequence[int]],
        max_length: int = 50,
        mask_prob: float = 0.15,
    ) -> None:
        if isinstance(user_sequences, dict):
            user_sequences = list(user_sequences.values())
        sequences = list(user_sequences)
        if not any(len(sequence) for sequence in sequences):
            raise UserError("user_sequences holds no interaction")
        self.user_sequences, self.max_length, self.mask_prob = (
            sequences,
            max_length,
            mask_prob,
        )

    def __len__(self) -> int:
        return len(self.user_sequences)


class BERT4RecTrainer:
    """Trains a `BERT4Rec` on a `SequentialDataset` with the project's one loop."""

    def __init__(self, model: BERT4Rec, dataset: SequentialDataset) -> None:
        if dataset.max_length > model.settings.seq_length:
            raise UserError(
                f"the data set's max_length {dataset.max_length} exceeds the model's "
                f"max_seq_length {model.settings.seq_length}"
            )
        self.model, self.dataset = model, dataset

    def train(
        self,
        epochs: int = 100,
        batch_size: int = 256,
        **train_settings: float,
    ) -> Progress:
        """Train in place and return where training ended.

        Nothing is held out, and all epochs are trained. Further keywords are fields of
        `TrainSettings`.
        """
        settings = Settings(model=self.model.settings).replace(
            max_epochs=epochs,
            batch_size=batch_size,
            mask_prob=self.dataset.mask_prob,
            seq_length=self.dataset.max_length,
            **train_settings,
        )
        sequences, size = self.dataset.user_sequences, self.model.vocab_size
        data = from_sequences(sequences, size)
        torch.manual_seed(settings.train.seed)
        return fit(self.model, data, settings, quiet=True)
