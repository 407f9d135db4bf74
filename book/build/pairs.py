"""The two files of a notebook: both get the text of the one that was saved last, and nothing of the editor."""

from pathlib import Path

import nbformat
from jupytext.cli import jupytext

from memgen.config import STAGES, InputError, root

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = ("tags", "lines_to_next_cell")  # of a cell's metadata; the second is jupytext's, for blank lines in the .py


def bring_in_line(*, tidy: bool = False) -> None:
    """Bring the ``.ipynb`` and the ``.py`` of each stage in line, and say so where the ``.py`` is the one that follows.

    With `tidy`, outputs and what an editor noted about itself leave the ``.ipynb``, too (the ``.py`` never has them:
    the filters of jupytext in pyproject.toml). A pair with a file that cannot be read stays as it was.
    """
    for source in (root() / "notebooks" / f"{stage}.py" for stage in STAGES):
        pair, before = source.with_suffix(".ipynb"), source.read_bytes()
        is_new = not pair.exists()
        try:
            jupytext(["--quiet", "--sync", str(source)])
        except Exception as error:  # of whatever a half-written file makes of JSON and YAML
            raise InputError(
                f"notebooks/{source.name} and {pair.name} cannot be brought in line ({type(error).__name__}); without "
                f"{pair.name}, it is made again from {source.name}."
            ) from None
        if source.read_bytes() != before:
            print(f"▶ notebooks/{source.name} follows {pair.name}, which was saved last.", flush=True)
        if tidy or is_new:
            _tidy(pair)


def _tidy(path: Path) -> None:
    """Leave of a notebook the text of its cells and their tags."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict({"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": KERNEL})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT if name in cell.metadata})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    text = nbformat.writes(notebook) + "\n"
    if text != path.read_text(encoding="utf-8"):
        path.write_text(text, encoding="utf-8")
