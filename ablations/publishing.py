"""A trained row of the results tables as a model folder with a card, to share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings import BOOKKEEPING
from support.arguments import names_of
from support.checkpoint import read_checkpoint, write_checkpoint
from support.errors import require
from support.files import write_text
from support.tables import table_text
from trained_items import keep_items
from trained_users import keep_users

SAMPLED = ", pop-100"
BOTH = ("HR@10", "NDCG@10")
FIRST = ("HR@1", *BOTH, "MRR")
# Of a record's figures, and what a card calls them.
MEANS = {
    "mean": "mean of the seeds",
    "low": "95 % interval of it over users: from",
    "high": "to",
}


def shown_of(test: Mapping[str, Any]) -> list[str]:
    """The metrics of a row that tables show."""
    more = [name for name in test if "," in name and name.startswith(BOTH)]
    return [*FIRST, *more]


CARD = "README.md"
TEXT = """# {row}

`{row}` of `configs/`, trained on {dataset} with seed {run[seed]}: {run[parameters]:,} parameters,
{items:,} items, columns read: {columns}.

```
python inference.py --model_path models/{row} --user_id 123 --k 10
```

{figures}
*{protocol}. pop-100: among 100 items drawn by popularity, the seen ones among them left out, as in
published tables. Of {seeds} seeds the best by validation NDCG@10 (this one {run[validation]:.4f}).*

Trained in {minutes:.0f} minutes, commit {run[git_commit]};
`make reproduce ROW={row} BOARD={board} SEEDS={seeds}` trains it again and compares.
Neither interactions nor names of items are part of this folder: names come from the data set,
whose licence also holds for what is made from it. Leave-one-out lets training see events that are
later in calendar time than other users' targets. Models without that: `results/global-time/`.
"""


def publish(record: dict[str, Any], work: Path, folder: Path) -> None:
    """Write the row's best run as a model folder with a card; names and columns of items stay out
    where the licence of the data asks for it."""
    run = max(record["runs"], key=lambda run: run["validation"])
    best = work / run["folder"] / "best"
    tensors, info = read_checkpoint(best)
    for name in BOOKKEEPING:
        info["settings"].pop(name, None)

    def add(new: Path) -> None:
        sound = keep_users(best, new, info["split_hash"])
        require(sound, f"{best} is damaged; remove it and train the row again")
        keep_items(best, new, info)

    write_checkpoint(folder, tensors, info, add)
    write_text(folder / CARD, card(record, run, info))


def card(
    record: dict[str, Any], run: dict[str, Any], info: dict[str, Any]
) -> str:
    """The card of the model of a row's run. info: what its checkpoint.json says."""
    figures = {"this model": run["test"]}
    shown = shown_of(run["test"])
    for what, title in MEANS.items():
        entries = {name: record["test"][name][what] for name in shown}
        figures[title] = entries
    rows = [
        [name, *(f"{values[metric]:.4f}" for metric in shown)]
        for name, values in figures.items()
    ]
    return TEXT.format(
        **record,
        dataset=info["schema"]["name"],
        run=run,
        seeds=len(record["runs"]),
        items=info["num_items"],
        columns=", ".join(_columns_read(info)) or "none",
        figures=table_text(["", *shown], rows),
        minutes=run["seconds"] / 60,
    )


def _columns_read(info):
    """Names of the columns that a model reads; a text column only with --text_encoder."""
    settings = info["settings"]
    if settings["model"] == "vanilla":
        return []
    found = []
    for table, fields in info["fields"].items():
        flag = settings[f"{table.removesuffix('s')}_features"]
        for name, entry in fields.items():
            text = entry["column"]["kind"] == "text"
            unread = text and settings["text_encoder"] == "none"
            if not unread and (flag == "all" or name in names_of(flag)):
                found.append(name)
    return found
