"""What remains when neurons are set to their mean: which of them the model's abilities need."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import behavior, statistics
from memgen.localization.differences import read_states
from memgen.localization.patching import prepare, replacing
from memgen.localization.rankings import Units


@torch.no_grad()
def mean_states(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> dict[str, np.ndarray]:
    """The mean activations at the last token over a frame's prompts: for each site [n_layer d]."""
    total: dict[str, np.ndarray] = {}
    for _, states in read_states(model, frame, tokenizer, sites, batch_size):
        for site, state in states.items():
            total[site] = total.get(site, 0.0) + state.sum(0, dtype=np.float64)
    return {site: one / len(frame) for site, one in total.items()}


@torch.no_grad()
def ablate(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    means: Mapping[str, np.ndarray],
    sets: Sequence[Units],
    batch_size: int = 128,
) -> pd.DataFrame:
    """Set units to their mean at the last prompt token, and see which inputs are answered as they should be.

    Parameters
    ----------
    means
        From :func:`mean_states`.

    Returns
    -------
    pandas.DataFrame
        One row for each input and set: what the set is `about`, `input`, `kind`, `group`, `kept` (0 or 1: the one right
        answer is given; for conflict inputs, which have two: the behaviour is what it is without ablation).
    """
    prepared = prepare(model, frame, tokenizer, batch_size)
    before = behavior.measure(model, prepared).behavior.to_numpy()
    kind = frame.kind.to_numpy()
    single = np.where(kind == "inferred_only", behavior.GENERALIZATION, behavior.MEMORIZATION)
    target = np.where(kind == "conflict", before, single)
    common = {"input": frame.index, "kind": kind, "group": frame.group.to_numpy()}
    rows = []
    for units in sets:
        mean = torch.from_numpy(means[units.site].astype(np.float32)).to(model.device)
        context = replacing(model, units, mean.expand(len(frame), -1, -1))
        after = behavior.measure(model, prepared, context).behavior.to_numpy()
        rows.append(pd.DataFrame({**units.about} | common | {"kept": (after == target).astype(float)}))
    return pd.concat(rows, ignore_index=True)


def summarize_ablation(ablated: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Share `kept` under each ablation, a mean over a random one's draws: `ranking, kind, value, low, high, n`."""
    rows = []
    for (ranking, kind), own in ablated.groupby(["ranking", "kind"], sort=False):
        inputs = own.groupby("input").agg({"kept": "mean", "group": "first"})
        estimate = statistics.clustered_mean(inputs.kept, inputs.group, rng, n_resamples)
        rows.append({"ranking": ranking, "kind": kind, **estimate._asdict()})
    return pd.DataFrame(rows)
