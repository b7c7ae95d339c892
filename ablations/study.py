"""A study: one question, asked of several variants of one preset. Studies are data:
`ablations/studies/*.yaml`.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import settings_of, settings_parser
from dataset import Dataset
from presets import PRESETS
from settings import (
    BOOKKEEPING,
    FIELDS,
    Settings,
    idle,
    model_only,
    unknown_name,
)
from support.checkpoint import WEIGHTS
from support.devices import choose_device, uses_bf16
from support.errors import UserError
from support.yaml_file import read_yaml, refuse

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "ablations" / "studies"
KEYS = ("question", "base", "settings", "variants")
# What a result depends on beside settings and data; what explains, serves and shows results does
# not count.
CODE = (
    "*.py",
    "baselines/*.py",
    "evaluation/*.py",
    "readers/*.py",
    "support/*.py",
)
Lines = dict[tuple[str, ...], int]


@dataclass(frozen=True)
class Variant:
    """A named change. against: the variant that it is compared with, '' for the first one
    itself."""

    name: str
    settings: Settings
    changes: dict[str, Any]
    against: str


@dataclass(frozen=True)
class Study:
    """See the module's head. common: what is changed for all variants."""

    name: str
    question: str
    base: str
    common: dict[str, Any]
    variants: tuple[Variant, ...]


def load_study(name: str, flags: Sequence[str] = ()) -> Study:
    """A study by name or by file, with trainer flags that hold for all its variants.

    Raises `UserError` naming file and line for an unknown setting, a wrong value, no variants, or
    two variants alike.
    """
    path = (
        Path(name)
        if name.endswith((".yaml", ".yml"))
        else FOLDER / f"{name}.yaml"
    )
    content, lines = _content(path)
    base, common = content["base"], content["settings"]
    # Wrong flags are not the file's fault.
    given = vars(settings_parser("").parse_args(list(flags)))
    settings_of(base, given)
    found: list[Variant] = []
    for variant, changes in content["variants"].items():
        place = ("variants", variant)
        if not isinstance(changes, dict | None):
            refuse(
                path,
                lines[place],
                f"variant {variant!r}: expected {{setting: value, ...}}",
            )
        own = dict(changes or {})
        against = _reference(own, found, path, lines[place])
        settings = _checked(path, lines, base, place, {**common, **own}, given)
        for other in found:
            if _in_use(other.settings) == _in_use(settings):
                problem = f"variants {other.name!r} and {variant!r} are alike"
                refuse(path, lines[place], problem)
        found.append(Variant(variant, settings, own, against))
    return Study(path.stem, content["question"], base, common, tuple(found))


def _content(path: Path) -> tuple[dict[str, Any], Lines]:
    """What a study's file says, every key there, and the lines of its names."""
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(
            f"there is no study {path.stem!r}; there are {known}, or give a .yaml file"
        )
    content, lines = read_yaml(path)
    for key in content:
        if key not in KEYS:
            problem = f"unknown key {key!r}; a study has {', '.join(KEYS)}"
            refuse(path, lines[(key,)], problem)
    base = content.get("base", "default")
    if base not in PRESETS:
        problem = f"unknown preset {base!r}; there are {', '.join(PRESETS)}"
        refuse(path, lines[("base",)], problem)
    common = content.get("settings") or {}
    if not isinstance(common, dict):
        problem = "settings: expected lines of 'name: value'"
        refuse(path, lines[("settings",)], problem)
    variants = content.get("variants")
    if not isinstance(variants, dict) or not variants:
        problem = "a study needs variants: lines of 'name: {setting: value}'"
        refuse(path, lines.get(("variants",), 1), problem)
    whole = {"question": "", **content, "base": base, "settings": common}
    return whole, lines


def _reference(
    own: dict[str, Any], found: list[Variant], path: Path, line: int
) -> str:
    """What a variant is compared with: the first one, unless it says `against`, taken out here."""
    names = [other.name for other in found]
    against = str(own.pop("against", names[0] if names else ""))
    if against and against not in names:
        refuse(
            path,
            line,
            f"compared with {against!r}, which is none of the variants above it",
        )
    return against


@functools.cache
def _in_use(settings: Settings) -> dict[str, Any]:
    """The settings that tell two variants apart: those that the model and the other settings
    leave in use.
    """
    values = settings.to_dict()
    unused = {
        name
        for name in values
        if name in BOOKKEEPING
        or idle(name, settings) is not None
        or model_only(name) not in (None, values["model"])
    }
    if values["max_steps"]:
        unused.add("max_epochs")
    return {
        name: value for name, value in values.items() if name not in unused
    }


def _checked(
    path: Path,
    lines: Lines,
    base: str,
    place: tuple[str, ...],
    changes: dict[str, Any],
    flags: dict[str, Any],
) -> Settings:
    """The settings that changes to a preset make, checked as the command line checks them."""
    at = {}
    for name, value in changes.items():
        at[name] = (
            lines.get((*place, name))
            or lines.get(("settings", name))
            or lines.get(place, 1)
        )
        if name not in FIELDS:
            refuse(path, at[name], unknown_name("setting", name))
        if name in BOOKKEEPING or name in ("seed", "teacher", "start_from"):
            refuse(
                path,
                at[name],
                f"{name} is not for a study to change: give it as a flag, or --seeds",
            )
        if isinstance(value, list | dict | None):
            refuse(path, at[name], f"{name}: expected one value")
    try:
        settings = settings_of(base, {**changes, **flags})
    except UserError as error:
        for (
            name,
            value,
        ) in changes.items():  # which of them is wrong by itself?
            try:
                settings_of(base, {name: value})
            except UserError as own:
                refuse(path, at[name], str(own))
        refuse(path, lines.get(place, 1), str(error))
    return settings


@functools.cache
def code_version() -> str:
    """Hash of the code that results depend on, as it was when this process first asked."""
    digest = hashlib.sha256()
    for pattern in CODE:
        for file in sorted(ROOT.glob(pattern)):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def run_key(settings: Settings, data: str, code: str) -> str:
    """What makes two runs the same: settings, data, code, the weights that it starts from or
    follows, and where it computes."""
    device = choose_device(settings.train.device)
    values = {
        **settings.to_dict(),
        "device": device.type,
        "precision": uses_bf16(settings.train.precision, device),
    }
    for name in ("start_from", "teacher"):
        for folder in values[name].split(","):
            weights = Path(folder) / WEIGHTS
            if folder and weights.exists():
                values[name] += hashlib.sha256(
                    weights.read_bytes()
                ).hexdigest()
    told = [
        (name, value)
        for name, value in sorted(values.items())
        if name not in BOOKKEEPING
    ]
    return hashlib.sha256(repr((told, data, code)).encode()).hexdigest()[:16]


def data_hash(data: Dataset) -> str:
    """Of the split, and of the texts, which it does not hold."""
    texts = [
        str(values.tolist())
        for values in data.catalogue.items.data.values()
        if values.dtype == object
    ]
    return (
        data.split_hash
        + hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    )
