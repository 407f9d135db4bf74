"""A copy of the project in a temporary folder, where the smoke profile is run through `make book` once."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCES = (
    ".git",
    ".venv",
    ".snakemake",
    ".*_cache",
    "__pycache__",
    "*.egg-info",
    "results",
    "_build",
    "chapters",
    "downloads",
    "vega.js",
)
FROM_MAKE = (
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    "PROFILE",
    "VENV",
)  # pytest itself may have been started by make
TIME_LIMIT = 900  # seconds for one command; far above what any should take


@dataclass(frozen=True)
class Project:
    """A copy of the project, and how its commands are run there."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this test run, with the copy's own memgen."""
        inherited = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
        path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return inherited | {"PATH": path, "PYTHONPATH": str(self.root)}

    def command(self, *words: str) -> list[str]:
        """A call of make that takes the environment of this test run as set up."""
        return ["make", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready", *words]

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command in the copy."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )

    def make(self, *words: str) -> subprocess.CompletedProcess:
        """Run make in the copy."""
        return self.run(*self.command(*words))

    def planned(self, profile: str = "smoke") -> set[str]:
        """The rules that `make book` would run now."""
        settings = ("--config", f"profile={profile}", "--quiet", "rules", "host")
        done = self.run("snakemake", "--dry-run", "--cores", "2", *settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, flags=re.MULTILINE)) - {"total"}

    def read(self, path: str) -> str:
        """The text of a file."""
        return (self.root / path).read_text(encoding="utf-8")

    def contents(self, folder: str) -> dict[str, bytes]:
        """Every file below a folder and what is in it."""
        paths = sorted(path for path in (self.root / folder).rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}


@contextmanager
def edited(project: Project, path: str, old: str, new: str) -> Iterator[None]:
    """A file with a text replaced, put back afterwards."""
    original = project.read(path)
    assert old in original
    (project.root / path).write_text(original.replace(old, new, 1), encoding="utf-8")
    try:
        yield
    finally:
        (project.root / path).write_text(original, encoding="utf-8")


def copy_project(target: Path) -> Project:
    """Copy the project's sources, without results, environment or caches."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    return Project(target)


def build_smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """Make the book of the smoke profile, once for the tests of all folders and processes.

    `_build/shown` is a copy of the book as it was made, for those who only look: other tests make it anew. `second`
    and `third` are copies of the whole project, for tests that run beside those of the first.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    project, printed = Project(shared / "graph/project"), shared / "graph/printed.txt"
    with FileLock(shared / "graph.lock"):
        if not printed.exists():
            shutil.rmtree(project.root, ignore_errors=True)  # of an attempt that failed
            copy_project(project.root)
            done = project.make("book", "PROFILE=smoke")
            assert done.returncode == 0, done.stdout + done.stderr
            for name in ("second", "third"):
                shutil.rmtree(project.root.with_name(name), ignore_errors=True)
                shutil.copytree(project.root, project.root.with_name(name))
            shutil.copytree(project.root / "_build/html", project.root / "_build/shown")
            printed.write_text(done.stdout, encoding="utf-8")
    return project, printed.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """The project after `make book PROFILE=smoke`, and what that printed."""
    return build_smoke(tmp_path_factory)


@pytest.fixture(scope="session")
def project(built: tuple[Project, str]) -> Project:
    """The project after `make book PROFILE=smoke`."""
    return built[0]


@pytest.fixture(scope="session")
def second(built: tuple[Project, str]) -> Project:
    """A copy of the project after `make book PROFILE=smoke`, for tests that run beside those of `project`."""
    return Project(built[0].root.with_name("second"))


@pytest.fixture(scope="session")
def third(built: tuple[Project, str]) -> Project:
    """One more copy."""
    return Project(built[0].root.with_name("third"))
