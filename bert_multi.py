"""The next five items at once, for users unknown to training: `python bert_multi.py --size S`.

The protocol is `multi5` (splits.py). Ratings of 4 and 5 are implicit feedback. Users with at least
ten of them are split 70 / 15 / 15. The last five interactions of each held-out user are the
targets, so the best possible Recall@10 and NDCG@10 are 1. MovieLens 1M has 5,950 such users. The
reference report had 5,955, which no such bound gives: nine leave 5,984, six leave 6,028.

The report does not say which items were ranked. It claims

    size         S      M      L      XL
    Recall@10  .4102  .5978  .6369  .6386
    NDCG@10    .3531  .5378  .5712  .5618

So this prints the figures of a model among all items, among 100 drawn by popularity, and among 100
drawn uniformly, beside those of popularity.

Any flag of trainer.py may follow; `--resume` continues a stopped run.
"""

import sys
from pathlib import Path
from typing import Any

from baselines.popularity import Popularity
from data_processor import load
from evaluation.protocols import protocol_line, target_ranks
from evaluation.report import print_ranking, summarise
from model_io import load_model
from settings import EvalSettings, Settings
from support.arguments import ArgumentParser
from support.errors import run_command
from support.files import write_json
from trainer import asked_for, launch

CLAIMED = {
    "S": (0.4102, 0.3531),
    "M": (0.5978, 0.5378),
    "L": (0.6369, 0.5712),
    "XL": (0.6386, 0.5618),
}


def compare_candidates(settings: Settings) -> dict[str, dict[str, Any]]:
    """Test metrics of the trained model and of popularity for each set of candidates.
    """
    ranker = load_model(
        Path(settings.train.checkpoint_dir) / "best"
    ).model.frozen()
    data = load(settings.data)
    results = {}
    for candidates in ("full", "popular_100", "uniform_100"):
        evaluation = EvalSettings(candidates=candidates)
        rows = {}
        for name, one in (
            ("popularity", Popularity(data)),
            ("vanilla", ranker),
        ):
            rank = target_ranks(
                one, data, "test", settings.model.seq_length, evaluation
            )
            rows[name] = summarise(rank, data, "test")
        results[candidates] = {
            "protocol": protocol_line(data, "test", evaluation),
            "ranking": rows,
        }
    return results


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--size", choices=CLAIMED, default="S")
    flags, rest = parser.parse_known_args(argv)
    size = flags.size
    place = ["--checkpoint_dir", f"checkpoints/multi-{size}"]
    preset = ["--preset", f"multi-{size}", "--model", "vanilla"]
    if "--resume" in rest:
        preset = []
    # What stands later holds.
    settings, run, how = asked_for([*place, *preset, *rest], __doc__)
    launch(settings, run, how)
    results = compare_candidates(settings)
    for candidates, result in results.items():
        print_ranking(
            f"Size {size}, {candidates.replace('_', ' ')}",
            result["protocol"],
            result["ranking"],
        )
    recall, ndcg = CLAIMED[size]
    print(
        f"\nThe reference report claims Recall@10 {recall:.4f} and NDCG@10 {ndcg:.4f} for "
        f"size {size}."
    )
    write_json(
        Path(settings.train.checkpoint_dir) / "best" / "candidates.json",
        results,
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
