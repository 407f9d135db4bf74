"""One model's questions, asked of its earlier states."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import behavior
from memgen.carryover import matching, transfer
from memgen.config import AnalysisConfig

AT_LEAST = 10  # inputs behind a rate of steering
MODEL, CONTROL = "model", "random control"


def evenly(steps: Sequence[int], n: int) -> list[int]:
    """At most `n` of the steps after the warm-up (those above 0), evenly from the first to the last."""
    own = sorted(step for step in steps if step > 0)
    chosen = np.unique(np.linspace(0, len(own) - 1, min(n, len(own))).round().astype(int))
    return [own[i] for i in chosen]


def neuron_correlations(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    labels: pd.Series,
    tokenizer: PreTrainedTokenizerFast,
    site: str,
    at_least: int = 4,
) -> np.ndarray | None:
    """Pearson's r of each neuron with the behaviour, over the members of flip pairs: [neurons, layer by layer].

    None where there are fewer than `at_least` pairs.
    """
    pairs = behavior.flip_pairs(frame, labels)
    if len(pairs) < at_least:
        return None
    members = pd.concat([frame.loc[pairs.memorization], frame.loc[pairs.generalization]])
    sign = np.repeat([1.0, -1.0], len(pairs))
    activations = matching.states(model, members, tokenizer, [site])[site]
    return matching.correlations(activations, sign[:, None, None])[:, 0]


def overlap_of_tops(one: np.ndarray, other: np.ndarray) -> float:
    """The share of the neurons of largest `|r|` by `one` that are so by `other`, too: the same neurons of one model."""
    mask = matching.top(one)
    return float(matching.top(other)[mask].mean())


def at_checkpoint(
    model: PreTrainedModel,
    frames: Mapping[str, pd.DataFrame],
    tokenizer: PreTrainedTokenizerFast,
    chosen: np.ndarray | None,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Behaviour, steering and top neurons of one checkpoint.

    Parameters
    ----------
    frames
        The conflict inputs of ``train`` and ``validation``.
    chosen
        The correlations of the neurons of the chosen checkpoint (:func:`neuron_correlations`); None if it has none.

    Returns
    -------
    pandas.DataFrame
        `panel, measure, kind, value` (share 0-1)`, n`: the ``behaviour`` on validation inputs; in ``steering`` the
        share of those of the opposite behaviour that reach each target under a shift fitted here (kind ``model``) and
        under random directions of its norm (kind ``random control``); in ``top neurons`` the share of them that the
        chosen checkpoint has on top, too. What rests on fewer than `AT_LEAST` inputs is left out.
    """
    own = {}
    for split, frame in frames.items():
        prepared = behavior.prepare(model, frame, tokenizer, analysis.batch_size)
        own[split] = frame.assign(behavior=behavior.measure(model, prepared).behavior)
    shown, n = own["validation"].behavior, len(own["validation"])
    rows = [("behaviour", name, MODEL, share, n) for name, share in behavior.rates(shown).items()]
    shifts = transfer.fit_shifts(model, own["train"], tokenizer, analysis, rng)
    for told in transfer.apply_shifts(model, own["validation"], tokenizer, shifts, analysis, rng).itertuples():
        if told.n >= AT_LEAST:
            rows.append(("steering", told.target, MODEL, told.value, told.n))
            rows.append(("steering", told.target, CONTROL, told.control, told.n))
    r = neuron_correlations(model, own["train"], own["train"].behavior, tokenizer, transfer.SITE)
    if r is not None and chosen is not None:
        rows.append(("top neurons", "shared", MODEL, overlap_of_tops(chosen, r), len(r)))
    return pd.DataFrame(rows, columns=["panel", "measure", "kind", "value", "n"])
