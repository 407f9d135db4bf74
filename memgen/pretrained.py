"""Pretrained models in local folders: what they must hold, what of them is trained, and how that is kept.

An adapter (LoRA) is kept without the model that it adapts, whose folder it names. For the analysis it is merged into
the weights, so that the adapted model is one of its base's own architecture.
"""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from memgen.activations import architecture
from memgen.config import PRETRAINED, PretrainedConfig, TrainingConfig, require, root

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def require_tested(folder: Path) -> None:
    """Refuse a folder that holds no model, or one of an architecture whose sites have not been tested."""
    require((folder / "config.json").is_file(), f"The folder {folder} holds no model: it has no config.json.")
    architecture(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))


def checked(model: PretrainedConfig) -> Path:
    """The folder of a model; an :class:`memgen.config.InputError` says what it lacks."""
    folder = root() / model.folder
    hint = "; `make model` fetches it" if model.name in PRETRAINED else ""
    require(folder.is_dir(), f"The model {model.name} was not found in {folder}{hint}.")
    require_tested(folder)
    has_weights = any(folder.glob("*.safetensors"))
    require(has_weights, f"The folder {folder} holds no weights: it has no .safetensors, and no other format is read.")
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZERS)
    require(has_tokenizer, f"The folder {folder} holds no tokenizer: it has none of {', '.join(TOKENIZERS)}.")
    return folder


def load_tokenizer(model: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, which pads with the end of text where it has no padding."""
    return _tokenizer(checked(model))


@functools.cache
def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_room(model: PretrainedConfig, n_tokens: int) -> None:
    """Refuse texts that are longer than the model's context."""
    longest = getattr(AutoConfig.from_pretrained(checked(model)), "max_position_embeddings", n_tokens)
    require(
        n_tokens <= longest, f"A text has {n_tokens} tokens with its answer, and {model.name} reads at most {longest}."
    )


def _load(model: PretrainedConfig) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(checked(model), use_safetensors=True, dtype=torch.float32)


def adapted(model: PretrainedConfig, config: TrainingConfig) -> Any:
    """The model as it is trained: all of it, or frozen with an adapter (a `PeftModel`), which at first changes nothing.

    Weights of any precision are read in float32. Torch's global generator draws the adapter.
    """
    base = _load(model)
    if config.adaptation == "full":
        return base
    import peft  # takes seconds, which a run without an adapter need not wait

    linear = {name.rpartition(".")[2] for name, part in base.named_modules() if hasattr(part, "weight")}
    for target in config.lora.targets:
        require(target in linear, f"{model.name} has no layer {target!r}; it has {', '.join(sorted(linear))}.")
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(config.lora.targets),
    )
    adapter = peft.get_peft_model(base, settings)
    adapter.peft_config["default"].base_model_name_or_path = model.folder  # without the place of this project
    return adapter


def save(model: PreTrainedModel, folder: Path) -> None:
    """Save a model; of one with an adapter the adapter alone."""
    if not hasattr(model, "peft_config"):
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder, save_embedding_layers=False)  # or else it looks for the base on a server
    (folder / "README.md").unlink()  # a form to be filled in


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return all((folder / name).is_file() for name in ADAPTER)


def base_of(folder: Path) -> PretrainedConfig:
    """The model that an adapter in a folder adapts."""
    name = json.loads((folder / ADAPTER[0]).read_text(encoding="utf-8"))["base_model_name_or_path"]
    named = {of_name: known for known, of_name in PRETRAINED.items()}
    return PretrainedConfig.from_name(named.get(name, name))


def with_adapter(folder: Path, merge: bool) -> PreTrainedModel:
    """The model that an adapter in a folder adapts, with the adapter added to its weights, or else beside them.

    Beside them, adapted layers have a `base_layer`, `lora_A` and `lora_B`.
    """
    import peft

    adapter: Any = peft.PeftModel.from_pretrained(_load(base_of(folder)), folder)
    if not merge:
        return adapter.get_base_model()
    return adapter.merge_and_unload()


def without(folder: Path) -> PreTrainedModel:
    """The model that an adapter in a folder adapts, without the adapter."""
    return _load(base_of(folder)).eval()
