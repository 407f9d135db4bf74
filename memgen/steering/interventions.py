"""What is added to the activations to reach each behaviour, in memory and in files."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from memgen import activations
from memgen.behavior import NAMES, TARGETS
from memgen.config import InputError, require


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
        return self.named(NAMES[target])

    def named(self, target: str) -> Tensor:
        """The vectors [n_layer, d] that lead to ``memorization`` or ``generalization``; else an InputError."""
        vectors = {"generalization": self.generalization, "memorization": self.memorization}
        require(target in vectors, f"The target {target!r} is unknown; allowed are {', '.join(vectors)}.")
        return vectors[target]

    @contextlib.contextmanager
    def apply(
        self, model: PreTrainedModel, target: str, dose: float = 1.0, prompt_length: int | Tensor | None = None
    ) -> Iterator[None]:
        """Steer a model of Hugging Face while the context lasts: plain passes, and `generate`.

        `target` is ``memorization`` or ``generalization``, `prompt_length` the tokens of the prompt, of all or of each
        text, without padding. If it is not given, what is read into an empty cache is the prompt, and what comes after
        it is the answer. An InputError says that the target is unknown, that the model has another shape, or that the
        prompt's length is not to be known.
        """
        shift, blocks = dose * self.named(target), activations.blocks(model)
        shape = (len(blocks), activations.width(model, self.site))
        require(
            tuple(shift.shape) == shape,
            f"The vectors for {self.site} are of shape {list(shift.shape)}; the model needs {list(shape)}.",
        )
        where = torch.empty(0)

        def find(_model: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            nonlocal where
            where = self._steered(args, kwargs, prompt_length)[..., None]

        def edit(layer: int) -> activations.Edit:
            return activations.Edit(self.site, layer, lambda h: h + (where.to(h) * shift[layer].to(h)))

        handle = model.register_forward_pre_hook(find, with_kwargs=True)
        try:
            with activations.edit(model, map(edit, torch.nonzero(shift.abs().sum(1)).flatten().tolist())):
                yield
        finally:
            handle.remove()

    def _steered(self, args: tuple[Tensor, ...], kwargs: dict[str, Any], prompt_length: int | Tensor | None) -> Tensor:
        """Which tokens of a pass are steered [batch pos], from the arguments of the model."""
        ids, cache = args[0] if args else kwargs["input_ids"], kwargs.get("past_key_values")
        n_before = 0 if cache is None else cache.get_seq_length()
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(len(ids), n_before + ids.shape[1], dtype=torch.long, device=ids.device)
        require(mask.dim() == 2, f"An attention mask has the shape [batch, pos] here, not {list(mask.shape)}.")
        if prompt_length is None:
            require(kwargs.get("use_cache") is not False, "Without a cache, say the prompt_length.")
            prompt_length = 0 if n_before else mask.sum(1)
        at_least = torch.as_tensor(prompt_length, device=ids.device).expand(len(ids)) - self.n_tokens
        steered = (mask.cumsum(1) - 1 >= at_least[:, None]) & (mask > 0)
        return steered[:, n_before : n_before + ids.shape[1]]

    def export_gguf(self, file: Path, target: str, model_type: str, dose: float = 1.0) -> None:
        """Write a control vector as llama.cpp reads it, for a model of a type such as ``llama``.

        llama.cpp adds ``direction.<layer>`` to the residual stream after that block, at *every* token, and has none for
        the first block: `n_tokens` is lost, and an :class:`InputError` says where a shift cannot be told to it.
        """
        import gguf  # what else is done here needs none of it

        shift = (dose * self.named(target)).float().cpu().numpy()
        require(self.site == "resid_post", f"llama.cpp adds to resid_post, and this shift is for {self.site}.")
        require(not shift[0].any(), "llama.cpp adds nothing after the first block, and this shift does.")
        writer = gguf.GGUFWriter(file, "controlvector")
        writer.add_string("controlvector.model_hint", model_type)
        writer.add_uint32("controlvector.layer_count", len(shift) - 1)
        for layer in range(1, len(shift)):
            writer.add_tensor(f"direction.{layer}", shift[layer])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

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


load = Intervention.load
