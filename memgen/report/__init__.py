"""What a stage leaves behind, and how: numbers, figures and tables with their provenance.

A stage notebook begins with ``run = report.begin(stage, globals())``, records what it finds, and ends with
``run.finish()``. Work goes on in a hidden folder beside the stage's own; only a finished stage takes its
place, so that an interrupted or failed run never harms what was there. The modules:

- `parameters` checks what papermill injected; `stages` knows the folders and checks what earlier stages left;
- `run` is the recorder; `display` shows figures and tables; `provenance` says where and from what they came;
- `publication` reads the results of a profile that the repository keeps, `publish` writes them;
- `book` seals executed notebooks and stages finished ones as chapters.
"""

import importlib
from typing import Any

from memgen.report.publication import Published, published
from memgen.report.run import Run, begin
from memgen.report.stages import PROFILE_STAGES, STAGES, finished, load_manifest, load_metrics, needed

__all__ = [
    "PROFILE_STAGES",
    "STAGES",
    "Published",
    "Run",
    "begin",
    "finished",
    "load_manifest",
    "load_metrics",
    "needed",
    "published",
]

_OF_THE_BOOK = ("seal", "stage_book", "write_vega_bundle")


def __getattr__(name: str) -> Any:
    """Load the book's part on demand: no stage runs again when only the book's code changed."""
    if name in _OF_THE_BOOK:
        return getattr(importlib.import_module("memgen.report.book"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
