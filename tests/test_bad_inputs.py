"""Whatever a user gets wrong is told in one sentence, before anything is computed, and no earlier result changes."""

import errno
import fcntl
import itertools
import json
import os
import shutil

import pandas as pd
import pytest

from book.build.__main__ import main
from memgen import config
from memgen.config import STAGES, InputError
from memgen.published import published
from memgen.run import begin

from .test_run import SMALL, make_all, snapshot, started

KINDS = ("metrics.json", "manifest.json", "one.txt", "rows.parquet", "model/model.safetensors", "tables/answers.csv")
DAMAGES = {
    "removed": lambda path, _: path.unlink(),
    "emptied": lambda path, _: path.write_bytes(b""),
    "halved": lambda path, data: path.write_bytes(data[: len(data) // 2]),
    "zeroed": lambda path, data: path.write_bytes(bytes(len(data))),
    "another bit": lambda path, data: path.write_bytes(bytes([data[0] ^ 1]) + data[1:]),
}
LAST = "synthesis"  # no stage reads it, so its files are those of the commands below


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A project in which every stage finished, each with every kind of file."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notebooks").mkdir()
    (folder / "config").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_all(folder, SMALL, make)
    return folder


def make(stage, **parameters):
    """Run a stage that reads the stages before it and leaves a file of every kind."""
    run = started(stage, **parameters)
    for name in KINDS[2:]:
        run.path(*name.split("/")).write_bytes(f"{stage} {name} {run.label}".encode())
    run.record("accuracy", 0.5, n=10, layer=1, definition="Share right.", unit="accuracy 0-1")
    run.finish()


@pytest.fixture
def project(whole, monkeypatch):
    """That project; what a test does to it is to change no result."""
    results, profile = snapshot(whole / "results"), (whole / "config/tiny.yaml").read_bytes()
    monkeypatch.chdir(whole)
    yield whole
    (whole / "config/tiny.yaml").write_bytes(profile)
    after = snapshot(whole / "results")
    assert {name: after.get(name) for name in results} == results


def told(action) -> str:
    """The sentence with which an action is refused."""
    with pytest.raises(InputError) as error:
        action()
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) > 20
    return sentence


# --- files that were truncated or tampered with


ARE_READ = {name for stage in STAGES.values() for name in stage.reads}


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if name in ARE_READ or not stage.of_profile])
def test_a_damaged_file_of_an_earlier_stage_is_named(project, stage):
    of_profile = STAGES[stage].of_profile
    folder = project / "results/tiny" / ("" if of_profile else "inference/gpt2-2x32/seed0") / stage
    reader = next((other.name for other in STAGES.values() if stage in other.reads), "carryover")

    def read():
        run = started(reader)
        first = None if of_profile or not STAGES[reader].of_profile else run.cells()[0]
        run.input(stage, *kind.split("/"), cell=first)

    for kind, damage in itertools.product(KINDS, DAMAGES):
        whole = (folder / kind).read_bytes()
        DAMAGES[damage](folder / kind, whole)
        with pytest.raises(InputError, match=f"(?s)^[^\n]*{stage}[^\n]*make it[^\n]*$"):
            read()
        (folder / kind).write_bytes(whole)
    read()


# --- parameters


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"profile": "../tiny"}, "../tiny"),
        ({"profile": ""}, "profile ''"),
        ({"profile": None}, "None"),
        ({"task": ""}, "task ''"),
        ({"task": "inference "}, "inference "),
        ({"task": ["inference"]}, "inference"),
        ({"model": "gpt2-2x33"}, "gpt2-2x33"),
        ({"model": "gpt2-0x32"}, "gpt2-0x32"),
        ({"model": 3}, "3"),
        ({"seed": "0"}, "seed"),
        ({"seed": 0.0}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": None}, "seed"),
        ({"results": ""}, "results"),
        ({"results": None}, "results"),
        ({"results": "config/tiny.yaml"}, "config/tiny.yaml"),
        ({"table": "rows.csv"}, "rows.csv"),
        ({"table": 3}, "table"),
        ({"task": "table"}, "-p table"),
        ({"task": "table", "table": "rows.csv"}, "rows.csv"),
        ({"task": "table", "table": "config/tiny.yaml"}, "gpt2-2x32"),
        ({"steps": -1}, "steps"),
        ({"steps": float("nan")}, "steps"),
        ({"steps": float("inf")}, "steps"),
        ({"steps": [3]}, "steps"),
    ],
)
def test_wrong_parameters(project, given, named):
    assert named in told(lambda: begin("data", **{"profile": "tiny", "task": "inference", **given}))


@pytest.mark.parametrize("threads", ["", "all", "0", "-1", "1.5"])
def test_a_wrong_number_of_threads(project, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert "OMP_NUM_THREADS" in told(lambda: started("data"))


@pytest.mark.parametrize("number", ["EBADF", "ENOSYS", "ENOLCK", "EOPNOTSUPP", "EROFS"])
def test_a_file_system_without_locks(project, monkeypatch, number):
    def flock(descriptor, operation):
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    sentence = told(lambda: started("data"))
    assert "another process" not in sentence
    assert os.strerror(getattr(errno, number)) in sentence


def test_results_may_be_a_link(project, tmp_path):
    (tmp_path / "elsewhere é").mkdir()
    (project / "linked").symlink_to(tmp_path / "elsewhere é")
    make("data", results="linked")
    run = started("training", results="linked")
    assert run.input("data", "one.txt").read_text().startswith("data one.txt")
    assert (tmp_path / "elsewhere é/tiny/inference/gpt2-2x32/seed0/data/manifest.json").is_file()


# --- settings

GOOD = {"runs": {"inference": {"models": ["gpt2-2x32"]}}, "seeds": [0]}
BAD = {
    "an empty file": "",
    "a list": "- runs",
    "a word": "runs",
    "no YAML": "runs: {inference: {models: [gpt2-2x32]}",
    "a tab": "runs:\n\tinference: {}",
    "another encoding": "runs: é".encode("latin-1"),
    "zeros": bytes(100),
    "no runs": {"runs": None},
    "runs without any": {"runs": {}},
    "runs as a list": {"runs": ["inference"]},
    "an unknown section": {"run": {}},
    "an unknown setting": {"analysis": {"batchsize": 3}},
    "a setting of another task": {"training": {"addition": {"steps": 3}}},
    "text for a number": {"seeds": ["0"]},
    "a share for a number": {"seeds": [0.5]},
    "true for a number": {"seeds": [True]},
    "a seed below 0": {"seeds": [-1]},
    "a seed that stands twice": {"seeds": [0, 0]},
    "no seed": {"seeds": []},
    "an unknown model": {"runs": {"inference": {"models": ["gpt3"]}}},
    "no model": {"runs": {"inference": {"models": []}}},
    "an unknown form": {"runs": {"inference": {"models": ["gpt2-2x32"], "form": "new"}}},
    "a name that is no folder": {"runs": {"../inference": {"models": ["gpt2-2x32"]}}},
    "no steps": {"training": {"inference": {"steps": 0}}},
    "a rate that is no number": {"training": {"inference": {"learning_rate": float("nan")}}},
    "an endless rate": {"training": {"inference": {"learning_rate": float("inf")}}},
    "fp16": {"training": {"inference": {"mixed_precision": "fp16"}}},
    "a share above 1": {"analysis": {"max_loss": 2.0}},
    "no dose": {"analysis": {"doses": []}},
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_settings(project, case):
    bad = BAD[case]
    if isinstance(bad, dict):
        bad = json.dumps(GOOD | bad).replace("NaN", ".nan").replace("Infinity", ".inf")
    (project / "config/tiny.yaml").write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    assert "\n" not in told(lambda: config.resolve("tiny", "inference"))
    assert told(lambda: begin("data", profile="tiny", task="inference"))


def test_a_folder_among_the_profiles_is_none(project):
    (project / "config/folder.yaml").mkdir()
    try:
        assert "folder" in told(lambda: begin("data", profile="folder", task="inference"))
    finally:
        (project / "config/folder.yaml").rmdir()


# --- commands


@pytest.mark.parametrize(
    "words",
    [
        ["stage", "nothing"],
        ["stage", "tiny"],  # its notebooks were not sealed
        ["publish", "nothing"],
        ["check", "tiny", "inference"],
        ["check", "tiny", "inference/gpt2-2x32/seed"],
        ["check", "tiny", "inference/gpt2-2x32/seed9"],
        ["check", "tiny", "../../x/seed0"],
        ["compare", "nowhere", "results/tiny"],
        ["compare", "results/tiny", "config"],
        ["compare", "results/tiny", "config/tiny.yaml"],
    ],
    ids=" ".join,
)
def test_wrong_words_of_a_command(project, capsys, words):
    assert main(words) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("InputError: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[1]", '[{"value": "high"}]', '[{"measure": "accuracy", "value": "high"}]']
)
def test_damaged_numbers_are_not_compared(project, capsys, tmp_path, text):
    shutil.copytree(project / "results/tiny" / LAST, tmp_path / LAST)
    (tmp_path / LAST / "metrics.json").write_text(text)
    assert main(["compare", str(tmp_path / LAST), "results/tiny"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("InputError: ")
    assert "\n" not in said


@pytest.mark.parametrize("file", ["README.json", "metrics.parquet"])
@pytest.mark.parametrize("damage", ["removed", "emptied", "halved", "zeroed"])
def test_damaged_published_results(project, file, damage):
    folder = project / "book/published/full"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.json").write_text('{"command": "", "commits": [], "dirty": false}')
    pd.DataFrame({"task": ["inference"], "stage": ["data"], "value": [0.5], "seed": [0]}).to_parquet(
        folder / "metrics.parquet"
    )
    DAMAGES[damage](folder / file, (folder / file).read_bytes())
    assert "book/published/full" in told(lambda: published("full").metrics)
