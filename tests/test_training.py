"""The loop: it learns, resumes to the last bit, stops early, refuses a broken loss, works in two
processes.
"""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import measuring
import objectives
import sampling
import training_batches
import training_loop
import training_state
from ablations.audit import swapped
from batches import history_batch, history_of
from bert4rec import BERT4Rec, BERT4RecTrainer, SequentialDataset
from data_processor import process
from evaluation.metrics import per_user
from evaluation.protocols import target_ranks
from evaluation.report import summarise
from measuring import measure, rank_test_items
from model_io import load_with_data, new_model, save_model
from optimizer import WARM_UP, MuonAdamW, warm_up_and_decay
from run_folder import read_results
from settings import DataSettings, EvalSettings
from support.checkpoint import read_checkpoint
from support.errors import UserError
from support.tracking import Tracker
from tests.conftest import (
    ROOT,
    VARIANTS,
    fresh_model,
    span,
    tiny_settings,
    whole,
)
from training_loop import fit
from training_state import Progress, Stopped

DROPOUT_MODEL = dataclasses.replace(VARIANTS["enhanced"], dropout=0.2)


def trained(data, settings, **options):
    torch.manual_seed(settings.train.seed)
    model = new_model(data, settings.model)
    return model, fit(model, data, settings, quiet=True, **options)


class Records(Tracker):
    """Keeps what a run logs."""

    def __init__(self):
        super().__init__(None, {})
        self.rows = []

    def log(self, event, **values):
        self.rows.append(values)

    def losses(self):
        return {
            name: value
            for row in self.rows
            for name, value in row.items()
            if name.startswith("loss_")
        }


def same_weights(left, right):
    return all(
        torch.equal(value, right.state_dict()[name])
        for name, value in left.state_dict().items()
    )


def test_training_is_deterministic_and_learns(data, tmp_path):
    settings = tiny_settings(
        tmp_path,
        DROPOUT_MODEL,
        max_epochs=30,
        learning_rate=0.01,
        eval_every=30,
    )
    _, progress = trained(data, settings)
    untrained = new_model(data, settings.model).frozen()
    assert progress.best["MRR"] > 1.2 * np.mean(
        1 / target_ranks(untrained, data, "validation", 12, EvalSettings())
    )
    few = settings.replace(max_epochs=5, eval_every=5)
    model, _ = trained(data, few)
    again, _ = trained(data, few)
    assert same_weights(model, again)
    other, _ = trained(data, few.replace(seed=1))
    assert not same_weights(model, other)


@pytest.mark.parametrize("positions", [40, 100])
def test_the_parts_of_a_step_add_up_to_the_step(
    data, variant, tmp_path, monkeypatch, positions
):
    """However few positions pass at once: the same losses and gradients, within rounding."""
    gradients: list[list[torch.Tensor]] = []

    def look(optimizer):
        gradients[-1] += [
            parameter.grad.clone()
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    # Nothing hidden: a first film's rating, which a start predicts, is missing where the
    # history's ratings are hidden.
    settings = tiny_settings(tmp_path, variant, max_epochs=1, batch_size=24)
    monkeypatch.setattr(training_batches, "CONTEXT_DROPOUT", 0.0)
    monkeypatch.setattr(MuonAdamW, "step", lambda self, *_, **__: look(self))
    losses = []
    for size in (10_000, positions):
        monkeypatch.setitem(training_loop.PART_POSITIONS, "cpu", size)
        gradients.append([])
        trained(data, settings, tracker=(records := Records()))
        losses.append(records.losses())
    assert len(gradients[0]) == len(gradients[1]) > 20
    for parted, joint in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(parted, joint, rtol=1e-4, atol=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_stopwatch_tells_work_from_waiting():
    progress = Progress(seconds=5.0, processor_seconds=7.0)
    count = progress.stopwatch()
    time.sleep(0.2)
    count()
    assert (
        5.2 <= progress.seconds < 6 and 7 <= progress.processor_seconds < 7.1
    )
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    count()
    assert progress.seconds >= 5.4 and 7.2 <= progress.processor_seconds < 7.6


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, {}),
        ({"max_steps": 13}, {}),
        ({}, {"graph": True, "text_encoder": "ngrams"}),
        ({}, {"contrastive_weight": 0.3, "masked_item_weight": 0.0}),
        (
            {"late_start_share": 0.5, "loss": "sampled_softmax"},
            {"start_token": True},
        ),
    ],
)
def test_a_stopped_run_resumes_exactly(
    data, tmp_path, monkeypatch, changes, parts
):
    """Stop in the middle of an epoch by a real Ctrl-C signal, resume: the same weights to the
    last bit.
    """
    settings = tiny_settings(
        tmp_path,
        dataclasses.replace(DROPOUT_MODEL, **parts),
        **{"max_epochs": 4, **changes},
    )
    whole, progress = trained(data, settings)
    step = training_loop.Run.train_step

    def interrupted(run, batch):
        step(run, batch)
        if run.progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training_loop.Run, "train_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped):
        trained(data, settings, state_folder=tmp_path / "last")
    monkeypatch.setattr(training_loop.Run, "train_step", step)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed, after = trained(
        data, settings, state_folder=tmp_path / "last", resume=True
    )
    assert same_weights(whole, resumed)
    assert (after.step, after.tokens, after.best["NDCG@10"]) == (
        progress.step,
        progress.tokens,
        progress.best["NDCG@10"],
    )


def train_and_kill(data, settings, folder, at, monkeypatch):
    """Train, saving after every step, until the process is killed after `at` saved steps."""
    step = training_loop.Run.train_step

    def killed(run, batch):
        step(run, batch)
        if run.progress.step == at:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY", 0)
        patch.setattr(training_loop.Run, "train_step", killed)
        with pytest.raises(SystemExit):
            trained(data, settings, state_folder=folder)


@pytest.mark.parametrize("kind", ["enhanced", "vanilla"])
def test_a_step_of_a_large_catalogue_changes_what_it_reads_alone(
    data, tmp_path, kind, monkeypatch
):
    """Sampled softmax by itself, tables updated by rows, and a stopped run that resumes exactly."""
    monkeypatch.setattr(sampling, "FULL", 20)
    settings = tiny_settings(tmp_path, VARIANTS[kind], max_steps=6)
    settings = settings.replace(negatives=2, weight_decay=0.5, batch_size=1)
    table = "item_ids.weight" if kind == "enhanced" else "items.weight"
    torch.manual_seed(settings.train.seed)
    model = new_model(data, settings.model)
    run = training_loop.Run(model, data, settings, quiet=True)
    before = model.state_dict()[table].clone()
    batch = next(run.batches.epoch(0))
    run.train_step(batch)
    changed = (model.state_dict()[table] != before).any(1)
    few = batch.items.unique().numel() + batch.targets.unique().numel() + 2
    assert 2 < changed.sum() <= few < len(before)
    stopped = settings.replace(max_steps=60)
    whole, _ = trained(data, stopped)
    train_and_kill(data, stopped, tmp_path / "last", 30, monkeypatch)
    resumed, _ = trained(
        data, stopped, state_folder=tmp_path / "last", resume=True
    )
    assert same_weights(whole, resumed)


def test_a_killed_run_goes_on_from_the_state_of_a_moment_before(
    data, tmp_path, monkeypatch
):
    """Not only from its last evaluation; with the same weights in the end."""
    settings = tiny_settings(tmp_path, DROPOUT_MODEL, max_epochs=4)
    whole, _ = trained(data, settings)
    train_and_kill(data, settings, tmp_path / "last", 5, monkeypatch)
    _, info = read_checkpoint(tmp_path / "last")
    assert info["progress"]["step"] == 5
    resumed, _ = trained(
        data, settings, state_folder=tmp_path / "last", resume=True
    )
    assert same_weights(whole, resumed)


def test_ctrl_c_while_counts_are_weighed(data, tmp_path, monkeypatch):
    """It says how to go on, and going on gives what was not stopped."""
    with_counts = dataclasses.replace(DROPOUT_MODEL, transitions=True)
    settings = tiny_settings(tmp_path, with_counts, max_epochs=2)
    whole, _ = trained(data, settings)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "weigh", interrupted)
        with pytest.raises(Stopped, match="--resume"):
            trained(data, settings, state_folder=tmp_path / "last")
    resumed, _ = trained(
        data, settings, state_folder=tmp_path / "last", resume=True
    )
    assert same_weights(whole, resumed)


def test_ctrl_c_in_the_last_evaluation(data, tmp_path, monkeypatch):
    """It stops, and going on gives what was not stopped."""
    settings = tiny_settings(tmp_path, DROPOUT_MODEL, max_epochs=2)
    whole, _ = trained(data, settings)
    measured = training_loop.Run.validation_metrics

    def interrupted(run):
        if run.progress.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return measured(run)

    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Run, "validation_metrics", interrupted)
        with pytest.raises(Stopped, match="--resume"):
            trained(data, settings, state_folder=tmp_path / "last")
        with pytest.raises(Stopped, match=r"^stopped$"):
            trained(data, settings)
    resumed, after = trained(
        data, settings, state_folder=tmp_path / "last", resume=True
    )
    assert same_weights(whole, resumed) and after.epoch == 2


def test_best_weights_are_kept_and_patience_ends_the_run(
    data, tmp_path, monkeypatch
):
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.9])
    weights = []

    def planned(run):
        weights.append(
            {
                name: value.clone()
                for name, value in run.model.state_dict().items()
            }
        )
        return {"NDCG@10": next(scores), "HR@10": 0.0}

    monkeypatch.setattr(training_loop.Run, "validation_metrics", planned)
    called = []
    model, progress = trained(
        data,
        tiny_settings(tmp_path, DROPOUT_MODEL, max_epochs=10, patience=3),
        on_best=lambda _model, record: called.append(record["epoch"]),
    )
    assert (
        called == [1, 2]
        and progress.best["epoch"] == 2
        and progress.epoch == 5
    )
    assert all(
        torch.equal(value, model.state_dict()[name])
        for name, value in weights[1].items()
    )


def test_a_loss_that_is_not_finite_is_an_error_and_overwrites_nothing(
    data, tmp_path
):
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"])
    torch.manual_seed(0)
    model = new_model(data, settings.model)
    with torch.no_grad():
        model.encoder.blocks[0].expand.weight.fill_(torch.nan)
    for part in (data, whole(data)):
        with pytest.raises(UserError, match=r"diverged|became nan"):
            fit(
                model,
                part,
                settings,
                quiet=True,
                state_folder=tmp_path / "last",
                on_best=pytest.fail,
            )
        assert not (tmp_path / "last").exists()


def test_max_minutes_ends_the_run_and_the_learning_rate(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_loop, "LOG_EVERY", 1)
    # A clock that moves on by .05 s at each look, on whatever machine.
    clock = SimpleNamespace(
        perf_counter=map(0.05.__mul__, itertools.count()).__next__,
        process_time=time.process_time,
    )
    monkeypatch.setattr(training_state, "time", clock)
    settings = tiny_settings(
        tmp_path,
        VARIANTS["enhanced"],
        max_epochs=10_000,
        max_minutes=0.1,
        eval_every=10_000,
    )
    _, progress = trained(
        data,
        settings,
        tracker=Tracker(tmp_path / "run.jsonl", settings.to_dict()),
    )
    assert progress.finished and progress.best
    assert 6 <= progress.seconds < 7
    records = [
        json.loads(line)
        for line in (tmp_path / "run.jsonl").read_text().splitlines()
    ]
    assert [record["event"] for record in records] == ["settings", "epoch"]
    assert records[1]["learning_rate"] < 0.05 * settings.train.learning_rate
    assert {"step", "tokens", "seconds", "epoch"} <= set(records[1])


def test_schedule_warms_up_and_decays():
    total = 1000
    factors = [
        warm_up_and_decay(step / total, total) for step in range(total + 1)
    ]
    peak = int(WARM_UP * total)
    assert factors[0] > 0 and factors[peak] == 1
    assert factors[-1] == pytest.approx(0, abs=1e-9)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.slow
def test_trainer_under_torchrun(tmp_path):
    """The README's line, shrunk: one model, one record, one table, with the ranks that one process
    finds."""
    done = run_two(
        ROOT / "trainer.py",
        "--preset",
        "quick",
        "--dataset",
        "synthetic",
        "--hidden_size",
        "16",
        "--seq_length",
        "20",
        "--max_epochs",
        "1",
        "--checkpoint_dir",
        str(tmp_path / "c"),
        "--runs_dir",
        str(tmp_path / "runs"),
    )
    assert done.stdout.count("Ranking on the test items") == 1
    assert len(list((tmp_path / "runs").iterdir())) == 1
    best = tmp_path / "c" / "best"
    found = read_results(best)["ranking"]
    model, settings, data = load_with_data(best)
    ranks = rank_test_items(model, data, settings)
    assert found == {
        name: summarise(rank, data, "test") for name, rank in ranks.items()
    }


@pytest.mark.slow
def test_tables_updated_by_rows_in_two_processes(tmp_path):
    script = tmp_path / "large.py"
    script.write_text(
        "import sys, sampling, trainer\n"
        "sampling.FULL = 20\n"
        "trainer.main(sys.argv[1:])\n"
    )
    flags = ["--dataset", "synthetic", "--negatives", "9"]
    flags += ["--hidden_size", "16", "--seq_length", "20", "--max_epochs", "8"]
    flags += ["--learning_rate", "0.01", "--seed", "1"]
    flags += ["--runs_dir", tmp_path / "runs", "--checkpoint_dir", tmp_path]
    run_two(script, *flags)
    results = read_results(tmp_path / "best")
    found = results["ranking"]["enhanced"]["NDCG@10"]["mean"]
    assert found > 1.2 * results["ranking"]["popularity"]["NDCG@10"]["mean"]


def run_two(*arguments):
    """A script in two processes."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            *map(str, arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done


# The library interface of vanilla BERT4Rec
# --------------------------------------------------------------------------


def test_vanilla_interface(tmp_path):
    """The lines of the README: a cycle 1 2 3 ... 20 is learned and continued."""
    torch.manual_seed(0)
    sequences = [
        [1 + (start + step) % 20 for step in range(10)] for start in range(20)
    ] * 5
    model = BERT4Rec(
        vocab_size=20,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        max_seq_length=12,
        dropout_rate=0.0,
    )
    dataset = SequentialDataset(
        user_sequences=sequences, max_length=12, mask_prob=0.15
    )
    assert len(dataset) == 100
    BERT4RecTrainer(model, dataset).train(
        epochs=45, batch_size=25, learning_rate=0.006, last_mask_share=0.3
    )
    history = list(range(3, 12))
    assert model.recommend(history, top_k=3)[0][0] == 12
    best = model.recommend(history, top_k=11)
    assert len(best) == 11 and not {item for item, _ in best} & set(history)
    assert [score for _, score in best] == sorted(
        (score for _, score in best), reverse=True
    )
    model.save_pretrained(tmp_path / "cycle")
    other = BERT4Rec(
        vocab_size=20,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        max_seq_length=12,
        dropout_rate=0.0,
    )
    assert (
        other.load_pretrained(tmp_path / "cycle").recommend(history, top_k=11)
        == best
    )
    backwards = SequentialDataset(
        {user: sequence[::-1] for user, sequence in enumerate(sequences)},
        max_length=12,
    )
    other.fine_tune(
        backwards,
        epochs=90,
        batch_size=25,
        learning_rate=0.003,
        last_mask_share=0.3,
    )
    assert other.recommend(history[::-1], top_k=1)[0][0] == 2


def test_fine_tuning_grows_the_vocabulary(tmp_path):
    """Items of later numbers join: what is known scores as before, and the new ones are learned."""
    model = BERT4Rec(
        vocab_size=20, hidden_size=32, max_seq_length=12, dropout_rate=0.0
    )
    before = dict(model.recommend([1, 2, 3], top_k=17))
    model.fine_tune(
        SequentialDataset([[1, 2, 23]], 12), epochs=1, learning_rate=1e-12
    )
    after = dict(model.recommend([1, 2, 3], top_k=20))
    assert model.vocab_size == 23 and {
        item: after[item] for item in before
    } == pytest.approx(before, abs=1e-4)
    assert after[21] == after[22] == pytest.approx(after[23], abs=1e-4)
    torch.manual_seed(0)
    cycle = [
        [1 + (start + step) % 25 for step in range(10)] for start in range(25)
    ] * 5
    model.fine_tune(
        SequentialDataset(cycle, 12),
        epochs=90,
        batch_size=25,
        learning_rate=0.006,
        last_mask_share=0.3,
    )
    for last in (20, 21, 22, 23, 24):  # each next one is new
        assert last + 1 in dict(
            model.recommend([last - 2, last - 1, last], top_k=3)
        )
    model.save_pretrained(tmp_path / "grown")
    again = BERT4Rec(
        vocab_size=25, hidden_size=32, max_seq_length=12
    ).load_pretrained(tmp_path / "grown")
    assert again.recommend([7, 8], top_k=5) == model.recommend([7, 8], top_k=5)


def test_vanilla_interface_refuses():
    model = BERT4Rec(vocab_size=20, hidden_size=16, max_seq_length=12)
    for sequence, top_k in (([], 3), ([0], 3), ([21], 3), ([1], 0), ([1], 20)):
        with pytest.raises(UserError):
            model.recommend(sequence, top_k=top_k)
    with pytest.raises(UserError, match="max_seq_length"):
        BERT4RecTrainer(model, SequentialDataset([[1, 2]], max_length=50))
    with pytest.raises(UserError, match="multiple"):
        BERT4Rec(vocab_size=20, hidden_size=15, num_heads=2)
    with pytest.raises(UserError, match="attention_type"):
        BERT4Rec(vocab_size=20, attention_type="sideways")
    with pytest.raises(UserError):
        SequentialDataset([[]])


HIDING = {
    "plain": {},
    "vanilla": {"model": "vanilla"},
    "graph": {"graph": True, "text_encoder": "ngrams"},
    "contrastive": {"contrastive_weight": 0.3},
    "late": {"late_start_share": 0.5, "start_token": True},
    "sampled": {"loss": "sampled_softmax"},
    "windows": {"sliding_window": True, "masking": "late"},
    "known time": {"query_time": "known"},
}


@pytest.mark.parametrize("name", HIDING)
def test_training_knows_nothing_of_what_is_held_out(data, tmp_path, name):
    """Other items, columns and times in validation and test: the same weights to the last bit."""
    settings = tiny_settings(
        tmp_path, VARIANTS["enhanced"], max_steps=3
    ).replace(**HIDING[name])
    other = swapped(
        data, np.setdiff1d(np.arange(len(data.items)), data.training_rows())
    )
    model = trained(data, settings)[0]
    assert same_weights(model, trained(other, settings)[0])
    everything = trained(whole(data), settings)[0]
    assert not same_weights(everything, trained(whole(other), settings)[0])


@pytest.mark.parametrize("protocol", ["global_time", "multi5"])
def test_under_every_protocol_too(tiny, protocol, tmp_path):
    data = process(tiny, DataSettings(dataset="synthetic", protocol=protocol))
    settings = tiny_settings(tmp_path, VARIANTS["enhanced-graph"], max_steps=2)
    other = swapped(
        data, np.setdiff1d(np.arange(len(data.items)), data.training_rows())
    )
    assert same_weights(
        trained(data, settings)[0], trained(other, settings)[0]
    )


@pytest.mark.parametrize("kind", ["vanilla", "enhanced"])
def test_a_student_comes_to_say_what_its_teachers_say(
    data, tmp_path, kind, monkeypatch
):
    """Following two random teachers alone, a student ranks more like their mean than like chance;
    other teachers or another share give another student."""
    monkeypatch.setattr(objectives, "TEACHER_SHARE", 1.0)
    model = VARIANTS[kind]
    if kind == "enhanced":
        model = dataclasses.replace(
            model, value_weight=0.0, preference_weight=0.0
        )
    settings = tiny_settings(
        tmp_path, model, max_epochs=40, learning_rate=0.02, eval_every=40
    )
    torch.manual_seed(7)
    teachers = [
        fresh_model(data, settings.model, seed, spread=0.5) for seed in (1, 2)
    ]
    student, _ = trained(whole(data), settings, teachers=teachers)
    histories = [
        history_of(data, user, span(data, user, "test")[1])
        for user in range(1, 31)
    ]
    batch = history_batch(histories, data.catalogue, 12)

    def chances(one):
        return one.eval().frozen().score(batch).softmax(1)

    with torch.no_grad():
        wanted = torch.stack([chances(teacher) for teacher in teachers]).mean(
            0
        )
        strangers = chances(fresh_model(data, settings.model, 3, spread=0.5))
        found = chances(student)
    assert (found - wanted).abs().sum(1).mean() < 0.7 * (
        strangers - wanted
    ).abs().sum(1).mean()
    short = settings.replace(max_epochs=1)
    plain, _ = trained(data, short, teachers=teachers)
    assert not same_weights(
        plain, trained(data, short, teachers=teachers[:1])[0]
    )
    monkeypatch.setattr(objectives, "TEACHER_SHARE", 0.5)
    assert not same_weights(plain, trained(data, short, teachers=teachers)[0])


def test_max_steps_ends_the_run_mid_epoch_and_the_learning_rate(
    data, tmp_path
):
    """Whatever --max_epochs says."""
    settings = tiny_settings(
        tmp_path, VARIANTS["enhanced"], max_epochs=1, max_steps=11
    )
    tracker = Tracker(tmp_path / "run.jsonl", settings.to_dict())
    _, progress = trained(data, settings, tracker=tracker)
    assert progress.step == 11 and progress.finished and progress.epoch > 1
    last = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[-1])
    assert (
        last["step"] == 11
        and last["learning_rate"] < 0.3 * settings.train.learning_rate
    )


def test_of_many_requests_some_test(data, tmp_path, monkeypatch):
    """Spread evenly; the tables say so."""
    monkeypatch.setattr(measuring, "MEASURED", 7)
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"])
    model, progress = trained(data, settings.replace(max_epochs=1))
    save_model(tmp_path / "best", model, settings, data, progress.best, "run")
    ranks = rank_test_items(model, data, settings)
    results = measure(
        model, data, settings, progress, tmp_path / "best", ranks
    )
    assert "test of leave-one-out" in results["protocol"]
    assert "7 of 60 requests, spread evenly" in results["protocol"]
    assert len(pd.read_parquet(tmp_path / "best/test_users.parquet")) == 7


def test_of_many_requests_some_validate(data, tmp_path, monkeypatch):
    """Spread evenly; those of the test stay as they are."""
    monkeypatch.setattr(training_loop, "MEASURED", 7)
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"])
    settings = settings.replace(max_epochs=1)
    model, progress = trained(data, settings)
    split = data.split.with_fewer("validation", 7)
    asked = split.requests["validation"]
    assert 5 <= len(asked) <= 7
    assert split.requests["test"] is data.split.requests["test"]
    rank = target_ranks(
        model.frozen(),
        data.replace(split=split),
        "validation",
        settings.model.seq_length,
        settings.eval,
    )
    found = per_user(rank, asked.users)["NDCG@10"].mean()
    assert progress.best["NDCG@10"] == pytest.approx(found)
    everybody = data.split.with_fewer("validation", 60)
    assert len(everybody.requests["validation"]) == 60
