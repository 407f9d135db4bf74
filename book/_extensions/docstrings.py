"""The page Reference: a bar in a docstring, as in |r|, is no substitution of Sphinx; types have short names."""

import re

from sphinx.application import Sphinx

MODULES = re.compile(r"~(?!memgen\.)(?:\w+\.)+|~")  # names within memgen stay whole: two modules may share a short one
CODE = re.compile(r"(`+[^`]+`+)")  # stays as it is


def escape_bars(app: Sphinx, what: str, name: str, about: object, options: object, lines: list[str]) -> None:
    """Escape the bars of a docstring, in place."""
    for i, line in enumerate(lines):
        parts = CODE.split(line)
        lines[i] = "".join(part if CODE.fullmatch(part) else part.replace("|", r"\|") for part in parts)


def shorten(
    app: Sphinx, what: str, name: str, about: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Name types without their modules, where Sphinx would show its own sign for that."""
    return tuple(MODULES.sub("", text) if text else text for text in (signature, returned))  # type: ignore[return-value]


def setup(app: Sphinx) -> dict[str, bool]:
    """Wait for the docstrings and signatures."""
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
