"""The study's tables of steering with our numbers in every cell.

A cell is a setting (``scratch``: the model that the shift was computed from; ``retrained``: another seed;
``other_task``: the other task's neurons; ``random``), a task, a target and an outcome: the share of inputs of the
opposite behaviour that reach the target, stay, or do something else. What we measured in it may be several numbers,
told apart by `ours`, such as the population.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from memgen import intervals
from memgen.synthesis.verdicts import STUDY_RUNS

CELL = ["setting", "task", "target", "outcome"]
OUTCOMES = ["reached", "stayed", "other"]
NOT_MEASURED = "not measured"
#: What stands in the cells of Table 1, by population. The study splits its inputs at random, we also by group.
POPULATIONS = {
    "seen_flip_pairs": "flip pairs, the study's split",
    "flip_pairs": "flip pairs, new groups",
    "conflicts": "conflicts, new groups",
}
#: What stands in the cells of Table 3, by how the neurons of the one seed are found in the other.
MATCHES = {"index": "same index", "matched": "matched by correlation"}
CONTROLS = {"uniform": "up to the largest shift", "random_neurons": "random neurons, equal norm"}
COLUMNS = [*CELL, "ours", *intervals.Estimate._fields]


def of_each_seed(metrics: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The study's shift and random ones (of these, all conflicts of new groups), from metrics of steering.

    The columns are `COLUMNS`, and `seed`; intervals are those of each run, and n is its inputs.
    """
    steered = f"{STUDY_RUNS} and stage == 'steering' and method == 'study' and measure in @OUTCOMES"
    rows = metrics.query(steered, local_dict={"OUTCOMES": OUTCOMES})
    rows = rows.drop(columns="task").rename(columns={"base_task": "task", "measure": "outcome"})
    parts = [
        rows[rows.control.isna() & (rows.population == name)].assign(setting=setting, ours=words)
        for name, words in POPULATIONS.items()
    ]
    parts += [
        rows[(rows.control == name) & (rows.population == "conflicts")].assign(setting="random", ours=words)
        for name, words in CONTROLS.items()
    ]
    return pd.concat(parts).reindex(columns=[*COLUMNS, "seed"])


def same_model(metrics: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with its random shifts, means over seeds: `COLUMNS`."""
    return intervals.seeds_by(of_each_seed(metrics, "scratch"), [*CELL, "ours"])


def adapters(metrics: pd.DataFrame) -> pd.DataFrame:
    """Table 2 with its random shifts, each adapter by itself: `COLUMNS`."""
    rows = of_each_seed(metrics, "lora")
    return rows.assign(ours=[f"{row.ours}, seed {row.seed}" for row in rows.itertuples()])[COLUMNS]


def retrained_model(carried: pd.DataFrame) -> pd.DataFrame:
    """Table 3, from the numbers of the carry-over chapter, which stand over seeds already: `COLUMNS`."""
    rows = carried.reindex(columns=["measure", "match", "control", *COLUMNS])
    rows = rows[rows.measure.isin(OUTCOMES)].assign(setting="retrained", outcome=rows.measure)
    shift = rows[rows.control.isna()]
    parts = [shift[shift.match == name].assign(ours=words) for name, words in MATCHES.items()]
    random = rows[(rows.control == "random_neurons") & (rows.match == "index")]  # as many as, and as far as, by index
    return pd.concat([*parts, random.assign(ours=CONTROLS["random_neurons"])], ignore_index=True)[COLUMNS]


def other_task(transferred: pd.DataFrame, ours: str) -> pd.DataFrame:
    """Table 4, from shifts that were made on one part of a joint model and applied to the other: `COLUMNS`.

    `transferred` has `source, destination, target, value` (reached), `other, ci_low, ci_high, n`.
    """
    rows = transferred[transferred.source != transferred.destination]
    rows = rows.assign(setting="other_task", ours=ours, task=rows.destination.str.removeprefix("graded_"))
    bounds = {"ci_low": np.nan, "ci_high": np.nan}  # of what reaches the target alone
    stayed = rows.assign(outcome="stayed", value=1 - rows.value - rows.other, **bounds)
    other = rows.assign(outcome="other", value=rows.other, **bounds)
    return pd.concat([rows.assign(outcome="reached"), stayed, other], ignore_index=True)[COLUMNS]


def beside(reported: Iterable[Mapping[str, Any]], measured: pd.DataFrame) -> pd.DataFrame:
    """Each of the study's cells with each of our numbers in it, or with none.

    `reported` are the study's, `setting, model, task, target, reached, stayed, other` (shares), of which a setting's
    first model counts; `measured` are ours, `COLUMNS`. The result is `setting, model` (the study's), `task, target,
    outcome, study, ours, value, ci_low, ci_high, n`; `ours` is *not measured* and n 0 where we have nothing.
    """
    keys = ["setting", "model", "task", "target"]
    cells = pd.DataFrame(list(reported)).melt(keys, OUTCOMES, "outcome", "study").drop_duplicates(CELL)
    table = cells.merge(measured, on=CELL, how="left")
    is_control = table.ours.str.startswith(CONTROLS["random_neurons"], na=False)  # of equal norm: the study has none
    table["study"] = table.study.mask(is_control)
    return table.assign(ours=table.ours.fillna(NOT_MEASURED), n=table.n.fillna(0).astype(int))


def in_percent(table: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`beside` a row for each `task, target, setting, ours, n`, with the study's and our outcomes as text."""
    keys = ["task", "target", "setting", "ours", "n"]
    both = {
        f"{outcome}, {whose}": [
            _percent(*row) for row in table[columns].where(table.outcome == outcome).itertuples(index=False)
        ]
        for outcome in OUTCOMES
        for whose, columns in {"study": ["study"], "ours": ["value", "ci_low", "ci_high"]}.items()
    }
    return table.assign(**both).groupby(keys, sort=False)[list(both)].max().reset_index()


def _percent(value: float, low: float = np.nan, high: float = np.nan) -> str:
    interval = f" [{100 * low:.1f}, {100 * high:.1f}]" if np.isfinite([low, high]).all() else ""
    return f"{100 * value:.1f}{interval}" if np.isfinite(value) else ""
