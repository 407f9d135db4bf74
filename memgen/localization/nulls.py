"""Magnitude, selection and concentration, each beside its null distribution from group sign flips.

A flip exchanges the labels of all pairs of a group, as if nothing differed between the behaviours. The null is not
zero: a mean of absolute values is positive, and neurons with large activations rank high under any labels.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from memgen import intervals
from memgen.config import fraction_to_count
from memgen.localization.differences import PairStatistics

OBSERVED, NULL = "observed", "null (group sign flips)"  # the values of the column `labels`

#: Measures of how few neurons carry a whole, with their values for N equal effects, and for a single neuron.
CONCENTRATION = {
    "top10": "share of the sum in the top 10 % of the neurons (equal effects: 0.1; a single neuron: 1)",
    "participation": "participation ratio over the number of neurons (equal effects: 1; a single neuron: 1/N)",
}


def with_null(measure: str, keys: Mapping, observed: intervals.Estimate, null: np.ndarray) -> pd.DataFrame:
    """An estimate beside the mean and the middle 95 % of its null draws [draws, ...].

    Returns
    -------
    pandas.DataFrame
        `keys, measure` (the null's begins with ``null_``), `labels, value, ci_low, ci_high, n`.
    """
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    flipped = intervals.Estimate(null.mean(0), low, high, observed.n)
    rows = [(measure, OBSERVED, observed), (f"null_{measure}", NULL, flipped)]
    tables = [
        pd.DataFrame({**keys, "measure": name, "labels": labels} | estimate._asdict(), index=range(np.size(low)))
        for name, labels, estimate in rows
    ]
    return pd.concat(tables, ignore_index=True)


def mean_abs(
    accumulated: Mapping[str, PairStatistics],
    n_layer: int,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> pd.DataFrame:
    """The mean of |NMD| and of |r| over each layer's neurons.

    They describe a layer, in the units of its activations (``nmd``) or without a scale (``r``). They are no effect
    sizes: their distance from the null grows with the number of groups (see :mod:`memgen.localization.separation`).

    Returns
    -------
    pandas.DataFrame
        `statistic, site, layer, measure, labels, value, ci_low, ci_high` (jackknife over groups), `n` (pairs).
    """
    tables = []
    for site, sums in accumulated.items():
        n_groups = len(sums.group_sums)

        def profile(
            weights: np.ndarray, signs: np.ndarray | None = None, sums: PairStatistics = sums
        ) -> np.ndarray:  # [draws, statistics x layers]
            sizes = np.abs(np.stack(list(sums.weighted(weights, signs).values()), axis=1))
            return sizes.reshape(len(weights), 2 * n_layer, -1).mean(-1)

        signs = rng.choice([-1.0, 1.0], size=(n_draws, n_groups))
        observed = intervals.jackknife(profile, n_groups)._replace(n=sums.n_pairs)
        layers = np.tile(np.arange(n_layer), 2)
        keys = {"statistic": np.repeat(["nmd", "r"], n_layer), "site": site, "layer": layers}
        tables.append(with_null("mean_abs", keys, observed, profile(np.ones_like(signs), signs)))
    return pd.concat(tables, ignore_index=True)


def null_selection(
    accumulated: Mapping[str, PairStatistics],
    rng: np.random.Generator,
    n_permutations: int,
    n_draws: int = 100,
    level: float = 0.05,
) -> pd.DataFrame:
    """How many neurons are selected when labels are shuffled, so that there is nothing to be found.

    Each draw goes through the whole procedure of :func:`memgen.localization.differences.neuron_table`: sign-flip
    p-values, then Benjamini-Hochberg over all neurons of all sites.

    Returns
    -------
    pandas.DataFrame
        `site` (each, and ``all``), `measure` (``null_selected_share``: the mean share of neurons with a q-value below
        `level`; ``null_any_selected``: the share of draws with at least one), `value, ci_low, ci_high, n` (draws).
    """
    labels = rng.choice([-1.0, 1.0], size=(n_draws, len(next(iter(accumulated.values())).group_pairs)))
    p = {site: intervals.sign_flip_p(s.group_sums, rng, n_permutations, labels) for site, s in accumulated.items()}
    selected = false_discovery_control(np.concatenate(list(p.values()), axis=1), axis=1) < level
    ends = np.cumsum([values.shape[1] for values in p.values()])[:-1]
    rows = []
    for site, found in zip([*p, "all"], [*np.split(selected, ends, axis=1), selected], strict=True):
        for measure, by_draw in (("null_selected_share", found.mean(1)), ("null_any_selected", found.any(1))):
            estimate = intervals.share(by_draw, np.arange(n_draws))
            rows.append({"site": site, "measure": measure, **estimate._asdict()})
    return pd.DataFrame(rows)


def concentration(
    attributions: Mapping[str, np.ndarray], n_pairs: int, rng: np.random.Generator, n_draws: int = 1000
) -> pd.DataFrame:
    """How the sum of |attribution| is spread over a site's neurons: over a few, or evenly over all.

    Returns
    -------
    pandas.DataFrame
        `statistic` (of :data:`CONCENTRATION`), `site, measure, labels, value, ci_low, ci_high` (jackknife over groups),
        `n` (pairs).
    """
    tables = []
    for site, sums in attributions.items():
        null = _concentrated(rng.choice([-1.0, 1.0], size=(n_draws, len(sums))) @ sums)

        def measures(weights: np.ndarray, sums: np.ndarray = sums) -> np.ndarray:
            return _concentrated(weights @ sums)

        estimate = intervals.jackknife(measures, len(sums), bounds=(0, 1))
        observed = estimate._replace(value=_concentrated(sums.sum(0, keepdims=True))[0], n=n_pairs)
        tables.append(with_null("concentration", {"statistic": list(CONCENTRATION), "site": site}, observed, null))
    return pd.concat(tables, ignore_index=True)


def _concentrated(effects: np.ndarray) -> np.ndarray:
    """The numbers of :data:`CONCENTRATION` [draws, statistics] of effects [draws, units]."""
    sizes = -np.sort(-np.abs(effects), axis=1)
    n_units, total = sizes.shape[1], sizes.sum(1, keepdims=True)
    equal = np.full_like(sizes, 1 / n_units)  # no effect at all is spread evenly
    shares = np.divide(sizes, total, out=equal, where=total > 0)
    top_tenth = shares[:, : fraction_to_count(0.1, n_units)].sum(1)
    return np.stack([top_tenth, 1 / (n_units * (shares**2).sum(1))], axis=1)
