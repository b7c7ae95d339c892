"""The loop: it learns, resumes to the last bit, stops early, refuses a broken loss, works in two processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from evaluation.audit import swapped
from item_encoders import graph, text
from item_encoders.text import text_vectors
from safetensors.torch import load_file

import training_loop
from ablations.study import load_study
from batches import history_batch, history_of
from bert4rec import BERT4Rec, BERT4RecTrainer, SequentialDataset
from data_processor import ITEM_ROWS, process
from evaluation.protocols import target_ranks
from model_io import new_model
from objectives import item_loss
from settings import DataSettings, EvalSettings, TrainSettings
from support.errors import UserError
from support.tracking import Tracker
from tests.conftest import ROOT, VARIANTS, fresh_model, span, tiny_settings
from training_loop import Progress, Stopped, fit, parameter_group_names, seed_everything

OPTIONS = load_study("options", [f"--{name}={value}" for name, value in dict(
    num_heads=2, num_layers=2, seq_length=12, batch_size=24, batch_tokens=0, max_steps=2,
    masked_batch_share=0.5, last_mask_share=0.5, precision="fp32", device="cpu").items()])
DROPOUT_MODEL = dataclasses.replace(VARIANTS["enhanced"], dropout=0.2)


def trained(data, settings, held_out=True, **options):
    seed_everything(settings.train.seed)
    model = new_model(data, settings.model, held_out)
    return model, fit(model, data, settings, quiet=True, **options)


class Records(Tracker):
    """Keeps what a run logs."""

    def __init__(self):
        super().__init__(None, {})
        self.rows = []

    def log(self, event, **values):
        self.rows.append(values)

    def losses(self):
        return {name: value for row in self.rows for name, value in row.items() if name.startswith("loss_")}


def same_weights(left, right):
    return all(torch.equal(value, right.state_dict()[name]) for name, value in left.state_dict().items())


def test_training_is_deterministic_and_learns(data, tmp_path):
    settings = tiny_settings(tmp_path, DROPOUT_MODEL, max_epochs=12, learning_rate=0.01, eval_every=12)
    model, progress = trained(data, settings)
    again, _ = trained(data, settings)
    assert same_weights(model, again)
    untrained = new_model(data, settings.model).eval()
    assert progress.best["MRR"] > 1.2 * np.mean(1 / target_ranks(untrained, data, "validation", 12, EvalSettings()))
    other, _ = trained(data, settings.replace(seed=1))
    assert not same_weights(model, other)


def learned(data, variant, **options):
    """What a variant of the study of all options, very small, learns from data, and from teachers trained on them."""
    teachers = [learned(data, OPTIONS[need]) for need in variant.needs]
    settings = variant.settings.replace(hidden_size=variant.settings.model.hidden_size // 4)
    return trained(data, settings, teachers=teachers, **options)[0]


@pytest.mark.parametrize("variant", OPTIONS.variants, ids=lambda variant: variant.name)
def test_training_knows_nothing_of_what_is_held_out(data, variant, monkeypatch, tmp_path):
    """Each option, with all that is prepared for it: other films, ratings and times in validation and test, the same
    weights to the last bit."""
    monkeypatch.setattr(graph, "PRETRAINING_STEPS", 3)
    monkeypatch.setattr(text, "CACHE", tmp_path)  # the sentence encoder need not be installed: its place is taken
    monkeypatch.setattr(text, "_installed", lambda: True)
    monkeypatch.setattr(text, "version", lambda name: "0")
    monkeypatch.setattr(text, "_sentence_vectors", lambda wanted: text_vectors(wanted, "ngrams").astype(np.float32))
    other = swapped(data, np.setdiff1d(np.arange(len(data.items)), data.training_rows()))
    model = learned(data, variant)
    assert same_weights(model, learned(other, variant))
    if variant.name == "quick preset":
        assert not same_weights(model, learned(other, variant, validate=False))


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("protocol", ["leave_one_out", "global_time", "multi5"])
def test_under_every_protocol_too(tiny, protocol, held_out, monkeypatch, tmp_path):
    """All that is prepared from interactions, at once; and where nothing is held out, the last interaction counts."""
    monkeypatch.setattr(graph, "PRETRAINING_STEPS", 3)
    data = process(tiny, DataSettings(dataset="synthetic", protocol=protocol, holdout_share=0.2))
    settings = tiny_settings(tmp_path, dataclasses.replace(
        VARIANTS["enhanced"], id_start="svd", graph_encoder="rgcn_frozen"), max_steps=2, contrastive_weight=0.1,
        popularity_correction=0.2, contrastive_views="same_target")
    hidden = np.setdiff1d(np.arange(len(data.items)), data.training_rows())
    assert len(hidden) > 50
    first, second = (trained(which, settings, held_out=held_out, validate=held_out)[0]
                     for which in (data, swapped(data, hidden)))
    assert same_weights(first, second) == held_out
    assert torch.equal(first.encoders["graph"].graph.liked_with, second.encoders["graph"].graph.liked_with) == held_out


@pytest.mark.parametrize("positions", [40, 100])
def test_the_parts_of_a_step_add_up_to_the_step(data, variant, tmp_path, monkeypatch, positions):
    """However few positions pass at once: the same losses and gradients, within rounding."""
    gradients: list[list[torch.Tensor]] = []

    def look(optimizer):
        gradients[-1] += [parameter.grad.clone() for group in optimizer.param_groups for parameter in group["params"]
                          if parameter.grad is not None]

    # Nothing hidden: a first film's rating, which a start predicts, is missing where the history's ratings are hidden.
    settings = tiny_settings(tmp_path, variant, max_epochs=1, gradient_clip=0.5, batch_size=24, context_dropout=0.0)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *_, **__: look(self))
    losses = []
    for size in (10_000, positions):
        monkeypatch.setitem(training_loop.PART_POSITIONS, "cpu", size)
        gradients.append([])
        trained(data, settings, tracker=(records := Records()))
        losses.append(records.losses())
    assert len(gradients[0]) == len(gradients[1]) > 10
    for parted, whole in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_stopwatch_tells_work_from_waiting():
    progress = Progress(seconds=5.0, processor_seconds=7.0)
    count = progress.stopwatch()
    time.sleep(0.2)
    count()
    assert 5.2 <= progress.seconds < 6 and 7 <= progress.processor_seconds < 7.1
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    count()
    assert progress.seconds >= 5.4 and 7.2 <= progress.processor_seconds < 7.6


@pytest.mark.parametrize(("changes", "parts"), [
    ({}, {}), ({"gradient_accumulation": 2}, {}), ({"ema_decay": 0.8}, {}), ({"max_steps": 13}, {}),
    ({}, {"id_dropout": 0.3, "graph_encoder": "lightgcn", "title_encoder": "ngrams"}),
    ({"contrastive_weight": 0.3, "masked_item_weight": 0.0}, {"id_start": "svd", "graph_encoder": "rgcn_frozen"}),
    ({"late_start_share": 0.5, "loss": "sampled_softmax"}, {"task_weighting": "uncertainty", "start_token": True})])
def test_a_stopped_run_resumes_exactly(data, tmp_path, monkeypatch, changes, parts):
    """Stop in the middle of an epoch by a real Ctrl-C signal, resume: the same weights to the last bit."""
    settings = tiny_settings(tmp_path, dataclasses.replace(DROPOUT_MODEL, **parts), **{"max_epochs": 4, **changes})
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
    resumed, after = trained(data, settings, state_folder=tmp_path / "last", resume=True)
    assert same_weights(whole, resumed)
    assert (after.step, after.tokens, after.best["NDCG@10"]) == (progress.step, progress.tokens,
                                                                 progress.best["NDCG@10"])


@pytest.mark.parametrize("validate", [True, False])
def test_the_moving_average_is_what_is_validated_and_kept(data, tmp_path, monkeypatch, validate):
    """Against the recursion written out: k m + (1 - k) w after step t, k = min(decay, (1 + t) / (10 + t))."""
    step, after = training_loop.Run.train_step, []

    def watched(run, batch):
        step(run, batch)
        after.append({name: value.clone() for name, value in run.model.state_dict().items()})

    monkeypatch.setattr(training_loop.Run, "train_step", watched)
    kept = []
    settings = tiny_settings(tmp_path, DROPOUT_MODEL, max_epochs=1, ema_decay=0.28)
    model, _ = trained(data, settings, validate=validate, on_best=lambda model, *_: kept.append(model.state_dict()))
    keep = [min(0.28, (1 + t) / (10 + t)) for t in range(len(after))]
    assert keep[1] < keep[-1] == 0.28
    for name, value in model.named_parameters():
        expected = after[0][name]
        for share, weights in zip(keep[1:], after[1:], strict=True):
            expected = share * expected + (1 - share) * weights[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
        assert not kept or torch.equal(kept[0][name], value)


def test_popularity_correction_is_log_popularity(data):
    """A model that has learned nothing then predicts by popularity."""
    rows = data.catalogue.num_rows
    counts = np.bincount(data.items[data.training_rows()], minlength=rows)
    loss = item_loss(TrainSettings(popularity_correction=1.0), data, True, torch.device("cpu"))
    bias = torch.zeros(rows)
    bias[:ITEM_ROWS] = -torch.inf
    targets = torch.from_numpy(data.items[data.training_rows()])
    got = loss(torch.zeros(len(targets), 4), torch.zeros(rows, 4), bias, targets)
    share = np.maximum(counts[ITEM_ROWS:], 1)
    assert float(got) == pytest.approx(-float(np.log(share / share.sum())[data.items[data.training_rows()] -
                                                                          ITEM_ROWS].mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["vanilla", "enhanced"])
def test_a_student_comes_to_say_what_its_teachers_say(data, tmp_path, kind):
    """Following two random teachers alone, a student ranks more like their mean than like chance; other teachers,
    another share or temperature give another student."""
    settings = tiny_settings(tmp_path, VARIANTS[kind], max_epochs=40, learning_rate=0.02, eval_every=40,
                             teacher_share=1.0, rating_weight=0.0, preference_weight=0.0)
    seed_everything(7)
    teachers = [fresh_model(data, settings.model, seed, spread=0.5) for seed in (1, 2)]
    student, _ = trained(data, settings, teachers=teachers, validate=False)
    batch = history_batch([history_of(data, user, span(data, user, "test")[1]) for user in range(30)], 12)
    with torch.no_grad():
        wanted = torch.stack([teacher.score(batch).softmax(1) for teacher in teachers]).mean(0)
        strangers = fresh_model(data, settings.model, 3, spread=0.5).score(batch).softmax(1)
        said = student.score(batch).softmax(1)
    assert (said - wanted).abs().sum(1).mean() < 0.7 * (strangers - wanted).abs().sum(1).mean()
    short = settings.replace(max_epochs=1)
    plain, _ = trained(data, short, teachers=teachers)
    half, soft = short.replace(teacher_share=0.5), short.replace(teacher_temperature=3.0)
    for other, chosen in ((half, teachers), (soft, teachers), (short, teachers[:1])):
        assert not same_weights(plain, trained(data, other, teachers=chosen)[0])


def test_best_weights_are_kept_and_patience_ends_the_run(data, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.9])
    weights = []

    def planned(run):
        weights.append({name: value.clone() for name, value in run.model.state_dict().items()})
        return {"NDCG@10": next(scores), "HR@10": 0.0}

    monkeypatch.setattr(training_loop.Run, "validation_metrics", planned)
    called = []
    model, progress = trained(data, tiny_settings(tmp_path, DROPOUT_MODEL, max_epochs=10, patience=3),
                              on_best=lambda _model, record, first: called.append((record["epoch"], first)))
    assert called == [(1, True), (2, False)] and progress.best["epoch"] == 2 and progress.epoch == 5
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights[1].items())


def test_a_loss_that_is_not_finite_is_an_error_and_overwrites_nothing(data, tmp_path):
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"])
    seed_everything(0)
    model = new_model(data, settings.model)
    with torch.no_grad():
        model.encoder.blocks[0].expand.weight.fill_(torch.nan)
    for validate in (True, False):
        with pytest.raises(UserError, match=r"diverged|became nan"):
            fit(model, data, settings, quiet=True, state_folder=tmp_path / "last", on_best=pytest.fail,
                validate=validate)
        assert not (tmp_path / "last").exists()


def test_max_minutes_ends_the_run_and_the_learning_rate(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "LOG_EVERY", 1)
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"], max_epochs=10_000, max_minutes=0.03, eval_every=10_000)
    _, progress = trained(data, settings, tracker=Tracker(tmp_path / "run.jsonl", settings.to_dict()))
    assert progress.finished and progress.seconds < 10 and progress.best
    records = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records] == ["settings", "epoch", "fit"]
    assert records[1]["learning_rate"] < 0.05 * settings.train.learning_rate
    assert {"step", "tokens", "seconds", "epoch"} <= set(records[2]["best"])
    assert json.loads((tmp_path / "run.now").read_text())["step"] == progress.step


def test_schedule_warms_up_and_decays(data, tmp_path):
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"], max_epochs=50, warmup_share=0.2)
    run = training_loop.Run(new_model(data, settings.model), data, settings, True, None,
                             Tracker(None, {}), None, True)
    total = 50 * run.steps_per_epoch
    factors = []
    for step in range(total + 1):
        run.progress.step = step
        factors.append(run.schedule())
    peak = int(0.2 * total)
    assert factors[0] > 0 and factors[peak] == pytest.approx(1, abs=0.02) and factors[-1] == pytest.approx(0, abs=1e-9)
    assert factors[:peak] == sorted(factors[:peak]) and factors[peak:] == sorted(factors[peak:], reverse=True)


def test_weight_decay_spares_tables_biases_and_norms(data):
    model = new_model(data, VARIANTS["enhanced"])
    decayed, spared = parameter_group_names(model)
    assert len(decayed) + len(spared) == len(list(model.parameters()))
    assert "encoder.blocks.0.qkv.weight" in decayed
    assert {"encoders.id.table.weight", "position", "next_bias", "encoder.final_norm.weight"} <= set(spared)


def test_gradient_accumulation_equals_the_larger_batch(data, tmp_path):
    """One step over two half batches moves the weights like one over the mean of both losses."""
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"], gradient_accumulation=2, batch_size=30, max_epochs=1,
                             masked_item_weight=0.0, context_dropout=0.0, user_id_dropout=0.0, gradient_clip=0.0)
    model, _ = trained(data, settings)
    seed_everything(settings.train.seed)
    expected = new_model(data, settings.model)
    optimizer = torch.optim.AdamW(training_loop.parameter_groups(expected, settings.train.weight_decay))
    batches = list(training_loop.TrainingBatches(data, 12, settings.train, 0.0).epoch(0))
    assert len(batches) == 2
    weights = settings.train.task_weights
    for batch in batches:
        losses = expected(batch, frozenset(weights))
        (sum(weights[task] * loss for task, loss in losses.items()) / 2).backward()
    for group in optimizer.param_groups:  # the first step of the warm-up: 5 % of one update
        group["lr"] = settings.train.learning_rate / (1 + 0.05)
    optimizer.step()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from safetensors.torch import save_file
from data_processor import process
from readers.synthetic import generate
from settings import DataSettings, Settings
from model_io import new_model
import training_loop
from training_loop import fit, leave_process_group, seed_everything
training_loop.PART_POSITIONS["cpu"] = 100
settings = Settings().replace(**json.loads(sys.argv[1]))
data = process(generate(seed=3, people=60, films=80), DataSettings(dataset="synthetic"))
seed_everything(settings.train.seed)
model = new_model(data, settings.model)
progress = fit(model, data, settings, quiet=True)
out = sys.argv[2] + os.environ["RANK"]
save_file(dict(model.named_parameters()), out + ".safetensors")
Path(out + ".json").write_text(json.dumps([progress.best, progress.step]))
leave_process_group()
"""


def test_popularity_sampling_covers_what_is_trained_on(data):
    """Trained on everything, counts are those of everything; an item that training never has is drawn like one seen
    once, not always or never."""
    train = TrainSettings(loss="sampled_softmax", negative_sampling="popularity")
    for held_out, rows in ((False, np.arange(len(data.items))), (True, data.training_rows())):
        shares = torch.exp(item_loss(train, data, held_out, torch.device("cpu")).log_frequency)[ITEM_ROWS:]
        counts = np.maximum(1, np.bincount(data.items[rows], minlength=data.catalogue.num_rows)[ITEM_ROWS:])
        np.testing.assert_allclose(shares.numpy(), counts / counts.sum(), rtol=1e-4)


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(data, tmp_path, monkeypatch):
    """torchrun with gloo: both ranks end with the weights and metrics of one process that gathers two batches, each
    of several parts."""
    monkeypatch.setitem(training_loop.PART_POSITIONS, "cpu", 100)
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"], batch_size=15, max_epochs=2, masked_item_weight=0.0,
                             context_dropout=0.0, user_id_dropout=0.0)
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    run_two(script, json.dumps(settings.to_dict()), str(tmp_path / "out"))
    single, progress = trained(data, settings.replace(gradient_accumulation=2))
    seed_everything(settings.train.seed)
    start = new_model(data, settings.model)
    for rank in (0, 1):
        best, steps = json.loads((tmp_path / f"out{rank}.json").read_text())
        assert 2 * steps == progress.step == 8 and best["tokens"] == progress.best["tokens"]
        assert best["MRR"] == pytest.approx(progress.best["MRR"], rel=0.01)
        # Adam blows rounding up where a gradient is nearly 0, so the whole is compared to how far training moved.
        weights = load_file(tmp_path / f"out{rank}.safetensors")
        apart, moved = (sum(float((weights[name] - other.state_dict()[name]).abs().sum()) for name in weights)
                        for other in (single, start))
        assert apart < 0.01 * moved


@pytest.mark.slow
def test_trainer_under_torchrun(tmp_path):
    """The README's line, shrunk: one model, one record, one table."""
    done = run_two(ROOT / "trainer.py", "--preset", "quick", "--dataset", "synthetic", "--hidden_size", "16",
                   "--seq_length", "20", "--max_epochs", "1", "--bootstrap_samples", "100", "--checkpoint_dir",
                   str(tmp_path / "c"), "--runs_dir", str(tmp_path / "runs"))
    assert done.stdout.count("Ranking on the test items") == 1
    assert (tmp_path / "c" / "best" / "results.json").exists() and len(list((tmp_path / "runs").iterdir())) == 1


def run_two(*arguments):
    """A script in two processes."""
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done


# The library interface of vanilla BERT4Rec --------------------------------------------------------------------------

def test_vanilla_interface(tmp_path):
    """The lines of the README: a cycle 1 2 3 ... 20 is learned and continued."""
    torch.manual_seed(0)
    sequences = [[1 + (start + step) % 20 for step in range(10)] for start in range(20)] * 5
    model = BERT4Rec(vocab_size=20, hidden_size=32, num_layers=2, num_heads=2, max_seq_length=12, dropout_rate=0.0)
    dataset = SequentialDataset(user_sequences=sequences, max_length=12, mask_prob=0.15)
    assert len(dataset) == 100
    BERT4RecTrainer(model, dataset).train(epochs=90, batch_size=25, learning_rate=0.003, last_mask_share=0.3)
    history = list(range(3, 12))
    assert model.recommend(history, top_k=3)[0][0] == 12
    best = model.recommend(history, top_k=11)
    assert len(best) == 11 and not {item for item, _ in best} & set(history)
    assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)
    model.save_pretrained(tmp_path / "cycle")
    other = BERT4Rec(vocab_size=20, hidden_size=32, num_layers=2, num_heads=2, max_seq_length=12, dropout_rate=0.0)
    assert other.load_pretrained(tmp_path / "cycle").recommend(history, top_k=11) == best
    backwards = SequentialDataset({user: sequence[::-1] for user, sequence in enumerate(sequences)}, max_length=12)
    other.fine_tune(backwards, epochs=90, batch_size=25, learning_rate=0.003, last_mask_share=0.3)
    assert other.recommend(history[::-1], top_k=1)[0][0] == 2


def test_fine_tuning_grows_the_vocabulary(tmp_path):
    """Items of later numbers join: what is known scores as before, and the new ones are learned."""
    model = BERT4Rec(vocab_size=20, hidden_size=32, max_seq_length=12, dropout_rate=0.0)
    before = dict(model.recommend([1, 2, 3], top_k=17))
    model.fine_tune(SequentialDataset([[1, 2, 23]], 12), epochs=1, learning_rate=1e-12)
    after = dict(model.recommend([1, 2, 3], top_k=20))
    assert model.vocab_size == 23 and {item: after[item] for item in before} == pytest.approx(before, abs=1e-4)
    assert after[21] == after[22] == pytest.approx(after[23], abs=1e-4)
    torch.manual_seed(0)
    cycle = [[1 + (start + step) % 25 for step in range(10)] for start in range(25)] * 5
    model.fine_tune(SequentialDataset(cycle, 12), epochs=90, batch_size=25, learning_rate=0.003, last_mask_share=0.3)
    for last in (20, 21, 22, 23, 24):  # each next one is new
        assert last + 1 in dict(model.recommend([last - 2, last - 1, last], top_k=3))
    model.save_pretrained(tmp_path / "grown")
    again = BERT4Rec(vocab_size=25, hidden_size=32, max_seq_length=12).load_pretrained(tmp_path / "grown")
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


def test_vanilla_validation_holds_out_two(tmp_path):
    sequences = [[1 + (start + step) % 20 for step in range(8)] for start in range(20)]
    model = BERT4Rec(vocab_size=20, hidden_size=16, max_seq_length=12)
    progress = BERT4RecTrainer(model, SequentialDataset(sequences, 12)).train(epochs=2, validate=True)
    assert progress.best["epoch"] in (1, 2)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_max_steps_ends_the_run_mid_epoch_and_the_learning_rate(data, tmp_path, accumulation):
    """Whatever --max_epochs says, and with no gradient left over."""
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"], max_epochs=1, max_steps=11,
                             gradient_accumulation=accumulation)
    model, progress = trained(data, settings, tracker=Tracker(tmp_path / "run.jsonl", settings.to_dict()))
    assert progress.step == 11 and progress.finished and progress.epoch > 1
    last = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[-2])
    assert last["step"] == 11 and last["learning_rate"] < 0.3 * settings.train.learning_rate
    assert not any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())
    untrained, _ = trained(data, settings.replace(max_steps=1, gradient_accumulation=4, learning_rate=1e-9))
    short, _ = trained(data, settings.replace(max_steps=1, gradient_accumulation=4))
    assert not same_weights(untrained, short)  # the one step counts
