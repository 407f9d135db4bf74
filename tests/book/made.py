"""Results as stages leave them, written by hand: what the book's machinery reads, without a run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import altair
import nbformat
import pandas as pd

from memgen.display import Figure, Table

PROFILE = """
runs: {inference: {models: [gpt2-2x32]}}
seeds: [0]
comparisons: {seeds: [1], runs: {inference: {models: [gpt2-2x32]}}}
"""
RUN_STAGES = ("data", "training", "localization", "prediction", "steering")
PROFILE_STAGES = ("planted", "carryover", "synthesis")
FRAME = pd.DataFrame({"layer": [0, 1], "value": [0.25, 0.75]})
CHART = altair.Chart(FRAME, description="It rises.").mark_bar().encode(x="layer:O", y="value:Q", tooltip="value:Q")


def output(shown: Any) -> Any:
    """The output of a cell that shows a figure or table."""
    return nbformat.v4.new_output("display_data", data=shown._repr_mimebundle_())


def figure(name: str, caption: str = "Values.") -> Any:
    """The output of a cell that shows a figure."""
    return output(Figure(CHART, name, caption=caption, data=FRAME))


def table(name: str) -> Any:
    """The output of a cell that shows a table."""
    return output(Table(FRAME, name, caption="Values."))


def code(source: str = "run.finish()", *outputs: Any, count: int | None = 1, tags: tuple[str, ...] = ()) -> Any:
    """A code cell that was executed, unless `count` is None."""
    return nbformat.v4.new_code_cell(
        source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags)} if tags else {}
    )


def executed(path: Path, *cells: Any, title: str = "# Training\n\nIts question.") -> Path:
    """Write an executed notebook with parameters and the given cells."""
    first = [
        nbformat.v4.new_markdown_cell(title),
        code("seed: int = 0", tags=("parameters",)),
        code("seed = 3", tags=("injected-parameters",)),
    ]
    notebook = nbformat.v4.new_notebook(cells=[*first, *(cells or [code()])], metadata={"papermill": {"x": 1}})
    nbformat.write(notebook, path)
    return path


def digest(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def stage(folder: Path, files: dict[str, str] | None = None, task: str | None = "inference") -> Path:
    """Write the folder of a finished stage: its files and the manifest."""
    for name, text in ({"metrics.json": "[]"} | (files or {})).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    run = {"task": task, "model": "gpt2-2x32", "seed": 0} if task else {}
    manifest = {
        "stage": folder.name,
        "parameters": {"profile": "tiny", **run},
        "command": f"papermill notebooks/{folder.name}.ipynb out.ipynb -p profile tiny",
        "finished": "2026-01-01T00:00:00+00:00",
        "wall_seconds": 12.3,
        "peak_memory_bytes": 2**28,
        "machine": {"processor": "CPU", "cores": 2, "accelerator": None, "system": "Linux", "python": "3.11"},
        "packages": {"numpy": "2.0"},
        "git": {"commit": "abc", "dirty": False},
        "inputs": {},
        "outputs": {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
