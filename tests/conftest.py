"""Data for the tests: a tiny synthetic world, the same as ML-1M files, and the real files where they are."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import readers
from data_processor import SequenceData, load, process
from readers.interactions import Interactions
from readers.synthetic import generate
from settings import DataSettings, ModelSettings, Settings
from support.errors import run_command

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT / "ml-1m"
SASREC = ROOT.parent / "shared" / "data" / "ml-1m-sasrec"

os.environ.setdefault("WANDB_MODE", "offline")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # as many threads as cores, in all
    own = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(own))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
for name in ("torch", "torch.__trace"):  # an export traces each step for whoever listens, pytest too: it takes minutes
    logging.getLogger(name).propagate = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked by the `real_data` fixture are skipped by name where ML-1M is absent."""
    if (REAL / "ratings.dat").exists():
        return
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(
                reason=f"{item.name}: ml-1m/ratings.dat is absent; see ml-1m/README.md"))


@pytest.fixture(scope="session", autouse=True)
def synthetic_made_once() -> Iterator[None]:
    """The synthetic data take a second to make and are always the same; each reader has tables of its own."""
    once = functools.cache(generate)

    def copied() -> Interactions:
        return dataclasses.replace(once(), **{name: getattr(once(), name).copy()
                                              for name in ("ratings", "movies", "users", "occupations")})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "generate", copied)
        yield


@pytest.fixture(scope="session")
def real_data() -> SequenceData:
    """MovieLens 1M, all 3,706 rated films."""
    return load(DataSettings(data_dir=str(REAL)))


@pytest.fixture(scope="session")
def tiny() -> Interactions:
    """60 people, 80 films."""
    return generate(seed=3, people=60, films=80)


@pytest.fixture(scope="session")
def data(tiny: Interactions) -> SequenceData:
    """The tiny world, processed."""
    return process(tiny, DataSettings(dataset="synthetic"))


def write_ml_1m(folder: Path, ratings: pd.DataFrame, movies: pd.DataFrame, users: pd.DataFrame) -> Path:
    """Write tables as the three files of ML-1M."""
    folder.mkdir()
    for name, table in (("ratings", ratings[["user_id", "movie_id", "rating", "timestamp"]]),
                        ("movies", movies[["movie_id", "title", "genres"]]), ("users", users.assign(zip_code="0"))):
        text = "".join("::".join(map(str, row)) + "\n" for row in table.itertuples(index=False))
        (folder / f"{name}.dat").write_text(text, encoding="latin-1")
    return folder


@pytest.fixture()
def ml_1m_folder(tiny: Interactions, tmp_path: Path) -> Path:
    """The tiny world written as the three files of ML-1M."""
    return write_ml_1m(tmp_path / "data", tiny.ratings, tiny.movies, tiny.users)


def span(data: SequenceData, person: int, until: str) -> tuple[int, int]:
    """Under leave-one-out: where a person's history starts and where it ends, before the target, in the flat arrays."""
    return int(data.offsets[person]), int(data.split.requests[until].ends[person])


TINY_MODEL = dict(hidden_size=16, num_heads=2, num_layers=2, seq_length=12, dropout=0.0, genre_size=8, year_size=8)

VARIANTS = {
    "vanilla": ModelSettings(model="vanilla", **TINY_MODEL),
    "vanilla-causal-segments": ModelSettings(model="vanilla", attention_type="causal", segment_embeddings=True,
                                             similarity="cosine", **TINY_MODEL),
    "enhanced": ModelSettings(**TINY_MODEL),
    "enhanced-known-time": ModelSettings(query_time="known", weekday_hour=True, positions="sinusoidal",
                                         start_token=True, **TINY_MODEL),
    "enhanced-cloze-only": ModelSettings(next_item_head=False, rating_head=False, preference_head=False,
                                         user_context="mean", similarity="cosine", **TINY_MODEL),
    "enhanced-steered": ModelSettings(fusion="query_key", user_context="prefix", time_bias=True,
                                      title_encoder="ngrams", **TINY_MODEL),
    "enhanced-rgcn": ModelSettings(graph_encoder="rgcn", fusion="gate", user_context="adaptive_norm", **TINY_MODEL),
    "enhanced-lightgcn": ModelSettings(graph_encoder="lightgcn", fusion="cross_attention", id_start="svd",
                                       relative_time=False, time_bias=True, **TINY_MODEL),
    "enhanced-concat": ModelSettings(title_encoder="ngrams", fusion="concat", user_context="prefix",
                                     start_token=True, weekday_hour=True, similarity="cosine", **TINY_MODEL),
}
ALL_TASKS = frozenset({"masked_item", "next_item", "rating", "preference"})


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> ModelSettings:
    """Each kind of model in turn."""
    return VARIANTS[request.param]


def fresh_model(data: SequenceData, settings: ModelSettings, seed: int = 0, spread: float = 0.3) -> torch.nn.Module:
    """A model in evaluation mode whose weights are large enough for every input to matter."""
    from model_io import new_model

    torch.manual_seed(seed)
    model = new_model(data, settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name or "follow" in name:  # what the person makes of a norm starts at nothing
                parameter.normal_(0, spread)
    return model


def tiny_settings(tmp_path: Path, model: ModelSettings, **changes: object) -> Settings:
    """Settings of a run of seconds."""
    values = dict(dataset="synthetic", max_epochs=2, batch_size=16, precision="fp32", device="cpu",
                  checkpoint_dir=str(tmp_path / "checkpoints"), runs_dir=str(tmp_path / "runs"), bootstrap_samples=100)
    return Settings(model=model).replace(**{**values, **changes})


SERVED = ["--preset", "quick", "--hidden_size", "16", "--seq_length", "20", "--max_steps", "6", "--learning_rate",
          "0.01", "--bootstrap_samples", "100", "--precision", "fp32", "--device", "cpu", "--start_token"]


@pytest.fixture(scope="session")
def service_files(tiny: Interactions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world as files (data), a model that serves empty histories (main), one that is told the time of the
    request (timed), a vanilla one of fewer films."""
    import trainer

    place = tmp_path_factory.mktemp("service")
    data = write_ml_1m(place / "data", tiny.ratings, tiny.movies, tiny.users)
    for name, flags in (("main", []), ("timed", ["--query_time", "known"]),
                        ("vanilla", ["--model", "vanilla", "--min_item_count", "22"])):
        kept = [flag for flag in SERVED if name != "vanilla" or flag != "--start_token"]
        assert run_command(trainer.main, [*kept, "--data_dir", str(data), "--checkpoint_dir", str(place / name),
                                          "--runs_dir", str(place), *flags]) == 0
    return place


def start_service(files: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """`python -m serving` on a free port: the process, and its address as soon as it answers."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "serving", "--model_path", str(files / "main" / "best"),
                                "--vanilla_path", str(files / "vanilla" / "best"), "--data_dir", str(files / "data"),
                                "--port", str(port), *flags], cwd=ROOT, text=True)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return process, url
        except httpx.HTTPError:
            time.sleep(0.2)
    process.kill()
    raise RuntimeError("the service did not start")


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
