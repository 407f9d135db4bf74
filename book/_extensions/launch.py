"""The launch button of a chapter opens the notebook that it was made of, which stands elsewhere in the repository.

The button appears as soon as `_config.yml` knows the repository's address.
"""

import re

from sphinx.application import Sphinx

CHAPTER = re.compile(r"book/chapters/([a-z]+)(-[\w-]+)?\.ipynb$")


def without_address(app: Sphinx) -> None:
    """Take the buttons away where there is nothing to open; the theme would fail."""
    options = app.config.html_theme_options
    if not options.get("repository_url"):
        options["launch_buttons"] = {}


def open_source(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Point the buttons of one page to ``notebooks/<stage>.ipynb``."""
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = CHAPTER.sub(r"notebooks/\1.ipynb", button["url"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Come after the theme, which makes the buttons."""
    app.connect("builder-inited", without_address)
    app.connect("html-page-context", open_source, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
