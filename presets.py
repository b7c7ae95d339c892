"""Named settings: `--preset NAME` is `configs/NAME.yaml` on the defaults of settings.py."""

import functools
from pathlib import Path

from settings import Settings, model_only
from support.errors import UserError
from support.yaml_file import read_yaml

CONFIGS = Path(__file__).parent / "configs"
PRESETS = tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


@functools.cache
def preset_settings(preset: str, model: str | None = None) -> Settings:
    """Settings of a preset, for its own model or for another one; values that only the other model
    reads are left out."""
    if preset not in PRESETS:
        names = ", ".join(PRESETS)
        raise UserError(f"unknown --preset {preset!r}; there are {names}")
    values, _ = read_yaml(CONFIGS / f"{preset}.yaml")
    model = model or values.get("model", "enhanced")
    read = {}
    for name, value in values.items():
        if model_only(name) in (None, model):
            read[name] = value
    return Settings().replace(**{**read, "model": model})
