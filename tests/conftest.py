"""Data for the tests: a tiny synthetic world, data of other shapes, and the real files where they
are.
"""

import functools
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from data_processor import load, process
from dataset import Dataset
from engine import RecommendationEngine
from readers.raw import File, RawData, assemble
from schema import read_schema, schema_of
from settings import DataSettings, ModelSettings, Settings
from splits import Split
from support.errors import run_command
from tests.synthetic import generate

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT / "ml-1m"
SHARED = ROOT.parent / "shared" / "data"
SASREC = SHARED / "ml-1m-sasrec"

os.environ.setdefault("WANDB_MODE", "offline")
if (
    "PYTEST_XDIST_WORKER_COUNT" in os.environ
):  # as many threads as cores, in all
    own = max(
        1,
        (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]),
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(own))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# An export traces each step for whoever listens, pytest too: it takes minutes.
for name in ("torch", "torch.__trace"):
    logging.getLogger(name).propagate = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked by the `real_data` fixture are skipped by name where ML-1M is absent."""
    if (REAL / "ratings.dat").exists():
        return
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            reason = f"{item.name}: ml-1m/ratings.dat is absent; see ml-1m/README.md"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def own_environment():
    """What a command sets for its workers (threads, say) ends with its test."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def real_data() -> Dataset:
    """MovieLens 1M, all 3,706 rated films."""
    return load(DataSettings(data_dir=str(REAL)))


@functools.cache
def films() -> dict[str, File]:
    """60 people, 80 films."""
    return generate(seed=3, people=60, films=80)


@pytest.fixture(scope="session")
def tiny() -> RawData:
    """The tiny world of films."""
    return assemble(read_schema(ROOT / "datasets" / "synthetic.yaml"), films())


def without_times() -> RawData:
    """Users and items, and nothing else: no times, no columns, no tables."""
    frame = films()["interactions"].frame[["user_id", "movie_id"]]
    schema = {
        "name": "ids",
        "noun": "thing",
        "verb": "had",
        "interactions": {"user": "user_id", "item": "movie_id"},
    }
    return assemble(
        schema_of(schema, Path("ids.yaml"), {}),
        {"interactions": File(frame, "ids")},
    )


SHOP = {
    "name": "shop",
    "noun": "article",
    "verb": "bought",
    "repeats": True,
    "interactions": {
        "user": "customer",
        "item": "sku",
        "time": "day",
        "columns": {
            "amount": "number",
            "channel": {"kind": "category", "predict": True},
        },
    },
    "items": {
        "id": "sku",
        "name": "label",
        "columns": {
            "price": "number",
            "picture": "vector",
            "label": "text",
            "shelf": {"kind": "tags", "predict": True, "separator": ";"},
        },
    },
    "users": {
        "id": "customer",
        "columns": {
            "club": {"kind": "tags", "separator": ";"},
            "income": "number",
            "taste": "vector",
        },
    },
}


def shop_frames(
    seed: int = 0, customers: int = 40, articles: int = 30
) -> dict[str, pd.DataFrame]:
    """Text ids, repeats, every kind of column in every table, and gaps in all of them."""
    draw = np.random.default_rng(seed)
    rows = []
    for customer in range(customers):
        day = int(draw.integers(1_000_000, 2_000_000))
        for _ in range(int(draw.integers(4, 20))):
            day += int(draw.integers(0, 3)) * 86_400
            article = int(draw.integers(articles) * draw.random())
            amount = draw.choice(["", "1", "2.5"])
            rows.append(
                (
                    f"c {customer}",
                    f"sku-{article}",
                    day,
                    amount,
                    draw.choice(["", "web", "till"]),
                )
            )
    fields = ["customer", "sku", "day", "amount", "channel"]
    vector = ["[0.1, 0.2, 0.3]", "[1, 0, -1]", None]
    items = pd.DataFrame(
        {
            "sku": [f"sku-{number}" for number in range(articles)],
            "label": [f"Article {number}" for number in range(articles)],
            "price": [
                np.nan if number % 4 == 0 else number / 2
                for number in range(articles)
            ],
            "picture": [vector[number % 3] for number in range(articles)],
            "shelf": [
                "" if number % 5 == 0 else f"food;row {number % 3}"
                for number in range(articles)
            ],
        }
    )
    users = pd.DataFrame(
        {
            "customer": [f"c {number}" for number in range(customers)],
            "club": [
                "gold;new" if number % 3 else "" for number in range(customers)
            ],
            "income": [
                np.nan if number % 2 else float(number)
                for number in range(customers)
            ],
            "taste": [vector[number % 3] for number in range(customers)],
        }
    )
    return {
        "interactions": pd.DataFrame(rows, columns=fields),
        "items": items,
        "users": users,
    }


def shop(*sizes: int) -> RawData:
    """The frames of the shop, read by its schema. sizes: as in `shop_frames`."""
    frames = shop_frames(*sizes)
    files = {
        name: File(frame, f"shop {name}") for name, frame in frames.items()
    }
    return assemble(schema_of(SHOP, Path("shop.yaml"), {}), files)


@pytest.fixture(scope="session")
def data(tiny: RawData) -> Dataset:
    """The tiny world, processed."""
    return process(tiny, DataSettings(dataset="synthetic"))


@functools.cache
def other_data(name: str) -> Dataset:
    """Data of another shape: 'ids' or 'shop'."""
    return process(
        {"ids": without_times, "shop": shop}[name](),
        DataSettings(dataset=name),
    )


def write_ml_1m(folder: Path, files: dict[str, File]) -> Path:
    """Write the tiny world as the three files of ML-1M."""
    folder.mkdir()
    ratings, movies, users = (
        files[name].frame for name in ("interactions", "items", "users")
    )
    tables = {
        "ratings": ratings[["user_id", "movie_id", "rating", "timestamp"]],
        "movies": movies[["movie_id", "title", "genres"]],
        "users": users.assign(zip_code="0"),
    }
    for name, table in tables.items():
        text = "".join(
            "::".join(map(str, row)) + "\n"
            for row in table.itertuples(index=False)
        )
        (folder / f"{name}.dat").write_text(text, encoding="latin-1")
    return folder


@pytest.fixture()
def ml_1m_folder(tmp_path: Path) -> Path:
    """The tiny world written as the three files of ML-1M."""
    return write_ml_1m(tmp_path / "data", films())


def span(data: Dataset, user: int, until: str) -> tuple[int, int]:
    """Under leave-one-out: where the history of a user row (from 1) starts and where it ends."""
    requests = data.split.requests[until]
    return int(data.offsets[user]), int(
        requests.ends[list(requests.users).index(user)]
    )


TINY_MODEL = dict(
    hidden_size=16, num_heads=2, num_layers=2, seq_length=12, dropout=0.0
)

VARIANTS = {
    "vanilla": ModelSettings(model="vanilla", **TINY_MODEL),
    "vanilla-causal-segments": ModelSettings(
        model="vanilla",
        attention_type="causal",
        segment_embeddings=True,
        **TINY_MODEL,
    ),
    "enhanced": ModelSettings(**TINY_MODEL),
    "enhanced-known-time": ModelSettings(
        query_time="known",
        positions="sinusoidal",
        start_token=True,
        transitions=True,
        **TINY_MODEL,
    ),
    "enhanced-cloze-only": ModelSettings(
        next_item_weight=0.0,
        value_weight=0.0,
        preference_weight=0.0,
        **TINY_MODEL,
    ),
    "enhanced-graph": ModelSettings(
        graph=True, text_encoder="ngrams", **TINY_MODEL
    ),
    "enhanced-transitions": ModelSettings(
        transitions=True, start_token=True, **TINY_MODEL
    ),
    "enhanced-ids-only": ModelSettings(
        item_features="none",
        interaction_features="none",
        user_features="none",
        user_ids=False,
        time_features="none",
        relative_time=False,
        start_token=True,
        **TINY_MODEL,
    ),
}
# Each kind of model on films, and the enhanced one on data of other shapes.
CASES = [("films", name) for name in VARIANTS]
CASES += [
    ("shop", "enhanced"),
    ("shop", "enhanced-graph"),
    ("shop", "enhanced-cloze-only"),
    ("shop", "enhanced-transitions"),
    ("ids", "enhanced"),
    ("ids", "vanilla"),
]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> ModelSettings:
    """Each kind of model in turn."""
    return VARIANTS[request.param]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(
    request: pytest.FixtureRequest, data: Dataset
) -> tuple[Dataset, ModelSettings]:
    """Each kind of model and of data in turn."""
    shape, name = request.param
    return data if shape == "films" else other_data(shape), VARIANTS[name]


def fresh_model(
    data: Dataset, settings: ModelSettings, seed: int = 0, spread: float = 0.3
) -> torch.nn.Module:
    """A model in evaluation mode whose weights are large enough for every input to matter."""
    from model_io import new_model
    from transitions import pair_values

    torch.manual_seed(seed)
    model = new_model(data, settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, spread)
    if model.transitions is not None:
        model.transitions.hold(pair_values(data, model.transitions.kinds))
        model.transitions.weight.uniform_(0.5, 1.5)
        model.transitions.decay.uniform_(0.4, 0.9)
    return model


def tiny_settings(
    tmp_path: Path, model: ModelSettings, **changes: object
) -> Settings:
    """Settings of a run of seconds."""
    values = dict(
        dataset="synthetic",
        max_epochs=2,
        batch_size=16,
        precision="fp32",
        device="cpu",
        checkpoint_dir=str(tmp_path / "checkpoints"),
        runs_dir=str(tmp_path / "runs"),
    )
    return Settings(model=model).replace(**{**values, **changes})


SERVED = [
    "--preset",
    "quick",
    "--hidden_size",
    "16",
    "--seq_length",
    "20",
    "--max_steps",
    "6",
    "--learning_rate",
    "0.01",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--start_token",
]


@pytest.fixture(scope="session")
def service_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world as files (data), a model that serves empty histories (main), one that is
    told the time of the request (timed), a vanilla one of fewer films."""
    import trainer

    place = tmp_path_factory.mktemp("service")
    data = write_ml_1m(place / "data", films())
    runs = {
        "main": [],
        "timed": ["--query_time", "known"],
        "vanilla": ["--model", "vanilla", "--min_item_count", "22"],
    }
    for name, flags in runs.items():
        kept = [
            flag
            for flag in SERVED
            if name != "vanilla" or flag != "--start_token"
        ]
        folders = [
            "--data_dir",
            str(data),
            "--checkpoint_dir",
            str(place / name),
            "--runs_dir",
            str(place),
        ]
        assert run_command(trainer.main, [*kept, *folders, *flags]) == 0
    return place


@pytest.fixture(scope="module")
def engine(service_files: Path) -> RecommendationEngine:
    """Of the main model."""
    return RecommendationEngine(
        service_files / "main" / "best", data_dir=str(service_files / "data")
    )


def start_service(
    files: Path, *flags: str
) -> tuple[subprocess.Popen[str], str]:
    """`python -m serving` of the tiny films on a free port: see `serve`."""
    models = ["--model_path", str(files / "main" / "best")]
    models += ["--vanilla_path", str(files / "vanilla" / "best")]
    return serve(*models, "--data_dir", str(files / "data"), *flags)


def serve(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """`python -m serving`: the process, and its address as soon as it answers."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving", "--port", str(port), *flags]
    process = subprocess.Popen(command, cwd=ROOT, text=True)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return process, url
        except httpx.HTTPError:
            time.sleep(0.2)
    process.kill()
    raise RuntimeError("the service did not start")


def write_shop(folder: Path) -> Path:
    """The shop as three CSV files and a schema; its labels are long, and one value has a comma."""
    from data_processor import write_schema

    frames = shop_frames()
    frames["items"]["shelf"] = frames["items"]["shelf"].str.replace(
        "food", "food, fresh"
    )
    frames["items"].loc[3, "label"] = "Nameless" * 12
    content = {**SHOP}
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
        content[name] = {"file": str(folder / f"{name}.csv"), **SHOP[name]}
    schema = schema_of(content, folder / "shop.yaml", {})
    write_schema(schema, folder / "shop.yaml")
    return folder / "shop.yaml"


@pytest.fixture(scope="session")
def live_service(service_files: Path) -> Iterator[str]:
    """Address of a running service."""
    process, url = start_service(service_files, "--workers", "1")
    yield url
    process.terminate()
    process.wait(timeout=30)


def rng(seed: int = 0) -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(seed)


def whole(data):
    """The same data with nothing held out."""
    split = Split("none", data.offsets[1:], {}, "nothing held out")
    return data.replace(split=split)
