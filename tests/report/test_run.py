"""The recorder: the contract of its files, one name for one thing, nothing finished ever lost."""

import hashlib
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import provenance, stages
from memgen.report import run as recorder
from memgen.statistics import Estimate
from tests.report.stage_runs import CHART, DESCRIBED, FRAME, PROFILE, make, namespace, snapshot

REPOSITORY = Path(__file__).resolve().parents[2]


def test_contract_of_a_finished_stage(project, capsys):
    make("data")
    run = report.begin("training", namespace())
    assert run.label == "inference/gpt2-2x32/seed0"
    assert run.config.model.name == run.parameters["model"] == "gpt2-2x32"
    assert run.input("data", "one.txt").read_text() == "data one.txt"
    run.path("model", "weights.bin").write_bytes(b"123")
    run.record("accuracy", 0.5, n=10, interval=(0.4, 0.6), **DESCRIBED)
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


def test_a_number_for_each_row_of_a_table(project):
    run = report.begin("data", namespace())
    rows = {"measure": ["share", "ratio"], "method": ["a", "b: c d"], "value": [0.5, 2], "low": [0.25, np.nan]}
    table = pd.DataFrame(rows).assign(high=[0.75, np.nan], n=[7, 8])
    names = {"share": "share_{method}", "ratio": "{method}_ratio"}
    run.record_rows(table, names, definition="Of {method}.", unit={"share": "share 0-1", "ratio": "ratio"})
    run.finish()
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert [tuple(metric.values()) for metric in metrics] == [
        ("share_a", 0.5, 0.25, 0.75, 7, "share 0-1", "Of a."),
        ("b_c_d_ratio", 2, None, None, 8, "ratio", "Of b: c d."),
    ]


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
    stages.settle(run.place)
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
    with pytest.raises(InputError, match="data of inference/gpt2-2x32/seed0 is being made by another process"):
        report.begin("data", namespace())


def test_papermill_end_to_end(project, monkeypatch):
    """A real kernel: an unknown parameter ends before any compute, a good run leaves the whole contract."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    sources = [
        'profile: str = "tiny"  # a file of config/\ntask: str = "inference"\nmodel: str = ""\n'
        'seed: int = 0\nresults: str = "results"',
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
