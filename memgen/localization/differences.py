"""Statistics of every neuron over pairs, accumulated batch by batch, and the table of neurons."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from memgen import behavior, intervals
from memgen.subject import Subject


class PairStatistics:
    """Sums over pairs, of differences by group: memory grows with the number of groups, not of pairs."""

    def __init__(self, n_units: int, n_groups: int):
        self.n_pairs = 0
        self.group_sums = np.zeros((n_groups, n_units))  # of differences
        # Of members, about a reference near their mean: squares of large numbers would lose the digits.
        self._reference, self._members, self._member_squares = np.zeros((3, n_units))

    def update(self, memorization: np.ndarray, generalization: np.ndarray, groups: np.ndarray) -> None:
        """Add a batch of pairs: activations [pairs, units] of both members, and each pair's group (0, 1, ...)."""
        difference = memorization.astype(np.float64) - generalization
        members = np.concatenate([memorization, generalization]).astype(np.float64)
        if self.n_pairs == 0:
            self._reference = members.mean(0)
        away = members - self._reference
        self.n_pairs += len(groups)
        np.add.at(self.group_sums, groups, difference)
        self._members += away.sum(0)
        self._member_squares += (away**2).sum(0)

    def nmd_and_r(self, signs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`nmd` and `r` [units], where `signs` [groups] of -1 exchange the labels in a group's pairs."""
        total = self.group_sums.sum(0) if signs is None else signs @ self.group_sums
        squares = (self._member_squares - self._members**2 / (2 * self.n_pairs)).clip(min=0)
        # The labels are +1 and -1 once a pair: their mean is 0, their sum of squares the number of members.
        scale = np.sqrt(squares * 2 * self.n_pairs)
        r = np.divide(total, scale, out=np.zeros_like(total), where=scale > 0)  # a neuron that never varies: 0
        return {"nmd": total / self.n_pairs, "r": r}


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
    groups = pd.factorize(pairs.group, sort=True)[0]
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
    signs = shuffling.choice([-1.0, 1.0], size=len(next(iter(accumulated.values())).group_sums))
    tables = []
    for site, statistics in accumulated.items():
        shuffled = {f"{name}_shuffled": values for name, values in statistics.nmd_and_r(signs).items()}
        p_value = intervals.sign_flip_p(statistics.group_sums, rng, n_permutations)
        tables.append(by_neuron(site, n_layer, statistics.nmd_and_r() | shuffled | {"p_value": p_value}))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(q_value=false_discovery_control(table.p_value))


def null_selection(
    accumulated: Mapping[str, PairStatistics],
    rng: np.random.Generator,
    n_permutations: int,
    n_draws: int = 100,
    level: float = 0.05,
) -> pd.DataFrame:
    """How many neurons are selected when labels are shuffled, so that there is nothing to be found.

    Each draw goes through the whole procedure of :func:`neuron_table`: sign-flip
    p-values, then Benjamini-Hochberg over all neurons of all sites.

    Returns
    -------
    pandas.DataFrame
        `site` (each, and ``all``), `measure` (``null_selected_share``: the mean share of neurons with a q-value below
        `level`; ``null_any_selected``: the share of draws with at least one), `value, ci_low, ci_high, n` (draws).
    """
    labels = rng.choice([-1.0, 1.0], size=(n_draws, len(next(iter(accumulated.values())).group_sums)))
    p = {site: intervals.sign_flip_p(s.group_sums, rng, n_permutations, labels) for site, s in accumulated.items()}
    selected = false_discovery_control(np.concatenate(list(p.values()), axis=1), axis=1) < level
    ends = np.cumsum([values.shape[1] for values in p.values()])[:-1]
    rows = []
    for site, found in zip([*p, "all"], [*np.split(selected, ends, axis=1), selected], strict=True):
        for measure, by_draw in (("null_selected_share", found.mean(1)), ("null_any_selected", found.any(1))):
            estimate = intervals.share(by_draw, np.arange(n_draws))
            rows.append({"site": site, "measure": measure, **estimate._asdict()})
    return pd.DataFrame(rows)


def by_neuron(site: str, n_layer: int, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A table `site, layer, neuron` and columns of `values` [units], which are ordered layer by layer."""
    layer, neuron = np.indices((n_layer, len(next(iter(values.values()))) // n_layer)).reshape(2, -1)
    return pd.DataFrame({"site": site, "layer": layer, "neuron": neuron} | dict(values))
