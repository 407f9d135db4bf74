"""Train a small language model from scratch on a task's texts, and keep its trajectory.

The loss is the causal language-modelling loss on whole texts. Before the task comes a *copy warm-up*: random tokens
written twice in a row, which makes the attention heads that inference from context builds on; without it a small model
stays on the plateau of guessing one of the context's colours.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from IPython import get_ipython
from IPython.display import clear_output
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from memgen import behavior
from memgen.config import ModelConfig, TrainingConfig

logging.disable_progress_bar()  # bars for loading and saving a model would fill the executed notebooks

#: The evaluation's columns and how figures call them.
MEASURES = {
    "memorized_only": "memorized-only accuracy",
    "inferred_only": "inferred-only accuracy",
    "conflict_memorization": "conflict: memorized",
    "conflict_generalization": "conflict: inferred",
    "conflict_other": "conflict: other",
}
LONGEST_COPY = 20
RESUME = "resume.safetensors"
IGNORED = -100
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
BALANCED = 0.25  # the share of conflicts that the rarer behaviour of a chosen checkpoint answers


def model_configuration(config: ModelConfig, tokenizer: PreTrainedTokenizerFast, longest_text: int) -> PreTrainedConfig:
    """The Hugging Face configuration of a model for texts of up to `longest_text` tokens."""
    common = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    n_positions = max(longest_text, 2 * LONGEST_COPY + 1)
    if config.architecture == "llama":
        return LlamaConfig(
            **common,
            hidden_size=config.n_embd,
            intermediate_size=4 * config.n_embd,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            max_position_embeddings=n_positions,
        )
    return GPT2Config(
        **common,
        n_positions=n_positions,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own GELU, in one operation
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def pack(corpus: pd.DataFrame, pad_id: int) -> Tensor:
    """The corpus as one array [texts, longest text], padded on the right."""
    lengths = corpus.input_ids.str.len().to_numpy()
    packed = np.full((len(corpus), lengths.max()), pad_id, dtype=np.int64)
    inside = np.arange(lengths.max()) < lengths[:, None]
    packed[inside] = np.concatenate(corpus.input_ids.to_list())
    return torch.from_numpy(packed)


def copy_batch(batch_size: int, n_tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random distinct tokens written twice, and labels that ask for the second half: [batch pos] each."""
    longest = min(LONGEST_COPY, n_tokens - 3)
    length = int(torch.randint(min(6, longest), longest + 1, (1,), generator=generator))
    ids = torch.rand(batch_size, n_tokens - 3, generator=generator).argsort(1)[:, :length] + 3  # 0-2 are special
    first = torch.ones(batch_size, 1, dtype=torch.long)  # the token that begins each text
    labels = torch.cat([torch.full((batch_size, length + 1), IGNORED), ids], 1)
    return torch.cat([first, ids, ids], 1), labels


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, constant, linear decay to a tenth over the last `decay_fraction` of the steps."""
    total = config.copy_warmup_steps + config.steps
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = max(1.0, config.decay_fraction * config.steps)
    left = min(1.0, (total - step) / decay_steps)
    return rise * (0.1 + 0.9 * left)


def _optimizer(model: PreTrainedModel, config: TrainingConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)


def evaluate(
    model: PreTrainedModel, frame: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> dict[str, float]:
    """Accuracies on the inputs of one right answer, and the behaviours on conflicts (0-1)."""
    model.eval()
    measured = behavior.measure(model, behavior.prepare(model, frame, tokenizer, batch_size))
    model.train()
    conflict = behavior.rates(measured.behavior[frame.kind == "conflict"])
    return {
        "memorized_only": behavior.accuracy(frame, measured.behavior, "memorized_only"),
        "inferred_only": behavior.accuracy(frame, measured.behavior, "inferred_only"),
        **{f"conflict_{name}": rate for name, rate in conflict.items()},
    }


class Progress:
    """Shows where a training stands: a bar in Jupyter, lines every few seconds where papermill runs the notebook.

    Each line replaces the one before it, so that an executed notebook keeps only the last.
    """

    EVERY = 5.0  # seconds

    def __init__(self, label: str):
        self.label = label
        self._began = time.monotonic()
        self._shown = 0.0
        # Jupyter names the cell that it runs; papermill, and a plain Python, do not, and could not redraw a bar.
        kernel = getattr(get_ipython(), "kernel", None)
        self._lines = kernel is None or "cellId" not in kernel.get_parent().get("metadata", {})
        self._bar = None if self._lines else tqdm(unit="step", desc=label)

    def __call__(self, state: "State") -> None:
        """Show the state, if it is time to."""
        finished = state.step == state.steps
        if self._bar is not None:
            self._bar.total = state.steps
            self._bar.update(state.step - self._bar.n)
            self._bar.set_postfix_str(f"loss {state.loss:.3f} {self._rates(state)}", refresh=False)
            if finished:
                self._bar.close()
        elif finished or time.monotonic() - self._shown >= self.EVERY:
            self._shown = time.monotonic()
            clock = self._minutes(time.monotonic() - self._began if finished else state.seconds_left)
            clear_output(wait=True)
            print(
                f"▶ {self.label} training: step {state.step:,}/{state.steps:,}, loss {state.loss:.3f}, "
                f"{self._rates(state)}{'took' if finished else 'left'} {clock}",
                flush=True,
            )

    @staticmethod
    def _rates(state: "State") -> str:
        names = {"memorized_only": "memorized-only", "inferred_only": "inferred-only"}
        return "".join(
            f"{name} {state.evaluation[key]:.2f}, " for key, name in names.items() if key in state.evaluation
        )

    @staticmethod
    def _minutes(seconds: float) -> str:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@dataclasses.dataclass(frozen=True)
class State:
    """Where a training stands: `step` of `steps` done (copy warm-up included), the trajectory so far."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    evaluation: dict[str, float]


def fit(
    model: PreTrainedModel,
    packed: Tensor,
    config: TrainingConfig,
    evaluation: Callable[[PreTrainedModel], dict[str, float]],
    folder: Path,
    seed: int,
    progress: Callable[[State], None] = lambda _state: None,
) -> pd.DataFrame:
    """Train `model` in place; keep a checkpoint at every evaluation, and go on from the last one if there is one.

    Parameters
    ----------
    packed
        The texts [texts, pos], padded on the right with the model's padding token.
    evaluation
        Called every `config.evaluate_every` steps; what it returns joins the trajectory.
    folder
        Where the checkpoints ``step<n>/`` (safetensors) and the state to resume from are kept.
    progress
        Called after each step.

    Returns
    -------
    pandas.DataFrame
        The trajectory: one row an evaluation, `step` (negative or zero during the copy warm-up), `loss` (nats per
        token, the mean since the last row) and the evaluation's columns.
    """
    set_seed(seed)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    model.to(accelerator.device)
    optimizer = _optimizer(model, config)
    start, rows = _resume(model, optimizer, folder)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    generator = torch.Generator().manual_seed(seed)
    order = text_order(len(packed), config, generator)
    total = config.copy_warmup_steps + config.steps
    losses: list[Tensor] = []
    began = time.monotonic()
    model.train()
    for step in range(start, total):
        task_step = step - config.copy_warmup_steps
        if task_step < 0:
            # A generator state of its own for each step, so that a resumed run sees the same texts.
            generator.manual_seed(seed * 1_000_003 + step)
            ids, labels = copy_batch(config.batch_size, plain.config.vocab_size, generator)
        else:
            ids = packed[order[task_step]]
            labels = ids.masked_fill(ids == plain.config.pad_token_id, IGNORED)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        loss = language_model_loss(model(ids.to(accelerator.device)).logits, labels.to(accelerator.device))
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        loss = loss.detach()
        losses.append(loss)
        if (task_step + 1) % config.evaluate_every == 0 or step + 1 == total:
            rows.append({"step": task_step + 1, "loss": float(torch.stack(losses).mean()), **evaluation(plain)})
            losses.clear()
            if accelerator.is_main_process:
                _checkpoint(plain, optimizer, folder, step + 1, rows)
        left = (time.monotonic() - began) / (step + 1 - start) * (total - step - 1)
        last = {name: value for name, value in rows[-1].items() if name not in ("step", "loss")} if rows else {}
        progress(State(step + 1, total, float(loss), left, last))
    accelerator.wait_for_everyone()
    return pd.DataFrame(rows)


def language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy (nats per token) of each token given those before it; IGNORED labels do not count."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )


def text_order(n_texts: int, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Which texts each step sees, [steps, batch]: whole passes, each in a new random order."""
    needed = config.steps * config.batch_size
    passes = [torch.randperm(n_texts, generator=generator) for _ in range(math.ceil(needed / n_texts))]
    return torch.cat(passes)[:needed].reshape(config.steps, config.batch_size)


def _checkpoint(model: PreTrainedModel, optimizer, folder: Path, step: int, rows: list[dict]) -> None:
    """Save the weights for good, and beside them the state to resume from, moved into place when whole."""
    model.save_pretrained(folder / f"step{rows[-1]['step']}")
    state = {
        f"{i}.{name}": value.detach().cpu().contiguous()
        for i, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    weights = {f"model.{name}": value.detach().cpu().clone() for name, value in model.named_parameters()}
    # Loss and rates travel as text in the file's header, so that weights and trajectory cannot come apart.
    header = {"step": str(step), "rows": json.dumps(rows)}
    save_file(state | weights, folder / "resume.partial", metadata=header)
    (folder / "resume.partial").replace(folder / RESUME)


def _resume(model: PreTrainedModel, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, list[dict]]:
    """Load the state of an interrupted training; (0, []) where there is none."""
    if not (folder / RESUME).exists():
        return 0, []
    with safe_open(folder / RESUME, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a mapping)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.pop(f"model.{name}"))
    state = optimizer.state_dict()
    for name, value in tensors.items():
        index, entry = name.split(".", 1)
        state["state"].setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict(state)
    return int(header["step"]), json.loads(header["rows"])


def load_model(folder: Path) -> PreTrainedModel:
    """A model that was saved, ready for use on the best device there is."""
    return AutoModelForCausalLM.from_pretrained(folder).eval().to(Accelerator().device)


def choose_checkpoint(trajectory: pd.DataFrame, required_accuracy: float) -> tuple[int, bool]:
    """The step of the checkpoint to analyse, and whether both behaviours are present in it.

    Both are present if memorized-only and inferred-only accuracy reach `required_accuracy`. Among those checkpoints
    the last one is taken in which each behaviour answers `BALANCED` of the conflicts or more: training is complete
    then, and the learning rate has come down. Where none is so balanced, the one whose rarer behaviour is most
    frequent; where no checkpoint has both behaviours, the one whose lower accuracy is highest; the later of equals.
    """
    lower = trajectory[["memorized_only", "inferred_only"]].min(axis=1)
    present = lower >= required_accuracy
    balance = trajectory[["conflict_memorization", "conflict_generalization"]].min(axis=1)
    score = balance[present].clip(upper=BALANCED) if present.any() else lower
    best = score[score == score.max()].index[-1]
    return int(trajectory.step[best]), bool(present.any())


def untrained(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A network of the model's architecture with fresh random weights, on its device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(model.config).eval().to(model.device)
