"""Numbers of many runs beside one another."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from memgen import statistics
from memgen.config import InputError, base_task

METHOD = "gradient-guided_MLP"  # the fitted shift that stands for steering where runs are compared

#: Metric -> how it is called where runs are compared.
HEADLINE = {
    "memorized_only_accuracy": "memorized-only accuracy",
    "inferred_only_accuracy": "inferred-only accuracy",
    "conflict_memorization": "conflicts answered from memory",
    "conflict_generalization": "conflicts answered by inference",
    "conflict_other": "conflicts answered by neither",
    "flip_rate": "variants that flip",
    "accuracy_all_conflicts": "prediction, all conflicts",
    "baseline_all_conflicts": "best input-only baseline",
    "to_target_memorization_study_all": "study's shift to memorization",
    "to_target_generalization_study_all": "study's shift to generalization",
    f"to_target_memorization_{METHOD}_all": "fitted shift to memorization",
    f"to_target_memorization_{METHOD}_random_control_all": "its random control, to memorization",
    f"worst_answer_memorization_{METHOD}": "its worst answer, to memorization",
    f"to_other_memorization_{METHOD}_all": "its other answers, to memorization",
    f"to_target_generalization_{METHOD}_all": "fitted shift to generalization",
    f"to_target_generalization_{METHOD}_random_control_all": "its random control, to generalization",
    f"worst_answer_generalization_{METHOD}": "its worst answer, to generalization",
    f"to_other_generalization_{METHOD}_all": "its other answers, to generalization",
}
COLUMNS = ["value", "low", "high", "n"]
MIXES = {"": "graded", "none": "none", "half": "half"}  # label of a run's task -> its mix of training texts


class Published(Protocol):
    """The published results of a profile, as :mod:`memgen.report` reads them."""

    @property
    def label(self) -> str:
        """Whose results these are, for captions."""

    def table(self, stage: str, name: str, run: str = "") -> pd.DataFrame:
        """A table of a stage."""


def over_seeds(frame: pd.DataFrame, by: Sequence[str], column: str = "value") -> pd.DataFrame:
    """Mean and 95 % interval of a share over seeds, cut at 0 and 1: the columns `by`, then `value, low, high, n`."""
    rows: list[dict[str, Any]] = []
    for keys, own in frame.groupby(list(by), sort=False):
        rows.append(dict(zip(by, keys, strict=True)) | statistics.over_seeds(own[column].to_numpy())._asdict())
    table = pd.DataFrame(rows, columns=[*by, *COLUMNS])
    return table.assign(low=table.low.clip(lower=0), high=table.high.clip(upper=1))


def over_pairs(frame: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """As :func:`over_seeds`, of numbers that belong to pairs of seeds (`seed` and `other`).

    Pairs that share a seed are not independent: the pairs of each `seed` are averaged first, and `n` counts seeds.
    """
    means = frame.groupby([*by, "seed"], sort=False)[column].mean().reset_index()
    return over_seeds(means, by, column)


def compare_runs(metrics: pd.DataFrame) -> pd.DataFrame:
    """The headline numbers of runs over seeds: `task, model, measure, value, low, high, n`, measures in their order.

    A number that no seed of a run has is left out.
    """
    own = metrics[metrics.name.isin(HEADLINE)].dropna(subset=["value"])
    table = over_seeds(own, ["task", "model", "name"])
    order = {name: i for i, name in enumerate(HEADLINE)}
    runs = {run: i for i, run in enumerate(dict.fromkeys(zip(own.task, own.model, strict=True)))}
    place = [
        (runs[row.task, row.model], order[row.name]) for row in table[["task", "model", "name"]].itertuples(index=False)
    ]
    table = table.iloc[sorted(range(len(table)), key=place.__getitem__)].reset_index(drop=True)
    table.insert(2, "measure", table.name.map(HEADLINE))
    return table.drop(columns="name")


def sizes(metrics: pd.DataFrame) -> pd.DataFrame:
    """:func:`compare_runs` of the runs without a label, of each task that has two models or more."""
    own = compare_runs(metrics[metrics.task.isin(["inference", "addition"])])
    return own[own.groupby("task").model.transform("nunique") > 1].reset_index(drop=True)


def mixes(metrics: pd.DataFrame) -> pd.DataFrame:
    """:func:`compare_runs` with the column `mix`, of each task and model that has two of the `MIXES` or more."""
    own = compare_runs(metrics)
    own["mix"] = own.task.map(lambda name: MIXES.get(name.partition("-")[2]))
    own = own[own.mix.notna() & ~own.task.map(base_task).eq("joint")]
    own = own.assign(task=own.task.map(base_task))
    return own[own.groupby(["task", "model"]).mix.transform("nunique") > 1].reset_index(drop=True)


def matrices_over_seeds(shifts: pd.DataFrame, probes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of shift and probe matrices of several seeds (with `task` and `seed`), over seeds.

    Returns
    -------
    shifts
        `task, source, destination, target, value, low, high, n` of the share that reaches the target, and the means of
        `control` and `to_other`.
    probes
        `task, source, destination, value, low, high, n` of the AUROC, and the means of `accuracy` and `majority`.
    """
    tables = []
    for frame, by, measure, others in (
        (shifts, ["task", "source", "destination", "target"], "value", ["control", "to_other"]),
        (probes, ["task", "source", "destination"], "auroc", ["accuracy", "majority"]),
    ):
        if len(frame):
            means = frame.groupby(by, sort=False)[others].mean().reset_index()
            frame = over_seeds(frame, by, measure).merge(means, on=by)
        tables.append(frame)
    return tables[0], tables[1]


def late_layer(depth: pd.DataFrame) -> pd.DataFrame:
    """How far the last layer's |NMD| lies above chance, in each form, and what matching the formats leaves of it.

    Parameters
    ----------
    depth
        `task, form, seed, layer, ratio` (mean |NMD| over its chance level).

    Returns
    -------
    pandas.DataFrame
        `task, form, value, low, high, n` for the ratios of each form, over seeds, and as `form` ``left`` the excess
        over 1 in the matched form as a share of that in the study's form (the ratio of the means; no interval).
    """
    last = depth[depth.layer == depth.groupby(["task", "form"]).layer.transform("max")]
    rows = []
    for task, own in last.groupby("task", sort=False):
        means = {}
        for form, some in own.groupby("form", sort=False):
            estimate = statistics.over_seeds(some.ratio.to_numpy())
            means[form] = estimate.value
            rows.append({"task": task, "form": form, **estimate._asdict()})
        if {"study", "matched"} <= set(means) and means["study"] > 1:
            left = (means["matched"] - 1) / (means["study"] - 1)
            rows.append({"task": task, "form": "left", "value": left, "low": np.nan, "high": np.nan, "n": len(own)})
    return pd.DataFrame(rows, columns=["task", "form", *COLUMNS])


def or_published(own: pd.DataFrame, published: Published | None, name: str) -> tuple[pd.DataFrame, str]:
    """The profile's own rows; where it has none, those published under `name`, with a sentence that says so.

    The sentence is empty for own rows. Where nothing is published either, the rows stay empty.
    """
    if len(own) or published is None:
        return own, ""
    try:
        return published.table("carryover", name), f" {published.label}."
    except InputError:
        return own, ""
