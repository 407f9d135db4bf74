"""Numbers of many runs beside one another."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from memgen import intervals
from memgen.config import InputError

CHANCE = 0.5  # AUROC of states that do not differ


def last_layer(separation: pd.DataFrame) -> pd.DataFrame:
    """How well the last layer separates the members of pairs in each form, and what matched formats leave of it.

    Parameters
    ----------
    separation
        `base_task, form, seed, layer, value` (AUROC of within-pair differences on held-out groups).

    Returns
    -------
    pandas.DataFrame
        `base_task, form, value, ci_low, ci_high, n` (AUROC over seeds) and `left`: in the matched form, the excess over
        chance as a share of that in the study's form (the ratio of the means; nan where that has none).
    """
    last = separation[separation.layer == separation.groupby(["base_task", "form"]).layer.transform("max")]
    table = intervals.seeds_by(last, ["base_task", "form"])
    in_study = table.base_task.map(table[table.form == "study"].set_index("base_task").value) - CHANCE
    left = (table.value - CHANCE) / in_study.where(in_study > 0)
    return table.assign(left=left.where(table.form == "matched", np.nan))


def or_published(
    frame: pd.DataFrame, shelves: Iterable[Any], find: Callable[[Any], pd.DataFrame]
) -> tuple[pd.DataFrame, str]:
    """The profile's rows; where it has none, the first that `find` finds in a shelf, with a sentence that says so.

    `shelves` are :class:`memgen.published.Published`. The sentence is empty for the profile's rows, which stay empty
    where nothing is published either.
    """
    for shelf in shelves if frame.empty else ():
        with contextlib.suppress(InputError):  # it has no such table
            published = find(shelf)
            if len(published):
                return published, f" {shelf.label}."
    return frame, ""
