"""Named sites of a model, and contexts that record or edit the activations there.

Sites are named as in TransformerLens. With `x` the residual stream, a block of a GPT-2 or Llama computes::

    resid_pre = x
    resid_mid = resid_pre + attn_out        attn_out = W_O attn.hook_z,  attn.hook_z = heads(norm(resid_pre))
    resid_post = resid_mid + mlp_out        mlp_out = W_out mlp.hook_post,  mlp.hook_post = act(W_in norm(resid_mid))

`attn.hook_z` holds the heads' outputs side by side. `resid_post_normed` is `resid_post` as the next block's attention
reads it, normed, or after the last block what the final norm makes of it. Other architectures differ:

- Gemma 2, Gemma 3 and OLMo 2 norm what a part puts out before it is added to the stream. `attn_out` and `mlp_out` are
  what is added, so the sums above hold.
- OLMo 2 has no norm before a part: between its blocks, `resid_post_normed` is `resid_post`.
- In GPT-NeoX with a parallel residual, attention and MLP both read `resid_pre`: there is no `resid_mid`, and
  `resid_post = resid_pre + attn_out + mlp_out`.

The path of a linear layer in a block, such as `self_attn.q_proj`, is a site, too: what the layer puts out.

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
from transformers.pytorch_utils import Conv1D

from memgen.config import InputError, require

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
    """Where the sites of an architecture are, by default a Llama's: names of modules in the model, then in a block.

    Attributes
    ----------
    blocks, final_norm
        In the model; all others are in a block.
    attention
        Its input is the previous block's `resid_post_normed`.
    head_projection, down_projection
        Their inputs are `attn.hook_z` and `mlp.hook_post`.
    adds_attention, adds_mlp
        Their outputs are `attn_out` and `mlp_out`: a norm, if one stands after the part, otherwise the part itself.
    reads_mid
        Its input is `resid_mid`: a norm, if one stands before the MLP, otherwise the MLP itself.
    """

    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    head_projection: str = "self_attn.o_proj"
    adds_attention: str = "self_attn"
    reads_mid: str = "post_attention_layernorm"
    down_projection: str = "mlp.down_proj"
    adds_mlp: str = "mlp"


_LLAMA = Architecture()
_GEMMA = Architecture(
    adds_attention="post_attention_layernorm",
    reads_mid="pre_feedforward_layernorm",
    adds_mlp="post_feedforward_layernorm",
)
#: Those whose sites have been tested, by Hugging Face's `model_type`.
ARCHITECTURES = {
    "gpt2": Architecture(
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn",
        head_projection="attn.c_proj",
        adds_attention="attn",
        reads_mid="ln_2",
        down_projection="mlp.c_proj",
    ),
    "gpt_neox": Architecture(
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        head_projection="attention.dense",
        adds_attention="attention",
        down_projection="mlp.dense_4h_to_h",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": dataclasses.replace(_GEMMA, reads_mid="mlp"),
}


def architecture(model_type: str | None) -> Architecture:
    """Where the sites of an architecture are; an :class:`InputError` if it is not one of :data:`ARCHITECTURES`."""
    if model_type not in ARCHITECTURES:
        raise InputError(f"Models of type {model_type!r} are not tested; those that are: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[model_type]


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, first to last."""
    return list(model.get_submodule(architecture(model.config.model_type).blocks).children())


def _block(model: PreTrainedModel, site: str, layer: int) -> nn.Module:
    """The block of a layer, if site and layer exist."""
    layers = blocks(model)
    if site not in SITES and not isinstance(dict(layers[0].named_modules()).get(site), nn.Linear | Conv1D):
        raise ValueError(
            f"The site {site!r} is unknown; allowed are {', '.join(SITES)}, or the path of a linear layer in a block."
        )
    is_parallel = getattr(model.config, "use_parallel_residual", False)
    require(site != "resid_mid" or not is_parallel, "A GPT-NeoX with a parallel residual has no resid_mid.")
    if not 0 <= layer < len(layers):
        raise ValueError(f"The layer {layer} does not exist; allowed are 0 to {len(layers) - 1}.")
    return layers[layer]


def width(model: PreTrainedModel, site: str) -> int:
    """The number of neurons (dimensions) at a site of one layer."""
    block, names = _block(model, site, 0), architecture(model.config.model_type)
    projections = {"attn.hook_z": names.head_projection, "mlp.hook_post": names.down_projection}
    if site in SITES and site not in projections:
        return int(model.config.hidden_size)
    linear: Any = block.get_submodule(projections.get(site, site))
    sizes = (linear.nx, linear.nf) if isinstance(linear, Conv1D) else (linear.in_features, linear.out_features)
    return sizes[0] if site in projections else sizes[1]


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
    model: PreTrainedModel, site: str, layer: int, function: Callable[[Tensor], Tensor | None]
) -> torch.utils.hooks.RemovableHandle:
    block, names = _block(model, site, layer), architecture(model.config.model_type)
    if site == "resid_post_normed":
        after = blocks(model)[layer + 1 :]
        if after:
            return _hook_input(after[0].get_submodule(names.attention), function)
        return _hook_output(model.get_submodule(names.final_norm), function)
    part, hook = {
        "resid_pre": ("", _hook_input),
        "resid_mid": (names.reads_mid, _hook_input),
        "resid_post": ("", _hook_output),
        "attn.hook_z": (names.head_projection, _hook_input),
        "attn_out": (names.adds_attention, _hook_output),
        "mlp_out": (names.adds_mlp, _hook_output),
        "mlp.hook_post": (names.down_projection, _hook_input),
    }.get(site, (site, _hook_output))
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
def with_gradients(model: PreTrainedModel) -> Iterator[None]:
    """Let activations have gradients, whether or not the weights want any."""
    embeddings = model.get_input_embeddings()
    with torch.enable_grad(), _hook_output(embeddings, lambda embedded: embedded.requires_grad_()):
        yield


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


@contextlib.contextmanager
def starting_at(model: PreTrainedModel, layer: int, entering: Tensor) -> Iterator[None]:
    """Let the blocks before `layer` compute nothing, so that `entering` [batch pos d_model] is what enters it."""
    skipped = blocks(model)[:layer]
    try:
        for block in skipped:
            block.forward = lambda *_args, **_kwargs: entering
        yield
    finally:
        for block in skipped:
            del block.forward  # the method of its class is found again


def at_last(activations: list[Tensor], prompt_length: Tensor, name: str) -> Tensor:
    """The values at each prompt's last token, in single precision: [batch layer d] from a list of [batch pos d].

    Of a site `name`; values that are not finite are an :class:`InputError`.
    """
    rows = torch.arange(len(prompt_length), device=prompt_length.device)
    last = torch.stack([layer[rows, prompt_length - 1] for layer in activations], dim=1)
    return finite(last, name).float()


def finite(values: Tensor, name: str) -> Tensor:
    """The values; an :class:`InputError` if one is infinite or no number, as where half precision overflows."""
    require(
        bool(values.isfinite().all()),
        f"The model computes infinities or no numbers at {name}, in {values.dtype}; its weights must be finite and "
        "its number format wide enough.",
    )
    return values
