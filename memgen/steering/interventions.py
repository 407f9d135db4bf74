"""What is added to the activations, how it is made, and its controls."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from memgen import activations, behavior
from memgen.behavior import GENERALIZATION, MEMORIZATION, NAMES
from memgen.config import InputError, fraction_to_count

TARGETS = (MEMORIZATION, GENERALIZATION)

#: Makes a control from a shift: another vector of the same norm.
Control = Callable[[Tensor, np.random.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class Intervention:
    """What is added to reach each behaviour.

    Attributes
    ----------
    site
        Where (:data:`memgen.activations.SITES`).
    n_tokens
        It is added at the last `n_tokens` tokens of the prompt and at every token of the answer.
    memorization, generalization
        The vectors [n_layer, d]; layers of zeros are left alone.
    how
        How it was made and chosen (layers, N, alpha, ...), kept in the file beside the vectors.
    """

    site: str
    n_tokens: int
    memorization: Tensor
    generalization: Tensor
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def shift(self, target: int) -> Tensor:
        """The vectors [n_layer, d] that lead to `target` (+1 memorization, -1 generalization)."""
        return {MEMORIZATION: self.memorization, GENERALIZATION: self.generalization}[target]

    def save(self, folder: Path, method: str) -> None:
        """Write ``<method>.safetensors`` and ``<method>.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {NAMES[target]: self.shift(target).detach().float().cpu().contiguous() for target in TARGETS}
        save_file(tensors, folder / f"{method}.safetensors")
        layers = {name: torch.nonzero(tensor.abs().sum(1)).flatten().tolist() for name, tensor in tensors.items()}
        positions = list(range(-self.n_tokens, 0))  # of the prompt's tokens, from its end
        about = {"site": self.site, "layers": layers, "positions": positions, "answer_tokens": "all", **self.how}
        (folder / f"{method}.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, method: str) -> "Intervention":
        """Read what :meth:`save` wrote; an :class:`InputError` where it is missing."""
        if not (folder / f"{method}.json").exists():
            raise InputError(f"No intervention {method!r} was found in {folder}.")
        about = json.loads((folder / f"{method}.json").read_text())
        site, positions = about.pop("site"), about.pop("positions")
        for name in ("layers", "answer_tokens"):
            about.pop(name)
        return cls(site, len(positions), **load_file(folder / f"{method}.safetensors"), how=about)


def adding(model: PreTrainedModel, site: str, shift: Tensor, n_tokens: int, strength: float = 1.0) -> behavior.Context:
    """The context that adds ``strength * shift[layer]`` at the last `n_tokens` prompt tokens and after.

    Raises
    ------
    ValueError
        If `shift` is not [n_layer, d] for this model and site.
    """
    expected = (len(activations.blocks(model)), activations.width(model, site))
    if tuple(shift.shape) != expected:
        raise ValueError(f"The shift for {site} must have the shape {expected}, not {tuple(shift.shape)}.")
    layers = torch.nonzero(shift.detach().abs().sum(1)).flatten().tolist() if not shift.requires_grad else None

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        where = batch.from_end(n_tokens)[..., None].to(shift.dtype)

        def edit(layer: int) -> activations.Edit:
            return activations.Edit(site, layer, lambda h: h + (strength * where * shift[layer]).to(h.dtype))

        return activations.edit(model, [edit(i) for i in (range(expected[0]) if layers is None else layers)])

    return context


def top_neurons(table: pd.DataFrame, site: str, n: int) -> pd.DataFrame:
    """The `n` neurons of a site with the largest `|r|` over all layers; equals in the table's order.

    Raises
    ------
    InputError
        If the site has fewer neurons.
    """
    own = table[table.site == site]
    if not 1 <= n <= len(own):
        raise InputError(f"top N must be from 1 to {len(own)}, the number of neurons at {site}, not {n}.")
    return own.loc[own.r.abs().sort_values(ascending=False, kind="stable").index[:n]]


def study_shift(table: pd.DataFrame, site: str, n: int, alpha: float, shape: tuple[int, int]) -> Tensor:
    """The study's shift towards memorization [n_layer, d]: ``alpha * sign(r) * |NMD|`` on the top `n` neurons."""
    chosen = top_neurons(table, site, n)
    shift = torch.zeros(shape)
    where = (chosen.layer.to_list(), chosen.neuron.to_list())
    shift[where] = torch.tensor((alpha * np.sign(chosen.r) * chosen.nmd.abs()).to_list())
    return shift


@torch.no_grad()
def mean_difference(
    model: PreTrainedModel,
    prepared: Sequence[behavior.Batch],
    labels: pd.Series,
    answers: pd.Series,
    site: str,
) -> Tensor:
    """The difference in means [n_layer, d] at the last prompt token: memorization minus generalization.

    Taken for each memorized answer and then averaged, so that no answer's own direction weighs more than another's.
    Answers with one behaviour only are left out; where that is all of them, all inputs count as of one answer.

    Parameters
    ----------
    labels
        The behaviour on each prepared input, +1 or -1 (others are left out).
    answers
        The memorized answer of each.
    """
    states, rows = [], []
    for batch in prepared:
        with activations.record(model, [site]) as store:
            behavior.run(model, batch)
        states.append(activations.at_last(store[site], batch.prompt_length).float().cpu())
        rows.append(batch.rows.to_numpy())
    index, first = np.unique(np.concatenate(rows), return_index=True)  # an input may stand in a batch for each answer
    means = torch.cat(states)[torch.from_numpy(first)]
    label, answer = labels[index].to_numpy(), answers[index].to_numpy()
    is_known = {one: {MEMORIZATION, GENERALIZATION} <= set(label[answer == one]) for one in np.unique(answer)}
    parts = [answer == one for one, both in is_known.items() if both] or [np.ones(len(label), dtype=bool)]
    differences = []
    for part in parts:
        memorized, inferred = (torch.from_numpy(part & (label == target)) for target in TARGETS)
        differences.append(means[memorized].mean(0) - means[inferred].mean(0))
    return torch.stack(differences).mean(0)


def largest(shift: Tensor, share: float) -> Tensor:
    """Mask [n_layer, d] of the given share (0-1) of all neurons: those that the shift changes most."""
    return _first(shift.abs().flatten().argsort(descending=True, stable=True), share, shift.shape)


def random_mask(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Tensor:
    """Mask [n_layer, d] of the given share (0-1) of all neurons, at random."""
    return _first(torch.from_numpy(rng.permutation(shape[0] * shape[1])), share, shape)


def _first(order: Tensor, share: float, shape: Sequence[int]) -> Tensor:
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[: fraction_to_count(share, len(order))]] = True
    return mask.reshape(*shape)


def random_neurons(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """A control of the same norm: the same magnitudes with random signs on as many neurons drawn at random.

    Where there are enough of them, none of the shifted neurons is drawn.
    """
    flat = shift.flatten()
    used = torch.nonzero(flat).flatten().numpy()
    rest = np.setdiff1d(np.arange(len(flat)), used)
    drawn = rng.choice(rest if len(rest) >= len(used) else len(flat), len(used), replace=False)
    control = torch.zeros_like(flat)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], len(used))).float()
    control[torch.from_numpy(drawn)] = flat[torch.from_numpy(rng.permutation(used))].abs() * signs
    return control.reshape(shift.shape)


def random_direction(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """A control on the same neurons: a random direction of the same norm in each layer."""
    noise = torch.from_numpy(rng.standard_normal(tuple(shift.shape))).float() * (shift != 0)
    norm = noise.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return noise / norm * shift.norm(dim=1, keepdim=True)


def least_correlated(table: pd.DataFrame, site: str) -> Control:
    """Make the control on the neurons with the least `|r|`: the same magnitudes with random signs on as many of them.

    Of a shift of all neurons it keeps the magnitudes and deals them anew.
    """
    own = table[table.site == site]
    own = own.loc[own.r.abs().sort_values(kind="stable").index]
    layers, neurons = torch.tensor(own.layer.to_numpy()), torch.tensor(own.neuron.to_numpy())

    def draw(shift: Tensor, rng: np.random.Generator) -> Tensor:
        magnitudes = shift[shift != 0].abs()
        dealt = magnitudes[torch.from_numpy(rng.permutation(len(magnitudes)))]
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], len(dealt))).float()
        control = torch.zeros_like(shift)
        control[layers[: len(dealt)], neurons[: len(dealt)]] = dealt * signs
        return control

    return draw


def controls(method: str, table: pd.DataFrame, site: str) -> dict[str, Control]:
    """The controls of a method, by the end of their names in the results; all have the norm of what they control.

    The random control of the study's shift lies on random neurons, that of the others is a random direction on the
    neurons that are shifted, as is the direction control of the study's.
    """
    least = {"least correlated control": least_correlated(table, site)}
    if method == "study":
        return {"random control": random_neurons, "random direction control": random_direction} | least
    return {"random control": random_direction} | least
