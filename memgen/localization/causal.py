"""Two causal yardsticks: attribution of the log-odds, and activation patching."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior, statistics
from memgen.localization.differences import read_states


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


def attribution(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> pd.DataFrame:
    """Attribution patching of the log-odds: `site, layer, neuron, attribution` (nats), a mean over pairs.

    Source: Kramar et al. 2024 (arXiv 2403.00745); here the gradients of both members are averaged.
    """
    members = (frame.loc[pairs.memorization], frame.loc[pairs.generalization])
    readers = [log_odds_gradients(model, member, tokenizer, sites, batch_size) for member in members]
    total: dict[str, np.ndarray] = {}
    for (_, plus), (_, minus) in zip(*readers, strict=True):
        for site in sites:
            product = (plus[site][0] - minus[site][0]).astype(np.float64) * (plus[site][1] + minus[site][1]) / 2
            total[site] = total.get(site, 0.0) + product.sum(0)
    tables = []
    for site, sums in total.items():
        layer, neuron = np.indices(sums.shape)
        values = {"layer": layer.ravel(), "neuron": neuron.ravel(), "attribution": sums.ravel() / len(pairs)}
        tables.append(pd.DataFrame({"site": site} | values))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def patch_layers(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> pd.DataFrame:
    """Activation patching: put one member's activations at the last token into the other member's run.

    Returns
    -------
    pandas.DataFrame
        One row for each pair, site, layer and `target` (the behaviour whose activations are put in): `group`,
        `behavior_after`, `log_odds_before` (unpatched), `log_odds_after`, `log_odds_source` (of the member that the
        activations come from).
    """
    rows = []
    order = {1: ("memorization", "generalization"), -1: ("generalization", "memorization")}
    n_layer = len(activations.blocks(model))
    for start in range(0, len(pairs), batch_size):
        chunk = pairs.iloc[start : start + batch_size]
        members = {name: frame.loc[chunk[name]].reset_index(drop=True) for name in order[1]}
        states = {name: next(read_states(model, own, tokenizer, sites, batch_size))[1] for name, own in members.items()}
        prepared = {name: behavior.prepare(model, own, tokenizer, batch_size) for name, own in members.items()}
        log_odds = {name: behavior.measure(model, own).log_odds.to_numpy() for name, own in prepared.items()}
        for target, (source, receiver) in order.items():
            for site in sites:
                for layer in range(n_layer):
                    state = torch.from_numpy(states[source][site][:, layer]).to(model.device, model.dtype)
                    after = behavior.measure(model, prepared[receiver], _replacement(model, site, layer, state))
                    rows.append(
                        pd.DataFrame(
                            {
                                "site": site,
                                "layer": layer,
                                "target": target,
                                "group": chunk.group.to_numpy(),
                                "behavior_after": after.behavior.to_numpy(),
                                "log_odds_before": log_odds[receiver],
                                "log_odds_after": after.log_odds.to_numpy(),
                                "log_odds_source": log_odds[source],
                            }
                        )
                    )
    return pd.concat(rows, ignore_index=True)


def _replacement(model: PreTrainedModel, site: str, layer: int, state: Tensor) -> behavior.Context:
    """The context that puts `state` [batch d] at the last prompt token; batches are those of a 0-based frame."""

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        own = state[torch.tensor(batch.rows.to_numpy(copy=True))]

        def replace(activation: Tensor) -> Tensor:
            new = activation.clone()
            new[torch.arange(len(own)), batch.prompt_length - 1] = own
            return new

        return activations.edit(model, [activations.Edit(site, layer, replace)])

    return context


def summarize_patching(patched: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Share of receivers that show the source's behaviour: `site, layer, direction, value, low, high, n`."""
    rows = []
    for (site, layer, target), own in patched.groupby(["site", "layer", "target"], sort=False):
        turned = (own.behavior_after == target).to_numpy(dtype=float)
        estimate = statistics.clustered_mean(turned, own.group.to_numpy(), rng, n_resamples=n_resamples)
        about = {"site": site, "layer": layer, "direction": behavior.NAMES[target]}
        rows.append(about | estimate._asdict())
    return pd.DataFrame(rows)
