"""Keep the small results of a profile in the repository, and compare a run made again with them.

``book/published/<profile>/`` gets every number of every stage (``metrics.csv``), the data of the figures and tables of
the stages of the whole profile and of the first seed of each main run, every manifest (``manifests.json``), and
``README.json``. No weights, no texts.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.config import InputError, Profile
from memgen.report import provenance, publication, stages
from memgen.report.stages import PROFILE_STAGES, Place

NUMBERS = "metrics.json"
LEFT_OUT = "checkpoints/"  # part of the names of inputs and outputs that the published manifests lack
EQUAL, DIFFERENT, NOT_MADE = "equal", "differs", "not made"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a stage made again compares with the published one: `equal` (byte for byte), `differs` or `not made`."""

    stage: str
    outcome: str
    detail: str = ""


def publish(profile: str, results: str = "results") -> Path:
    """Write what is to be published of a profile, and return the folder, which is replaced as a whole.

    Raises
    ------
    InputError
        If a stage is not finished, was changed, or was made from other results than those that are there now.
    """
    manifests = stages.check_needs(Place(PROFILE_STAGES[-1], profile, results=results), itself=True)
    target = publication.folder_of(profile)
    beside = target.with_name(f".{profile}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    numbers = pd.concat([_numbers(place, manifest) for place, manifest in manifests.items()], ignore_index=True)
    numbers.to_csv(beside / publication.METRICS, index=False)  # the shortest digits that give the same number again
    loaded = config.load_profile(profile)
    first = {(task, model, loaded.seeds[0]) for task, models in loaded.runs.items() for model in models}
    for place, manifest in manifests.items():
        if not place.task or (place.task, place.model, place.seed) in first:
            _copy_tables(place, manifest, beside / place.folder.relative_to(place.profile_folder))
    shortened = [{"run": place.run, **_without_checkpoints(manifest)} for place, manifest in manifests.items()]
    lines = ",\n".join(json.dumps(manifest, ensure_ascii=False) for manifest in shortened)  # a line each
    (beside / publication.MANIFESTS).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    stages.write_json(beside / publication.ABOUT, _about(loaded, list(manifests.values())))
    old = target.with_name(f".{profile}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def compare(profile: str, cell: str, results: str = "results") -> list[Comparison]:
    """Compare the numbers of a run, ``task/model/seed<n>``, with the published ones, stage by stage.

    Raises
    ------
    InputError
        If nothing was published of the profile or the run, or if the run has no stage at all.
    """
    found = publication.published(profile)
    if found is None:
        raise InputError(f"Nothing was published of the profile {profile!r} in {stages.PUBLISHED}{profile}.")
    known = {manifest["stage"]: manifest for manifest in found.manifests if manifest["run"] == cell}
    if not known or cell == profile:
        runs = ", ".join(found.about["runs"])
        raise InputError(f"The run {cell!r} was not published; published runs of {profile} are {runs}.")
    task, model, seed = cell.split("/")
    place = Place("", profile, task, model, int(seed.removeprefix("seed")), results)
    compared = [_compared(place.at(stage), manifest, found) for stage, manifest in known.items()]
    if all(comparison.outcome == NOT_MADE for comparison in compared):
        where = os.path.relpath(place.run_folder, config.root())
        raise InputError(f"There is nothing to compare in {where}; make the run first, {compared[0].detail}.")
    return compared


def _compared(place: Place, manifest: dict[str, Any], found: publication.Published) -> Comparison:
    stages.settle(place)
    if not stages.finished(place.folder):
        return Comparison(place.stage, NOT_MADE, f"with `{place.command}`")
    if provenance.digest(place.folder / NUMBERS) == manifest["outputs"][NUMBERS]:
        return Comparison(place.stage, EQUAL)
    published = found.metrics
    for column in publication.RUN_COLUMNS:
        published = published[published[column] == getattr(place, column)]
    both = published.merge(stages.load_metrics(place.folder), on="name", how="outer", suffixes=("", "_now"))
    then, now = both.value.astype(float), both.value_now.astype(float)
    moved = (then != now) & ~(then.isna() & now.isna())
    most = (now - then).abs().max()
    detail = f"{moved.sum()} of {len(both)} values, by at most {most:.2g}" if moved.any() else "in no value of a metric"
    return Comparison(place.stage, DIFFERENT, detail)


def _numbers(place: Place, manifest: dict[str, Any]) -> pd.DataFrame:
    """The numbers of a stage; the first columns say which run and stage."""
    stages.check_files(place, {NUMBERS: manifest["outputs"][NUMBERS]})
    keys = {column: getattr(place, column) for column in publication.RUN_COLUMNS}
    frame = stages.load_metrics(place.folder)
    return frame.assign(**keys)[[*keys, *stages.METRIC_FIELDS]].astype(
        {name: float for name in ("value", "ci_low", "ci_high")}
    )


def _copy_tables(place: Place, manifest: dict[str, Any], target: Path) -> None:
    """Copy the tables, and the data of the figures, of a stage."""
    wanted = {
        name: entry
        for name, entry in manifest["outputs"].items()
        if name.startswith(("figures/", "tables/")) and name.endswith(".csv")
    }
    stages.check_files(place, wanted)
    for name in wanted:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place.folder / name, target / name)


def _without_checkpoints(manifest: dict[str, Any]) -> dict[str, Any]:
    kept = {
        part: {name: entry for name, entry in manifest[part].items() if LEFT_OUT not in name}
        for part in ("inputs", "outputs")
    }
    return manifest | kept


def _about(profile: Profile, manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """What `README.json` says. Nothing in it depends on when it was published: twice gives the same bytes."""
    machines = {json.dumps(manifest["machine"], sort_keys=True) for manifest in manifests}
    return {
        "profile": profile.name,
        "command": f"make book PROFILE={profile.name}",
        "commits": sorted({manifest["git"]["commit"] for manifest in manifests} - {None}),
        "dirty": any(manifest["git"]["dirty"] for manifest in manifests),
        "date": max(manifest["finished"] for manifest in manifests),
        "machines": [json.loads(machine) for machine in sorted(machines)],
        "wall_seconds": round(sum(manifest["wall_seconds"] for manifest in manifests)),
        "runs": ["{}/{}/seed{}".format(*cell) for cell in profile.cells()],
        "stages": list(stages.STAGES),
        "files": {
            publication.METRICS: "every number of every stage; task is empty for the stages of the whole profile",
            publication.MANIFESTS: "how each stage was made: parameters, versions, commit, checksums, time, memory",
            "**/*.csv": "the tables, and the data of the figures",
        },
    }
