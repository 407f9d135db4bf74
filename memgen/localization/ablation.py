"""Mean ablation: the accuracy that remains when neurons are set to their mean."""

import numpy as np
import pandas as pd
import torch

from memgen import behavior, intervals
from memgen.localization.patching import prepare_last, replacing
from memgen.subject import Subject

KINDS = (*behavior.RIGHT_ANSWER, "conflict")  # that can be asked


@torch.no_grad()
def ablate(subject: Subject, frame: pd.DataFrame, reference: pd.DataFrame, sets: pd.DataFrame) -> pd.DataFrame:
    """Set neurons to their mean over the prompts of `reference`, at the last prompt token, and ask every input.

    Parameters
    ----------
    sets
        As for :func:`memgen.localization.patching.patch`.

    Returns
    -------
    pandas.DataFrame
        One row an input and set: the columns of `sets` without `chosen`, `input`, `inputs` (the kind), `group` and
        `value` (1 if the right answer is given, or, for conflict inputs, which have two, the answer without ablation).
    """
    batches = prepare_last(subject, frame)
    intact = behavior.measure(subject, batches).behavior.to_numpy()
    expected = np.where(frame.kind == "conflict", intact, frame.kind.map(behavior.RIGHT_ANSWER))
    inputs = {"input": frame.index, "inputs": frame.kind.to_numpy(), "group": frame.group.to_numpy()}
    states = behavior.states(subject, reference, list(sets.site.unique()))
    means = {site: values.mean(0, dtype=np.float64).astype(np.float32) for site, values in states.items()}
    rows = []
    for columns in sets.to_dict("records"):
        chosen, mean = columns.pop("chosen"), torch.from_numpy(means[columns["site"]]).to(subject.device)
        context = replacing(subject, columns["site"], chosen, mean.expand(len(frame), -1, -1))
        answered = behavior.measure(subject, batches, context).behavior.to_numpy()
        rows.append(pd.DataFrame(columns | inputs | {"value": (answered == expected).astype(float)}))
    return pd.concat(rows, ignore_index=True)


def ablation_effects(ablated: pd.DataFrame) -> pd.DataFrame:
    """The share of right answers under each ablation, a mean over the draws of a random set.

    Returns
    -------
    pandas.DataFrame
        `ranking, inputs, value, ci_low, ci_high, n`, for every kind of input that there is, in the order of `KINDS`.
    """
    effects = intervals.estimate_by(ablated, ["ranking", "inputs"], inputs="input").set_index(["ranking", "inputs"])
    kinds = [kind for kind in KINDS if (ablated.inputs == kind).any()]
    every = pd.MultiIndex.from_product([ablated.ranking.unique(), kinds], names=effects.index.names)
    return effects.reindex(every).reset_index()
