"""Settings from outside: frozen, validated, unknown names refused, and every error one clear line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mechinterp.core.errors import ConfigError, suggest

_S = TypeVar("_S", bound="Settings")


class Settings(BaseModel):
    """Base of every configuration: keyword arguments in, a frozen and hashable value out.

    Raises:
        ConfigError: If a setting is unknown or has no meaning; names the setting, what came and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **settings: object) -> None:
        kind = type(self)
        for name, value in settings.items():
            # Files, seeds and torch's sizes know 64 bits; a longer number could not even be printed.
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ConfigError(f"{kind.__name__}: {name} is an integer of more than 64 bits")
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(f"{kind.__name__}: {explain(error, kind.model_fields)}") from None

    @classmethod
    def of(cls: type[_S], settings: Mapping[str, object]) -> _S:
        """The value with settings whose types nothing vouches for, say from a file."""
        return cls(**settings)


def explain(error: ValidationError, allowed: Iterable[str] = ()) -> str:
    """A validation error as one line.

    Args:
        error: What pydantic raised.
        allowed: Names of the settings that exist, to suggest from.
    """
    lines = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            lines.append(f"no setting '{name}'.{suggest(name, allowed)}")
        elif item["type"] == "missing":
            lines.append(f"setting '{name}' is missing")
        elif name:
            came = repr(item["input"])
            lines.append(f"{name}={came if len(came) < 60 else came[:57] + '...'}: {text}")
        else:
            lines.append(text)
    return "; ".join(lines)
