"""Run a model under many shifts at once, and only what the shifts change.

The trials of a sweep have the same inputs. So they lie side by side in one sequence: after the kept prefix, the last
tokens of the prompt and the answer stand once for each trial, with the same positions, and a mask lets each trial see
the prefix and itself alone. The prefix is thus read once for all, and layers below the first that is shifted are
not computed again.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from memgen import activations, behavior

TOGETHER = 8  # trials in one pass


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A prepared batch with what shifts at its last tokens leave alone.

    Attributes
    ----------
    batch
        Prompts with answers.
    kept
        For each layer the residual stream that enters it [batch pos d].
    """

    batch: behavior.Batch
    kept: tuple[Tensor, ...]


@torch.no_grad()
def keep(model: PreTrainedModel, prepared: Sequence[behavior.Batch]) -> list[Inputs]:
    """Run each batch once and keep what enters each layer."""
    result = []
    for batch in prepared:
        with activations.record(model, ["resid_pre"]) as store:
            behavior.run(model, batch)
        result.append(Inputs(batch, tuple(store["resid_pre"])))
    return result


@contextlib.contextmanager
def _starting_at(model: PreTrainedModel, layer: int, entering: Tensor) -> Iterator[None]:
    """Let the blocks before `layer` compute nothing, so that `entering` [batch pos d] is what enters it."""
    skipped = activations.blocks(model)[:layer]

    def forward(*_args: object, **_kwargs: object) -> Tensor:
        return entering

    try:
        for block in skipped:
            block.forward = forward
        yield
    finally:
        for block in skipped:
            del block.forward  # the class's own shows again


def _mask(batch: behavior.Batch, n_trials: int, dtype: torch.dtype) -> Tensor:
    """What each token may attend to [batch 1 trial*pos prefix+trial*pos]: 0 where it may, else the lowest number."""
    size = batch.input_ids.shape[1]
    before = batch.attention_mask.shape[1] - size
    real = batch.attention_mask.bool()
    causal = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    own = torch.block_diag(*[causal] * n_trials).bool() & real[:, None, before:].repeat(1, 1, n_trials)
    seen = torch.cat([real[:, None, :before].expand(-1, n_trials * size, -1), own], dim=2)
    zero = torch.zeros(seen.shape, dtype=dtype, device=real.device)
    return zero.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def first_layer(shift: Tensor) -> int:
    """The first layer that a shift [n_layer, d] changes; the last layer where it changes none."""
    changed = torch.nonzero(shift.detach().abs().sum(1)).flatten()
    return int(changed[0]) if len(changed) else len(shift) - 1


def run_side_by_side(
    model: PreTrainedModel,
    inputs: Inputs,
    site: str,
    shifts: Tensor,
    n_tokens: int,
    start: int = 0,
) -> Tensor:
    """The logits [trial batch pos vocabulary] under each shift [trial n_layer d], as if each were run alone.

    Parameters
    ----------
    n_tokens
        Shifts are added at the last `n_tokens` prompt tokens and after.
    start
        The first layer to compute.

    Raises
    ------
    ValueError
        If the shifts are not [trial n_layer d] for this model and site, or change a layer before `start`.
    """
    expected = (len(activations.blocks(model)), activations.width(model, site))
    if tuple(shifts.shape[1:]) != expected or shifts[:, :start].any():
        raise ValueError(
            f"The shifts for {site} must have the shape [trial, {expected[0]}, {expected[1]}] with zeros before layer "
            f"{start}; what came has the shape {list(shifts.shape)}."
        )
    batch, n_trials = inputs.batch, len(shifts)
    (n_rows, size), layers = batch.input_ids.shape, activations.blocks(model)
    before = batch.attention_mask.shape[1] - size
    where = batch.from_end(n_tokens)[:, None, :, None].to(shifts.dtype)

    def edit(layer: int) -> activations.Edit:
        def add(h: Tensor) -> Tensor:
            trials = h.view(n_rows, n_trials, size, -1)
            return (trials + (where * shifts[:, layer][None, :, None]).to(h.dtype)).view(h.shape)

        return activations.Edit(site, layer, add)

    changed = range(len(layers)) if shifts.requires_grad else torch.nonzero(shifts.abs().sum((0, 2))).flatten().tolist()
    positions = torch.arange(before, before + size, device=batch.input_ids.device).repeat(n_trials)
    cache = None if batch.prefix is None else DynamicCache(list(batch.prefix))
    with (
        _starting_at(model, start, inputs.kept[start].repeat(1, n_trials, 1)),
        activations.edit(model, [edit(layer) for layer in changed if layer >= start]),
    ):
        logits = model(
            batch.input_ids.repeat(1, n_trials),
            attention_mask=_mask(batch, n_trials, model.dtype),
            position_ids=positions[None].expand(n_rows, -1),
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits
    return logits.view(n_rows, n_trials, size, -1).transpose(0, 1)


def chunks(shifts: Sequence[Tensor]) -> Iterator[tuple[list[int], int]]:
    """Which shifts to run together, at most `TOGETHER`, and the first layer that they change."""
    first = [first_layer(shift) for shift in shifts]
    for start in sorted(set(first)):
        own = [i for i, layer in enumerate(first) if layer == start]
        for begin in range(0, len(own), TOGETHER):
            yield own[begin : begin + TOGETHER], start
