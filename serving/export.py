"""Write a model as ONNX and check it: `python -m serving.export --model_path checkpoints/best
--onnx m.onnx`

The file maps a batch of histories to a score of every row of the item table. Rows 0 and 1, padding
and mask, score -inf; row 2 is the first item of items.parquet. Its inputs are the tensors of
`Batch` that a ranking reads, by name. It is compared with the model under onnxruntime: the same ten
items for 200 users and scores within 1e-3, or the command fails and leaves no file.
"""

import itertools
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batches import Batch, History, history_batch, history_of
from engine import RecommendationEngine
from scorer import Scorer
from support.arguments import model_parser
from support.errors import UserError, run_command
from support.files import check_regular

USERS, TOP, NEAR = 200, 10, 1e-3
# fields of a batch that no ranking reads
UNREAD = ("pattern", "targets", "target_columns", "views")


class Exported(nn.Module):
    """A scorer as a function of the `inputs_of` a batch."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, fields: dict[str, Any]) -> Tensor:
        """(B, R) scores."""
        targets = torch.zeros_like(fields["items"])
        batch = Batch("causal", targets=targets, target_columns={}, **fields)
        return self.scorer.score(batch)


def inputs_of(batch: Batch) -> dict[str, Any]:
    """The fields that a ranking reads."""
    return {
        name: value
        for name, value in vars(batch).items()
        if name not in UNREAD
    }


def export(engine: RecommendationEngine, path: Path) -> None:
    """Write the engine's model. Raises `UserError` if it ranks by an appended mask."""
    settings = engine.settings.model
    if settings.model == "vanilla" or not settings.next_item_weight:
        raise UserError(
            "only models that predict the next item can be exported (--next_item_weight); this "
            "one ranks by an appended mask"
        )
    first = engine.catalogue.items.first
    examples = [
        History(np.arange(first, first + count)) for count in (3, 5, 9)
    ]
    batch = history_batch(examples, engine.catalogue, engine.seq_length)
    axes = batch.each(
        lambda _: {0: "users", 1: "length"}, lambda _: {0: "users"}
    )
    # It names operators of packages that are not installed and not needed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Exported(engine.scorer),
            kwargs={"fields": inputs_of(batch)},
            dynamo=True,
            input_names=[
                name for name in batch.tensors() if name not in UNREAD
            ],
            output_names=["scores"],
            dynamic_shapes={"fields": inputs_of(axes)},
            verbose=False,
        )
    program.save(path)


def histories(engine: RecommendationEngine) -> list[History]:
    """USERS of the data, spread evenly, one of them without a history, if served."""
    rows = engine.data.catalogue.users.rows
    chosen = rows[:: max(1, len(rows) // USERS)][:USERS]
    asked = [engine.timed(history_of(engine.data, row)) for row in chosen]
    if engine.scorer.starts:
        asked[0] = History(np.zeros(0, dtype=np.int64))
    return asked


def difference(
    engine: RecommendationEngine, path: Path
) -> tuple[int, float, float]:
    """(users, share of them with the same TOP items in the same order, largest difference of a
    score).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    wanted = {entry.name for entry in session.get_inputs()}
    asked, same, largest = histories(engine), 0, 0.0
    first = engine.catalogue.items.first
    bounds = [0, *range(1, len(asked), 32), len(asked)]
    for start, end in itertools.pairwise(bounds):
        part = asked[start:end]
        batch = history_batch(part, engine.catalogue, engine.seq_length)
        inputs = {
            name: tensor.numpy()
            for name, tensor in batch.tensors().items()
            if name in wanted
        }
        (theirs,) = session.run(None, inputs)
        with torch.no_grad():
            ours = engine.scorer.score(batch).numpy()
        apart = np.abs(theirs[:, first:] - ours[:, first:]).max()
        largest = max(largest, float(apart))
        best = [np.argsort(-scores)[:, :TOP] for scores in (theirs, ours)]
        same += int((best[0] == best[1]).all(1).sum())
    return len(asked), same / len(asked), largest


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = model_parser(__doc__)
    parser.add_argument(
        "--onnx", type=Path, required=True, help="the file to write"
    )
    flags = parser.parse_args(argv)
    engine = RecommendationEngine(flags.model_path, flags.data_dir)
    check_regular(flags.onnx)
    if not flags.onnx.parent.is_dir():
        raise UserError(
            f"--onnx {flags.onnx}: there is no such folder; make it or choose another place"
        )
    with tempfile.TemporaryDirectory(dir=flags.onnx.parent) as scratch:
        draft = Path(scratch) / flags.onnx.name
        export(engine, draft)
        users, same, largest = difference(engine, draft)
        if same < 1 or largest > NEAR:
            raise UserError(
                f"{flags.onnx} was not written: onnxruntime gives {same:.1%} of {users} users "
                f"the same {TOP} items, scores differ by up to {largest:.1e}; please report this"
            )
        for part in Path(scratch).iterdir():
            part.replace(flags.onnx.parent / part.name)
    print(
        f"{flags.onnx}: under onnxruntime the same {TOP} items for {users} users, scores within "
        f"{largest:.1e}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
