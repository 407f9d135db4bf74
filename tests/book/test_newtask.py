"""The page *A task of your own*, done word for word."""

import json
import re
import shutil

import pytest

from .conftest import ROOT, Project, copy_project

BLOCK = re.compile(r"```\{code-block\} (\w+)\n:(caption|name): (\S+)\n\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project to which the files of the page were added."""
    project = copy_project(tmp_path_factory.mktemp("newtask") / "project")
    for _, kind, name, text in BLOCK.findall(project.read("book/newtask.md")):
        if kind == "caption":
            (project.root / name).write_text(text, encoding="utf-8")
    return project


def test_the_commands_of_the_page_make_a_model_that_learns_both(copied: Project) -> None:
    assert (copied.root / "memgen/tasks/majority.py").is_file()
    (commands,) = [text for language, *_, text in BLOCK.findall(copied.read("book/newtask.md")) if language == "bash"]
    for command in commands.strip().splitlines():
        done = copied.run("bash", "-c", command)
        assert done.returncode == 0, done.stdout + done.stderr
    (training,) = copied.root.glob("results/majority/majority/gpt2-2x32/seed0/training")
    assert json.loads((training / "manifest.json").read_text())["outputs"]
    records = json.loads((training / "metrics.json").read_text())
    accuracy = {record["inputs"]: record["value"] for record in records if record["measure"] == "accuracy"}
    assert min(accuracy["memorized_only"], accuracy["inferred_only"]) > 0.9
    share = {record["behavior"]: record["value"] for record in records if record["measure"] == "behavior_share"}
    assert min(share["memorization"], share["generalization"]) > 0.1


def test_the_task_keeps_the_contract_and_the_rules_of_the_code(copied: Project) -> None:
    """The tests and linters that the project has for tasks, on the file of the page."""
    file, types = "memgen/tasks/majority.py", ROOT / ".mypy_cache"
    if types.exists():  # `make test` checks types first: what mypy knows of other packages need not be read again
        shutil.copytree(types, copied.root / types.name)
    for command in (["ruff", "check", file], ["ruff", "format", "--check", file], ["mypy", file]):
        done = copied.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    contract = ("tests/tasks/test_tasks.py", "-k", "majority")
    done = copied.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *contract)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout  # its profile, its data, its groups, its lessons


def test_the_page_has_the_files_that_it_speaks_of() -> None:
    page = (ROOT / "book/newtask.md").read_text(encoding="utf-8")
    named = [name for _, kind, name, _ in BLOCK.findall(page) if kind == "caption"]
    assert named == ["memgen/tasks/majority.py", "config/majority.yaml"]
    assert page.count("```{code-block}") == len(BLOCK.findall(page)), "a block has another form than the test reads"
