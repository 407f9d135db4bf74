"""The heat map's table: neurons in the order of their NMD, and how their activations lie under either behaviour."""

import numpy as np
import pandas as pd

from memgen import behavior
from memgen.localization.differences import by_neuron
from memgen.subject import Subject

QUANTILES = (10, 25, 50, 75, 90)  # %
MEMBERS = ("memorization", "generalization")


def ranked(table: pd.DataFrame, max_columns: int = 256) -> pd.DataFrame:
    """The neurons of each layer sorted by NMD: `site, layer, rank, nmd`.

    Where a layer has more than `max_columns` neurons, neighbours in rank are averaged.
    """
    keys = ["site", "layer", "rank"]
    by_layer = table.groupby(["site", "layer"]).nmd
    size, order = by_layer.transform("size"), by_layer.rank(method="first") - 1
    rank = (order * np.minimum(size, max_columns) // size).astype(int)
    return (
        table.assign(rank=rank).groupby(keys, sort=False).nmd.mean().reset_index().sort_values(keys, ignore_index=True)
    )


def neuron_spread(
    subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, table: pd.DataFrame, max_neurons: int = 2000
) -> pd.DataFrame:
    """The table of :func:`ranked`, with the activations of each neuron over the members of pairs.

    Returns
    -------
    pandas.DataFrame
        `site, layer, rank, nmd`; and, unless the table has more than `max_neurons`, `neuron`, `n` (pairs), and for each
        behaviour the quantiles of the activation, such as `memorization_25` (%).
    """
    heat = ranked(table)
    if len(table) > max_neurons or len(heat) < len(table):
        return heat
    sites = list(table.site.unique())
    states = {name: behavior.states(subject, frame.loc[pairs[name]], sites) for name in MEMBERS}
    parts = []
    for site in sites:
        columns = {
            f"{name}_{q}": values.ravel()
            for name in MEMBERS
            for q, values in zip(QUANTILES, np.percentile(states[name][site], QUANTILES, axis=0), strict=True)
        }
        parts.append(by_neuron(site, subject.n_layer, columns))
    neurons = table.sort_values(["site", "layer", "nmd"], kind="stable")[["site", "layer", "neuron", "nmd"]]
    neurons["rank"] = neurons.groupby(["site", "layer"]).cumcount()
    return neurons.merge(pd.concat(parts).round(5), on=["site", "layer", "neuron"]).assign(n=len(pairs))
