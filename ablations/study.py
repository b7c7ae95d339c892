"""A study: one question, asked of several variants of one preset. Studies are data: `ablations/studies/*.yaml`.

    question: Which way to join what is known of a film pays?
    base: quick                      # a preset
    settings: {max_steps: 1500}      # changed for all
    variants:                        # the first is what the others are compared with
      sum: {}
      gate: {fusion: gate}
      gate, narrow: {fusion: gate, hidden_size: 32, against: gate}     # compared with another one
      pupil: {teacher: "{sum},{gate}"}                                 # follows models of other variants, same seed
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import parse_command_line
from data_processor import SequenceData
from item_encoders.text import available
from presets import PRESETS
from settings import BOOKKEEPING, Settings, all_fields, idle, model_only, unknown_name
from support.checkpoint import WEIGHTS
from support.devices import choose_device, uses_bf16
from support.errors import UserError
from support.yaml_file import read_yaml, refuse

FOLDER = Path(__file__).parent / "studies"
ROOT = Path(__file__).parent.parent
BESIDE = (*BOOKKEEPING, "teacher")  # settings that are not of a run's key; teachers count by their own keys
# What a result depends on beside settings and data; documents, tests, tables and ways to start a run do not count.
CODE = ("baselines/mean_ratings.py", "baselines/popularity.py",
        "batches.py", "bert4rec.py", "context.py", "data_processor.py", "enhanced_model.py", "losses.py",
        "model_io.py", "objectives.py", "settings.py", "splits.py", "trainer.py", "training_loop.py", "transformer.py",
        "views.py", "item_encoders/*.py", "readers/*.py", "support/devices.py", "evaluation/metrics.py",
        "evaluation/protocols.py", "evaluation/report.py", "evaluation/side_tasks.py")


@dataclass(frozen=True)
class Variant:
    """A named change. against: the variant that it is compared with, '' for the first one itself."""

    name: str
    settings: Settings
    changes: dict[str, Any]
    against: str
    needs: tuple[str, ...]  # the variants whose models it follows


@dataclass(frozen=True)
class Study:
    """See the module's head."""

    name: str
    question: str
    base: str
    common: dict[str, Any]  # changed for all variants
    variants: tuple[Variant, ...]

    def __getitem__(self, name: str) -> Variant:
        """The variant of that name. Raises `UserError` where there is none."""
        found = next((variant for variant in self.variants if variant.name == name), None)
        if found is None:
            raise UserError(f"study {self.name} has no variant {name!r}; it has "
                            f"{', '.join(repr(variant.name) for variant in self.variants)}")
        return found

    def only(self, names: Sequence[str]) -> Study:
        """The same with fewer variants: these, those that they are compared with, those whose models they follow."""
        kept, wanted = set(), list(names)
        while wanted:
            variant = self[wanted.pop()]
            kept.add(variant.name)
            wanted += [name for name in (variant.against, *variant.needs) if name and name not in kept]
        return dataclasses.replace(self, variants=tuple(variant for variant in self.variants if variant.name in kept))


def load_study(name: str, flags: list[str] | None = None) -> Study:
    """A study by name or by file, with trainer flags that hold for all its variants.

    Raises `UserError` naming file and line for an unknown setting, a wrong value, no variants, or two variants alike.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"there is no study {name!r}; there are {known}, or give a .yaml file")
    content, lines = read_yaml(path)
    question, variants = content.get("question", ""), content.get("variants")
    unknown = set(content) - {"question", "base", "settings", "variants"}
    if unknown:
        refuse(path, lines[(sorted(unknown)[0],)], f"unknown key {sorted(unknown)[0]!r}; a study has question, base, "
                                                    f"settings and variants")
    base, common = base_and_settings(path, content, lines)
    if not isinstance(variants, dict) or not variants:
        refuse(path, lines.get(("variants",), 1), "a study needs variants: lines of 'name: {setting: value}'")
    if not isinstance(question, str):
        refuse(path, lines[("question",)], "question: expected a sentence; quote it")
    found: list[Variant] = []
    parse_command_line(["--preset", base, *(flags or [])], "")  # what is wrong with the flags is not the file's fault
    checked_settings(path, lines, base, ("settings",), common, flags or [])
    for name_, changes in variants.items():
        if not name_.strip():
            refuse(path, lines[("variants", name_)], "a variant needs a name")
        if not isinstance(changes, dict | None):
            refuse(path, lines[("variants", name_)], f"variant {name_!r}: expected {{setting: value, ...}}")
        found.append(_variant(path, lines, base, name_, (common, changes or {}), found, flags or []))
    return Study(path.stem, question, base, common, tuple(found))


def _variant(path: Path, lines: dict[tuple, int], base: str, name: str, changes: tuple[dict[str, Any], dict[str, Any]],
             above: list[Variant], flags: list[str]) -> Variant:
    """A checked variant; changes: those for all and its own; above: the variants before it."""
    common, own = changes[0], dict(changes[1])
    line, known = lines[("variants", name)], [variant.name for variant in above]
    against = str(own.pop("against", known[0] if known else ""))
    if against and against not in known:
        refuse(path, line, f"variant {name!r} is compared with {against!r}, which is none of the variants above it")
    needs = tuple(re.findall(r"\{([^}]*)\}", str(own.get("teacher", ""))))
    if str(own.get("teacher", "")) != ",".join(f"{{{need}}}" for need in needs) or "teacher" in common:
        refuse(path, line, f"variant {name!r}: a teacher is another variant, as in teacher: \"{{{known[0]}}}\""
                if known else f"variant {name!r}: a teacher is a variant above it")
    for need in needs:
        if need not in known:
            refuse(path, line, f"variant {name!r} follows {need!r}, which is none of the variants above it")
    settings = checked_settings(path, lines, base, ("variants", name), {**common, **own}, flags)
    twin = next((variant for variant in above if (_told(variant.settings), variant.needs) == (_told(settings), needs)),
                None)
    if twin is not None:
        if flags and _told(checked_settings(path, lines, base, ("variants", name), {**common, **own}, [])) != _told(
                checked_settings(path, lines, base, ("variants", name), {**common, **twin.changes}, [])):
            raise UserError(f"study {path.stem}: with {' '.join(flags)} variants {twin.name!r} and {name!r} are alike")
        refuse(path, line, f"variants {twin.name!r} and {name!r} are alike")
    return Variant(name, settings, own, against, needs)


@functools.cache
def _told(settings: Settings) -> dict[str, Any]:
    """The settings that tell two variants apart: those that the model and the other settings leave in use."""
    values = settings.to_dict()
    unused = {name for name in values if name in BESIDE or idle(name, settings) is not None
              or model_only(name) not in (None, values["model"])}
    if values["max_steps"]:
        unused.add("max_epochs")
    return {name: value for name, value in values.items() if name not in unused}


def base_and_settings(path: Path, content: dict[str, Any], lines: dict[tuple, int]) -> tuple[str, dict[str, Any]]:
    """The preset that a file begins with, and what it changes for all."""
    base, common = str(content.get("base", "default")), content.get("settings")
    if base not in PRESETS:
        refuse(path, lines[("base",)], f"unknown preset {base!r}; there are {', '.join(PRESETS)}")
    if not isinstance(common, dict | None):
        refuse(path, lines[("settings",)], "settings: expected lines of 'name: value'")
    return base, common or {}


def checked_settings(path: Path, lines: dict[tuple, int], base: str, place: tuple, changes: dict[str, Any],
              flags: list[str]) -> Settings:
    """The settings that changes to a preset make, checked as the command line checks them."""
    arguments: dict[str, list[str]] = {}
    at = {name: lines.get((*place, name), lines.get(("settings", name), lines.get(place, 1))) for name in changes}
    for name, value in changes.items():
        if name not in all_fields():
            refuse(path, at[name], unknown_name("setting", name))
        if name in BOOKKEEPING or name == "seed":
            refuse(path, at[name], f"{name} is not for a study to change: give it as a flag, or --seeds")
        if isinstance(value, list | dict | None):
            refuse(path, at[name], f"{name}: expected one value")
        arguments[name] = [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else \
            [f"--{name}", str(value)]
    try:
        given = [argument for alone in arguments.values() for argument in alone]
        settings = parse_command_line(["--preset", base, *given, *flags], "")[0]
    except UserError as error:
        for name, alone in arguments.items():  # which of them is wrong by itself?
            try:
                parse_command_line(["--preset", base, *alone], "")
            except UserError as own:
                refuse(path, at[name], str(own))
        if flags:
            checked_settings(path, lines, base, place, changes, [])  # if the file is wrong without them too
            raise UserError(f"study {path.stem}, {place[-1]!r}: {error}") from error
        refuse(path, lines.get(place, 1), str(error))
    return settings.replace(title_encoder=available(settings.model.title_encoder))


@functools.cache
def code_version() -> str:
    """Hash of the code that results depend on, as it was when this process first asked: what it has imported."""
    digest = hashlib.sha256()
    for pattern in CODE:
        for file in sorted(ROOT.glob(pattern)):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def run_key(settings: Settings, data_hash: str, code: str, teachers: Sequence[str] = ()) -> str:
    """What makes two runs the same: settings, data, code, the keys of whom it follows, the weights that it starts from,
    and where it computes."""
    device = choose_device(settings.train.device)
    resolved = {**settings.to_dict(), "device": device.type, "precision": uses_bf16(settings.train.precision, device)}
    if settings.train.start_from and (weights := Path(settings.train.start_from) / WEIGHTS).exists():
        resolved["start_from"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    values = [(name, value) for name, value in sorted(resolved.items()) if name not in BESIDE]
    return hashlib.sha256(repr((values, data_hash, code, tuple(teachers))).encode()).hexdigest()[:16]


def data_hash(data: SequenceData) -> str:
    """Of the split, and of the titles, which it does not hold."""
    return data.split_hash + hashlib.sha256("\n".join(data.catalogue.titles).encode()).hexdigest()[:8]
