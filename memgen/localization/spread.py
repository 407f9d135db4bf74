"""How a neuron's activations lie under either behaviour, for the picture of single neurons."""

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen.localization.differences import read_states
from memgen.localization.rankings import ranked

SHOWN_QUANTILES = (10, 25, 50, 75, 90)  # %
MEMBERS = ("memorization", "generalization")


def neuron_spread(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    table: pd.DataFrame,
    batch_size: int = 256,
    max_neurons: int = 2000,
) -> pd.DataFrame:
    """The table for the heat map (:func:`memgen.localization.ranked`), with the activations of each cell in pairs.

    Parameters
    ----------
    pairs
        Flip pairs (:func:`memgen.behavior.flip_pairs`), by the index of `frame`.
    table
        Columns `site, layer, neuron, nmd`; every neuron of each layer.
    max_neurons
        Of a table with more neurons no activations are told.

    Returns
    -------
    pandas.DataFrame
        `site, layer, rank, nmd`; and, unless there are too many neurons, `neuron`, `n` (pairs), and for each behaviour
        the quantiles of the activation over the pairs' members, such as `memorization_25` (%).
    """
    heat = ranked(table)
    if len(table) > max_neurons or len(heat) < len(table):
        return heat
    sites = list(table.site.unique())
    told: dict[str, dict[str, np.ndarray]] = {}
    for name in MEMBERS:
        states = [own for _, own in read_states(model, frame.loc[pairs[name]], tokenizer, sites, batch_size)]
        told[name] = {
            site: np.percentile(np.concatenate([own[site] for own in states]), SHOWN_QUANTILES, axis=0)
            for site in sites
        }
    columns = [_columns(told, site) for site in sites]
    neurons = table.sort_values(["site", "layer", "nmd"], kind="stable")[["site", "layer", "neuron", "nmd"]]
    neurons["rank"] = neurons.groupby(["site", "layer"]).cumcount()
    return neurons.merge(pd.concat(columns).round(5), on=["site", "layer", "neuron"]).assign(n=len(pairs))


def _columns(told: dict[str, dict[str, np.ndarray]], site: str) -> pd.DataFrame:
    """The quantiles of a site's neurons in columns; `told` has [quantile layer neuron] by behaviour and site."""
    n_layer, size = told[MEMBERS[0]][site].shape[1:]
    layers, neurons = np.divmod(np.arange(n_layer * size), size)
    columns = {
        f"{name}_{q}": values.ravel()
        for name in MEMBERS
        for q, values in zip(SHOWN_QUANTILES, told[name][site], strict=True)
    }
    return pd.DataFrame({"site": site, "layer": layers, "neuron": neurons} | columns)
