"""Every option of the project, written once.

Four frozen dataclasses (data, model, train, eval) make up `Settings`; the command line of `trainer.py`, the YAML
files (command_line.py) and the checkpoints all follow from their fields. The text under a field is its `--help`. This
module knows nothing of models or data.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from support.errors import UserError


@dataclass(frozen=True)
class DataSettings:
    """Which interactions are read and how they are ordered."""

    dataset: Literal["ml-1m", "ml-100k", "synthetic"] = "ml-1m"
    """Source of the interactions."""
    data_dir: str | None = None
    """Folder with the raw files; without it ml-1m/ or ml-100k/ beside the scripts, then a download."""
    min_item_count: int = 1
    """Keep films with at least this many ratings: 1 = all 3,706 rated ones, 5 = the 3,416 of the SASRec file."""
    min_rating: int = 1
    """Keep interactions rated at least so: 1 = all, 4 = liked films only."""
    min_user_count: int = 3
    """Keep people with at least this many interactions, or as many as --protocol needs."""
    protocol: Literal["leave_one_out", "global_time", "multi5"] = "leave_one_out"
    """Which interactions train and which are asked for (splits.py)."""
    split_seed: int = 0
    """(--protocol multi5) seed of the split of people."""

    def __post_init__(self) -> None:
        require(self.min_item_count >= 1, "--min_item_count must be at least 1 (1 keeps every rated film)")
        require(1 <= self.min_rating <= 5, "--min_rating must lie in 1 to 5")
        require(self.min_user_count >= 1, "--min_user_count must be at least 1")


@dataclass(frozen=True)
class ModelSettings:
    """Shape of the network and which parts it has."""

    model: Literal["enhanced", "vanilla"] = "enhanced"
    """enhanced = EnhancedBERT4Rec with side information and four heads; vanilla = BERT4Rec as published."""
    hidden_size: int = 64
    """Width D of the item table and of the transformer."""
    num_heads: int = 2
    """Attention heads; must divide --hidden_size."""
    num_layers: int = 2
    """Transformer blocks."""
    seq_length: int = 200
    """Longest history the model reads; older interactions are cut off."""
    ffn_multiplier: int = 4
    """Inner width of each block's position-wise network, in multiples of --hidden_size."""
    dropout: float = 0.2
    """Dropout on embeddings and on each sub-layer's output."""
    layer_dropout: str = ""
    """Rates of the blocks one by one, as in '0.1,0.3', instead of --dropout, which the embeddings keep."""

    attention_type: Literal["bidirectional", "causal"] = "bidirectional"
    """(vanilla) what a position may attend to."""
    segment_embeddings: bool = False
    """(vanilla) add a learned embedding that tells the observed history from the appended request."""

    positions: Literal["learned", "sinusoidal"] = "learned"
    """(enhanced) position signal, counted from the oldest interaction that the model reads."""
    id_encoder: bool = True
    """(enhanced) one vector per film."""
    genre_encoder: bool = True
    """(enhanced) film genres, multi-hot."""
    year_encoder: bool = True
    """(enhanced) release year of the film."""
    title_encoder: Literal["none", "auto", "sentence", "ngrams"] = "none"
    """(enhanced) title, year and genres as text: sentence = MiniLM (requirements-text.txt), ngrams = hashed characters,
    auto = the better one that is installed."""
    graph_encoder: Literal["none", "rgcn"] = "none"
    """(enhanced) rgcn = graph of genres, decades, title words, groups of people and films watched together."""
    rating_input: bool = True
    """(enhanced) ratings of past interactions as input."""
    day_of_year: bool = True
    """(enhanced) season of each past interaction as input."""
    time_gap: bool = True
    """(enhanced) logarithm of the time since the previous interaction as input."""
    relative_time: bool = True
    """(enhanced) queries and keys rotated by time, so that attention depends on the time between two events."""
    user_id: bool = True
    """(enhanced) one metadata token per known person."""
    gender: bool = True
    """(enhanced) metadata token for gender."""
    age: bool = True
    """(enhanced) metadata token for the age group."""
    occupation: bool = True
    """(enhanced) metadata token for the occupation."""
    start_token: bool = False
    """(enhanced) a learned position before the history, which learns to predict its first film: for somebody without
    any history."""
    query_time: Literal["unknown", "known"] = "unknown"
    """(enhanced) whether the model is told when the prediction is asked for."""
    masked_item_head: bool = True
    """(enhanced) head of the cloze task."""
    next_item_head: bool = True
    """(enhanced) head of the causal next-item task; it ranks. Without it the masked-item head does."""
    rating_head: bool = True
    """(enhanced) head that predicts the rating of a candidate film before it is given."""
    preference_head: bool = True
    """(enhanced) head that predicts the genres of the person's later interactions."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_heads", "num_layers", "seq_length", "ffn_multiplier"):
            require(getattr(self, name) >= 1, f"--{name} must be at least 1")
        require(self.hidden_size % self.num_heads == 0,
                f"--hidden_size {self.hidden_size} cannot be divided among --num_heads {self.num_heads}; "
                f"choose a multiple of {self.num_heads}")
        head_size = self.hidden_size // self.num_heads
        require(not (self.model == "enhanced" and self.relative_time and head_size % 2),
                f"--relative_time rotates pairs of numbers: --hidden_size / --num_heads must be even, not {head_size}")
        require(not (self.model == "enhanced" and self.positions == "sinusoidal" and self.hidden_size % 2),
                "--positions sinusoidal needs an even --hidden_size")
        require(self.seq_length >= 2, "--seq_length must be at least 2: a film and the request that follows it")
        require(0 <= self.dropout <= 0.95, "--dropout must lie in [0, 0.95]")
        require(bool(re.fullmatch(r"((0|0?\.\d+)(,(?!$)|$))*", self.layer_dropout))
                and len(self.block_dropouts) == self.num_layers and max(self.block_dropouts) <= 0.95,
                f"--layer_dropout {self.layer_dropout!r}: give {self.num_layers} rates in [0, 0.95], as in "
                f"{','.join(['0.1'] * self.num_layers)!r}")
        if self.model == "enhanced":
            encoders = sum((self.id_encoder, self.genre_encoder, self.year_encoder, self.title_encoder != "none",
                            self.graph_encoder != "none"))
            require(encoders > 0,
                    "a film needs a representation: switch on one of --id_encoder, --genre_encoder, --year_encoder, "
                    "--title_encoder, --graph_encoder")
            require(self.next_item_head or self.masked_item_head,
                    "nothing ranks films: switch on --next_item_head or --masked_item_head")
            require(self.query_time == "unknown" or self.day_of_year or self.time_gap,
                    "--query_time known needs a way to tell it: switch on --time_gap or --day_of_year")
            require(self.next_item_head or not (self.rating_head or self.preference_head),
                    "the rating and preference heads read the causal states: "
                    "with --no-next_item_head give --no-rating_head --no-preference_head too")

    @property
    def rotated_pairs(self) -> int:
        """Pairs of numbers in an attention head, which --relative_time rotates."""
        return self.hidden_size // self.num_heads // 2

    @property
    def block_dropouts(self) -> list[float]:
        """Dropout of each block."""
        return [float(rate) for rate in self.layer_dropout.split(",")] if self.layer_dropout else \
            [self.dropout] * self.num_layers


@dataclass(frozen=True)
class TrainSettings:
    """How the parameters are found."""

    batch_size: int = 128
    """Sequences in a step."""
    batch_tokens: int = 0
    """If above 0, a step holds about this many interactions at most, padding counted (and --batch_size sequences). A
    preset's limit goes when --batch_size is given."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; it warms up linearly and decays to 0 along a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW on the matrices of linear maps (not on biases, norms and embeddings)."""
    max_epochs: int = 50
    """Passes over the training part."""
    max_steps: int = 0
    """If above 0, training takes this many batches, in as many epochs as that makes, instead of --max_epochs."""
    max_minutes: float = 0.0
    """If above 0, training ends after this time, its learning rate decayed to match. A preset's limit goes when
    --max_epochs or --max_steps is given."""
    patience: int = 10
    """Stop after this many evaluations without a better validation NDCG@10."""
    eval_every: int = 1
    """Epochs between two evaluations on the validation items."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto = bf16 where the processor multiplies it natively, else fp32. Evaluation is always fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU if there is one."""
    seed: int = 42
    """Seed of initialisation, batches, masks and dropout."""
    sliding_window: bool = False
    """Cut people longer than --seq_length into half-overlapping windows instead of keeping their newest part only."""
    mask_prob: float = 0.2
    """(--masked_item_head) cloze task: share of positions masked."""
    masking: Literal["uniform", "late"] = "uniform"
    """(--masked_item_head) cloze task: which positions; late = the newer the more often."""
    last_mask_share: float = 0.1
    """(--masked_item_head) cloze task: share of sequences with the last position alone masked, as at inference."""
    masked_batch_share: float = 0.5
    """(enhanced) (--masked_item_head) share of batches that carry the cloze task; the others carry the causal tasks."""
    masked_item_weight: float = 1.0
    """(--masked_item_head) weight of the cloze loss; 0 skips its computation."""
    next_item_weight: float = 1.0
    """(enhanced) (--next_item_head) weight of the next-item loss, above 0."""
    rating_weight: float = 0.3
    """(enhanced) (--rating_head) weight of the rating loss; 0 skips its computation."""
    preference_weight: float = 0.2
    """(enhanced) (--preference_head) weight of the user-preference loss; 0 skips its computation."""
    contrastive_weight: float = 0.0
    """(enhanced) (--next_item_head) weight of the loss that brings two views of a history together; 0 skips it."""
    loss: Literal["softmax", "sampled_softmax"] = "softmax"
    """What the item heads minimise: cross-entropy over the whole catalogue or, for very large ones, over samples."""
    negatives: int = 512
    """(--loss sampled_softmax) items drawn for each pass, shared by its positions."""
    start_from: str = ""
    """Checkpoint folder of a model of the same kind and choice of data to go on from, grown by new films and people."""
    teacher: str = ""
    """Checkpoint folder of a trained model of the same kind, data and heads, or several with commas between, whose
    distributions over the catalogue the item heads follow."""
    teacher_share: float = 0.5
    """(--teacher) share of the item losses that follows it; the rest follows the interactions."""
    late_start_share: float = 0.0
    """(enhanced) share of training sequences that begin late, without the person's id, as if the past were lost: what
    is left is short as often as long (its logarithm is uniform)."""
    checkpoint_dir: str = "checkpoints"
    """Folder for best/ (the model to use) and last/ (what --resume needs)."""
    runs_dir: str = "runs"
    """Folder for the JSONL record of each run."""
    use_wandb: bool = False
    """Log to Weights & Biases beside the JSONL record."""
    wandb_mode: Literal["online", "offline", "disabled"] = "online"
    """offline needs no account; `wandb sync` uploads later."""
    run_group: str = ""
    """What the dashboard files the run under; a study gives its name."""
    run_name: str = ""
    """Name of the run there; without it that of its record."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "patience", "eval_every", "negatives"):
            require(getattr(self, name) >= 1, f"--{name} must be at least 1")
        for name in ("batch_tokens", "weight_decay", "max_minutes", "max_steps", "masked_item_weight",
                     "next_item_weight", "rating_weight", "preference_weight", "contrastive_weight", "seed"):
            require(getattr(self, name) >= 0, f"--{name} must not be negative")
        require(self.learning_rate > 0, "--learning_rate must be above 0")
        require(0 < self.mask_prob < 1, "--mask_prob must lie between 0 and 1")
        for name in ("last_mask_share", "masked_batch_share", "late_start_share", "teacher_share"):
            require(0 <= getattr(self, name) <= 1, f"--{name} must lie in [0, 1]")

    @property
    def task_weights(self) -> dict[str, float]:
        """Loss weight by task name."""
        return {"masked_item": self.masked_item_weight, "next_item": self.next_item_weight,
                "rating": self.rating_weight, "preference": self.preference_weight,
                "contrastive": self.contrastive_weight}


@dataclass(frozen=True)
class EvalSettings:
    """How rankings are judged."""

    filter_seen: bool = True
    """Take the films of the person's whole history out of the ranking."""
    candidates: Literal["full", "uniform_100", "popular_100", "popular_100_any"] = "full"
    """What the targets are ranked among: all films, or 100 drawn uniformly or by popularity from those that the person
    has not seen, or (popular_100_any, as in the published tables) from all but the target, of which --filter_seen then
    leaves those out that the person has seen."""
    eval_batch_size: int = 128
    """People scored at once, at most; long histories make smaller groups."""

    def __post_init__(self) -> None:
        require(self.eval_batch_size >= 1, "--eval_batch_size must be at least 1")


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            require(not isinstance(value, float) or math.isfinite(value), f"--{name} must be a finite number")
        enhanced, train = self.model.model == "enhanced", self.train
        ranks = "next_item" if enhanced and self.model.next_item_head else "masked_item"
        require(train.task_weights[ranks] > 0, f"nothing trains what ranks films: give a --{ranks}_weight above 0")
        require(not (enhanced and self.model.next_item_head and self.model.masked_item_head and train.masked_item_weight
                     and train.masked_batch_share == 1), "nothing trains what ranks films: give a --masked_batch_share "
                "below 1, or --no-next_item_head")

    def replace(self, **values: Any) -> Settings:
        """Copy with some fields changed, named without their section: `settings.replace(hidden_size=128)`."""
        changed = {name: {key: value for key, value in values.items() if key in section_fields(section)}
                   for name, section in SECTIONS.items()}
        unknown = set(values).difference(*changed.values())
        if unknown:
            raise UserError(unknown_name("setting", min(unknown)))
        return Settings(**{name: dataclasses.replace(getattr(self, name), **part) for name, part in changed.items()})

    def to_dict(self) -> dict[str, Any]:
        """One flat dictionary: no field name occurs in two sections."""
        return {key: value for name in SECTIONS for key, value in vars(getattr(self, name)).items()}


SECTIONS = {"data": DataSettings, "model": ModelSettings, "train": TrainSettings, "eval": EvalSettings}

# Where things lie and who follows the run: never changes a result.
BOOKKEEPING = ("checkpoint_dir", "runs_dir", "data_dir", "use_wandb", "wandb_mode", "run_group", "run_name")


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def section_fields(section: type) -> dict[str, dataclasses.Field]:
    """Fields of a settings dataclass by name."""
    return {entry.name: entry for entry in dataclasses.fields(section)}


def all_fields() -> dict[str, dataclasses.Field]:
    """Every setting by name."""
    return {name: entry for section in SECTIONS.values() for name, entry in section_fields(section).items()}


def model_only(name: str) -> str | None:
    """The one model that a setting belongs to, or None if both read it."""
    return next((model for model in ("vanilla", "enhanced") if FIELD_HELP.get(name, "").startswith(f"({model})")), None)


def idle(name: str, settings: Settings) -> str | None:
    """The flag (with its value) without which a setting does nothing, where it lacks: so its help begins."""
    needs = re.match(r"(?:\(enhanced\) )?\(--(\w+)(?: ([\w|]+))?\)", FIELD_HELP[name])
    given = settings.to_dict()
    if needs is None or model_only(needs[1]) not in (None, given["model"]):
        return None
    met = given[needs[1]] in needs[2].split("|") if needs[2] else given[needs[1]]
    return None if met else " ".join(filter(None, [f"--{needs[1]}", needs[2] and needs[2].replace("|", " or ")]))


FIELD_HELP: dict[str, str] = dict(re.findall(r'^    (\w+): [^\n]*\n    """([^"]*)"""$',
                                             Path(__file__).read_text(encoding="utf-8"), flags=re.MULTILINE))


def unknown_name(kind: str, name: str, extra: tuple[str, ...] = ()) -> str:
    """Error text for a name nobody knows, with the nearest one that exists."""
    near = difflib.get_close_matches(name, [*all_fields(), *extra], n=1, cutoff=0.5)
    return f"unknown {kind} {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; --help lists them all")
