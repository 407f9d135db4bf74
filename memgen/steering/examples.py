"""A few inputs, and what a model answers to them as an intervention grows from one end to the other."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import behavior
from memgen.behavior import GENERALIZATION, MEMORIZATION, NAMES
from memgen.steering.interventions import Intervention, adding

#: From the whole shift towards generalization (-1) to the whole shift towards memorization (+1).
ALPHAS = tuple(step / 10 for step in range(-10, 11))


def first_of_levels(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """At most `n` conflict inputs, the first of each level in turn, each from another group while there are any.

    A level is the evidence; where that does not vary, the share of training texts with the memorized answer. Nothing
    here looks at what a model answers. Variants of inputs are left out.
    """
    level = "evidence" if frame.evidence.nunique() > 1 else "memorized_share"
    bases = frame[frame.variant_of < 0]
    again = bases.groupby([level, "group"]).cumcount().rename("again")
    order = pd.DataFrame({"again": again, "level": bases[level]})
    order["turn"] = order.groupby(["again", "level"]).cumcount()
    return bases.loc[order.sort_values(["again", "turn", "level"], kind="stable").index[:n].sort_values()]


def answer_probabilities(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    intervention: Intervention,
    alphas: Sequence[float] = ALPHAS,
) -> pd.DataFrame:
    """The probabilities of both answers, whole, and of all others, with the intervention times each strength.

    Parameters
    ----------
    frame
        Conflict inputs: `input_ids`, `answer_memorization`, `answer_generalization`.
    alphas
        Strengths: above 0 the shift towards memorization times `alpha`, below 0 the one towards generalization times
        `-alpha`; 0 leaves the model alone.

    Returns
    -------
    pandas.DataFrame
        One row an input and strength: `input` (its index), `alpha, behavior` (the name of what the greedy answer
        shows)`, p_memorization, p_generalization, p_other` (0-1; they sum to 1 unless one answer begins the other).
    """
    prepared, parts = behavior.prepare(model, frame, tokenizer), []
    for alpha in alphas:
        shift = intervention.shift(MEMORIZATION if alpha > 0 else GENERALIZATION)
        context = adding(model, intervention.site, shift, intervention.n_tokens, abs(alpha)) if alpha else None
        told = behavior.measure(model, prepared, context)
        p = np.exp(told[["log_p_memorization", "log_p_generalization"]].to_numpy())
        columns = {"p_memorization": p[:, 0], "p_generalization": p[:, 1], "p_other": (1 - p.sum(1)).clip(min=0)}
        about = {"input": told.index, "alpha": alpha, "behavior": told.behavior.map(NAMES).to_numpy()}
        parts.append(pd.DataFrame(about | columns))
    return pd.concat(parts, ignore_index=True).sort_values(["input", "alpha"], ignore_index=True)
