"""Every option of the project, written once.

Four frozen dataclasses (data, model, train, eval) make up `Settings`. The command line of
`trainer.py`, the YAML files (command_line.py) and the checkpoints all follow from their fields;
the text under a field is its `--help`. The metadata of a setting (`option`) says which model
reads it, and what it needs to have an effect.
"""

import dataclasses
import re
from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from support.arguments import names_of
from support.errors import UserError, nearest, require
from support.values import CHECKED, Count, Number, Real, Seed, Share, Size


def option(
    default: Any, model: str | None = None, needs: str | None = None
) -> Any:
    """A setting that only one `model` reads, or that has no effect without another one. needs: the
    name of the other setting, as in 'graph', or with its value, 'loss=sampled_softmax'."""
    return field(default=default, metadata={"model": model, "needs": needs})


@dataclass(frozen=True, config=CHECKED)
class DataSettings:
    """Which interactions are read, and which of them are held out."""

    dataset: Annotated[str, MinLen(1)] = "ml-1m"
    """A name from datasets/, a YAML file with a schema, or a file or folder with the data."""
    data_dir: str | None = None
    """Folder with the raw files, instead of where the schema says."""
    columns: str = ""
    """Roles of columns in a file without a schema:
    user=Member_number,item=itemDescription,time=Date."""
    min_item_count: Count = 1
    """Keep items with at least this many interactions."""
    min_user_count: Count = 3
    """Keep users with at least this many interactions, or as many as --protocol needs."""
    keep: str = ""
    """Keep interactions that meet a condition on one of their columns, as in 'rating>=4'."""
    protocol: Literal["leave_one_out", "global_time", "multi5"] = (
        "leave_one_out"
    )
    """Split into training, validation and test (splits.py)."""
    split_seed: Seed = option(0, needs="protocol=multi5")
    """Seed of the split of users (--protocol multi5)."""


@dataclass(frozen=True, config=CHECKED)
class ModelSettings:
    """Shape and parts of the network, and the weight of each task's loss."""

    model: Literal["enhanced", "vanilla"] = "enhanced"
    """enhanced = EnhancedBERT4Rec with side information; vanilla = BERT4Rec as published."""
    hidden_size: Annotated[Count, Le(16384)] = 64
    """Width D of the item table and of the transformer."""
    num_heads: Annotated[Count, Le(1024)] = 2
    """Attention heads; must divide --hidden_size."""
    num_layers: Annotated[Count, Le(256)] = 2
    """Transformer blocks."""
    seq_length: Annotated[Count, Ge(2), Le(100_000)] = 200
    """Longest history the model reads; older interactions are cut off."""
    ffn_multiplier: Annotated[Count, Le(64)] = 4
    """Inner width of each block's position-wise network, in multiples of --hidden_size."""
    dropout: Annotated[Real, Ge(0), Le(0.95)] = 0.2
    """Dropout on embeddings and on each sub-layer's output."""
    layer_dropout: str = ""
    """Rates of the blocks one by one, as in '0.1,0.3', instead of --dropout, which the embeddings
    keep."""

    attention_type: Literal["bidirectional", "causal"] = option(
        "bidirectional", "vanilla"
    )
    """Positions that a position may attend to (vanilla)."""
    segment_embeddings: bool = option(False, "vanilla")
    """Add a learned embedding that distinguishes the history from the appended mask (vanilla)."""

    positions: Literal["learned", "sinusoidal"] = option("learned", "enhanced")
    """Position signal, counted from the oldest interaction that the model reads."""
    item_ids: bool = option(True, "enhanced")
    """One learned vector per item."""
    item_features: str = option("all", "enhanced")
    """Columns of the items as input: all, none, or names as in 'price,brand'."""
    text_encoder: Literal["none", "sentence", "ngrams"] = option(
        "none", "enhanced"
    )
    """Encoder of text columns: sentence = MiniLM (requirements-text.txt), ngrams = hashed
    characters, none = text columns are not read."""
    graph: bool = option(False, "enhanced")
    """Add an item encoder by a graph of the items' columns and of items that follow each other."""
    interaction_features: str = option("all", "enhanced")
    """Columns of the interactions as input: all, none, or names as in 'rating'."""
    user_ids: bool = option(True, "enhanced")
    """One metadata token per known user."""
    user_features: str = option("all", "enhanced")
    """Columns of the users as metadata tokens: all, none, or names as in 'age,country'."""
    time_features: str = option("gap,season", "enhanced")
    """Encodings of each interaction's time: gap = time since the one before, season = day of the
    year, none."""
    relative_time: bool = option(True, "enhanced")
    """Rotate queries and keys by time, so that attention depends on the time between two
    interactions."""
    query_time: Literal["unknown", "known"] = option("unknown", "enhanced")
    """Whether the time of the request is an input."""
    transitions: bool = option(False, "enhanced")
    """Add counts of which items follow which in training, and a regression of each item on
    similar ones, to the logits. Their weights rank the validation items best (transitions.py)."""
    start_token: bool = option(False, "enhanced")
    """A learned position before the history, for users without any history."""
    masked_item_weight: Size = option(1.0, "enhanced")
    """Weight of the cloze task; 0 = no such head."""
    next_item_weight: Size = option(1.0, "enhanced")
    """Weight of the causal next-item task, whose head ranks; 0 = no such head, and the cloze head
    ranks."""
    value_weight: Size = option(0.3, "enhanced")
    """Weight of predicting interaction columns, such as ratings, before they are given; 0 = no such
    heads."""
    preference_weight: Size = option(0.2, "enhanced")
    """Weight of predicting columns of later items, such as genres; 0 = no such heads."""
    contrastive_weight: Size = option(
        0.0, "enhanced", needs="next_item_weight"
    )
    """Weight of the loss that brings two views of a history together (views.py)."""

    def __post_init__(self) -> None:
        require(
            self.hidden_size % self.num_heads == 0,
            f"--hidden_size {self.hidden_size} cannot be divided among --num_heads "
            f"{self.num_heads}; choose a multiple of {self.num_heads}",
        )
        rate = r"(0|0?\.\d+)"
        rates = f"{rate}(,{rate}){{{self.num_layers - 1}}}"
        valid = not self.layer_dropout or re.fullmatch(
            rates, self.layer_dropout
        )
        require(
            valid and max(self.block_dropouts) <= 0.95,
            f"--layer_dropout {self.layer_dropout!r}: give {self.num_layers} rates in "
            f"[0, 0.95], as in {','.join(['0.1'] * self.num_layers)!r}",
        )
        if self.model == "enhanced":
            self._check_enhanced()

    def _check_enhanced(self) -> None:
        head_size = self.hidden_size // self.num_heads
        require(
            not (self.relative_time and head_size % 2),
            f"--relative_time rotates pairs of numbers: --hidden_size / --num_heads must be "
            f"even, not {head_size}",
        )
        require(
            self.positions != "sinusoidal" or self.hidden_size % 2 == 0,
            "--positions sinusoidal needs an even --hidden_size",
        )
        require(
            self.item_ids or self.item_features != "none" or self.graph,
            "an item needs a representation: switch on --item_ids, --item_features or --graph",
        )
        require(
            set(self.time_parts) <= {"gap", "season"},
            f"--time_features {self.time_features!r}: give none, gap, season or gap,season",
        )
        require(
            self.query_time != "known" or self.time_parts,
            "--query_time known needs a way to tell it: give --time_features gap or season",
        )
        require(
            self.next_item_weight or self.masked_item_weight,
            "nothing ranks items: give --next_item_weight or --masked_item_weight above 0",
        )
        side_heads = self.value_weight or self.preference_weight
        require(
            self.next_item_weight or not side_heads,
            "the value and preference heads read the causal states: with --next_item_weight 0 "
            "give --value_weight 0 --preference_weight 0 too",
        )

    @property
    def block_dropouts(self) -> list[float]:
        """Dropout of each block."""
        if not self.layer_dropout:
            return [self.dropout] * self.num_layers
        return [float(rate) for rate in self.layer_dropout.split(",")]

    @property
    def time_parts(self) -> list[str]:
        """Parts of an interaction's time that are input."""
        return names_of(self.time_features)

    @property
    def task_weights(self) -> dict[str, float]:
        """Loss weight by task name."""
        return {
            "masked_item": self.masked_item_weight,
            "next_item": self.next_item_weight,
            "value": self.value_weight,
            "preference": self.preference_weight,
            "contrastive": self.contrastive_weight,
        }


@dataclass(frozen=True, config=CHECKED)
class TrainSettings:
    """How the parameters are trained."""

    batch_size: Annotated[Count, Le(1_000_000)] = 128
    """Sequences in a step."""
    batch_tokens: Number = 0
    """If above 0, a step has at most about this many interactions, with padding, and at most
    --batch_size sequences. A preset's value is dropped if --batch_size is given."""
    learning_rate: Annotated[Real, Gt(0), Le(10)] = 1e-3
    """Peak learning rate; it warms up linearly and decays to 0 along a cosine."""
    weight_decay: Size = 0.01
    """Weight decay of the matrices of linear maps and of tables of vectors."""
    max_epochs: Count = 50
    """Passes over the training part."""
    max_steps: Number = 0
    """If above 0, the number of training steps, instead of --max_epochs."""
    max_minutes: Size = 0.0
    """If above 0, training ends after this time, and the learning rate decays accordingly. A
    preset's limit is dropped if --max_epochs or --max_steps is given."""
    patience: Count = 10
    """Stop after this many evaluations without a better validation NDCG@10."""
    eval_every: Count = 1
    """Epochs between two evaluations on the validation items."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto = bf16 if it is faster on this processor, else fp32. Evaluation is always fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU if there is one."""
    seed: Seed = 42
    """Seed of initialisation, batches, masks and dropout."""
    sliding_window: bool = False
    """Cut histories longer than --seq_length into half-overlapping windows, instead of using only
    their newest part."""
    mask_prob: Annotated[Real, Gt(0), Lt(1)] = option(
        0.2, needs="masked_item_weight"
    )
    """Cloze task: share of positions masked."""
    masking: Literal["uniform", "late"] = option(
        "uniform", needs="masked_item_weight"
    )
    """Cloze task: which positions are masked; late = newer ones more often."""
    last_mask_share: Share = option(0.1, needs="masked_item_weight")
    """Cloze task: share of sequences in which only the last position is masked, as at inference."""
    masked_batch_share: Share = option(
        0.5, "enhanced", needs="masked_item_weight"
    )
    """Share of batches for the cloze task; the others are for the causal tasks."""
    late_start_share: Share = option(0.0, "enhanced")
    """Share of training sequences that lose their beginning and the user's id. The remaining length
    is log-uniform."""
    loss: Literal["auto", "softmax", "sampled_softmax"] = "auto"
    """Loss of the item heads: cross-entropy over the whole catalogue, or over samples; auto =
    samples if there are more than 100,000 items."""
    negatives: Annotated[Count, Le(1_000_000)] = option(
        2048, needs="loss=sampled_softmax"
    )
    """Number of negatives of sampled softmax in a pass, shared by all its positions."""
    start_from: str = ""
    """Checkpoint folder of a model of the same kind to continue from; new items and users are
    added."""
    teacher: str = ""
    """Checkpoint folder of a trained model of the same kind, data and heads, or several separated
    by commas. Half of the item loss is the cross-entropy to their distributions over the
    catalogue."""
    checkpoint_dir: str = "checkpoints"
    """Folder for the runs; best/ in it is the model to use."""
    runs_dir: str = "runs"
    """Folder for the JSONL record of each run."""
    use_wandb: bool = False
    """Log to Weights & Biases beside the JSONL record."""
    wandb_mode: Literal["online", "offline", "disabled"] = option(
        "online", needs="use_wandb"
    )
    """offline needs no account; `wandb sync` uploads later."""
    run_group: str = option("", needs="use_wandb")
    """Group of the run in W&B; a study gives its name."""
    run_name: str = option("", needs="use_wandb")
    """Name of the run in W&B; by default that of its record."""


@dataclass(frozen=True, config=CHECKED)
class EvalSettings:
    """How rankings are judged."""

    filter_seen: Literal["auto", "yes", "no"] = "auto"
    """Leave the items of the user's history out of the ranking; auto = yes, unless the schema says
    that users have items repeatedly."""
    candidates: Literal[
        "full", "uniform_100", "popular_100", "popular_100_any"
    ] = "full"
    """Candidates beside the target: all items, or 100 drawn uniformly or by popularity from the
    unseen items. popular_100_any, as in published tables, draws from all items but the target and
    then leaves out those of the history."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)

    def __post_init__(self) -> None:
        both = self.model.next_item_weight and self.model.masked_item_weight
        enhanced = self.model.model == "enhanced"
        require(
            not (enhanced and both) or self.train.masked_batch_share < 1,
            "nothing trains what ranks items: give a --masked_batch_share below 1, or "
            "--next_item_weight 0",
        )

    def replace(self, **values: Any) -> "Settings":
        """Copy with some fields changed, named without their section. Raises `UserError` for an
        unknown name or an impossible value."""
        for name in sorted(values.keys() - FIELDS):
            raise UserError(unknown_name("setting", name))
        sections = {}
        for name in SECTIONS:
            section = getattr(self, name)
            names = vars(section).keys() & values
            changes = {key: values[key] for key in names}
            try:
                sections[name] = dataclasses.replace(section, **changes)
            except ValidationError as error:
                fault = error.errors()[0]
                given = f"--{fault['loc'][0]} {fault['input']!r}"
                raise UserError(f"{given}: {fault['msg']}") from None
        return Settings(**sections)

    def to_dict(self) -> dict[str, Any]:
        """One flat dictionary: no field name occurs in two sections."""
        flat: dict[str, Any] = {}
        for name in SECTIONS:
            flat |= vars(getattr(self, name))
        return flat

    def recorded(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        values = self.to_dict().items()
        return {key: value for key, value in values if key not in BOOKKEEPING}


SECTIONS = {
    entry.name: entry.default_factory for entry in dataclasses.fields(Settings)
}
FIELDS = {
    entry.name: entry
    for section in SECTIONS.values()
    for entry in dataclasses.fields(section)
}

# Folders and dashboards: never change a result.
BOOKKEEPING = ("checkpoint_dir", "runs_dir", "data_dir", "use_wandb")
BOOKKEEPING += ("wandb_mode", "run_group", "run_name")


def model_only(name: str) -> str | None:
    """The one model that a setting belongs to, or None if both read it."""
    return FIELDS[name].metadata.get("model")


def idle(name: str, settings: Settings) -> str | None:
    """The flag (with its value) without which a setting has no effect, or None if it has one."""
    needs = FIELDS[name].metadata.get("needs")
    if needs is None:
        return None
    other, _, value = needs.partition("=")
    given = settings.to_dict()
    if model_only(other) not in (None, given["model"]):
        return None
    if value:
        met = given[other] in (value, "auto")
    else:
        met = bool(given[other])
    return None if met else f"--{other} {value}".strip()


def unknown_name(kind: str, name: str) -> str:
    """Error text for an unknown name, with the nearest known one."""
    return f"unknown {kind} {name!r}; {nearest(name, FIELDS, '--help lists them all')}"
