"""How shifts are made from what is known of neurons: the study's formula, and differences in means.

`alpha` is the scale in the study's formula. Everything here returns *candidates*, which a sweep tries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import behavior
from memgen.behavior import TARGETS
from memgen.config import fraction_to_count
from memgen.localization.rankings import top_neurons
from memgen.subject import Subject

NOT_USED = float("nan")


class Candidate(NamedTuple):
    """A finished shift [n_layer, d] towards a target; `name` says on which neurons, `alpha` or `penalty` how strong."""

    method: str
    name: str
    shift: Tensor
    alpha: float = NOT_USED
    penalty: float = NOT_USED


def study_shift(table: pd.DataFrame, site: str, n: int, alpha: float, shape: tuple[int, int], by: str = "r") -> Tensor:
    """The study's shift towards memorization [n_layer, d]: ``alpha * sign(r) * |NMD|`` on the top `n` neurons.

    `by` is the column of the table of neurons whose absolute value ranks them.
    """
    neurons = top_neurons(table, site, n, by=by)
    shift = torch.zeros(shape)
    where = (neurons.layer.to_list(), neurons.neuron.to_list())
    shift[where] = torch.tensor((alpha * np.sign(neurons.r) * neurons.nmd.abs()).to_list())
    return shift


def study_candidates(
    table: pd.DataFrame,
    site: str,
    counts: Sequence[int],
    alphas: Sequence[float],
    shape: tuple[int, int],
    target: int,
    by: str = "r",
) -> list[Candidate]:
    """The study's shift towards `target` on every number of neurons with every alpha."""
    return [
        Candidate("study", f"top {n}", target * study_shift(table, site, n, alpha, shape, by), alpha=alpha)
        for n in counts
        for alpha in alphas
    ]


def evenly(numbers: Sequence[int], n: int) -> list[int]:
    """At most `n` of the numbers, evenly from the first to the last."""
    numbers = sorted(numbers)
    places = np.unique(np.linspace(0, len(numbers) - 1, min(n, len(numbers))).round().astype(int))
    return [int(numbers[place]) for place in places]


def layer_masks(n_layer: int, width: int, n_single: int) -> dict[str, Tensor]:
    """All neurons of single layers, at most `n_single` from first to last, and of all: boolean [n_layer, width]."""
    everywhere, layers = torch.ones(n_layer, width, dtype=torch.bool), torch.arange(n_layer)[:, None]
    single = {f"layer {layer}": everywhere & (layers == layer) for layer in evenly(range(n_layer), n_single)}
    return single | {"all": everywhere}


def mean_candidates(difference: Tensor, target: int, n_single: int) -> list[Candidate]:
    """A difference in means [n_layer, d], towards `target`, in single layers and in all (:func:`layer_masks`)."""
    nothing, (n_layer, width) = torch.zeros_like(difference), difference.shape
    return [
        Candidate("mean_difference", name, torch.where(mask, target * difference, nothing))
        for name, mask in layer_masks(n_layer, width, n_single).items()
    ]


@torch.no_grad()
def mean_difference(subject: Subject, frame: pd.DataFrame, labels: pd.Series, site: str) -> Tensor:
    """The difference in means [n_layer, d] at the last prompt token: memorization minus generalization.

    Taken for each memorized answer and then averaged, so that no answer's direction weighs more than another's. Answers
    with one behaviour only are left out; where that is all of them, all inputs count as of one answer. `labels` is the
    behaviour on each input, +1 or -1 (others are left out).
    """
    states = torch.from_numpy(behavior.states(subject, frame, [site])[site])
    inputs = pd.DataFrame({"label": labels[frame.index], "answer": frame.answer_memorization})
    memorized, inferred = (inputs.label == target for target in TARGETS)
    shows_both = memorized.groupby(inputs.answer).any() & inferred.groupby(inputs.answer).any()
    balanced = [inputs.answer == answer for answer in shows_both.index[shows_both]]
    differences = []
    for chosen in balanced or [pd.Series(True, inputs.index)]:
        means = [states[torch.tensor((chosen & shown).to_numpy())].mean(0) for shown in (memorized, inferred)]
        differences.append(means[0] - means[1])
    return torch.stack(differences).mean(0)


def largest(shift: Tensor, share: float) -> Tensor:
    """Mask [n_layer, d] of the given share (0-1) of all neurons: those that the shift changes most."""
    return _first(shift.abs().flatten().argsort(descending=True, stable=True), share, tuple(shift.shape))


def random_mask(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Tensor:
    """Mask [n_layer, d] of the given share (0-1) of all neurons, at random."""
    return _first(torch.from_numpy(rng.permutation(shape[0] * shape[1])), share, shape)


def _first(order: Tensor, share: float, shape: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[: fraction_to_count(share, len(order))]] = True
    return mask.reshape(shape)
