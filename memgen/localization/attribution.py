"""Attribution patching: a first-order estimate, from gradients, of the effect of patching each neuron."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from memgen import activations, behavior
from memgen.localization.differences import by_neuron, paired_states
from memgen.subject import Subject


def log_odds_gradients(
    subject: Subject, frame: pd.DataFrame, sites: Sequence[str]
) -> Iterator[tuple[pd.Index, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Activations at the last token and the gradient of the log-odds with respect to them, batch by batch.

    Yields
    ------
    index, states
        The rows of `frame`, which are conflicts, and for each site (activations, gradients), each [batch layer neuron].
    """
    for start in range(0, len(frame), subject.batch_size):
        (batch,) = behavior.batches(subject, frame.iloc[start : start + subject.batch_size])
        with activations.with_gradients(subject.model), activations.record(subject.model, sites) as store:
            scores = behavior.score(behavior.run_answers(subject, batch), batch)
        log_odds = scores["memorization"][0] - scores["generalization"][0]
        gradients = iter(torch.autograd.grad(log_odds.sum(), [layer for site in sites for layer in store[site]]))
        states = {}
        for site in sites:
            of_layers = {site: store[site], f"the gradient of {site}": [next(gradients) for _ in store[site]]}
            last = (activations.at_last(layers, batch.prompt_length, name) for name, layers in of_layers.items())
            state, gradient = (part.detach().cpu().numpy() for part in last)
            states[site] = state, gradient
        yield batch.rows, states


def attributions(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """Attribution patching of the log-odds: `site, layer, neuron, attribution` (nats), the mean over pairs.

    Source: Kramar et al. 2024 (arXiv 2403.00745); here the gradients of both members are averaged.
    """
    sums = {site: np.zeros(subject.shape(site)) for site in sites}
    for _, plus, minus in paired_states(subject, frame, pairs, sites, log_odds_gradients):
        for site in sites:
            product = (plus[site][0] - minus[site][0]).astype(np.float64) * (plus[site][1] + minus[site][1]) / 2
            sums[site] += product.sum(0)
    tables = [by_neuron(site, subject.n_layer, {"attribution": sums[site].ravel() / len(pairs)}) for site in sites]
    return pd.concat(tables, ignore_index=True)
