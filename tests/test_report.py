"""What a stage leaves behind: the contract of its files, atomic replacement, clear errors, and the way into the book."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import altair
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import __main__ as command_line
from memgen.report import display, parameters, provenance, stages
from memgen.report import run as recorder
from memgen.statistics import Estimate

REPOSITORY = Path(__file__).resolve().parents[1]
PROFILE = """
runs: {inference: [gpt2-2x32, gpt2-3x64], addition: [gpt2-2x32]}
seeds: [0, 1]
"""
FRAME = pd.DataFrame({"layer": [0, 1], "value": [0.25, 0.75]})
CHART = altair.Chart(FRAME).mark_bar().encode(x="layer:O", y="value:Q", tooltip="value:Q")
DESCRIBED = {"definition": "Share of inputs that are right.", "unit": "accuracy 0-1"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project in a folder of its own, to which the working directory is set."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def namespace(**given):
    """What `globals()` is in a notebook: parameters, their annotations, and IPython's history."""
    defaults = {"profile": "tiny", "task": "inference", "model": "", "seed": 0, "results": "results"}
    cell = "\n".join(f"{name}: {type(value).__name__} = {value!r}" for name, value in defaults.items())
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in given.items())
    return {**defaults, **given, "In": ["", cell, *([injected] if given else []), "report.begin(...)"]}


def make(stage, files=("one.txt",), **given):
    """Run a stage that writes files, and return its folder."""
    run = report.begin(stage, namespace(**given))
    for need in stages.NEEDS[stage]:
        run.input(need, "one.txt")
    for file in files:
        run.path(file).write_text(f"{stage} {file}")
    run.record("accuracy", 0.5, n=10, **DESCRIBED)
    run.finish()
    return run.folder


def snapshot(folder):
    """Every file below a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------- the contract


def test_contract_of_a_finished_stage(project, capsys):
    make("data")
    run = report.begin("training", namespace())
    assert run.label == "inference/gpt2-2x32/seed0"
    assert run.config.model.name == run.parameters["model"] == "gpt2-2x32"
    assert run.input("data", "one.txt").read_text() == "data one.txt"
    run.path("model", "weights.bin").write_bytes(b"123")
    assert run.record("accuracy", 0.5, n=10, interval=(0.4, 0.6), **DESCRIBED) == 0.5
    run.record("estimate", Estimate(0.5, 0.4, np.nan, 12), **DESCRIBED)
    run.record("with interval", 0.5, n=3, interval=Estimate(0.5, 0.1, 0.9, 7), **DESCRIBED)
    run.record("empty", np.nan, n=0, **DESCRIBED)
    run.figure(CHART, "by_layer", caption="Value by layer.", alt="It rises.", data=FRAME)
    run.table(FRAME, "values", caption="Values.")
    assert not report.finished(run.place.folder)
    run.finish()

    folder = project / "results/tiny/inference/gpt2-2x32/seed0/training"
    assert run.folder == folder
    assert report.finished(folder)
    assert {str(path) for path in snapshot(folder)} == {
        "manifest.json",
        "metrics.json",
        "model/weights.bin",
        "figures/by_layer.vl.json",
        "figures/by_layer.csv",
        "figures/by_layer.png",
        "tables/values.csv",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics[0] == {
        "name": "accuracy",
        "value": 0.5,
        "ci_low": 0.4,
        "ci_high": 0.6,
        "n": 10,
        "unit": "accuracy 0-1",
        "definition": "Share of inputs that are right.",
    }
    assert [(m["value"], m["ci_low"], m["ci_high"], m["n"]) for m in metrics[1:]] == [
        (0.5, 0.4, None, 12),
        (0.5, 0.1, 0.9, 3),
        (None, None, None, 0),
    ]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "figures/by_layer.csv"), FRAME)
    assert json.loads((folder / "figures/by_layer.vl.json").read_text())["description"] == "It rises."
    assert (folder / "figures/by_layer.png").read_bytes().startswith(b"\x89PNG")

    manifest = json.loads((folder / "manifest.json").read_text())
    sha256 = hashlib.sha256(b"123").hexdigest()
    assert manifest["outputs"]["model/weights.bin"] == {"sha256": sha256, "bytes": 3}
    assert manifest["outputs"].keys() == {str(path) for path in snapshot(folder)} - {"manifest.json"}
    assert manifest["inputs"] == {"data/one.txt": provenance.digest(run.input("data", "one.txt"))}
    assert manifest["parameters"]["seed"] == 0
    assert manifest["config"]["model"]["n_layer"] == 2
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["git"] == {"commit": None, "dirty": None}  # the temporary project is no repository
    assert manifest["wall_seconds"] > 0
    assert manifest["peak_memory_bytes"] > 2**24
    assert "training of inference/gpt2-2x32/seed0" in capsys.readouterr().out
    assert report.load_metrics(folder).columns.tolist() == list(stages.METRIC_FIELDS)
    with pytest.raises(RuntimeError, match="is finished"):
        run.record("late", 1.0, n=1, **DESCRIBED)


def test_commit_tells_changes():
    state = provenance.commit(REPOSITORY)
    assert state["commit"] is None or re.fullmatch("[0-9a-f]{40}", state["commit"])


def test_generators_depend_on_seed_stage_and_name_alone(project):
    make("data")
    make("data", seed=1)
    draws = {
        (stage, seed, name): report.begin(stage, namespace(seed=seed)).rng(name).random()
        for stage in ("data", "training")
        for seed in (0, 1)
        for name in ("a", "b")
        if stage == "data" or make("data", seed=seed)
    }
    assert len(set(draws.values())) == len(draws)
    assert report.begin("data", namespace()).rng("a").random() == draws["data", 0, "a"]


@pytest.mark.parametrize(
    ("value", "given", "message"),
    [
        (np.nan, {"n": 5}, "is nan; only a metric with n = 0 may be undefined"),
        (np.inf, {"n": 5}, "is inf"),
        (0.5, {}, "needs n"),
        (0.5, {"n": 5, "unit": ""}, "needs a definition and a unit"),
        (0.5, {"n": 5, "interval": (0.6, 0.4)}, "interval from 0.6 to 0.4"),
    ],
)
def test_bad_metrics_are_refused(project, value, given, message):
    run = report.begin("data", namespace())
    with pytest.raises(ValueError, match=message):
        run.record("accuracy", value, **{**DESCRIBED, **given})
    run.record("accuracy", 0.5, n=5, **DESCRIBED)  # the refused one did not take the name


def test_duplicate_names_are_refused(project):
    run = report.begin("data", namespace())
    for record in (
        lambda: run.record("accuracy", 0.5, n=5, **DESCRIBED),
        lambda: run.figure(CHART, "values", caption="Values.", alt="Values.", data=FRAME),
        lambda: run.table(FRAME, "values", caption="Values."),
    ):
        record()
        with pytest.raises(ValueError, match="already recorded"):
            record()


def test_a_cell_that_is_run_again_in_jupyter_replaces_what_it_recorded(project, monkeypatch):
    run = report.begin("data", namespace())

    def record_in(cell, count, value):
        monkeypatch.setattr(recorder, "_origin", lambda: (cell, count))
        run.record("accuracy", value, n=5, **DESCRIBED)

    record_in("cell-1", 3, 0.5)
    record_in("cell-1", 4, 0.6)
    with pytest.raises(ValueError, match="already recorded"):
        record_in("cell-1", 4, 0.7)  # twice in one run of the cell
    with pytest.raises(ValueError, match="already recorded"):
        record_in("cell-2", 5, 0.7)  # another cell
    run.finish()
    assert report.load_metrics(run.folder).value.tolist() == [0.6]


# ------------------------------------------------------------------------------- nothing finished is ever lost


def test_failed_rerun_leaves_the_finished_stage_untouched(project):
    folder = make("data")
    before = snapshot(folder)
    run = report.begin("data", namespace())
    run.path("one.txt").write_text("half")
    assert snapshot(folder) == before
    make("data", files=("two.txt",))
    assert not (folder / "one.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("renames", [0, 1])
def test_process_killed_during_replacement_loses_nothing(project, monkeypatch, renames):
    folder = make("data")
    run = report.begin("data", namespace())
    run.path("two.txt").write_text("new")
    rename, done = Path.rename, []

    def killed_after_some(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_after_some)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    stages.release(run.place)  # as the end of the process would
    assert folder.exists() == (renames == 0)
    make("training", files=("model.txt",)) if False else stages.settle(run.place)
    assert report.finished(folder)
    assert (folder / "two.txt").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_interrupted_run_resumes_only_with_the_same_settings_and_inputs(project):
    make("data")

    def resumes(**given):
        run = report.begin("training", namespace(**given), keep_partial=True)
        kept = run.path("checkpoints", "last").exists()
        run.path("checkpoints", "last").write_text("step 50")
        run.path("figures", "old.csv").write_text("from the interrupted run")
        return kept

    assert not resumes()
    assert resumes()
    run = report.begin("training", namespace(), keep_partial=True)
    assert not (run.folder / "figures").exists()
    make("data", files=("one.txt", "more.txt"))  # other inputs
    assert not resumes()
    assert resumes()
    (project / "config/tiny.yaml").write_text(PROFILE + "training: {inference: {steps: 7}}\n")
    assert not resumes()
    report.begin("training", namespace())  # keeps nothing
    assert not resumes()


def test_two_processes_never_make_the_same_stage(project):
    run = report.begin("data", namespace())
    stages.release(run.place)
    other = stages._lock(run.place.partial)  # as another process would hold it
    assert other is not None
    with pytest.raises(
        InputError, match="data of inference/gpt2-2x32/seed0 is being made by another process"
    ):
        report.begin("data", namespace())


# ---------------------------------------------------------------------------------------------- earlier stages


def test_missing_stage_names_the_command_that_makes_it(project):
    with pytest.raises(InputError) as error:
        report.begin("training", namespace(seed=1, results="my results"))
    assert str(error.value) == (
        "The data of inference/gpt2-2x32/seed1 was not found in my results/tiny/inference/gpt2-2x32/seed1/data; "
        "make it with `papermill notebooks/data.ipynb out.ipynb "
        "-p profile tiny -p task inference -p model gpt2-2x32 -p seed 1 -p results 'my results'`."
    )
    assert not (project / "my results").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "one.txt").write_text("changed"), "data/one.txt was changed"),
        (lambda folder: (folder / "one.txt").unlink(), "data/one.txt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "was not found"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "data cannot be read"),
    ],
)
def test_damaged_stage_is_named(project, damage, message):
    damage(make("data"))
    with pytest.raises(InputError, match=message) as error:
        report.begin("training", namespace())
    assert "papermill notebooks/data.ipynb out.ipynb" in str(error.value)
    assert str(error.value).count(".\n") == 0


def test_stage_made_from_other_inputs_is_refused(project):
    make("data")
    make("training")
    report.begin("localization", namespace())
    (project / "config/tiny.yaml").write_text(PROFILE)
    run = report.begin("data", namespace())
    run.path("one.txt").write_text("other data")
    run.finish()
    with pytest.raises(
        InputError, match="training of .* was made from another data/one.txt than the one there now"
    ):
        report.begin("localization", namespace())


def test_inputs_are_those_of_earlier_stages(project):
    make("data", files=("tokenizer/vocabulary.json", "tokenizer/merges.txt", "tokenizers.txt"))
    run = report.begin("training", namespace())
    assert run.input("data", "tokenizer").is_dir()
    with pytest.raises(ValueError, match="training does not read steering"):
        run.input("steering", "outcomes.parquet")
    with pytest.raises(InputError, match=r"has no test\.parquet; make it again"):
        run.input("data", "test.parquet")
    run.finish()
    inputs = report.load_manifest(run.folder)["inputs"]
    assert list(inputs) == ["data/tokenizer/merges.txt", "data/tokenizer/vocabulary.json"]


def test_synthesis_reads_every_run(project):
    cells = [("inference", model, seed) for model in ("gpt2-2x32", "gpt2-3x64") for seed in (0, 1)]
    cells += [("addition", "gpt2-2x32", seed) for seed in (0, 1)]
    for task, model, seed in cells:
        for stage in stages.NEEDS:
            make(stage, task=task, model=model, seed=seed)
    run = report.begin(
        "synthesis",
        {"__annotations__": {"profile": str, "results": str}, "profile": "tiny", "results": "results"},
    )
    assert run.cells() == cells
    metrics = run.metrics()
    assert len(metrics) == len(cells) * len(stages.NEEDS)
    assert metrics.columns.tolist()[:5] == ["task", "model", "seed", "stage", "name"]
    assert run.input("steering", "one.txt", cell=cells[-1]).read_text() == "steering one.txt"
    run.finish()
    assert run.folder == project / "results/tiny/synthesis"
    assert "addition/gpt2-2x32/seed1/steering/one.txt" in report.load_manifest(run.folder)["inputs"]
    shutil.rmtree(project / "results/tiny/addition/gpt2-2x32/seed1/steering")
    with pytest.raises(InputError, match="steering of addition/gpt2-2x32/seed1 was not found"):
        report.begin(
            "synthesis", {**namespace(), "In": ["", "profile: str = 'tiny'\nresults: str = 'results'"]}
        )


# -------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"sed": 1},
            "The parameter 'sed' is unknown; this notebook has profile, task, model, seed, results.",
        ),
        ({"seed": "x"}, "The parameter seed must be a whole number, not 'x'."),
        ({"seed": True}, "The parameter seed must be a whole number, not True."),
        ({"seed": 1.0}, "The parameter seed must be a whole number, not 1.0."),
        ({"seed": -1}, "The parameter seed must be 0 or more, not -1."),
        ({"task": 3}, "The parameter task must be text, not 3."),
        ({"task": "chess"}, "chess"),
        ({"model": "bert"}, "bert"),
        ({"profile": "huge"}, "huge"),
    ],
)
def test_bad_parameters_touch_nothing(project, given, message):
    before = snapshot(make("data").parent)
    with pytest.raises(InputError) as error:
        report.begin("data", namespace(**given))
    assert message in str(error.value)
    assert snapshot(project / "results/tiny/inference/gpt2-2x32/seed0") == before


def test_parameters_of_interactive_and_scripted_runs():
    cell = 'profile: str = "tiny"\nresults: str = "results"  # where\nrate: float = 0.5\n'
    values = {"profile": "tiny", "results": "results", "rate": 1}
    # Edited and run again in Jupyter: the last parameters cell counts, whatever came before and after.
    history = [
        "",
        "# Parameters\nold = 1",
        "get_ipython().magic('x')\n%oops",
        cell.replace("rate", "old"),
        cell,
        "n: int = 3",
    ]
    assert parameters.read({**values, "n": 3, "In": history}) == values
    # An executed copy, opened and run again, holds papermill's cell.
    with pytest.raises(InputError, match="'old' is unknown"):
        parameters.read({**values, "In": [*history, "# Parameters\nold = 1\n"]})
    # python notebooks/training.py
    annotations = {"profile": str, "results": "str", "rate": float, "frame": pd.DataFrame}
    assert parameters.read({**values, "__annotations__": annotations}) == values
    with pytest.raises(ValueError, match="must annotate its parameters"):
        parameters.read(values)


def test_unknown_stage():
    with pytest.raises(ValueError, match="stage must be one of data, training"):
        report.begin("trainin", namespace())


# ----------------------------------------------------------------------------------------- figures and tables


def test_figure_is_escaped_and_needs_no_network(project):
    hostile = pd.DataFrame({"name": ["</script><script>alert(1)</script>", "<b>"], "value": [1.0, np.nan]})
    chart = altair.Chart(hostile).mark_bar().encode(x="value:Q", y="name:N")
    figure = display.Figure(chart, "hostile", caption="<i>Caption</i>", alt='"<alt>"', data=hostile)
    html = figure._repr_mimebundle_()["text/html"]
    assert "<b>" not in html
    assert "<i>" not in html
    assert html.count("<script") == html.count("</script>") == 1
    assert 'alt="&quot;&lt;alt&gt;&quot;"' in html
    specification = json.loads(
        re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1]
    )
    (rows,) = specification["datasets"].values()
    assert rows[0]["name"] == hostile.name[0]
    assert rows[1]["value"] is None
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    csv = re.search(r'href="data:text/csv;base64,([^"]*)" download="hostile.csv"', html)[1]
    assert base64.b64decode(csv).decode() == hostile.to_csv(index=False)


def test_table_is_escaped_readable_and_short():
    frame = pd.DataFrame(
        {"<b>": ["<script>"] * 100, "p": [1.23456e-5] * 100, "n": [123456.0] * 99 + [np.nan]}
    )
    table = display.Table(frame, "long", caption="<i>")
    bundle = table._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert "<b>" not in bundle["text/html"]
    assert "1.23e-05" in bundle["text/html"]
    assert "123,456" in bundle["text/plain"]
    assert "The first 60 of 100 rows." in bundle["text/html"]
    assert len(pd.read_csv(pd.io.common.StringIO(table.csv))) == 100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alt": " "}, "needs a caption and an alt text"),
        ({"caption": ""}, "needs a caption and an alt text"),
        ({"name": "../escape"}, "cannot name a file"),
        ({"data": pd.DataFrame({"value": range(5001)})}, "shows 5,001 rows; aggregate its data to 5,000"),
    ],
)
def test_bad_figures_are_refused(given, message):
    good = {"name": "values", "caption": "Values.", "alt": "Values.", "data": FRAME}
    with pytest.raises(ValueError, match=message):
        display.Figure(CHART, **{**good, **given})


def test_chart_with_too_many_rows_is_refused():
    chart = altair.Chart(pd.DataFrame({"value": range(6000)})).mark_point().encode(x="value:Q")
    with pytest.raises(ValueError, match="shows 6,000 rows"):
        display.Figure(chart, "many", caption="Many.", alt="Many.", data=FRAME)


# ------------------------------------------------------------------------------------------------------ the book


def executed(path, source="run.finish()", output=None, count=1):
    """A notebook with one executed code cell."""
    cells = [
        nbformat.v4.new_markdown_cell("# Training\n\nText."),
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
    (project / "config/tiny.yaml").write_text("runs: {inference: [gpt2-2x32]}\nseeds: [0]\n")
    figure = display.Figure(CHART, "by_layer", caption="Value by layer.", alt="It rises.", data=FRAME)
    output = nbformat.v4.new_output("display_data", data=figure._repr_mimebundle_())
    for stage in stages.NEEDS:
        report.seal(make(stage), executed(project / "out.ipynb", output=output))
    run = report.begin(
        "synthesis", {**namespace(), "In": ["", "profile: str = 'tiny'\nresults: str = 'results'"]}
    )
    run.finish()
    report.seal(run.folder, executed(project / "out.ipynb"))
    return project


def test_stage_book(whole, capsys):
    (whole / "book/chapters").mkdir(parents=True)
    (whole / "book/chapters/stale.ipynb").write_text("{}")
    assert command_line.main(["stage", "tiny"]) == 0
    assert "6 chapters" in capsys.readouterr().out
    chapters = {path.name for path in (whole / "book/chapters").iterdir()}
    assert chapters == {f"{stage}-inference.ipynb" for stage in stages.NEEDS} | {"synthesis.ipynb"}

    chapter = nbformat.read(whole / "book/chapters/training-inference.ipynb", as_version=4)
    nbformat.validate(chapter)
    title, declared, injected, code, footer = chapter.cells
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
    ],
)
def test_stage_book_refuses_and_keeps_the_old_chapters(whole, capsys, damage, message):
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
    assert "window.vegaEmbed=" in text
    assert text.rstrip().endswith("})();")
    assert "memgen-figure" in text
    written = path.stat().st_mtime_ns
    report.write_vega_bundle(path)
    assert path.stat().st_mtime_ns == written


# ----------------------------------------------------------------------------------------------- real papermill


def test_papermill_end_to_end(project, monkeypatch):
    """A real kernel: an unknown parameter ends before any compute, a good run leaves the whole contract."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    sources = [
        'profile: str = "tiny"  # a file of config/\ntask: str = "inference"\nmodel: str = ""\nseed: int = 0\n'
        'results: str = "results"',
        'from memgen import report\n\nrun = report.begin("data", globals())',
        'run.path("touched").write_text("compute was spent")\n'
        'run.record("accuracy", 0.5, definition="Share right.", unit="accuracy 0-1", n=10)\nrun.finish()',
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), "data.ipynb")

    def execute(copy, given):
        papermill.execute_notebook("data.ipynb", copy, given, progress_bar=False, start_timeout=300)

    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute("failed.ipynb", {"sed": 3})
    assert (error.value.ename, error.value.evalue) == (
        "InputError",
        "The parameter 'sed' is unknown; this notebook has profile, task, model, seed, results.",
    )
    assert "Traceback" not in "".join(error.value.traceback)
    assert not (project / "results").exists()

    execute("out.ipynb", {"seed": 3})
    folder = project / "results/tiny/inference/gpt2-2x32/seed3/data"
    report.seal(folder, "out.ipynb")
    manifest = report.load_manifest(folder)
    assert manifest["parameters"]["seed"] == 3
    assert manifest["outputs"].keys() == {"metrics.json", "notebook.ipynb", "touched"}
