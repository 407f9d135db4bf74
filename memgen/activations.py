"""Named sites of a model, and contexts that record or edit the activations there.

Sites are named as in TransformerLens. With `x` the residual stream, a block of a GPT-2 or Llama computes::

    resid_pre = x
    resid_mid = resid_pre + attn_out        attn_out = attention(norm(resid_pre))
    resid_post = resid_mid + mlp_out        mlp_out = W_out mlp.hook_post,  mlp.hook_post = act(W_in norm(resid_mid))

Hooks live in context managers only: when a context ends, also by an error, the model is as it was.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp.hook_post")

#: Takes the activations [batch pos d] and returns new ones; it must not change its argument.
Function = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of the activations at one site of one layer."""

    site: str
    layer: int
    function: Function


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, first to last."""
    parts: Any = model
    if hasattr(parts, "transformer"):
        return list(parts.transformer.h)
    if hasattr(parts, "model") and hasattr(parts.model, "layers"):
        return list(parts.model.layers)
    raise ValueError(f"No sites are known for a {type(model).__name__}; known are GPT-2 and Llama models.")


def _check(model: PreTrainedModel, site: str, layer: int) -> nn.Module:
    if site not in SITES:
        raise ValueError(f"The site {site!r} is unknown; allowed are {', '.join(SITES)}.")
    n_layer = len(blocks(model))
    if not 0 <= layer < n_layer:
        raise ValueError(f"The layer {layer} does not exist; allowed are 0 to {n_layer - 1}.")
    return blocks(model)[layer]


def _down_projection(block: Any) -> nn.Module:
    return block.mlp.c_proj if hasattr(block.mlp, "c_proj") else block.mlp.down_proj


def width(model: PreTrainedModel, site: str) -> int:
    """The number of neurons (dimensions) at a site of one layer."""
    block = _check(model, site, 0)
    if site != "mlp.hook_post":
        return int(model.config.hidden_size)
    projection: Any = _down_projection(block)
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


def _attach(block: Any, site: str, function: Callable[[Tensor], Tensor | None], editing: bool):
    attention = block.attn if hasattr(block, "attn") else block.self_attn
    if site == "resid_pre":
        return _hook_input(block, function)
    if site == "resid_post":
        return _hook_output(block, function)
    if site == "attn_out":
        return _hook_output(attention, function)
    if site == "mlp_out":
        return _hook_output(block.mlp, function)
    if site == "mlp.hook_post":
        return _hook_input(_down_projection(block), function)
    assert site == "resid_mid"
    if editing:
        raise ValueError("resid_mid can be recorded but not edited: edit attn_out, which enters it by addition.")
    return _hook_input(block.ln_2 if hasattr(block, "ln_2") else block.post_attention_layernorm, function)


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
    handles = []
    try:
        for site in store:
            for layer in range(n_layer):

                def keep(activation: Tensor, site: str = site, layer: int = layer) -> None:
                    store[site][layer] = activation

                handles.append(_attach(_check(model, site, layer), site, keep, editing=False))
        yield store
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def edit(model: PreTrainedModel, edits: Iterable[Edit]) -> Iterator[None]:
    """Run the model with its activations changed; edits of one site and layer apply in the given order."""
    handles = []
    try:
        for one in edits:
            block = _check(model, one.site, one.layer)
            handles.append(_attach(block, one.site, one.function, editing=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def at_last(activations: list[Tensor], prompt_length: Tensor) -> Tensor:
    """The activations at each prompt's last token: from a list over layers of [batch pos d] to [batch layer d]."""
    rows = torch.arange(len(prompt_length), device=prompt_length.device)
    return torch.stack([one[rows, prompt_length - 1] for one in activations], dim=1)
