"""The stages, their folders, and the checks on what earlier stages left behind."""

import dataclasses
import fcntl
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.config import InputError
from memgen.report.provenance import digest

NEEDS = {
    "data": (),
    "training": ("data",),
    "localization": ("data", "training"),
    "prediction": ("data", "training", "localization"),
    "steering": ("data", "training", "localization"),
}
# Tasks and labels whose runs have no other stages. What is asked of `joint` compares runs; a model that saw no
# conflicts in training (`none`) may show one behaviour alone on them, and then there is nothing to localize or steer.
ONLY = {"joint": ("data", "training"), "none": ("data", "training")}
PROFILE_STAGES = ("carryover", "synthesis")  # read every run of a profile, and those before them
STAGES = (*NEEDS, *PROFILE_STAGES)
PUBLISHED = "book/published/"  # results in the repository, by profile
NOTEBOOK = "notebook.ipynb"  # sealed in after the run; readers may open and save it: no later stage reads it
METRIC_FIELDS = ("name", "value", "ci_low", "ci_high", "n", "unit", "definition")
_held: dict[Path, int] = {}  # the partial folders that this process works in, locked


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one stage of one run stands; `task` is empty for a stage of the whole profile."""

    stage: str
    profile: str
    task: str = ""
    model: str = ""
    seed: int = 0
    results: str = "results"

    def at(self, stage: str) -> "Place":
        """Return the place of another stage of the same run."""
        return dataclasses.replace(self, stage=stage)

    @property
    def run_folder(self) -> Path:
        """The folder that holds the run's stages."""
        return self.profile_folder / self.run if self.task else self.profile_folder

    @property
    def profile_folder(self) -> Path:
        """The folder that holds the profile's runs."""
        return config.root() / self.results / self.profile

    @property
    def folder(self) -> Path:
        """Where the finished stage is."""
        return self.run_folder / self.stage

    @property
    def partial(self) -> Path:
        """Where the stage is being made."""
        return self.run_folder / f".{self.stage}.partial"

    @property
    def run(self) -> str:
        """The run as in the path of the results; for a stage of the whole profile, the profile."""
        return f"{self.task}/{self.model}/seed{self.seed}" if self.task else self.profile

    @property
    def label(self) -> str:
        """The stage and the run, for sentences."""
        return f"{self.stage} of {self.run}"

    @property
    def command(self) -> str:
        """The command that makes this stage."""
        names = ["profile", "task", "model", "seed"] if self.task else ["profile"]
        names += ["results"] if self.results != "results" else []
        given = " ".join(f"-p {name} {shlex.quote(str(getattr(self, name)))}" for name in names)
        return f"papermill notebooks/{self.stage}.ipynb out.ipynb {given}"

    def needs(self) -> list["Place"]:
        """Return the finished stages that this one reads, in their order."""
        if self.stage not in PROFILE_STAGES:
            return [self.at(stage) for stage in NEEDS[self.stage]]
        cells = config.load_profile(self.profile).cells()
        of_runs = [
            Place(stage, self.profile, task, model, seed, self.results)
            for task, model, seed in cells
            for stage in needed(task)
        ]
        return of_runs + [self.at(stage) for stage in PROFILE_STAGES[: PROFILE_STAGES.index(self.stage)]]


def needed(task: str) -> tuple[str, ...]:
    """The stages that a run of the task has, by its name ``<task>`` or ``<task>-<label>``."""
    return next((ONLY[part] for part in task.split("-") if part in ONLY), tuple(NEEDS))


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader sees the old file or the whole new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def replace_folder(place: Place) -> None:
    """Put the complete partial folder in the stage's place."""
    old = place.run_folder / f".{place.stage}.old"
    shutil.rmtree(old, ignore_errors=True)
    if place.folder.exists():
        place.folder.rename(old)
    place.partial.rename(place.folder)
    shutil.rmtree(old, ignore_errors=True)


def settle(place: Place) -> None:
    """Complete the replacement of a stage by a process that was killed in the middle of it.

    The manifest is written last, so a partial folder that has one is complete, and the old stage may be moved
    away already: POSIX cannot swap two folders in one step.
    """
    if (place.partial / "manifest.json").is_file():
        handle = _lock(place.partial)
        if handle is not None:
            replace_folder(place)
            os.close(handle)


def hold(place: Place) -> None:
    """Make the partial folder and lock it, so that two processes never write into it together."""
    release(place)
    settle(place)
    place.partial.mkdir(parents=True, exist_ok=True)
    handle = _lock(place.partial)
    if handle is None:
        raise InputError(f"The {place.label} is being made by another process; wait for it or end it.")
    _held[place.partial] = handle


def release(place: Place) -> None:
    """Undo :func:`hold`."""
    handle = _held.pop(place.partial, None)
    if handle is not None:
        os.close(handle)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the handle is closed or the process ends; None if another process has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == folder.stat().st_ino:  # else the other process has just moved it
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def load_manifest(stage_dir: str | os.PathLike) -> dict[str, Any]:
    """Read the manifest of a finished stage: its parameters, versions, inputs and outputs."""
    return _read(Path(stage_dir) / "manifest.json")


def load_metrics(stage_dir: str | os.PathLike) -> pd.DataFrame:
    """Read the numbers of a finished stage, one a row: name, value, ci_low, ci_high, n, unit, definition."""
    return pd.DataFrame(_read(Path(stage_dir) / "metrics.json"), columns=list(METRIC_FIELDS))


def finished(stage_dir: str | os.PathLike) -> bool:
    """Tell whether a stage has its manifest, which is written last."""
    try:
        return "outputs" in load_manifest(stage_dir)
    except InputError:
        return False


def check_needs(place: Place, *, itself: bool = False) -> dict[Place, dict[str, Any]]:
    """Return the manifests of the stages that `place` reads (and its own), their files checked against them.

    A stage of the whole profile reads a small part of very many files: of these, only size and origin are checked here,
    and the content by :func:`check_files` when it is asked for.

    Raises
    ------
    InputError
        If an earlier stage is missing, a file of it was lost or changed, or it was made from other inputs
        than those that are there now; the sentence names the file and the command that makes it again.
    """
    manifests: dict[Place, dict[str, Any]] = {}
    for need in [*place.needs(), *([place] if itself else [])]:
        settle(need)
        manifests[need] = _check(need, manifests)
        if place.task:
            check_files(need, manifests[need]["outputs"])
    return manifests


def check_files(need: Place, expected: dict[str, dict[str, Any]]) -> None:
    """Compare the content of files of a finished stage with their digests.

    Raises
    ------
    InputError
        If a file was changed or cannot be read.
    """
    folder = need.folder
    for name, entry in expected.items():
        try:
            same = name == NOTEBOOK or digest(folder / name) == entry
        except OSError:
            same = False
        if not same:
            where = os.path.relpath(folder / name, config.root())
            raise InputError(f"{where} was changed after its stage finished; make it again with `{need.command}`.")


def _check(need: Place, earlier: dict[Place, dict[str, Any]]) -> dict[str, Any]:
    where = os.path.relpath(need.folder, config.root())
    if not (need.folder / "manifest.json").is_file():
        raise InputError(f"The {need.label} was not found in {where}; make it with `{need.command}`.")
    try:
        manifest = json.loads((need.folder / "manifest.json").read_text(encoding="utf-8"))
        problem = _problem(need, where, manifest, earlier)
    except (OSError, KeyError, TypeError, ValueError) as error:
        problem = f"{where} cannot be read ({type(error).__name__}: {error})"
    if problem:
        raise InputError(f"{problem}; make it again with `{need.command}`.")
    return manifest


def _problem(need: Place, where: str, manifest: dict[str, Any], earlier: dict[Place, dict[str, Any]]) -> str | None:
    """Compare a stage's files with their sizes, and what it was made from with what is there now."""
    folder = need.folder  # asked for once: a profile has very many files
    for name, expected in manifest["outputs"].items():
        if name == NOTEBOOK:
            continue
        path = folder / name
        if not path.is_file():
            return f"{where}/{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{where}/{name} was changed after its stage finished"
    if not need.task:
        made_from, now = config.Profile(**manifest["config"]), config.load_profile(need.profile)
        if set(made_from.cells()) != set(now.cells()):
            return f"The {need.label} was made from other runs than the profile has now"
    for name, used in manifest["inputs"].items():
        if name.startswith(PUBLISHED):
            now_there = config.root() / name
            same = now_there.is_file() and digest(now_there) == used
        else:
            source, file = _source(need, name)
            same = earlier[source]["outputs"].get(file, used) == used
        if not same:
            return f"The {need.label} was made from another {name} than the one there now"
    return None


def _source(place: Place, name: str) -> tuple[Place, str]:
    """Of which stage an input of `place` is, and its name there."""
    stage, _, file = name.partition("/")
    if place.task or stage in PROFILE_STAGES:
        return place.at(stage), file
    task, model, seed, stage, file = name.split("/", 4)
    seed_number = int(seed.removeprefix("seed"))
    return dataclasses.replace(place, stage=stage, task=task, model=model, seed=seed_number), file


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}); the stage in its folder did not finish."
        ) from None
