"""What options are made of: numbers with their ranges, and the base of each room's options.

Enters: nothing. Leaves: the types that ``options.py`` and ``fetch_options.py`` are written with.
"""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _refuse_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not yes/no/true/false")
    return value


def _as_list(value: object) -> object:
    """One name stands for a list of one, null for none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


class NamedColumns(dict[str, str]):
    """Name → column; hashable, as all options are, because nobody changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


class NamedNumbers(dict[str, float]):
    """Name → number, hashable for the same reason."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


Count = Annotated[int, BeforeValidator(_refuse_boolean), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_refuse_boolean), Field(ge=0)]
Number = Annotated[float, BeforeValidator(_refuse_boolean), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_refuse_boolean), Field(ge=0, le=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
OneOrMoreNames = Annotated[Names, Field(min_length=1)]


class Options(BaseModel):
    """Base of all rooms' options: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
