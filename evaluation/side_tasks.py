"""How good the value and preference heads are, beside predictors that a head must beat to be
worth it.

Q requests, K values of a column, F values of an item column.
"""

import numpy as np
import torch

from baselines.mean_values import mean_predictors
from dataset import Dataset, Field
from evaluation.protocols import request_batches
from scorer import Scorer

Outputs = dict[str, np.ndarray]  # by column


@torch.no_grad()
def head_outputs(
    scorer: Scorer,
    data: Dataset,
    until: str,
    seq_length: int,
    device: torch.device,
) -> tuple[Outputs, Outputs]:
    """What the heads say of the interaction that follows each request's history: (Q, K)
    probabilities of its values given the item, and (Q, F) distributions of item columns."""
    targets = data.items[data.split.requests[until].ends]
    values = {name: [] for name in scorer.value_columns}
    preferences = {name: [] for name in scorer.preference_columns}
    order = []
    if not values and not preferences:
        return {}, {}
    for chosen, batch in request_batches(data, until, seq_length, device):
        order.append(chosen)
        states = scorer.states(batch.to(device))
        items = torch.from_numpy(targets[chosen]).to(device)
        for name, parts in values.items():
            parts.append(scorer.value_probabilities(name, states, items).cpu())
        for name, parts in preferences.items():
            parts.append(scorer.preferences(name, states).cpu())
    place = np.argsort(np.concatenate(order))
    return tuple(
        {
            name: torch.cat(parts).numpy()[place]
            for name, parts in heads.items()
        }
        for heads in (values, preferences)
    )


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
            "head": {
                "cross-entropy": float(
                    -np.log(np.maximum(stated, 1e-9)).mean()
                )
            }
        }
    true = entry.numbers[codes[known] - 1]
    rows = {}
    for name, values in {
        **mean_predictors(entry, data, until),
        "head": guess,
    }.items():
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
    shares, requests = (
        data.catalogue.items.shares(name),
        data.split.requests[until],
    )
    target = shares[data.items[requests.ends]]  # (Q, F)
    counts = data.item_counts()
    constant = (counts / counts.sum()) @ shares + 1e-6  # (F,)
    constant = constant / constant.sum()
    own = np.zeros_like(target)
    for number, items in enumerate(data.histories(requests)):
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
