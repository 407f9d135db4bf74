"""The recorder: the contract of its files, checks on earlier stages, nothing finished ever lost."""

import ast
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import altair
import nbformat
import numpy as np
import pandas as pd
import papermill.cli
import pytest

from memgen import config, manifest, place
from memgen.config import STAGES, Cell, InputError
from memgen.intervals import Estimate
from memgen.manifest import load_manifest, load_metrics
from memgen.run import NOT_MEASURED, Run, begin, in_words

REPOSITORY = Path(__file__).resolve().parents[1]
PROFILE = """
runs: {inference: {models: [gpt2-2x32, gpt2-3x64]}, addition: {models: [gpt2-2x32]}}
seeds: [0, 1]
"""
SMALL = """
runs:
  inference: {models: [gpt2-2x32]}
  inference-matched: {task: inference, form: matched, models: [gpt2-2x32]}
seeds: [0]
comparisons:
  seeds: [1]
  runs:
    inference: {models: [gpt2-2x32]}
    joint: {models: [gpt2-1x16], analysed: false}
"""
CELLS = [
    Cell("inference", "gpt2-2x32", 0),
    Cell("inference-matched", "gpt2-2x32", 0),
    Cell("inference", "gpt2-2x32", 1),
    Cell("joint", "gpt2-1x16", 1),
]
FRAME = pd.DataFrame({"layer": [0, 1], "value": [0.25, 0.75], "n": [4, 8]})
CHART = altair.Chart(FRAME, description="It rises.").mark_bar().encode(x="layer:O", y="value:Q")
DESCRIBED = {"definition": "Share of inputs that are right.", "unit": "accuracy 0-1"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, to which the working directory is set."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(stage="data", **parameters) -> Run:
    """Begin a stage; of the whole profile without naming a run."""
    run = {} if STAGES[stage].of_profile else {"task": "inference"}
    return begin(stage, **{"profile": "tiny", **run, **parameters})


def make(stage, files=("one.txt",), **parameters) -> Path:
    """Run a stage that reads the stages before it and writes files."""
    run = started(stage, **parameters)
    if STAGES[stage].of_profile:
        run.metrics()
    else:
        for earlier in STAGES[stage].reads:
            run.input(earlier, "one.txt")
    for file in files:
        run.path(file).write_text(f"{stage} {file}")
    run.record("accuracy", 0.5, n=10, layer=1, **DESCRIBED)
    run.finish()
    return run.folder


def make_all(project, profile, make=make):
    """Write a profile and run all stages of all its runs."""
    (project / "config/tiny.yaml").write_text(profile)
    loaded = config.load_profile("tiny")
    for cell in loaded.cells():
        for stage in config.stages_of(loaded.spec(cell.task)):
            make(stage, **cell._asdict())
    for stage in STAGES.values():
        if stage.of_profile:
            make(stage.name)


def snapshot(folder):
    """Every file below a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stages_in(folder):
    """The finished stages and all else in a run's folder but locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# --- what a finished stage leaves


def test_contract_of_a_finished_stage(project, capsys):
    make("data")
    run = started("training", steps=3)
    assert run.label == "inference/gpt2-2x32/seed0"
    assert run.config.model.name == run.parameters["model"] == "gpt2-2x32"
    assert run.input("data", "one.txt").read_text() == "data one.txt"
    run.path("model", "weights.bin").write_bytes(b"123")
    where = {"layer": np.int64(2), "method": "study", "control": None}
    run.record("accuracy", Estimate(0.5, 0.4, 0.6, 10), **where, **DESCRIBED)
    run.record("accuracy", Estimate(0.5, 0.4, np.nan, 12), **DESCRIBED)
    run.record("empty", np.nan, n=0, **DESCRIBED)
    run.figure(CHART, "by_layer", caption="Value by layer.", data=FRAME)
    run.table(FRAME, "values", caption="Values.")
    folder = project / "results/tiny/inference/gpt2-2x32/seed0/training"
    assert not folder.exists()
    run.finish()

    assert run.folder == folder
    files = {str(path) for path in snapshot(folder)}
    assert files == {
        "manifest.json",
        "metrics.json",
        "model/weights.bin",
        "figures/by_layer.vl.json",
        "figures/by_layer.csv",
        "figures/by_layer.png",
        "tables/values.csv",
    }
    records = json.loads((folder / "metrics.json").read_text())
    assert records[0] == {
        "measure": "accuracy",
        "layer": 2,
        "method": "study",
        "value": 0.5,
        "ci_low": 0.4,
        "ci_high": 0.6,
        "n": 10,
        "unit": "accuracy 0-1",
        "definition": "Share of inputs that are right.",
    }
    assert [[record[field] for field in ("value", "ci_low", "ci_high", "n")] for record in records[1:]] == [
        [0.5, 0.4, None, 12],
        [None, None, None, 0],
    ]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "figures/by_layer.csv"), FRAME)
    assert json.loads((folder / "figures/by_layer.vl.json").read_text())["description"] == "It rises."
    assert (folder / "figures/by_layer.png").read_bytes().startswith(b"\x89PNG")

    about = load_manifest(folder)
    assert about["outputs"]["model/weights.bin"] == {"sha256": hashlib.sha256(b"123").hexdigest(), "bytes": 3}
    assert about["outputs"].keys() == files - {"manifest.json"}
    assert about["inputs"] == {"data/one.txt": manifest.digest(run.input("data", "one.txt"))}
    assert about["parameters"] == {
        "profile": "tiny",
        "task": "inference",
        "model": "gpt2-2x32",
        "seed": 0,
        "results": "results",
        "steps": 3,
    }
    assert config.RunConfig.model_validate_json(json.dumps(about["config"])) == run.config
    assert about["packages"]["numpy"] == np.__version__
    assert about["git"] == {"commit": None, "dirty": None}  # the temporary project is no repository
    assert about["wall_seconds"] > 0
    assert about["peak_memory_bytes"] > 2**24
    assert "training of inference/gpt2-2x32/seed0" in capsys.readouterr().out
    for late in (lambda: run.record("late", 1.0, n=1, **DESCRIBED), lambda: run.path("late"), run.finish):
        with pytest.raises(RuntimeError, match="is finished"):
            late()


def git(folder, *words):
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_tells_changes_of_what_decides_numbers(project, monkeypatch):
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "First")
    first = {"commit": git(project, "rev-parse", "HEAD"), "dirty": False}
    assert manifest.commit() == first
    (project / "out.ipynb").write_text("{}")  # as the README's own command leaves it
    (project / "my notes.txt").write_text("x")
    assert manifest.commit() == first
    (project / "config/mine.yaml").write_text("x")
    assert manifest.commit() == first | {"dirty": True}
    (project / "config/mine.yaml").unlink()
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))  # as where a hook of another repository runs
    assert manifest.commit() == first


@pytest.mark.parametrize("tracked", [False, True])
def test_the_commit_of_a_repository_around_the_project_is_not_its_own(tmp_path, monkeypatch, tracked):
    for name in ("memgen-0.1.0/notebooks", "memgen-0.1.0/config"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "memgen-0.1.0/config/tiny.yaml").write_text(PROFILE)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all") if tracked else None
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "Another project")
    monkeypatch.chdir(tmp_path / "memgen-0.1.0")
    assert manifest.commit() == {"commit": None, "dirty": None}


@pytest.mark.parametrize("name", ["0011", "1e3", "nan", "None", "True"])
def test_the_command_of_a_stage_gives_its_names_as_text(name):
    """As papermill reads it: its own command line, with the execution caught."""
    given = {}
    words = shlex.split(place.Place("data", name, name, "gpt2-2x32", 7, results=name).command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("papermill.cli.execute_notebook", lambda **options: given.update(options["parameters"]))
        papermill.cli.papermill.main(words[1:], standalone_mode=False)
    assert given == {"profile": name, "task": name, "model": "gpt2-2x32", "seed": 7, "results": name}


def test_the_command_of_a_stage_works_where_no_environment_is_active(project):
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/papermill").touch()
    assert place.Place("data", "tiny", "inference", "gpt2-2x32").command.startswith(".venv/bin/papermill notebooks/")


def test_generators_depend_on_seed_stage_and_name_alone(project):
    make("data")
    make("data", seed=1)
    draws = {
        (stage, seed, name): started(stage, seed=seed).rng(name).random()
        for stage in ("data", "training")
        for seed in (0, 1)
        for name in ("a", "b")
    }
    assert len(set(draws.values())) == len(draws)
    assert started("data").rng("a").random() == draws["data", 0, "a"]
    assert started("data", model="gpt2-3x64").rng("a").random() == draws["data", 0, "a"]


# --- numbers


@pytest.mark.parametrize(
    ("value", "given", "message"),
    [
        (np.nan, {"n": 5}, "is nan; only a number with n = 0 may be undefined"),
        (np.inf, {"n": 5}, "is inf"),
        (0.5, {}, "needs n"),
        (0.5, {"n": 5, "unit": "percent"}, "a unit of share 0-1, .*not 'percent'"),
        (0.5, {"n": 5, "definition": ""}, "needs a definition"),
        (Estimate(0.5, 0.6, 0.4, 5), {}, "interval from 0.6 to 0.4"),
    ],
)
def test_bad_numbers_are_refused(project, value, given, message):
    with pytest.raises(ValueError, match=message):
        started().record("accuracy", value, **{**DESCRIBED, **given})


def test_a_number_for_each_row_of_a_table(project):
    run = started()
    frame = FRAME.assign(measure=["share", "net"], method=["study", None], ci_low=[0.1, np.nan], ci_high=[0.4, np.nan])
    run.record_table(frame, definition="Of {layer}.", unit="share 0-1", coordinates=("layer", "method"))
    run.record_table(FRAME, measure="mean", definition="All.", unit="nats", coordinates=["layer"])
    with pytest.raises(ValueError, match="two rows have the measure and coordinates"):
        run.record_table(FRAME, measure="again", definition="All.", unit="nats")
    run.finish()
    metrics = load_metrics(run.folder)
    assert metrics.measure.tolist() == ["share", "net", "mean", "mean"], "a refused table leaves nothing"
    assert metrics.query("method == 'study' and control.isna()").definition.tolist() == ["Of 0."]
    assert metrics.query("layer == 1").value.tolist() == [0.75, 0.75]
    assert metrics.ci_low.dropna().tolist() == [0.1]


def test_a_number_that_is_recorded_again_replaces_the_earlier_one(project):
    run = started()
    for value in (0.5, 0.6):
        run.record("accuracy", value, n=5, layer=1, **DESCRIBED)
    run.record("accuracy", 0.7, n=5, layer=2, **DESCRIBED)
    run.finish()
    assert load_metrics(run.folder).value.tolist() == [0.6, 0.7]


@pytest.mark.parametrize(
    ("value", "ci", "n", "unit", "text"),
    [
        (0.974, (0.951, 0.991), 1002, "share 0-1", "97.4 % [95.1, 99.1]"),
        (0.5, (None, None), 3, "accuracy 0-1", "50.0 % [n = 3]"),
        (-0.0312, (-0.1, 0.04), 12, "difference of shares", "−3.1 points [−10.0, 4.0]"),
        (-0.00001, (None, None), 12, "difference of shares", "0.0 points [n = 12]"),
        (1234, (None, None), 1234, "inputs", "1,234"),
        (16.64, (10.92, 120.4), 12, "neurons", "16.6 [10.9, 120]"),
        (0.12345, (0.1, 0.2), 7, "nats", "0.123 nats [0.100, 0.200]"),
        (999.7, (-1500, 2000), 7, "nats", "1,000 nats [−1,500, 2,000]"),
        (0.651, (0.5234, 0.785), 120, "AUROC 0-1", "0.651 [0.523, 0.785]"),
        (None, (None, None), 0, "share 0-1", NOT_MEASURED),
        (np.nan, (np.nan, np.nan), 0, "share 0-1", NOT_MEASURED),
    ],
)
def test_a_number_in_words(value, ci, n, unit, text):
    record = {"value": value, "ci_low": ci[0], "ci_high": ci[1], "n": n, "unit": unit}
    assert in_words(record).replace("\u00a0", " ") == text


def test_prose_pastes_the_number_that_a_query_selects(project, monkeypatch):
    glued = {}
    monkeypatch.setattr("myst_nb.glue", lambda key, text, display: glued.update({key: (text, display)}))
    run = started()
    run.record_table(FRAME, measure="mean", coordinates=["layer"], definition="Mean.", unit="share 0-1")
    run.glue("last", "measure == 'mean' and layer == @last", last=1)
    run.glue("none", "measure == 'mean' and method == 'study'")
    run.glue_text("verdict", "replicated")
    with pytest.raises(ValueError, match="2 records answer \"measure == 'mean'\""):
        run.glue("both", "measure == 'mean'")
    assert glued == {
        "last": ("75.0\u00a0% [n\u00a0=\u00a08]", False),
        "none": (NOT_MEASURED, False),
        "verdict": ("replicated", False),
    }


# --- what a stage is asked for


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": "x"}, "seed: .*integer, not 'x'"),
        ({"seed": True}, "seed: .*integer, not True"),
        ({"seed": -1}, "seed: .*not -1"),
        ({"task": "chess"}, "chess"),
        ({"task": 3}, "task 3"),
        ({"model": "bert"}, "bert"),
        ({"profile": "huge"}, "huge"),
        ({"results": 3}, "results must be text that names a folder, not 3"),
        ({"top_n": -1}, "top_n must be .* a number from 0, not -1"),
        ({"top_n": None}, "top_n must be .*, not None"),
    ],
)
def test_wrong_parameters_touch_nothing(project, given, message):
    make("data")
    before = snapshot(project)
    with pytest.raises(InputError, match=message) as error:
        started("training", **given)
    assert "\n" not in str(error.value)
    assert snapshot(project) == before


def test_unknown_stage(project):
    with pytest.raises(ValueError, match="stage must be one of data, training"):
        begin("trainin", profile="tiny")


# --- what earlier stages left


def test_missing_stage_names_the_command_that_makes_it(project):
    with pytest.raises(InputError) as error:
        started("training", seed=1, results="my results")
    assert str(error.value) == (
        "The data of inference/gpt2-2x32/seed1 was not found in "
        "my results/tiny/inference/gpt2-2x32/seed1/data; make it with "
        "`papermill notebooks/data.ipynb out.ipynb -r profile tiny -r task inference -r model gpt2-2x32 "
        "-p seed 1 -r results 'my results'`."
    )
    assert not (project / "my results").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "one.txt").write_text("changed"), "data/one.txt was changed"),
        (lambda folder: (folder / "one.txt").write_text("DATA one.txt"), "data/one.txt was changed"),  # as long
        (lambda folder: (folder / "one.txt").unlink(), "data/one.txt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "was not found"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"data cannot be read \(JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "data cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "data cannot be read"),
    ],
)
def test_damaged_stage_is_named(project, damage, message):
    damage(make("data"))
    with pytest.raises(InputError, match=message) as error:
        started("training")
    assert "papermill notebooks/data.ipynb out.ipynb" in str(error.value)
    assert "\n" not in str(error.value)


def test_stage_made_from_other_inputs_is_refused(project):
    make("data")
    make("training")
    started("localization")
    run = started("data")
    run.path("one.txt").write_text("other data")
    run.finish()
    with pytest.raises(InputError, match=r"training of .* was made from another data/one\.txt"):
        started("localization")


def test_inputs_are_those_of_earlier_stages(project):
    make("data", files=("tokenizer/vocabulary.json", "tokenizer/merges.txt", "tokenizers.txt"))
    run = started("training")
    assert run.input("data", "tokenizer").is_dir()
    with pytest.raises(ValueError, match="training does not read steering"):
        run.input("steering", "outcomes.parquet")
    with pytest.raises(InputError, match=r"has no test\.parquet; make it again"):
        run.input("data", "test.parquet")
    run.finish()
    assert list(load_manifest(run.folder)["inputs"]) == ["data/tokenizer/merges.txt", "data/tokenizer/vocabulary.json"]


# --- stages of the whole profile


def test_stages_of_the_whole_profile_read_every_run_and_those_before_them(project):
    make_all(project, SMALL)
    assert not (project / "results/tiny/joint/gpt2-1x16/seed1/steering").exists()
    shutil.rmtree(project / "results/tiny/carryover")
    with pytest.raises(InputError, match="carryover of tiny was not found in results/tiny/carryover") as error:
        started("synthesis")
    assert str(error.value).endswith("`papermill notebooks/carryover.ipynb out.ipynb -r profile tiny`.")

    run = started("carryover")
    assert run.cells() == CELLS
    metrics = run.metrics()
    assert len(metrics) == 3 * 5 + 2
    assert metrics.columns.tolist()[:8] == [
        *("task", "model", "seed", "stage", "base_task", "form", "conflicts"),
        "measure",
    ]
    matched = metrics.query("task == 'inference-matched' and stage == 'data'").iloc[0]
    assert (matched.base_task, matched.form, matched.conflicts, matched.layer) == ("inference", "matched", "none", 1)
    assert run.input("steering", "one.txt", cell=CELLS[2]).read_text() == "steering one.txt"
    with pytest.raises(ValueError, match="carryover does not read steering of joint"):
        run.input("steering", "one.txt", cell=CELLS[3])
    with pytest.raises(ValueError, match="carryover does not read synthesis"):
        run.input("synthesis", "metrics.json")
    draw = run.rng("matching").random()
    run.figure(CHART, "overlap", caption="Overlap.", data=FRAME)
    run.finish()
    assert run.folder == project / "results/tiny/carryover"
    assert "inference/gpt2-2x32/seed1/steering/one.txt" in load_manifest(run.folder)["inputs"]

    run = started("synthesis")
    assert run.rng("matching").random() != draw
    assert len(run.metrics()) == len(metrics), "only those of runs"
    main = run.metrics(comparisons=False)
    assert set(zip(main.task, main.model, main.seed, strict=True)) == set(CELLS[:2])
    assert run.input("carryover", "figures", "overlap.csv").is_file()
    run.finish()
    assert "carryover/figures/overlap.csv" in load_manifest(run.folder)["inputs"]
    shutil.rmtree(project / "results/tiny/inference/gpt2-2x32/seed1/steering")
    for stage in ("carryover", "synthesis"):
        with pytest.raises(InputError, match="steering of inference/gpt2-2x32/seed1 was not found"):
            started(stage)


def test_a_record_that_names_a_form_keeps_it(project):
    (project / "config/tiny.yaml").write_text(
        "runs: {joint: {form: both, models: [gpt2-1x16], analysed: false}}\nseeds: [0]\n"  # only data and training
    )
    run = started("data", task="joint")
    run.record("accuracy", 0.5, n=1, form="matched", **DESCRIBED)
    run.record("accuracy", 0.5, n=1, **DESCRIBED)
    run.path("one.txt").touch()
    run.finish()
    make("training", task="joint")
    assert started("carryover").metrics().query("stage == 'data'").form.tolist() == ["matched", "both"]


def test_a_stage_of_the_whole_profile_checks_what_it_uses(project, monkeypatch):
    make_all(project, SMALL)
    digested = []
    monkeypatch.setattr(place, "digest", lambda path: digested.append(path) or manifest.digest(path))
    run = started("carryover")
    assert digested == [], "nothing is read before it is asked for"
    run.input("steering", cell=CELLS[0])
    assert {f"{path.parent.name}/{path.name}" for path in digested} == {"steering/one.txt", "steering/metrics.json"}

    changed = project / "results/tiny/inference/gpt2-2x32/seed1/steering/one.txt"
    changed.write_text("steering ONE.txt")  # as long as before
    run = started("carryover")
    run.metrics()
    message = r"seed1/steering/one\.txt was changed after its stage finished; make it again"
    with pytest.raises(InputError, match=message):
        run.input("steering", "one.txt", cell=CELLS[2])
    changed.write_text("longer than it was before")
    with pytest.raises(InputError, match=message):
        started("carryover")


def test_a_stage_of_the_whole_profile_made_from_other_runs_is_refused(project):
    make_all(project, SMALL)
    started("synthesis")
    run = started("data", seed=1)
    run.path("one.txt").write_text("data one.txt")
    run.record("accuracy", 0.25, n=10, **DESCRIBED)
    run.finish()
    message = "carryover of tiny was made from another inference/gpt2-2x32/seed1/data/metrics"
    with pytest.raises(InputError, match=message):
        started("synthesis")
    for stage in ("planted", "carryover"):
        make(stage)
    started("synthesis")
    (project / "config/tiny.yaml").write_text(SMALL.replace("joint: {models: [gpt2-1x16], analysed: false}", ""))
    with pytest.raises(InputError, match="carryover of tiny was made from other runs than the profile has now"):
        started("synthesis")


# --- failures, kills, and other processes


def test_failed_rerun_leaves_the_finished_stage_untouched(project):
    folder = make("data")
    before = snapshot(folder)
    started("data").path("one.txt").write_text("half")
    assert snapshot(folder) == before
    make("data", files=("two.txt",))
    assert not (folder / "one.txt").exists()
    assert stages_in(folder.parent) == ["data"]


@pytest.mark.parametrize("renames", [0, 1])
def test_process_killed_during_replacement_loses_nothing(project, monkeypatch, renames):
    folder = make("data")
    run = started("data")
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
    assert folder.exists() == (renames == 0)
    started("training" if renames else "data")  # the next to read or to make it
    assert (folder / "two.txt").read_text() == "new"
    assert "manifest.json" in snapshot(folder).keys() | {path.name for path in folder.iterdir()}


def test_interrupted_run_resumes_only_with_the_same_settings_and_inputs(project):
    make("data")

    def resumes(**parameters):
        run = started("training", resume=True, **parameters)
        found = run.path("checkpoints", "last").exists()
        run.path("checkpoints", "last").write_text("step 50")
        run.path("figures", "old.csv").write_text("from the interrupted run")
        return found

    assert not resumes()
    assert resumes()
    assert not resumes(steps=3)
    assert not resumes()
    assert not (started("training", resume=True).folder / "figures").exists()
    make("data", files=("one.txt", "more.txt"))  # other inputs
    assert not resumes()
    assert resumes()
    (project / "config/tiny.yaml").write_text(PROFILE + "training: {inference: {steps: 7}}\n")
    assert not resumes()
    started("training")  # empties the folder
    assert not resumes()


MEANS = {  # what decides the numbers of a training beside its settings and inputs, and another one
    "code": lambda patch: Path("notebooks/training.py").write_text("CLIP_NORM = 0.1"),
    "packages": lambda patch: patch.setattr(manifest.importlib.metadata, "version", lambda name: "0"),
    "python": lambda patch: patch.setattr(manifest.platform, "python_version", lambda: "3.99"),
    "threads": lambda patch: patch.setattr("torch.get_num_threads", lambda: 64),
    "processor": lambda patch: patch.setattr(manifest, "_processor", lambda: "another"),
    "accelerator": lambda patch: (
        patch.setattr("torch.cuda.is_available", lambda: True),
        patch.setattr("torch.cuda.get_device_name", lambda: "a card"),
    ),
}


@pytest.mark.parametrize("what", MEANS)
def test_a_training_that_was_begun_otherwise_starts_anew_and_says_so(project, monkeypatch, capsys, what):
    make("data")
    Path("notebooks/training.py").write_text("CLIP_NORM = 1.0")
    started("training", resume=True).path("checkpoints", "last").write_text("step 50")
    with monkeypatch.context() as patch:
        MEANS[what](patch)
        run = started("training", resume=True)
    assert not run.path("checkpoints", "last").exists()
    assert f"training of inference/gpt2-2x32/seed0 had other {what}: it starts anew" in capsys.readouterr().out
    run.finish()
    assert load_manifest(run.folder)["resumed"] is False


def test_a_module_that_a_notebook_imports_is_its_code(tmp_path):
    """Directly or through others; comments and prose are not."""
    for module in ("training", "tasks/lessons"):
        assert f"memgen/{module}.py" in " ".join(config.sources(REPOSITORY / "notebooks/training.py"))
    for name, text in (("a", "x = 1"), ("b", "# Prose.\nx = 1  # one"), ("c", "x = 2")):
        (tmp_path / f"{name}.py").write_text(text)
    a, b, c = (manifest.means(tmp_path / f"{name}.py")["code"] for name in "abc")
    assert a == b != c


def test_a_resumed_training_says_so_and_keeps_nothing_of_a_kill(project):
    make("data")
    Path("notebooks/training.py").write_text("CLIP_NORM = 1.0")
    run = started("training", resume=True)
    run.path("checkpoints", "last").write_text("step 50")
    run.path(".metrics.json.123").write_text("half")  # of a process that was killed while it wrote
    Path("notebooks/training.py").write_text("# The same.\nCLIP_NORM = 1.0")
    run = started("training", resume=True)
    run.finish()
    about = load_manifest(run.folder)
    assert about["resumed"] is True
    assert set(about["outputs"]) == {"checkpoints/last", "metrics.json"}
    started("training", resume=True)  # killed before it had written anything
    run = started("training", resume=True)
    run.finish()
    assert load_manifest(run.folder)["resumed"] is False


def test_two_processes_never_make_the_same_stage(project):
    code = (
        "from memgen.run import begin; run = begin('data', profile='tiny', task='inference'); print('begun'); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(InputError, match="data of inference/gpt2-2x32/seed0 is being made by another process"):
            started("data")
        other.kill()
    make("data")  # a lock ends with its process


def test_papermill_end_to_end(project, monkeypatch):
    """In a real kernel, a run leaves the contract and the text that prose pastes."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    sources = [
        'profile: str = "tiny"  # a file of config/\nseed: int = 0',
        'from memgen.run import begin\n\nrun = begin("data", profile=profile, task="inference", seed=seed)',
        'run.record("accuracy", 0.5, definition="Share right.", unit="accuracy 0-1", n=10)\n'
        'run.glue("accuracy", "measure == \'accuracy\'")\nrun.finish()',
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), "data.ipynb")

    papermill.execute_notebook("data.ipynb", "out.ipynb", {"seed": 3}, progress_bar=False, start_timeout=300)
    about = load_manifest(project / "results/tiny/inference/gpt2-2x32/seed3/data")
    assert about["parameters"]["seed"] == 3
    assert about["outputs"].keys() == {"metrics.json"}
    outputs = [output for cell in nbformat.read("out.ipynb", 4).cells for output in cell.get("outputs", [])]
    glued = [output for output in outputs if "scrapbook" in output.get("metadata", {})]
    assert [output.metadata.scrapbook.name for output in glued] == ["accuracy"]
    (text,) = glued[0].data.values()
    assert ast.literal_eval(text).replace("\u00a0", " ") == "50.0 % [n = 10]"  # myst-nb evaluates it, too
