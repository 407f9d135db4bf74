"""Rankings of neurons by the absolute value of a column, and the sets of neurons at their ends."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from memgen.config import fraction_to_count, require

RANKINGS = ("r", "nmd", "attribution")
N_RANDOM = 3  # random sets of each size


def top_neurons(table: pd.DataFrame, site: str, n: int, by: str = "r") -> pd.DataFrame:
    """The `n` neurons of a site with the largest absolute values in the column `by`, largest first.

    Raises
    ------
    InputError
        If the site has fewer neurons, or the table no such column.
    """
    require(by in table, f"Neurons are ranked by a column of their table ({', '.join(table.columns)}), not by {by!r}.")
    neurons = table[table.site == site]
    require(1 <= n <= len(neurons), f"The top n must be 1 to {len(neurons)}, the neurons at {site}, not {n}.")
    return neurons.loc[neurons[by].abs().sort_values(ascending=False, kind="stable").index[:n]]


def sorted_by_nmd(table: pd.DataFrame, max_columns: int = 256, max_rows: int = 5000) -> pd.DataFrame:
    """The neurons of each layer sorted by NMD: `site, layer, rank, nmd`.

    Where a layer has more than `max_columns` neurons, or all layers together more than `max_rows`, neighbours in rank
    are averaged.
    """
    keys = ["site", "layer", "rank"]
    by_layer = table.groupby(["site", "layer"], sort=False).nmd
    max_columns = min(max_columns, max(1, max_rows // by_layer.ngroups))
    size, order = by_layer.transform("size"), by_layer.rank(method="first") - 1
    rank = (order * np.minimum(size, max_columns) // size).astype(int)
    return table.assign(rank=rank).groupby(keys).nmd.mean().reset_index()


def neuron_sets(
    table: pd.DataFrame,
    sites: Sequence[str],
    shares: Sequence[float],
    rng: np.random.Generator,
    ends: Sequence[str] = ("top", "bottom"),
) -> pd.DataFrame:
    """The ends of every ranking of a site's neurons, over all layers, and random sets of the same sizes.

    Parameters
    ----------
    table
        Columns `site, layer, neuron` and the rankings, sorted by layer and neuron.

    Returns
    -------
    pandas.DataFrame
        One row a set: `site, ranking` (``random`` for random sets, which belong to no ranking), `end` (``top``,
        ``bottom`` or ``random``), `share` (of the site's neurons), `draw`, and `chosen`, truth values [n_layer, d].
    """
    rows: list[tuple] = []
    for site, share in itertools.product(sites, shares):
        neurons = table[table.site == site]
        n, members = fraction_to_count(share, len(neurons)), []
        for ranking in RANKINGS:
            ranked = top_neurons(neurons, site, len(neurons), ranking).index
            members += [(ranking, end, 0, ranked[:n] if end == "top" else ranked[-n:]) for end in ends]
        for draw in range(N_RANDOM):
            members.append(("random", "random", draw, neurons.index[rng.permutation(len(neurons))[:n]]))
        for ranking, end, draw, index in members:
            chosen = neurons.index.isin(index).reshape(neurons.layer.nunique(), -1)
            rows.append((site, ranking, end, share, draw, chosen))
    return pd.DataFrame(rows, columns=["site", "ranking", "end", "share", "draw", "chosen"])
