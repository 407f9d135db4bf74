"""Publishing: nothing lost, nothing large, nothing that is not finished; and a run made again, compared."""

import json
import shutil

import pandas as pd
import pytest

from book.build import __main__ as command_line
from book.build.publish import publish
from memgen import published
from memgen.config import STAGES, InputError
from memgen.manifest import load_manifest
from tests.book.made import snapshot
from tests.book.recorded import CELL, make, make_all, started

OF_RUN = [stage.name for stage in STAGES.values() if not stage.of_profile]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a finished profile."""
    project = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        make_all(project)
    return project


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of that project, in which the test works."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_no_digit_is_lost(project):
    publish("tiny")
    found = published.published("tiny")
    now = started("synthesis").metrics()
    assert found.metrics.columns.tolist() == now.columns.tolist()
    pd.testing.assert_frame_equal(found.metrics, now, check_exact=True, check_dtype=False)
    assert (found.metrics.value == 2 / 3).any()
    assert set(found.metrics.query("task == 'joint'").stage) == {"data", "training"}
    assert set(found.metrics[found.metrics.measure == "empty"].form) == {"matched"}, "a form that a record names stays"
    of_stage = found.stage_metrics("carryover")
    assert of_stage.loc[0, ["task", "value", "ci_low", "ci_high", "n"]].tolist() == [
        "inference",
        1 / 3,
        0.1 + 0.2,
        1,
        2,
    ]
    for table in (found.table("synthesis", "sevenths"), found.table("training", "sevenths", run=CELL)):
        assert table.value.tolist() == [0.25 / 7, 0.75 / 7]


def test_the_numbers_can_be_read_without_memgen(project):
    frame = pd.read_parquet(publish("tiny") / "metrics.parquet")
    steered = frame.query("stage == 'steering' and seed == 1 and method == 'study'")
    assert steered.value.tolist() == [2 / 3]
    assert steered.definition.tolist() == ["Share of inputs that are right."]
    assert not frame.isna().all().any()


def test_only_small_results_of_finished_stages_are_published(project):
    folder = publish("tiny")
    assert folder == project / "book/published/tiny"
    tables = {f"{CELL}/{stage}/tables/sevenths.csv" for stage in OF_RUN}
    tables |= {f"{stage}/tables/sevenths.csv" for stage in ("planted", "carryover", "synthesis")}
    assert {str(path) for path in snapshot(folder)} == {"README.json", "metrics.parquet", "manifests.json", *tables}
    manifests = json.loads((folder / "manifests.json").read_text())
    stages = [(manifest["run"], manifest["stage"]) for manifest in manifests]
    assert len(set(stages)) == len(stages) == 5 + 5 + 2 + 3
    assert {("joint/gpt2-1x16/seed1", "training"), ("tiny", "carryover")} <= set(stages)
    training = manifests[stages.index((CELL, "training"))]
    assert set(training["outputs"]) == {"metrics.json", "tables/sevenths.csv"}, "no checkpoints"
    assert {"parameters", "config", "machine", "packages", "git", "command"} <= set(training)
    about = json.loads((folder / "README.json").read_text())
    assert (about["profile"], about["command"]) == ("tiny", "make book PROFILE=tiny")
    assert about["runs"] == [CELL, "inference/gpt2-2x32/seed1", "joint/gpt2-1x16/seed1"]
    assert (about["commits"], about["dirty"]) == ([], False)  # the temporary project is no repository
    assert about["stages"] == list(STAGES)
    assert about["date"] == max(manifest["finished"] for manifest in manifests)


def test_the_folder_is_replaced_as_a_whole_and_the_same_results_give_the_same_bytes(project):
    folder = publish("tiny")
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
        (lambda run: make("training", 0.5), "was made from another"),
    ],
)
def test_what_is_not_finished_is_refused_and_the_old_stays(project, capsys, damage, message):
    before = snapshot(publish("tiny"))
    damage(project / "results/tiny" / CELL)
    assert command_line.main(["publish", "tiny"]) == 1
    assert message in capsys.readouterr().err
    assert snapshot(project / "book/published/tiny") == before


def test_what_is_published_is_an_input_of_other_profiles(project):
    publish("tiny")
    assert started("carryover").published("tiny") is None, "a profile never decides what is published of it next"
    (project / "config/other.yaml").write_text("runs: {inference: {models: [gpt2-1x16]}}\nseeds: [0]\n")
    run = started("data", profile="other")
    assert run.published() is None, "nothing of the profile full"
    assert len(run.published("tiny").metrics) > 0
    run.finish()
    inputs = load_manifest(run.folder)["inputs"]
    assert inputs.keys() == {f"book/published/tiny/{path}" for path in snapshot(project / "book/published/tiny")}
    (project / "book/published/tiny/README.json").write_text("changed")
    with pytest.raises(InputError, match=r"was made from another book/published/tiny/README\.json than"):
        started("training", profile="other")


def test_a_run_made_again_is_compared_to_the_last_digit(project, capsys):
    publish("tiny")
    check = ["check", "tiny", CELL]
    assert command_line.main(check) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [[stage, "equal"] for stage in OF_RUN]
    assert "every number is the published one" in lines[5]
    assert command_line.main(["check", "tiny", "joint/gpt2-1x16/seed1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3

    make("training", 2 / 3 + 1e-9)
    (project / "results/tiny" / CELL / "steering/manifest.json").unlink()
    capsys.readouterr()
    assert command_line.main(check) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=1) == ["training", "1 of 3 values differ, by at most 1e-09"]
    assert lines[4].startswith("steering      not made (with `papermill notebooks/steering.ipynb")
    assert [line.split()[1] for line in lines[:5]] == ["equal", "1", "equal", "equal", "not"]


def test_numbers_that_are_missing_or_new_are_counted(project, capsys):
    publish("tiny")
    run = started("data")
    run.record("accuracy", 0.5, n=10, layer=2, definition="Share.", unit="accuracy 0-1")
    run.finish()
    capsys.readouterr()
    assert command_line.main(["check", "tiny", CELL]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split(maxsplit=1) == ["data", "3 were published only; 1 are here only"]


def test_other_intervals_of_the_same_values_are_no_difference(project, capsys):
    publish("tiny")
    path = project / "results/tiny" / CELL / "data/metrics.json"
    path.write_text(path.read_text().replace("0.4", "0.3"))
    assert command_line.main(["check", "tiny", CELL]) == 0


@pytest.mark.parametrize(
    ("profile", "cell", "message"),
    [
        ("full", CELL, "Nothing was published of the profile 'full' in book/published/full."),
        ("tiny", "addition/gpt2-2x32/seed0", "was not published; published runs of tiny are inference/gpt2-2x32/seed0"),
        ("tiny", "tiny", "was not published"),
        ("tiny", "../..", "was not published"),
    ],
)
def test_what_cannot_be_compared_is_refused(project, capsys, profile, cell, message):
    publish("tiny")
    assert command_line.main(["check", profile, cell]) == 1
    assert message in capsys.readouterr().err
    assert command_line.main(["check", "tiny", CELL, "--results", "elsewhere"]) == 1
    assert "make the run first, with `papermill notebooks/data.ipynb" in capsys.readouterr().err
