"""How good the value and preference heads are, beside predictors that a head must beat to be
worth it.

Q requests, K values of a column, F values of an item column.
"""

from dataclasses import dataclass

import numpy as np
import torch

from baselines.mean_values import mean_predictors
from dataset import Dataset, Field
from evaluation.protocols import request_batches
from scorer import Scorer


@dataclass(frozen=True)
class HeadOutputs:
    """What the heads say of the interaction that follows each request's history."""

    # column -> (Q, K) probabilities for the item that followed
    values: dict[str, np.ndarray]
    preferences: dict[str, np.ndarray]  # column -> (Q, F) distribution


@torch.no_grad()
def head_outputs(
    scorer: Scorer, data: Dataset, until: str, seq_length: int, device: torch.device
) -> HeadOutputs:
    """Of all requests of a part of the data."""
    requests = data.split.requests[until]
    targets = data.items[requests.ends]
    count = len(requests)
    values, preferences = {}, {}
    for name in scorer.value_columns:
        size = len(data.catalogue.interaction_fields[name].values)
        values[name] = np.zeros((count, size), dtype=np.float32)
    for name in scorer.preference_columns:
        size = len(data.catalogue.items.fields[name].values)
        preferences[name] = np.zeros((count, size), dtype=np.float32)
    if not values and not preferences:
        return HeadOutputs({}, {})
    for chosen, batch in request_batches(data, until, seq_length, device):
        states = scorer.states(batch.to(device))
        items = torch.from_numpy(targets[chosen]).to(device)
        for name, table in values.items():
            table[chosen] = (
                scorer.value_probabilities(name, states, items).cpu().numpy()
            )
        for name, table in preferences.items():
            table[chosen] = scorer.preferences(name, states).cpu().numpy()
    return HeadOutputs(values, preferences)


def expected(entry: Field, probabilities: np.ndarray) -> np.ndarray | None:
    """(Q,) expected number, of a column whose values are numbers; else None."""
    return None if entry.numbers is None else probabilities @ entry.numbers


def value_quality(
    entry: Field, probabilities: np.ndarray, data: Dataset, until: str
) -> dict[str, dict[str, float]]:
    """Errors of the head and of mean predictors; of values that are no numbers, their
    cross-entropy.
    """
    codes = data.columns[entry.name][data.split.requests[until].ends]
    known = codes > 0
    guess = expected(entry, probabilities)
    if guess is None:
        stated = probabilities[known, codes[known] - 1]
        return {
            "head": {"cross-entropy": float(-np.log(np.maximum(stated, 1e-9)).mean())}
        }
    true = entry.numbers[codes[known] - 1]
    rows = {}
    for name, values in {**mean_predictors(entry, data, until), "head": guess}.items():
        error = values[known] - true
        rows[name] = {
            "RMSE": float(np.sqrt((error**2).mean())),
            "MAE": float(np.abs(error).mean()),
        }
    return rows


def preference_quality(
    name: str, predicted: np.ndarray, data: Dataset, until: str
) -> dict[str, float]:
    """Mean cross-entropy (nats), under three predictors, of the values of the item that follows.

    'head' is the model; 'constant' the mean distribution of the training part, the same for
    everybody; 'own history' the user's own distribution so far, mixed with 5 % of the constant so
    that nothing is impossible. Items without values are left out.
    """
    shares, requests = data.catalogue.items.shares(name), data.split.requests[until]
    target = shares[data.items[requests.ends]]  # (Q, F)
    counts = data.item_counts()
    constant = (counts / counts.sum()) @ shares + 1e-6  # (F,)
    constant = constant / constant.sum()
    own = np.zeros_like(target)
    for number, items in enumerate(data.histories(requests)):
        if len(items):
            own[number] = shares[items].mean(0)
    own = 0.95 * own + 0.05 * constant
    known = target.sum(1) > 0
    guesses = {
        "head": predicted,
        "constant": np.broadcast_to(constant, target.shape),
        "own history": own,
    }
    found = {}
    for guess, values in guesses.items():
        each = -(target * np.log(np.maximum(values, 1e-9))).sum(1)
        found[guess] = float(each[known].mean())
    return found
