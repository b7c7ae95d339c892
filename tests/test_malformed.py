"""What is malformed is answered by a line with exit code 2, whatever it is: a table of kinds of
files, schemas, settings, flags, checkpoints, states and requests."""

import gzip
import json
import os
import re
import shlex
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from starlette.testclient import TestClient

import bert_multi
import data_processor
import inference
import trainer
from ablations import audit, cold_start, incremental
from ablations import run as studies
from dataset import ITEM_ROWS, Table
from engine import RecommendationEngine
from item_search import find_items, rows_where
from readers import read
from run_folder import newest_run
from schema import Schema
from serving.app import create_app
from serving.engines import Config
from support.checkpoint import read_checkpoint, write_checkpoint
from support.errors import UserError, run_command
from support.tables import write_frame
from support.yaml_file import read_yaml
from trained_items import FILE as ITEMS
from trained_users import FILE

HEAD = "user,item,time\n"
ROWS = "".join(
    f"{user},{item},{user * 9 + item}\n"
    for user in range(1, 6)
    for item in (3, 4, 5)
)
LINE = '{"user": 1, "item": 2}\n'

# name of the file: (content, what the answer must name)
FILES = {
    "empty.csv": ("", "empty"),
    "header.csv": (HEAD, "no rows|empty|no interactions"),
    "one_field.csv": ("user\n1\n2\n", "item"),
    "twice.csv": ("user,item,user\n1,2,3\n", ":1.*'user'"),
    "long_row.csv": (HEAD + ROWS + "1,2,3,4\n", ":17"),
    "quote.csv": (HEAD + ROWS + '1,"2,3\n', ":17|EOF inside string"),
    "time_text.csv": (HEAD + ROWS + "1,2,soon\n", ":17.*soon"),
    "time_nan.csv": (HEAD + ROWS + "1,2,inf\n", ":17.*inf"),
    "time_huge.csv": (HEAD + ROWS + "1,2,1e30\n", r":17.*1e\+30"),
    "time_negative.csv": (HEAD + ROWS + "1,2,-5\n", ":17.*-5"),
    "time_mixed.csv": (
        HEAD + "1,2,978300060\n1,3,978300060000\n" * 9,
        "978300060",
    ),
    "date_13.csv": (HEAD + "1,2,2020-13-01\n1,3,2020-12-01\n", "2020-13-01"),
    "date_31.csv": (HEAD + "1,2,31/02/2020\n1,3,01/03/2020\n", "31/02/2020"),
    "id_nan.csv": (HEAD + "nan,2,1\n" * 9, "nan"),
    "binary.csv": (b"\x00\x01\x02" * 100, "binary"),
    "zeros.csv": (HEAD.encode() + b"1,2,3\n\x00\x00\x00", "binary"),
    "image.csv": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
    "zip.csv": (b"PK\x03\x04\x14\x00\x00\x00", "binary"),
    "no_gzip.csv.gz": ("user,item\n1,2\n", "gz"),
    "cut.csv.gz": (gzip.compress((HEAD + ROWS * 99).encode())[:-20], "cut"),
    "no_zstd.csv.zst": ("user,item\n1,2\n", "zst"),
    "no.parquet": ("user,item\n1,2\n", "no.parquet"),
    "cut.parquet": (b"PAR1" + b"\0" * 50, "cut.parquet"),
    "empty.parquet": ("", "empty.parquet"),
    "cut.jsonl": (LINE * 3 + '{"user": 1, "it', "cut.jsonl"),
    "list.jsonl": ("[1, 2, 3]\n", "list.jsonl"),
    "number.jsonl": ("1\n2\n", "number.jsonl"),
    "text.jsonl": ("hello\n", "text.jsonl"),
    "null.jsonl": ("null\n", "null.jsonl"),
    "deep.jsonl": ('{"user": ' + "[" * 100_000 + "\n", "deep.jsonl"),
    "digits.jsonl": (
        '{"user": 1, "item": ' + "9" * 5000 + "}\n",
        "digits.jsonl",
    ),
    "empty.jsonl": ("", "empty.jsonl"),
    "objects.jsonl": (
        '{"user": {"a": 1}, "item": [1, 2]}\n' * 5,
        "objects.jsonl",
    ),
    "empty.inter": ("", "empty.inter"),
    "untyped.inter": ("a\tb\n1\t2\n", "user"),
    "long.inter": ("user_id:token\titem_id:token\n1\t2\t3\n", "more fields"),
    "cut.tfrecord": (b"\x05\x00\x00\x00\x00\x00\x00\x00", "record 1"),
    "text.tfrecord": ("user,item\n1,2\n", "record 1"),
    "empty.tfrecord": ("", "empty"),
    "empty.txt": ("", "empty"),
    "alone.txt": ("1 2 3\n2\n3 4 5 6\n", ":2"),
    "users.txt": ("1\n2\n3\n", "users.txt"),
    "blank.txt": ("   \n\n", "blank.txt"),
    "latin.csv": (HEAD.encode() + b"\xff\xfe\x00,1,1\n", "latin.csv"),
    "utf16_cut.csv": (b"\xff\xfeu\x00s\x00e", "utf16_cut.csv"),
    "roles.csv": ("a,b,c\nx,y,z\nx,w,z\n", "--columns"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    content, wanted = FILES[name]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    began = time.process_time()
    with pytest.raises(UserError) as error:
        read(str(path))
    message = str(error.value)
    assert name in message and re.search(wanted, message), message
    assert time.process_time() - began < 5


# Settings and flags, as one would type them; what the answer must name
TRAINER = {
    "--seed 18446744073709551616": "--seed",
    "--seed -1": "--seed",
    "--seed 1.5": "--seed",
    "--split_seed 99999999999": "--split_seed",
    "--batch_size 0": "--batch_size",
    "--batch_size 1e30": "--batch_size",
    "--batch_size nan": "--batch_size",
    "--batch_size true": "--batch_size",
    "--batch_size ''": "--batch_size",
    "--batch_tokens -5": "--batch_tokens",
    "--hidden_size 65": "--hidden_size",
    "--hidden_size 1000000000": "--hidden_size",
    "--hidden_size 16384 --num_layers 200": "GB",
    "--num_heads 0": "--num_heads",
    "--num_layers 100000": "--num_layers",
    "--seq_length 1": "--seq_length",
    "--seq_length 1000000000": "--seq_length",
    "--ffn_multiplier 1000": "--ffn_multiplier",
    "--dropout 1": "--dropout",
    "--dropout -0.1": "--dropout",
    "--layer_dropout 0.1": "--layer_dropout",
    "--layer_dropout a,b": "--layer_dropout",
    "--learning_rate 0": "--learning_rate",
    "--learning_rate inf": "--learning_rate",
    "--learning_rate 1e9": "--learning_rate",
    "--weight_decay -1": "--weight_decay",
    "--mask_prob 1": "--mask_prob",
    "--last_mask_share 2": "--last_mask_share",
    "--max_epochs 0": "--max_epochs",
    "--max_steps -1": "--max_steps",
    "--max_minutes 1e300": "--max_minutes",
    "--patience 0": "--patience",
    "--eval_every 0": "--eval_every",
    "--negatives 0 --loss sampled_softmax": "--negatives",
    "--next_item_weight nan": "--next_item_weight",
    "--next_item_weight 0 --masked_item_weight 0": "nothing ranks",
    "--masked_batch_share 1 --masked_item_weight 1": "masked_batch_share",
    "--loss cosine": "--loss",
    "--model gpt": "--model",
    "--precision fp8": "--precision",
    "--device tpu": "--device",
    "--protocol random": "--protocol",
    "--candidates 100": "--candidates",
    "--filter_seen maybe": "--filter_seen",
    "--positions rotary": "--positions",
    "--time_features hour": "--time_features",
    "--item_features colour": "colour",
    "--user_features height": "height",
    "--interaction_features mood": "mood",
    "--keep rating": "--keep",
    "--keep rating>=good": "good",
    "--keep colour=red": "colour",
    "--keep rating>9": "--keep",
    "--min_item_count 100000": "min_item_count",
    "--min_user_count 100000": "min_user_count",
    "--min_user_count 0": "--min_user_count",
    "--attention_type causal": "--attention_type",
    "--masking early": "--masking",
    "--text_encoder bert": "--text_encoder",
    "--preset fast": "--preset",
    "--config nowhere.yaml": "nowhere.yaml",
    "--start_from nowhere": "nowhere",
    "--teacher nowhere": "nowhere",
    "--dataset nowhere.csv": "nowhere.csv",
    "--dataset ''": "--dataset",
    "--columns user=1": "--columns",
    "--data_dir nowhere --dataset ml-1m": "nowhere",
    "--resume --seed 1": "--resume",
    "--resume": "--resume",
    "--batch_sise 3": "--batch_size",
    "--batch_size": "--batch_size",
    "surplus": "begins with --",
    "quick": "--preset quick",
    "--lr 0.001": "--learning_rate",
    "--bs 3": "--batch_size",
    "--batch 3": "--batch_size or --batch_tokens",
    "--epochs 3": "--max_epochs",
    "--use_wandb=yes": "use_wandb",
}
OTHERS = [
    (bert_multi.main, "--no_such", "no_such"),
    (data_processor.main, "--to recbole", "--to"),
    (data_processor.main, "--to csv folder", "recbole"),
    (data_processor.main, "--hidden_size 3", "hidden_size"),
    (data_processor.main, "--memory 1GB", "--build"),
    (data_processor.main, "--ray local", "--build"),
    (data_processor.main, "--build a --write_schema b.yaml", "--build"),
    (cold_start.main, "--resume", "--resume"),
    (incremental.main, "--ray auto", "--ray"),
    (audit.main, "--workers 2", "--workers"),
    (
        data_processor.main,
        "--dataset synthetic --write_schema /proc/x/y.yaml",
        "/proc/x",
    ),
    (studies.main, "nowhere", "nowhere"),
    (studies.main, "heads --seeds 0", "--seeds"),
    (studies.main, "heads --seeds 1000000000", "--seeds"),
    (studies.main, "heads --jobs 0", "--jobs"),
    (studies.main, "heads --seed 3", "--seeds"),
    (studies.main, "heads --jobs 2 --ray auto", "--jobs"),
    (inference.main, "--user 123", "--user_id or --users"),
    (inference.main, "123", "--user_id 123"),
    (inference.main, "--history Alien Terminator", "in quotes"),
    (inference.main, "--k 0", "--k"),
    (inference.main, "--k 1e3", "--k"),
    (inference.main, "--k " + "9" * 30, "--k"),
    (inference.main, "--users all", "--output"),
    (inference.main, "--output x.csv", "--users"),
    (inference.main, "--users all --output x.csv --user_id 3", "--user_id"),
    (inference.main, "--set age", "--set"),
    (inference.main, "--at yesterday", "--at"),
    (inference.main, "--model_path nowhere --user_id 1", "nowhere"),
]


def refused(main, flags, capsys, monkeypatch, tmp_path):
    """The line that a program answers flags with."""
    monkeypatch.chdir(tmp_path)
    assert run_command(main, shlex.split(flags)) == 2
    answer = capsys.readouterr().err.strip().splitlines()[-1]
    assert answer.startswith("error: ") and "Traceback" not in answer
    return answer


@pytest.mark.parametrize("flags", TRAINER)
def test_settings_and_flags(flags, capsys, monkeypatch, tmp_path):
    whole = flags
    if "--dataset" not in flags and "--resume" not in flags:
        whole = f"--dataset synthetic {flags}"
    if (
        not {"--max_steps", "--max_epochs"} & set(flags.split())
        and "--resume" not in flags
    ):
        whole += " --max_steps 1"
    answer = refused(trainer.main, whole, capsys, monkeypatch, tmp_path)
    assert TRAINER[flags] in answer, answer


@pytest.mark.parametrize(("main", "flags", "wanted"), OTHERS)
def test_flags_of_other_programs(
    main, flags, wanted, capsys, monkeypatch, tmp_path
):
    assert wanted in refused(main, flags, capsys, monkeypatch, tmp_path)


# What stands in a YAML file: a line of the error, and what it must name
MANY = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
YAMLS = {
    MANY: "aliases",
    "a: !!bool maybe\n": "maybe",
    'a: "x\0y"\n': "0000",
    'a: "\\ud800"\n': "surrogates",
    "a: " + "[" * 20_000: "recursion",
    "a: " + "9" * 6000 + "\n": "digits",
    "a: !!python/object:os.system x\n": "neither text nor a number",
    "a: !!set {x}\n": "neither text nor a number",
    "a: 2020-13-45\n": "month",
    "a: !!float x\n": "float",
    'a: !!binary "=x"\n': "base64",
    "a: {<<: 3}\n": "mapping",
    "a: 1\n---\nb: 2\n": ":2:",
    "a:\t1\n": ":1:",
    "a: 1\na: 2\n": ":2:",
    "a: *b\n": "alias",
    "- 1\n- 2\n": "name: value",
    "": "name: value",
    "%YAML 9.9\n---\na: 1\n": "version",
    "a: 'x\n": ":1:|:2:",
    "a: [1, 2\n": ":1:|:2:",
    "x" * (2 << 20): "bytes",
}


@pytest.mark.parametrize("text", YAMLS, ids=lambda text: repr(text[:20]))
def test_yaml(text, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_yaml(path)
    message = str(error.value)
    assert "file.yaml" in message and re.search(YAMLS[text], message), message


# A schema of a shop with one thing changed
SCHEMA = {
    "name": "shop",
    "interactions": {
        "file": "a.csv",
        "user": "user",
        "item": "item",
        "time": "time",
    },
}
SCHEMAS = {
    "no name": ({"name": None}, "name"),
    "a name of numbers": ({"name": [1]}, "name"),
    "an unknown key": ({"colour": "red"}, "colour"),
    "no interactions": ({"interactions": None}, "interactions"),
    "a list": ({"interactions": [1]}, "interactions"),
    "an unknown role": ({"interactions": {"buyer": "user"}}, "buyer"),
    "no item": ({"interactions": {"file": "a.csv", "user": "user"}}, "item"),
    "no file": ({"interactions": {"user": "user", "item": "item"}}, "file"),
    "no such file": (
        {"interactions": SCHEMA["interactions"] | {"file": "b.csv"}},
        "b.csv",
    ),
    "no such field": (
        {"interactions": SCHEMA["interactions"] | {"user": "who"}},
        "who",
    ),
    "an unknown kind": (
        {
            "interactions": SCHEMA["interactions"]
            | {"columns": {"time2": "colour"}}
        },
        "time2.kind",
    ),
    "an unknown option": (
        {
            "interactions": SCHEMA["interactions"]
            | {"columns": {"t": {"kind": "number", "a": 1}}}
        },
        "a",
    ),
    "a name that is none": (
        {
            "interactions": SCHEMA["interactions"]
            | {"columns": {"a b": "number"}}
        },
        "a b",
    ),
    "an unknown reader": ({"reader": "excel"}, "reader"),
    "repeats that is no truth": ({"repeats": "sometimes"}, "repeats"),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schemas(kind, tmp_path):
    changes, wanted = SCHEMAS[kind]
    content = {
        name: value
        for name, value in (SCHEMA | changes).items()
        if value is not None
    }
    (tmp_path / "a.csv").write_text(HEAD + ROWS)
    path = tmp_path / "schema.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=wanted):
        read(str(path))


# Checkpoints: what is done to tensors and description


def other(name, value):
    """A change of one entry of the description, by its path."""
    *above, last = [
        int(part) if part.isdecimal() else part for part in name.split(".")
    ]

    def change(_tensors, info):
        for part in above:
            info = info[part]
        if value is ABSENT:
            del info[last]
        else:
            info[last] = value

    return change


def largest(tensors):
    """The name of the largest table of weights."""
    tables = [
        name
        for name, value in tensors.items()
        if value.ndim == 2 and value.is_floating_point()
    ]
    return max(tables, key=lambda name: tensors[name].numel())


def filled(value, dtype=None):
    """A change of the largest table."""

    def change(tensors, _info):
        name = largest(tensors)
        tensors[name] = torch.full_like(tensors[name], value, dtype=dtype)

    return change


def lost(tensors, _info):
    tensors.pop(sorted(tensors)[-1])


def foreign(tensors, _info):
    tensors["another"] = torch.zeros(3)


def reshaped(tensors, _info):
    name = largest(tensors)
    tensors[name] = tensors[name].flatten()


ABSENT = object()
CHECKPOINTS = {
    "NaN weights": filled(torch.nan),
    "infinite weights": filled(torch.inf),
    "huge weights": filled(1e38),
    "int8 weights": filled(1, torch.int8),
    "half weights": filled(1, torch.float16),
    "complex weights": filled(1, torch.complex64),
    "a weight less": lost,
    "a weight more": foreign,
    "a weight of another shape": reshaped,
    "another format": other("format", "other/9"),
    "no settings": other("settings", ABSENT),
    "settings that are a list": other("settings", [1]),
    "an unknown setting": other("settings.colour", "red"),
    "a width of 10^9": other("settings.hidden_size", 10**9),
    "a width of 16,384": other("settings.hidden_size", 16384),
    "another width": other("settings.hidden_size", 32),
    "another number of blocks": other("settings.num_layers", 3),
    "a text for a number": other("settings.num_heads", "two"),
    "an unknown model": other("settings.model", "gpt"),
    "an unknown protocol": other("settings.protocol", "random"),
    "no schema": other("schema", ABSENT),
    "an unknown kind": other("schema.items.columns.year", "colour"),
    "no fields": other("fields", ABSENT),
    "fields of no table": other("fields.shops", {}),
    "fields that are a list": other("fields.items", [1]),
    "no number of items": other("num_items", ABSENT),
    "no split": other("split_hash", ABSENT),
    "a split that is a list": other("split_hash", [1]),
    "no figures": other("validation", ABSENT),
    "figures that are text": other("validation", "good"),
    "no files": other("files", ABSENT),
    "files that are a list": other("files", [1]),
    "a list nested 100,000 deep": other("settings", "DEEP"),
    "a number of 5,000 digits": other("settings", "DIGITS"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run on the synthetic data, stopped after its first evaluation."""
    place = tmp_path_factory.mktemp("run")
    flags = (
        f"--dataset synthetic --hidden_size 16 --max_steps 2 --eval_every 1 --batch_size 512 "
        f"--seq_length 20 --checkpoint_dir {place} --runs_dir {place}"
    )
    assert run_command(trainer.main, flags.split()) == 0
    return newest_run(place)


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints(kind, run, tmp_path):
    tensors, info = read_checkpoint(run / "best")
    CHECKPOINTS[kind](tensors, info)

    def add(new):
        for name in (ITEMS, FILE):
            shutil.copyfile(run / "best" / name, new / name)

    write_checkpoint(tmp_path / "best", tensors, info, add)
    path = tmp_path / "best" / "checkpoint.json"
    text = path.read_text()
    if "files" in kind:  # which are written anew
        text = json.dumps({**json.loads(text), "files": info.get("files")})
    if info.get("format"):
        text = re.sub(
            '"format": "[^"]*"', f'"format": "{info["format"]}"', text
        )
    text = text.replace('"DEEP"', "[" * 100_000 + "]" * 100_000).replace(
        '"DIGITS"', "9" * 5000
    )
    path.write_text(text)
    with pytest.raises(UserError) as error:
        RecommendationEngine(tmp_path / "best")
    assert str(tmp_path / "best") in str(error.value)


def frame(**columns):
    """A writer of a table in place of a file."""
    return lambda path: pd.DataFrame(columns).to_parquet(path)


def changed(name, change):
    """A writer of the items with one column changed."""

    def write(path):
        table = pq.read_table(path)
        place = table.column_names.index(name)
        rows = table[name].to_pylist()
        pq.write_table(table.set_column(place, name, [change(rows)]), path)

    return write


def first(value):
    return lambda rows: pa.array([value, *rows[1:]])


TABLES = {
    (FILE, "not Parquet"): lambda path: path.write_text("nothing"),
    (FILE, "no ids"): frame(x=[1]),
    (FILE, "an id twice"): frame(id=[1, 1]),
    (ITEMS, "not Parquet"): lambda path: path.write_text("nothing"),
    (ITEMS, "no ids"): frame(x=[1]),
    (ITEMS, "an id twice"): changed("id", first(2)),
    (ITEMS, "ids that are null"): changed("id", first(None)),
    (ITEMS, "ids that are fractions"): changed("id", first(1.5)),
    (ITEMS, "ids that are lists"): changed(
        "id", lambda rows: pa.array([[row] for row in rows])
    ),
    (ITEMS, "null names"): changed("name", first(None)),
    (ITEMS, "names that are numbers"): changed(
        "name", lambda rows: pa.array(range(len(rows)))
    ),
    (ITEMS, "no columns"): lambda path: pq.write_table(
        pq.read_table(path, columns=["id", "name"]), path
    ),
    (ITEMS, "a code without a value"): changed(
        "items.genres",
        lambda rows: pa.array(
            [[99] * len(row) for row in rows], pa.list_(pa.int64(), len(rows[0]))
        ),
    ),
    (ITEMS, "an infinite number"): changed(
        "items.year",
        lambda rows: pa.array([np.inf] * len(rows), pa.float32()),
    ),
    (ITEMS, "a text in a column"): changed(
        "items.year", lambda rows: pa.array(["soon"] * len(rows))
    ),
    (ITEMS, "a list in a column"): changed(
        "items.year",
        lambda rows: pa.array([[1.0]] * len(rows), pa.list_(pa.float32(), 1)),
    ),
    (ITEMS, "an item less"): lambda path: pq.write_table(
        pq.read_table(path).slice(1), path
    ),
}


@pytest.mark.parametrize(("file", "kind"), TABLES)
def test_the_tables_of_a_checkpoint(file, kind, run, tmp_path):
    """With the digest of what they are now."""
    tensors, info = read_checkpoint(run / "best")

    def add(new):
        for name in (ITEMS, FILE):
            shutil.copyfile(run / "best" / name, new / name)
        TABLES[file, kind](new / file)

    write_checkpoint(tmp_path / "best", tensors, info, add)
    with pytest.raises(UserError) as error:
        RecommendationEngine(tmp_path / "best")
    said = str(error.value)
    assert str(tmp_path / "best") in said
    assert file in said


@pytest.mark.parametrize("file", [FILE, ITEMS])
@pytest.mark.parametrize("how", ["gone", "cut", "of another model"])
def test_a_table_that_was_damaged_later(file, how, run, tmp_path):
    place = shutil.copytree(run / "best", tmp_path / "best")
    ways = {
        "gone": Path.unlink,
        "cut": lambda path: os.truncate(path, 100),
        "of another model": frame(id=[1]),
    }
    ways[how](place / file)
    with pytest.raises(UserError) as error:
        RecommendationEngine(place)
    assert str(place) in str(error.value) and file in str(error.value)


# States: tensors and description of `last`
def moments(change):
    """A change of the first moments of AdamW."""

    def act(tensors, _info):
        firsts = [name for name in tensors if name.endswith("exp_avg")]
        name = next(name for name in firsts if tensors[name].ndim == 2)
        tensors[name] = change(tensors[name])

    return act


def without(beginning):
    """All tensors whose names begin so are lost."""

    def act(tensors, _info):
        for name in [name for name in tensors if name.startswith(beginning)]:
            del tensors[name]

    return act


STATES = {
    "moments of another shape": moments(lambda values: values[:1].clone()),
    "moments that are flat": moments(torch.flatten),
    "moments of half precision": moments(lambda values: values.half()),
    "moments of whole numbers": moments(lambda values: values.long()),
    "no optimizer": without("optimizer."),
    "no steps": without("optimizer.0.step"),
    "no random state": without("random"),
    "no weights": without("model."),
    "a random state that is short": lambda tensors, _info: tensors.update(
        random=torch.zeros(3, dtype=torch.uint8)
    ),
    "a random state of floats": lambda tensors, _info: tensors.update(
        random=torch.zeros(5056)
    ),
    "best weights of another shape": lambda tensors, _info: tensors.update(
        {"best.special": torch.zeros(1)}
    ),
    "no progress": other("progress", ABSENT),
    "a progress that is a list": other("progress", [1]),
    "an epoch that is text": other("progress.epoch", "three"),
    "an epoch that is null": other("progress.epoch", None),
    "other data": other("split_hash", "0123"),
    "threads that are text": other("threads", "two"),
    "no threads": other("threads", 0),
    "sums that are text": other("loss_sums", {"next_item": "much"}),
    "sums that are a list": other("loss_sums", [1]),
    "an older version": other("optimizer_parts", ABSENT),
    "optimizer states that are a number": other("optimizer_parts", 3),
}


@pytest.mark.parametrize("kind", STATES)
def test_states(kind, run, tmp_path, capsys):
    place = shutil.copytree(run, tmp_path / run.name)
    tensors, info = read_checkpoint(place / "last")
    STATES[kind](tensors, info)
    write_checkpoint(place / "last", tensors, info)
    assert (
        run_command(
            trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path)]
        )
        == 2
    )
    answer = capsys.readouterr().err
    assert str(place / "last") in answer and "Traceback" not in answer


# Requests: path, body, what the answer must name
BODIES = {
    "": "body",
    "[]": "body",
    "null": "body",
    "3": "body",
    "{": "JSON",
    '{"user_id": 1': "JSON",
    '{"user_id": 1, "user_id": ': "JSON",
    "[" * 60_000: "JSON|body|deep",
    '{"user_id": ' + "9" * 5000 + "}": "JSON|user_id|parsing",
    '{"user_id": NaN}': "JSON|user_id|parsing",
    '{"user_id": 1e400}': "user_id",
    '{"user_id": true}': "user_id",
    '{"user_id": 1.5}': "user_id",
    '{"user_id": [1]}': "user_id",
    '{"user_id": {"a": 1}}': "user_id",
    '{"user_id": "one"}': "one|id",
    '{"user_id": 99999999}': "99999999",
    '{"user_id": 9007199254740993}': "user_id",
    '{"user_id": "' + "1" * 300 + '"}': "user_id",
    '{"user_id": 1, "k": 0}': r"\bk\b",
    '{"user_id": 1, "k": -1}': r"\bk\b",
    '{"user_id": 1, "k": 101}': r"\bk\b",
    '{"user_id": 1, "k": "10"}': r"\bk\b",
    '{"user_id": 1, "k": null}': r"\bk\b",
    '{"user_id": 1, "k": 1.5}': r"\bk\b",
    '{"user_id": 1, "colour": "red"}': "colour",
    '{"user_id": 1, "model": "gpt"}': "model",
    '{"user_id": 1, "model": "vanilla"}': "vanilla",
    '{"user_id": 1, "model": null}': "model",
    '{"user_id": 1, "filter_seen": "yes"}': "filter_seen",
    '{"user_id": 1, "filter_seen": 1}': "filter_seen",
    '{"user_id": 1, "where": "year>1990"}': "where",
    '{"user_id": 1, "where": [""]}': "where",
    '{"user_id": 1, "where": ["year"]}': "year",
    '{"user_id": 1, "where": ["colour=red"]}': "colour",
    '{"user_id": 1, "where": ["year>=soon"]}': "soon",
    '{"user_id": 1, "where": ["genres=Opera"]}': "Opera",
    '{"user_id": 1, "where": [' + ",".join(['"year>1"'] * 21) + "]}": "where",
    '{"history": "3"}': "history",
    '{"history": [null]}': "history",
    '{"history": [1.5]}': "history",
    '{"history": [[3]]}': "history",
    '{"history": ["a"]}': r"\ba\b",
    '{"history": [99999999]}': "99999999",
    '{"history": [-1]}': "-1",
    '{"history": [' + ",".join(["3"] * 501) + "]}": "history",
    '{"history": [3], "columns": []}': "columns",
    '{"history": [3], "columns": {"height": 3}}': "height",
    '{"history": [3], "columns": {"age": "old"}}': r"\bage\b",
    '{"history": [3], "columns": {"age": {"a": 1}}}': "columns",
    '{"history": [3], "columns": {"age": NaN}}': "JSON|age",
    '{"history": [3], "at": -1}': r"\bat\b",
    '{"history": [3], "at": 1e30}': r"\bat\b",
    '{"history": [3], "at": "now"}': r"\bat\b",
    '{"history": [3], "at": 99999999999}': r"\bat\b",
    "{}": "user_id|history",
}


JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(run):
    config = Config(str(run / "best"), "", hosts=("localhost",))
    with TestClient(create_app(config), base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:40])
def test_requests(client, body):
    answer = client.post("/recommend", content=body.encode(), headers=JSON)
    assert 400 <= answer.status_code < 500
    message = answer.json()["error"]
    assert re.search(BODIES[body], message) and len(message) <= 500, message


def test_bytes_that_are_no_text(client):
    for content in (
        b"\xff\xfe",
        b'{"user_id": "\xff"}',
        b"\0" * 100,
        b"{" + b"\x80" * 9,
    ):
        answer = client.post("/recommend", content=content, headers=JSON)
        assert 400 <= answer.status_code < 500 and answer.json()["error"]


@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, ", the" * 20_000, " " * 100_000 + "(1999)", "(" * 50_000],
)
def test_long_texts_take_no_longer_than_they_are(text):
    """A title, a name in a history, a condition: nothing grows with the square of its length."""
    names = np.array(
        ["", "", *[f"{text} {number}" for number in range(20)]], dtype=object
    )
    items = Table(np.arange(20), ITEM_ROWS, names)
    schema = Schema("shop")
    began = time.process_time()
    assert find_items(items, schema, f"{names[5]};{names[7]}") == [3, 5]
    for ask in (
        lambda: find_items(items, schema, text + "y"),
        lambda: rows_where(items, [f"year={text}"]),
        lambda: rows_where(items, [text]),
    ):
        with pytest.raises(UserError):
            ask()
    assert time.process_time() - began < 15


# Files that are not files


def test_a_pipe_is_not_replaced(tmp_path):
    pipe, link = tmp_path / "out.csv", tmp_path / "link.csv"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(UserError, match="not a regular file"):
            write_frame(path, pd.DataFrame({"a": [1]}))
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "link.csv",
        "out.csv",
    ]


def test_a_link_goes_on_to_point_to_its_file(tmp_path):
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    write_frame(link, pd.DataFrame({"a": [1]}))
    assert link.is_symlink() and target.read_text() == "a\n1\n"


@pytest.mark.parametrize(
    "flags",
    [
        "--dataset {pipe}.csv",
        "--dataset {pipe}.parquet",
        "--dataset {pipe}.txt",
        "--dataset {pipe}.tfrecord",
        "--dataset {pipe}.jsonl",
        "--dataset {pipe}.yaml",
        "--config {pipe}.yaml",
        "--dataset /dev/zero",
        "--config /dev/zero",
        "--dataset ml-1m --data_dir {folder}",
        "--dataset synthetic --start_from {folder}",
        "--dataset {long}",
        "--config {long}",
        "--dataset {loop}",
        "--config {loop}",
        "--dataset synthetic --max_steps 1 --checkpoint_dir {long}",
        "--dataset synthetic --max_steps 1 --checkpoint_dir {loop}",
        "--dataset synthetic --max_steps 1 --checkpoint_dir /proc/1/x",
        "--dataset synthetic --max_steps 1 --runs_dir /proc/x",
    ],
)
def test_what_is_no_file_is_neither_read_nor_waited_for(
    flags, capsys, monkeypatch, tmp_path
):
    """Pipes and devices of which reading never ends, names that are too long, loops of links."""
    for end in ("csv", "parquet", "txt", "tfrecord", "jsonl", "yaml"):
        os.mkfifo(tmp_path / f"pipe.{end}")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("ratings.dat", "movies.dat", "users.dat", "checkpoint.json"):
        os.mkfifo(folder / name)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {
        "pipe": tmp_path / "pipe",
        "folder": folder,
        "long": "x" * 300,
        "loop": tmp_path / "loop",
    }
    began = time.monotonic()
    refused(
        trainer.main, flags.format(**places), capsys, monkeypatch, tmp_path
    )
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "a/b", "..", ""])
def test_a_study_writes_into_its_own_folder_alone(
    name, capsys, monkeypatch, tmp_path
):
    content = {
        "question": "?",
        "metric": "NDCG@10",
        "base": {"dataset": "synthetic"},
        "variants": {"one": {}, name: {"seed": 1}},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(content))
    refused(studies.main, "study.yaml", capsys, monkeypatch, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", "runs"}


def test_a_file_cut_in_the_middle_of_its_last_time(tmp_path):
    """What is left of the number would be a time in 1970."""
    lines = [
        f"{user}::{item}::4::9783000{user}{item}"
        for user in range(1, 6)
        for item in range(1, 6)
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(lines)[:-6])
    with pytest.raises(
        UserError, match=r"ratings.csv:25: .* no time beside others"
    ):
        read(str(path))


def test_ctrl_c_says_that_it_stopped(capsys):
    def stopped(_argv):
        raise KeyboardInterrupt

    assert run_command(stopped, []) == 130
    assert capsys.readouterr().err.strip() == "stopped"
