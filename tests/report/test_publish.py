"""Published results: nothing lost, nothing large, nothing that is not finished; compared with a run made again."""

import json
import shutil

import pandas as pd
import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import __main__ as command_line
from memgen.report import publication, publish, stages
from tests.report.stage_runs import DESCRIBED, FRAME, begin_whole, make, make_all, namespace, snapshot

PROFILE = """
runs: {inference: [gpt2-2x32]}
seeds: [0]
comparisons: {seeds: [1], runs: {inference: [gpt2-2x32], joint: [gpt2-1x16]}}
"""
CELL = "inference/gpt2-2x32/seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a finished profile; one stage has a checkpoint, a figure's data, and awkward numbers."""
    project = tmp_path_factory.mktemp("made")
    (project / "notebooks").mkdir()
    (project / "config").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        make_results(project)
    return project


@pytest.fixture
def whole(made, tmp_path, monkeypatch):
    """A copy of that project, in which the test works."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def make_results(project):
    """Make all stages of the profile."""
    make_all(project, PROFILE)
    finish_training()
    for stage in ("localization", "prediction", "steering"):
        make(stage)
    for stage in stages.PROFILE_STAGES:
        run = begin_whole(stage)
        run.metrics()
        run.record("third", 1 / 3, n=2, interval=(0.1 + 0.2, 1.0), **DESCRIBED)
        run.table(FRAME / 3, "thirds", caption="Thirds.")
        run.finish()


def finish_training(value=2 / 3, seed=0):
    """Make the training of a run."""
    run = report.begin("training", namespace(seed=seed))
    run.input("data", "one.txt")
    run.path("one.txt").write_text("training one.txt")
    run.path("checkpoints", "step10", "weights").write_text("large")
    run.record("loss", value, n=10, **DESCRIBED)
    run.record('empty, with a "quote"', float("nan"), n=0, **DESCRIBED)
    run.table(FRAME / 7, "sevenths", caption="Sevenths.")
    run.finish()


def test_no_digit_is_lost(whole):
    publish.publish("tiny")
    found = report.published("tiny")
    now = begin_whole("synthesis").metrics()
    pd.testing.assert_frame_equal(found.metrics, now.astype({"ci_low": float, "ci_high": float}), check_exact=True)
    assert (found.metrics.value == 2 / 3).any()
    assert set(found.metrics.query("task == 'joint'").stage) == {"data", "training"}
    of_stage = found.stage_metrics("carryover")
    assert of_stage.columns.tolist() == list(stages.METRIC_FIELDS)
    assert of_stage.loc[0, ["value", "ci_low", "ci_high", "n"]].tolist() == [1 / 3, 0.1 + 0.2, 1.0, 2]
    for table in (found.table("synthesis", "thirds"), found.table("training", "sevenths", run=CELL)):
        assert table.value.tolist() in ([0.25 / 3, 0.75 / 3], [0.25 / 7, 0.75 / 7])
    with pytest.raises(InputError, match=r"published/tiny/synthesis has no table or figure 'halves'; it has thirds\."):
        found.table("synthesis", "halves")


def test_only_small_results_of_finished_stages_are_published(whole):
    folder = publish.publish("tiny")
    assert folder == whole / "book/published/tiny"
    assert {str(path) for path in snapshot(folder)} == {
        "README.json",
        "metrics.csv",
        "manifests.json",
        "carryover/tables/thirds.csv",
        "synthesis/tables/thirds.csv",
        f"{CELL}/training/tables/sevenths.csv",
    }
    manifests = json.loads((folder / "manifests.json").read_text())
    made = [(manifest["run"], manifest["stage"]) for manifest in manifests]
    assert len(set(made)) == len(made) == 5 + 5 + 2 + 2
    assert {("joint/gpt2-1x16/seed1", "training"), ("tiny", "carryover")} <= set(made)
    training = manifests[made.index((CELL, "training"))]
    assert {"one.txt", "metrics.json", "tables/sevenths.csv"} == set(training["outputs"]), "no checkpoints"
    assert {"parameters", "config", "machine", "packages", "git", "command"} <= set(training)
    about = json.loads((folder / "README.json").read_text())
    assert (about["profile"], about["command"]) == ("tiny", "make book PROFILE=tiny")
    assert about["runs"] == [CELL, "inference/gpt2-2x32/seed1", "joint/gpt2-1x16/seed1"]
    assert (about["commits"], about["dirty"]) == ([], False)  # the temporary project is no repository
    assert about["stages"] == list(stages.STAGES)
    assert about["date"] == max(manifest["finished"] for manifest in manifests)


def test_the_folder_is_replaced_as_a_whole_and_the_same_results_give_the_same_bytes(whole):
    folder = publish.publish("tiny")
    before = snapshot(folder)
    (folder / "stale.csv").write_text("from another time")
    assert command_line.main(["publish", "tiny"]) == 0
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "steering/manifest.json").unlink(), "steering of inference/gpt2-2x32/seed0 was not found"),
        (lambda run: (run / "training/metrics.json").write_text("[]"), "training/metrics.json was changed"),
        (lambda run: (run / "training/tables/sevenths.csv").write_text("1"), "sevenths.csv was changed"),
        (lambda run: (run.parents[2] / "synthesis/manifest.json").unlink(), "synthesis of tiny was not found"),
        (lambda run: finish_training(0.5), "was made from another"),
    ],
)
def test_what_is_not_finished_is_refused_and_the_old_stays(whole, capsys, damage, message):
    before = snapshot(publish.publish("tiny"))
    damage(whole / "results/tiny" / CELL)
    assert command_line.main(["publish", "tiny"]) == 1
    assert message in capsys.readouterr().err
    assert snapshot(whole / "book/published/tiny") == before


@pytest.mark.parametrize(
    ("commits", "dirty", "code"),
    [
        (["a" * 40], False, "commit aaaaaaa"),
        (["a" * 40, "b" * 40], True, "commits aaaaaaa, bbbbbbb with uncommitted changes"),
        ([], False, "commit unknown"),
    ],
)
def test_the_label_says_whose_results_they_are(commits, dirty, code):
    about = {"commits": commits, "dirty": dirty, "command": "make book PROFILE=full"}
    label = publication.Published("full", about).label
    assert label == f"Published results of the profile full, {code}, made by `make book PROFILE=full`"


def test_what_is_published_is_an_input_of_other_profiles(whole):
    assert report.published("tiny") is None
    publish.publish("tiny")
    assert begin_whole("carryover").published("tiny") is None, "its own never decides what is published next"
    (whole / "config/other.yaml").write_text("runs: {inference: [gpt2-1x16]}\nseeds: [0]\n")
    run = report.begin("data", namespace(profile="other"))
    assert run.published() is None, "nothing of the profile full"
    assert len(run.published("tiny").metrics) > 0
    run.finish()
    inputs = report.load_manifest(run.folder)["inputs"]
    assert inputs.keys() == {f"book/published/tiny/{path}" for path in snapshot(whole / "book/published/tiny")}
    report.begin("training", namespace(profile="other"))
    (whole / "book/published/tiny/metrics.csv").write_text("changed")
    with pytest.raises(InputError, match=r"was made from another book/published/tiny/metrics\.csv than"):
        report.begin("training", namespace(profile="other"))


@pytest.mark.parametrize("file", ["README.json", "metrics.csv"])
def test_a_part_of_what_was_published_is_refused(whole, file):
    (publish.publish("tiny") / file).unlink()
    with pytest.raises(InputError, match=r"book/published/tiny is incomplete; restore it with git"):
        report.published("tiny")


def test_a_run_made_again_is_compared_byte_for_byte(whole, capsys):
    publish.publish("tiny")
    check = ["check", "tiny", CELL]
    assert command_line.main(check) == 0
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()[:5]] == [[stage, "equal"] for stage in stages.NEEDS]
    assert "every number is the published one" in said
    assert command_line.main(["check", "tiny", "joint/gpt2-1x16/seed1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3

    finish_training(2 / 3 + 1e-9)
    (whole / "results/tiny" / CELL / "steering/manifest.json").unlink()
    capsys.readouterr()
    assert command_line.main(check) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1].split(maxsplit=1) == ["training", "differs (1 of 2 values, by at most 1e-09)"]
    assert said[4].startswith("steering      not made (with `papermill notebooks/steering.ipynb")
    assert [line.split()[1] for line in said[:5]] == ["equal", "differs", "equal", "equal", "not"]


@pytest.mark.parametrize(
    ("profile", "cell", "message"),
    [
        ("full", CELL, "Nothing was published of the profile 'full' in book/published/full."),
        ("tiny", "addition/gpt2-2x32/seed0", "was not published; published runs of tiny are inference/gpt2-2x32/seed0"),
        ("tiny", "tiny", "was not published"),
        ("tiny", "../..", "was not published"),
    ],
)
def test_what_cannot_be_compared_is_said(whole, capsys, profile, cell, message):
    publish.publish("tiny")
    assert command_line.main(["check", profile, cell]) == 1
    assert message in capsys.readouterr().err
    assert command_line.main(["check", "tiny", CELL, "--results", "elsewhere"]) == 1
    assert "make the run first, with `papermill notebooks/data.ipynb" in capsys.readouterr().err
