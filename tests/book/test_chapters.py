"""Only what finished, whole and unchanged, becomes a chapter; its figures are numbered and have files of their own."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from book.build import chapters
from book.build.__main__ import main
from memgen.config import InputError

from . import made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with a small profile."""
    for folder in ("config", "notebooks", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/tiny.yaml").write_text(made.PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which every stage of the profile is finished and sealed."""
    monkeypatch.setattr(chapters, "write_vega_bundle", lambda path: None)
    for name in made.RUN_STAGES:
        folder = project / "results/tiny/inference/gpt2-2x32/seed0" / name
        made.stage(folder)
        chapters.seal(folder, made.executed(project / "out.ipynb", made.code("run.figure()", made.figure("by_layer"))))
    for name in made.PROFILE_STAGES:
        folder = made.stage(project / "results/tiny" / name, task=None)
        chapters.seal(folder, made.executed(project / "out.ipynb"))
    return project


def chapter(project: Path, name: str) -> nbformat.NotebookNode:
    """A staged chapter."""
    return nbformat.read(project / f"book/chapters/{name}.ipynb", as_version=4)


def finished(*outputs: list, prose: str = "") -> nbformat.NotebookNode:
    """A notebook after its figures and tables were numbered."""
    cells = [nbformat.v4.new_markdown_cell(prose), *(made.code("", *shown) for shown in outputs)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    chapters.finish_figures(notebook, "data-inference")
    return notebook


def test_seal_adds_the_notebook(project: Path) -> None:
    folder = made.stage(project / "results/data")
    notebook = made.executed(project / "out.ipynb")
    chapters.seal(folder, notebook)
    assert (folder / "notebook.ipynb").read_bytes() == notebook.read_bytes()
    outputs = json.loads((folder / "manifest.json").read_text())["outputs"]
    assert outputs["notebook.ipynb"] == made.digest(notebook)
    assert outputs["metrics.json"] == made.digest(folder / "metrics.json")


def test_seal_refuses_a_notebook_that_failed(project: Path) -> None:
    folder = made.stage(project / "results/data")
    before = made.snapshot(folder)
    error = nbformat.v4.new_output("error", ename="InputError", evalue="Wrong.", traceback=[])
    for notebook, message in [
        (made.executed(project / "failed.ipynb", made.code("f()", error)), "failed with InputError: Wrong."),
        (made.executed(project / "half.ipynb", made.code(count=None)), "has a cell that was not run"),
        (project / "none.ipynb", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=message):
            chapters.seal(folder, notebook)
    assert made.snapshot(folder) == before
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="did not finish"):
        chapters.seal(folder, made.executed(project / "out.ipynb"))


def test_chapters_are_the_shown_runs_and_nothing_else(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "book/chapters").mkdir(parents=True)
    (whole / "book/chapters/stale.ipynb").write_text("{}")
    assert main(["stage", "tiny"]) == 0
    assert "8 chapters" in capsys.readouterr().out
    names = {path.stem for path in (whole / "book/chapters").iterdir()}
    assert names == {f"{stage}-inference" for stage in made.RUN_STAGES} | set(made.PROFILE_STAGES)


def test_chapter_names_its_task_hides_parameters_and_says_how_it_was_made(whole: Path) -> None:
    chapters.stage_book("tiny")
    notebook = chapter(whole, "training-inference")
    nbformat.validate(notebook)
    title, declared, injected, _, footer = notebook.cells
    assert title.source == "# Training: inference\n\nIts question."
    assert "hide-input" in declared.metadata.tags
    assert "remove-cell" in injected.metadata.tags
    assert "papermill" not in notebook.metadata
    for word in (
        "`task = 'inference'`",
        "`seed = 0`",
        "commit `abc`",
        "numpy 2.0",
        "2 cores",
        "make book PROFILE=tiny",
    ):
        assert word in footer.source
    assert chapter(whole, "synthesis").cells[0].source.startswith("# Training\n"), "of all tasks, so none is named"


def test_files_in_a_page_become_files_beside_it(whole: Path) -> None:
    chapters.stage_book("tiny")
    (html,) = [
        output.data["text/html"] for cell in chapter(whole, "training-inference").cells[3:4] for output in cell.outputs
    ]
    assert "base64" not in html
    page = whole / "_build/html/book/chapters"
    for name in ("by_layer.csv", "by_layer.vl.json", "by_layer.png"):
        link = re.search(rf'(?:href|src)="([^"]*/{re.escape(name)})"', html)[1]
        below = (page / link).resolve().relative_to((whole / "_build/html/_static").resolve())
        assert (whole / "book/_static" / below).is_file()  # Sphinx copies it there


def test_what_results_mean_stands_at_the_end_and_on_the_first_page(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = whole / "results/tiny/inference/gpt2-2x32/seed0/training"
    record = {"measure": "share", "value": 0.4, "ci_low": None, "ci_high": None, "n": 9, "unit": "share 0-1"}
    made.stage(folder, {"metrics.json": json.dumps([record | {"definition": "A share."}])})
    end = nbformat.v4.new_markdown_cell("## What this means\n\nIn general.")
    chapters.seal(folder, made.executed(whole / "out.ipynb", made.code(), end))
    sentence = "- says: A {0}.\n  holds:\n  - these: measure == 'share'\n    above: {1}\n"
    pages = {"training-inference": [("third", 0.3), ("half", 0.5)], "index": [("tenth", 0.1)]}
    text = "".join(f"{page}:\n" + "".join(sentence.format(*each) for each in of) for page, of in pages.items())
    (whole / "book/meaning.yaml").write_text(text)
    chapters.stage_book("tiny")
    source = next(
        cell.source for cell in chapter(whole, "training-inference").cells if cell.source.startswith("## What")
    )
    assert source.endswith("In general.\n\n- A third.\n- **Not borne out by these results:** A half.")
    assert (whole / "book/_static/downloads/answer.md").read_text() == "- *Not measured here:* A tenth."
    assert capsys.readouterr().out == "The results do not bear out a sentence of training-inference: A half.\n"


def test_main_figure_opens_the_chapter(whole: Path) -> None:
    folder = whole / "results/tiny/inference/gpt2-2x32/seed0/training"
    glued = nbformat.v4.new_output(
        "display_data",
        data={"application/papermill.record/text/plain": "'1'"},
        metadata={"scrapbook": {"name": "key", "mime_prefix": "application/papermill.record/"}},
    )
    cells = [
        made.code("run.figure(a)", made.figure("first")),
        nbformat.v4.new_markdown_cell("Now [all](#figure-all)."),
        made.code("run.figure(b)", made.figure("all"), tags=("main-figure",)),
        made.code("run.glue('key')", glued),
    ]
    chapters.seal(folder, made.executed(whole / "out.ipynb", *cells))
    chapters.stage_book("tiny")
    notebook = chapter(whole, "training-inference")
    nbformat.validate(notebook)
    main_figure = notebook.cells[1]
    assert "remove-input" in main_figure.metadata.tags
    assert main_figure.source, "myst-nb leaves out the outputs of a cell without source"
    assert "<strong>Figure 1:</strong>" in main_figure.outputs[0].data["text/html"]
    assert 'id="figure-all"' in main_figure.outputs[0].data["text/html"]
    (place,) = [i for i, cell in enumerate(notebook.cells) if cell.source == "run.figure(b)"]
    assert notebook.cells[place].outputs == []
    assert notebook.cells[place - 1].source == 'Now <a class="reference internal" href="#figure-all">Figure 1</a>.'
    assert 'href="#figure-all">Figure 1</a>' in notebook.cells[place + 1].source
    assert notebook.cells[place + 2].outputs == [glued], "pasted numbers stay where the notebook left them"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "did not finish"),
        (lambda folder: (folder / "notebook.ipynb").unlink(), "steering/notebook.ipynb is not the one that was sealed"),
        (lambda folder: made.executed(folder / "notebook.ipynb", made.code("edited")), "make book PROFILE=tiny"),
    ],
)
def test_damaged_results_are_refused_and_the_old_chapters_stay(whole: Path, capsys, damage, message: str) -> None:
    chapters.stage_book("tiny")
    before = made.snapshot(whole / "book")
    damage(whole / "results/tiny/inference/gpt2-2x32/seed0/steering")
    assert main(["stage", "tiny"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "steering" in error
    assert made.snapshot(whole / "book") == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: made.executed(path, made.code("edited"))])
def test_a_reader_may_save_or_move_the_notebook(whole: Path, damage) -> None:
    """The page shows what ran: of that, the graph keeps another copy."""
    folder = whole / "results/tiny/inference/gpt2-2x32/seed0/steering"
    (folder.parent / "log").mkdir()
    shutil.copyfile(folder / "notebook.ipynb", folder.parent / "log/steering.ipynb")
    chapters.stage_book("tiny")
    before = made.snapshot(whole / "book")
    damage(folder / "notebook.ipynb")
    chapters.stage_book("tiny")
    assert made.snapshot(whole / "book") == before


def test_the_foot_of_a_page_says_that_its_stage_resumed(whole: Path) -> None:
    path = whole / "results/tiny/inference/gpt2-2x32/seed0/training/manifest.json"
    for resumed in (False, True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"resumed": resumed}))
        chapters.stage_book("tiny")
        assert ("resumed" in chapter(whole, "training-inference").cells[-1].source) is resumed


def test_figures_and_tables_are_counted_apart_in_the_order_of_the_page(project: Path) -> None:
    outputs = [made.table("zeta"), made.figure("b")], [made.figure("a")], [made.table("alpha")]
    html = [output.data["text/html"] for cell in finished(*outputs).cells[1:] for output in cell.outputs]
    labels = ["Table 1", "Figure 1", "Figure 2", "Table 2"]
    for text, label, name in zip(html, labels, ["zeta", "b", "a", "alpha"], strict=True):
        assert text.count(f"<strong>{label}:</strong>") == 1
        assert f'id="{label.split()[0].lower()}-{name}"' in text


def test_prose_gets_the_numbers(project: Path) -> None:
    page = finished(
        [made.figure("first"), made.figure("last")], prose="See [it](#figure-last), and [here](#a-section)."
    )
    assert page.cells[0].source == (
        'See <a class="reference internal" href="#figure-last">Figure 2</a>, and [here](#a-section).'
    )
    with pytest.raises(ValueError, match="points to figure-none; it has figure-first"):
        finished([made.figure("first")], prose="[x](#figure-none)")


def test_caption_cannot_pose_as_a_figure(project: Path) -> None:
    hostile = '<strong>Figure:</strong> <figure class="memgen" id="figure-x">'
    html = finished([made.figure("first", caption=hostile)]).cells[1].outputs[0].data["text/html"]
    assert html.count("Figure 1") == 1
    assert "&lt;strong&gt;Figure:" in html


def test_vega_bundle_is_a_single_script_that_draws(tmp_path: Path) -> None:
    chapters.write_vega_bundle(tmp_path / "_static/vega.js")
    text = (tmp_path / "_static/vega.js").read_text()
    assert text.startswith("(() => {\n")  # nothing but window.vegaEmbed becomes global
    assert "window.vegaEmbed=" in text
    assert text.rstrip().endswith("})();")
    assert "memgen-figure" in text
