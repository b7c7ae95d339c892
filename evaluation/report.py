"""Results of one run: computed once, stored with a row for each request, shown as tables.
"""

from pathlib import Path

import numpy as np

from dataset import Dataset
from evaluation.metrics import (
    CUTOFFS,
    METRIC,
    ONE_TARGET,
    SEVERAL_TARGETS,
    interval,
    per_request,
    per_user,
)
from evaluation.slices import by_time
from support.tables import by_row, print_table, write_frame

Summary = dict[str, dict[str, float]]  # metric -> mean, low, high


def summarise(rank: np.ndarray, data: Dataset, until: str) -> Summary:
    """Metric -> its interval, from the ranks (Q, T) of all requests. METRIC is also given for two
    parts of them (`by_time`)."""
    users = data.split.requests[until].users
    metrics = per_user(rank, users)
    names = ONE_TARGET if rank.shape[1] == 1 else SEVERAL_TARGETS
    summary = {name: interval(metrics[name]) for name in names}
    for part, chosen in by_time(data, until).items():
        values = per_user(rank[chosen], users[chosen])[METRIC]
        summary[f"{METRIC}, {part}"] = interval(values)
    return summary


def hit_max_ratio(rank: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """Hit Max Ratio@k: the share of sessions whose hidden last item is among the first k, ranked
    with the mask token appended (ranks (Q, T) of such a ranking). It is another name for the hit
    rate."""
    metrics = per_user(rank, users)
    return {f"@{k}": float(metrics[f"HR@{k}"].mean()) for k in CUTOFFS}


def cell(summary: dict[str, float], mark: str = "") -> str:
    """A mean with its interval below, where there is one, as tables show it."""
    if "low" not in summary:
        return f"{summary['mean']:.4f}{mark}"
    return f"{summary['mean']:.4f}{mark}\n{summary['low']:.3f}-{summary['high']:.3f}"


def print_ranking(title: str, protocol: str, rows: dict[str, Summary]) -> None:
    """The ranking table, the interval under each mean."""
    names, cells = by_row(rows, cell)
    names = [name.replace(", ", "\n") for name in names]
    print_table(title, protocol, ["model", *names], cells)


def write_request_results(
    path: Path, data: Dataset, until: str, rank: np.ndarray
) -> None:
    """Parquet with a row a request: user, ranks (Q, T) of the targets as rank, rank_2, ..., and
    metrics; written whole or not at all."""
    import pandas as pd

    users = data.split.requests[until].users
    table = {
        "user_id": data.catalogue.users.id_array(users),
        "rank": rank[:, 0],
    }
    for place in range(1, rank.shape[1]):
        table[f"rank_{place + 1}"] = rank[:, place]
    write_frame(path, pd.DataFrame(table | per_request(rank)))
