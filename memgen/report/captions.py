"""Numbers for the figures and tables of a page, in the order in which they stand on it."""

import re
from typing import Any

CAPTION = re.compile(  # as display.py writes it
    r'<figure class="memgen" id="(figure|table)-([A-Za-z0-9_-]+)"(.*?)<strong>(?:Figure|Table):</strong>', re.DOTALL
)
REFERENCE = re.compile(r"\[[^\]]*\]\(#((?:figure|table)-[A-Za-z0-9_-]+)\)")


def number(notebook: Any) -> None:
    """Number the figures and tables of an executed notebook, and put the numbers where its prose points to them.

    A link in the prose, such as ``[the heat map](#figure-heat_map)``, becomes *Figure 1*.

    Raises
    ------
    ValueError
        If the prose points to a figure or table that the page does not have.
    """
    counts, names = {"figure": 0, "table": 0}, {}

    def caption(match: re.Match[str]) -> str:
        kind, name, between = match.groups()
        counts[kind] += 1
        names[f"{kind}-{name}"] = label = f"{kind.capitalize()} {counts[kind]}"
        return f'<figure class="memgen" id="{kind}-{name}"{between}<strong>{label}:</strong>'

    def reference(match: re.Match[str]) -> str:
        if match[1] not in names:
            raise ValueError(
                f"the prose points to {match[1]}; the page has {', '.join(names) or 'no figure or table'}."
            )
        return f'<a class="reference internal" href="#{match[1]}">{names[match[1]]}</a>'

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = CAPTION.sub(caption, output.data["text/html"])
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = REFERENCE.sub(reference, cell.source)
