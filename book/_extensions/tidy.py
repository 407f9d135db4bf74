"""What Sphinx writes, with three repairs: a wrong role of citations, drawings in notebooks, source maps of scripts.

And a policy by which a browser asks nothing of the network, whatever may stand in a page.
"""

from pathlib import Path

import nbformat
from sphinx.application import Sphinx

# Scripts in the pages draw the figures, and Vega compiles its expressions; `file:` is for a book that is not served.
POLICY = "default-src 'self' file: data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; object-src 'none'"
FIGURE = '<figure class="memgen"'  # as the notebooks show figures and tables


def free_citations(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Take the role of a list from citations: its items are no list items, and readers would hear an empty list."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def forbid_requests(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Put the policy into the head of a page, before what it is about."""
    context["metatags"] = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n' + context.get(
        "metatags", ""
    )


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Leave a figure's words in a notebook for download: its files stay with the book, and running draws it anew."""
    for path in Path(app.outdir, "_static").rglob("*.map"):
        path.unlink()  # three megabytes that no reader asks for
    for path in Path(app.outdir, "_sources").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if FIGURE in output.get("data", {}).get("text/html", ""):
                    del output["data"]["text/html"]
        nbformat.write(notebook, path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Wait for the pages, and for the end of the build."""
    app.connect("html-page-context", free_citations)
    app.connect("html-page-context", forbid_requests)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
