"""Search that shows the words around what it found from ``file://``, too, where no page may read another."""

import json
from pathlib import Path

from bs4 import BeautifulSoup
from sphinx.application import Sphinx

# Sphinx fetches a page that it found, and takes the text of a section from it. Here the texts are there already.
SCRIPT = """{
  const pages = %s;
  window.fetch = async (address) => ({ text: async () => address });
  Search.htmlToText = (address, anchor) => {
    const sections = pages[address.replace("./", "")];
    return sections[anchor?.slice(1)] ?? Object.values(sections).join(" ");
  };
}
"""


def section_texts(html: str) -> dict[str, str]:
    """The text of each section of a page, without that of sections within it, by the section's id."""
    page = BeautifulSoup(html, "html.parser").find("article")
    for unread in page.select("script, style, svg, annotation, button, .headerlink"):
        unread.decompose()
    for block in page.select("p, li, dt, td, th"):
        block.append(" ")  # else its last word runs into the next one's first
    sections = reversed(page.select("section[id]"))  # the inner ones before those around them
    texts = {section["id"]: " ".join(section.extract().get_text().split()) for section in sections}
    return dict(reversed(texts.items()))


def add_script(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Load the texts on the page of search, and nowhere else."""
    if page == "search":
        app.add_js_file("texts.js", loading_method="defer")


def write_texts(app: Sphinx, exception: Exception | None) -> None:
    """Write the texts beside the pages."""
    if exception is None:
        paths = {f"{name}.html": Path(app.outdir, f"{name}.html") for name in sorted(app.env.found_docs)}
        texts = {name: section_texts(path.read_text(encoding="utf-8")) for name, path in paths.items()}
        text = SCRIPT % json.dumps(texts, ensure_ascii=False)
        Path(app.outdir, "_static/texts.js").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Wait for the page, and for the end of the build."""
    app.connect("html-page-context", add_script)
    app.connect("build-finished", write_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
