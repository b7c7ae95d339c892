"""Named settings: `--preset NAME` is `configs/NAME.yaml` on the defaults of settings.py."""

import functools
from pathlib import Path

from settings import Settings, model_only
from support.errors import UserError
from support.yaml_file import read_yaml

CONFIGS = Path(__file__).parent / "configs"
PRESETS = tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


@functools.cache
def preset_settings(preset: str, model: str = "enhanced") -> Settings:
    """Settings of a preset; values that only the other model reads are left out."""
    if preset not in PRESETS:
        raise UserError(
            f"unknown --preset {preset!r}; there are {', '.join(PRESETS)}"
        )
    values, _ = read_yaml(CONFIGS / f"{preset}.yaml")
    read = {
        name: values[name]
        for name in values
        if model_only(name) in (None, model)
    }
    return Settings().replace(**{**read, "model": model})
