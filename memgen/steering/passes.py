"""Run a model under many shifts at once, and compute only what the shifts change.

The trials of a sweep have the same inputs. So they lie side by side in one sequence: after the cached prefix, the last
tokens of the prompt and the answer stand once for each trial, with the same positions, and a mask lets each trial see
the prefix and itself alone. The prefix is thus read once for all trials, and layers below the first that is shifted are
not computed again.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from memgen import activations, behavior
from memgen.subject import Subject

TRIALS_PER_PASS = 8
TOKENS_PER_PASS = 32  # of an input; attention among more, which the mask takes away again, costs more than it saves


def first_layer(shift: Tensor) -> int:
    """The first layer that a shift [n_layer, d] changes; the last layer where it changes none."""
    changed = torch.nonzero(shift.detach().abs().sum(1)).flatten()
    return int(changed[0]) if len(changed) else len(shift) - 1


def at_once(batch: behavior.Batch) -> int:
    """How many trials of a batch one sequence holds."""
    return max(1, TOKENS_PER_PASS // batch.input_ids.shape[1])


def run_side_by_side(subject: Subject, batch: behavior.Batch, site: str, shifts: Tensor, start: int = 0) -> Tensor:
    """The logits [trial batch pos vocabulary] under each shift [trial n_layer d], as if each were run alone.

    The batch comes from :func:`memgen.behavior.cache_residuals`. Shifts are added at the last ``subject.n_tokens``
    prompt tokens and after; `start` is the first layer to compute. A ValueError says that the shifts have another
    shape, or change a layer before it.
    """
    n_layer, width = subject.shape(site)
    if tuple(shifts.shape[1:]) != (n_layer, width) or shifts[:, :start].any():
        raise ValueError(
            f"The shifts for {site} must have the shape [trial, {n_layer}, {width}] with zeros before layer {start}; "
            f"what came has the shape {list(shifts.shape)}."
        )
    n_trials, (n_rows, size) = len(shifts), batch.input_ids.shape
    if n_trials > at_once(batch):
        parts = shifts.split(at_once(batch))
        return torch.cat([run_side_by_side(subject, batch, site, part, start) for part in parts])
    where = batch.from_end(subject.n_tokens)[:, None, :, None].to(shifts.dtype)

    def edit(layer: int) -> activations.Edit:
        def add(h: Tensor) -> Tensor:
            trials = h.view(n_rows, n_trials, size, -1)
            return (trials + (where * shifts[:, layer][None, :, None]).to(h.dtype)).view(h.shape)

        return activations.Edit(site, layer, add)

    changed = range(n_layer) if shifts.requires_grad else torch.nonzero(shifts.abs().sum((0, 2))).flatten().tolist()
    cache = None if batch.prefix is None else DynamicCache(list(batch.prefix))
    with (
        activations.starting_at(subject.model, start, batch.entering[start].repeat(1, n_trials, 1)),
        activations.edit(subject.model, [edit(layer) for layer in changed if layer >= start]),
    ):
        logits = subject.model(
            batch.input_ids.repeat(1, n_trials),
            attention_mask=behavior.attention_mask(batch, subject.model.dtype, n_trials),
            position_ids=batch.positions.repeat(1, n_trials),
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits
    return logits.view(n_rows, n_trials, size, -1).transpose(0, 1)


def passes(shifts: Sequence[Tensor]) -> Iterator[tuple[list[int], int]]:
    """The places of shifts that run together, at most `TRIALS_PER_PASS`, and the first layer that they change."""
    first = [first_layer(shift) for shift in shifts]
    for start in sorted(set(first)):
        places = [place for place, layer in enumerate(first) if layer == start]
        for begin in range(0, len(places), TRIALS_PER_PASS):
            yield places[begin : begin + TRIALS_PER_PASS], start


@torch.no_grad()
def each_pass(
    subject: Subject, batches: Iterable[behavior.Batch], site: str, shifts: Sequence[Tensor], unsteered: bool = False
) -> Iterator[tuple[behavior.Batch, list[int], Tensor]]:
    """Run every batch under every shift [n_layer, d], many of them together.

    Yields the batch, which shifts ran, and their logits [trial batch pos vocabulary]; with `unsteered`, those of no
    shift come first.
    """
    planned = list(passes(shifts))
    for batch in batches:
        cached = behavior.cache_residuals(subject, batch)
        for places, start in planned:
            together = [torch.zeros_like(shifts[0])] * unsteered + [shifts[place] for place in places]
            stacked = torch.stack(together).to(subject.device)
            yield cached, places, run_side_by_side(subject, cached, site, stacked, start)
