"""Are the published figures those of the results and of the shipped models? `make verify`

Nothing is trained. A line says PASS, FAIL or SKIPPED for each of:

    cards     models/NAME/README.md is what results/ gives
    boards    results/BOARD/table.md is what the records beside it give; where a row's metric of
              each user is not kept, without its tests
    studies   the pages of results/STUDY/ are what runs.json beside them gives
    pages     figures of the tables in README.md and docs/results.md are those of the records
    models    each shipped model ranks its test items as reported. This needs the very copy of
              MovieLens 1M that it was trained on (docs/protocols.md)

Exit code 1 if one fails.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablations.boards import BOARDS, ROWS, reported, table
from ablations.pages import drawn
from ablations.publishing import CARD, card
from evaluation.metrics import per_user
from evaluation.protocols import target_ranks
from model_io import data_of, load_model
from settings import EvalSettings
from support.arguments import ArgumentParser
from support.checkpoint import INFO, read_json
from support.errors import UserError, run_command
from support.tables import table_text

ROOT = Path(__file__).resolve().parent.parent
MODELS, RESULTS = ROOT / "models", ROOT / "results"
PAGES = ("README.md", "docs/results.md")
MAIN = "loo-3706"  # the board of a table whose columns are metrics
NEAR = 2e-4  # of a metric; another processor rounds otherwise
BOTH = ("HR@10", "NDCG@10")
# What columns of a page are called there.
COLUMNS = {name: name for name in ("HR@1", "HR@5", *BOTH, "NDCG@5", "MRR")}
COLUMNS |= {
    "all users": "NDCG@10",
    "different timestamp": "NDCG@10, different timestamp",
    "same timestamp": "NDCG@10, same timestamp",
}
# How rows of a page begin there.
LABELS = {
    "popularity": "popularity",
    "recent popularity": "recent_popularity",
    "ItemKNN": "item_knn",
    "EASE": "ease",
    "Markov chain": "markov_chain",
    "Sequential Rules": "sequential_rules",
    "PCTM": "pctm",
    "vanilla BERT4Rec": "vanilla",
    "SASRec": "sasrec",
    "enhanced": "enhanced",
}
Records = dict[str, dict[str, Any]]


class Check(NamedTuple):
    """What was looked at, whether it is right (None: not known), and why not."""

    what: str
    right: bool | None
    why: str = ""


def cards(records: dict[str, Records]) -> Iterator[Check]:
    """The cards of the shipped models."""
    for folder in _models():
        info = read_json(folder / INFO)
        record, run = _run_of(folder.name, info, records)
        if run is None:
            yield Check(f"{folder.name}: card", False, "no such row or seed")
            continue
        text = (folder / CARD).read_text(encoding="utf-8")
        same = text == card(record, run, info)
        yield Check(f"{folder.name}: card", same, "differs from results/")


def boards(folder: Path) -> Iterator[Check]:
    """The tables of a board against its records."""
    what = f"{folder.name}: table.md"
    found = list(_tables((folder / "table.md").read_text(encoding="utf-8")))
    (header, published), *_ = found
    split = next(iter(reported(folder, "")[0].values()))["split_hash"]
    records, values = reported(folder, split)
    _, columns, rows = table(records, values)
    # As they come out of a file.
    ((drawn_header, drawn),) = _tables(table_text(columns, rows))
    missing = {*ROWS[folder.name]} - {_name(label) for label in published}
    yield Check(f"{what}: rows", not missing, f"lacks {', '.join(missing)}")
    tested = header == drawn_header
    for label, cells in drawn.items():
        if label not in published:
            continue
        given = dict(zip(header, published[label], strict=True))
        wanted = dict(zip(drawn_header, cells, strict=True))
        wrong = [
            f"{name} {given.get(name)}, found {cell}"
            for name, cell in wanted.items()
            if (tested or not name.startswith("vs")) and given[name] != cell
        ]
        yield Check(f"{what}: {label}", not wrong, "; ".join(wrong))
    if not tested:
        why = "of some rows the metric of each user is not kept"
        yield Check(f"{what}: tests", None, why)


def studies(results: Path) -> Iterator[Check]:
    """The pages of all studies, and their index."""
    for path, text in drawn(results):
        name = path.relative_to(results)
        same = path.exists() and path.read_text(encoding="utf-8") == text
        again = "differs from runs.json; python -m ablations.pages results draws it"
        yield Check(f"{name}: page", same, again)


def pages(path: Path, records: dict[str, Records]) -> Iterator[Check]:
    """The tables of a page whose rows and columns have names of LABELS and COLUMNS, or boards as
    columns."""
    text = path.read_text(encoding="utf-8")
    for header, rows in _tables(text):
        for label, cells in rows.items():
            row = _row_of(label)
            if row is None:
                continue
            wanted = _figures(header, row, records)
            pairs = zip(header, cells, strict=True)
            given = {name: _numbers(cell) for name, cell in pairs}
            wrong = [
                f"{name} {' / '.join(given[name])}, found {' / '.join(figures)}"
                for name, figures in wanted.items()
                if given[name] != figures
            ]
            if wanted:
                what = f"{path.name}: {row}, {', '.join(wanted)}"
                yield Check(what, not wrong, "; ".join(wrong))


def models(
    records: dict[str, Records], names: Sequence[str] = ()
) -> Iterator[Check]:
    """The shipped models, or some, on the data at hand."""
    for folder in _models():
        if names and folder.name not in names:
            continue
        what = f"{folder.name}: ranks as reported"
        try:
            checkpoint = load_model(folder)
            data = data_of(checkpoint, folder)
        except UserError as error:
            yield Check(what, None, str(error))
            continue
        _, run = _run_of(folder.name, checkpoint.info, records)
        rank = target_ranks(
            checkpoint.model.frozen(),
            data,
            "test",
            checkpoint.settings.model.seq_length,
            EvalSettings(),
        )
        found = per_user(rank, data.split.requests["test"].users)
        wrong = [
            f"{metric} {run['test'][metric]:.4f}, found {found[metric].mean():.4f}"
            for metric in BOTH
            if abs(found[metric].mean() - run["test"][metric]) > NEAR
        ]
        yield Check(what, not wrong, "; ".join(wrong))


def _name(label):
    """The row of a label of table.md, 'timed, told the request time'."""
    return label.partition(",")[0]


def _models():
    return sorted(path.parent for path in MODELS.glob(f"*/{INFO}"))


def _run_of(row, info, records):
    """(record, run) of the seed of a shipped model on its board; (None, None) without one."""
    for of_board in records.values():
        record = of_board.get(row)
        if record and record["split_hash"] == info["split_hash"]:
            for run in record["runs"]:
                if run["seed"] == info["settings"]["seed"]:
                    return record, run
    return None, None


def _tables(text):
    """(header, label -> cells) of each table of a Markdown text."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        header, _, *rows = (
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
        )
        yield header[1:], {first: cells for first, *cells in rows}


def _row_of(label):
    """The row of results/ that a page calls so."""
    label = label.replace("*", "").strip("` ")
    name = re.split(r"[,:]", label)[0]
    return LABELS.get(name)


def _numbers(cell):
    """The figures of a cell, as '.2275', without intervals and deviations."""
    first = cell.replace("*", "").split("<br>")[0]
    return re.findall(r"(?<![±\d.-])\.\d{4}", first)


def _figures(header, row, records):
    """Column -> figures that the records give for a row, of the columns that are known."""
    wanted = {}
    for name in header:
        board = name.strip("`")
        if board in BOARDS:
            test = records[board][row]["test"]
            wanted[name] = [test[metric]["mean"] for metric in BOTH]
        elif name in COLUMNS and row in records[MAIN]:
            entry = records[MAIN][row]["test"][COLUMNS[name]]
            wanted[name] = [entry["mean"]]
    return {
        name: [f"{figure:.4f}".lstrip("0") for figure in figures]
        for name, figures in wanted.items()
    }


def checks() -> Iterator[Check]:
    """All of them."""
    records = {board: reported(RESULTS / board, "")[0] for board in ROWS}
    yield from cards(records)
    for board in ROWS:
        yield from boards(RESULTS / board)
    yield from studies(RESULTS)
    for page in PAGES:
        yield from pages(ROOT / page, records)
    yield from models(records)


def main(argv: list[str]) -> int:
    """See the module's head."""
    ArgumentParser(__doc__).parse_args(argv)
    failed = 0
    for check in checks():
        outcome = {True: "PASS", False: "FAIL", None: "SKIPPED"}[check.right]
        why = "" if check.right else f": {check.why}"
        print(f"{outcome}  {check.what}{why}", flush=True)
        failed += check.right is False
    print(f"{failed} failed" if failed else "nothing failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(run_command(main))
