"""The model under study, with everything that reading and steering it needs."""

import dataclasses
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from memgen import activations, pretrained

logging.disable_progress_bar()  # bars for loading and saving a model would fill the executed notebooks


@dataclasses.dataclass(frozen=True)
class Subject:
    """A language model, its tokenizer, and how inputs are passed through it.

    Attributes
    ----------
    model
        In evaluation mode; weights that want no gradients keep no activations for them.
    batch_size
        Prompts per forward pass.
    n_tokens
        Interventions act on the last `n_tokens` prompt tokens, and on the answer's tokens.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 256
    n_tokens: int = 1

    @classmethod
    def load(cls, folder: str | Path, batch_size: int = 256, n_tokens: int = 1, *, merge: bool = True) -> Self:
        """Load a model and its tokenizer from a local folder, onto the best device there is; an adapter with its base.

        With `merge` an adapter is added to the weights of its base, else it stays beside them.

        Raises
        ------
        InputError
            If the folder holds no model, or one of an architecture that is not tested.
        """
        folder, device = Path(folder), Accelerator().device
        if pretrained.is_adapter(folder):
            model = pretrained.with_adapter(folder, merge)
            tokenizer = pretrained.load_tokenizer(pretrained.base_of(folder))
        else:
            pretrained.require_tested(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(model.eval().requires_grad_(False).to(device), tokenizer, batch_size, n_tokens)

    @property
    def n_layer(self) -> int:
        """The number of transformer blocks."""
        return len(activations.blocks(self.model))

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    def shape(self, site: str) -> tuple[int, int]:
        """The number of layers, and of neurons in each, at a site."""
        return self.n_layer, activations.width(self.model, site)

    def untrained(self, seed: int) -> Self:
        """The same architecture with random weights, which `seed` decides.

        Draw the seed from a generator of its own: with the seed of the training run, these are the weights that the
        trained model started from.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(self.model.config).eval().requires_grad_(False).to(self.device)
        return dataclasses.replace(self, model=model)
