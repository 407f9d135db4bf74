"""Who wrote the book and what it is, for machines: Open Graph and schema.org, from ``CITATION.cff``."""

import html
import json
from pathlib import Path

import yaml
from sphinx.application import Sphinx


def describe(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Put what a link to a page shows into its head; on the first page also the article and its data."""
    cited = yaml.safe_load(Path(app.confdir, "CITATION.cff").read_text(encoding="utf-8"))
    title = html.unescape(context.get("title") or cited["title"])
    graph = {"og:title": title, "og:type": "article", "og:site_name": cited["title"], "description": cited["abstract"]}
    tags = [f'<meta property="{name}" content="{html.escape(text)}">' for name, text in graph.items()]
    if page == app.config.root_doc:
        shared = {
            "author": [{"@type": "Organization", "name": author["name"]} for author in cited["authors"]],
            "license": cited["license"],
            "version": cited["version"],
            "keywords": cited["keywords"],
        }
        if "doi" in cited:
            shared["identifier"] = f"https://doi.org/{cited['doi']}"
        sources = [{"@type": "ScholarlyArticle", "name": of["title"], "url": of["url"]} for of in cited["references"]]
        article = {"@type": "ScholarlyArticle", "name": cited["title"], "abstract": cited["abstract"], **shared}
        data = {"@type": "Dataset", "name": f"{cited['title']}: published results", "description": cited["abstract"]}
        graph = [article | {"citation": sources}, data | shared]
        text = json.dumps({"@context": "https://schema.org", "@graph": graph}).replace("<", "\\u003c")
        tags.append(f'<script type="application/ld+json">{text}</script>')
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(tags)


def setup(app: Sphinx) -> dict[str, bool]:
    """Wait for the pages."""
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
