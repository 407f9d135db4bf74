"""The pair of a notebook: the file that was saved last counts, and what an editor notes about itself does not."""

import json
import os
import shutil
from pathlib import Path

import jupytext
import pytest
import yaml

from book.build import __main__ as command_line
from book.build.pairs import KERNEL, bring_in_line
from tests.test_repository import TestNotebook as Pair

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pair of the data notebook in a project of its own; of the other stages the .py is as good."""
    (tmp_path / "config").mkdir()
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    monkeypatch.setattr("book.build.pairs.STAGES", ["data"])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "notebooks/data.py"


def saved(path: Path, seconds: int) -> None:
    """Let a file have been saved so many seconds after its pair."""
    other = path.with_suffix({".py": ".ipynb", ".ipynb": ".py"}[path.suffix])
    time = other.stat().st_mtime + seconds
    os.utime(path, (time, time))


def save_in_editor(source: Path, edit: str = "") -> None:
    """Save the .ipynb as editors do: outputs, their kernel, their metadata, and perhaps an edit of a code cell."""
    path = source.with_suffix(".ipynb")
    notebook = json.loads(path.read_text())
    notebook["metadata"] = {"kernelspec": KERNEL | {"name": "mine", "display_name": ".venv"}, "vscode": {"x": 1}}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"vscode": {"languageId": "python"}, "collapsed": False}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}
    notebook["cells"][-2]["source"] += [f"\n{edit}"] if edit else []
    path.write_text(json.dumps(notebook))
    saved(path, 5)


def text_of(path: Path) -> list[tuple]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in jupytext.read(path).cells]


def test_a_save_without_an_edit_changes_nothing_in_the_source(data: Path, capsys) -> None:
    before = data.read_bytes()
    save_in_editor(data)
    bring_in_line()
    assert data.read_bytes() == before
    assert capsys.readouterr().out == ""


def test_an_edit_in_the_notebook_reaches_the_source_alone(data: Path, capsys) -> None:
    before = data.read_text()
    save_in_editor(data, edit="print('edited')")
    bring_in_line()
    assert data.read_text() == before.replace("run.finish()\n", "run.finish()\nprint('edited')\n")
    assert "data.py follows data.ipynb" in capsys.readouterr().out


def test_an_edit_in_the_source_reaches_the_notebook(data: Path) -> None:
    data.write_text(data.read_text().replace("run.finish()", "run.finish()  # edited"))
    saved(data, 5)
    source = data.read_bytes()
    bring_in_line()
    assert data.read_bytes() == source
    assert text_of(data.with_suffix(".ipynb")) == text_of(data)


def test_tidy_leaves_the_text_alone(data: Path) -> None:
    pair = data.with_suffix(".ipynb")
    before = json.loads(pair.read_text())
    save_in_editor(data)
    bring_in_line(tidy=True)
    assert json.loads(pair.read_text()) == before, "the ids of cells, too"
    source = data.read_bytes()
    saved(pair, 5)
    bring_in_line(tidy=True)
    assert data.read_bytes() == source


def test_a_lost_notebook_is_made_again(data: Path) -> None:
    data.with_suffix(".ipynb").unlink()
    bring_in_line()
    assert json.loads(data.with_suffix(".ipynb").read_text())["metadata"]["kernelspec"] == KERNEL
    assert text_of(data.with_suffix(".ipynb")) == text_of(data)


@pytest.mark.parametrize("length", [0, 1000])
def test_a_notebook_that_was_saved_by_half_is_refused(data: Path, capsys, length: int) -> None:
    pair, before = data.with_suffix(".ipynb"), data.read_bytes()
    pair.write_bytes(pair.read_bytes()[:length])
    saved(pair, 5)
    half = pair.read_bytes()
    assert command_line.main(["pairs"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("InputError: notebooks/data.py and data.ipynb cannot be brought in line")
    assert (data.read_bytes(), pair.read_bytes()) == (before, half)
    pair.unlink()  # as the sentence says
    assert command_line.main(["pairs"]) == 0
    assert text_of(pair) == text_of(data)


def test_the_commit_hook_refuses_pairs_that_differ(data: Path) -> None:
    """It changes nothing: what Git put aside during a commit says nothing about which file was saved last."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (entry,) = [hook["entry"] for hook in hooks if hook["files" if "files" in hook else "id"] == "^notebooks/"]
    assert entry.endswith("tests/test_repository.py -k TestNotebook")
    Pair().test_pair_agrees_and_has_no_outputs(data)
    save_in_editor(data, edit="print('edited')")
    with pytest.raises(AssertionError, match="make format"):
        Pair().test_pair_agrees_and_has_no_outputs(data)
