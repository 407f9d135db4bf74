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


def first_of_groups(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """At most `n` conflict inputs that are no variants, the first of each group in turn, whatever a model answers."""
    originals = frame[frame.variant_of < 0]
    turn = originals.groupby("group").cumcount()
    return originals.loc[turn.sort_values(kind="stable").index[:n].sort_values()]


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
