"""Statistics of every neuron over pairs, accumulated batch by batch, and the table of neurons."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from memgen import behavior, intervals
from memgen.subject import Subject


class PairStatistics:
    """Sums over the pairs of each group [groups, units]: memory grows with the number of groups, not of pairs."""

    def __init__(self, n_units: int, n_groups: int):
        self.group_pairs = np.zeros(n_groups)
        self.group_sums = np.zeros((n_groups, n_units))  # of differences
        # Of members, about a reference near their mean: squares of large numbers would lose the digits.
        self._reference = np.zeros(n_units)
        self._members, self._member_squares = np.zeros((n_groups, n_units)), np.zeros((n_groups, n_units))

    @property
    def n_pairs(self) -> int:
        """The number of pairs."""
        return int(self.group_pairs.sum())

    def update(self, memorization: np.ndarray, generalization: np.ndarray, groups: np.ndarray) -> None:
        """Add a batch of pairs: activations [pairs, units] of both members, and each pair's group (0, 1, ...)."""
        difference = memorization.astype(np.float64) - generalization
        members = np.concatenate([memorization, generalization]).astype(np.float64)
        if self.n_pairs == 0:
            self._reference = members.mean(0)
        away = members - self._reference
        np.add.at(self.group_pairs, groups, 1)
        np.add.at(self.group_sums, groups, difference)
        np.add.at(self._members, np.tile(groups, 2), away)
        np.add.at(self._member_squares, np.tile(groups, 2), away**2)

    def weighted(self, weights: np.ndarray, signs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`nmd` and `r`, each [draws, units].

        Parameters
        ----------
        weights
            How often each group counts [draws, groups].
        signs
            +1, or -1 where the members of a group's pairs exchange their labels [draws, groups]; all +1 by default.
        """
        n_pairs = (weights @ self.group_pairs)[:, None]
        total = (weights if signs is None else weights * signs) @ self.group_sums
        members = weights @ self._members
        squares = (weights @ self._member_squares - members**2 / (2 * n_pairs)).clip(min=0)
        # The labels are +1 and -1 once a pair: their mean is 0, their sum of squares the number of members.
        scale = np.sqrt(squares * 2 * n_pairs)
        r = np.divide(total, scale, out=np.zeros_like(total), where=scale > 0)  # a neuron that never varies: 0
        return {"nmd": total / n_pairs, "r": r}


def group_codes(pairs: pd.DataFrame) -> np.ndarray:
    """The group of each pair as a number 0, 1, ..., in the order of the groups' names."""
    return np.unique(pairs.group.to_numpy(dtype=str), return_inverse=True)[1]


def paired_states(
    subject: Subject,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    sites: Sequence[str],
    read: Callable = behavior.read_states,
) -> Iterator[tuple[slice, dict[str, Any], dict[str, Any]]]:
    """What `read` yields for the first and the second members of pairs, after the rows of `pairs` that they belong to.

    The first two columns of `pairs` hold the members: in flip pairs the memorized and the generalized one.
    """
    members = (frame.loc[pairs[column]] for column in pairs.columns[:2])
    start = 0
    for (index, first), (_, second) in zip(*(read(subject, member, sites) for member in members), strict=True):
        yield slice(start, start + len(index)), first, second
        start += len(index)


def accumulate(
    subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sites: Sequence[str]
) -> dict[str, PairStatistics]:
    """The statistics of each site over flip pairs of `frame`; its units are neurons, layer by layer."""
    groups = group_codes(pairs)
    result = {site: PairStatistics(int(np.prod(subject.shape(site))), groups.max() + 1) for site in sites}
    for rows, plus, minus in paired_states(subject, frame, pairs, sites):
        for site in sites:
            memorization, generalization = (states[site].reshape(len(states[site]), -1) for states in (plus, minus))
            result[site].update(memorization, generalization, groups[rows])
    return result


def neuron_table(
    accumulated: Mapping[str, PairStatistics],
    n_layer: int,
    rng: np.random.Generator,
    shuffling: np.random.Generator,
    n_permutations: int = 1000,
) -> pd.DataFrame:
    """The table of neurons, one row a neuron.

    Returns
    -------
    pandas.DataFrame
        `site, layer, neuron, nmd, r, p_value` (sign-flip permutation by `rng`; the pairs of a group flip together),
        `nmd_shuffled, r_shuffled` (labels of groups exchanged at random, by one draw of `shuffling` for all sites),
        `q_value` (Benjamini-Hochberg over all neurons of all sites).
    """
    n_groups = len(next(iter(accumulated.values())).group_pairs)
    everyone, signs = np.ones((1, n_groups)), shuffling.choice([-1.0, 1.0], size=(1, n_groups))
    tables = []
    for site, statistics in accumulated.items():
        p_value = intervals.sign_flip_p(statistics.group_sums, rng, n_permutations)
        shuffled = statistics.weighted(everyone, signs)
        values = statistics.weighted(everyone) | {f"{name}_shuffled": shuffled[name] for name in shuffled}
        columns = {name: drawn[0] for name, drawn in values.items()} | {"p_value": p_value}
        tables.append(by_neuron(site, n_layer, columns))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(q_value=false_discovery_control(table.p_value))


def by_neuron(site: str, n_layer: int, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A table `site, layer, neuron` and columns of `values` [units], which are ordered layer by layer."""
    layer, neuron = np.indices((n_layer, len(next(iter(values.values()))) // n_layer)).reshape(2, -1)
    return pd.DataFrame({"site": site, "layer": layer, "neuron": neuron} | dict(values))
