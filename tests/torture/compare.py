"""Whether two projects hold the same results and the same book, byte for byte but for when and how fast they were made.

Left out of a manifest: times, memory, and the notebook's digest; of a notebook and its page: what cells print of their
progress, their random names, and the lines that say when and from which commit it was made; and the index of the
search, in which the words of those lines stand.
"""

import json
import re
from pathlib import Path

TIMING = {"begun", "finished", "resumed", "wall_seconds", "peak_memory_bytes", "git"}
PRINTED = re.compile(rb'<div class="output stream .*?</pre>', re.DOTALL)
SEARCH = {"searchindex.js", "texts.js"}
MADE = re.compile(rb"<strong>(Finished|Code):</strong>[^\n]*|\\?\"?- \*\*(Finished|Code):\*\*[^\n]*")


def contents(project: Path, profile: str = "smoke") -> dict[str, bytes]:
    """Every file of the results and the book, without what says when and how fast it was made."""
    return {
        str(path.relative_to(project)): _timeless(path)
        for folder in (f"results/{profile}", "_build/html")
        for path in sorted((project / folder).rglob("*"))
        if path.is_file() and path.parent.name != "log" and path.suffix != ".lock" and path.name not in SEARCH
    }


def differences(one: Path, other: Path) -> list[str]:
    """The files that differ, or that only one of the two has."""
    first, second = contents(one), contents(other)
    assert len(first) > 300, "nothing to compare"
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "manifest.json":
        manifest = {name: value for name, value in json.loads(data).items() if name not in TIMING}
        manifest["outputs"] = {name: entry for name, entry in manifest["outputs"].items() if name != "notebook.ipynb"}
        return json.dumps(manifest).encode()
    if path.suffix == ".ipynb":
        cells = [[cell["source"], _shown(cell.get("outputs", []))] for cell in json.loads(data)["cells"]]
        return MADE.sub(b"", json.dumps(cells, indent=1).encode())
    return MADE.sub(b"", PRINTED.sub(b"", data)) if path.suffix == ".html" else data


def _shown(outputs: list[dict]) -> list[dict]:
    """What a cell shows; what it prints tells of its progress."""
    return [output for output in outputs if output["output_type"] != "stream"]
