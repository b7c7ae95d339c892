"""The content of a model's `checkpoint.json`, checked before it is used."""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    FiniteFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from fields import Field
from support.errors import UserError


class Description(TypedDict):
    """All of it that programs read."""

    settings: dict[str, Any]
    schema: dict[str, Any]
    fields: dict[Literal["interactions", "items", "users"], dict[str, Field]]
    validation: dict[str, FiniteFloat]
    split_hash: StrictStr
    git_commit: StrictStr
    num_items: StrictInt
    files: dict[str, StrictStr]


ADAPTER = TypeAdapter(Description)
Fields = TypeAdapter(Description.__annotations__["fields"])


def check_description(folder: Path, info: dict[str, Any]) -> None:
    """Raise `UserError` if a checkpoint's description lacks something that a model needs."""
    if "fields" not in info:
        raise UserError(
            f"{folder} holds no catalogue: it is the state of a training run or a library "
            f"model, not a model for recommendation; give checkpoints/best"
        )
    try:
        ADAPTER.validate_python(info)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise damaged(folder, f"{place}: {fault['msg']}") from error


def damaged(folder: Path, reason: Any) -> UserError:
    """The error for an invalid description."""
    return UserError(
        f"{folder}: its description is damaged ({reason}); copy it again or train again"
    )
