"""Only what finished, whole and unchanged, becomes a chapter."""

import re
from pathlib import Path

import nbformat
import pytest

from memgen import report
from memgen.report import __main__ as command_line
from memgen.report import book, display, provenance, stages
from tests.report.stage_runs import CHART, FRAME, make, make_whole, namespace, snapshot

LABELLED = """
runs: {inference: [gpt2-2x32], inference-matched: [gpt2-2x32]}
seeds: [0]
comparisons: {seeds: [1], runs: {inference: [gpt2-2x32]}}
"""


def executed(path, source="run.finish()", output=None, count=1):
    """A notebook with one executed code cell."""
    cells = [
        nbformat.v4.new_markdown_cell("# Training\n\nIt reaches {glue:text}`accuracy`, {glue:text}`other` there."),
        nbformat.v4.new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}, execution_count=1),
        nbformat.v4.new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]}, execution_count=2),
        nbformat.v4.new_code_cell(source, outputs=[output] if output else [], execution_count=count),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"x": 1}}), path)
    return path


def test_seal_adds_the_notebook(project):
    folder = make("data")
    notebook = executed(project / "out.ipynb")
    assert command_line.main(["seal", str(folder), str(notebook)]) == 0
    assert (folder / "notebook.ipynb").read_bytes() == notebook.read_bytes()
    assert report.load_manifest(folder)["outputs"]["notebook.ipynb"] == provenance.digest(notebook)
    report.begin("training", namespace())  # still whole
    (folder / "notebook.ipynb").write_text("opened and saved in Jupyter")
    report.begin("training", namespace())  # no later stage reads it


def test_seal_refuses_what_failed(project, capsys):
    folder = make("data")
    before = snapshot(folder)
    error = nbformat.v4.new_output("error", ename="InputError", evalue="Wrong.", traceback=[])
    for notebook, message in [
        (executed(project / "failed.ipynb", output=error), "failed with InputError: Wrong."),
        (executed(project / "half.ipynb", count=None), "has a cell that was not run"),
        (project / "none.ipynb", "cannot be read"),
    ]:
        assert command_line.main(["seal", str(folder), str(notebook)]) == 1
        assert message in capsys.readouterr().err
    (folder / "manifest.json").unlink()
    assert command_line.main(["seal", str(folder), str(executed(project / "out.ipynb"))]) == 1
    assert "has no manifest" in capsys.readouterr().err
    del before[Path("manifest.json")]
    assert snapshot(folder) == before


@pytest.fixture
def whole(project):
    """A project in which every stage of a small profile is finished and sealed."""
    (project / "config/tiny.yaml").write_text(LABELLED)
    figure = display.Figure(CHART, "by_layer", caption="Value by layer.", alt="It rises.", data=FRAME)
    output = nbformat.v4.new_output("display_data", data=figure._repr_mimebundle_())
    for stage in stages.NEEDS:
        report.seal(make(stage), executed(project / "out.ipynb", output=output))
        make(stage, task="inference-matched")
        make(stage, seed=1)
    for stage in stages.PROFILE_STAGES:
        report.seal(make_whole(stage), executed(project / "out.ipynb"))
    return project


def test_stage_book(whole, capsys):
    (whole / "book/chapters").mkdir(parents=True)
    (whole / "book/chapters/stale.ipynb").write_text("{}")
    (whole / "book/index.md").write_text("Of all, {glue:text}`chapters/carryover.ipynb::elsewhere:s`.")
    assert command_line.main(["stage", "tiny"]) == 0
    assert "7 chapters" in capsys.readouterr().out
    chapters = {path.name for path in (whole / "book/chapters").iterdir()}
    assert chapters == {f"{stage}-inference.ipynb" for stage in stages.NEEDS} | {"carryover.ipynb", "synthesis.ipynb"}

    chapter = nbformat.read(whole / "book/chapters/training-inference.ipynb", as_version=4)
    nbformat.validate(chapter)
    title, declared, injected, code, footer, pasted = chapter.cells
    assert title.source.startswith("# Training: inference\n")
    assert "hide-input" in declared.metadata.tags
    assert "remove-cell" in injected.metadata.tags
    assert "papermill" not in chapter.metadata
    for word in (
        "gpt2-2x32/seed0",
        "seed = 0",
        "commit",
        "numpy",
        "cores",
        "make book PROFILE=tiny",
        "-p seed 0",
    ):
        assert word in footer.source

    glued = {output.metadata.scrapbook.name: list(output.data.values()) for output in pasted.outputs}
    assert glued == {"accuracy": [repr("50.0\u00a0%\u00a0[n\u00a0=\u00a010]")], "other": ["'not measured'"]}
    carryover = nbformat.read(whole / "book/chapters/carryover.ipynb", as_version=4)
    assert "elsewhere" in {output.metadata.scrapbook.name for output in carryover.cells[-1].outputs}

    html = code.outputs[0].data["text/html"]
    assert "base64" not in html
    page = whole / "_build/html/book/chapters"
    for name in ("by_layer.csv", "by_layer.vl.json", "by_layer.png"):
        link = re.search(rf'(?:href|src)="([^"]*/{re.escape(name)})"', html)[1]
        below = (page / link).resolve().relative_to((whole / "_build/html/_static").resolve())
        assert (whole / "book/_static" / below).is_file()  # Sphinx copies it there
    assert (whole / "book/_static/vega.js").is_file()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "did not finish"),
        (lambda folder: (folder / "notebook.ipynb").unlink(), "no sealed notebook"),
        (lambda folder: executed(folder / "notebook.ipynb", source="edited"), "was changed after it ran"),
        (lambda folder: (folder / "metrics.json").write_text("[]"), "metrics.json was changed"),
    ],
)
def test_stage_book_refuses_and_keeps_the_old_chapters(whole, capsys, monkeypatch, damage, message):
    monkeypatch.setattr(book, "write_vega_bundle", lambda path: None)
    report.stage_book("tiny")
    before = snapshot(whole / "book")
    damage(whole / "results/tiny/inference/gpt2-2x32/seed0/steering")
    assert command_line.main(["stage", "tiny"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "steering" in error
    assert snapshot(whole / "book") == before


def test_vega_bundle_is_one_script_that_draws(tmp_path):
    path = tmp_path / "_static/vega.js"
    report.write_vega_bundle(path)
    text = path.read_text()
    assert text.startswith("(() => {\n")  # nothing but window.vegaEmbed becomes global
    assert "window.vegaEmbed=" in text
    assert text.rstrip().endswith("})();")
    assert "memgen-figure" in text
    written = path.stat().st_mtime_ns
    report.write_vega_bundle(path)
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("source", "folded"),
    [
        ('run.figure(chart, "a", caption="A.", alt="B.", data=frame)', True),
        ('counts = table.sum()\nrun.table(\n    counts, "a", caption="A.")', True),
        ('for row in rows:\n    run.record("a", 1.0)', True),
        ('for row in rows:\n    display(\n        run.figure(chart, "a"))', True),
        ("model = training.load_model(run.input('training', 'model'))", False),
        ("run.finish()", False),
    ],
)
def test_cells_that_only_show_are_folded(source, folded):
    assert bool(book.SHOWS.search(source)) is folded
