"""Published results: the numbers of a profile that the repository keeps, read without any run of it.

`publish` writes them, `make publish` calls it; this is the reader.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.config import InputError
from memgen.report import provenance, stages

ABOUT, METRICS, MANIFESTS = "README.json", "metrics.csv", "manifests.json"
RUN_COLUMNS = ("task", "model", "seed", "stage")


@dataclasses.dataclass(frozen=True)
class Published:
    """The published results of one profile.

    Attributes
    ----------
    profile
        Its name.
    about
        What ``README.json`` says: profile, command, commits, dirty, date, machines, runs, stages.
    """

    profile: str
    about: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where they are."""
        return folder_of(self.profile)

    @property
    def label(self) -> str:
        """Whose results these are and how they were made, for captions."""
        commits = [commit[:7] for commit in self.about["commits"]]
        code = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}" if commits else "commit unknown"
        changed = " with uncommitted changes" if self.about["dirty"] else ""
        return f"Published results of the profile {self.profile}, {code}{changed}, made by `{self.about['command']}`"

    @property
    def metrics(self) -> pd.DataFrame:
        """The numbers of every run's stages, with the columns of :meth:`memgen.report.Run.metrics`."""
        return self._numbers[self._numbers.task != ""].reset_index(drop=True)

    def stage_metrics(self, stage: str) -> pd.DataFrame:
        """The numbers of a stage of the whole profile: name, value, ci_low, ci_high, n, unit, definition."""
        own = self._numbers[(self._numbers.task == "") & (self._numbers.stage == stage)]
        return own[list(stages.METRIC_FIELDS)].reset_index(drop=True)

    def table(self, stage: str, name: str, run: str = "") -> pd.DataFrame:
        """The table, or the data of the figure, of that name.

        Parameters
        ----------
        stage, name : str
            The stage and the name that the stage's notebook gave.
        run : str
            Such as ``addition/gpt2-3x64/seed0``; empty for a stage of the whole profile.

        Raises
        ------
        InputError
            If none was published; the sentence says which were.
        """
        folder = self.folder / run / stage
        for kind in ("tables", "figures"):
            if (folder / kind / f"{name}.csv").is_file():
                return pd.read_csv(folder / kind / f"{name}.csv")
        known = sorted(path.stem for path in folder.glob("*/*.csv"))
        raise InputError(
            f"{folder.relative_to(config.root())} has no table or figure {name!r}; it has {', '.join(known) or 'none'}."
        )

    @functools.cached_property
    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of all stages, each with the `run` that it is of; checkpoints are left out."""
        return json.loads((self.folder / MANIFESTS).read_text(encoding="utf-8"))

    @functools.cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """Every file by its path in the project, with its digest."""
        prefix = self.folder.relative_to(config.root()).as_posix()
        return {f"{prefix}/{name}": entry for name, entry in provenance.digest_folder(self.folder).items()}

    @functools.cached_property
    def _numbers(self) -> pd.DataFrame:
        numbers = ("value", "ci_low", "ci_high")
        return pd.read_csv(
            self.folder / METRICS,
            keep_default_na=False,
            na_values={name: [""] for name in numbers},
            dtype=dict.fromkeys(numbers, float),
        )


def folder_of(profile: str) -> Path:
    """The folder of a profile's published results."""
    return config.root() / stages.PUBLISHED / profile


def published(profile: str = "full") -> Published | None:
    """Read what the repository has of a profile; None if that is nothing.

    A stage asks its run instead (:meth:`memgen.report.Run.published`), which notes the files as inputs.

    Raises
    ------
    InputError
        If the folder is there but incomplete.
    """
    folder = folder_of(profile)
    if not folder.is_dir():
        return None
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        complete = {"command", "commits", "dirty"} <= set(about) and (folder / METRICS).is_file()
    except (OSError, ValueError):
        complete = False
    if not complete:
        where = folder.relative_to(config.root())
        raise InputError(f"{where} is incomplete; restore it with git, or `make publish PROFILE={profile}`.")
    return Published(profile, about)
