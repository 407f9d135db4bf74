"""A stage that fails, and a run that is killed without warning: nothing is harmed, and the next run goes on.

`make torture` does more of it.
"""

import os
import random
import re

import pytest

from tests.torture.compare import contents
from tests.torture.kills import end_after, kill_after, start

from .conftest import Project, edited


@pytest.fixture
def project(third: Project) -> Project:
    """A copy that nothing else changes."""
    return third


def test_a_failed_stage_keeps_its_notebook_and_harms_nothing(project: Project) -> None:
    assert project.planned() == set(), "all edits were taken back"
    folder, stamp = "results/smoke/synthesis", "results/smoke/log/synthesis.json"
    results, book = project.contents(folder), project.contents("_build/html")
    begin = "from memgen.run import begin"
    command = ("snakemake", "--cores", "1", "--config", "profile=smoke", "--quiet", "all", "--", stamp)
    with edited(project, "notebooks/synthesis.py", begin, begin + '\nraise ValueError("planted failure")'):
        done = project.run(*command)
        assert done.returncode != 0
        assert "smoke synthesis failed: ValueError: planted failure" in done.stdout
        notebook = re.search(r"The notebook with the error: (\S+);", done.stdout)
        assert notebook is not None
        assert "planted failure" in project.read(notebook[1])
        assert "synthesis" in project.planned(), "the failed stage is still to be done"
    assert project.contents(folder) == results
    assert project.contents("_build/html") == book


def test_a_run_that_is_killed_at_random_moments_goes_on(project: Project) -> None:
    """Kill all of `make book` without warning, three times; the last one opens the lock and finishes what is left."""
    moments = random.Random(seed := int(os.environ.get("SEED", "13")))
    print(f"SEED={seed}")
    before = contents(project.root)
    (project.root / "results/smoke/log/synthesis.json").unlink(missing_ok=True)
    for said in ("", "synthesis: started", "synthesis: started"):
        seconds = moments.uniform(0, 8)
        print(f"killed {seconds:.1f} s after {said!r}:", kill_after(project, start(project), seconds, said))
    end_after(project, start(project), "synthesis: started")
    (project.root / ".snakemake/locks").mkdir(exist_ok=True)
    (project.root / ".snakemake/locks/0.input.lock").write_text(
        "results/smoke\n"
    )  # as one that was killed may leave it
    done = project.make("book", "PROFILE=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(project.root.glob(".snakemake/locks/*"))
    after = contents(project.root)
    assert [name for name in {*before, *after} if before.get(name) != after.get(name)] == []
    assert project.planned() == set()
