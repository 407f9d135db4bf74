"""Published results: the numbers and tables of a profile that the repository keeps, read without any run of it.

``make publish`` writes them (:mod:`book.build.publish`). ``metrics.parquet`` can be read without memgen, too.
``models/`` holds a trained model of each task (:mod:`book.build.models`), which notebooks take as `model` "published".
"""

import dataclasses
import functools
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.config import STAGES, Cell, InputError, RunConfig
from memgen.manifest import COORDINATES, NUMBER_FIELDS, in_order, load_manifest, load_metrics
from memgen.place import PUBLISHED, Place

MODEL = "published"  # instead of the name of a model: the published one of the task
MODELS = f"{PUBLISHED}models"
ABOUT, METRICS, MANIFESTS = "README.json", "metrics.parquet", "manifests.json"
#: Columns that say which run and stage a number is of; the last three are the run's settings.
RUN_COLUMNS = ("task", "model", "seed", "stage", "base_task", "form", "conflicts")
OF_PROFILE = [stage.name for stage in STAGES.values() if stage.of_profile]
QUOTED = re.compile(r'"((?:[^"]|"")*)"')  # a field of a CSV file


@dataclasses.dataclass(frozen=True)
class Published:
    """The published results of a profile; `about` is what ``README.json`` says of them."""

    profile: str
    about: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where they are."""
        return folder_of(self.profile)

    @property
    def label(self) -> str:
        """Whose results these are, for captions."""
        status = f" ({self.about['status']})" if "status" in self.about else ""
        return f"Published results of the profile {self.profile}{status}"

    @property
    def metrics(self) -> pd.DataFrame:
        """The numbers of every run's stages, with the columns of :meth:`memgen.run.Run.metrics`."""
        frame = self._numbers[~self._numbers.stage.isin(OF_PROFILE)]
        fixed = {*RUN_COLUMNS, "measure", *COORDINATES, *NUMBER_FIELDS}
        of_others = [name for name in frame if name not in fixed and frame[name].isna().all()]
        return frame.drop(columns=of_others).astype({"seed": int}).reset_index(drop=True)

    def further_runs(self, profile: config.Profile) -> pd.DataFrame:
        """The numbers of runs of the tasks and models of `profile`, with its settings, that it does not make itself."""
        made_from = config.Profile.model_validate(self.manifests[-1]["config"])  # the last stage's is of all runs
        tasks, models = {spec.task for spec in profile.runs.values()}, {cell.model for cell in profile.cells()}
        found = self.metrics[self.metrics.base_task.isin(tasks) & self.metrics.model.isin(models)]
        is_here = pd.MultiIndex.from_frame(found[list(Cell._fields)]).isin(profile.cells())
        return found[~is_here] if profile.is_alike(made_from) else found[:0]

    def stage_metrics(self, stage: str) -> pd.DataFrame:
        """The numbers of a stage; a stage of the whole profile has task, model and seed as coordinates."""
        return self._numbers[self._numbers.stage == stage].reset_index(drop=True)

    def table(self, stage: str, name: str, run: str = "") -> pd.DataFrame:
        """The table, or the data of the figure, that the stage's notebook gave that name.

        `run` is such as ``addition/gpt2-3x64/seed0``; empty for a stage of the whole profile. If none was published, an
        InputError says which were.
        """
        folder = self.folder / run / stage
        paths = {path.stem: path for kind in ("figures", "tables") for path in sorted(folder.glob(f"{kind}/*.csv"))}
        if name not in paths:
            where = folder.relative_to(config.root())
            raise InputError(f"{where} has no table or figure {name!r}; it has {', '.join(sorted(paths)) or 'none'}.")
        return read_table(paths[name])

    @functools.cached_property
    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of all stages, each with the `run` that it is of; checkpoints are left out."""
        return json.loads((self.folder / MANIFESTS).read_text(encoding="utf-8"))

    @functools.cached_property
    def _numbers(self) -> pd.DataFrame:
        return read_metrics(self.folder)


def metrics_of(place: Place, profile: config.Profile) -> pd.DataFrame:
    """The numbers of a stage of a run, with `RUN_COLUMNS`; a record that names a form itself keeps it."""
    spec, frame = profile.spec(place.task), load_metrics(place.folder)
    settings = {name: frame[name].astype(object).fillna(getattr(spec, name)) for name in ("form", "conflicts")}
    return frame.assign(stage=place.stage, **place.cell._asdict(), base_task=spec.task, **settings)


def read_metrics(folder: Path) -> pd.DataFrame:
    """Every number below a folder of published results: `RUN_COLUMNS`, `measure`, coordinates, and `NUMBER_FIELDS`."""
    try:
        frame = pd.read_parquet(folder / METRICS)
    except (OSError, ValueError) as error:
        where = os.path.relpath(folder / METRICS, config.root())
        raise InputError(f"{where} cannot be read ({type(error).__name__}); restore it with git.") from None
    return in_order(frame, [*RUN_COLUMNS, "measure"])


def read_table(path: Path) -> pd.DataFrame:
    """A table of a stage as it was written: text stays text, whatever it looks like; what is empty is missing.

    Text is what stands in quotation marks. In tables of before it did so, it is the answers, and what begins with 0.
    """
    marked = QUOTED.sub(lambda field: "text" if field[1] else "", path.read_text(encoding="utf-8"))
    fields = pd.read_csv(io.StringIO(marked), header=None, dtype=str, keep_default_na=False).iloc[1:]
    names = pd.read_csv(path, nrows=0).columns
    is_text = [fields[i].str.contains(r"^(?:text$|0\d)").any() or names[i].startswith("answer") for i in fields]
    return pd.read_csv(path, dtype=dict.fromkeys(names[is_text], str), keep_default_na=False, na_values=[""])


def folder_of(profile: str) -> Path:
    """The folder of a profile's published results."""
    return config.root() / PUBLISHED / profile


def published(profile: str = "full") -> Published | None:
    """Read what the repository has of a profile; None if that is nothing, an InputError if it is incomplete.

    A stage asks its run instead (:meth:`memgen.run.Run.published`), which notes the files as inputs.
    """
    folder = folder_of(profile)
    if not folder.is_dir():
        return None
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        complete = {"command", "commits", "dirty"} <= set(about) and (folder / METRICS).is_file()
    except (OSError, ValueError):
        complete = False
    where = folder.relative_to(config.root())
    config.require(complete, f"{where} is incomplete; restore it with git, or `make publish PROFILE={profile}`.")
    return Published(profile, about)


def take_model(place: Place) -> RunConfig:
    """Put the stages of the published model where `place` reads them; the settings, those of its own run.

    The analysis is that of the profile; in the profile default it is the miniature of the profile smoke, which takes
    minutes. The seed of `place` decides what the analysis draws. A task without a published model, and a stage that
    needs none, are an InputError.
    """
    source = config.root() / MODELS / place.task
    tasks = sorted(path.name for path in source.parent.glob("*/"))
    known = ", ".join(tasks) or "none"
    config.require(place.task in tasks, f"No model of the task {place.task!r} is published; allowed are {known}.")
    config.require(
        "training" in STAGES[place.stage].reads,
        f"The published model is trained: the notebook {place.stage} does not take it; localization and steering do.",
    )
    made = load_manifest(source / "training")["config"]
    analysis = config.load_profile("smoke" if place.profile == "default" else place.profile).analysis
    changed = {"profile": place.profile, "seed": place.seed, "model": made["model"] | {"name": MODEL}}
    settings = RunConfig.read(made | changed | {"analysis": analysis}, str(source))
    for need in place.reads():
        if not need.folder.exists() and (source / need.stage).exists():
            beside = need.folder.with_name(f".{need.stage}.{os.getpid()}")
            shutil.copytree(source / need.stage, beside)
            beside.rename(need.folder)
    return settings
