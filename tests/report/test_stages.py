"""What earlier stages left: found, whole, and made from one another, or one clear sentence."""

import shutil

import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import stages
from tests.report.stage_runs import PROFILE, begin_synthesis, make, namespace


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


def test_synthesis_reads_every_run(project):
    cells = [("inference", model, seed) for model in ("gpt2-2x32", "gpt2-3x64") for seed in (0, 1)]
    cells += [("addition", "gpt2-2x32", seed) for seed in (0, 1)]
    for task, model, seed in cells:
        for stage in stages.NEEDS:
            make(stage, task=task, model=model, seed=seed)
    run = begin_synthesis()
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
        begin_synthesis()
