"""A study: one question and several variants of one preset. Studies are YAML files in
`ablations/studies/`.

    question: How deep should the model be?
    base: quick                      # a preset
    settings: {max_steps: 1500}      # changed for all
    variants:                        # compared with the first, or with `against`
      2 blocks: {}
      3 blocks: {num_layers: 3}
      3 blocks, narrow: {num_layers: 3, hidden_size: 32, against: 3 blocks}
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from command_line import check_names, settings_of, settings_parser
from dataset import Dataset
from presets import PRESETS
from schema import STRICT
from settings import BOOKKEEPING, Settings, idle
from support.arguments import names_of
from support.checkpoint import WEIGHTS
from support.devices import choose_device, uses_bf16
from support.errors import UserError, require
from support.yaml_file import read_yaml, refuse_at, validated

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "ablations" / "studies"
# What a result depends on beside settings and data; what explains, serves and shows results does
# not count.
CODE = (
    "*.py",
    "baselines/*.py",
    "evaluation/*.py",
    "readers/*.py",
    "storage/*.py",
    "support/*.py",
)
FIXED = (*BOOKKEEPING, "seed", "teacher", "start_from")
Changes = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A named change. against: the variant that it is compared with, '' for the first one
    itself."""

    name: str
    settings: Settings
    changes: Changes
    against: str


@checked(frozen=True, config=STRICT)
class StudyFile:
    """The content of a file."""

    variants: Annotated[dict[str, Changes | None], Field(min_length=1)]
    question: str = ""
    base: Literal[PRESETS] = "default"
    settings: Changes | None = None


@dataclass(frozen=True)
class Study:
    """See the module's head. common: what is changed for all variants."""

    name: str
    question: str
    base: str
    common: Changes
    variants: tuple[Variant, ...]


def load_study(name: str, flags: Sequence[str] = ()) -> Study:
    """A study by name or by file, with trainer flags that hold for all its variants.

    Raises `UserError` naming file and line for an unknown setting, a wrong value, no variants, or
    two variants alike.
    """
    path = _path(name)
    content, lines = read_yaml(path)
    keys = "a study has question, base, settings and variants"
    file = validated(StudyFile, content, path, lines, keys)
    common = file.settings or {}
    check_names(common, path, lines, "settings")
    # Wrong flags are not the file's fault.
    given = vars(settings_parser("").parse_args(list(flags)))
    settings_of(file.base, given)
    wrong = functools.partial(refuse_at, path, lines)
    variants: dict[str, Variant] = {}
    for variant, changes in file.variants.items():
        place = ("variants", variant)
        changes = dict(changes or {})
        against = str(changes.pop("against", next(iter(variants), "")))
        if against and against not in variants:
            wrong(place, f"against: there is no variant {against!r} above it")
        check_names(changes, path, lines, *place)
        places = {setting: ("settings", setting) for setting in common}
        places |= {setting: (*place, setting) for setting in changes}
        for setting in places.keys() & FIXED:
            wrong(places[setting], "give it as a flag (a seed: --seeds)")
        try:
            settings = settings_of(file.base, {**common, **changes, **given})
        except UserError as error:
            # Most of these messages begin with the flag.
            setting = str(error).split()[0].strip("-:")
            wrong(places.get(setting, place), str(error))
        for setting in changes:
            if needed := idle(setting, settings):
                wrong(places[setting], f"does nothing without {needed}")
        for other in variants.values():
            if _effective(other.settings) == _effective(settings):
                wrong(place, f"the same settings as {other.name!r}")
        variants[variant] = Variant(variant, settings, changes, against)
    return Study(
        path.stem, file.question, file.base, common, tuple(variants.values())
    )


def _effective(settings):
    """Settings without those that have no effect: with --max_steps, the epochs."""
    limited = settings.train.max_steps > 0
    return settings.replace(max_epochs=1) if limited else settings


def _path(name):
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = FOLDER / f"{name}.yaml"
    known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
    require(
        path.exists(),
        f"there is no study {name!r}; there are {known}, or give a .yaml file",
    )
    return path


@functools.cache
def code_version() -> str:
    """Hash of the code that results depend on, as it was when this process first asked."""
    files = [file for pattern in CODE for file in sorted(ROOT.glob(pattern))]
    return _hash(*(file.name.encode() + file.read_bytes() for file in files))


def run_key(settings: Settings, data: str, code: str) -> str:
    """Hash that is equal for equal runs: of settings, data, code, weights to start from or to
    follow, and device."""
    device = choose_device(settings.train.device)
    values = settings.recorded() | {
        "device": device.type,
        "precision": uses_bf16(settings.train.precision, device),
    }
    for name in ("start_from", "teacher"):
        for folder in names_of(values[name]):
            weights = Path(folder) / WEIGHTS
            if weights.exists():
                values[name] += _hash(weights.read_bytes())
    return _hash(repr((sorted(values.items()), data, code)).encode())


def data_hash(data: Dataset) -> str:
    """Hash of the split, of the schema, and of the texts."""
    schema = data.catalogue.schema.to_dict()
    texts = [json.dumps(schema, sort_keys=True)]
    texts += [
        str(values.tolist())
        for values in data.catalogue.items.data.values()
        if values.dtype == object
    ]
    return data.split_hash + _hash("\n".join(texts).encode())


def _hash(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
