"""Train a small language model from scratch, or adapt a pretrained one, lesson by lesson, and keep its trajectory.

The loss is the causal language-modelling loss on the tokens that a lesson asks for. The last lesson is the task's
texts; the lessons before it (:mod:`memgen.tasks.lessons`) teach what inference is made of. Without them a small model
stays on the plateau of guessing one of the context's answers.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, set_seed
from torch import Tensor
from torch.optim import Optimizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from memgen import behavior, pretrained
from memgen.config import ModelConfig, PretrainedConfig, TrainingConfig
from memgen.progress import State
from memgen.resume import RESUME as RESUME  # the notebook removes the file
from memgen.resume import Position, load_state, save_state
from memgen.subject import Subject
from memgen.tasks.lessons import IGNORED, LONGEST_COPY, Lesson

BETAS = (0.9, 0.98)
MOMENTUM = 0.95
CLIP_NORM = 1.0
RUNNING = 0.97  # the weight of the past in the running accuracy
LEAST_STEPS = 30  # of a lesson, before its running accuracy can end it
SAVING = 0.05  # at most this share of the time, beyond a second each, goes into states to resume from
RARER = 10  # evaluations cost time: before the last lesson there are ten times fewer, and one at each lesson's end
BALANCED = 0.25  # the share of conflicts that the rarer behaviour of a chosen checkpoint answers


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


def make_model(
    model: ModelConfig | PretrainedConfig,
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    longest_text: int,
    seed: int,
) -> PreTrainedModel:
    """The model to train: with random weights that the seed decides, or a pretrained one."""
    torch.manual_seed(seed)
    if isinstance(model, PretrainedConfig):
        pretrained.require_room(model, longest_text)
        return pretrained.adapted(model, config)
    return AutoModelForCausalLM.from_config(model_configuration(model, tokenizer, longest_text))


def learning_rate_factor(step: int, left: int, config: TrainingConfig) -> float:
    """Linear warm-up, constant, linear decay to a tenth over the last `decay_fraction` of the steps on the texts.

    `step` counts from 0 over all lessons; `left` are the steps until the end of the texts, this one included.
    """
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = min(1.0, left / max(1.0, config.decay_fraction * config.steps))
    return rise * (0.1 + 0.9 * fall)


def evaluate(subject: Subject, frame: pd.DataFrame) -> dict[str, float]:
    """Accuracies on the inputs with one right answer, shares of behaviours on conflicts, and of variants that flip.

    All are shares from 0 to 1. A kind that the frame does not have is left out. `rarer` is the share of the rarer
    of the two behaviours, in the frame's `split` (a column, if there is one) where it is least.
    """
    subject.model.eval()
    labels = behavior.measure(subject, behavior.prepare(subject, frame)).behavior
    subject.model.train()
    present = set(frame.kind)
    accuracies = {kind: behavior.accuracy(frame, labels, kind) for kind in behavior.RIGHT_ANSWER if kind in present}
    is_conflict = frame.kind == "conflict"
    shares = {f"conflict_{name}": rate for name, rate in behavior.rates(labels[is_conflict]).items()}
    n_variants = int((is_conflict & (frame.variant_of >= 0)).sum())
    flips = len(behavior.flip_pairs(frame, labels)) / n_variants if n_variants else math.nan
    by_split = labels[is_conflict].groupby(frame.get("split", pd.Series("all", frame.index))[is_conflict])
    rarer = min((min((part == target).mean() for target in behavior.TARGETS) for _, part in by_split), default=0.0)
    return accuracies | shares | {"flips": flips, "rarer": float(rarer)}


def make_optimizers(model: PreTrainedModel, config: TrainingConfig) -> list[Optimizer]:
    """AdamW; or Muon for the matrices of the blocks and AdamW for the rest. Weight decay is on matrices alone."""
    matrices: list[Tensor] = []
    if config.optimizer == "muon":
        embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        outside = {*embeddings, model.get_output_embeddings().weight}
        matrices = [p for p in model.parameters() if p.requires_grad and p.dim() == 2 and p not in outside]
    rest = [p for p in model.parameters() if p.requires_grad and p not in set(matrices)]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)]
    if matrices:
        # Updates of the size of AdamW's, so that one learning rate suits both.
        optimizers.append(
            torch.optim.Muon(
                matrices, config.learning_rate, config.weight_decay, MOMENTUM, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


def fit(
    model: PreTrainedModel,
    lessons: Sequence[Lesson],
    config: TrainingConfig,
    evaluation: Callable[[PreTrainedModel], dict[str, float]],
    folder: Path,
    seed: int,
    progress: Callable[[State], None] = lambda _state: None,
) -> pd.DataFrame:
    """Train `model` in place on the lessons in their order; resume from the last saved state if there is one.

    Parameters
    ----------
    lessons
        The last one is the task's texts.
    evaluation
        Called every `config.evaluate_every` steps of the last lesson, `RARER` times less often before, and at the end
        of each lesson; what it returns joins the trajectory.
    folder
        Where the state to resume from is written at an evaluation, if that takes less than a second or less than
        `SAVING` of the time since the last one, and at the end; and at each evaluation of the last lesson the
        checkpoint ``step<n>/`` (safetensors; of an adapted model the adapter). If nothing is trained, ``step0/`` is the
        only one.
    progress
        Called after each step.

    Returns
    -------
    pandas.DataFrame
        The trajectory: one row an evaluation, `step` (from 1, over all lessons), `lesson`, `loss` (nats per token, the
        mean since the last row), `accuracy` (running, on the tokens asked for) and the evaluation's columns.
    """
    set_seed(seed)
    AcceleratorState._reset_state()  # of an earlier training in this process, which may have had another precision
    # What is not named here, accelerate takes from environment variables.
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
    )
    model.to(accelerator.device)
    optimizers = make_optimizers(model, config)
    at, rows = load_state(model, optimizers, folder)
    model, *optimizers = accelerator.prepare(model, *optimizers)
    losses: list[Tensor] = []
    rates: dict[str, float] = {}
    saved_at, took = time.monotonic(), 0.0
    if config.adaptation == "none":
        pretrained.save(model, folder / "step0")
        as_it_is = {"step": 0, "lesson": lessons[-1].name, "loss": math.nan, "accuracy": math.nan}
        return pd.DataFrame([as_it_is | evaluation(model)])
    model.train()
    while at.lesson < len(lessons):
        lesson, later = lessons[at.lesson], sum(lesson.steps for lesson in lessons[at.lesson + 1 :])
        is_last = at.lesson == len(lessons) - 1
        peak = (is_last and config.texts_learning_rate) or config.learning_rate
        factor = learning_rate_factor(at.total, lesson.steps - at.step + later, config)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        ids, labels = (tensor.to(accelerator.device) for tensor in lesson.batch(at.step))
        torch.manual_seed(seed * 1_000_003 + at.total)  # dropout is the same after an interruption
        if config.adaptation == "lora":  # the head of a pretrained model's vocabulary is a good part of the work
            logits, labels = asked_alone(model, ids, labels)
        else:
            logits = model(ids).logits
        loss = language_model_loss(logits, labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for optimizer in optimizers:
            optimizer.step()
        loss = loss.detach()
        losses.append(loss)
        accuracy = token_accuracy(logits, labels)
        if at.step > 0:
            accuracy = RUNNING * at.accuracy + (1 - RUNNING) * accuracy
        n_done = at.step + 1
        is_learnt = lesson.until is not None and n_done >= LEAST_STEPS and accuracy >= lesson.until
        is_over = is_learnt or n_done == lesson.steps
        at = Position(at.total + 1, at.lesson + 1) if is_over else Position(at.total + 1, at.lesson, n_done, accuracy)
        if is_over or n_done % (config.evaluate_every * (1 if is_last else RARER)) == 0:
            rates = evaluation(model)
            mean = float(torch.stack(losses).mean())
            rows.append({"step": at.total, "lesson": lesson.name, "loss": mean, "accuracy": accuracy, **rates})
            losses.clear()
            if is_last:
                pretrained.save(model, folder / f"step{at.total}")
            now = time.monotonic()
            if took < 1 or took < SAVING * (now - saved_at) or at.lesson == len(lessons):
                save_state(model, optimizers, folder, at, rows)
                saved_at = time.monotonic()
                took = saved_at - now
        at_most = at.total + later + (0 if is_over else lesson.steps - n_done)
        progress(State(lesson.name, at.total, at_most, float(loss), accuracy, rates))
    return pd.DataFrame(rows)


def asked_alone(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of those tokens alone that a text of the batch asks for, and the labels that belong to them."""
    is_asked = (labels != IGNORED).any(0)
    is_asked[0] = True  # no token stands before the first one: its place is that of the logits after the last
    columns = is_asked.nonzero().flatten()
    return model(ids, logits_to_keep=(columns - 1).roll(-1)).logits, labels[:, columns]


def language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy (nats per token) of each token given those before it; IGNORED labels do not count."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )


@torch.no_grad()
def token_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of the tokens asked for that are the most probable ones given those before them (0-1)."""
    asked = labels[:, 1:] != IGNORED
    return float((logits[:, :-1].argmax(-1) == labels[:, 1:])[asked].float().mean())


def choose_checkpoint(trajectory: pd.DataFrame, config: TrainingConfig) -> tuple[int, bool]:
    """The step of the checkpoint to analyse, and whether both behaviours are present in it.

    ``coexistence``: the first checkpoint in which each behaviour answers `BALANCED` of the conflicts or more, in every
    split that is watched; where there is none, the one whose rarer behaviour is most frequent.

    ``complete``: both are present if the accuracies on all inputs with one right answer reach `required_accuracy`.
    Among those checkpoints the last one is taken in which each behaviour answers `BALANCED` of the conflicts or more:
    the learning rate has come down then. Where none is so balanced, the one whose rarer behaviour is most frequent;
    where no checkpoint has both behaviours, the one whose lowest accuracy is highest.

    Checkpoints are those of the last lesson; of equals the later one is taken, but for the first of ``coexistence``.
    """
    checkpoints = trajectory[trajectory.lesson == trajectory.lesson.iloc[-1]]
    balance = checkpoints.rarer
    if config.checkpoint == "coexistence":
        present = balance >= BALANCED
        if present.any():
            return int(checkpoints.step[present.idxmax()]), True
        score = balance
    else:
        accuracies = checkpoints[[kind for kind in behavior.RIGHT_ANSWER if kind in checkpoints]]
        lowest = accuracies.min(axis=1).fillna(1.0)  # where there are no such inputs
        present = lowest >= config.required_accuracy
        score = balance[present].clip(upper=BALANCED) if present.any() else lowest
    best = score[score == score.max()].index[-1]
    return int(checkpoints.step[best]), bool(present.any())
