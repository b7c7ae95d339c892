"""The table that a study ends in: each variant beside the one it is compared with, on the same people and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ablations.study import Study, Variant
from evaluation.report import print_table, table_text
from evaluation.significance import Comparison, compare, holm, mark
from support.checkpoint import read_json, write_json
from support.errors import UserError

METRIC = "NDCG@10"
HEADER = ["variant", "runs", f"validation\n{METRIC}", f"test\n{METRIC}", "against", "validation\ndifference",
          "test\ndifference", "s an\nepoch", "parameters"]
Folders = Mapping[tuple[str, int], Path]  # (variant, seed) -> folder of a finished run


def write_report(study: Study, folders: Folders, failed: list[str], flags: list[str], place: Path) -> None:
    """Print the table and write `report.md` and `runs.json` (each run's figures, no user data) to a folder.

    flags: what was changed for all variants on the command line.

    Raises `UserError` if no run of the study is finished.
    """
    if not folders:
        raise UserError(f"{study.name}: no run came to its end; mend this and start it again: {'; '.join(failed)}")
    results = {run: read_json(folder / "best" / "results.json") for run, folder in folders.items()}
    note, rows = table(study, folders, results)
    print_table(study.question, note, HEADER, rows)
    for line in failed:
        print("failed:", line)
    place.mkdir(parents=True, exist_ok=True)
    lines = [f"# {study.name}", "", study.question, "", note, "", table_text(HEADER, rows)]
    lines += ["", "Failed:", "", *(f"- {line}" for line in failed)] if failed else []
    (place / "report.md").write_text("\n".join(lines), encoding="utf-8")
    write_json(place / "runs.json", {
        "study": study.name, "base": study.base, "settings": study.common, "flags": flags,
        "protocol": _protocol(results), "variants": {
            variant.name: {**variant.changes, "against": variant.against} for variant in study.variants},
        "runs": [{"variant": name, "seed": seed, "validation": result["best"][METRIC],
                  "test": {metric: entry["mean"] for metric, entry in _ranking(result).items()},
                  **{key: result[key] for key in ("epochs", "steps", "training_seconds", "parameters",
                                                  "peak_memory_mb", "git_commit", "split_hash")}}
                 for (name, seed), result in results.items()]})


def table(study: Study, folders: Folders, results: Mapping[tuple[str, int], dict[str, Any]]
          ) -> tuple[str, list[list[str]]]:
    """(what it means, rows): the first variant, then the others by their gain on validation."""
    done = [variant for variant in study.variants if any(name == variant.name for name, _ in folders)]
    tests = {variant.name: _compared(study, variant, folders, results) for variant in done}
    tests = {name: test for name, test in tests.items() if test is not None}
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    lines = []
    for variant in done:
        own = {seed: results[name, seed] for name, seed in folders if name == variant.name}
        values = [[result["best"][METRIC] for result in own.values()],
                  [_ranking(result)[METRIC]["mean"] for result in own.values()]]
        cells = [f"{np.mean(value):.4f}" + (f"\n±{np.std(value, ddof=1):.4f}" if len(value) > 1 else "")
                 for value in values]
        gain, differences = float("inf" if variant is study.variants[0] else "-inf"), ["", ""]
        if variant.name in tests:
            test = tests[variant.name]
            gain = float(np.mean([result["best"][METRIC] - results[variant.against, seed]["best"][METRIC]
                                  for seed, result in own.items() if (variant.against, seed) in results]))
            differences = [f"{gain:+.4f}", f"{test.difference:+.4f}{mark(corrected[variant.name])}\n"
                                           f"{test.low:+.4f} to {test.high:+.4f}"]
        seconds = np.mean([result["training_seconds"] / result["epochs"] for result in own.values()])
        lines.append((-gain, [variant.name, str(len(own)), *cells, variant.against, *differences, f"{seconds:.1f}",
                              f"{next(iter(own.values()))['parameters']:,}"]))
    rows = [cells for _, cells in sorted(lines, key=lambda line: line[0])]
    note = (f"{_protocol(results)}. ± standard deviation over seeds; difference to the variant named, on the same "
            f"people and seeds: 95 % paired bootstrap interval and randomisation test over people, Holm, * .05 ** .01 "
            f"*** .001 (none where the two were asked something else); sorted by the gain on validation; seconds of "
            f"training and validation an epoch")
    return note, rows


def _compared(study: Study, variant: Variant, folders: Folders,
              results: Mapping[tuple[str, int], dict[str, Any]]) -> Comparison | None:
    """Paired comparison on the seeds that both variants have.

    None for the first variant, where there are no such seeds, and where the two were not asked the same.
    """
    seeds = [seed for name, seed in folders if name == variant.name and (variant.against, seed) in folders]
    splits = {results[name, seed]["split_hash"] for name in (variant.name, variant.against) for seed in seeds}
    if len(splits) != 1 or variant.settings.eval != study[variant.against].settings.eval:
        return None
    ours, theirs = ([_per_person(folders[name, seed]) for seed in seeds] for name in (variant.name, variant.against))
    return compare(np.stack(ours), np.stack(theirs))


def _per_person(folder: Path) -> np.ndarray:
    """(P,) the metric of each person, in the order of their ids; one split asks the same ones."""
    import pandas as pd

    frame = pd.read_parquet(folder / "best" / "test_users.parquet", columns=["user_id", METRIC])
    return frame.groupby("user_id")[METRIC].mean().to_numpy()


def _ranking(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Test metrics of the model of a run, not of popularity beside it."""
    return next(ranking for name, ranking in result["ranking"].items() if name != "popularity")


def _protocol(results: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(result["protocol"] for result in results.values()))
