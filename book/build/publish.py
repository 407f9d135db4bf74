"""Keep the small results of a profile in the repository, and compare a run made again with them.

``book/published/<profile>/`` gets every number of every stage, the data of the figures and tables of the stages of the
whole profile and of the first seed of each main run, every manifest, and ``README.json``. No weights, no texts.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from book.build.compare import matched, read_numbers
from memgen import config, published
from memgen.config import STAGES, InputError, Profile
from memgen.manifest import digest, load_metrics, write_json
from memgen.place import PUBLISHED, Place, put_in_place, sync

NUMBERS = "metrics.json"
#: Megabytes: every trial of every sweep, twice, and what the page Try it shows.
LEFT_OUT = ("/all_trials.csv", "/frontier.csv", "/try_it.csv")
FILES = {
    published.METRICS: "every number of every stage; base_task is missing for the stages of the whole profile",
    published.MANIFESTS: "how each stage was made: parameters, versions, commit, checksums, time, memory",
    "**/*.csv": "the tables, and the data of the figures, but not every trial of the sweeps",
}


def publish(profile: str, results: str = "results") -> Path:
    """Write what is to be published of a profile, and return the folder, which is replaced as a whole.

    A stage that :meth:`memgen.place.Place.check_earlier` refuses is an InputError.
    """
    manifests = Place(list(STAGES)[-1], profile, results=results).check_earlier(itself=True)
    loaded, target = config.load_profile(profile), published.folder_of(profile)
    beside = target.with_name(f".{profile}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    numbers = [_numbers(place, manifest, loaded) for place, manifest in manifests.items()]
    write_metrics(pd.concat(numbers, ignore_index=True), beside)
    first = {cell.task: cell for cell in reversed(loaded.main_cells())}.values()
    for place, manifest in manifests.items():
        if not place.task or place.cell in first:
            _copy_tables(place, manifest, beside / place.folder.relative_to(config.root() / results / profile))
    shortened = [{"run": place.run, **_without_checkpoints(manifest)} for place, manifest in manifests.items()]
    lines = ",\n".join(json.dumps(manifest, ensure_ascii=False) for manifest in shortened)  # a line each
    (beside / published.MANIFESTS).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    write_json(beside / published.ABOUT, _about(loaded, list(manifests.values())))
    sync(beside)
    put_in_place(beside, target)
    return target


def write_metrics(numbers: pd.DataFrame, folder: Path) -> None:
    """Write ``metrics.parquet`` without the columns that hold nothing."""
    numbers = numbers.astype({"seed": "Int64"}).dropna(axis="columns", how="all")
    numbers.to_parquet(folder / published.METRICS, index=False, compression="zstd")


def check(profile: str, cell: str, results: str = "results") -> int:
    """Say how a run, ``task/model/seed<n>``, compares with the published one, and return the exit status."""
    found = published.published(profile)
    if found is None:
        raise InputError(f"Nothing was published of the profile {profile!r} in {PUBLISHED}{profile}.")
    known = {manifest["stage"]: manifest for manifest in found.manifests if manifest["run"] == cell}
    runs = ", ".join(found.about["runs"])
    if cell not in found.about["runs"] or not known:
        raise InputError(f"The run {cell!r} was not published; published runs of {profile} are {runs}.")
    task, model, seed = cell.split("/")
    place = Place("", profile, task, model, int(seed.removeprefix("seed")), results)
    places = {place.at(stage): manifest for stage, manifest in known.items()}
    if not any(_is_made(stage) for stage in places):
        where, command = os.path.relpath(place.run_folder, config.root()), next(iter(places)).command
        raise InputError(f"There is nothing to compare in {where}; make the run first, with `{command}`.")
    differences = {stage.stage: _difference(stage, manifest, found) for stage, manifest in places.items()}
    for name, difference in differences.items():
        print(f"{name:14}{difference or 'equal'}")
    if any(differences.values()):
        print(f"{cell}: not all numbers are those in {os.path.relpath(found.folder)}.")
        return 1
    print(f"{cell}: every number is the published one, to the last digit.")
    return 0


def _is_made(place: Place) -> bool:
    place.settle()
    return (place.folder / "manifest.json").is_file()


def _difference(place: Place, manifest: dict[str, Any], found: published.Published) -> str:
    """What differs between a stage and the published one; empty if nothing does but intervals."""
    if not _is_made(place):
        return f"not made (with `{place.command}`)"
    if digest(place.folder / NUMBERS) == manifest["outputs"][NUMBERS]:
        return ""
    then = read_numbers(found.folder)
    then = then[then["where"] == f"{place.run}/{place.stage}"].assign(where=place.stage)
    rows = matched(then, read_numbers(place.folder))
    counts = rows["_merge"].value_counts()
    moved = (rows["_merge"] == "both") & (rows.value_a != rows.value_b) & (rows.value_a.notna() | rows.value_b.notna())
    largest = (rows.value_b - rows.value_a).abs().max()
    differences = {
        f"{moved.sum()} of {counts['both']} values differ, by at most {largest:.2g}": moved.any(),
        f"{counts['left_only']} were published only": counts["left_only"],
        f"{counts['right_only']} are here only": counts["right_only"],
    }
    return "; ".join(text for text, count in differences.items() if count)


def _numbers(place: Place, manifest: dict[str, Any], profile: Profile) -> pd.DataFrame:
    """The numbers of a stage with the columns that say which run and stage they are of."""
    place.check_files({NUMBERS: manifest["outputs"][NUMBERS]})
    if place.task:
        return published.metrics_of(place, profile)
    frame = load_metrics(place.folder).assign(stage=place.stage)  # task, model and seed are coordinates of its numbers
    return frame.reindex(columns=list(dict.fromkeys([*published.RUN_COLUMNS, *frame.columns])))


def _copy_tables(place: Place, manifest: dict[str, Any], target: Path) -> None:
    """Copy the tables, and the data of the figures, of a stage."""
    outputs = manifest["outputs"]
    tables = {file: outputs[file] for file in outputs if file.endswith(".csv") and not file.endswith(LEFT_OUT)}
    place.check_files(tables)
    for file in tables:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place.folder / file, target / file)


def _without_checkpoints(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without the many files of checkpoints among its inputs and outputs."""
    parts = {name: manifest[name].items() for name in ("inputs", "outputs")}
    return manifest | {name: {f: e for f, e in files if "checkpoints/" not in f} for name, files in parts.items()}


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
        "stages": list(STAGES),
        "files": FILES,
    }
