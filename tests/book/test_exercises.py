"""The page of exercises: its cheap commands are typed, its costly ones begun, and the code of its solutions is run."""

import re
import shlex
import shutil
from pathlib import Path

import jupytext
import pytest
import yaml

from book.build.parameters import check, declared
from memgen.run import begin

from .conftest import ROOT, Project, copy_project
from .test_commands import blocks

PAGE = (ROOT / "book/exercises.md").read_text(encoding="utf-8")
START, *_ = blocks(PAGE, "python")
CHAPTERS = dict(part.split("\n", 1) for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
SOLUTIONS = {
    f"{chapter} {kind}": code
    for chapter, text in CHAPTERS.items()
    for kind, part in re.findall(r"^\*\*(\w+)\.\*\*(.*?)(?=^\*\*|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    for code in blocks(part, "python")
}
RUN = "results/smoke/inference/gpt2-2x32/seed10"
COMMANDS = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
CHEAP = ("sed ", "mkdir ", "cp ", "papermill notebooks/data", "papermill notebooks/training")
ANALYSES = [line for line in COMMANDS if line.startswith("papermill") and not line.startswith(CHEAP)]


@pytest.fixture(scope="module")
def copied(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a finished run of the miniature, in which the cheap commands were typed."""
    copied = copy_project(tmp_path_factory.mktemp("exercises") / "project")
    shutil.copytree(project.root / RUN, copied.root / RUN)
    for command in COMMANDS:
        if command.startswith(CHEAP):
            done = copied.run("bash", "-c", command)
            assert done.returncode == 0, done.stdout + done.stderr
    return copied


@pytest.fixture(scope="module")
def shared(copied: Project) -> dict[str, object]:
    """What the lines before the first exercise define."""
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copied.root)
        exec(START, names)
    return names


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_holds(shared: dict, copied: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(copied.root)
    assert "assert" in SOLUTIONS[name]
    exec(compile(SOLUTIONS[name], name, "exec"), dict(shared))


@pytest.mark.parametrize("command", ANALYSES)
def test_an_analysis_takes_its_parameters(copied: Project, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Each takes minutes and is not run: its parameters, its settings and the stages that it reads are checked."""
    notebook, _, *words = shlex.split(command)[1:]
    given = {name: yaml.safe_load(value) for name, value in zip(words[1::3], words[2::3], strict=True)}
    cells = jupytext.read(copied.root / notebook).cells
    (cell,) = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    check(given, declared(cell))
    defaults: dict[str, object] = {}
    exec(cell, {}, defaults)
    monkeypatch.chdir(copied.root)
    run = begin(Path(notebook).stem, **{name: given.get(name, defaults[name]) for name in declared(cell)})
    assert given.items() <= run.parameters.items()


def test_the_graph_knows_the_runs_that_a_profile_was_given(copied: Project) -> None:
    """Their training takes minutes and is not run: a dry run lists it."""
    (command,) = (line for line in COMMANDS if line.startswith("snakemake"))
    done = copied.run("bash", "-c", command.replace("snakemake", "snakemake --dry-run", 1))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^training +5$", done.stdout, flags=re.MULTILINE), done.stdout


def test_every_command_is_tried_or_needs_the_analyses() -> None:
    others = [line for line in COMMANDS if not line.startswith(CHEAP) and line not in ANALYSES]
    assert [line.split()[0] for line in others] == ["make", "snakemake"]
    assert "published/seed1/prediction" in others[0]  # `make compare` of the two analyses above it


def test_every_chapter_has_three_exercises_with_folded_solutions() -> None:
    assert len(CHAPTERS) == 8
    for chapter, text in CHAPTERS.items():
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, flags=re.MULTILINE) == ["Think", "Change", "Write"], chapter
        assert len(re.findall(r"^````\{admonition\} Solution\n:class: dropdown\n", text, flags=re.MULTILINE)) == 3
        assert f"{chapter} Change" in SOLUTIONS and f"{chapter} Write" in SOLUTIONS
