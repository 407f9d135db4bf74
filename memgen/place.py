"""Where a stage of a run stands: its folders, its lock, and the checks on what the stages before it left."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from memgen import config
from memgen.config import STAGES, Cell, InputError
from memgen.manifest import digest

NOTEBOOK = "notebook.ipynb"  # added after the run; readers may open and save it, and no later stage reads it
PUBLISHED = "book/published/"  # results that the repository keeps, by profile


def sync(*paths: Path) -> None:
    """Wait until files, and folders with all below them, are on the disk, before they are renamed into place."""
    for found in (found for path in paths for found in (*path.rglob("*"), path)):
        descriptor = os.open(found, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put_in_place(complete: Path, folder: Path) -> None:
    """Rename a complete folder to `folder`, which may be there already: POSIX cannot swap two folders in one step."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    complete.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Place:
    """A stage of a run; `task` is empty for a stage of the whole profile."""

    stage: str
    profile: str
    task: str = ""
    model: str = ""
    seed: int = 0
    results: str = "results"
    table: str = ""

    def at(self, stage: str, cell: Cell | None = None) -> "Place":
        """The place of another stage, of the same run or of another one."""
        return dataclasses.replace(self, stage=stage, **(cell._asdict() if cell else {}))

    @property
    def cell(self) -> Cell:
        """The run."""
        return Cell(self.task, self.model, self.seed)

    @property
    def run(self) -> str:
        """The run as in the path of the results; for a stage of the whole profile, the profile."""
        return f"{self.task}/{self.model}/seed{self.seed}" if self.task else self.profile

    @property
    def label(self) -> str:
        """The stage and the run, for sentences."""
        return f"{self.stage} of {self.run}"

    @property
    def run_folder(self) -> Path:
        """The folder that holds the run's stages."""
        return config.root() / self.results / self.profile / (self.run if self.task else "")

    @property
    def folder(self) -> Path:
        """Where the finished stage is."""
        return self.run_folder / self.stage

    @property
    def partial(self) -> Path:
        """Where the stage is being made."""
        return self.run_folder / f".{self.stage}.partial"

    @property
    def parameters(self) -> dict[str, str | int]:
        """What the notebook is given."""
        run = self.cell._asdict() if self.task else {}
        table = {"table": self.table} if self.table else {}
        return {"profile": self.profile, **run, "results": self.results, **table}

    @property
    def command(self) -> str:
        """The command that makes this stage, in the project's folder; text is given raw, so that 0011 stays text."""
        given = dict(item for item in self.parameters.items() if item != ("results", "results"))
        words = [f"-{'r' if isinstance(v, str) else 'p'} {name} {shlex.quote(str(v))}" for name, v in given.items()]
        here = ".venv/bin/" if (config.root() / ".venv/bin/papermill").is_file() else ""  # else in an active one
        return f"{here}papermill notebooks/{self.stage}.ipynb out.ipynb {' '.join(words)}"

    def reads(self) -> list["Place"]:
        """The finished stages that this one reads, in their order."""
        earlier = [self.at(name) for name in STAGES[self.stage].reads]
        if not STAGES[self.stage].of_profile:
            return earlier
        profile = config.load_profile(self.profile)
        names = {cell: config.stages_of(profile.spec(cell.task)) for cell in profile.cells()}
        return [self.at(name, cell) for cell in names for name in names[cell]] + earlier

    def lock(self) -> FileLock:
        """The lock on making this stage, so that two processes never write together; the run's folder exists then."""
        self.run_folder.mkdir(parents=True, exist_ok=True)
        path = self.run_folder / f".{self.stage}.lock"
        return FileLock(path, blocking=False, is_singleton=True, fallback_to_soft=False)

    def settle(self) -> None:
        """Complete the replacement by a process that was killed in the middle of it.

        The manifest is written last, so a partial folder that has one is complete; the old stage may be gone already.
        """
        complete = self.partial / "manifest.json"
        if complete.is_file():
            with contextlib.suppress(Timeout), self.lock():  # a process that has the lock is about to do it
                if complete.is_file():  # no other process has done it meanwhile
                    put_in_place(self.partial, self.folder)

    def check_earlier(self, *, itself: bool = False) -> dict["Place", dict[str, Any]]:
        """The manifests of the stages that this one reads (and its own), their files checked against them.

        A stage of the whole profile reads a small part of very many files: of these, only size and origin are checked
        here, and the content by :meth:`check_files` when it is asked for.

        An earlier stage that is missing, lost a file or was changed, or was made from other inputs than those that are
        there now, is an InputError that names the command that makes it again.
        """
        manifests: dict[Place, dict[str, Any]] = {}
        for need in [*self.reads(), *([self] if itself else [])]:
            need.settle()
            path = need.folder / "manifest.json"
            try:
                if not path.is_file():
                    where = need._path()
                    raise InputError(f"The {need.label} was not found in {where}; make it with `{need.command}`.")
                manifests[need] = json.loads(path.read_text(encoding="utf-8"))
                need.check_files(manifests[need]["outputs"], content=bool(self.task))
                need._check_origin(manifests[need], manifests)
            except (OSError, KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
                raise need._unfit(f"{need._path()} cannot be read ({type(error).__name__})") from None
        return manifests

    def check_files(self, entries: Mapping[str, dict[str, Any]], *, content: bool = True) -> None:
        """Refuse files of this finished stage that are missing or changed: in size or, if `content`, in digest."""
        folder = self.folder  # asked for once: a profile has very many files
        for name, entry in entries.items():
            if name == NOTEBOOK:
                continue
            path = folder / name
            if not path.is_file():
                raise self._unfit(f"{self._path(name)} is missing")
            if path.stat().st_size != entry["bytes"] or (content and digest(path) != entry):
                raise self._unfit(f"{self._path(name)} was changed after its stage finished")

    def _check_origin(self, manifest: dict[str, Any], earlier: Mapping["Place", dict[str, Any]]) -> None:
        """Refuse this stage if it was made from other runs or files than those that are there now."""
        if not self.task:
            made_from = config.Profile.model_validate(manifest["config"])
            if set(made_from.cells()) != set(config.load_profile(self.profile).cells()):
                raise self._unfit(f"The {self.label} was made from other runs than the profile has now")
        for name, entry in manifest["inputs"].items():
            if name.startswith(PUBLISHED) or self.stage == "data":  # which reads a table
                path = config.root() / name
                same = path.is_file() and digest(path) == entry
            else:
                source, file = self._source(name)
                same = earlier[source]["outputs"].get(file, entry) == entry
            if not same:
                raise self._unfit(f"The {self.label} was made from another {name} than the one there now")

    def _source(self, name: str) -> tuple["Place", str]:
        """The stage that made an input of this one, and the file's name there."""
        stage, _, file = name.partition("/")
        if self.task or stage in STAGES:
            return self.at(stage), file
        task, model, seed, stage, file = name.split("/", 4)
        return self.at(stage, Cell(task, model, int(seed.removeprefix("seed")))), file

    def _path(self, name: str = "") -> str:
        return os.path.relpath(self.folder / name, config.root())

    def _unfit(self, problem: str) -> InputError:
        return InputError(f"{problem}; make it again with `{self.command}`.")
