"""What earlier stages left: found, whole, and made from one another, or one clear sentence."""

import shutil

import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import provenance, stages
from tests.report.stage_runs import CHART, DESCRIBED, FRAME, PROFILE, begin_whole, make, make_all, make_whole, namespace


def test_missing_stage_names_the_command_that_makes_it(project):
    with pytest.raises(InputError) as error:
        report.begin("training", namespace(seed=1, results="my results"))
    assert str(error.value) == (
        "The data of inference/gpt2-2x32/seed1 was not found in "
        "my results/tiny/inference/gpt2-2x32/seed1/data; make it with "
        "`papermill notebooks/data.ipynb out.ipynb -p profile tiny -p task inference -p model gpt2-2x32 "
        "-p seed 1 -p results 'my results'`."
    )
    assert not (project / "my results").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "one.txt").write_text("changed"), "data/one.txt was changed"),
        (lambda folder: (folder / "one.txt").unlink(), "data/one.txt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "was not found"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"data cannot be read \(JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "data cannot be read"),
    ],
)
def test_damaged_stage_is_named(project, damage, message):
    damage(make("data"))
    with pytest.raises(InputError, match=message) as error:
        report.begin("training", namespace())
    assert "papermill notebooks/data.ipynb out.ipynb" in str(error.value)
    assert "\n" not in str(error.value)


def test_stage_made_from_other_inputs_is_refused(project):
    make("data")
    make("training")
    report.begin("localization", namespace())
    (project / "config/tiny.yaml").write_text(PROFILE)
    run = report.begin("data", namespace())
    run.path("one.txt").write_text("other data")
    run.finish()
    with pytest.raises(InputError, match=r"training of .* was made from another data/one\.txt"):
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


SMALL = """
runs: {inference: [gpt2-2x32], inference-matched: [gpt2-2x32]}
seeds: [0]
comparisons: {seeds: [1], runs: {inference: [gpt2-2x32], joint-small: [gpt2-1x16]}}
"""
CELLS = [
    ("inference", "gpt2-2x32", 0),
    ("inference-matched", "gpt2-2x32", 0),
    ("inference", "gpt2-2x32", 1),
    ("joint-small", "gpt2-1x16", 1),
]
SOME_FILE = "results/tiny/inference/gpt2-2x32/seed1/steering/one.txt"


def test_a_run_has_the_stages_that_its_task_needs():
    assert stages.needed("inference-matched") == stages.needed("inference") == tuple(stages.NEEDS)
    assert stages.needed("joint") == stages.needed("joint-small") == ("data", "training")
    assert stages.needed("addition-none") == ("data", "training")
    assert stages.STAGES[-2:] == ("carryover", "synthesis")


def test_stages_of_the_whole_profile_read_every_run_and_those_before_them(project):
    (project / "config/tiny.yaml").write_text(SMALL)
    for task, model, seed in CELLS:
        for stage in stages.needed(task):
            make(stage, task=task, model=model, seed=seed)
    assert not (project / "results/tiny/joint-small/gpt2-1x16/seed1/steering").exists()
    with pytest.raises(
        InputError, match="carryover of tiny was not found in results/tiny/carryover; make it with"
    ) as error:
        begin_whole("synthesis")
    assert str(error.value).endswith("`papermill notebooks/carryover.ipynb out.ipynb -p profile tiny`.")

    run = begin_whole("carryover")
    assert run.cells() == CELLS
    metrics = run.metrics()
    assert len(metrics) == 3 * len(stages.NEEDS) + 2
    assert metrics.columns.tolist()[:5] == ["task", "model", "seed", "stage", "name"]
    assert run.input("steering", "one.txt", cell=CELLS[2]).read_text() == "steering one.txt"
    with pytest.raises(ValueError, match="carryover does not read steering of joint-small"):
        run.input("steering", "one.txt", cell=CELLS[3])
    with pytest.raises(ValueError, match="carryover does not read synthesis"):
        run.input("synthesis", "metrics.json")
    draw = run.rng("matching").random()
    run.record("overlap", 0.5, n=2, **DESCRIBED)
    run.figure(CHART, "overlap", caption="Overlap.", alt="It rises.", data=FRAME)
    run.finish()
    assert run.folder == project / "results/tiny/carryover"
    assert "inference/gpt2-2x32/seed1/steering/one.txt" in report.load_manifest(run.folder)["inputs"]

    run = begin_whole("synthesis")
    assert run.rng("matching").random() != draw
    assert run.cells() == CELLS
    assert len(run.metrics()) == len(metrics), "only those of runs"
    main = run.metrics(comparisons=False)
    assert set(zip(main.task, main.model, main.seed, strict=True)) == set(CELLS[:2])
    assert report.load_metrics(run.input("carryover", "metrics.json").parent).name.tolist() == ["overlap"]
    assert run.input("carryover", "figures", "overlap.csv").is_file()
    run.finish()
    inputs = report.load_manifest(run.folder)["inputs"]
    assert {"carryover/metrics.json", "carryover/figures/overlap.csv"} <= set(inputs)
    shutil.rmtree(project / "results/tiny/inference/gpt2-2x32/seed1/steering")
    for stage in stages.PROFILE_STAGES:
        with pytest.raises(InputError, match="steering of inference/gpt2-2x32/seed1 was not found"):
            begin_whole(stage)


def test_a_stage_of_the_whole_profile_checks_what_it_uses(project, monkeypatch):
    make_all(project, SMALL)
    digested = []
    monkeypatch.setattr(stages, "digest", lambda path: digested.append(path) or provenance.digest(path))
    run = begin_whole("carryover")
    assert digested == [], "nothing is read before it is asked for"
    run.input("steering", cell=CELLS[0])
    assert {path.name for path in digested} == {"one.txt", "metrics.json"}
    assert {path.parent.name for path in digested} == {"steering"}

    changed = project / SOME_FILE
    changed.write_text("steering ONE.txt")  # as long as before
    run = begin_whole("carryover")
    run.metrics()
    with pytest.raises(
        InputError, match=r"seed1/steering/one\.txt was changed after its stage finished; make it again"
    ):
        run.input("steering", "one.txt", cell=CELLS[2])
    changed.write_text("longer than it was before")
    with pytest.raises(
        InputError, match=r"seed1/steering/one\.txt was changed after its stage finished; make it again"
    ):
        begin_whole("carryover")
    changed.unlink()
    with pytest.raises(InputError, match=r"seed1/steering/one\.txt is missing"):
        begin_whole("carryover")


def test_a_run_checks_all_that_earlier_stages_left_at_once(project):
    changed = make("data", files=("one.txt", "two.txt")) / "two.txt"
    changed.write_text("data TWO.txt")
    with pytest.raises(InputError, match=r"two\.txt was changed"):
        report.begin("training", namespace())


def test_a_stage_of_the_whole_profile_made_from_other_runs_is_refused(project):
    make_all(project, SMALL)
    begin_whole("synthesis")
    run = report.begin("data", namespace(seed=1))
    run.path("one.txt").write_text("data one.txt")
    run.record("accuracy", 0.25, n=10, **DESCRIBED)
    run.finish()
    with pytest.raises(
        InputError, match=r"carryover of tiny was made from another inference/gpt2-2x32/seed1/data/metrics"
    ):
        begin_whole("synthesis")
    make_whole("carryover")
    begin_whole("synthesis")
    (project / "config/tiny.yaml").write_text(SMALL.replace("joint-small: [gpt2-1x16]", ""))
    with pytest.raises(InputError, match="carryover of tiny was made from other runs than the profile has now"):
        begin_whole("synthesis")
