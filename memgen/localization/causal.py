"""The first causal yardstick: attribution of the log-odds to neurons, from gradients."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior
from memgen.localization.differences import places


def log_odds_gradients(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> Iterator[tuple[pd.Index, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Activations at the last token and the gradient of the log-odds with respect to them.

    Yields
    ------
    index, states
        The rows of `frame` and for each site (activations, gradients), each [batch layer neuron].
    """
    for start in range(0, len(frame), batch_size):
        chunk = frame.iloc[start : start + batch_size]
        total: dict[str, list[np.ndarray]] = {}
        for batch in behavior.prepare(model, chunk, tokenizer, batch_size):
            with torch.enable_grad(), activations.record(model, sites) as store:
                scores = behavior.score(behavior.run(model, batch), batch)
            sign = {"memorization": 1.0, "generalization": -1.0}
            objective = torch.stack([sign[name] * log_p.sum() for name, (log_p, _) in scores.items()]).sum()
            flat = [one for site in sites for one in store[site]]
            gradients = iter(torch.autograd.grad(objective, flat))
            for site in sites:
                gradient = [next(gradients) for _ in store[site]]
                here = activations.at_last(gradient, batch.prompt_length).float().cpu().numpy()
                state = activations.at_last(store[site], batch.prompt_length).detach().float().cpu().numpy()
                total[site] = [state, total[site][1] + here] if site in total else [state, here]
        yield chunk.index, {site: (state, gradient) for site, (state, gradient) in total.items()}


def group_attributions(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> dict[str, np.ndarray]:
    """Attribution patching of the log-odds, summed over each group's pairs: for each site [groups, units] (nats).

    Groups are in the order of their names and units layer by layer, as in :func:`memgen.localization.accumulate`.
    Source: Kramar et al. 2024 (arXiv 2403.00745); here the gradients of both members are averaged.
    """
    names, group = np.unique(pairs.group.to_numpy(dtype=str), return_inverse=True)
    n_layer = len(activations.blocks(model))
    sums = {site: np.zeros((len(names), n_layer * activations.width(model, site))) for site in sites}
    members = (frame.loc[pairs.memorization], frame.loc[pairs.generalization])
    readers = [log_odds_gradients(model, member, tokenizer, sites, batch_size) for member in members]
    done = 0
    for (_, plus), (_, minus) in zip(*readers, strict=True):
        for site in sites:
            product = (plus[site][0] - minus[site][0]).astype(np.float64) * (plus[site][1] + minus[site][1]) / 2
            np.add.at(sums[site], group[done : done + len(product)], product.reshape(len(product), -1))
        done += len(product)
    return sums


def attribution_table(sums: Mapping[str, np.ndarray], n_layer: int, n_pairs: int) -> pd.DataFrame:
    """The mean over pairs of each neuron's attribution: `site, layer, neuron, attribution` (nats)."""
    tables = []
    for site, own in sums.items():
        values = {"attribution": own.sum(0) / n_pairs}
        tables.append(pd.DataFrame(places(site, n_layer, own.shape[1]) | values))
    return pd.concat(tables, ignore_index=True)


def attribution(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> pd.DataFrame:
    """Attribution patching of the log-odds: `site, layer, neuron, attribution` (nats), a mean over pairs."""
    sums = group_attributions(model, frame, pairs, tokenizer, sites, batch_size)
    return attribution_table(sums, len(activations.blocks(model)), len(pairs))
