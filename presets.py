"""Named settings, `--preset NAME`: what changes of the defaults in settings.py."""

from typing import Any

from settings import Settings, model_only
from support.errors import UserError

# Chosen on the validation items of MovieLens 1M alone; ablations/LOG.md has the trials. The cloze
# task costs the next item more than it gives; with half of the sequences cut short an epoch reads
# .6.
_QUICK = dict(
    dropout=0.1,
    learning_rate=5e-3,
    max_epochs=45,
    max_minutes=9.5,
    eval_every=5,
    batch_size=512,
    batch_tokens=4096,
    masked_item_weight=0.0,
    masked_batch_share=0.1,
    start_token=True,
    late_start_share=0.5,
)
_MULTI = dict(
    protocol="multi5",
    keep="rating>=4",
    min_user_count=10,
    seq_length=200,
    dropout=0.2,
    learning_rate=3e-4,
    weight_decay=0.01,
    max_epochs=200,
    patience=10,
    mask_prob=0.2,
    batch_size=256,
)
PRESETS: dict[str, dict[str, Any]] = {
    "quick": _QUICK,
    # The same epochs, with time for a slower machine.
    "default": {**_QUICK, "max_minutes": 29.0},
    "original": dict(
        hidden_size=256,
        num_heads=4,
        num_layers=4,
        seq_length=50,
        dropout=0.2,
        batch_size=64,
        learning_rate=1e-4,
        max_epochs=100,
        patience=15,
    ),
    # Five next items at once (bert_multi.py).
    "multi-S": _MULTI,
    "multi-M": {**_MULTI, "hidden_size": 128},
    "multi-L": {**_MULTI, "hidden_size": 256, "mask_prob": 0.4, "batch_size": 128},
    "multi-XL": {
        **_MULTI,
        "hidden_size": 256,
        "num_layers": 4,
        "num_heads": 4,
        "mask_prob": 0.4,
        "batch_size": 128,
    },
}


def preset_settings(preset: str, model: str = "enhanced") -> Settings:
    """Settings of a preset; values that only the other model reads are left out."""
    if preset not in PRESETS:
        raise UserError(f"unknown --preset {preset!r}; there are {', '.join(PRESETS)}")
    values = PRESETS[preset]
    read = {name: values[name] for name in values if model_only(name) in (None, model)}
    return Settings().replace(model=model, **read)
