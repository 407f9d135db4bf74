"""The numbers of two folders of results side by side: two runs, two profiles, or one and what was published."""

import dataclasses
import math
import os
from pathlib import Path

import pandas as pd

from memgen.config import InputError
from memgen.report import publication, stages
from memgen.report.stages import METRIC_FIELDS

KEYS = ["where", "name"]
MARK = "*"


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """What two folders hold.

    Attributes
    ----------
    both
        A row for each number that both have: `where` (the stage, with its run below a profile), `name`, `unit`;
        `value_a, ci_low_a, ci_high_a, n_a` and the same with `_b`; `apart`, whether both have an interval and the two
        do not overlap.
    only_a, only_b
        How many numbers only one of them has.
    """

    both: pd.DataFrame
    only_a: int
    only_b: int

    @property
    def n_apart(self) -> int:
        """The number of rows whose intervals do not overlap."""
        return int(self.both.apart.sum())

    def __str__(self) -> str:
        lines = [line for where, rows in self.both.groupby("where", sort=False) for line in _part(str(where), rows)]
        n = len(self.both)
        lines += [f"{n} number{'s' if n != 1 else ''} in both, {self.n_apart} with intervals apart ({MARK})."]
        lines += [f"{k} only in {name}." for name, k in (("A", self.only_a), ("B", self.only_b)) if k]
        return "\n".join(lines)


def read_numbers(folder: str | os.PathLike) -> pd.DataFrame:
    """Every number below a folder: `where`, then the fields of ``metrics.json``.

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
    if (folder / publication.METRICS).is_file():
        frame = pd.read_csv(folder / publication.METRICS).fillna({"task": "", "model": ""})
        runs = frame.task + "/" + frame.model + "/seed" + frame.seed.astype(str) + "/"
        return frame.assign(where=runs.where(frame.task != "", "") + frame.stage)[["where", *METRIC_FIELDS]]
    found = [path.parent for path in sorted(folder.rglob("metrics.json"))]
    places = [place for place in found if stages.finished(place) and not _is_hidden(place.relative_to(folder))]
    if not places:
        raise InputError(f"No stage finished below {folder}: give the folder of a run or of a profile.")
    frames = [stages.load_metrics(place).assign(where=_where(place, folder)) for place in places]
    return pd.concat(frames, ignore_index=True)[["where", *METRIC_FIELDS]]


def side_by_side(a: str | os.PathLike, b: str | os.PathLike) -> SideBySide:
    """Compare the numbers of two folders, by stage (and run below a profile) and name.

    Intervals that overlap do not show that two numbers agree; those that do not overlap differ by more than their
    groups explain. An interval of a single number takes no account of how many are compared.

    Raises
    ------
    InputError
        As of :func:`read_numbers`, or if the folders have no number in common.
    """
    frames = [read_numbers(folder) for folder in (a, b)]
    numbers = ["value", "ci_low", "ci_high"]
    for frame in frames:
        frame[numbers] = frame[numbers].astype(float)
    fields = [*KEYS, *numbers, "n"]
    both = frames[0][[*fields, "unit"]].merge(frames[1][fields], on=KEYS, suffixes=("_a", "_b"))
    if both.empty:
        raise InputError(f"{a} and {b} have no number in common: give two runs, or two profiles.")
    both["apart"] = (both.ci_high_a < both.ci_low_b) | (both.ci_high_b < both.ci_low_a)  # undefined is never apart
    return SideBySide(both, len(frames[0]) - len(both), len(frames[1]) - len(both))


def _is_hidden(place: Path) -> bool:
    return any(part.startswith(".") for part in place.parts)


def _where(place: Path, folder: Path) -> str:
    """The path from the folder to the stage; of the stage itself, its name."""
    relative = place.relative_to(folder)
    return str(relative) if relative.parts else place.resolve().name


def _part(where: str, rows: pd.DataFrame) -> list[str]:
    """The lines of one stage: its numbers in columns."""
    cells = [("", where, "A", "B", "")]
    for row in rows.to_dict("records"):
        numbers = [_number(*(row[f"{field}_{side}"] for field in ("value", "ci_low", "ci_high"))) for side in "ab"]
        cells.append((MARK if row["apart"] else "", row["name"], *numbers, row["unit"]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return [*(line.rstrip() for line in lines), ""]


def _number(value: float, low: float, high: float) -> str:
    """A number with its interval, if it has one."""
    if math.isnan(value):
        return "–"
    return f"{value:.4g}" + ("" if math.isnan(low) or math.isnan(high) else f" [{low:.4g}, {high:.4g}]")
