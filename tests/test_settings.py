"""Settings and command line: each option has an effect, wrong ones are named with their nearest neighbour."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from command_line import parse_command_line, say_idle_flags
from data_processor import process
from model_io import new_model
from presets import PRESETS, preset_settings
from settings import FIELD_HELP, Settings, all_fields, idle, model_only
from support.errors import UserError
from tests.conftest import ROOT, VARIANTS, tiny_settings
from training_loop import fit, seed_everything

# A value other than the one in `tiny_settings`, for every option that changes what training arrives at.
OTHER_VALUE = {
    "min_item_count": 20, "min_rating": 4, "min_user_count": 30, "protocol": "multi5", "tie_break": "random",
    "tie_seed": 5,
    "model": "vanilla", "hidden_size": 8, "num_heads": 1, "num_layers": 1, "seq_length": 6, "ffn_multiplier": 2,
    "dropout": 0.5, "layer_dropout": "0.1,0.4", "similarity": "cosine", "temperature": 0.5,
    "attention_dropout": 0.5, "attention_type": "causal", "segment_embeddings": True, "positions": "sinusoidal",
    "id_encoder": False, "id_start": "svd", "id_dropout": 0.5, "title_encoder": "ngrams", "graph_encoder": "rgcn",
    "fusion": "gate", "time_bias": True, "genre_encoder": False, "genre_size": 4, "year_encoder": False, "year_size": 4,
    "rating_input": False, "day_of_year": False, "weekday_hour": True, "time_gap": False, "relative_time": False,
    "user_id": False, "gender": False, "age": False, "occupation": False, "user_context": "mean",
    "start_token": True,
    "query_time": "known", "masked_item_head": False, "next_item_head": False, "rating_head": False,
    "preference_head": False, "preference_horizon": 2,
    "batch_size": 9, "batch_tokens": 50, "learning_rate": 0.01, "weight_decay": 0.9, "warmup_share": 0.9,
    "max_epochs": 1, "max_steps": 7, "gradient_clip": 0.01, "gradient_accumulation": 2, "precision": "bf16", "seed": 1,
    "sliding_window": True, "mask_prob": 0.6, "last_mask_share": 1.0, "last_too_share": 1.0, "masking": "span",
    "masked_batch_share": 0.2, "contrastive_weight": 0.5, "contrastive_views": "crop", "contrastive_temperature": 1.0,
    "task_weighting": "uncertainty", "masked_item_weight": 0.0,
    "next_item_weight": 0.3, "rating_weight": 0.0, "preference_weight": 0.0,
    "loss": "sampled_softmax", "negatives": 3, "negative_sampling": "popularity", "gbce_t": 0.1,
    "label_smoothing": 0.3, "popularity_correction": 1.0, "ema_decay": 0.5,
    "context_dropout": 0.9, "user_id_dropout": 0.0, "late_start_share": 1.0, "filter_seen": False,
    "eval_every": 2, "patience": 1,
    "holdout_share": 0.3, "split_seed": 3, "targets_per_person": 1,
}
TESTED_ELSEWHERE = {
    "dataset": "test_readers.py", "data_dir": "test_scripts.py", "checkpoint_dir": "test_scripts.py",
    "runs_dir": "test_scripts.py",
    **dict.fromkeys(("use_wandb", "wandb_mode", "tracker", "run_group", "run_name"), "test_tracking.py"),
    "start_from": "test_scripts.py",
    **dict.fromkeys(("teacher", "teacher_share", "teacher_temperature"), "test_training.py, test_scripts.py"),
    "max_minutes": "test_training.py", "bootstrap_samples": "test_evaluation.py",
    "candidates": "test_evaluation.py", "candidate_seed": "test_evaluation.py",
    "eval_batch_size": "test_evaluation.py: changes memory and never a result",
    "gradient_checkpointing": "test_losses_and_blocks.py: changes memory and never a result",
    "device": "below", "pin_memory": "changes speed on a GPU and never a result"}


def arrive(tiny, tmp_path, **changes):
    """What a tiny training run arrives at, as one comparable string."""
    vanilla = changes.get("model") == "vanilla" or model_only(next(iter(changes), "")) == "vanilla"
    settings = tiny_settings(tmp_path, VARIANTS["vanilla" if vanilla else "enhanced"])
    if changes.get("next_item_head") is False:
        changes |= {"rating_head": False, "preference_head": False}
    if "tie_seed" in changes:
        settings = settings.replace(tie_break="random")
    if {"negatives", "negative_sampling"} & set(changes):
        settings = settings.replace(loss="sampled_softmax")
    if {"holdout_share", "split_seed"} & set(changes):
        settings = settings.replace(protocol="multi5")
    if "targets_per_person" in changes:
        settings = settings.replace(protocol="global_time")
    if {"contrastive_views", "contrastive_temperature"} & set(changes):
        settings = settings.replace(contrastive_weight=0.5)
    if "temperature" in changes:
        settings = settings.replace(similarity="cosine")
    if "gbce_t" in changes:
        settings = settings.replace(loss="gbce")
    tied = dataclasses.replace(tiny, ratings=tiny.ratings.assign(timestamp=tiny.ratings["timestamp"] // 100_000))
    settings = settings.replace(**{"max_epochs": 3, **changes})
    data = process(tied, settings.data)
    seed_everything(settings.train.seed)
    model = new_model(data, settings.model)
    validations = []
    progress = fit(model, data, settings, quiet=True, on_best=lambda _model, record, _first: validations.append(record))
    total = sum(float(value.double().abs().sum()) for value in model.state_dict().values())
    return str((total, progress.step, progress.epoch, progress.best["NDCG@10"], progress.best["MRR"],
                [record["epoch"] for record in validations]))


def test_every_option_is_listed_here_and_has_help():
    assert set(OTHER_VALUE) | set(TESTED_ELSEWHERE) == set(all_fields())
    assert set(FIELD_HELP) == set(all_fields())


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return {"enhanced": arrive(tiny, folder), "vanilla": arrive(tiny, folder, model="vanilla"),
            "tie_seed": arrive(tiny, folder, tie_break="random"), "gbce_t": arrive(tiny, folder, loss="gbce"),
            **dict.fromkeys(("contrastive_views", "contrastive_temperature"),
                            arrive(tiny, folder, contrastive_weight=0.5)),
            "temperature": arrive(tiny, folder, similarity="cosine"),
            "targets_per_person": arrive(tiny, folder, protocol="global_time"),
            **dict.fromkeys(("holdout_share", "split_seed"), arrive(tiny, folder, protocol="multi5")),
            **dict.fromkeys(("negatives", "negative_sampling"), arrive(tiny, folder, loss="sampled_softmax"))}


@pytest.mark.parametrize("name", [name for name in OTHER_VALUE if name not in ("patience", "eval_every")])
def test_each_option_has_an_effect(tiny, tmp_path, plain, name):
    base = plain.get(name, plain["vanilla" if model_only(name) == "vanilla" else "enhanced"])
    torch.manual_seed(0)
    assert arrive(tiny, tmp_path, **{name: OTHER_VALUE[name]}) != base


def test_evaluation_rhythm_has_an_effect(tiny, tmp_path):
    assert arrive(tiny, tmp_path, eval_every=1, max_epochs=4) != arrive(tiny, tmp_path, eval_every=3, max_epochs=4)


def test_a_gpu_that_is_not_there(tiny, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--device cuda"):
        arrive(tiny, tmp_path, device="cuda")


def test_precedence_is_preset_then_file_then_flags(tmp_path):
    (tmp_path / "run.yaml").write_text("hidden_size: 96\nuser_id: false\nlearning_rate: 2e-4\n")
    settings, resume = parse_command_line(["--preset", "original", "--config", str(tmp_path / "run.yaml"),
                                           "--learning-rate=3e-4", "--gender"], "")
    assert not resume and settings.model.num_layers == PRESETS["original"]["num_layers"]
    assert (settings.model.hidden_size, settings.model.user_id, settings.train.learning_rate) == (96, False, 3e-4)
    assert parse_command_line([], "")[0] == preset_settings("default")
    assert parse_command_line(["--resume"], "")[1]
    for flags in ([], ["--preset=quick"], ["--config", str(tmp_path / "run.yaml")]):  # a script's own preset
        chosen, _ = parse_command_line(flags, "", preset="original")
        assert chosen.model.num_layers == (2 if flags else PRESETS["original"]["num_layers"])


def test_a_flag_that_does_nothing_is_said_to(tmp_path, capsys):
    def said(*flags):
        say_idle_flags([*flags], parse_command_line(["--preset", "quick", *flags], "")[0])
        return capsys.readouterr().err.splitlines()

    assert said("--masking", "span") == ["note: --masking does nothing without --masked_item_head"]
    assert said("--gbce_t=0.5", "--loss", "sampled_softmax") == ["note: --gbce_t does nothing without --loss gbce"]
    assert said("--teacher_share", "0.1", "--temperature", "0.1") == [
        "note: --teacher_share does nothing without --teacher",
        "note: --temperature does nothing without --similarity cosine"]
    assert said("--negatives", "9", "--tie_seed", "1", "--candidate_seed", "2", "--no-user_id", "--user_id_dropout",
                "0.1") == ["note: --candidate_seed does nothing without --candidates uniform_100 or popular_100 or "
                           "popular_100_any", "note: --negatives does nothing without --loss sampled_softmax or gbce",
                           "note: --tie_seed does nothing without --tie_break random",
                           "note: --user_id_dropout does nothing without --user_id"]
    assert not said("--negatives", "9", "--loss", "gbce") + said("--candidate_seed", "2", "--candidates", "popular_100")
    assert not said("--masking", "span", "--masked_item_head") + said("--label_smoothing", "0.1", "--no-user_id")
    assert not said("--contrastive_weight", "0.1", "--contrastive_views", "crop")
    assert not said("--model", "vanilla", "--masking", "span")
    (tmp_path / "all.yaml").write_text("masking: span\n")  # a file may list what happens to be off
    assert not said("--config", str(tmp_path / "all.yaml"))
    for name in all_fields():  # what a help text says of a flag is a flag, and one that can be off
        assert idle(name, Settings()) in (None, *(f"--{other}" for other in all_fields()), "--similarity cosine",
                                          "--loss gbce", "--protocol global_time", "--protocol multi5",
                                          "--tie_break random", "--loss sampled_softmax or gbce",
                                          "--candidates uniform_100 or popular_100 or popular_100_any",
                                          "--protocol global_time or multi5"), name


def test_the_row_original_is_the_preset_original():
    assert parse_command_line(["--config", str(ROOT / "configs" / "original.yaml")], "") == \
        parse_command_line(["--preset", "original"], "")


def test_explicit_flags_are_not_cut_short_by_a_presets_limits():
    """`--batch_size 128 --max_epochs 50` means 128 sequences and 50 epochs, whatever the default preset caps."""
    capped, _ = parse_command_line([], "")
    assert capped.train.batch_tokens and capped.train.max_minutes
    free, _ = parse_command_line(["--batch_size", "128", "--learning_rate", "5e-4", "--max_epochs", "50"], "")
    assert (free.train.batch_tokens, free.train.max_minutes) == (0, 0.0)
    both, _ = parse_command_line(["--max_epochs", "50", "--max_minutes", "3"], "")
    assert both.train.max_minutes == 3.0


WRONG = [
    (["--label_smoothing", "0.1", "--loss", "gbce"], "belongs to --loss softmax"),
    (["--popularity_correction", "1", "--loss", "gbce"], "belongs to --loss softmax"),
    (["--layer_dropout", "0.1"], "give 2 rates"), (["--layer_dropout", "0.1,1.2"], "give 2 rates"),
    (["--layer_dropout", ".999,.1"], "give 2 rates"),
    (["--layer_dropout", "0.1,0.2,"], "give 2 rates"), (["--layer_dropout", "a,b"], "give 2 rates"),
    (["--teacher_temperature", "0"], "--teacher_temperature"), (["--teacher_share", "2"], "--teacher_share"),
    (["--ema_decay", "1"], "--ema_decay"), (["--temperature", "0"], "--temperature"),
    (["--hiden_size", "64"], "did you mean 'hidden_size'"),
    (["--batchsize=3"], "did you mean 'batch_size'"),
    (["-k", "3"], "unknown flag"),
    (["--preset", "quik"], "unknown --preset"),
    (["--preset"], "needs a value"),
    (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    (["--num_heads", "three"], "--num_heads"),
    (["--num_heads", "7"], "multiple of 7"),
    (["--dataset", "netflix"], "--dataset"),
    (["--dropout", "1.5"], "--dropout"),
    (["--mask_prob", "0"], "--mask_prob"),
    (["--batch_size", "0"], "--batch_size"),
    (["--learning_rate", "-1"], "--learning_rate"), (["--learning_rate", "inf"], "--learning_rate must be a finite"),
    (["--popularity_correction", "nan"], "--popularity_correction must be a finite"),
    (["--no-next_item_head", "--masked_item_head"], "--no-rating_head"),
    (["--no-next_item_head"], "--masked_item_head"),
    (["--no-id_encoder", "--no-genre_encoder", "--no-year_encoder"], "representation"),
    (["--model", "vanilla", "--no-user_id"], "belongs to --model enhanced"),
    (["--segment_embeddings"], "belongs to --model vanilla"),
    (["--resume", "--batch_size", "3"], "--resume"),
    (["--resume", "--preset", "quick"], "--resume"),
    (["--resume", "--config", "longer.yaml"], "--resume"),
    (["--query_time", "known", "--no-day_of_year", "--no-time_gap"], "--query_time known needs"),
    (["--model", "vanilla", "--seq_length", "1"], "--seq_length"),
    (["--max_epochs", "2", "7"], "7"),
    (["--loss", "gbce", "--negative_sampling", "popularity"], "--negative_sampling uniform"),
    (["--loss", "sampled_softmax", "--negatives", "0"], "--negatives"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=[" ".join(flags) for flags, _ in WRONG])
def test_wrong_flags(flags, message):
    with pytest.raises(UserError) as caught:
        parse_command_line(flags, "")
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(("content", "message"), [
    ("seed: 1\nhiden_size: 3", "run.yaml:2: unknown key 'hiden_size'; did you mean 'hidden_size'"),
    ("- 1\n- 2", "expected lines"), ("seed: 1\na: [", "run.yaml:2: is not YAML"),
    ("hidden_size: many", "--hidden_size"), ("num_heads: 7", "multiple of 7"),
    ("seed: 1\nhidden_size: 010", "run.yaml:2: 010: write a decimal"), ("seed: 1\nseed: 2", "run.yaml:2: 'seed' st"),
    ("fusion: [gate]", "run.yaml:1: fusion: expected one value"), ("seed: 1\n---\nseed: 2", "run.yaml:2: is not YAML")])
def test_wrong_yaml(tmp_path, content, message):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        parse_command_line(["--config", str(tmp_path / "run.yaml")], "")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", ["enhanced", "vanilla"])
def test_presets_fit_both_models(preset, model):
    settings = preset_settings(preset, model)
    assert settings.model.model == model
    assert Settings().replace(**settings.to_dict()) == settings


def test_the_config_of_the_reported_run_is_the_quick_preset():
    settings, _ = parse_command_line(["--config", str(ROOT / "configs" / "enhanced.yaml")], "")
    assert settings == preset_settings("quick").replace(max_minutes=0.0)


def test_original_preset_is_the_documented_design():
    settings = preset_settings("original")
    model, train = settings.model, settings.train
    assert (model.hidden_size, model.num_heads, model.num_layers, model.seq_length, model.dropout) == \
        (256, 4, 4, 50, 0.2)
    assert (train.batch_size, train.learning_rate, train.max_epochs, train.patience) == (64, 1e-4, 100, 15)
    assert train.task_weights == {"masked_item": 1.0, "next_item": 1.0, "rating": 0.3, "preference": 0.2,
                                  "contrastive": 0.0}
