"""Put other activations into a run: those of a pair's other member (activation patching), or a mean (ablation).

Heads and sets of neurons are replaced at the prompt's last token alone. So all tokens before it are computed once, and
each intervention costs a pass over the last token and the answer; that on a part of the prompt, a pass over what begins
there. What enters each layer is stored, so that a pass starts at the first layer that is changed.
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

from memgen import activations, behavior
from memgen.subject import Subject

#: By target the member whose activations are put in, and the member that receives them.
ROLES = {"memorization": ("memorization", "generalization"), "generalization": ("generalization", "memorization")}
HEADS = "attn.hook_z"


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

        layers = np.flatnonzero(chosen.any(1)).tolist()
        return behavior.editing(
            subject, batch, [activations.Edit(site, n, functools.partial(replace, n)) for n in layers]
        )

    return context


def prepare_last(subject: Subject, frame: pd.DataFrame, n_tokens: int = 1) -> list[behavior.Batch]:
    """Batches for interventions at the last `n_tokens` prompt tokens, their rows numbered from 0.

    All before those tokens is computed once, and so is what enters each layer.
    """
    at_end = dataclasses.replace(subject, n_tokens=n_tokens)
    batches = behavior.batches(at_end, frame.reset_index(drop=True), prefix=True)
    return [behavior.cache_residuals(at_end, batch) for batch in batches]


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
        `chosen`, `pair` (its index), `group`, `value` (1 if the receiver shows the target, otherwise 0) and
        `log_odds_after` (nats).
    """
    rows = []
    sites = list(sets.site.unique())
    for start in range(0, len(pairs), subject.batch_size):
        chunk = pairs.iloc[start : start + subject.batch_size]
        for target, (source, receiver) in ROLES.items():
            states = behavior.states(subject, frame.loc[chunk[source]], sites)
            batches = prepare_last(subject, frame.loc[chunk[receiver]])
            for columns in sets.to_dict("records"):
                chosen, site = columns.pop("chosen"), columns["site"]
                context = replacing(subject, site, chosen, torch.from_numpy(states[site]).to(subject.device))
                rows.append(_outcomes(subject, batches, context, chunk, columns | {"target": target}))
    return pd.concat(rows, ignore_index=True)


def _outcomes(
    subject: Subject, batches: list[behavior.Batch], context: behavior.Context, pairs: pd.DataFrame, columns: dict
) -> pd.DataFrame:
    """What the receivers of `pairs` do under a patch, beside the `columns` that say which it is."""
    after = behavior.measure(subject, batches, context)
    shown = (after.behavior == behavior.LABELS[columns["target"]]).to_numpy(dtype=float)
    pair = {"pair": pairs.index, "group": pairs.group.to_numpy()}
    return pd.DataFrame(columns | pair | {"value": shown, "log_odds_after": after.log_odds.to_numpy()})


def prompt_parts(frame: pd.DataFrame, pairs: pd.DataFrame) -> tuple[dict[str, slice], pd.DataFrame]:
    """Parts of the prompts as slices by name, and the pairs in which they can be patched.

    `rearranged` tokens stand up to the last one at which the members of any pair differ, `shared` tokens after it, and
    one is `last`. Pairs whose members have the same length are taken; if there are none, all without `rearranged`.
    """
    length = frame.input_ids.str.len()
    is_same = length[pairs.memorization].to_numpy() == length[pairs.generalization].to_numpy()
    chosen = pairs[is_same] if is_same.any() else pairs
    members = zip(frame.input_ids[chosen.memorization], frame.input_ids[chosen.generalization], strict=True)
    tokens = [list(zip(reversed(a), reversed(b), strict=False)) for a, b in members]
    n_alike = min(len(list(itertools.takewhile(lambda both: both[0] == both[1], of_pair))) for of_pair in tokens)
    n_last = max(n_alike, 1)
    rearranged = {"rearranged": slice(None, -n_last)} if is_same.any() else {}
    return rearranged | {"shared": slice(-n_last, -1), "last": slice(-1, None)}, chosen


def replacing_tokens(
    subject: Subject, site: str, layer: int, tokens: slice, states: Sequence[Tensor], neurons: slice = slice(None)
) -> behavior.Context:
    """The context that puts `states`, for each batch a tensor [batch pos d], into a layer's neurons at some tokens."""
    of_batches = iter(states)

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        is_replaced = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=subject.device)
        for row, length in enumerate(batch.prompt_length.tolist()):
            is_replaced[row, :length][tokens] = True
        new = next(of_batches)

        def replace(activation: Tensor) -> Tensor:
            replaced = activation.clone()
            replaced[..., neurons] = torch.where(is_replaced[..., None], new[..., neurons], activation[..., neurons])
            return replaced

        return behavior.editing(subject, batch, [activations.Edit(site, layer, replace)])

    return context


@torch.no_grad()
def patch_positions(
    subject: Subject,
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    site: str,
    parts: Mapping[str, slice],
    by_head: bool = False,
) -> pd.DataFrame:
    """Put the activations at some of the prompt's tokens, one layer at a time, from one member into the other's run.

    Parameters
    ----------
    parts
        Slices of a prompt's tokens by name, such as ``{"last": slice(-1, None)}``. Where the members of a pair differ
        in length, a part begins at a place that is counted from the end, and that both have.
    by_head
        Put in the dimensions of one attention head at a time; `site` is ``attn.hook_z``.

    Returns
    -------
    pandas.DataFrame
        One row a pair, `site`, `layer`, `part`, `target` and, with `by_head`, `head`; the other columns as of
        :func:`patch`.

    Raises
    ------
    ValueError
        If the members of a pair differ in length, and a part begins elsewhere.
    """
    rows = []
    n_heads = subject.model.config.num_attention_heads if by_head else 1
    width = subject.shape(site)[1] // n_heads
    for start in range(0, len(pairs), subject.batch_size):
        chunk = pairs.iloc[start : start + subject.batch_size]
        members = {name: frame.loc[chunk[name]].reset_index(drop=True) for name in ROLES}
        lengths = [member.input_ids.str.len() for member in members.values()]
        for (target, (source, receiver)), (part, tokens) in itertools.product(ROLES.items(), parts.items()):
            n_tokens = -tokens.start if (tokens.start or 0) < 0 else max(of_role.max() for of_role in lengths)
            if not lengths[0].equals(lengths[1]) and n_tokens > min(of_role.min() for of_role in lengths):
                raise ValueError(f"The members of a pair must have the same length where {part} tokens are patched.")
            batches = prepare_last(subject, members[receiver], n_tokens)
            states = [_states(subject, batch, members[source], site) for batch in batches]
            for layer, head in itertools.product(range(subject.n_layer), range(n_heads)):
                of_layer = [of_batch[layer] for of_batch in states]
                neurons = slice(head * width, (head + 1) * width)
                context = replacing_tokens(subject, site, layer, tokens, of_layer, neurons)
                columns = {"site": site, "layer": layer, "part": part, "target": target}
                columns |= {"head": head} if by_head else {}
                rows.append(_outcomes(subject, batches, context, chunk, columns))
    return pd.concat(rows, ignore_index=True)


def _states(subject: Subject, receiver: behavior.Batch, source: pd.DataFrame, site: str) -> list[Tensor]:
    """The activations of each layer in a batch's sources, at the receivers' tokens as counted from the prompt's end."""
    batch = behavior.prompts(subject, source.loc[receiver.rows])
    with activations.record(subject.model, [site]) as store:
        behavior.run(subject, batch, n_last=1)
    n_before = (batch.prompt_length - receiver.prompt_length)[:, None]
    place = torch.arange(receiver.input_ids.shape[1], device=subject.device)[None] + n_before
    row = torch.arange(len(place), device=subject.device)[:, None]
    return [states[row, place.clamp(0, batch.input_ids.shape[1] - 1)] for states in store[site]]


@torch.no_grad()
def ablate(subject: Subject, frame: pd.DataFrame, reference: pd.DataFrame, sets: pd.DataFrame) -> pd.DataFrame:
    """Set neurons to their mean over the prompts of `reference`, at the last prompt token, and ask every input.

    Parameters
    ----------
    sets
        As for :func:`patch`.

    Returns
    -------
    pandas.DataFrame
        One row an input and set: the columns of `sets` without `chosen`, `input`, `inputs` (the kind), `group` and
        `value` (1 if the right answer is given, or, for conflict inputs, which have two, the answer without ablation).
    """
    batches = prepare_last(subject, frame)
    intact = behavior.measure(subject, batches).behavior.to_numpy()
    expected = np.where(frame.kind == "conflict", intact, frame.kind.map(behavior.RIGHT_ANSWER))
    inputs = {"input": frame.index, "inputs": frame.kind.to_numpy(), "group": frame.group.to_numpy()}
    states = behavior.states(subject, reference, list(sets.site.unique()))
    means = {site: values.mean(0, dtype=np.float64).astype(np.float32) for site, values in states.items()}
    rows = []
    for columns in sets.to_dict("records"):
        chosen, mean = columns.pop("chosen"), torch.from_numpy(means[columns["site"]]).to(subject.device)
        context = replacing(subject, columns["site"], chosen, mean.expand(len(frame), -1, -1))
        answered = behavior.measure(subject, batches, context).behavior.to_numpy()
        rows.append(pd.DataFrame(columns | inputs | {"value": (answered == expected).astype(float)}))
    return pd.concat(rows, ignore_index=True)
