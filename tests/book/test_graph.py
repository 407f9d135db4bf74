"""The graph of runs, end to end: what `make book` does, after an edit, and after a failure."""

import json
import re
import shutil

import pytest
from filelock import FileLock

from .conftest import Project, edited

AFTER_CARRYOVER = {"synthesis", "chapters", "book", "all"}
AFTER_STEERING = {"steering", "planted", "carryover", *AFTER_CARRYOVER}
LOCK = ".snakemake/memgen.lock"
DATA_STAMP = "results/smoke/inference/{model}/seed10/log/data.json"


def model_of(project: Project, task: str = "inference") -> str:
    """The name of the only model that the smoke profile has for a task."""
    return next((project.root / f"results/smoke/{task}").iterdir()).name


def test_the_terminal_shows_what_runs_what_is_done_and_what_is_left(built: tuple[Project, str]) -> None:
    project, printed = built
    for stage in ("data", "training", "localization", "prediction", "steering"):
        assert f"▶ addition/{model_of(project, 'addition')}/seed10 {stage}: started" in printed
        assert re.search(rf"▶ addition/\S+/seed10 {stage}: done in \d+ s", printed)
    assert re.search(r"(\d+) of \1 steps \(100%\) done", printed)
    training = [line for line in printed.splitlines() if re.match(r"▶ \w+/\S+/seed10 training: step", line)]
    assert training, "training says how far it is"


def test_a_second_run_does_nothing_and_says_so(project: Project) -> None:
    before = {**project.contents("results"), **project.contents("_build/html")}
    done = project.make("book", "PROFILE=smoke")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert {**project.contents("results"), **project.contents("_build/html")} == before


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("notebooks/steering.py", AFTER_STEERING),
        ("memgen/steering/sweep.py", AFTER_STEERING),
        ("memgen/figures/steering.py", AFTER_STEERING),
        ("notebooks/carryover.py", {"carryover", *AFTER_CARRYOVER}),
        ("memgen/tasks/addition.py", {"data", "training", "localization", "prediction", *AFTER_STEERING}),
        # A task that no run of this profile has, but described in the book.
        ("memgen/tasks/graded_joint.py", {"book", "all"}),
        ("memgen/progress.py", {"training", "localization", "prediction", *AFTER_STEERING}),
        ("memgen/study.py", {"training", "localization", "prediction", *AFTER_STEERING}),
        ("notebooks/synthesis.py", AFTER_CARRYOVER),
        ("notebooks/prediction.py", {"prediction", "planted", "carryover", *AFTER_CARRYOVER}),
        ("book/build/chapters.py", {"chapters", "book", "all"}),
        ("book/index.md", {"book", "all"}),
        ("README.md", set()),
    ],
)
def test_after_an_edit_only_what_depends_on_it_runs(project: Project, path: str, expected: set[str]) -> None:
    text = project.read(path)
    with edited(project, path, text, text + "\n# An edit.\n"):
        assert project.planned() == expected


def test_a_changed_setting_runs_only_the_stages_that_read_it(project: Project) -> None:
    with edited(project, "config/smoke.yaml", "fit_steps:", "max_other: 0.04\n  fit_steps:"):
        assert project.planned() == AFTER_STEERING
    with edited(project, "config/smoke.yaml", "pattern_share: 0.3", "pattern_share: 0.4"):
        assert project.planned() == {"data", "training", "localization", "prediction", *AFTER_STEERING}


@pytest.mark.parametrize("profile", ["graded", "joint"])
def test_a_profile_with_other_tasks_than_the_book_has_results_alone(project: Project, profile: str) -> None:
    rules = project.planned(profile)
    assert {"data", "training", "synthesis", "all"} <= rules
    assert not {"chapters", "book"} & rules


def test_what_was_published_of_another_profile_is_an_input(project: Project) -> None:
    for profile, expected in (("huge", {"planted", "carryover", *AFTER_CARRYOVER}), ("smoke", set())):
        folder = project.root / "book/published" / profile
        folder.mkdir(parents=True)
        (folder / "README.json").write_text("{}")
        try:
            assert project.planned() == expected, profile
        finally:
            shutil.rmtree(folder)


def test_published_results_are_compared_with_a_run(project: Project) -> None:
    cell = f"inference/{model_of(project)}/seed11"
    assert project.make("check-published", "PROFILE=smoke", f"CELL={cell}").returncode != 0
    try:
        done = project.make("publish", "PROFILE=smoke")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"Published the profile smoke: book/published/smoke, \d\.\d MB", done.stdout)
        done = project.make("check-published", "PROFILE=smoke", f"CELL={cell}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "every number is the published one" in done.stdout
        assert "CELL=" in project.make("check-published", "PROFILE=smoke").stderr
        assert project.planned() == set(), "a profile never reads what was published of itself"
    finally:
        shutil.rmtree(project.root / "book/published/smoke", ignore_errors=True)


def test_another_one_is_refused_while_one_runs(project: Project) -> None:
    """Whichever way it is started; what the running one locked stays locked, and a dry run may look."""
    locked = project.root / ".snakemake/locks/0.input.lock"
    locked.parent.mkdir(exist_ok=True)
    locked.write_text("results/smoke\n")
    try:
        with FileLock(project.root / LOCK):
            for done in (
                project.make("book", "PROFILE=smoke"),
                project.run("snakemake", "--cores", "1", "--config", "profile=smoke"),
            ):
                assert done.returncode != 0
                assert "Another make book is running here" in done.stdout + done.stderr
                assert locked.exists()
            assert project.planned() == set()
    finally:
        shutil.rmtree(locked.parent, ignore_errors=True)


def test_an_edit_in_a_notebook_counts_before_anything_runs(project: Project) -> None:
    source, pair = (project.root / f"notebooks/synthesis.{ending}" for ending in ("py", "ipynb"))
    before = {path: path.read_bytes() for path in (source, pair)}
    notebook = json.loads(before[pair])
    notebook["cells"][-1]["source"].append("\nAn edit.")
    try:
        pair.write_text(json.dumps(notebook), encoding="utf-8")
        stamp = DATA_STAMP.format(model=model_of(project))
        done = project.run("snakemake", "--cores", "1", "--config", "profile=smoke", "--", stamp)
        assert done.returncode == 0, done.stdout + done.stderr
        assert source.read_text(encoding="utf-8").endswith("\n# An edit.\n")
        assert project.planned() == AFTER_CARRYOVER
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_files_of_others_change_nothing_and_stay(project: Project) -> None:
    """Whatever lies beside what belongs there, half-written or of another kind."""
    lying = ["config/draft.yaml", "config/my notes.yaml", "notebooks/mine.py", "notebooks/mine.ipynb", "results/a.txt"]
    lying += ["results/smoke/log/mine.json", "results/smoke/inference/notes/log/mine.json"]
    paths = [project.root / name for name in lying]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half: [\n")
        assert project.planned() == set()
        assert all(path.read_text() == "half: [\n" for path in paths)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        shutil.rmtree(project.root / "results/smoke/inference/notes", ignore_errors=True)


def test_an_unknown_profile_is_refused_before_anything_runs(project: Project) -> None:
    done = project.make("book", "PROFILE=huge")
    assert done.returncode != 0
    assert "PROFILE=huge is unknown; allowed: default full graded joint lora pairs paper sizes smoke" in done.stderr
    assert "▶" not in done.stdout


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (["-p", "seed", "x"], "seed"),
        (["-p", "task", "subtraction"], "subtraction"),
        (["-p", "seed", "77"], "papermill notebooks/data.ipynb"),
    ],
)
def test_papermill_alone_refuses_bad_input_in_a_sentence(project: Project, parameters: list[str], said: str) -> None:
    before = project.contents("results")
    command = "papermill notebooks/training.ipynb out.ipynb --no-progress-bar -p profile smoke".split()
    done = project.run(*command, *parameters)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("InputError: ")
    assert said in last
    assert project.contents("results") == before


def test_papermill_explains_the_parameters(project: Project) -> None:
    done = project.run("papermill", "--help-notebook", "notebooks/steering.ipynb")
    assert done.returncode == 0
    for name in ("profile: str", "task: str", "model: str", "seed: int", "results: str"):
        line = next(line for line in (done.stdout + done.stderr).splitlines() if line.strip().startswith(name))
        assert "Unknown" not in line
