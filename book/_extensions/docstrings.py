"""The page Reference: a bar in a docstring, as in |r|, is no substitution of Sphinx; types have short names."""

import importlib
import inspect
import pkgutil
import re
import typing

import pydantic
from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

import memgen

MODULES = re.compile(r"~(?!memgen\.)(?:\w+\.)+|~")  # names within memgen stay whole: two modules may share a short one
ANYTHING_LIKE_AN_ARRAY = stringify_annotation(ArrayLike, "smart")  # numpy's union of a dozen types
ARRAY = re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(?:_ScalarT|(\w+))\]\]")
CODE = re.compile(r"(`+[^`]+`+)")  # stays as it is


def escape_bars(app: Sphinx, what: str, name: str, about: object, options: object, lines: list[str]) -> None:
    """Escape the bars of a docstring, in place."""
    for i, line in enumerate(lines):
        parts = CODE.split(line)
        lines[i] = "".join(part if CODE.fullmatch(part) else part.replace("|", r"\|") for part in parts)


def shorten(
    app: Sphinx, what: str, name: str, about: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Name types without their modules, where Sphinx would show its sign for that; settings without their limits."""
    if isinstance(about, type) and issubclass(about, pydantic.BaseModel):
        plain = typing.get_type_hints(about)
        fields = inspect.signature(about).parameters.values()
        parameters = [field.replace(annotation=plain.get(field.name, field.annotation)) for field in fields]
        signature = stringify_signature(inspect.Signature(parameters), unqualified_typehints=True)
    return _short(signature), _short(returned)


def skip_fields(app: Sphinx, what: str, name: str, about: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, of which Python says nothing but their numbers."""
    return True if (getattr(about, "__doc__", None) or "").startswith("Alias for field number") else None


def _short(text: str | None) -> str | None:
    """A signature, or what it returns, with types as one writes them."""
    if text is None:
        return None
    text = MODULES.sub("", text.replace(ANYTHING_LIKE_AN_ARRAY, "ArrayLike"))
    return ARRAY.sub(lambda found: f"NDArray[{found[1]}]" if found[1] else "NDArray", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Wait for the docstrings and signatures.

    Modules are imported here: Sphinx would import them as type checkers do, which pydantic's classes do not survive.
    """
    for module in pkgutil.walk_packages(memgen.__path__, "memgen."):
        importlib.import_module(module.name)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
