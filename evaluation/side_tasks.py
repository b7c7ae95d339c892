"""Quality of the value and preference heads, beside simple predictors that they must beat.

Q requests, K values of a column, F values of an item column.
"""

import numpy as np
import torch

from baselines.mean_values import mean_predictors
from dataset import Dataset
from evaluation.protocols import request_batches
from scorer import Scorer

VALUES, PREFERENCES = "values", "preferences"  # kinds of heads


@torch.no_grad()
def head_outputs(
    scorer: Scorer,
    data: Dataset,
    until: str,
    seq_length: int,
    device: torch.device,
) -> dict[tuple[str, str], np.ndarray]:
    """Predictions of the heads for the interaction after each request's history, by kind and
    column: (Q, K) probabilities of its values given the item, (Q, F) distributions of item
    columns."""
    requests, outputs, order = data.split.requests[until], {}, []
    targets = data.items[requests.ends]
    heads = [(VALUES, name) for name in scorer.value_columns]
    heads += [(PREFERENCES, name) for name in scorer.preference_columns]
    if not heads:
        return {}
    for chosen, _, batch in request_batches(
        data, requests, seq_length, device
    ):
        order.append(chosen)
        states = scorer.states(batch.to(device))
        items = torch.from_numpy(targets[chosen]).to(device)
        for kind, name in heads:
            if kind == VALUES:
                found = scorer.value_probabilities(name, states, items)
            else:
                found = scorer.preferences(name, states)
            outputs.setdefault((kind, name), []).append(found.cpu())
    place = np.argsort(np.concatenate(order))
    return {
        head: torch.cat(parts).numpy()[place]
        for head, parts in outputs.items()
    }


def value_quality(
    name: str, probabilities: np.ndarray, data: Dataset, until: str
) -> dict[str, dict[str, float]]:
    """Errors of the head and of mean predictors; cross-entropy if the values are no numbers.
    """
    entry = data.catalogue.interaction_fields[name]
    codes = data.columns[name][data.split.requests[until].ends]
    known = codes > 0
    if not known.any():
        return {}
    if entry.numbers is None:
        stated = probabilities[known, codes[known] - 1]
        loss = -np.log(np.maximum(stated, 1e-9)).mean()
        return {"head": {"cross-entropy": float(loss)}}
    guess = probabilities @ entry.numbers
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

    'head' is the model. 'constant' is the mean distribution of the training part, the same for
    everybody. 'own history' is the user's own distribution so far, mixed with 5 % of the constant
    so that no value has probability 0. Items without values are left out.
    """
    shares, requests = (
        data.catalogue.items.shares(name),
        data.split.requests[until],
    )
    target = shares[data.items[requests.ends]]  # (Q, F)
    counts = data.item_counts()
    constant = (counts / counts.sum()) @ shares + 1e-6  # (F,)
    constant = constant / constant.sum()
    histories = data.histories(requests)
    in_history = np.array([shares[items].mean(0) for items in histories])
    in_history = 0.95 * in_history + 0.05 * constant
    known = target.sum(1) > 0
    if not known.any():
        return {}
    guesses = {
        "head": predicted,
        "constant": np.broadcast_to(constant, target.shape),
        "own history": in_history,
    }
    found = {}
    for guess, values in guesses.items():
        each = -(target * np.log(np.maximum(values, 1e-9))).sum(1)
        found[guess] = float(each[known].mean())
    return found
