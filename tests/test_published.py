"""Published results: read without a run, text as text; and what the repository keeps of the profile graded."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from memgen import behavior, config, published
from memgen.config import InputError
from memgen.display import Table
from memgen.manifest import COORDINATES, NUMBER_FIELDS
from memgen.published import Published
from memgen.run import begin
from memgen.subject import Subject

REPOSITORY = Path(__file__).resolve().parents[1]
ABOUT = {"commits": [], "dirty": False, "command": "make book PROFILE=tiny"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of published results that has two numbers and a table."""
    for name in ("notebooks", "config", "book/published/tiny/data/tables"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "book/published/tiny"
    (folder / "README.json").write_text(json.dumps(ABOUT))
    (folder / "data/tables/answers.csv").write_text(
        'group,answer,n,share,empty,none\n"2,3",05,10,0.5,,None\n"4,1",12,7,0,,x\n'
    )
    numbers = {
        "stage": ["data", "synthesis"],
        "task": "inference",
        "seed": [3, None],
        "measure": "pairs",
        "outcome": [None, "reached"],  # a coordinate of the stage of all runs alone
        "value": 1 / 3,
    }
    pd.DataFrame(numbers).astype({"seed": "Int64"}).to_parquet(folder / "metrics.parquet")
    return folder


def test_numbers_of_runs_have_the_columns_of_records(folder):
    metrics = published.published("tiny").metrics
    assert metrics.columns.tolist() == [
        *("task", "model", "seed", "stage", "base_task", "form", "conflicts", "measure"),
        *(name for name in COORDINATES if name not in ("form", "conflicts")),
        *NUMBER_FIELDS,
    ]
    assert metrics[["stage", "task", "seed", "value"]].values.tolist() == [["data", "inference", 3, 1 / 3]]
    assert published.published("tiny").stage_metrics("synthesis").value.tolist() == [1 / 3]


def test_further_runs_are_those_that_a_profile_of_the_same_settings_does_not_make(folder):
    runs = {
        "inference": {"models": ["gpt2-2x32"]},
        "addition": {"models": ["gpt2-2x32", "gpt2-3x32"]},
        "addition-matched": {"task": "addition", "form": "matched", "models": ["gpt2-2x32"]},
        "graded_addition": {"models": ["gpt2-2x32"]},
    }
    tiny = config.Profile.read({"name": "tiny", "runs": runs, "seeds": [3, 4]}, "tiny")
    (folder / "manifests.json").write_text(json.dumps([{"config": tiny.model_dump(mode="json")}]))
    numbers = pd.DataFrame(tiny.cells()).assign(stage="data", measure="pairs", value=1.0)
    numbers["base_task"] = [tiny.spec(name).task for name in numbers.task]
    numbers.to_parquet(folder / "metrics.parquet")
    found, here = published.published("tiny"), {"addition": {"models": ["gpt2-2x32"]}}
    small = config.Profile.read({"name": "small", "runs": here, "seeds": [3]}, "small")
    further = found.further_runs(small)
    assert list(further[["task", "model", "seed"]].itertuples(index=False, name=None)) == [
        ("addition", "gpt2-2x32", 4),
        ("addition-matched", "gpt2-2x32", 3),
        ("addition-matched", "gpt2-2x32", 4),
    ]
    other = config.Profile.read({"name": "other", "runs": here, "seeds": [5], "analysis": {"n_tokens": 2}}, "other")
    assert found.further_runs(other).empty


def test_text_is_read_as_text(folder):
    """An answer such as 05 is no number, and None is a word."""
    table = published.published("tiny").table("data", "answers")
    assert table.group.tolist() == ["2,3", "4,1"]
    assert table.answer.tolist() == ["05", "12"]
    assert (table.n.tolist(), table.share.tolist()) == ([10, 7], [0.5, 0.0])
    assert table["empty"].isna().all()
    assert table.none.tolist() == ["None", "x"]


NUMBERLIKE = ["0011", "1080", "1e3", "nan", "None", "True", "-5", "1_000", '4,"5"', None]


def test_text_that_looks_like_a_number_comes_back_as_it_was(folder):
    frame = pd.DataFrame({"word": NUMBERLIKE, "n": range(10), "share": [0.5, None] * 5, "is_right": [True, False] * 5})
    frame["whole"] = ["8031", None] * 5  # no leading zero gives it away
    (folder / "data/tables/words.csv").write_text(Table(frame, "words", caption="Words.").csv, encoding="utf-8")
    table = published.published("tiny").table("data", "words")
    assert (
        table.astype({"word": object, "whole": object})
        .where(table.notna(), None)
        .equals(frame.astype({"word": object, "whole": object}).where(frame.notna(), None))
    )
    assert [str(table[name].dtype) for name in ("n", "share", "is_right")] == ["int64", "float64", "bool"]


def test_a_table_that_is_missing_is_named_beside_those_that_are_there(folder):
    with pytest.raises(InputError, match=r"published/tiny/data has no table or figure 'halves'; it has answers\."):
        published.published("tiny").table("data", "halves")
    with pytest.raises(InputError, match=r"it has none\."):
        published.published("tiny").table("training", "halves", run="inference/gpt2-3x64/seed0")


@pytest.mark.parametrize("file", ["README.json", "metrics.parquet"])
def test_a_part_of_what_was_published_is_refused(folder, file):
    (folder / file).unlink()
    with pytest.raises(InputError, match=r"book/published/tiny is incomplete; restore it with git"):
        published.published("tiny")


def test_nothing_is_published_of_most_profiles(folder):
    assert published.published("other") is None


@pytest.mark.parametrize(("about", "words"), [({}, "full"), ({"status": "exploratory"}, "full (exploratory)")])
def test_the_label_says_whose_results_they_are(about, words):
    assert Published("full", ABOUT | about).label == f"Published results of the profile {words}"


# what the repository keeps


@pytest.fixture(scope="module")
def graded():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return published.published("graded"), published.published("graded").metrics


def test_every_number_of_the_earlier_runs_is_there(graded):
    """26,110 numbers were published, by stage; each has a place of its own, which no other has."""
    found, metrics = graded
    n = {"data": 196, "training": 588, "localization": 7438, "prediction": 902, "steering": 16838}
    assert metrics.stage.value_counts().to_dict() == n
    assert {stage: len(found.stage_metrics(stage)) for stage in ("carryover", "synthesis")} == {
        "carryover": 90,
        "synthesis": 58,
    }
    for numbers in (metrics, found.stage_metrics("carryover"), found.stage_metrics("synthesis")):
        assert not numbers.drop(columns=list(NUMBER_FIELDS)).duplicated().any()
    cells = {config.Cell(*cell) for cell in metrics[["task", "model", "seed"]].itertuples(index=False)}
    assert {f"{cell.task}/{cell.model}/seed{cell.seed}" for cell in cells} == set(found.about["runs"])


@pytest.mark.parametrize("name", ["full", "graded"])
def test_the_profile_has_the_runs_that_were_published(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found, profile = published.published(name), config.load_profile(name)
    metrics = found.metrics
    assert found.about["runs"] == ["{}/{}/seed{}".format(*cell) for cell in profile.cells()]
    assert {manifest["run"] for manifest in found.manifests} == {*found.about["runs"], name}
    for name, run in metrics.groupby("task"):
        assert (run.base_task == profile.spec(name).task).all()


def test_the_default_book_shows_the_published_runs_beside_its_own(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found, default = published.published("full"), config.load_profile("default")
    further = found.further_runs(default)
    cells = set(further[["task", "model", "seed"]].itertuples(index=False, name=None))
    of_default = [f"{task}/{model}/seed{seed}" for task, model, seed in default.cells()]
    assert {f"{task}/{model}/seed{seed}" for task, model, seed in cells} == {*found.about["runs"]} - {*of_default}
    assert found.further_runs(config.load_profile("smoke")).empty
    assert not found.about["dirty"]


def test_numbers_are_found_by_queries(graded):
    _, metrics = graded
    run = metrics.query("task == 'graded_inference' and model == 'gpt2-3x64' and seed == 0")
    assert run.query("measure == 'flip_rate'").value.tolist() == [0.1206140350877193]
    assert run.query("stage == 'prediction' and measure == 'accuracy' and population == 'open'").n.tolist() == [580]
    lost = (
        run.query("measure == 'lost' and method == 'fitted_mlp' and target == 'memorization'").set_index("inputs").value
    )
    assert lost.to_dict() == {"inferred_only": 0.6513157894736842, "memorized_only": 0.0}
    steered = "measure == 'reached' and method == 'study' and target == 'memorization' and population == 'conflicts'"
    reached = run.query(steered).set_index(run.query(steered).control.fillna("")).value
    assert set(reached.index) == {"", "best", "random_neurons", "random_direction", "least_correlated"}
    assert reached["best"] == reached.drop(["", "best"]).max()


def test_no_published_interval_is_a_point_and_those_within_earlier_runs_are_gone(graded):
    found, metrics = graded
    assert metrics[["ci_low", "ci_high"]].isna().all(axis=None)
    assert found.about["status"] == "exploratory"
    for words in ("seeds 0 to 7", "intervals", "limits"):
        assert words in found.about["note"]
    for path in found.folder.rglob("*.csv"):
        table = pd.read_csv(path)
        assert not {"low", "high", "auroc_low", "auroc_high", "preferred"} & set(table.columns), path
        if "ci_low" in table:
            assert not (table.ci_low == table.ci_high).any(), path


def test_answers_of_earlier_tables_are_text(graded):
    found, _ = graded
    examples = found.table("data", "examples", run="graded_addition/gpt2-3x64/seed0")
    assert examples.answer_generalization.dropna().tolist() == ["8031", "1080", "1080"]
    assert examples.row.dtype == int


@pytest.mark.parametrize("name", ["full", "graded"])
def test_what_the_repository_keeps_is_small(name):
    folder = REPOSITORY / "book/published" / name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4_000_000


@pytest.mark.parametrize("task", ["inference", "addition"])
class TestModels:
    def test_files_are_small_and_those_of_the_checksums(self, task):
        folder = REPOSITORY / published.MODELS / task
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        sums = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        del paths["SHA256SUMS"]
        assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
        assert sum(path.stat().st_size for path in paths.values()) < 6_000_000

    def test_behaviour_is_what_the_model_does(self, task):
        folder = REPOSITORY / published.MODELS / task
        frame = pd.read_parquet(folder / "data/test.parquet").sample(60, random_state=0)
        subject = Subject.load(folder / "training/model")
        found = behavior.measure(subject, behavior.prepare(subject, frame)).behavior
        kept = pd.read_parquet(folder / "training/behavior/test.parquet").behavior
        assert (found == kept[found.index]).all()
        variants = frame[frame.variant_of >= 0]
        originals = pd.read_parquet(folder / "data/test.parquet").loc[variants.variant_of]
        assert (originals.group.to_numpy() == variants.group).all() and (originals.variant_of < 0).all()


class TestTakeModel:
    @pytest.fixture(autouse=True)
    def project(self, tmp_path, monkeypatch):
        """A clone without results, with one published model."""
        shutil.copytree(REPOSITORY / "config", tmp_path / "config")
        (tmp_path / "notebooks").mkdir()
        shutil.copytree(REPOSITORY / published.MODELS / "addition", tmp_path / published.MODELS / "addition")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(("profile", "settings"), [("default", "smoke"), ("full", "full")])
    def test_brings_what_steering_reads(self, project, profile, settings):
        run = begin("steering", profile=profile, task="addition", model="published", seed=3, top_n=0)
        assert run.input("training", "model").is_dir()
        assert len(pd.read_parquet(run.input("data", "test.parquet"))) > 0
        assert run.config.analysis == config.load_profile(settings).analysis
        assert (run.config.model.name, run.config.model.n_layer, run.config.seed) == ("published", 6, 3)
        assert run.folder.parent == project / f"results/{profile}/addition/published/seed3"

    @pytest.mark.parametrize(
        ("stage", "task", "message"),
        [
            ("steering", "inference", "allowed are addition"),
            ("steering", "../models/addition", "allowed are addition"),
            ("training", "addition", "training does not take it"),
        ],
    )
    def test_tells_what_is_not_there(self, project, stage, task, message):
        with pytest.raises(InputError, match=message):
            begin(stage, profile="default", task=task, model="published")
        assert not (project / "results").exists()


@pytest.mark.parametrize("profile", ["full", "lora"])
def test_manifests_that_the_repository_keeps_are_read_with_the_settings_of_today(profile):
    """A setting that is given up would make them unreadable, and with them every book that shows their runs."""
    found = published.published(profile)
    assert found is not None
    assert found.further_runs(config.load_profile(profile)).empty  # those that it makes itself
