"""What the answers are that a model gives before and under a shift, behaviours and others alike."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import behavior, intervals
from memgen.behavior import NAMES, TARGETS
from memgen.steering.interventions import Intervention
from memgen.steering.passes import CachedBatch, cache_residuals, passes, run_side_by_side
from memgen.subject import Subject


def category(
    token: str, prompt: Collection[str], memorized: Collection[str], inferred: Collection[str], answers: Collection[str]
) -> str:
    """What the first token of an answer is: `memorized` or `inferred` (one of these tokens), or another answer.

    `prompt` are the tokens of the prompt, `answers` all tokens that begin an answer to any input. A word that is an
    answer stands in the prompt or not; tags and numbers are told apart by their form.
    """
    if token in memorized and token in inferred:
        return "either"
    if token in inferred:
        return "inferred"
    where = (", in the prompt" if token in prompt else ", not in the prompt") if token.isalpha() else ""
    if token in memorized:
        return f"memorized{where}"
    if token.startswith("<mem-"):
        return "another tag"
    if any(character.isdigit() for character in token):
        return "another number"
    return f"another answer{where}" if token in answers else "no answer"


def prompts_alone(subject: Subject, frame: pd.DataFrame) -> list[CachedBatch]:
    """The prompts of a frame without their answers, to be run up to the first token of an answer."""
    last = frame.input_ids.map(lambda ids: subject.tokenizer.decode([int(ids[-1])]))
    asked = frame.assign(answer_memorization=last, answer_generalization=None)  # of one token, which is not run
    return cache_residuals(subject, behavior.prepare(subject, asked, prefix=True))


@torch.no_grad()
def first_tokens(subject: Subject, cached: Sequence[CachedBatch], site: str, shifts: Sequence[Tensor]) -> np.ndarray:
    """The first token of the greedy answer under each shift [n_layer, d]: ids [shift, input], in the batches' order."""
    parts = []
    for inputs in cached:
        part = np.zeros((len(shifts), len(inputs.batch.rows)), dtype=int)
        for places, start in passes(shifts):
            together = torch.stack([shifts[place] for place in places]).to(subject.device)
            logits = run_side_by_side(subject, inputs, site, together, start)
            rows = torch.arange(logits.shape[1], device=logits.device)
            part[places] = logits[:, rows, inputs.batch.prompt_length - 1].argmax(-1).cpu()
        parts.append(part)
    return np.concatenate(parts, axis=1)


def shares(
    subject: Subject, frame: pd.DataFrame, labels: pd.Series, interventions: Mapping[str, Intervention]
) -> pd.DataFrame:
    """The share of each :func:`category`: `method, target, category, value, ci_low, ci_high, n`.

    Method ``none``: all conflicts of a frame without a shift. Others: those whose behaviour (`labels`) was the opposite
    of the target.
    """
    tokens = subject.tokenizer.convert_ids_to_tokens
    prompts = [set(map(str, tokens(ids.tolist()))) for ids in frame.input_ids]
    begins = {
        name: [
            {str(tokens(answer[0])) for answer in options} for options in behavior.alternatives(subject, frame[column])
        ]
        for name, column in ((NAMES[target], f"answer_{NAMES[target]}") for target in TARGETS)
    }
    answers = set().union(*begins["memorization"], *begins["generalization"])
    cached, parts = prompts_alone(subject, frame), []

    def add(given: np.ndarray, is_counted: np.ndarray, **about: str | None) -> None:
        inputs = zip(
            map(str, tokens(given.tolist())), prompts, begins["memorization"], begins["generalization"], strict=True
        )
        kinds = pd.Series([category(*one, answers) for one in inputs], frame.index)
        is_kind = pd.get_dummies(kinds[is_counted]).astype(float).assign(group=frame.group[is_counted], **about)
        parts.append(is_kind.melt(["group", *about], var_name="category"))

    (unsteered,) = first_tokens(subject, cached, "resid_post", [torch.zeros(subject.shape("resid_post"))])
    add(unsteered, np.full(len(frame), True), method="none", target=None)
    for method, intervention in interventions.items():
        steered = first_tokens(subject, cached, intervention.site, [intervention.shift(target) for target in TARGETS])
        for target, given in zip(TARGETS, steered, strict=True):
            opposite = (labels[frame.index] == -target).to_numpy()
            add(given, opposite, method=method, target=NAMES[target])
    return intervals.estimate_by(pd.concat(parts), ["method", "target", "category"])
