"""Vectors for an index of nearest neighbours: `python inference.py --users all --vectors FOLDER`.

The inner product of a user's vector and of an item's is the model's logit without the counts of
transitions, for users with a history:

    item    (item vector, bias)      user    (state, 1)

So an index finds candidates; a model with `--transitions` ranks them once more.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bulk import PART
from dataset import ITEM_ROWS
from engine import RecommendationEngine
from evaluation.protocols import request_batches
from splits import Requests
from support.errors import require
from support.files import replacing, write_json

ABOUT = "vectors.json"  # says that a folder was written here


@torch.no_grad()
def item_vectors(engine: RecommendationEngine) -> np.ndarray:
    """(items, D + 1) of each item with an id, in the order of the catalogue."""
    scorer = engine.scorer
    nobody = torch.zeros(1, scorer.table.shape[1])
    _, bias = scorer.model.as_query(nobody, scorer.cloze)
    vectors = torch.cat([scorer.table.float(), bias[:, None]], dim=1)
    return vectors[ITEM_ROWS:].cpu().numpy()


@torch.no_grad()
def user_vectors(
    engine: RecommendationEngine, requests: Requests
) -> np.ndarray:
    """(Q, D + 1) of the history of each request. If the time of the request is known from the data,
    as that of a held-out interaction is, it stays."""
    scorer = engine.scorer
    timed = engine.timed if not requests.count else lambda history: history
    found = np.ones((len(requests), scorer.table.shape[1] + 1), np.float32)
    for chosen, _, batch in request_batches(
        engine.data, requests, engine.seq_length, timed=timed
    ):
        states = scorer.states(batch).float()
        queries, _ = scorer.model.as_query(states, scorer.cloze)
        found[chosen, :-1] = queries.cpu().numpy()
    return found


def write_vectors(
    engine: RecommendationEngine, folder: Path, requests: Requests
) -> Iterator[tuple[int, int]]:
    """Write items.parquet, and a file of every PART users: an id and a `vector` a row. Yields
    (users written, all users) after each file. Files of an earlier call are removed first. Raises
    `UserError` if the folder has such files of something else."""
    of_items, of_users = folder / "items.parquet", folder.glob("users-*.parquet")
    found = [path for path in (of_items, *of_users) if path.exists()]
    if not (folder / ABOUT).exists():
        require(
            not found,
            f"--vectors {folder} holds other files, such as {found and found[0].name}; choose "
            f"another folder",
        )
        write_json(folder / ABOUT, {"weights": engine.info["weights"]})
    for path in found:
        path.unlink()
    items = engine.catalogue.items
    _write(of_items, "item_id", items.ids, item_vectors(engine))
    for number, start in enumerate(range(0, len(requests), PART)):
        part = requests.part(slice(start, start + PART))
        ids = engine.data.catalogue.users.id_array(part.users)
        path = folder / f"users-{number:05}.parquet"
        _write(path, "user_id", ids, user_vectors(engine, part))
        yield start + len(part), len(requests)


def _write(path, name, ids, vectors):
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(vectors.reshape(-1))
    table = pa.table(
        {
            name: pa.array(ids.tolist()),
            "vector": pa.FixedSizeListArray.from_arrays(
                flat, vectors.shape[1]
            ),
        }
    )
    with replacing(path) as target:
        pq.write_table(table, target)
