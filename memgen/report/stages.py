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
SYNTHESIS = "synthesis"  # the stage that reads every run of a profile
STAGES = (*NEEDS, SYNTHESIS)
NOTEBOOK = "notebook.ipynb"  # sealed in after the run; readers may open and save it: no later stage reads it
METRIC_FIELDS = ("name", "value", "ci_low", "ci_high", "n", "unit", "definition")
_held: dict[Path, int] = {}  # the partial folders that this process works in, locked


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one stage of one run stands; `task` is empty for the synthesis."""

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
        profile = config.root() / self.results / self.profile
        return profile if self.stage == SYNTHESIS else profile / self.task / self.model / f"seed{self.seed}"

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
        """The run as in the path of the results; for the synthesis the profile."""
        return f"{self.task}/{self.model}/seed{self.seed}" if self.task else self.profile

    @property
    def label(self) -> str:
        """The stage and the run, for sentences."""
        return f"{self.stage} of {self.run}"

    @property
    def command(self) -> str:
        """The command that makes this stage."""
        names = ["profile"] if self.stage == SYNTHESIS else ["profile", "task", "model", "seed"]
        names += ["results"] if self.results != "results" else []
        given = " ".join(f"-p {name} {shlex.quote(str(getattr(self, name)))}" for name in names)
        return f"papermill notebooks/{self.stage}.ipynb out.ipynb {given}"

    def needs(self) -> list["Place"]:
        """Return the finished stages that this one reads, in their order."""
        if self.stage != SYNTHESIS:
            return [self.at(stage) for stage in NEEDS[self.stage]]
        cells = config.load_profile(self.profile).cells()
        return [
            Place(stage, self.profile, task, model, seed, self.results)
            for task, model, seed in cells
            for stage in NEEDS
        ]


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


def check_needs(place: Place) -> dict[Place, dict[str, Any]]:
    """Return the manifests of the stages that `place` reads, their files checked against them.

    Raises
    ------
    InputError
        If an earlier stage is missing, a file of it was lost or changed, or it was made from other inputs
        than those that are there now; the sentence names the file and the command that makes it again.
    """
    manifests: dict[Place, dict[str, Any]] = {}
    for need in place.needs():
        settle(need)
        manifests[need] = _check(need, manifests)
    return manifests


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
    """Compare a stage with its manifest, and what it was made from with what is there now."""
    for name, expected in manifest["outputs"].items():
        if name == NOTEBOOK:
            continue
        if not (need.folder / name).is_file():
            return f"{where}/{name} is missing"
        if digest(need.folder / name) != expected:
            return f"{where}/{name} was changed after its stage finished"
    for name, used in manifest["inputs"].items():
        stage, _, file = name.partition("/")
        if earlier[need.at(stage)]["outputs"].get(file, used) != used:
            return f"The {need.label} was made from another {name} than the one there now"
    return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}); the stage in its folder did not finish."
        ) from None
