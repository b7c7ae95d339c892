"""Explanations of the synthetic data, whose causes are known (datasets/README.md).

How often is the item that caused the next one among the first contributions? And how often is the
family of features that caused it (age, season) the first of the families?
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablations.questions import question_of
from dataset import Dataset
from explanations.attribution import explain
from readers import DATASETS
from scorer import Scorer

FIRST = 3  # contributions that are looked at for the true cause
FEWEST = 20  # interactions before a planted cause
PLANTED = (
    "held-out interactions with {fewest} and more before them, by what caused them: the causing "
    "item among the first {first} contributions; the causing family first"
)


def true_causes() -> pd.DataFrame:
    """The cause of each interaction of the synthetic data (datasets/README.md): `family` is the
    family that an explanation should name first, or 'history' for the item `source`; '' for no
    cause."""
    path = DATASETS / "synthetic" / "causes.csv.gz"
    return pd.read_csv(path, keep_default_na=False)


def planted_causes(
    scorer: Scorer, data: Dataset, methods: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """For held-out interactions of the synthetic data with at least FEWEST before them: method ->
    cause -> (share in which the method names the cause, number)."""
    known = true_causes().set_index(["user", "item"])
    requests, catalogue = data.split.requests["test"], data.catalogue
    hits: dict[str, dict[str, list[bool]]] = {name: {} for name in methods}
    for user, end in zip(
        requests.users.tolist(), requests.ends.tolist(), strict=True
    ):
        item = int(data.items[end])
        cause = known.loc[(catalogue.users.id(user), catalogue.items.id(item))]
        if not cause["family"] or end - data.offsets[user] < FEWEST:
            continue
        question = question_of(scorer, data, user, end, item)
        for method in methods:
            # No two cases by the same draw.
            answer = explain(question, method, user)
            if cause["family"] == "history":
                order = np.argsort(-answer.history[0], kind="stable")
                rows = question.read.items[order[:FIRST]]
                named = catalogue.items.id_array(rows).tolist()
                true = cause["source"]
            else:
                true, effects = cause["family"], answer.families
                named = sorted(effects, key=lambda name: effects[name][0])[-1:]
            if named:
                found = hits[method].setdefault(cause["cause"], [])
                found.append(true in named)
    return {
        method: {
            cause: {"share": np.mean(found), "cases": len(found)}
            for cause, found in of_cause.items()
        }
        for method, of_cause in hits.items()
    }


def planted_table(
    planted: dict[str, dict[str, dict[str, float]]],
) -> tuple[str, str, list[str], list[list[Any]]]:
    """(title, what it means, header, rows) of `planted_causes`."""
    causes = sorted({cause for found in planted.values() for cause in found})
    caption = PLANTED.format(fewest=FEWEST, first=FIRST)
    rows = [
        [method, *(_cell(found.get(cause)) for cause in causes)]
        for method, found in planted.items()
    ]
    return "Planted causes", caption, ["method", *causes], rows


def _cell(found):
    return f"{found['share']:.1%} of {found['cases']}" if found else ""
