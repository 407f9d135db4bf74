"""Named sites of a model, and contexts that record or edit the activations there.

Sites are named as in TransformerLens. With `x` the residual stream, a block of a GPT-2 or Llama computes::

    resid_pre = x
    resid_mid = resid_pre + attn_out        attn_out = W_O attn.hook_z,  attn.hook_z = heads(norm(resid_pre))
    resid_post = resid_mid + mlp_out        mlp_out = W_out mlp.hook_post,  mlp.hook_post = act(W_in norm(resid_mid))

`attn.hook_z` holds the heads' outputs side by side. `resid_post_normed` is what the next norm makes of `resid_post`:
the first norm of the next block, or the final norm after the last block.

Hooks live in context managers only: when a context ends, also by an error, the model is as it was.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

SITES = (
    "resid_pre",
    "attn.hook_z",
    "attn_out",
    "resid_mid",
    "mlp.hook_post",
    "mlp_out",
    "resid_post",
    "resid_post_normed",
)
#: Sites that can be recorded but not edited, and the one that is edited instead.
READ_ONLY = {"resid_mid": "attn_out", "resid_post_normed": "resid_post"}


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of the activations at a site of a layer: `function` takes [batch pos d] and returns a new tensor."""

    site: str
    layer: int
    function: Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The names of an architecture's parts: its blocks and final norm in the model, the others in a block."""

    blocks: str
    final_norm: str
    attention_norm: str
    attention: str
    head_projection: str
    mlp_norm: str
    down_projection: str


#: Those whose sites have been tested, by Hugging Face's `model_type`.
ARCHITECTURES = {
    "gpt2": Architecture("transformer.h", "transformer.ln_f", "ln_1", "attn", "attn.c_proj", "ln_2", "mlp.c_proj"),
    "llama": Architecture(
        "model.layers",
        "model.norm",
        "input_layernorm",
        "self_attn",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.down_proj",
    ),
}


def architecture(model: nn.Module) -> Architecture:
    """The names of the model's parts."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"No sites are known for a {type(model).__name__}; known are models of type {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[model_type]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, first to last."""
    return list(model.get_submodule(architecture(model).blocks).children())


def _block(model: nn.Module, site: str, layer: int) -> nn.Module:
    """The block of a layer, if site and layer exist."""
    if site not in SITES:
        raise ValueError(f"The site {site!r} is unknown; allowed are {', '.join(SITES)}.")
    layers = blocks(model)
    if not 0 <= layer < len(layers):
        raise ValueError(f"The layer {layer} does not exist; allowed are 0 to {len(layers) - 1}.")
    return layers[layer]


def width(model: PreTrainedModel, site: str) -> int:
    """The number of neurons (dimensions) at a site of one layer."""
    block, names = _block(model, site, 0), architecture(model)
    projections = {"attn.hook_z": names.head_projection, "mlp.hook_post": names.down_projection}
    if site not in projections:
        return int(model.config.hidden_size)
    projection: Any = block.get_submodule(projections[site])
    # GPT-2's Conv1D holds the transpose of a Linear's weight.
    return projection.in_features if isinstance(projection, nn.Linear) else projection.weight.shape[0]


def _hook_input(module: nn.Module, function: Callable[[Tensor], Tensor | None]) -> torch.utils.hooks.RemovableHandle:
    def hook(_module, args, kwargs):
        if args:
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = function(kwargs["hidden_states"])
        return None if new is None else (args, kwargs | {"hidden_states": new})

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _hook_output(module: nn.Module, function: Callable[[Tensor], Tensor | None]) -> torch.utils.hooks.RemovableHandle:
    def hook(_module, _args, output):
        if isinstance(output, tuple):
            new = function(output[0])
            return None if new is None else (new, *output[1:])
        return function(output)

    return module.register_forward_hook(hook)


def _attach(
    model: nn.Module, site: str, layer: int, function: Callable[[Tensor], Tensor | None]
) -> torch.utils.hooks.RemovableHandle:
    block, names = _block(model, site, layer), architecture(model)
    if site == "resid_post_normed":
        after = blocks(model)[layer + 1 :]
        norm = after[0].get_submodule(names.attention_norm) if after else model.get_submodule(names.final_norm)
        return _hook_output(norm, function)
    part, hook = {
        "resid_pre": ("", _hook_input),
        "resid_mid": (names.mlp_norm, _hook_input),
        "resid_post": ("", _hook_output),
        "attn.hook_z": (names.head_projection, _hook_input),
        "attn_out": (names.attention, _hook_output),
        "mlp_out": ("mlp", _hook_output),
        "mlp.hook_post": (names.down_projection, _hook_input),
    }[site]
    return hook(block.get_submodule(part), function)


@contextlib.contextmanager
def record(model: PreTrainedModel, sites: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record the activations of all layers during a forward pass.

    Yields
    ------
    dict
        After the pass: for each site a list over layers of tensors [batch pos d], part of the graph if there is one.
        A further pass replaces them.
    """
    n_layer = len(blocks(model))
    store: dict[str, list[Tensor]] = {site: [torch.empty(0)] * n_layer for site in sites}
    with contextlib.ExitStack() as hooks:
        for site, activations in store.items():
            for layer in range(n_layer):
                hooks.enter_context(_attach(model, site, layer, functools.partial(activations.__setitem__, layer)))
        yield store


@contextlib.contextmanager
def edit(model: PreTrainedModel, edits: Iterable[Edit]) -> Iterator[None]:
    """Run the model with its activations changed; edits of one site and layer apply in the given order."""
    with contextlib.ExitStack() as hooks:
        for change in edits:
            if change.site in READ_ONLY:
                raise ValueError(
                    f"{change.site} can be recorded but not edited: edit {READ_ONLY[change.site]} instead."
                )
            hooks.enter_context(_attach(model, change.site, change.layer, change.function))
        yield


def at_last(activations: list[Tensor], prompt_length: Tensor) -> Tensor:
    """The activations at each prompt's last token: [batch layer d] from a list over layers of [batch pos d]."""
    rows = torch.arange(len(prompt_length), device=prompt_length.device)
    return torch.stack([layer[rows, prompt_length - 1] for layer in activations], dim=1)
