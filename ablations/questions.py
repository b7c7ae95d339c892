"""The questions in studies of explanations: which users, and which items."""

import dataclasses

import numpy as np
import torch

from batches import history_of
from dataset import ITEM_ROWS, Dataset
from explanations.question import Question
from scorer import Scorer


def question_of(
    scorer: Scorer,
    data: Dataset,
    user: int,
    end: int | None = None,
    item: int | None = None,
) -> Question:
    """The question why the first recommendation (or `item`) is recommended, after a user's history
    before `end`, or the whole history."""
    history = history_of(data, user, end)
    allowed = torch.arange(len(data.catalogue.items)) >= ITEM_ROWS
    allowed[torch.from_numpy(history.items)] = False
    rows = np.flatnonzero(allowed.numpy())
    question = Question(scorer, data.catalogue, history, rows, allowed)
    if item is None:
        item = int(rows[question.scores(question.everything)[0].argmax()])
    others = np.setdiff1d(rows, item)
    stand_ins = np.random.default_rng(user).choice(others, question.length)
    return dataclasses.replace(
        question, candidates=np.array([item]), stand_ins=stand_ins
    )


def drawn_users(data: Dataset, count: int) -> list[int]:
    """Some users at random, from the second sixth of the draw: DEFAULT, BLOCK_ENDS, BLOCK_WAYS
    and ATTENTION were chosen on others."""
    draw = 1 + np.random.default_rng(0).permutation(data.num_users)
    return np.roll(draw, -(data.num_users // 6))[:count].tolist()
