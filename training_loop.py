"""The one training loop: `fit(model, data, settings)`. It knows no particular model.

A model offers `forward(batch, tasks) -> {task: mean loss}`, `score(batch) -> (B, R)`, `num_targets(batch)`,
`cloze_share(train)`, `fix_item_table()`, and takes an `item_loss`. One process or several (`torchrun`) through
accelerate; the state of a stopped run is a folder that `resume` reads."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from batches import VIEWS, Batch, TrainingBatches
from data_processor import SequenceData
from evaluation.metrics import per_person
from evaluation.protocols import target_ranks
from losses import DistilledItemLoss
from objectives import item_loss, opinion
from settings import Settings, TrainSettings
from support.checkpoint import load_weights, read_checkpoint, write_checkpoint
from support.devices import choose_device, uses_bf16
from support.errors import UserError
from support.progress import ProgressBar
from support.tracking import Tracker
from views import two_views

SELECTION_METRIC = "NDCG@10"
IMPATIENCE = 3.0  # seconds
LARGEST_GRADIENT = 1.0  # norm to which a step's gradient is clipped
WARM_UP = 0.05  # share of all steps
PART_POSITIONS = {"cpu": 8192, "cuda": 1 << 18}  # what one forward and backward pass holds
LOG_EVERY = 25  # steps between two looks at the losses; a look waits for the device


class Stopped(KeyboardInterrupt):
    """The user asked the run to stop; its state is saved."""


@dataclass
class Progress:
    """Where a run stands: all that must survive a stop besides weights, optimizer and random state."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of all cores together: says what a run costs on a machine that others use too
    evaluations_without_gain: int = 0
    finished: bool = False
    best: dict[str, Any] = field(default_factory=dict)  # metrics, epoch, step, tokens and seconds of the best model

    @property
    def best_score(self) -> float:
        """Validation score of the best model so far."""
        return self.best.get(SELECTION_METRIC, -math.inf)

    def stopwatch(self) -> Callable[[], None]:
        """A function that adds the time since now, whenever it is called."""
        def now() -> np.ndarray:
            return np.array([time.perf_counter(), time.process_time()])

        before = np.array([self.seconds, self.processor_seconds]) - now()

        def count() -> None:
            self.seconds, self.processor_seconds = (before + now()).tolist()

        return count


def fit(model: nn.Module, data: SequenceData, settings: Settings, *, validate: bool = True,
        state_folder: Path | None = None, resume: bool = False, tracker: Tracker | None = None,
        on_best: Callable[[nn.Module, dict[str, Any], bool], None] | None = None, quiet: bool = False,
        teachers: Sequence[nn.Module] = ()) -> Progress:
    """Train a model and leave the best weights in it.

    validate: select on the validation targets and stop early; False trains on everything for all epochs.
    state_folder: where the state for `resume` is kept (written at each evaluation and when the run is stopped).
    on_best(model, record, first): called on the main process whenever the validation score improves; first is True
    for the first time in a run, resumed or not.
    teachers: models of the same kind and catalogue whose distributions the item heads follow (--teacher_share).
    Raises `Stopped` after Ctrl-C or SIGTERM once the state is saved, `UserError` if the loss is not finite.
    """
    run = Run(model, data, settings, validate, state_folder, tracker or Tracker(None, {}), on_best, quiet,
              teachers)
    if resume:
        run.load_state()
    with _stop_signals() as stop, run.bar:
        while run.progress.epoch < run.epochs and not run.progress.finished:
            run.train_epoch(stop)
            run.evaluate_if_due()
    run.finish()
    return run.progress


class Run:
    """The parts of one run and its phases."""

    def __init__(self, model: nn.Module, data: SequenceData, settings: Settings, validate: bool,
                 state_folder: Path | None, tracker: Tracker,
                 on_best: Callable[[nn.Module, dict[str, Any], bool], None] | None, quiet: bool,
                 teachers: Sequence[nn.Module] = ()) -> None:
        self.model, self.data, self.settings, self.train = model, data, settings, settings.train
        self.validate, self.state_folder, self.tracker, self.on_best = validate, state_folder, tracker, on_best
        self.accelerator = _accelerator(self.train)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        # Our own autocast: accelerate keeps its precision for the whole life of the process, over several models.
        self.bf16 = uses_bf16(self.train.precision, self.device)
        self.batches = TrainingBatches(data, settings.model.seq_length, self.train, model.cloze_share(self.train),
                                       held_out=validate)
        self.steps_per_epoch = len(self.batches) // self.world
        if self.steps_per_epoch == 0:
            raise UserError(f"no full step for {self.world} processes: lower --batch_size {self.train.batch_size}")
        self.steps = self.train.max_steps or self.train.max_epochs * self.steps_per_epoch
        self.epochs = math.ceil(self.steps / self.steps_per_epoch)
        self.tasks = frozenset(task for task, weight in self.train.task_weights.items() if weight > 0)
        model.item_loss = item_loss(self.train, data, self.device)
        self.teachers = [teacher.to(self.device).eval().fix_item_table() for teacher in teachers]
        if teachers:
            model.item_loss = DistilledItemLoss(model.item_loss, self.train.teacher_share)
        optimizer = torch.optim.AdamW(parameter_groups(model, self.train.weight_decay), lr=self.train.learning_rate,
                                      fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.rank:  # each process draws dropout masks and negatives of its own
            torch.manual_seed(self.train.seed + 1_000_003 * self.rank)
        self.progress, self.best_weights = Progress(), {}
        self.loss_sums: dict[str, torch.Tensor] = {}
        self.loss_counts: dict[str, float] = {}
        self.bar = ProgressBar(self.steps, hidden=quiet or not self.accelerator.is_main_process)

    # Phases ---------------------------------------------------------------------------------------------------------

    def train_epoch(self, stop: Callable[[], bool]) -> None:
        """One pass over the batches, from where the run stands. Raises `Stopped`."""
        progress, count_time = self.progress, self.progress.stopwatch()
        self.wrapped.train()
        for batch in self.batches.epoch(progress.epoch, progress.step_in_epoch, self.rank, self.world):
            if self.train.contrastive_weight and batch.pattern == "causal":
                number = progress.step_in_epoch * self.world + self.rank
                noise = np.random.default_rng((self.train.seed, progress.epoch, VIEWS + number))
                batch = batch.replace(views=two_views(batch, noise))
            self.train_step(batch)
            progress.step += 1
            progress.step_in_epoch += 1
            progress.tokens += batch.tokens
            count_time()
            if progress.step % LOG_EVERY == 0:
                self.bar.update(progress, self.mean_losses())
                self.tracker.now(step=progress.step, epoch=progress.epoch, seconds=round(progress.seconds, 1))
            if self.schedule_position() >= 1:  # --max_steps are taken or --max_minutes are over
                progress.finished = True
                break
            if self._any(stop()):  # all processes at the same step
                self.mean_losses()
                self.save_state()
                raise Stopped("stopped and saved; the same command goes on, trainer.py and bert_multi.py with --resume")
        progress.epoch += 1
        progress.step_in_epoch = 0

    def train_step(self, batch: Batch) -> None:
        """Forward, backward and one optimizer step.

        A batch passes in parts whose gradients add up to those of the whole: what a part holds stays in the caches,
        memory does not grow with the batch, and people of different length need no common padding. (Parts weigh by
        their targets; where ratings or genres are missing here and there, those two heads' means differ by that much.
        A batch with views is one part.)
        """
        parts = batch.parts(PART_POSITIONS[self.device.type])
        targets = self.model.num_targets(batch)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                self.add_gradients(part, self.model.num_targets(part) / targets)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), LARGEST_GRADIENT)
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * self.schedule()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def add_gradients(self, part: Batch, share: float) -> None:
        """Forward and backward of a part that holds this share of a batch's targets."""
        part = part.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if self.teachers:
                self.model.item_loss.opinions = [opinion(teacher, part) for teacher in self.teachers]
            losses = self.wrapped(part, self.tasks)
        weights = self.train.task_weights
        total = sum(weights[task] * loss for task, loss in losses.items())
        for task, loss in losses.items():
            self.loss_sums[task] = self.loss_sums.get(task, 0.0) + share * loss.detach()
            self.loss_counts[task] = self.loss_counts.get(task, 0.0) + share
        if losses:
            self.accelerator.backward(total * share)

    def evaluate_if_due(self) -> None:
        """Validate, record, keep the best, decide whether to go on."""
        progress, train = self.progress, self.train
        last = progress.epoch >= self.epochs or progress.finished
        if not self.validate or not (last or progress.epoch % train.eval_every == 0):
            if not self.validate:
                self.mean_losses(reset=last)  # nobody else would notice a loss that is not finite
                if last or progress.epoch % train.eval_every == 0:
                    self.save_state()
            return
        count_time = progress.stopwatch()
        metrics = self.validation_metrics()
        count_time()
        record = {"epoch": progress.epoch, "step": progress.step, "tokens": progress.tokens * self.world,
                  "seconds": round(progress.seconds, 2), **metrics}
        if metrics[SELECTION_METRIC] > progress.best_score:
            first, progress.best, progress.evaluations_without_gain = not progress.best, record, 0
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            if self.on_best is not None and self.accelerator.is_main_process:
                self.on_best(self.model, record, first)
        else:
            progress.evaluations_without_gain += 1
        progress.finished |= last or progress.evaluations_without_gain >= train.patience
        losses = self.mean_losses(reset=True)
        self.tracker.log("epoch", **record, **{f"loss_{task}": value for task, value in losses.items()},
                         best=progress.best_score, learning_rate=self.optimizer.param_groups[0]["lr"])
        self.bar.report(record, losses, progress.best)
        self.save_state()

    def finish(self) -> None:
        """Leave the best weights in the model and close the record."""
        self.model.load_state_dict(self.best_weights or self.model.state_dict())
        progress = self.progress
        improving = self.validate and progress.best.get("epoch") == progress.epoch == self.epochs
        self.tracker.log("fit", epochs=progress.epoch, steps=progress.step, tokens=progress.tokens * self.world,
                         training_seconds=round(progress.seconds, 2), best=progress.best,
                         still_improving_at_the_end=improving)
        self.model.eval()

    # Parts ----------------------------------------------------------------------------------------------------------

    def validation_metrics(self) -> dict[str, float]:
        """Mean metrics over people on the validation targets, each request ranked by one process."""
        model = self.model.eval()
        model.fix_item_table()
        mine = target_ranks(model, self.data, "validation", self.settings.model.seq_length, self.settings.eval,
                            self.device, self.rank, self.world)
        model.eval()  # forgets the table
        ranks = self.accelerator.reduce(torch.from_numpy(mine).to(self.device), "sum").cpu().numpy()
        people = self.data.split.requests["validation"].people
        return {name: float(values.mean()) for name, values in per_person(ranks, people).items()}

    def schedule_position(self) -> float:
        """Share of the run that lies behind, by steps or by --max_minutes, whichever is further."""
        share = self.progress.step / self.steps if self.progress.step < self.steps else 1.0
        if self.train.max_minutes:
            share = max(share, self.progress.seconds / (60 * self.train.max_minutes))
        return self._agree(min(share, 1.0))

    def _agree(self, value: float) -> float:
        """All processes must take the same number of steps: the main one's clock counts."""
        if self.world == 1 or not self.train.max_minutes:
            return value
        shared = torch.tensor([value], device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return float(shared)

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: all must stop at the same step, or the others wait for ever."""
        return flag if self.world == 1 else bool(
            self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def schedule(self) -> float:
        """Factor on the learning rate: linear warm-up, then a cosine to 0."""
        position, warm_up = self.schedule_position(), WARM_UP
        if position < warm_up:
            return max(position / warm_up, 1 / (1 + warm_up * self.steps))
        return 0.5 * (1 + math.cos(math.pi * (position - warm_up) / max(1e-9, 1 - warm_up)))

    def mean_losses(self, reset: bool = False) -> dict[str, float]:
        """Mean of each task's loss since the last evaluation. Raises `UserError` if one is not finite."""
        means = {task: float(total) / self.loss_counts[task] for task, total in self.loss_sums.items()}
        for task, value in means.items():
            if not math.isfinite(value):
                raise UserError(f"the {task} loss became {value} by step {self.progress.step}; lower --learning_rate "
                                f"or give --precision fp32 (the best checkpoint so far is kept)")
        if reset:
            self.loss_sums, self.loss_counts = {}, {}
        return means

    # State ----------------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        """Write all that `resume` needs; main process only."""
        if self.state_folder is None or not self.accelerator.is_main_process:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        state = self.optimizer.state_dict()["state"]
        order = [name for group in parameter_group_names(self.model) for name in group]
        for index, values in state.items():
            tensors |= {f"optimizer.{order[index]}.{key}": value for key, value in values.items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        tensors |= {f"loss.{task}": total.float().cpu() for task, total in self.loss_sums.items()}
        write_checkpoint(self.state_folder, tensors,
                         {"settings": self.settings.to_dict(), "split_hash": self.data.split_hash,
                          "progress": dataclasses.asdict(self.progress), "loss_counts": self.loss_counts})

    def load_state(self) -> None:
        """Go back to where a stopped run was; exact in one process (of several, only the main one's random state is
        kept, so the others' dropout goes on differently)."""
        tensors, info = read_checkpoint(self.state_folder)
        if info["split_hash"] != self.data.split_hash:
            raise UserError(f"{self.state_folder} was trained on split {info['split_hash']}, the data at hand are "
                            f"split {self.data.split_hash}; give the same data")

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}

        load_weights(self.model, part("model."), str(self.state_folder))
        self.best_weights = part("best.")
        saved, groups = self.optimizer.state_dict(), parameter_group_names(self.model)
        state = {}
        for index, name in enumerate(name for group in groups for name in group):
            if values := part(f"optimizer.{name}."):
                state[index] = {key: value for key, value in values.items() if "." not in key}
        self.optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random_cuda"])
        self.loss_sums = {task: value.to(self.device) for task, value in part("loss.").items()}
        self.loss_counts = info["loss_counts"]
        self.progress = Progress(**info["progress"])
        self.bar.update(self.progress, {})


def parameter_group_names(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of parameters (with weight decay, without): matrices of linear maps decay; biases, norms, positions and
    embedding tables do not."""
    decayed = {f"{prefix}.weight".lstrip(".") for prefix, module in model.named_modules()
               if isinstance(module, nn.Linear)}
    names = [name for name, _ in model.named_parameters()]
    return [name for name in names if name in decayed], [name for name in names if name not in decayed]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's parameter groups."""
    parameters = dict(model.named_parameters())
    return [{"params": [parameters[name] for name in names], "weight_decay": decay}
            for names, decay in zip(parameter_group_names(model), (weight_decay, 0.0), strict=True)]


def seed_everything(seed: int) -> None:
    """Seed torch's and numpy's global streams; batches and masks have streams of their own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def leave_process_group() -> None:
    """To be called at the end of a program that may run under torchrun: a process that ends with its group's threads
    still alive now and then aborts."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # what still holds the group would keep its threads
        torch.distributed.destroy_process_group()


def _accelerator(train: TrainSettings):
    from accelerate import Accelerator, DistributedDataParallelKwargs

    device = choose_device(train.device)
    # A batch uses the heads of its own pattern only. cpu=True is what joins the ranks of torchrun on CPU.
    return Accelerator(cpu=device.type == "cpu",
                       kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C or SIGTERM into a flag; another one after IMPATIENCE seconds interrupts at once.

    Before that a repeat is ignored: a terminal and torchrun both send the signal to each process.
    """
    asked: list[float] = []

    def ask(_number: int, _frame: object) -> None:
        if asked and time.monotonic() - asked[0] > IMPATIENCE:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's business
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
