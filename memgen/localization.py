"""Where the two behaviours differ: statistics of every neuron over pairs, and two causal yardsticks.

A *neuron* is one dimension of a site (:mod:`memgen.activations`) in one layer, read at the prompt's last token. Over
pairs, with `h+` its activation under memorization and `h-` under generalization:

- NMD, the neuron-wise mean difference: the mean of `h+ - h-`.
- `r`, Pearson's correlation of the activation with the label (+1, -1) over all members of pairs.
- attribution: the mean of `(h+ - h-) (g+ + g-) / 2` with `g` the gradient of the log-odds, a first-order estimate of
  what patching the neuron does (attribution patching; nats).
- patching: what a whole layer really does when one member's activations are put into the other's run.

All statistics are accumulated batch by batch: memory grows with the number of groups, not with that of pairs.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior, statistics


class PairStatistics:
    """Accumulates differences over pairs, with Chan's update of means and variances.

    Parameters
    ----------
    n_units
        The number of neurons.
    n_groups
        The number of groups that the pairs belong to; sums of differences are kept for each.
    """

    def __init__(self, n_units: int, n_groups: int):
        self.n_pairs = 0
        self.group_sums = np.zeros((n_groups, n_units))
        self.group_pairs = np.zeros(n_groups)
        self._mean, self._squares = (
            np.zeros(n_units),
            np.zeros(n_units),
        )  # of differences; squares about the mean
        self._member_mean, self._member_squares = np.zeros(n_units), np.zeros(n_units)

    def update(self, memorization: np.ndarray, generalization: np.ndarray, groups: np.ndarray) -> None:
        """Add a batch of pairs: activations [pairs, units] of both members, and each pair's group (0, 1, ...)."""
        if len(memorization) == 0:
            return
        difference = memorization.astype(np.float64) - generalization
        members = np.concatenate([memorization, generalization]).astype(np.float64)
        self._mean, self._squares = _merge(self.n_pairs, self._mean, self._squares, difference)
        self._member_mean, self._member_squares = _merge(
            2 * self.n_pairs, self._member_mean, self._member_squares, members
        )
        self.n_pairs += len(difference)
        np.add.at(self.group_sums, groups, difference)
        np.add.at(self.group_pairs, groups, 1)

    def result(self) -> dict[str, np.ndarray]:
        """`nmd`, `r` and `effect_size` (mean difference over its standard deviation), each [units]."""
        if self.n_pairs < 2:
            raise ValueError(f"The statistics of pairs need 2 pairs or more, not {self.n_pairs}.")
        total = self.n_pairs * self._mean
        # The labels are +1 and -1 once a pair: their mean is 0, their sum of squares the number of members.
        spread = np.sqrt(self._member_squares * 2 * self.n_pairs)
        deviation = np.sqrt(self._squares / (self.n_pairs - 1))
        return {
            "nmd": self._mean,
            "r": np.divide(total, spread, out=np.zeros_like(total), where=spread > 0),
            "effect_size": np.divide(self._mean, deviation, out=np.zeros_like(total), where=deviation > 0),
        }


def _merge(n: int, mean: np.ndarray, squares: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and sums of squares about them, after `new` [rows, units] joins `n` earlier rows."""
    new_mean = new.mean(0)
    gap, total = new_mean - mean, n + len(new)
    return (
        mean + gap * len(new) / total,
        squares + ((new - new_mean) ** 2).sum(0) + gap**2 * n * len(new) / total,
    )


@torch.no_grad()
def read_states(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 256,
) -> Iterator[tuple[pd.Index, dict[str, np.ndarray]]]:
    """The activations at each prompt's last token, batch by batch.

    Yields
    ------
    index, states
        The rows of `frame` (in order) and for each site an array [batch layer neuron].
    """
    for start in range(0, len(frame), batch_size):
        chunk = frame.iloc[start : start + batch_size]
        batch = behavior.prompts(model, chunk, tokenizer)
        with activations.record(model, sites) as store:
            behavior.run(model, batch)
        states = {site: activations.at_last(store[site], batch.prompt_length).float().cpu().numpy() for site in sites}
        yield chunk.index, states


def accumulate(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> dict[str, PairStatistics]:
    """The statistics of each site over pairs; its units are the neurons of all layers, layer by layer.

    Parameters
    ----------
    pairs
        From :func:`memgen.behavior.flip_pairs`: rows of `frame` with opposite behaviours.
    """
    names, group = np.unique(pairs.group.to_numpy(dtype=str), return_inverse=True)
    n_layer = len(activations.blocks(model))
    result = {site: PairStatistics(n_layer * activations.width(model, site), len(names)) for site in sites}
    members = (frame.loc[pairs.memorization], frame.loc[pairs.generalization])
    readers = [read_states(model, member, tokenizer, sites, batch_size) for member in members]
    done = 0
    for (_, plus), (_, minus) in zip(*readers, strict=True):
        size = len(plus[sites[0]])
        own = group[done : done + size]
        for site in sites:
            result[site].update(plus[site].reshape(size, -1), minus[site].reshape(size, -1), own)
        done += size
    return result


def neuron_table(
    accumulated: Mapping[str, PairStatistics],
    n_layer: int,
    rng: np.random.Generator,
    n_permutations: int = 1000,
) -> pd.DataFrame:
    """The table of neurons: one row for each neuron of each site and layer.

    Returns
    -------
    pandas.DataFrame
        `site, layer, neuron, nmd, r, effect_size, p_value` (sign-flip permutation; the pairs of a group flip
        together)`, q_value` (Benjamini-Hochberg over all neurons of all sites).
    """
    tables = []
    for site, own in accumulated.items():
        d = own.group_sums.shape[1] // n_layer
        where = {
            "site": site,
            "layer": np.repeat(np.arange(n_layer), d),
            "neuron": np.tile(np.arange(d), n_layer),
        }
        # Every group's sum flips as a whole, so the sums carry all that the permutations need.
        p_value = statistics.sign_flip_p(own.group_sums, np.arange(len(own.group_sums)), rng, n_permutations)
        tables.append(pd.DataFrame(where | own.result() | {"p_value": p_value}))
    table = pd.concat(tables, ignore_index=True)
    table["q_value"] = statistics.benjamini_hochberg(table.p_value.to_numpy())
    return table


def depth_profile(
    accumulated: Mapping[str, PairStatistics], n_layer: int, rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """The mean of |NMD| over a layer's neurons, beside what chance alone gives.

    An average of absolute values is above zero even where nothing differs. `measure` tells the observed value
    (``pairs``; interval from resampling groups) from that with each group's sign drawn at random (``chance``; the
    middle 95 % of such draws).

    Returns
    -------
    pandas.DataFrame
        `site, layer, measure, value, low, high`.
    """
    rows = []
    for site, own in accumulated.items():
        n_groups = len(own.group_sums)
        counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
        signs = rng.choice([-1.0, 1.0], size=(n_resamples, n_groups))

        def profile(weights: np.ndarray, n_pairs: np.ndarray, own: PairStatistics = own) -> np.ndarray:
            return np.abs(weights @ own.group_sums / n_pairs).reshape(len(weights), n_layer, -1).mean(-1)

        observed = profile(np.ones((1, n_groups)), np.array([[own.n_pairs]]))[0]
        resampled = profile(counts, counts @ own.group_pairs[:, None])
        by_chance = profile(signs, np.full((n_resamples, 1), own.n_pairs))
        for measure, value, draws in (
            ("pairs", observed, resampled),
            ("chance", by_chance.mean(0), by_chance),
        ):
            low, high = np.quantile(draws, [0.025, 0.975], axis=0)
            about = {"site": site, "layer": np.arange(n_layer), "measure": measure}
            rows.append(pd.DataFrame(about | {"value": value, "low": low, "high": high}))
    return pd.concat(rows, ignore_index=True)


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
        for target, (source, receiver) in order.items():
            donors, receivers = frame.loc[chunk[source]], frame.loc[chunk[receiver]].reset_index(drop=True)
            _, states = next(read_states(model, donors, tokenizer, sites, batch_size))
            prepared = behavior.prepare(model, receivers, tokenizer, batch_size)
            before = behavior.measure(model, prepared).log_odds.to_numpy()
            donor_inputs = behavior.prepare(model, donors.reset_index(drop=True), tokenizer, batch_size)
            of_source = behavior.measure(model, donor_inputs).log_odds.to_numpy()
            for site in sites:
                for layer in range(n_layer):
                    state = torch.from_numpy(states[site][:, layer]).to(model.device, model.dtype)
                    after = behavior.measure(model, prepared, _replacement(model, site, layer, state))
                    rows.append(
                        pd.DataFrame(
                            {
                                "site": site,
                                "layer": layer,
                                "target": target,
                                "group": chunk.group.to_numpy(),
                                "behavior_after": after.behavior.to_numpy(),
                                "log_odds_before": before,
                                "log_odds_after": after.log_odds.to_numpy(),
                                "log_odds_source": of_source,
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


def ranked(table: pd.DataFrame, max_columns: int = 256) -> pd.DataFrame:
    """The table for the heat map: `site, layer, rank, nmd`, neurons sorted by NMD within their layer.

    Where a layer has more than `max_columns` neurons, neighbours in rank are averaged.
    """
    frame = table[["site", "layer", "nmd"]].copy()
    size = frame.groupby(["site", "layer"]).nmd.transform("size")
    order = frame.groupby(["site", "layer"]).nmd.rank(method="first").sub(1)
    frame["rank"] = (order * np.minimum(size, max_columns) // size).astype(int)
    return (
        frame.groupby(["site", "layer", "rank"], as_index=False, sort=False)
        .nmd.mean()
        .sort_values(["site", "layer", "rank"], ignore_index=True)
    )


def agreement(table: pd.DataFrame, one: str, other: str, share: float) -> pd.DataFrame:
    """How far two rankings by absolute value agree: `site, spearman, overlap` of their top `share`, `neurons`."""
    rows = []
    for site, own in table.groupby("site"):
        a, b = own[one].abs(), own[other].abs()
        n = max(1, round(share * len(own)))
        overlap = len(set(a.nlargest(n).index) & set(b.nlargest(n).index)) / n
        rows.append({"site": site, "spearman": a.corr(b, method="spearman"), "overlap": overlap, "neurons": len(own)})
    return pd.DataFrame(rows)


def summarize_patching(patched: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Share of receivers that show the source's behaviour: `site, layer, direction, value, low, high, n`."""
    rows = []
    for (site, layer, target), own in patched.groupby(["site", "layer", "target"], sort=False):
        turned = (own.behavior_after == target).to_numpy(dtype=float)
        estimate = statistics.clustered_mean(turned, own.group.to_numpy(), rng, n_resamples=n_resamples)
        about = {"site": site, "layer": layer, "direction": behavior.NAMES[target]}
        rows.append(about | estimate._asdict())
    return pd.DataFrame(rows)
