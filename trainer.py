"""Train a model and measure it: `python trainer.py --batch_size 128 --learning_rate 5e-4
--max_epochs 50`.

Selection is on the validation items alone; the test items are read once, at the end. Several
processes: `torchrun --nproc_per_node 2 trainer.py ...`, or workers of a Ray cluster, `--ray auto
--workers 2`, which go on when one of them dies. Ctrl-C saves; `--resume` continues. All flags:
--help, or settings.py. Own data: `--dataset clicks.csv`, or a YAML file with a schema
(datasets/README.md).
"""

import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import Derive, Launch, parse_command_line
from settings import Settings
from support.errors import require, run_command

if TYPE_CHECKING:
    from dataset import Dataset

# What takes seconds to import is imported where it is used, after the flags are read.


def asked_for(
    argv: list[str], description: str, derive: Derive | None = None
) -> tuple[Settings, Path | None, Launch]:
    """(settings, run to go on with, how to start it) of a command line; with --resume the
    settings are those of the stopped run. derive: as in `parse_command_line`."""
    settings, how = parse_command_line(argv, description, derive)
    if not how.resume:
        return settings, None, how
    from model_io import stored_settings
    from run_folder import RUN, newest_run
    from support.checkpoint import read_json

    place = Path(settings.train.checkpoint_dir)
    run = newest_run(place)
    require(run, f"--resume: {place} holds no stopped run to go on with")
    stored = stored_settings(run, read_json(run / RUN))
    return stored.replace(checkpoint_dir=str(place)), run, how


def launch(
    settings: Settings,
    run: Path | None,
    how: Launch,
    data: "Dataset | None" = None,
) -> None:
    """Train here, or in the workers of a Ray cluster if `how` names one (training_run.py)."""
    from training_run import train

    if not how.ray:
        train(settings, run, data)
        return
    from run_folder import new_run
    from starting import pinned
    from support.ray_cluster import cluster
    from support.ray_workers import run_together

    settings = pinned(settings)
    with cluster(how.ray, how.workers) as ray:
        run = run or new_run(Path(settings.train.checkpoint_dir), settings)
        work = functools.partial(train, settings, run)
        run_together(ray, work, how.workers, run)


@dataclass
class AutoPreset:
    """The preset `auto` of a command line, and the data that it has read for it."""

    data: "Dataset | None" = None
    values: dict[str, Any] = field(default_factory=dict)
    figures: str = ""

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Settings for the data of these settings."""
        from auto_preset import fitted
        from starting import starting_data, starting_shape

        self.data = starting_data(settings)
        self.values, self.figures = fitted(self.data)
        # What training goes on from has its shape already.
        return self.values | starting_shape(settings)

    def line(self, settings: Settings) -> str:
        """What was chosen, and by which figures, of the settings that are used."""
        from auto_preset import as_flags

        used = settings.to_dict()
        chosen = {
            name: value
            for name, value in self.values.items()
            if used[name] == value
        }
        return f"preset auto: {self.figures}: {as_flags(chosen)}"


def main(argv: list[str]) -> None:
    """See the module's head."""
    auto = AutoPreset()
    settings, run, how = asked_for(argv, __doc__, auto)
    if auto.data is not None:
        print(auto.line(settings), flush=True)
    launch(settings, run, how, auto.data)


if __name__ == "__main__":
    sys.exit(run_command(main))
