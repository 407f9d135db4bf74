"""Attribution patching: a first-order estimate, from gradients, of the effect of patching each neuron."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from memgen import activations, behavior
from memgen.localization.differences import by_neuron, group_codes, paired_states
from memgen.subject import Subject


def log_odds_gradients(
    subject: Subject, frame: pd.DataFrame, sites: Sequence[str]
) -> Iterator[tuple[pd.Index, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Activations at the last token and the gradient of the log-odds with respect to them, batch by batch.

    Yields
    ------
    index, states
        The rows of `frame` and for each site (activations, gradients), each [batch layer neuron].
    """
    for start in range(0, len(frame), subject.batch_size):
        chunk = frame.iloc[start : start + subject.batch_size]
        total: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        # Answers of several tokens each take a pass of their own.
        for batch in behavior.prepare(subject, chunk.reset_index(drop=True)):
            with activations.with_gradients(subject.model), activations.record(subject.model, sites) as store:
                scores = behavior.score(behavior.run_answers(subject, batch), batch)
            signed = [behavior.LABELS[name] * log_p.sum() for name, (log_p, _) in scores.items()]
            objective = torch.stack(signed).sum()
            gradients = iter(torch.autograd.grad(objective, [layer for site in sites for layer in store[site]]))
            for site in sites:
                gradient = _at_last([next(gradients) for _ in store[site]], batch, f"the gradient of {site}")
                before = total[site][1] if site in total else 0
                total[site] = _at_last(store[site], batch, site), before + gradient
        yield chunk.index, total


def _at_last(layers: list[torch.Tensor], batch: behavior.Batch, name: str) -> np.ndarray:
    """The values at each prompt's last token [batch layer d], in the order of the rows."""
    values = activations.at_last(layers, batch.prompt_length, name).detach().cpu().numpy()
    return values[np.argsort(batch.rows)]


def attributions(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """Attribution patching of the log-odds: `site, layer, neuron, attribution` (nats), the mean over pairs.

    Source: Kramar et al. 2024 (arXiv 2403.00745); here the gradients of both members are averaged.
    """
    groups = group_codes(pairs)
    sums = {site: np.zeros((groups.max() + 1, int(np.prod(subject.shape(site))))) for site in sites}
    for rows, plus, minus in paired_states(subject, frame, pairs, sites, log_odds_gradients):
        for site in sites:
            product = (plus[site][0] - minus[site][0]).astype(np.float64) * (plus[site][1] + minus[site][1]) / 2
            np.add.at(sums[site], groups[rows], product.reshape(len(product), -1))
    tables = [by_neuron(site, subject.n_layer, {"attribution": sums[site].sum(0) / len(pairs)}) for site in sites]
    return pd.concat(tables, ignore_index=True)
