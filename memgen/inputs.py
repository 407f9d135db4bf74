"""What users give: settings by name, made into dataclasses, and the one error for what is wrong with them."""

import dataclasses
import math
from typing import Any


class InputError(ValueError):
    """A wrong input, in one sentence for the user."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the sentence alone, without a traceback."""
        return [f"InputError: {self}"]


def require(condition: bool, sentence: str) -> None:
    """Raise an :class:`InputError` that says `sentence` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def build(cls: type, values: dict[str, Any] | None, what: str) -> Any:
    """Make the dataclass `cls` from a mapping; an unknown name or a wrong type is an :class:`InputError`."""
    require(values is None or isinstance(values, dict), f"{what} must be settings by name, not {values!r}.")
    values = dict(values or {})
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name, value in values.items():
        require(name in fields, f"{what} has no setting {name!r}; it has {', '.join(fields)}.")
        default = fields[name].default
        if isinstance(default, tuple):
            is_list = isinstance(value, list | tuple) and all(map(_is_number, value))
            require(is_list, f"{what}: {name} must be a list of numbers, not {value!r}.")
            values[name] = tuple(value)
        elif isinstance(default, float):
            require(_is_number(value), f"{what}: {name} must be a number, not {value!r}.")
            values[name] = float(value)
        elif default is not dataclasses.MISSING:
            require(
                type(value) is type(default),
                f"{what}: {name} must be of type {type(default).__name__}, not {value!r}.",
            )
    return cls(**values)
