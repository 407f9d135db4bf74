"""A few inputs, and what a model answers to them as an intervention grows from one end to the other."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from memgen import behavior
from memgen.behavior import GENERALIZATION, MEMORIZATION, NAMES
from memgen.steering.interventions import Intervention, adding
from memgen.subject import Subject

#: From the whole shift towards generalization (-1) to the whole shift towards memorization (+1).
DOSES = tuple(step / 10 for step in range(-10, 11))


def first_of_levels(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """At most `n` conflict inputs, the first of each level in turn, each from another group while there are any.

    A level is the evidence; where that does not vary, the share of training texts with the memorized answer; where
    there is none either, all inputs are of one level. Nothing here looks at what a model answers. Variants of inputs
    are left out.
    """
    level = "evidence" if frame.evidence.nunique() > 1 else "memorized_share"
    originals = frame[frame.variant_of < 0]
    order = originals[[level]].assign(repeat=originals.groupby([level, "group"], dropna=False).cumcount())
    order["turn"] = order.groupby(["repeat", level], dropna=False).cumcount()
    return originals.loc[order.sort_values(["repeat", "turn", level], kind="stable").index[:n].sort_values()]


def answer_probabilities(
    subject: Subject, frame: pd.DataFrame, intervention: Intervention, doses: Sequence[float] = DOSES
) -> pd.DataFrame:
    """The probabilities of both answers, whole, and of all others, with the intervention times each dose.

    A dose above 0 is of the shift towards memorization, below 0 of the one towards generalization; 0 leaves the model
    alone.

    Returns
    -------
    pandas.DataFrame
        One row an input and dose: `input` (its index), `dose, behavior` (the name of what the greedy answer shows)`,
        p_memorization, p_generalization, p_other` (0-1; they sum to 1 unless one answer begins the other).
    """
    batches, parts = behavior.prepare(subject, frame), []
    for dose in doses:
        shift = intervention.shift(MEMORIZATION if dose > 0 else GENERALIZATION)
        context = adding(subject, intervention.site, shift, abs(dose)) if dose else None
        measured = behavior.measure(subject, batches, context)
        p = np.exp(measured[["log_p_memorization", "log_p_generalization"]].to_numpy())
        columns = {"p_memorization": p[:, 0], "p_generalization": p[:, 1], "p_other": (1 - p.sum(1)).clip(min=0)}
        about = {"input": measured.index, "dose": dose, "behavior": measured.behavior.map(NAMES).to_numpy()}
        parts.append(pd.DataFrame(about | columns))
    return pd.concat(parts, ignore_index=True).sort_values(["input", "dose"], ignore_index=True)
