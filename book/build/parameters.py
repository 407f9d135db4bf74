"""The parameters of a notebook: which it has, of which types, and whether those that it was given fit."""

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

from memgen.config import require

TYPES = {"str": str, "int": int, "float": int | float, "bool": bool}
WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


def declared(cell: str) -> dict[str, str]:
    """The name of each parameter's type in the source of a cell: as annotated, else that of the value."""
    kinds = {}
    for node in ast.parse(cell).body:
        if isinstance(node, ast.AnnAssign):
            kinds[ast.unparse(node.target)] = ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
            kinds[name] = "unknown"
            with contextlib.suppress(ValueError):  # no literal
                kinds[name] = type(ast.literal_eval(node.value)).__name__
    return kinds


def check(given: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """Refuse what papermill would take: names that are not :func:`declared`, and values of another type."""
    require(isinstance(given, Mapping), f"The parameters must be names with values, not {given!r}.")
    for name, value in given.items():
        require(name in kinds, f"The parameter {name!r} is unknown; this notebook has {', '.join(kinds) or 'none'}.")
        kind, types = kinds[name], ", ".join(TYPES)
        require(
            kind in TYPES, f"The parameter {name} has the type {kind}; let the notebook declare it as one of {types}."
        )
        fits = isinstance(value, TYPES[kind]) and isinstance(value, bool) == (kind == "bool")
        require(fits, f"The parameter {name} must be {WORDS[kind]}, not {value!r}.")
