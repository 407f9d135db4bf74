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
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from IPython.display import clear_output
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from memgen import behavior
from memgen.config import ModelConfig, TrainingConfig
from memgen.subject import Subject

LONGEST_COPY = 20
RESUME = "resume.safetensors"
IGNORED = -100
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
BALANCED = 0.25  # the share of conflicts that the rarer behaviour of a chosen checkpoint answers
SECONDS_BETWEEN_LINES = 5.0


def model_configuration(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, longest_text: int) -> PreTrainedConfig:
    """The Hugging Face configuration of a model for texts of up to `longest_text` tokens."""
    of_architecture: dict[str, dict[str, Any]] = {
        "llama": {"intermediate_size": 4 * config.n_embd},
        # GPT-2's own GELU in one operation, and no dropout.
        "gpt2": {"activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    }
    return AutoConfig.for_model(
        config.architecture,
        hidden_size=config.n_embd,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        max_position_embeddings=max(longest_text, 2 * LONGEST_COPY + 1),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **of_architecture[config.architecture],
    )


def pack(corpus: pd.DataFrame, pad_id: int) -> Tensor:
    """The corpus as one array [texts, longest text], padded on the right."""
    lengths = corpus.input_ids.str.len().to_numpy()
    packed = np.full((len(corpus), lengths.max()), pad_id, dtype=np.int64)
    packed[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(corpus.input_ids.to_list())
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


def evaluate(subject: Subject, frame: pd.DataFrame) -> dict[str, float]:
    """Accuracies on the inputs with one right answer, and the shares of behaviours on conflicts (0-1)."""
    subject.model.eval()
    labels = behavior.measure(subject, behavior.prepare(subject, frame)).behavior
    subject.model.train()
    accuracies = {kind: behavior.accuracy(frame, labels, kind) for kind in behavior.SINGLE_ANSWER.values()}
    conflict = behavior.rates(labels[frame.kind == "conflict"])
    return accuracies | {f"conflict_{name}": rate for name, rate in conflict.items()}


@dataclasses.dataclass(frozen=True)
class State:
    """Where a training stands: `step` of `steps` done (copy warm-up included), and the last evaluation."""

    step: int
    steps: int
    loss: float
    evaluation: dict[str, float]


class Progress:
    """Prints where a training stands every few seconds; each line replaces the one before, so that one remains."""

    def __init__(self, label: str):
        self.label = label
        self._start: tuple[float, int] | None = None  # when the first state came, and its step: a run may be resumed
        self._printed = -math.inf

    def __call__(self, state: State) -> None:
        """Print the state, if it is time to."""
        now, is_last = time.monotonic(), state.step == state.steps
        began, first_step = self._start = self._start or (now, state.step)
        if is_last or now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            per_step = (now - began) / max(1, state.step - first_step)
            minutes, seconds = divmod(round(now - began if is_last else per_step * (state.steps - state.step)), 60)
            parts = [f"▶ {self.label} training: step {state.step:,}/{state.steps:,}", f"loss {state.loss:.3f}"]
            shown = {"memorized-only": "memorized_only", "inferred-only": "inferred_only"}
            parts += [
                f"{name} {state.evaluation[kind]:.2f}" for name, kind in shown.items() if kind in state.evaluation
            ]
            clear_output(wait=True)
            print(*parts, f"{'took' if is_last else 'left'} {minutes}:{seconds:02d}", sep=", ", flush=True)


def make_optimizer(model: PreTrainedModel, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone."""
    matrices, others = [p for p in model.parameters() if p.dim() >= 2], [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)


def fit(
    model: PreTrainedModel,
    packed: Tensor,
    config: TrainingConfig,
    evaluation: Callable[[PreTrainedModel], dict[str, float]],
    folder: Path,
    seed: int,
    progress: Callable[[State], None] = lambda _state: None,
) -> pd.DataFrame:
    """Train `model` in place, with a checkpoint at every evaluation; resume from the last if there is one.

    Parameters
    ----------
    packed
        The texts [texts, pos], padded on the right with the model's padding token.
    evaluation
        Called every `config.evaluate_every` steps; what it returns joins the trajectory.
    folder
        Where the checkpoints ``step<n>/`` (safetensors) and the state to resume from are written.
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
    optimizer = make_optimizer(model, config)
    start, rows = _resume(model, optimizer, folder)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    generator = torch.Generator().manual_seed(seed)
    order = text_order(len(packed), config, generator)
    total = config.copy_warmup_steps + config.steps
    losses: list[Tensor] = []
    rates: dict[str, float] = {}
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
            rates = evaluation(plain)
            rows.append({"step": task_step + 1, "loss": float(torch.stack(losses).mean()), **rates})
            losses.clear()
            if accelerator.is_main_process:
                _checkpoint(plain, optimizer, folder, step + 1, rows)
        progress(State(step + 1, total, float(loss), rates))
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
