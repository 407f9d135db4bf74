"""Statistics of every neuron over pairs, accumulated batch by batch."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
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
