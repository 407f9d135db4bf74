"""The numbers of two folders of results side by side: two runs, two profiles, or a profile and what was published."""

import dataclasses
import os
from pathlib import Path

import pandas as pd

from memgen.config import InputError
from memgen.manifest import NUMBER_FIELDS, load_metrics
from memgen.published import METRICS, OF_PROFILE, RUN_COLUMNS, read_metrics

MARK = "*"
BOUNDS = ["value", "ci_low", "ci_high"]


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """What two folders hold.

    Attributes
    ----------
    rows
        A row for each number that both have: `where` (the stage, with its run below a profile), `measure`, coordinates,
        `unit`; `value_a, ci_low_a, ci_high_a, n_a` and the same with `_b`; `apart`, whether both have an interval and
        the two do not overlap.
    only_a, only_b
        How many numbers only one of them has.
    """

    rows: pd.DataFrame
    only_a: int
    only_b: int

    @property
    def n_apart(self) -> int:
        """The number of rows whose intervals do not overlap."""
        return int(self.rows.apart.sum())

    def __str__(self) -> str:
        parts = [_table(str(where), rows) for where, rows in self.rows.groupby("where", sort=False)]
        n = len(self.rows)
        parts.append(f"{n} number{'s' if n != 1 else ''} in both, {self.n_apart} with intervals apart ({MARK}).")
        parts += [f"{k} only in {name}." for name, k in (("A", self.only_a), ("B", self.only_b)) if k]
        return "\n".join(parts)


def side_by_side(a: str | os.PathLike, b: str | os.PathLike) -> SideBySide:
    """Compare the numbers of two folders, by stage (and run below a profile), measure and coordinates.

    Intervals that overlap do not show that two numbers agree; those that do not overlap differ by more than their
    groups explain. An interval of a single number takes no account of how many are compared.

    Raises
    ------
    InputError
        As of :func:`read_numbers`, or if the folders have no number in common.
    """
    frames = [read_numbers(folder) for folder in (a, b)]
    rows = matched(*frames)
    rows = rows[rows["_merge"] == "both"].drop(columns="_merge").reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{a} and {b} have no number in common: give two runs, or two profiles.")
    rows["apart"] = (rows.ci_high_a < rows.ci_low_b) | (rows.ci_high_b < rows.ci_low_a)  # undefined is never apart
    return SideBySide(rows, len(frames[0]) - len(rows), len(frames[1]) - len(rows))


def read_numbers(folder: str | os.PathLike) -> pd.DataFrame:
    """Every number below a folder: `where`, then the columns of records.

    The folder is a stage's, a run's or a profile's below ``results/``, or one of ``book/published/``; `where` is the
    path from it to the stage. Stages that did not finish are left out.

    Raises
    ------
    InputError
        If the folder is missing or has no finished stage.
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
