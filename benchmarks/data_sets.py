"""How good a first model is on any data set: `python -m benchmarks.data_sets groceries.csv
ml-latest-small --output results/data-sets.json`

A model is trained by `python trainer.py --preset auto --dataset ...`, once for each seed, and
compared with rankers by counts. The difference to the best of these is tested over users and seeds
(evaluation/significance.py). A finished run in --work is not trained again.

PCTM's authors include the validation items in the counts before the test. `recounted` is PCTM and
the model with such counts; the model's parameters and the weights of its counts stay the same.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from baselines.followers import pctm
from dataset import Dataset
from evaluation.metrics import per_user
from evaluation.protocols import ranks_of, target_ranks
from evaluation.significance import compare, compare_over_seeds, mark
from measuring import counting_rankers, pctm_setting
from model_io import load_model, load_with_data
from run_folder import BEST, RESULTS, read_results
from settings import Settings
from splits import MEASURED
from support.arguments import ArgumentParser, whole
from support.errors import require, run_command
from support.files import write_json
from support.tables import print_table, table_text
from transitions import pair_values

METRICS = ("HR@10", "NDCG@10")
FIRST_SEED = 42
RECOUNTED = "recounted"
ROOT = Path(__file__).parent.parent


def trained(dataset: str, seed: int, work: Path, flags: list[str]) -> Path:
    """The folder of the model of a data set and a seed, trained if it does not exist."""
    asked = json.dumps([str(Path(dataset).resolve()), *flags]).encode()
    digest = hashlib.sha256(asked).hexdigest()[:6]
    place = work / f"{Path(dataset).stem}-{seed}-{digest}"
    best = place / BEST
    if not (best / RESULTS).exists():
        command = [sys.executable, ROOT / "trainer.py", "--preset", "auto"]
        command += ["--dataset", dataset, "--seed", str(seed)]
        command += ["--checkpoint_dir", place, "--runs_dir", place / "runs"]
        done = subprocess.run([*map(str, command), *flags])
        require(done.returncode == 0, f"{dataset}: no model was trained")
    return best


def figures(models: list[Path], data_dir: str | None = None) -> dict[str, Any]:
    """Figures of models of one data set, one for each seed, beside rankers by counts."""
    found = [read_results(folder) for folder in models]
    _, settings, data = load_with_data(models[0], data_dir)
    data = data.replace(split=data.split.with_fewer("test", MEASURED))
    users = data.split.requests["test"].users
    counted = _counted(data, settings, users)
    ours = [_per_user(folder, users) for folder in models]
    again = recounted(models, data, settings)
    best = max(counted, key=lambda name: counted[name]["NDCG@10"].mean())
    row: dict[str, Any] = {
        "protocol": found[0]["protocol"],
        "interactions": len(data.items),
        "users": len(np.unique(users)),
        "items": len(data.catalogue.items.ids),
        "best that counts": best,
        "training_seconds": [each["training_seconds"] for each in found],
    }
    for metric in METRICS:
        values = np.stack([each[metric] for each in ours])  # (S, U)
        reference = np.tile(counted[best][metric], (len(values), 1))
        # One user alone has no spread over users.
        test = compare_over_seeds if len(values[0]) > 1 else compare
        difference = test(values, reference)
        row[metric] = {
            **{name: float(q[metric].mean()) for name, q in counted.items()},
            "model": values.mean(1).tolist(),
            "difference": vars(difference),
            RECOUNTED: {
                name: [float(each[metric].mean()) for each in found]
                for name, found in again.items()
            },
        }
    return row


def recounted(
    models: list[Path], data: Dataset, settings: Settings
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Metrics on the test items with counts that include the validation items.

    Ranker ('PCTM'; 'model' where the models add counts) -> for each model, metric -> (U,).
    """
    split = data.split.through_validation()
    larger = data.replace(split=split)
    # Its setting is still chosen on validation items that its counts do not know.
    setting = pctm_setting(data, settings)
    rankers = {"PCTM": [pctm(larger, **setting)]}
    loaded = [load_model(folder).model for folder in models]
    if loaded[0].transitions is not None:
        for model in loaded:
            values = pair_values(larger, model.transitions.kinds)
            model.transitions.hold(values)
        rankers["model"] = [model.frozen() for model in loaded]
    users = data.split.requests["test"].users
    length = settings.model.seq_length

    def quality(ranker):
        rank = target_ranks(ranker, data, "test", length, settings.eval)
        return per_user(rank, users)

    return {
        name: [quality(ranker) for ranker in group]
        for name, group in rankers.items()
    }


def _counted(
    data: Dataset, settings: Settings, users: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Ranker by counts -> metric -> (U,)."""
    length = settings.model.seq_length
    rankers = counting_rankers(data, settings)
    ranks = ranks_of(rankers, data, "test", length, settings.eval)
    return {name: per_user(ranks[name], users) for name in rankers}


def _per_user(folder, users):
    """Metric -> (U,) of the model in a folder."""
    import pandas as pd

    frame = pd.read_parquet(folder / "test_users.parquet")
    rank = frame.filter(regex=r"^rank(_\d+)?$").to_numpy()
    return per_user(rank, users)


def table(
    rows: dict[str, dict[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """(header, cells): NDCG@10 of the rankers by counts, both metrics of the models."""
    counters = list(
        dict.fromkeys(name for row in rows.values() for name in _counters(row))
    )
    header = [
        "data",
        "users",
        "items",
        "interactions",
        *counters,
        "model",
        "HR@10",
    ]
    cells = []
    for name, row in rows.items():
        found = row["NDCG@10"]
        line = [name, *(f"{row[key]:,}" for key in header[1:4])]
        line += [
            f"{found[other]:.4f}" if other in found else ""
            for other in counters
        ]
        star = mark(found["difference"]["p_value"])
        line += [
            _spread(found["model"]) + star,
            _spread(row["HR@10"]["model"]),
        ]
        cells.append(line)
    return header, cells


def _counters(row):
    return [
        name
        for name in row["NDCG@10"]
        if name not in ("model", "difference", RECOUNTED)
    ]


def _recounted_line(found):
    each = [f"{name} {_spread(values)}" for name, values in found.items()]
    return f"recounted with the validation items: {', '.join(each)}"


def _spread(values):
    return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("datasets", nargs="+", help="as for --dataset")
    parser.add_argument("--seeds", type=whole(2, 100), default=3)
    parser.add_argument(
        "--work", type=Path, default=Path("checkpoints/data-sets")
    )
    parser.add_argument("--output", type=Path)
    flags, others = parser.parse_known_args(argv)
    rows = {}
    names = [Path(dataset).stem for dataset in flags.datasets]
    require(
        len(set(names)) == len(names),
        f"two of {', '.join(flags.datasets)} have one name; give one at a time, or rename it",
    )
    for dataset in flags.datasets:
        seeds = range(FIRST_SEED, FIRST_SEED + flags.seeds)
        models = [trained(dataset, seed, flags.work, others) for seed in seeds]
        rows[Path(dataset).stem] = figures(models)
        if flags.output:
            write_json(flags.output, rows)
    header, cells = table(rows)
    for name, row in rows.items():
        print(f"{name}: {row['protocol']}")
        for metric in METRICS:
            print(f"  {metric}, {_recounted_line(row[metric][RECOUNTED])}")
    title = (
        f"NDCG@10 on the test items, {flags.seeds} seeds: mean (least to most)"
    )
    note = "stars: the model differs from the best ranker that counts"
    print_table(title, note, header, cells)
    print(table_text(header, cells))


if __name__ == "__main__":
    sys.exit(run_command(main))
