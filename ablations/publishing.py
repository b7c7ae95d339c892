"""A trained row of the results tables as a model folder with a card, to share."""

from pathlib import Path
from typing import Any

from settings import BOOKKEEPING
from support.checkpoint import read_checkpoint, write_checkpoint
from support.tables import table_text

SAMPLED = "pop-100 "
SHOWN = (
    "HR@1",
    "HR@10",
    "NDCG@10",
    "MRR",
    SAMPLED + "HR@10",
    SAMPLED + "NDCG@10",
)
CARD = """# {row}

`{row}` of `configs/`, trained on {dataset} with seed {seed}: {parameters:,} parameters,
{items:,} items, columns read: {columns}.

```
python inference.py --model_path models/{row} --user_id 123 --k 10
```

{figures}
*{protocol}. pop-100: among 100 items drawn by popularity, the seen ones among them left out, as in
published tables. Of {seeds} seeds the best by validation NDCG@10 (this one {validation:.4f}).*

Trained in {minutes:.0f} minutes ({memory:,} MB), commit {commit};
`make reproduce ROW={row} BOARD={board} SEEDS={seeds}` trains it again and compares.
Neither interactions nor names of items are part of this folder: names come from the data set,
whose licence also holds for what is made from it. Leave-one-out lets training see events that are
later in calendar time than other users' targets; rows without that: `results/global-time/`.
"""


def publish(record: dict[str, Any], work: Path, folder: Path) -> None:
    """Write the row's best run as a model folder with a card; names and columns of items stay out
    where the licence of the data asks for it."""
    run = max(record["runs"], key=lambda run: run["validation"])
    source = work / run["folder"] / "best"
    tensors, info = read_checkpoint(source)
    settings = info["settings"]
    kept = [name for name in settings if name not in BOOKKEEPING]
    info["settings"] = {name: settings[name] for name in kept}
    write_checkpoint(folder, tensors, info)
    rows = [["this model", *(f"{run['test'][name]:.4f}" for name in SHOWN)]]
    for what in ("mean", "low", "high"):
        figures = [record["test"][metric][what] for metric in SHOWN]
        rows.append(
            [f"{what} of the seeds", *(f"{figure:.4f}" for figure in figures)]
        )
    columns = [name for table in info["fields"].values() for name in table]
    text = CARD.format(
        **record,
        dataset=info["schema"]["name"],
        seed=run["seed"],
        seeds=len(record["runs"]),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        items=len(info["item_ids"]),
        columns=", ".join(columns) or "none",
        figures=table_text(["", *SHOWN], rows),
        validation=run["validation"],
        minutes=run["seconds"] / 60,
        memory=run["peak_memory_mb"],
        commit=run["git_commit"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
