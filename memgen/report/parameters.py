"""The parameters of a stage notebook: which exist, of which types, and whether what came in fits.

papermill accepts any parameter name and any type. It inserts a cell after the notebook's own parameters cell;
both are found in IPython's history of inputs. In Jupyter there is no inserted cell, and in a script no
history: then the annotations of the module say which parameters there are.
"""

import ast
from collections.abc import Mapping
from typing import Any

from memgen.config import InputError

TYPES = {"str": str, "int": int, "float": float, "bool": bool}
WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "True or False"}
INJECTED = "# Parameters"  # the first line of the cell that papermill inserts
MARK = {"profile", "results"}  # annotated in the parameters cell of every stage


def read(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the notebook whose `globals()` is `namespace`, checked.

    Raises
    ------
    InputError
        For a name that the notebook does not have, a value of a wrong type, or a negative number.
    """
    declared, injected = _declared(namespace)
    for name in injected:
        if name not in declared:
            raise InputError(f"The parameter {name!r} is unknown; this notebook has {', '.join(declared)}.")
    parameters = {name: namespace[name] for name in declared}
    for name, kind in declared.items():
        if kind not in TYPES:
            raise ValueError(f"the parameter {name} must be annotated with one of {', '.join(TYPES)}, not {kind}.")
        value = parameters[name]
        fits = type(value) is TYPES[kind] or (kind == "float" and type(value) is int)
        if not fits:
            raise InputError(f"The parameter {name} must be {WORDS[kind]}, not {value!r}.")
        if kind in ("int", "float") and not value >= 0:
            raise InputError(f"The parameter {name} must be 0 or more, not {value!r}.")
    return parameters


def _declared(namespace: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Find each declared parameter's type, and the names that papermill assigned."""
    history = [str(source) for source in namespace.get("In", ())]
    for index in reversed(range(len(history))):
        declared = _annotated(history[index])
        if declared.keys() >= MARK:
            later = [source for source in history[index + 1 :] if source.lstrip().startswith(INJECTED)]
            return declared, [name for source in later[-1:] for name in _assigned(source)]
    annotations = namespace.get("__annotations__", {})
    declared = {name: getattr(kind, "__name__", str(kind)) for name, kind in annotations.items()}
    if not declared.keys() >= MARK:
        raise ValueError("the notebook's parameters cell must annotate its parameters, such as `profile: str = ...`.")
    return {name: kind for name, kind in declared.items() if kind in TYPES}, []


def _body(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell with IPython's own syntax, such as a magic
        return []


def _annotated(source: str) -> dict[str, str]:
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in _body(source)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _assigned(source: str) -> list[str]:
    targets = [target for line in _body(source) if isinstance(line, ast.Assign) for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
