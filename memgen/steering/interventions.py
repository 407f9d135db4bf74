"""What is added to the activations, how it is made, and its controls."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
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
from memgen.config import InputError

TARGETS = (MEMORIZATION, GENERALIZATION)


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


def fit_shift(
    model: PreTrainedModel,
    prepared: Sequence[behavior.Batch],
    site: str,
    neurons: Tensor,
    target: int,
    n_tokens: int,
    steps: int,
    learning_rate: float,
    norm_penalty: float,
) -> Tensor:
    """Fit a shift by gradient descent: the gradient-guided intervention.

    Minimises the mean of ``-log p(target answer)`` plus `norm_penalty` times the shift's norm, with Adam, over the
    prepared batches in turn. The model's parameters stay as they are.

    Parameters
    ----------
    neurons
        Which neurons may be shifted: boolean [n_layer, d].
    target
        +1 memorization, -1 generalization.

    Returns
    -------
    Tensor
        [n_layer, d], zero outside `neurons`.
    """
    allowed = neurons.to(model.device).float()
    vector = torch.zeros_like(allowed, requires_grad=True)
    optimizer = torch.optim.Adam([vector], lr=learning_rate)
    own = [batch for batch in prepared if NAMES[target] in batch.answers]
    if not own:
        raise ValueError(f"No input has an answer by {NAMES[target]}.")
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for step in range(steps):
            batch = own[step % len(own)]
            shift = vector * allowed
            with adding(model, site, shift, n_tokens)(batch):
                log_p, _ = behavior.score(behavior.run(model, batch), batch)[NAMES[target]]
            loss = -log_p.mean() + norm_penalty * (shift.square().sum() + 1e-12).sqrt()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - 0.9 * step / steps)
            optimizer.step()
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
    return (vector * allowed).detach().cpu()
