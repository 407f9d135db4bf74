"""What is added to the activations to reach each behaviour, in memory and in files."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memgen import activations, behavior
from memgen.behavior import GENERALIZATION, MEMORIZATION, NAMES, TARGETS
from memgen.config import InputError
from memgen.subject import Subject


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
        How it was made and chosen (candidate, number of neurons, dose, ...), stored in the file beside the vectors.
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
        tensors = {
            NAMES[target]: self.shift(target).detach().float().cpu().clone(memory_format=torch.contiguous_format)
            for target in TARGETS  # a copy of each: the two may share their memory
        }
        save_file(tensors, folder / f"{method}.safetensors")
        layers = {name: torch.nonzero(tensor.abs().sum(1)).flatten().tolist() for name, tensor in tensors.items()}
        positions = list(range(-self.n_tokens, 0))  # of the prompt's tokens, from its end
        about = {"site": self.site, "layers": layers, "positions": positions, "answer_tokens": "all", **self.how}
        (folder / f"{method}.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, method: str) -> Self:
        """Read what :meth:`save` wrote; an :class:`InputError` where it is missing."""
        if not (folder / f"{method}.json").exists():
            raise InputError(f"No intervention {method!r} was found in {folder}.")
        about = json.loads((folder / f"{method}.json").read_text())
        site, positions, _, _ = (about.pop(name) for name in ("site", "positions", "layers", "answer_tokens"))
        return cls(site, len(positions), **load_file(folder / f"{method}.safetensors"), how=about)


def adding(subject: Subject, site: str, shift: Tensor, dose: float = 1.0) -> behavior.Context:
    """The context that adds ``dose * shift[layer]`` at the last ``subject.n_tokens`` prompt tokens and after.

    Raises
    ------
    ValueError
        If `shift` is not [n_layer, d] for this model and site.
    """
    expected = subject.shape(site)
    if tuple(shift.shape) != expected:
        raise ValueError(f"The shift for {site} must have the shape {expected}, not {tuple(shift.shape)}.")
    layers = torch.nonzero(shift.abs().sum(1)).flatten().tolist()

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        where = batch.from_end(subject.n_tokens)[..., None].to(shift.dtype)

        def edit(layer: int) -> activations.Edit:
            return activations.Edit(site, layer, lambda h: h + (dose * where * shift[layer]).to(h.dtype))

        return activations.edit(subject.model, map(edit, layers))

    return context
