"""Put other activations into a run: those of a pair's other member (activation patching), or a mean (ablation).

Heads and sets of neurons are replaced at the prompt's last token alone. So all tokens before it are computed once, and
each intervention costs a pass over the last token and the answer; that on a part of the prompt, a pass over what begins
there. What enters each layer is stored, so that a pass starts at the first layer that is changed.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import activations, behavior
from memgen.subject import Subject

#: By target the member whose activations are put in, and the member that receives them.
ROLES = {"memorization": ("memorization", "generalization"), "generalization": ("generalization", "memorization")}
HEADS = "attn.hook_z"
LAST = {"last": slice(-1, None)}  # the part of a prompt that is its last token


def replacing(
    subject: Subject, site: str, chosen: np.ndarray, tokens: slice, states: Iterable[Sequence[Tensor]]
) -> behavior.Context:
    """The context that puts `states` into `chosen` [n_layer d] neurons at some of a prompt's tokens.

    `states` gives for each batch, in turn, a tensor for each layer, [batch pos d] or what can be spread to that.
    """
    if chosen.shape != subject.shape(site):
        raise ValueError(f"Neurons at {site} must be {list(subject.shape(site))}, not {list(chosen.shape)}.")
    of_batches, is_chosen = iter(states), torch.from_numpy(chosen).to(subject.device)

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        is_replaced = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=subject.device)
        for row, length in enumerate(batch.prompt_length.tolist()):
            is_replaced[row, :length][tokens] = True
        new = next(of_batches)

        def replace(layer: int, activation: Tensor) -> Tensor:
            return torch.where(is_replaced[..., None] & is_chosen[layer], new[layer].to(activation.dtype), activation)

        layers = np.flatnonzero(chosen.any(1)).tolist()
        edits = [activations.Edit(site, layer, functools.partial(replace, layer)) for layer in layers]
        return behavior.editing(subject, batch, edits)

    return context


def prepare_last(subject: Subject, frame: pd.DataFrame, n_tokens: int = 1) -> Iterator[behavior.Batch]:
    """Batches for interventions at the last `n_tokens` prompt tokens, their rows numbered from 0.

    All before those tokens is computed once, and so is what enters each layer.
    """
    at_end = dataclasses.replace(subject, n_tokens=n_tokens)
    for batch in behavior.batches(at_end, frame.reset_index(drop=True), prefix=True):
        yield behavior.cache_residuals(at_end, batch)


def whole_layers(subject: Subject, sites: Iterable[str], by_head: bool = False) -> pd.DataFrame:
    """The sets of all neurons of a layer, or with `by_head` of one attention head's dimensions, for :func:`patch`."""
    n_heads, sets = subject.model.config.num_attention_heads if by_head else 1, []
    for site, layer, head in itertools.product(sites, range(subject.n_layer), range(n_heads)):
        chosen = np.zeros((subject.n_layer, n_heads, subject.shape(site)[1] // n_heads), dtype=bool)
        chosen[layer, head] = True
        of_head = {"head": head} if by_head else {}
        sets.append({"site": site, "layer": layer, **of_head, "chosen": chosen.reshape(subject.shape(site))})
    return pd.DataFrame(sets)


@torch.no_grad()
def patch(
    subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sets: pd.DataFrame, parts: Mapping[str, slice] = LAST
) -> pd.DataFrame:
    """Put exactly the neurons of a set, at some of the prompt's tokens, from one member into the other member's run.

    Parameters
    ----------
    sets
        Columns `site`, `chosen` (truth values [n_layer, d]) and any others, such as those of
        :func:`memgen.localization.rankings.neuron_sets` or :func:`whole_layers`.
    parts
        Slices of a prompt's tokens by name. Where the members of a pair differ in length, a part begins at a place that
        is counted from the end, and that both have.

    Returns
    -------
    pandas.DataFrame
        One row a pair, set, part and `target` (the behaviour whose activations are put in): the columns of `sets`
        without `chosen`, `part`, `pair` (its index), `group`, `value` (1 if the receiver shows the target, otherwise 0)
        and `log_odds_after` (nats).

    Raises
    ------
    ValueError
        If the members of a pair differ in length, and a part begins elsewhere.
    """
    rows, of_sites = [], list(sets.groupby("site", sort=False))
    for start in range(0, len(pairs), subject.batch_size):
        chunk = pairs.iloc[start : start + subject.batch_size]
        members = {name: frame.loc[chunk[name]].reset_index(drop=True) for name in ROLES}
        lengths = [member.input_ids.str.len() for member in members.values()]
        for (target, (source, receiver)), (part, tokens) in itertools.product(ROLES.items(), parts.items()):
            n_tokens = -tokens.start if (tokens.start or 0) < 0 else max(of_role.max() for of_role in lengths)
            if not lengths[0].equals(lengths[1]) and n_tokens > min(of_role.min() for of_role in lengths):
                raise ValueError(f"The members of a pair must have the same length where {part} tokens are patched.")
            batches = list(prepare_last(subject, members[receiver], n_tokens))
            for site, of_site in of_sites:
                states = [_states(subject, batch, members[source], site) for batch in batches]
                for columns in of_site.to_dict("records"):
                    context = replacing(subject, site, columns.pop("chosen"), tokens, states)
                    rows.append(_outcomes(subject, batches, context, chunk, columns | {"part": part, "target": target}))
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
        `value` (1 if the right answer is given, or, for conflict inputs, which have two, the behaviour stays).
    """
    states = behavior.states(subject, reference, list(sets.site.unique()))
    means = {site: torch.from_numpy(values.mean(0, dtype=np.float64)).float() for site, values in states.items()}
    rows = []
    for batch in prepare_last(subject, frame):
        part = frame.iloc[batch.rows.sort_values()]
        intact = behavior.measure(subject, [batch]).behavior.to_numpy()
        expected = np.where(part.kind == "conflict", intact, part.kind.map(behavior.RIGHT_ANSWER))
        inputs = {"input": part.index, "inputs": part.kind.to_numpy(), "group": part.group.to_numpy()}
        for columns in sets.to_dict("records"):
            mean = list(means[columns["site"]].to(subject.device))
            context = replacing(subject, columns["site"], columns.pop("chosen"), LAST["last"], [mean])
            answered = behavior.measure(subject, [batch], context).behavior.to_numpy()
            rows.append(pd.DataFrame(columns | inputs | {"value": (answered == expected).astype(float)}))
    return pd.concat(rows, ignore_index=True)
