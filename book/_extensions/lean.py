"""What serves no reader is left out of the built book: source maps, translations, old fonts, icons, a wrong role."""

import re
from pathlib import Path

import nbformat
from sphinx.application import Sphinx

LEFT_OUT = ("*.map", "*.po", "*.pot", "*.mo", "*.ttf")  # of fonts, .woff2 is there, too
ICONS = "scripts/fontawesome.js"  # two thousand, of which the book shows about twenty
# An icon in that script: its name, width, height, other names, place in the font, and outlines.
ICON = re.compile(
    r'"?(?P<name>[a-z0-9-]+)"?:\[\d+,\d+,\[(?P<others>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*"(?:,"[^"]*")*\])\],?'
)
FIGURE = '<figure class="memgen"'  # as the notebooks show figures and tables
CLASS = re.compile(r"\bfa-([a-z0-9-]+)")


def remove(app: Sphinx, exception: Exception | None) -> None:
    """Remove such files from a finished book, and the icons that none of its pages and scripts names."""
    if exception is not None or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    for pattern in LEFT_OUT:
        for path in static.rglob(pattern):
            path.unlink()
    script = static / ICONS
    readers = [path for suffix in ("html", "js") for path in Path(app.outdir).rglob(f"*.{suffix}") if path != script]
    used = {name for path in readers for name in CLASS.findall(path.read_text(encoding="utf-8"))}
    script.write_text(only(script.read_text(encoding="utf-8"), used), encoding="utf-8")
    for path in Path(app.outdir, "_sources").rglob("*.ipynb"):
        lighten(path)


def lighten(path: Path) -> None:
    """Leave a figure's words in a notebook for download: its files stay with the book, and running draws it anew."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if FIGURE in output.get("data", {}).get("text/html", ""):
                del output["data"]["text/html"]
    nbformat.write(notebook, path)


def only(script: str, used: set[str]) -> str:
    """The script with the icons that go by one of the names."""

    def kept(icon: re.Match[str]) -> str:
        return icon[0] if used & {icon["name"], *re.findall(r"[a-z0-9-]+", icon["others"])} else ""

    return ICON.sub(kept, script)


def free_citations(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Take the role of a list from citations: its items are no list items, and readers would hear an empty list."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Wait for the pages, and for the end of the build."""
    app.connect("html-page-context", free_citations)
    app.connect("build-finished", remove)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
