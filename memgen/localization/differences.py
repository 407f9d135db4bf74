"""Statistics of every neuron over pairs, accumulated batch by batch, and the table of neurons."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
        The number of groups that the pairs belong to; sums are kept for each, so that groups can be resampled.
    """

    def __init__(self, n_units: int, n_groups: int):
        self.n_pairs = 0
        self.group_sums = np.zeros((n_groups, n_units))  # of differences
        self.group_pairs = np.zeros(n_groups)
        # Of differences; squares about the mean.
        self._mean, self._squares = np.zeros(n_units), np.zeros(n_units)
        self._member_mean, self._member_squares = np.zeros(n_units), np.zeros(n_units)
        # Of members by group, about a reference near their mean: squares of large numbers would lose the digits.
        self._reference = np.zeros(n_units)
        self._group_members, self._group_squares = np.zeros((n_groups, n_units)), np.zeros((n_groups, n_units))

    def update(self, memorization: np.ndarray, generalization: np.ndarray, groups: np.ndarray) -> None:
        """Add a batch of pairs: activations [pairs, units] of both members, and each pair's group (0, 1, ...)."""
        if len(memorization) == 0:
            return
        difference = memorization.astype(np.float64) - generalization
        members = np.concatenate([memorization, generalization]).astype(np.float64)
        if self.n_pairs == 0:
            self._reference = members.mean(0)
        self._mean, self._squares = _merge(self.n_pairs, self._mean, self._squares, difference)
        self._member_mean, self._member_squares = _merge(
            2 * self.n_pairs, self._member_mean, self._member_squares, members
        )
        self.n_pairs += len(difference)
        np.add.at(self.group_sums, groups, difference)
        np.add.at(self.group_pairs, groups, 1)
        away = members - self._reference
        np.add.at(self._group_members, np.tile(groups, 2), away)
        np.add.at(self._group_squares, np.tile(groups, 2), away**2)

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

    def resampled(self, weights: np.ndarray, signs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`nmd` and `r`, each [draws, units], were the groups others than they are.

        Parameters
        ----------
        weights
            How often each group counts [draws, groups].
        signs
            +1, or -1 where the members of a group's pairs change their labels [draws, groups]; none by default.
        """
        n_pairs = (weights @ self.group_pairs)[:, None]
        total = (weights if signs is None else weights * signs) @ self.group_sums
        members = weights @ self._group_members
        squares = (weights @ self._group_squares - members**2 / (2 * n_pairs)).clip(min=0)
        spread = np.sqrt(squares * 2 * n_pairs)
        return {"nmd": total / n_pairs, "r": np.divide(total, spread, out=np.zeros_like(total), where=spread > 0)}


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
        together), `q_value` (Benjamini-Hochberg over all neurons of all sites).
    """
    tables = []
    for site, own in accumulated.items():
        where = places(site, n_layer, own.group_sums.shape[1])
        # Every group's sum flips as a whole, so the sums carry all that the permutations need.
        p_value = statistics.sign_flip_p(own.group_sums, np.arange(len(own.group_sums)), rng, n_permutations)
        tables.append(pd.DataFrame(where | own.result() | {"p_value": p_value}))
    table = pd.concat(tables, ignore_index=True)
    table["q_value"] = statistics.benjamini_hochberg(table.p_value.to_numpy())
    return table


def shuffled(accumulated: Mapping[str, PairStatistics], n_layer: int, rng: np.random.Generator) -> pd.DataFrame:
    """NMD and r from shuffled labels: `site, layer, neuron, nmd_shuffled, r_shuffled`.

    Each group's members change their labels or not, by one draw that all sites share: what a ranking of neurons looks
    like when there is nothing to be found.
    """
    n_groups = len(next(iter(accumulated.values())).group_pairs)
    signs = rng.choice([-1.0, 1.0], size=(1, n_groups))
    tables = []
    for site, own in accumulated.items():
        drawn = own.resampled(np.ones_like(signs), signs)
        values = {f"{name}_shuffled": one[0] for name, one in drawn.items()}
        tables.append(pd.DataFrame(places(site, n_layer, own.group_sums.shape[1]) | values))
    return pd.concat(tables, ignore_index=True)


def places(site: str, n_layer: int, n_units: int) -> dict[str, Any]:
    """The columns that say which neuron a row is of: layer by layer."""
    d = n_units // n_layer
    return {"site": site, "layer": np.repeat(np.arange(n_layer), d), "neuron": np.tile(np.arange(d), n_layer)}
