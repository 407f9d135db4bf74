"""The gradient-guided shift: vectors fitted by gradient descent, several at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import behavior
from memgen.behavior import NAMES, RIGHT_ANSWER
from memgen.config import AnalysisConfig
from memgen.steering.passes import at_once, first_layer, run_side_by_side
from memgen.steering.shifts import Candidate, layer_masks
from memgen.steering.trials import by_group, showing_opposite
from memgen.subject import Subject

SINGLE_ANSWER_SHARE = 0.5  # of the conflicts: at most as many inputs with one right answer are fitted on beside them


class NeuronSet(NamedTuple):
    """The neurons (boolean [n_layer, d]) that a fitted shift may change, and its penalty on the norm."""

    method: str
    name: str
    mask: Tensor
    penalty: float


def layer_sets(method: str, shape: tuple[int, int], penalties: Sequence[float], n_single: int) -> list[NeuronSet]:
    """Single layers (:func:`memgen.steering.shifts.layer_masks`), with the first penalty, and all, with each."""
    return [
        NeuronSet(method, name, mask, penalty)
        for name, mask in layer_masks(*shape, n_single).items()
        for penalty in (penalties if name == "all" else penalties[:1])
    ]


def inputs_to_fit(
    frame: pd.DataFrame, labels: pd.Series, target: int, n: int, rng: np.random.Generator
) -> pd.DataFrame:
    """What a shift is fitted on: conflicts to turn, and inputs with one right answer that it shall leave right.

    At most `n` conflicts of a frame, those whose behaviour (`labels`) is the opposite of `target`; and, of inputs whose
    one right answer is the target's, at most the share `SINGLE_ANSWER_SHARE` of their number.
    """
    conflicts = by_group(showing_opposite(frame, labels, target), n, rng)
    single_answer = frame[frame.kind.map(RIGHT_ANSWER) == target]
    beside = by_group(single_answer, int(SINGLE_ANSWER_SHARE * len(conflicts)), rng)
    return pd.concat([conflicts, beside]).sort_index()


def fit(
    subject: Subject, frame: pd.DataFrame, site: str, sets: Sequence[NeuronSet], target: int, config: AnalysisConfig
) -> list[Candidate]:
    """Fit shifts by gradient descent, each on its set of neurons and with its penalty, all on the same inputs.

    Each minimises the mean of ``-log p(target answer)`` over the inputs (`frame`) plus its penalty times its norm, with
    Adam, over batches in turn; `config` has the batch size, steps and learning rate. No shift depends on the others.
    The model's parameters stay as they are. A ValueError says that no input has an answer by the target behaviour, or
    that a mask has another shape.
    """
    only_target = frame.assign(**{f"answer_{NAMES[-target]}": None})  # a sum beside a tag is a dozen tokens
    batches = behavior.batches(subject, only_target, prefix=True, batch_size=config.fit_batch_size)
    cached = [behavior.cache_residuals(subject, batch) for batch in batches]
    if not cached:
        raise ValueError(f"No input has an answer by {NAMES[target]}.")
    allowed = torch.stack([part.mask for part in sets]).to(subject.device).float()
    start = min(first_layer(mask) for mask in allowed)
    penalty = torch.tensor([part.penalty for part in sets], device=subject.device)
    vectors = torch.zeros_like(allowed, requires_grad=True)
    optimizer = torch.optim.Adam([vectors], lr=config.fit_learning_rate)
    for step in range(config.fit_steps):
        batch = cached[step % len(cached)]
        vectors.grad = torch.zeros_like(vectors)
        for part in torch.arange(len(sets)).split(at_once(batch)):  # so that memory holds the states of one pass
            shifts = vectors[part] * allowed[part]
            logits = run_side_by_side(subject, batch, site, shifts, start)
            losses = [-behavior.score(of_trial, batch)[NAMES[target]][0].mean() for of_trial in logits]
            norms = (shifts.square().sum((1, 2)) + 1e-12).sqrt()
            vectors.grad += torch.autograd.grad((torch.stack(losses) + penalty[part] * norms).sum(), vectors)[0]
        for group in optimizer.param_groups:
            group["lr"] = config.fit_learning_rate * (1 - 0.9 * step / config.fit_steps)
        optimizer.step()
    fitted = (vectors * allowed).detach().cpu()
    return [
        Candidate(part.method, part.name, shift, penalty=part.penalty) for part, shift in zip(sets, fitted, strict=True)
    ]
