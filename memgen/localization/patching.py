"""The second causal yardstick: put activations in, and look at what the model then answers.

Only the prompt's last token is touched. So where prompts have one length, all tokens before it are computed once, and
each intervention costs a pass over the last token and the answer.
"""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior, statistics
from memgen.localization.differences import read_states
from memgen.localization.rankings import Units

ORDER = {
    behavior.MEMORIZATION: ("memorization", "generalization"),  # the source, and who receives
    behavior.GENERALIZATION: ("generalization", "memorization"),
}


def replacing(model: PreTrainedModel, units: Units, states: Tensor) -> behavior.Context:
    """The context that puts `states` [rows n_layer d] into `units` at the last prompt token; rows are 0-based.

    Raises
    ------
    ValueError
        If the units or the states do not fit the model.
    """
    expected = (len(activations.blocks(model)), activations.width(model, units.site))
    if units.chosen.shape != expected or tuple(states.shape[1:]) != expected:
        raise ValueError(
            f"Units and states of {units.site} must be {list(expected)}, not {list(units.chosen.shape)} and "
            f"{list(states.shape[1:])}."
        )
    chosen = torch.from_numpy(units.chosen).to(model.device)
    layers = [int(layer) for layer in np.flatnonzero(units.chosen.any(1))]

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        own = states[torch.tensor(batch.rows.to_numpy(copy=True), device=states.device)]
        row = torch.arange(len(own), device=own.device)

        def edit(layer: int) -> activations.Edit:
            def replace(activation: Tensor) -> Tensor:
                new = activation.clone()
                last = activation[row, batch.prompt_length - 1]
                new[row, batch.prompt_length - 1] = torch.where(chosen[layer], own[:, layer].to(last.dtype), last)
                return new

            return activations.Edit(units.site, layer, replace)

        return activations.edit(model, [edit(layer) for layer in layers])

    return context


def prepare(
    model: PreTrainedModel, frame: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> list[behavior.Batch]:
    """Batches for interventions at the last prompt token, with all before it computed once if that can be."""
    lengths = set(frame.input_ids.str.len())
    keep = 1 if len(lengths) == 1 and min(lengths) > 1 else None
    return behavior.prepare(model, frame.reset_index(drop=True), tokenizer, batch_size, keep)


@torch.no_grad()
def patch_units(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sets: Sequence[Units],
    batch_size: int = 128,
) -> pd.DataFrame:
    """Put exactly these units of one member, at the last token, into the other member's run: all of a set at once.

    Returns
    -------
    pandas.DataFrame
        One row for each pair, set and `target` (the behaviour whose activations are put in): `site` and what the set is
        `about`, `pair` (its place in `pairs`), `group`, `behavior_after`, `log_odds_before` (unpatched),
        `log_odds_after`, `log_odds_source` (of the member that the activations come from).
    """
    rows = []
    sites = list(dict.fromkeys(units.site for units in sets))
    for start in range(0, len(pairs), batch_size):
        chunk = pairs.iloc[start : start + batch_size]
        members = {name: frame.loc[chunk[name]] for name in ORDER[1]}
        read = {name: next(read_states(model, own, tokenizer, sites, batch_size))[1] for name, own in members.items()}
        states = {
            name: {site: torch.from_numpy(state).to(model.device) for site, state in own.items()}
            for name, own in read.items()
        }
        prepared = {name: prepare(model, own, tokenizer, batch_size) for name, own in members.items()}
        log_odds = {name: behavior.measure(model, own).log_odds.to_numpy() for name, own in prepared.items()}
        common = {"pair": np.arange(start, start + len(chunk)), "group": chunk.group.to_numpy()}
        for target, (source, receiver) in ORDER.items():
            before = {"log_odds_before": log_odds[receiver], "log_odds_source": log_odds[source]}
            for units in sets:
                context = replacing(model, units, states[source][units.site])
                after = behavior.measure(model, prepared[receiver], context)
                found = {"behavior_after": after.behavior.to_numpy(), "log_odds_after": after.log_odds.to_numpy()}
                about = {"site": units.site, **units.about, "target": target}
                rows.append(pd.DataFrame(about | common | before | found))
    return pd.concat(rows, ignore_index=True)


def patch_layers(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 128,
) -> pd.DataFrame:
    """Activation patching of whole layers: the rows of :func:`patch_units` for each site and `layer`."""
    sets = []
    for site in sites:
        shape = (len(activations.blocks(model)), activations.width(model, site))
        for layer in range(shape[0]):
            chosen = np.zeros(shape, dtype=bool)
            chosen[layer] = True
            sets.append(Units(site, chosen, {"layer": layer}))
    return patch_units(model, frame, pairs, tokenizer, sets, batch_size)


def summarize_patching(patched: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Share of receivers that show the source's behaviour: `site, layer, direction, value, low, high, n`."""
    rows = []
    for (site, layer, target), own in patched.groupby(["site", "layer", "target"], sort=False):
        turned = (own.behavior_after == target).to_numpy(dtype=float)
        estimate = statistics.clustered_mean(turned, own.group.to_numpy(), rng, n_resamples=n_resamples)
        about = {"site": site, "layer": layer, "direction": behavior.NAMES[target]}
        rows.append(about | estimate._asdict())
    return pd.DataFrame(rows)


def summarize_units(patched: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """What patching sets of units does, a mean over the draws of a random set.

    Parameters
    ----------
    patched
        From :func:`patch_units` with sets that are about `ranking, end, share, draw`.

    Returns
    -------
    pandas.DataFrame
        `site, ranking, end, share, direction`, `measure` (``turned``: the share of receivers that show the source's
        behaviour; ``recovered``: the mean change of the log-odds, as a share of the mean distance between the members,
        which is 1 where the receiver ends at the source's log-odds), `value, low, high, n` (pairs).
    """
    rows = []
    keys = ["site", "ranking", "end", "share", "target"]
    for (site, ranking, end, share, target), own in patched.groupby(keys, sort=False):
        pairs = pd.DataFrame(
            {
                "turned": (own.behavior_after == target).astype(float),
                "moved": own.log_odds_after - own.log_odds_before,
                "distance": own.log_odds_source - own.log_odds_before,
                "pair": own.pair,
                "group": own.group,
            }
        )
        pairs = pairs.groupby("pair").agg({"turned": "mean", "moved": "mean", "distance": "mean", "group": "first"})
        about = {"site": site, "ranking": ranking, "end": end, "share": share, "direction": behavior.NAMES[target]}
        turned = statistics.clustered_mean(pairs.turned, pairs.group, rng, n_resamples)
        rows.append(about | {"measure": "turned", **turned._asdict()})
        recovered = _ratio(pairs.groupby("group")[["moved", "distance"]].sum().to_numpy(), rng, n_resamples)
        rows.append(about | {"measure": "recovered", **recovered, "n": len(pairs)})
    return pd.DataFrame(rows)


def _resampled(sums: np.ndarray, rng: np.random.Generator, n_resamples: int) -> np.ndarray:
    """The sums [groups, columns] of `n_resamples` draws of groups: [n_resamples, columns]."""
    n_groups = len(sums)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples) @ sums


def _ratio(sums: np.ndarray, rng: np.random.Generator, n_resamples: int) -> dict[str, float]:
    """The ratio of two sums over groups [groups, 2], `value`, and its 95 % interval; one group has none."""
    one, other = sums.sum(0)
    low = high = np.nan
    if len(sums) > 1:
        drawn = _resampled(sums, rng, n_resamples)
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return {"value": one / other, "low": low, "high": high}


def units_for_half(
    patched: pd.DataFrame, n_units: Mapping[str, int], rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """How many neurons must be patched, the first of a ranking first, for half of what the largest set turns.

    The share that turns, over both directions, is followed over the growing sets and read where it first reaches half
    of what the largest set gives, on a straight line between two sets.

    Parameters
    ----------
    patched
        From :func:`patch_units` with sets that are about `ranking, end, share, draw`; the top sets are used.
    n_units
        The number of neurons of each site.

    Returns
    -------
    pandas.DataFrame
        `site, ranking, value, low, high` (neurons), `n` (receivers). Where the largest set turns none, the value is NaN
        and n is 0.
    """
    rows = []
    for (site, ranking), own in patched[patched.end == "top"].groupby(["site", "ranking"], sort=False):
        own = own.assign(turned=own.behavior_after == own.target)
        by_group = own.groupby(["group", "share"]).turned.sum().unstack("share")
        sizes = np.append(0.0, by_group.columns.to_numpy() * n_units[str(site)])
        sums = np.pad(by_group.to_numpy(dtype=float), ((0, 0), (1, 0)))  # no neuron turns nothing
        value = _first_half(sums.sum(0), sizes)
        low = high = np.nan
        if len(sums) > 1 and np.isfinite(value):
            drawn = [_first_half(one, sizes) for one in _resampled(sums, rng, n_resamples)]
            low, high = np.nanquantile(drawn, [0.025, 0.975])
        n = len(own) // (len(sizes) - 1) if np.isfinite(value) else 0
        rows.append({"site": site, "ranking": ranking, "value": value, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows)


def main_units(effects: pd.DataFrame) -> pd.DataFrame:
    """The effects of :func:`summarize_units` that become numbers of their own, named.

    A tenth of the neurons by every ranking, and as many at random; by attribution also 1 %, 5 % and all of them (all
    are the same in every ranking).

    Returns
    -------
    pandas.DataFrame
        These rows, with `size` (such as ``top10`` or ``bottom10_nmd``) and `which` (in words).
    """
    by_attribution = effects.ranking.isin(["attribution", "random"])
    more = by_attribution & (effects.end == "top") & effects.share.isin([0.01, 0.05, 1.0])
    rows = effects[(effects.share == 0.1) | more].copy()
    rows["size"], rows["which"] = "", ""
    for index, row in zip(rows.index, rows.itertuples(), strict=True):
        size = "all" if row.share == 1 else f"{row.end}{round(100 * row.share)}"
        rows.loc[index, "size"] = size if row.ranking in ("attribution", "random") else f"{size}_{row.ranking}"
        rows.loc[index, "which"] = row.end if row.end == "random" else f"{row.end} by |{row.ranking}|"
    return rows


def _first_half(turned: np.ndarray, sizes: np.ndarray) -> float:
    """Where `turned` [sets], which begins at 0, first reaches half of its last entry; NaN if that is 0."""
    half = turned[-1] / 2
    if half == 0:
        return np.nan
    k = int(np.argmax(turned >= half))
    return float(np.interp(half, turned[k - 1 : k + 1], sizes[k - 1 : k + 1]))
