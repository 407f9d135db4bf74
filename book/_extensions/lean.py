"""What serves no reader is left out of the built book: source maps, translations, old fonts, a wrong role."""

from pathlib import Path

from sphinx.application import Sphinx

LEFT_OUT = ("*.map", "*.po", "*.pot", "*.mo", "*.ttf")  # of fonts, .woff2 is there, too


def remove(app: Sphinx, exception: Exception | None) -> None:
    """Remove such files from a finished book."""
    if exception is None and app.builder.format == "html":
        for pattern in LEFT_OUT:
            for path in Path(app.outdir, "_static").rglob(pattern):
                path.unlink()


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
