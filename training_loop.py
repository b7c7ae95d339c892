"""The training loop of all models: `fit(model, data, settings)`.

A model offers `forward(batch) -> Outputs`, `num_targets(batch)`, `cloze_share(train)` and
`frozen()`, which ranks. One process or several (`torchrun`) through accelerate; the state of a
stopped run is a folder that `resume` reads.
"""

import contextlib
import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from batches import Batch
from blending import weigh
from dataset import Dataset
from evaluation.metrics import METRIC, per_user
from evaluation.protocols import target_ranks
from objectives import task_losses
from optimizer import clip_gradient, optimizer_for, warm_up_and_decay
from sampling import sampler_for
from settings import Settings
from splits import MEASURED
from support.devices import accelerator, choose_device, uses_bf16
from support.errors import UserError
from support.processes import stop_signals
from support.tracking import Tracker
from training_batches import TrainingBatches
from training_state import (
    Progress,
    Stopped,
    load_state,
    save_state,
)

# what one forward and backward pass holds
PART_POSITIONS = {"cpu": 8192, "cuda": 1 << 18}
SAVE_EVERY = 600  # seconds; what a killed run loses at most
LOG_EVERY = 25  # steps; a look at the losses waits for the device
LARGEST_GRADIENT = 1.0  # norm to which a step's gradient is clipped
OnBest = Callable[[nn.Module, dict[str, Any]], None]


def fit(
    model: nn.Module,
    data: Dataset,
    settings: Settings,
    *,
    resume: bool = False,
    **options: Any,
) -> Progress:
    """Train a model. It ends with the weights that were best on validation, or with the last
    ones if the data has no validation part.

    resume: continue from the state in `state_folder`; what one process says holds for all.
    options: as in `Run`. Raises `Stopped` after Ctrl-C or SIGTERM once the state is saved,
    `UserError` if the loss is not finite.
    """
    if model.transitions is not None:
        model.transitions.clear()  # of an earlier run
    data = data.replace(split=data.split.with_fewer("validation", MEASURED))
    # One object holds the run, so that each of its phases can be tested alone.
    run = Run(model, data, settings, **options)
    if run.agreed(resume):
        run.progress = load_state(run, run.state_folder)
    with stop_signals() as stop, run.bar:
        while run.progress.epoch < run.epochs and not run.progress.finished:
            run.train_epoch(stop)
            run.evaluate_if_due()
        if run.agreed(stop()):
            # In the last evaluation, which has saved the state.
            raise Stopped(run.state_folder)
    # Training seldom ends with its best weights.
    model.load_state_dict(run.best_weights or model.state_dict())
    model.eval()
    if model.transitions is not None:
        try:
            run.add_transitions()
        except KeyboardInterrupt:
            # The last evaluation has saved all that training gave.
            raise Stopped(run.state_folder) from None
    return run.progress


class Run:
    """The parts of one run and its phases.

    If the split has validation targets, they select the weights and stop training early; else all
    epochs are trained. state_folder: where the state for `resume` is kept (written at each
    evaluation, every ten minutes, and when the run is stopped). on_best(model, record): called on
    the main process whenever the validation score improves, and at the end with transitions.
    teachers: models of the same kind and catalogue whose distributions the item heads follow.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        settings: Settings,
        *,
        state_folder: Path | None = None,
        tracker: Tracker | None = None,
        on_best: OnBest | None = None,
        quiet: bool = False,
        teachers: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.train, self.weights = settings.train, settings.model.task_weights
        self.validate = "validation" in data.split.requests
        self.state_folder = state_folder
        self.tracker, self.on_best = tracker or Tracker(None, {}), on_best
        self.accelerator = accelerator(choose_device(self.train.device))
        self.rank = self.accelerator.process_index
        self.world = self.accelerator.num_processes
        self.device = self.accelerator.device
        # Our own autocast: accelerate keeps its precision for the whole life of the process.
        bf16 = uses_bf16(self.train.precision, self.device)
        self.bf16 = bool(self.agreed(bf16))
        share = model.cloze_share(self.train)
        views = self.weights["contrastive"] > 0
        of_all = (self.rank, self.world)
        self.batches = TrainingBatches(
            data, settings.model.seq_length, self.train, share, views, *of_all
        )
        self.steps_per_epoch, self.steps = self._count_steps()
        self.epochs = math.ceil(self.steps / self.steps_per_epoch)
        self.teachers = [one.to(self.device).eval() for one in teachers]
        self.sampler = sampler_for(model, data, self.train)
        optimizer = optimizer_for(
            model, self.train.learning_rate, self.train.weight_decay
        )
        self.wrapped, self.optimizer = self.accelerator.prepare(
            model, optimizer
        )
        if self.rank:
            # Each process draws dropout masks and negatives of its own.
            torch.manual_seed(self.train.seed + 1_000_003 * self.rank)
        self.progress, self.best_weights = Progress(), {}
        self.saved = time.monotonic()
        self.loss_sums: dict[str, Any] = defaultdict(float)
        self.loss_counts: dict[str, float] = defaultdict(float)
        self.quiet = quiet or not self.accelerator.is_main_process
        # On a terminal alone.
        self.bar = tqdm(total=self.steps, disable=self.quiet or None)

    def _count_steps(self) -> tuple[int, int]:
        """(steps in an epoch, steps of the run)."""
        in_epoch = len(self.batches)
        if in_epoch == 0:
            remedy = f"give fewer processes than {self.world}, or a smaller --batch_size"
            if self.data.train_lengths.max() < 2:
                remedy = (
                    "no user has enough interactions left for training; give longer histories"
                )
            raise UserError(f"there is no full step to train: {remedy}")
        return (
            in_epoch,
            self.train.max_steps or self.train.max_epochs * in_epoch,
        )

    # Phases

    def train_epoch(self, stop: Callable[[], bool]) -> None:
        """One pass over the batches, from the current step. Raises `Stopped`."""
        progress = self.progress
        count_time = progress.stopwatch(training=True)
        self.wrapped.train()
        # A pure function of epoch and step: a resumed run takes the rest of the very batches.
        batches = self.batches.epoch(progress.epoch, progress.step_in_epoch)
        for batch in batches:
            self.train_step(batch)
            # What a stop must leave behind is counted at once.
            progress.step += 1
            progress.step_in_epoch += 1
            progress.tokens += batch.tokens
            count_time()
            # A look at the losses waits for the device, so not at every step.
            if progress.step % LOG_EVERY == 0:
                self.bar.set_description(
                    f"epoch {progress.epoch + 1}", refresh=False
                )
                self.bar.set_postfix(self.mean_losses(), refresh=False)
                self.bar.update(progress.step - self.bar.n)
            # --max_steps are taken or --max_minutes are over
            if self.schedule_position() >= 1:
                progress.finished = True
                break
            if time.monotonic() - self.saved > SAVE_EVERY:
                self.save()
            if self.agreed(stop()):  # all processes at the same step
                self.mean_losses()
                self.save()
                raise Stopped(self.state_folder)
        # An epoch that is cut short counts too: the run is at its end.
        progress.epoch += 1
        progress.step_in_epoch = 0

    def train_step(self, batch: Batch) -> None:
        """Forward, backward and one optimizer step.

        A batch passes in parts whose gradients add up to those of the whole. A part fits the
        caches, memory does not grow with the batch, and histories of different length need no
        common padding. Each part is weighted by its number of targets. Where values are missing,
        the means of the heads that predict them are therefore approximate. A batch with views,
        for contrastive learning, is one part.
        """
        parts = batch.parts(PART_POSITIONS[self.device.type])
        targets = self.model.num_targets(batch)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            # Gradients travel between processes once, with the last part.
            alone = (
                contextlib.nullcontext()
                if last
                else self.accelerator.no_sync(self.wrapped)
            )
            with alone:
                self.add_gradients(
                    part, self.model.num_targets(part) / targets
                )
        # Of the whole step's gradient, as one pass would have it.
        clip_gradient(self.model, LARGEST_GRADIENT)
        # Set at every step, as --max_minutes moves the schedule.
        factor = warm_up_and_decay(self.schedule_position(), self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()

    def add_gradients(self, part: Batch, share: float) -> None:
        """Forward and backward of a part that holds this share of a batch's targets."""
        part = part.to(self.device)
        if self.sampler is not None:
            part = self.sampler(part)
        # The weights stay in fp32; autocast casts what the products read.
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.bf16
        ):
            outputs = self.wrapped(part)
            losses = task_losses(outputs, part, self.teachers)
        # The mean over the batch is the sum of the parts' means by their shares.
        for task, loss in losses.items():
            self.loss_sums[task] += share * loss.detach()
            self.loss_counts[task] += share
        # Tasks are weighed here alone: what is logged is not.
        total = sum(self.weights[task] * loss for task, loss in losses.items())
        self.accelerator.backward(total * share)

    def evaluate_if_due(self) -> None:
        """Validate, record, keep the best weights, decide whether to continue."""
        progress, train = self.progress, self.train
        last = progress.epoch >= self.epochs or progress.finished
        due = last or progress.epoch % train.eval_every == 0
        if not self.validate:
            # nobody else would notice a loss that is not finite
            self.mean_losses(reset=last)
        if due and self.validate:
            self._evaluate(last)
        if due:
            self.save()

    def _evaluate(self, last: bool) -> None:
        progress, count_time = self.progress, self.progress.stopwatch()
        metrics = self.validation_metrics()
        count_time()
        record = {
            "epoch": progress.epoch,
            "step": progress.step,
            "tokens": progress.tokens * self.world,
            "seconds": round(progress.seconds, 2),
            "step_seconds": round(progress.step_seconds, 2),
            **metrics,
        }
        # Kept in memory too: the best weights are what training ends with.
        if metrics[METRIC] > progress.best_score:
            progress.best = record
            progress.evaluations_without_gain = 0
            self.best_weights = copy.deepcopy(self.model.state_dict())
            if self.on_best is not None and self.accelerator.is_main_process:
                self.on_best(self.model, record)
        else:
            progress.evaluations_without_gain += 1
        # One evaluation may fall short by chance: patience counts several.
        tired = progress.evaluations_without_gain >= self.train.patience
        progress.finished |= last or tired
        losses = self.mean_losses(reset=True)
        # Losses since the last evaluation, not those of the last step.
        named = {f"loss_{task}": value for task, value in losses.items()}
        self.tracker.log(
            "epoch",
            **record,
            **named,
            best=progress.best_score,
            learning_rate=self.optimizer.param_groups[0]["lr"],
        )
        if not self.quiet:
            self.bar.write(progress.line(record, losses))

    def add_transitions(self) -> None:
        """Give the model its counts, weighed on the validation items; every process does."""
        model, best = self.model, self.progress.best
        base = model.frozen()
        base.transitions = None
        found = weigh(
            model.transitions, base, self.data, self.settings, self.device
        )
        if not self.validate:
            return
        before, metrics = best[METRIC], self.validation_metrics()
        best.update(metrics)
        self.tracker.log("transitions", **found, **metrics)
        if self.on_best is not None and self.accelerator.is_main_process:
            self.on_best(model, best)
        if not self.quiet:
            self.bar.write(
                f"transitions added: validation {METRIC} {before:.4f} to "
                f"{best[METRIC]:.4f}"
            )

    def save(self) -> None:
        """Write the state for `resume`; main process only."""
        self.saved = time.monotonic()
        if self.state_folder is not None and self.accelerator.is_main_process:
            save_state(self, self.state_folder)

    # Parts

    def validation_metrics(self) -> dict[str, float]:
        """Mean metrics over users on the validation targets."""
        ranks = target_ranks(
            self.model.frozen(),
            self.data,
            "validation",
            self.settings.model.seq_length,
            self.settings.eval,
            self.device,
            together=True,
        )
        users = self.data.split.requests["validation"].users
        metrics = per_user(ranks, users)
        return {name: float(values.mean()) for name, values in metrics.items()}

    def schedule_position(self) -> float:
        """Share of the run that is done, by steps or by --max_minutes, whichever is larger."""
        # Whichever limit comes first ends the run with the learning rate at 0.
        share = min(1.0, self.progress.step / self.steps)
        if self.train.max_minutes:
            minutes = self.progress.seconds / 60
            share = self.agreed(max(share, minutes / self.train.max_minutes))
        return min(share, 1.0)

    def agreed(self, value: float) -> float:
        """The largest value of all processes, so that they take the same number of steps."""
        if self.world == 1:
            return value
        # Clocks differ, and a signal may reach one process before the others.
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return float(shared)

    def mean_losses(self, reset: bool = False) -> dict[str, float]:
        """Mean of each task's loss since the last evaluation. Raises `UserError` if not finite."""
        means = {
            task: float(total) / self.loss_counts[task]
            for task, total in self.loss_sums.items()
        }
        broken = [
            f"the {task} loss became {value}"
            for task, value in means.items()
            if not math.isfinite(value)
        ]
        # Else the other processes would wait for the one that ends.
        if self.agreed(bool(broken)):
            broken = broken or ["a loss of another process is not finite"]
            raise UserError(
                f"{broken[0]} by step {self.progress.step}; lower --learning_rate or give "
                f"--precision fp32 (the best checkpoint so far is kept)"
            )
        if reset:  # the next means are of what follows
            self.loss_sums.clear()
            self.loss_counts.clear()
        return means
