"""Score exported lists from the raw file alone; nothing here imports this project.

    python inference.py --model_path models/enhanced --users all --history_until test \\
        --output lists.csv
    python benchmarks/score_lists.py lists.csv ml-1m/ratings.dat

A user's target is the last interaction by time, of equal times the last in the file. Users without
a list count as misses.
"""

import argparse
import csv
import math
from collections import Counter, defaultdict


def targets(path: str, fewest: int) -> dict[str, str]:
    """User -> the last item of MovieLens' ratings.dat, items with fewer interactions left out."""
    with open(path, encoding="latin-1") as lines:
        rows = [line.rstrip("\n").split("::") for line in lines]
    counts = Counter(item for _, item, _, _ in rows)
    rows = [row for row in rows if counts[row[1]] >= fewest]
    # Stable: equal times stay as in the file.
    rows.sort(key=lambda row: int(row[3]))
    return {user: item for user, item, _, _ in rows}


def lists(path: str) -> dict[str, list[str]]:
    """User -> items, best first, of a CSV with the columns user_id, item_id and rank."""
    ranked = defaultdict(list)
    with open(path, encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            ranked[row["user_id"]].append((int(row["rank"]), row["item_id"]))
    return {
        user: [item for _, item in sorted(found)]
        for user, found in ranked.items()
    }


def main() -> None:
    """Print HR and NDCG at the length of the lists."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lists", help="CSV that inference.py --output wrote")
    parser.add_argument("ratings", help="ratings.dat of MovieLens 1M")
    parser.add_argument(
        "--min_item_count", type=int, default=1, help="as in training"
    )
    flags = parser.parse_args()
    try:
        ranked = lists(flags.lists)
    except (OSError, KeyError, ValueError) as error:
        parser.error(
            f"{flags.lists}: no CSV with user_id, item_id, rank ({error})"
        )
    try:
        wanted = targets(flags.ratings, flags.min_item_count)
    except (OSError, ValueError) as error:
        parser.error(f"{flags.ratings}: no ratings.dat ({error})")
    if not ranked or not wanted:
        parser.error("the lists or the ratings are empty")
    length = max(map(len, ranked.values()))
    hits, gain = 0, 0.0
    for user, item in wanted.items():
        found = ranked.get(user, [])
        if item in found:
            hits += 1
            gain += 1 / math.log2(2 + found.index(item))
    print(
        f"{len(wanted):,} users: HR@{length} {hits / len(wanted):.4f}, "
        f"NDCG@{length} {gain / len(wanted):.4f}"
    )


if __name__ == "__main__":
    main()
