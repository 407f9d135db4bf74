"""The numbers of two folders of results side by side: two runs, two profiles, or a profile and what was published."""

import os
from pathlib import Path

import pandas as pd

from memgen.config import InputError
from memgen.manifest import NUMBER_FIELDS, load_metrics
from memgen.published import METRICS, OF_PROFILE, RUN_COLUMNS, read_metrics

MARK = "*"
BOUNDS = ["value", "ci_low", "ci_high"]


def side_by_side(a: str | os.PathLike, b: str | os.PathLike) -> pd.DataFrame:
    """The numbers of two folders as of :func:`matched`, and `apart`: whether two intervals do not overlap.

    Intervals that overlap do not show that two numbers agree; those that do not overlap differ by more than their
    groups explain. An interval of a single number takes no account of how many are compared. Folders without a number
    in common are an InputError.
    """
    rows = matched(read_numbers(a), read_numbers(b))
    if "both" not in set(rows["_merge"]):
        raise InputError(f"{a} and {b} have no number in common: give two runs, or two profiles.")
    rows["apart"] = (rows.ci_high_a < rows.ci_low_b) | (rows.ci_high_b < rows.ci_low_a)  # undefined is never apart
    return rows


def as_text(rows: pd.DataFrame) -> str:
    """What is :func:`side_by_side`, in columns."""
    both, n_only = rows[rows["_merge"] == "both"], rows["_merge"].value_counts()
    parts = [_table(str(where), of_stage) for where, of_stage in both.groupby("where", sort=False)]
    n = f"{len(both)} number{'s' if len(both) != 1 else ''}"
    parts.append(f"{n} in both, {both.apart.sum()} with intervals apart ({MARK}).")
    for name, side in (("A", "left_only"), ("B", "right_only")):
        parts += [f"{n_only[side]} only in {name}."] if n_only[side] else []
    return "\n".join(parts)


def read_numbers(folder: str | os.PathLike) -> pd.DataFrame:
    """Every number below a folder: `where`, then the columns of records.

    The folder is a stage's, a run's or a profile's below ``results/``, or one of ``book/published/``; `where` is the
    path from it to the stage. Stages that did not finish are left out; a folder without any other is an InputError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    if (folder / METRICS).is_file():
        frame = read_metrics(folder)
        run = frame.loc[~frame.stage.isin(OF_PROFILE), ["task", "model", "seed"]].astype(str)
        folders = (run.task + "/" + run.model + "/seed" + run.seed + "/").reindex(frame.index, fill_value="")
        return _of_run(frame.assign(where=folders + frame.stage))
    places = [path.parent for path in sorted(folder.rglob("manifest.json"))]
    places = [place for place in places if not any(part.startswith(".") for part in place.relative_to(folder).parts)]
    if not places:
        raise InputError(f"No stage finished below {folder}: give the folder of a run or of a profile.")
    frames = [load_metrics(place).assign(stage=place.resolve().name) for place in places]
    for place, frame in zip(places, frames, strict=True):
        frame["where"] = place.relative_to(folder).as_posix() if place != folder else frame.stage
    return _of_run(pd.concat(frames))


def _of_run(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out what says of which run a number is; to a stage of the whole profile these are coordinates."""
    columns = [name for name in RUN_COLUMNS if name in frame and name != "stage"]
    frame[columns] = frame[columns].where(frame.stage.isin(OF_PROFILE))
    return frame.drop(columns="stage")


def matched(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The numbers of two frames of records, row by row: coordinates, numbers with `_a` and `_b`, and `_merge`."""
    keys = [name for name in dict.fromkeys(["where", *a.columns, *b.columns]) if name not in NUMBER_FIELDS]
    sides = []
    for frame in (a, b):
        side = frame.reset_index(drop=True).reindex(columns=[*keys, *BOUNDS, "n", "unit"])
        side[keys] = side[keys].astype(object).where(side[keys].notna(), None)  # 1 and 1.0 are the same layer
        sides.append(side.assign(repeated=side.groupby(keys, dropna=False).cumcount()))  # of the forms in one model
    return sides[0].merge(
        sides[1].drop(columns="unit"), on=[*keys, "repeated"], how="outer", suffixes=("_a", "_b"), indicator=True
    )


def _table(where: str, rows: pd.DataFrame) -> str:
    """The numbers of a stage in columns."""
    lines = [("", where, "A", "B", "")]
    coordinates = rows.loc[:, :"value_a"].drop(columns=["where", "value_a"])
    for row, place in zip(rows.to_dict("records"), coordinates.to_dict("records"), strict=True):
        name = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in place.values() if pd.notna(v))
        numbers = [_number(*(row[f"{field}_{side}"] for field in BOUNDS)) for side in "ab"]
        lines.append((MARK if row["apart"] else "", name, *numbers, row["unit"]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join([*("  ".join(line).rstrip() for line in cells), ""])


def _number(value: float, low: float, high: float) -> str:
    """A number with its interval, if it has one."""
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" + ("" if pd.isna(low) or pd.isna(high) else f" [{low:.4g}, {high:.4g}]")
