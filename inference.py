"""Recommend items, with reasons: `python inference.py --user_id 123 --k 10`.

For a user of the data the history is taken from the data. For anybody else give ids, `--history
"260,1210"`, or names, `--history "The Matrix; Toy Story (1995)"`, and columns of the user, `--set
COLUMN=VALUE`. `--history ""` is a user without a history. All users at once: `--users all
--history_until test --output recs.parquet`. Ids are those of the data set.
"""

import functools
import json
import os
import sys
from pathlib import Path

from inference_flags import (
    ENDINGS,
    FILTERS,
    MANY_USERS,
    NOT_SIMILAR,
    ONE_USER,
    parser_of,
)
from support.arguments import names_of
from support.errors import UserError, require, run_command
from support.files import STREAMS
from support.tables import write_frame

# What takes seconds to import is imported where it is used, after the flags are read.

SHOWN = 5  # contributions of the history in JSON without --explain


def _vectors(engine, flags):
    from vectors import write_vectors

    users = None if flags.users == "all" else names_of(flags.users)
    requests = engine.requests(users, flags.history_until)
    for done, asked in write_vectors(engine, Path(flags.vectors), requests):
        print(
            f"vectors of {done:,} of {asked:,} users: {flags.vectors}",
            file=sys.stderr,
        )
    if engine.scorer.transitions is not None:
        print(
            "the item-to-item scores are not in the vectors", file=sys.stderr
        )


def _is_folder(output):
    return bool(output) and output.endswith(("/", os.sep))


def _many(engine, flags):
    from bulk import recommend_all

    if flags.vectors:
        _vectors(engine, flags)
    if not flags.output:
        return
    users = None if flags.users == "all" else names_of(flags.users)
    asked = len(engine.requests(users, flags.history_until))
    options = {
        "k": flags.k,
        "until": flags.history_until,
        "filter_seen": FILTERS[flags.filter_seen],
        "precision": flags.precision,
        "rank_by": flags.rank_by,
        "diversity": flags.diversity,
    }
    if _is_folder(flags.output):
        _folder(engine, flags, users, options)
        return
    table = recommend_all(engine, users, **options)
    with_all = int((table.groupby("user_id").size() == flags.k).sum())
    fewer = asked - with_all
    note = f"; {fewer} of them have fewer than {flags.k} left" if fewer else ""
    if flags.output in STREAMS:
        table.to_csv(sys.stdout, index=False)
    else:
        write_frame(Path(flags.output), table)
    print(
        f"{len(table):,} recommendations for {asked:,} users: {flags.output} "
        f"(histories until "
        f"{flags.history_until}, split {engine.info['split_hash']}){note}",
        file=sys.stderr if flags.output in STREAMS else sys.stdout,
    )


def _folder(engine, flags, users, options):
    from bulk import write_all

    spread = None
    if flags.ray:
        from support.ray_workers import spread_over

        spread = functools.partial(spread_over, address=flags.ray)
    for done, every in write_all(
        engine, Path(flags.output), users, spread, **options
    ):
        print(f"{done} of {every} files: {flags.output}", flush=True)


def _ids(engine, text):
    from item_search import find_items, listed

    items = engine.catalogue.items
    return find_items(items, engine.schema, listed(text))


def _similar(engine, flags):
    from explanations.tables import print_recommendations

    found = _ids(engine, flags.similar_to)
    require(len(found) == 1, "--similar_to: give one item, by id or name")
    items = engine.similar_items(found[0], flags.k, flags.where)
    if flags.json:
        _print_json(engine, _rows(items, None, False), None, "")
        return
    print(f"Like {engine.item(engine.catalogue.items.index(found)[0]).name}:")
    print_recommendations(items)


def _one(engine, flags):
    from profiles import time_note
    from queries import Query

    sequence = None
    if flags.history is not None:
        sequence = _ids(engine, flags.history)
    facts = dict(flags.set) or None
    history = engine.history(
        flags.user_id, sequence, flags.at, facts, flags.history_until
    )
    query = Query(
        history,
        flags.k,
        FILTERS[flags.filter_seen],
        flags.where,
        _ids(engine, flags.only) if flags.only is not None else None,
        _ids(engine, flags.without or ""),
        flags.rank_by,
        flags.diversity,
        flags.prefer_expected,
    )
    (items,) = engine.answer([query])
    if not items:
        raise UserError(
            f"no {engine.schema.noun} is left to recommend: loosen --where and --only, or give "
            f"--filter_seen no"
        )
    reasons = None
    if not flags.no_explain:
        ids = [item.id for item in items]
        reasons = engine.explanations(query, ids, in_full=flags.explain)
    profile = None
    if flags.user_id is not None:
        profile = engine.profile_of(history, flags.user_id)
    note = time_note(engine.knows_request_time, history.request_time, flags.at)
    if flags.json:
        rows = _rows(items, reasons, flags.explain)
        _print_json(engine, rows, profile, note)
        return
    _print_text(engine, flags, query, items, reasons, profile, note)


def _print_text(engine, flags, query, items, reasons, profile, note):
    from explanations.tables import (
        below_mean_line,
        chosen_line,
        print_reasons,
        print_recommendations,
        profile_line,
    )

    if profile:
        print(profile_line(engine.schema, profile))
    if flags.history is not None:
        names = [engine.item(row).name for row in query.history.items]
        print(f"History: {'; '.join(names) or 'none'}")
    if note:
        print(note)
    print_recommendations(items)
    by_next = flags.rank_by == "next" and flags.prefer_expected is None
    if profile and by_next:
        hint = below_mean_line(engine.schema, profile, items)
        if hint:
            print(hint)
    if flags.user_id is not None and flags.history_until != "end":
        held_out = engine.held_out(flags.user_id, flags.history_until)
        chosen = engine.place(query, held_out)
        print(chosen_line(chosen))
    if reasons is not None:
        print_reasons(engine.schema, reasons)


def _rows(items, reasons, in_full):
    """Recommendations, perhaps with their reasons, for JSON."""
    from answers import to_json

    if reasons is None:
        return to_json(items)
    rows = []
    for item, why in zip(items, reasons, strict=True):
        explanation = to_json(why)
        if not in_full:
            explanation["history"] = explanation["history"][:SHOWN]
        rows.append({**to_json(item), "explanation": explanation})
    return rows


def _print_json(engine, rows, profile, note):
    from answers import to_json

    content = {
        "profile": to_json(profile),
        "note": note,
        "data_note": engine.schema.note,
        "recommendations": rows,
    }
    # ASCII: any terminal can show it.
    print(json.dumps(content, indent=1))


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = parser_of(__doc__)
    flags = parser.parse_args(argv)
    if flags.users:
        foreign, word, answer = ONE_USER, "without --users", _many
    elif flags.similar_to is not None:
        foreign, word, answer = NOT_SIMILAR, "without --similar_to", _similar
    else:
        foreign, word, answer = MANY_USERS, "with --users", _one
    for name in foreign:
        require(
            getattr(flags, name) == parser.get_default(name),
            f"--{name} goes {word}",
        )
    require(
        flags.output or flags.vectors or not flags.users,
        "--users needs --output, e.g. --output recs.parquet, or --vectors FOLDER",
    )
    known = flags.output in STREAMS or _is_folder(flags.output)
    require(
        not flags.output or known or flags.output.endswith(ENDINGS),
        f"--output {flags.output}: give a file FILE.csv or FILE.parquet, or a folder FOLDER/",
    )
    require(
        not flags.ray or _is_folder(flags.output),
        "--ray needs --output FOLDER/, a folder that all machines see",
    )
    if sys.stderr.isatty():
        # For people who wait: importing and reading take seconds.
        print(f"loading {flags.model_path} ...", file=sys.stderr, flush=True)
    from engine import RecommendationEngine

    engine = RecommendationEngine(flags.model_path, flags.data_dir)
    answer(engine, flags)


if __name__ == "__main__":
    sys.exit(run_command(main))
