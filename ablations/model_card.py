"""Publish a trained row of the results tables: `python -m ablations.model_card vanilla --board
loo-3416`.

Takes the run with the best validation score of those that `python -m ablations.rows` left in its
work folder and writes `models/ROW/`: the weights, their description and a card, whose figures are
those of `results/BOARD/ROW.json`. Names and columns of the items stay out where the licence of
the data asks for it; whoever loads the model reads them from the data set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ablations.rows import BOARDS, SELECTION, SHOWN, TRAINED
from model_io import load_model
from settings import BOOKKEEPING
from support.arguments import ArgumentParser
from support.checkpoint import WEIGHTS, read_checkpoint, read_json, write_checkpoint
from support.errors import UserError, run_command
from support.tables import table_text

CARD = """# {row}

{model} for {dataset}, with the settings of `configs/{row}.yaml` and seed {seed}. It reads {known}.

```
python inference.py --model_path models/{row} --user_id 123 --k 10
```

The names of the items come from the data set (`make run` downloads it): neither interactions nor
names are part of this folder.

{figures}
*{protocol}. pop-100: among 100 items drawn by popularity, the seen ones among them left out, as in
published tables. Selected on validation NDCG@10 (this one {validation:.4f}); intervals 95 %,
bootstrap over users; every run: `results/{board}/{row}.json`.*

Trained in {minutes:.0f} minutes ({memory:,} MB), {parameters:,} parameters, commit {commit}.
`make reproduce ROW={row} BOARD={board} SEEDS={seeds}` trains it again and compares.

- It knows {items:,} items; the less popular an item, the worse it is ranked
  (`python -m ablations.analyse --model_path models/{row}` shows by how much).
- Leave-one-out lets training see events that are later in calendar time than other users'
  targets; rows without that: `results/global-time/`.
- {note}.
- What is made from data is subject to their licence: of MovieLens, research alone, no
  redistribution.
"""


def card(
    row: str,
    board: str,
    record: dict[str, Any],
    run: dict[str, Any],
    info: dict[str, Any],
    parameters: int,
) -> str:
    """The text of a model card, all figures from the row's record."""
    rows = [["this model", *(f"{run['test'][name]:.4f}" for name in SHOWN)]]
    count = len(record["runs"])
    for label, name in (
        (f"mean of {count} seeds", "mean"),
        ("from", "low"),
        ("to", "high"),
    ):
        rows.append(
            [label, *(f"{record['test'][metric][name]:.4f}" for metric in SHOWN)]
        )
    columns = [name for table in info["fields"].values() for name in table]
    schema, enhanced = info["schema"], info["settings"]["model"] == "enhanced"
    known = "item ids alone"
    if enhanced and row != "sasrec":
        known = f"ids, times and {', '.join(columns)}"
    return CARD.format(
        row=row,
        model="EnhancedBERT4Rec" if enhanced else "BERT4Rec",
        dataset=schema["name"],
        board=board,
        seed=run["seed"],
        known=known,
        seeds=count,
        figures=table_text(["", *SHOWN], rows),
        protocol=record["protocol"],
        validation=run["validation"],
        minutes=run["seconds"] / 60,
        memory=run["peak_memory_mb"],
        parameters=parameters,
        commit=run["git_commit"],
        items=len(info["item_ids"]),
        note=schema.get("note") or "All times are as published",
    )


def publish(row: str, board: str, work: Path, results: Path, models: Path) -> Path:
    """Write `models/row` from the row's best run; returns the folder."""
    record = read_json(results / board / f"{row}.json")
    run = max(record["runs"], key=lambda entry: entry["validation"])
    source = work / board / run.get("folder", f"{row}-{run['seed']}") / "best"
    tensors, info = read_checkpoint(source)
    if abs(info["validation"][SELECTION] - run["validation"]) > 1e-9:
        raise UserError(
            f"{source} is not the run that {results / board / row}.json reports; "
            f"run python -m ablations.rows {row} --board {board} --write first"
        )
    kept = {
        name: value
        for name, value in info["settings"].items()
        if name not in BOOKKEEPING
    }
    info["settings"] = kept
    model = load_model(source).model
    folder = models / row
    write_checkpoint(folder, tensors, info)
    text = card(
        row,
        board,
        record,
        run,
        info,
        sum(parameter.numel() for parameter in model.parameters()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("row", choices=TRAINED)
    parser.add_argument("--board", choices=BOARDS, default="loo-3416")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/rows"), help="where the runs lie"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    flags = parser.parse_args(argv)
    folder = publish(flags.row, flags.board, flags.work, flags.results, flags.models)
    print(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(run_command(main))
