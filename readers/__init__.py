"""Sources of interactions, one file each; `read_interactions` picks one by name."""

from __future__ import annotations

from readers.download import data_folder
from readers.interactions import Interactions
from readers.movielens import read_ml_1m, read_ml_100k
from readers.synthetic import generate


def read_interactions(dataset: str, data_dir: str | None = None) -> Interactions:
    """Interactions of `ml-1m`, `ml-100k` or `synthetic`. Raises `UserError` where the files are missing or bad."""
    if dataset == "synthetic":
        return generate()
    return {"ml-1m": read_ml_1m, "ml-100k": read_ml_100k}[dataset](data_folder(dataset, data_dir))
