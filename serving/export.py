"""Write a model as ONNX and check it: `python -m serving.export --model_path checkpoints/best --onnx model.onnx`

The file maps what is known of a batch of people to a score of every row of the item table (rows 0 and 1, padding and
mask, score -inf; row 2 is the first film of metadata.json). It is run under onnxruntime beside the model: the same ten
films for 200 people and scores within 1e-3, or the command fails and leaves no file.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from batches import Batch, History, history_batch
from data_processor import FIRST_ITEM
from inference import RecommendationEngine
from support.arguments import ArgumentParser
from support.errors import UserError, run_command

INPUTS = ("users", "demographics", "items", "ratings", "timestamps", "lengths", "request_times",
          "whole")
PEOPLE, TOP, NEAR = 200, 10, 1e-3
BATCHES = (1, 3, 32)  # sizes of batches that are compared


class Scorer(nn.Module):
    """A model as a function of tensors: the fields of `Batch` that a ranking reads, in the order of INPUTS."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # not by eval(): the model would forget its item table

    def forward(self, users: Tensor, demographics: Tensor, items: Tensor, ratings: Tensor, timestamps: Tensor,
                lengths: Tensor, request_times: Tensor, whole: Tensor) -> Tensor:
        """(B, R) scores."""
        nothing = torch.zeros_like(items)
        return self.model.score(Batch("causal", users, demographics, items, ratings, timestamps, lengths,
                                      request_times, nothing, nothing, whole))


def export(engine: RecommendationEngine, path: Path) -> None:
    """Write the engine's model. Raises `UserError` for one that ranks by an appended mask."""
    if not getattr(engine.model.settings, "next_item_head", False) or engine.model.settings.model == "vanilla":
        raise UserError("only models that predict the next item can be exported (--next_item_head); this one ranks by "
                        "an appended mask")
    example = history_batch([History(np.arange(FIRST_ITEM, FIRST_ITEM + count)) for count in (3, 5, 9)],
                            engine.seq_length)
    axes = {name: {0: "people", 1: "length"} if getattr(example, name).dim() == 2 and name != "demographics"
            else {0: "people"} for name in INPUTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Scorer(engine.model), tuple(getattr(example, name) for name in INPUTS),
                                    dynamo=True, input_names=INPUTS, output_names=["scores"], dynamic_shapes=axes,
                                    verbose=False)
    program.save(path)


def histories(engine: RecommendationEngine) -> list[History]:
    """PEOPLE of the data, spread evenly, or where there is none as many drawn histories; one empty, if served."""
    try:
        users = engine.data.catalogue.user_ids
        chosen = np.unique(np.linspace(0, len(users) - 1, PEOPLE).round().astype(int))
        asked = [engine.history(int(users[row])) for row in chosen]
    except UserError:
        draw, films = np.random.default_rng(0), np.arange(FIRST_ITEM, engine.catalogue.num_rows)
        asked = [History(draw.choice(films, draw.integers(1, min(300, len(films) // 2)), replace=False))
                 for _ in range(PEOPLE)]
    return [History(np.zeros(0, dtype=np.int64)), *asked[1:]] if engine.model.starts else asked


def difference(engine: RecommendationEngine, path: Path) -> tuple[int, float, float]:
    """(people, share of them with the same TOP films in the same order, largest difference of a score)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    asked, same, largest, start = histories(engine), 0, 0.0, 0
    for size in itertools.cycle(BATCHES):
        batch = history_batch(asked[start:start + size], engine.seq_length)
        (theirs,) = session.run(None, {name: getattr(batch, name).numpy() for name in INPUTS})
        with torch.no_grad():
            ours = engine.model.score(batch).numpy()
        largest = max(largest, float(np.abs(theirs[:, FIRST_ITEM:] - ours[:, FIRST_ITEM:]).max()))
        same += int((np.argsort(-theirs)[:, :TOP] == np.argsort(-ours)[:, :TOP]).all(1).sum())
        start += size
        if start >= len(asked):
            break
    return len(asked), same / len(asked), largest


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--model_path", default="checkpoints/best", help="(default: %(default)s)")
    parser.add_argument("--data_dir", help="folder with the data set's original files (default: as in training)")
    parser.add_argument("--onnx", type=Path, required=True, help="the file to write")
    flags = parser.parse_args(argv)
    engine = RecommendationEngine(flags.model_path, data_dir=flags.data_dir)
    if not flags.onnx.parent.is_dir():
        raise UserError(f"--onnx {flags.onnx}: there is no such folder; make it or choose another place")
    with tempfile.TemporaryDirectory(dir=flags.onnx.parent) as scratch:
        draft = Path(scratch) / flags.onnx.name
        export(engine, draft)
        people, same, largest = difference(engine, draft)
        if same < 1 or largest > NEAR:
            raise UserError(f"{flags.onnx} was not written: onnxruntime gives {same:.1%} of {people} people the same "
                            f"{TOP} films, scores differ by up to {largest:.1e}; please report this")
        for part in Path(scratch).iterdir():
            part.replace(flags.onnx.parent / part.name)
    print(f"{flags.onnx}: under onnxruntime the same {TOP} films for {people} people, scores within {largest:.1e}")


if __name__ == "__main__":
    sys.exit(run_command(main))
