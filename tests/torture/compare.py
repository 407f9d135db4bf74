"""Whether two projects hold the same results and the same book, byte for byte but for times."""

import json
import re
from pathlib import Path

TIMING = {"begun", "finished", "resumed", "wall_seconds", "peak_memory_bytes", "git"}
TIMES = re.compile(rb"(?!)")


def contents(project: Path, profile: str = "smoke") -> dict[str, bytes]:
    """Every file of the results and the book, without what says when and how fast it was made."""
    return {
        str(path.relative_to(project)): _timeless(path)
        for folder in (f"results/{profile}", "_build/html")
        for path in sorted((project / folder).rglob("*"))
        if path.is_file() and path.parent.name != "log" and path.suffix != ".lock"
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
        return json.dumps(manifest).encode()
    return TIMES.sub(b"", data)
