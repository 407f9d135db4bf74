"""Activation patching: put the activations of one member of a pair into the run of the other.

Layers, heads and sets of neurons are patched at the prompt's last token alone. So where prompts have the same length,
all tokens before it are computed once, and each intervention costs a pass over the last token and the answer. Parts of
the prompt are patched in whole runs.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import activations, behavior, intervals
from memgen.subject import Subject

#: By target: the member whose activations are put in, and the member that receives them.
ROLES = {"memorization": ("memorization", "generalization"), "generalization": ("generalization", "memorization")}
HEADS = "attn.hook_z"
KEYS = ["site", "ranking", "end", "share", "target"]  # of a set's effects


def replacing(subject: Subject, site: str, chosen: np.ndarray, states: Tensor) -> behavior.Context:
    """The context that puts `states` [rows n_layer d] into `chosen` [n_layer d] neurons at the last prompt token."""
    expected = subject.shape(site)
    if chosen.shape != expected or tuple(states.shape[1:]) != expected:
        raise ValueError(
            f"Neurons and states at {site} must be {list(expected)}, not {list(chosen.shape)} and "
            f"{list(states.shape[1:])}."
        )
    is_chosen = torch.from_numpy(chosen).to(subject.device)

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        new_states = states[torch.tensor(batch.rows.to_numpy(copy=True), device=states.device)]
        row = torch.arange(len(new_states), device=states.device)

        def replace(layer: int, activation: Tensor) -> Tensor:
            new, last = activation.clone(), (row, batch.prompt_length - 1)
            new[last] = torch.where(is_chosen[layer], new_states[:, layer].to(new.dtype), activation[last])
            return new

        layers = [int(layer) for layer in np.flatnonzero(chosen.any(1))]
        edits = [activations.Edit(site, layer, functools.partial(replace, layer)) for layer in layers]
        return activations.edit(subject.model, edits)

    return context


def prepare_last(subject: Subject, frame: pd.DataFrame) -> list[behavior.Batch]:
    """Batches for interventions at the last prompt token, their rows numbered from 0.

    All before that token is computed once if the prompts have the same length.
    """
    lengths = set(frame.input_ids.str.len())
    return behavior.prepare(subject, frame.reset_index(drop=True), prefix=len(lengths) == 1 and min(lengths) > 1)


@torch.no_grad()
def patch(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sets: pd.DataFrame) -> pd.DataFrame:
    """Put exactly the neurons of a set, at the last token, from one member into the other member's run.

    Parameters
    ----------
    sets
        Columns `site`, `chosen` (truth values [n_layer, d]) and any others, such as those of
        :func:`memgen.localization.rankings.neuron_sets`.

    Returns
    -------
    pandas.DataFrame
        One row a pair, set and `target` (the behaviour whose activations are put in): the columns of `sets` without
        `chosen`, `pair` (its place in `pairs`), `group`, `value` (1 if the receiver shows the target, otherwise 0),
        `log_odds_before`, `log_odds_after`, and `log_odds_source` of the member that the activations come from (nats).
    """
    rows = []
    sites = list(sets.site.unique())
    for start in range(0, len(pairs), subject.batch_size):
        chunk = pairs.iloc[start : start + subject.batch_size]
        members = {name: frame.loc[chunk[name]] for name in ROLES}
        states = {name: behavior.states(subject, member, sites) for name, member in members.items()}
        batches = {name: prepare_last(subject, member) for name, member in members.items()}
        log_odds = {name: behavior.measure(subject, batches[name]).log_odds.to_numpy() for name in ROLES}
        for target, (source, receiver) in ROLES.items():
            common = {
                "target": target,
                "pair": np.arange(start, start + len(chunk)),
                "group": chunk.group.to_numpy(),
                "log_odds_before": log_odds[receiver],
                "log_odds_source": log_odds[source],
            }
            for columns in sets.to_dict("records"):
                chosen, site = columns.pop("chosen"), columns["site"]
                source_states = torch.from_numpy(states[source][site]).to(subject.device)
                after = behavior.measure(subject, batches[receiver], replacing(subject, site, chosen, source_states))
                shown = (after.behavior == behavior.LABELS[target]).to_numpy(dtype=float)
                outcome = {"value": shown, "log_odds_after": after.log_odds.to_numpy()}
                rows.append(pd.DataFrame(columns | common | outcome))
    return pd.concat(rows, ignore_index=True)


def patch_layers(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """Activation patching of whole layers: the rows of :func:`patch` for each `site` and `layer`."""
    sets = []
    for site in sites:
        for layer in range(subject.n_layer):
            chosen = np.zeros(subject.shape(site), dtype=bool)
            chosen[layer] = True
            sets.append({"site": site, "layer": layer, "chosen": chosen})
    return patch(subject, frame, pairs, pd.DataFrame(sets))


def patch_heads(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Activation patching of each attention head's output: the rows of :func:`patch` for each `layer` and `head`."""
    n_layer, width = subject.shape(HEADS)
    n_heads = subject.model.config.num_attention_heads
    sets = []
    for layer, head in np.ndindex(n_layer, n_heads):
        chosen = np.zeros((n_layer, n_heads, width // n_heads), dtype=bool)
        chosen[layer, head] = True
        sets.append({"site": HEADS, "layer": layer, "head": head, "chosen": chosen.reshape(n_layer, width)})
    return patch(subject, frame, pairs, pd.DataFrame(sets))


def replacing_tokens(
    subject: Subject, site: str, layer: int, tokens: slice, states: Sequence[Tensor]
) -> behavior.Context:
    """The context that puts `states`, for each batch a tensor [batch pos d], into a layer at some prompt tokens."""
    of_batches = iter(states)

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        is_replaced = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=subject.device)
        for row, length in enumerate(batch.prompt_length.tolist()):
            is_replaced[row, :length][tokens] = True
        new = next(of_batches)

        def replace(activation: Tensor) -> Tensor:
            return torch.where(is_replaced[..., None], new, activation)

        return activations.edit(subject.model, [activations.Edit(site, layer, replace)])

    return context


@torch.no_grad()
def patch_positions(
    subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, site: str, parts: Mapping[str, slice]
) -> pd.DataFrame:
    """Put the activations at some of the prompt's tokens, one layer at a time, from one member into the other's run.

    Parameters
    ----------
    parts
        Slices of a prompt's tokens by name, such as ``{"last": slice(-1, None)}``.

    Returns
    -------
    pandas.DataFrame
        One row a pair, `site`, `layer`, `part` and `target`: `pair`, `group` and `value` as from :func:`patch`, and
        `log_odds_after` (nats).

    Raises
    ------
    ValueError
        If the prompts of a pair's members differ in length.
    """
    rows = []
    for start in range(0, len(pairs), subject.batch_size):
        chunk = pairs.iloc[start : start + subject.batch_size]
        members = {name: frame.loc[chunk[name]].reset_index(drop=True) for name in ROLES}
        lengths = [member.input_ids.str.len() for member in members.values()]
        if not lengths[0].equals(lengths[1]):
            raise ValueError("The prompts of a pair's members must have the same length.")
        for target, (source, receiver) in ROLES.items():
            batches = behavior.prepare(subject, members[receiver])
            states = [_states(subject, batch, members[source], site) for batch in batches]
            for layer, (part, tokens) in itertools.product(range(subject.n_layer), parts.items()):
                of_layer = [of_batch[layer] for of_batch in states]
                context = replacing_tokens(subject, site, layer, tokens, of_layer)
                after = behavior.measure(subject, batches, context)
                columns = {
                    "site": site,
                    "layer": layer,
                    "part": part,
                    "target": target,
                    "pair": np.arange(start, start + len(chunk)),
                    "group": chunk.group.to_numpy(),
                    "value": (after.behavior == behavior.LABELS[target]).to_numpy(dtype=float),
                    "log_odds_after": after.log_odds.to_numpy(),
                }
                rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def _states(subject: Subject, batch: behavior.Batch, sources: pd.DataFrame, site: str) -> list[Tensor]:
    """The activations of each layer [batch pos d] in a batch whose prompts are replaced by those of `sources`."""
    input_ids = batch.input_ids.clone()
    for row, prompt in enumerate(sources.input_ids.loc[batch.rows]):
        input_ids[row, : len(prompt)] = torch.tensor(list(prompt))
    with activations.record(subject.model, [site]) as store:
        behavior.run(subject, dataclasses.replace(batch, input_ids=input_ids))
    return store[site]


def recovered_log_odds(patched: pd.DataFrame) -> pd.DataFrame:
    """The mean change of the log-odds over the mean distance between the members of pairs: 1 for all of the way.

    Returns
    -------
    pandas.DataFrame
        The columns `KEYS`, `value, ci_low, ci_high` (jackknife over groups), `n` (pairs).
    """
    moved = patched.log_odds_after - patched.log_odds_before
    distance = patched.log_odds_source - patched.log_odds_before
    by_draw = patched.assign(moved=moved, distance=distance).groupby([*KEYS, "group", "pair"], sort=False)
    rows = []
    for key, part in by_draw[["moved", "distance"]].mean().reset_index().groupby(KEYS, sort=False):
        sums = part.groupby("group")[["moved", "distance"]].sum().to_numpy()

        def ratio(weights: np.ndarray, sums: np.ndarray = sums) -> np.ndarray:
            return np.divide(*(weights @ sums).T)

        estimate = intervals.jackknife(ratio, len(sums))
        rows.append([*key, *estimate._replace(value=np.divide(*sums.sum(0)), n=len(part))])
    return pd.DataFrame(rows, columns=[*KEYS, *intervals.Estimate._fields])


def neurons_for_half(patched: pd.DataFrame, n_neurons: Mapping[str, int]) -> pd.DataFrame:
    """How many neurons, in the order of a ranking, must be patched for half of what all neurons of the site do.

    The share of receivers that show the target, over both targets, is followed over the growing top sets of a ranking
    (rows of :func:`patch`) and read where it first reaches half of its value for the largest, on a straight line
    between two sets. `n_neurons` is the number of neurons by site.

    Returns
    -------
    pandas.DataFrame
        `site, ranking, value, ci_low, ci_high` (neurons; jackknife over groups), `n` (receivers). Where the largest set
        turns none, the value is NaN and n is 0.
    """
    rows = []
    for (site, ranking), part in patched[patched.end == "top"].groupby(["site", "ranking"], sort=False):
        by_group = part.groupby(["group", "share"]).value.sum().unstack("share")
        sizes = np.append(0.0, by_group.columns.to_numpy() * n_neurons[site])
        sums = np.pad(by_group.to_numpy(dtype=float), ((0, 0), (1, 0)))  # an empty set turns nothing

        def half(weights: np.ndarray, sums: np.ndarray = sums, sizes: np.ndarray = sizes) -> np.ndarray:
            return np.array([_first_half(total, sizes) for total in weights @ sums])

        estimate = intervals.jackknife(half, len(sums), bounds=(0, n_neurons[site]))
        n = len(part) // len(by_group.columns) if np.isfinite(estimate.value) else 0
        rows.append({"site": site, "ranking": ranking, **estimate._replace(n=n)._asdict()})
    return pd.DataFrame(rows)


def _first_half(turned: np.ndarray, sizes: np.ndarray) -> float:
    """Where `turned` [sets], which begins at 0, first reaches half of its last entry; NaN if that is 0."""
    half = turned[-1] / 2
    if half == 0:
        return np.nan
    k = int(np.argmax(turned >= half))
    return float(np.interp(half, turned[k - 1 : k + 1], sizes[k - 1 : k + 1]))
