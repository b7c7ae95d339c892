"""Settings and command line: each option has an effect, wrong ones are named with their nearest
neighbour.
"""

import pytest
import torch

from command_line import parse_command_line, parse_settings
from data_processor import process
from model_io import new_model
from presets import PRESETS, preset_settings
from settings import FIELDS, Settings, idle, model_only
from support.errors import UserError
from tests.conftest import ROOT, VARIANTS, tiny_settings
from training_loop import fit

# A value other than the one in `tiny_settings`, for every option that changes what training
# arrives at.
OTHER_VALUE = {
    "min_item_count": 20,
    "keep": "rating>=4",
    "min_user_count": 30,
    "protocol": "multi5",
    "split_seed": 3,
    "model": "vanilla",
    "hidden_size": 8,
    "num_heads": 1,
    "num_layers": 1,
    "seq_length": 6,
    "ffn_multiplier": 2,
    "dropout": 0.5,
    "layer_dropout": "0.1,0.4",
    "attention_type": "causal",
    "segment_embeddings": True,
    "positions": "sinusoidal",
    "item_ids": False,
    "item_features": "year",
    "text_encoder": "ngrams",
    "graph": True,
    "interaction_features": "none",
    "user_ids": False,
    "user_features": "age",
    "time_features": "gap",
    "relative_time": False,
    "query_time": "known",
    "start_token": True,
    "transitions": True,
    "masked_item_weight": 0.0,
    "next_item_weight": 0.3,
    "value_weight": 0.0,
    "preference_weight": 0.0,
    "contrastive_weight": 0.5,
    "batch_size": 9,
    "batch_tokens": 50,
    "learning_rate": 0.01,
    "weight_decay": 0.9,
    "max_epochs": 1,
    "max_steps": 7,
    "precision": "bf16",
    "seed": 1,
    "sliding_window": True,
    "mask_prob": 0.6,
    "last_mask_share": 1.0,
    "masking": "late",
    "masked_batch_share": 0.2,
    "loss": "sampled_softmax",
    "negatives": 3,
    "late_start_share": 1.0,
    "filter_seen": "no",
    "eval_every": 2,
    "patience": 1,
}
TESTED_ELSEWHERE = {
    "dataset": "test_readers.py",
    "data_dir": "test_readers.py",
    "columns": "test_any_data.py",
    **dict.fromkeys(("checkpoint_dir", "runs_dir"), "test_any_data.py"),
    **dict.fromkeys(
        ("use_wandb", "wandb_mode", "run_group", "run_name"),
        "test_tracking.py",
    ),
    "start_from": "test_scripts.py",
    "teacher": "test_training.py",
    "max_minutes": "test_training.py",
    "candidates": "test_evaluation.py",
    "device": "below",
}


# What an option needs to have an effect.
BASES = {
    "split_seed": {"protocol": "multi5"},
    "negatives": {"loss": "sampled_softmax"},
}


def arrive(tiny, tmp_path, kind="enhanced", **changes):
    """What a tiny training run arrives at, as one comparable string."""
    settings = tiny_settings(tmp_path, VARIANTS[kind]).replace(
        **{"max_epochs": 3, **changes}
    )
    coarse = tiny.replace(
        tiny.interactions.assign(
            time=tiny.interactions["time"] // 100_000 * 100_000
        )
    )
    data = process(coarse, settings.data)
    torch.manual_seed(settings.train.seed)
    model = new_model(data, settings.model)
    validations = []
    progress = fit(
        model,
        data,
        settings,
        quiet=True,
        on_best=lambda _model, record: validations.append(record),
    )
    total = sum(
        float(value.double().abs().sum())
        for value in model.state_dict().values()
    )
    return str(
        (
            total,
            progress.step,
            progress.epoch,
            progress.best["NDCG@10"],
            progress.best["MRR"],
            [record["epoch"] for record in validations],
        )
    )


def test_every_option_is_listed_here_and_has_help():
    assert set(OTHER_VALUE) | set(TESTED_ELSEWHERE) == set(FIELDS)
    assert len(FIELDS) <= 66


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    found = {
        kind: arrive(tiny, folder, kind) for kind in ("enhanced", "vanilla")
    }
    return found | {
        name: arrive(tiny, folder, **base) for name, base in BASES.items()
    }


@pytest.mark.parametrize(
    "name",
    [name for name in OTHER_VALUE if name not in ("patience", "eval_every")],
)
def test_each_option_has_an_effect(tiny, tmp_path, plain, name):
    kind = "vanilla" if model_only(name) == "vanilla" else "enhanced"
    changes = {**BASES.get(name, {}), name: OTHER_VALUE[name]}
    assert arrive(tiny, tmp_path, kind, **changes) != plain.get(
        name, plain[kind]
    )


def test_evaluation_rhythm_has_an_effect(tiny, tmp_path):
    assert arrive(tiny, tmp_path, eval_every=1, max_epochs=4) != arrive(
        tiny, tmp_path, eval_every=3, max_epochs=4
    )


def test_a_gpu_that_is_not_there(tiny, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--device cuda"):
        arrive(tiny, tmp_path, device="cuda")


def test_precedence_is_preset_then_file_then_flags(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "hidden_size: 96\nuser_ids: false\nlearning_rate: 2e-4\n"
    )
    settings, how = parse_command_line(
        [
            "--preset",
            "original",
            "--config",
            str(tmp_path / "run.yaml"),
            "--learning-rate=3e-4",
            "--start_token",
        ],
        "",
    )
    assert not how.resume and settings.model.num_layers == 4
    assert (
        settings.model.hidden_size,
        settings.model.user_ids,
        settings.train.learning_rate,
    ) == (
        96,
        False,
        3e-4,
    )
    assert parse_command_line([], "")[0] == preset_settings("default")
    assert parse_command_line(["--resume"], "")[1].resume
    # a script's own preset
    for flags in (
        [],
        ["--preset=quick"],
        ["--config", str(tmp_path / "run.yaml")],
    ):
        chosen = parse_settings(flags, "original")
        assert chosen.model.num_layers == (2 if flags else 4)


def test_a_flag_that_does_nothing_is_said_to(tmp_path, capsys):
    def said(*flags):
        parse_command_line(["--preset", "quick", *flags], "")
        return capsys.readouterr().err.splitlines()

    assert said("--masking", "late", "--masked_item_weight", "0") == [
        "note: --masking does nothing without --masked_item_weight"
    ]
    assert said("--negatives", "9", "--loss", "softmax") == [
        "note: --negatives does nothing without --loss sampled_softmax"
    ]
    assert said("--split_seed=1") == [
        "note: --split_seed does nothing without --protocol multi5"
    ]
    assert not said("--negatives", "9", "--loss", "sampled_softmax")
    assert not said("--negatives", "9")  # if there are many items
    assert not said("--model", "vanilla", "--masking", "late")
    # a file may list what happens to be off
    (tmp_path / "all.yaml").write_text("negatives: 9\nloss: softmax\n")
    assert not said("--config", str(tmp_path / "all.yaml"))
    for name, entry in FIELDS.items():  # what an option needs is an option
        needs = (entry.metadata.get("needs") or name).partition("=")[0]
        assert needs in FIELDS and (idle(name, Settings()) or "--").startswith(
            "--"
        ), name


def test_explicit_flags_are_not_cut_short_by_a_presets_limits():
    """`--batch_size 128 --max_epochs 50` means 128 sequences and 50 epochs, whatever the default
    preset caps.
    """
    capped, _ = parse_command_line([], "")
    assert capped.train.batch_tokens and capped.train.max_minutes
    free, _ = parse_command_line(
        [
            "--batch_size",
            "128",
            "--learning_rate",
            "5e-4",
            "--max_epochs",
            "50",
        ],
        "",
    )
    assert (free.train.batch_tokens, free.train.max_minutes) == (0, 0.0)
    both, _ = parse_command_line(
        ["--max_epochs", "50", "--max_minutes", "3"], ""
    )
    assert both.train.max_minutes == 3.0


WRONG = [
    (["--layer_dropout", "0.1"], "give 2 rates"),
    (["--layer_dropout", "0.1,1.2"], "give 2 rates"),
    (["--layer_dropout", ".999,.1"], "give 2 rates"),
    (["--layer_dropout", "a,b"], "give 2 rates"),
    (["--layer_dropout", "0.1,0.2,"], "give 2 rates"),
    (["--hiden_size", "64"], "did you mean '--hidden_size'"),
    (["--batchsize=3"], "did you mean '--batch_size'"),
    (["-k", "3"], "unknown flag"),
    (["--preset", "quik"], "unknown --preset"),
    (["--preset"], "expected one argument"),
    (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    (["--num_heads", "three"], "--num_heads"),
    (["--num_heads", "7"], "multiple of 7"),
    (["--dropout", "1.5"], "--dropout"),
    (["--mask_prob", "0"], "--mask_prob"),
    (["--batch_size", "0"], "--batch_size"),
    (["--learning_rate", "-1"], "--learning_rate"),
    (
        ["--learning_rate", "inf"],
        "--learning_rate 'inf': Input should be a finite",
    ),
    (
        [
            "--next_item_weight",
            "0",
            "--masked_item_weight",
            "1",
            "--value_weight",
            "0.3",
        ],
        "--value_weight 0",
    ),
    (
        ["--next_item_weight", "0", "--masked_item_weight", "0"],
        "nothing ranks items",
    ),
    (["--no-item_ids", "--item_features", "none"], "representation"),
    (["--model", "vanilla", "--no-user_ids"], "belongs to --model enhanced"),
    (["--segment_embeddings"], "belongs to --model vanilla"),
    (["--resume", "--batch_size", "3"], "--resume"),
    (["--resume", "--preset", "quick"], "--resume"),
    (["--resume", "--config", "longer.yaml"], "--resume"),
    (
        ["--query_time", "known", "--time_features", "none"],
        "--query_time known needs",
    ),
    (["--time_features", "hour"], "--time_features"),
    (["--model", "vanilla", "--seq_length", "1"], "--seq_length"),
    (["--max_epochs", "2", "7"], "7"),
    (["--negatives", "0"], "--negatives"),
]


@pytest.mark.parametrize(
    ("flags", "message"), WRONG, ids=[" ".join(flags) for flags, _ in WRONG]
)
def test_wrong_flags(flags, message):
    with pytest.raises(UserError) as caught:
        parse_command_line(flags, "")
    assert (
        message in str(caught.value)
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 300
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "seed: 1\nhiden_size: 3",
            "run.yaml:2: hiden_size: unknown key 'hiden_size'; did you mean 'hidden_size'",
        ),
        ("- 1\n- 2", "expected lines"),
        ("seed: 1\na: [", "run.yaml:2: is not YAML"),
        ("hidden_size: many", "--hidden_size"),
        ("num_heads: 7", "multiple of 7"),
        ("seed: 1\nseed: 2", "run.yaml:2: is not YAML: found duplicate key"),
        ("masking: [late]", "run.yaml:1: masking: expected one value"),
        ("seed: 1\n---\nseed: 2", "run.yaml:2: is not YAML"),
    ],
)
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


def test_the_config_of_the_reported_run_is_the_default_preset():
    settings, _ = parse_command_line(
        ["--config", str(ROOT / "configs" / "enhanced.yaml")], ""
    )
    assert settings == preset_settings("default").replace(
        max_minutes=0.0, eval_every=4
    )


def test_original_preset_is_the_documented_design():
    settings = preset_settings("original")
    model, train = settings.model, settings.train
    assert (
        model.hidden_size,
        model.num_heads,
        model.num_layers,
        model.seq_length,
        model.dropout,
    ) == (
        256,
        4,
        4,
        50,
        0.2,
    )
    assert (
        train.batch_size,
        train.learning_rate,
        train.max_epochs,
        train.patience,
    ) == (64, 1e-4, 100, 15)
    assert model.task_weights == {
        "masked_item": 1.0,
        "next_item": 1.0,
        "value": 0.3,
        "preference": 0.2,
        "contrastive": 0.0,
    }


def test_a_preset_has_the_model_that_its_file_names():
    settings, _ = parse_command_line(["--preset", "vanilla"], "")
    assert settings.model.model == "vanilla"
    flags = ["--preset", "quick", "--model", "vanilla"]
    assert parse_command_line(flags, "")[0].model.model == "vanilla"


def test_a_truth_value_is_no_number(tmp_path):
    (tmp_path / "run.yaml").write_text("max_epochs: true\n")
    with pytest.raises(
        UserError, match=r"--max_epochs True: .*expected a num"
    ):
        parse_command_line(["--config", str(tmp_path / "run.yaml")], "")
