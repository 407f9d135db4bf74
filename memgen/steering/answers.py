"""What the answers are that a model gives before and under a shift, behaviours and others alike."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import activations, behavior, intervals
from memgen.behavior import NAMES, OTHER, TARGETS
from memgen.steering.interventions import Intervention
from memgen.steering.passes import each_pass
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


def next_tokens(
    subject: Subject, frame: pd.DataFrame, site: str, shifts: Sequence[Tensor], unsteered: bool = False
) -> Iterator[tuple[np.ndarray, list[int], Tensor]]:
    """What comes next after a frame's prompts under each shift [n_layer, d].

    Yields the places of inputs in the frame, those of shifts, and their logits [trial batch vocabulary]; with
    `unsteered`, those of no shift come first.
    """
    last = frame.input_ids.map(lambda ids: subject.tokenizer.decode([int(ids[-1])]))
    asked = frame.assign(answer_memorization=last, answer_generalization=None)  # of one token, which is not run
    batches = behavior.batches(subject, asked, prefix=True)
    for batch, places, logits in each_pass(subject, batches, site, shifts, unsteered):
        rows = torch.arange(len(batch.rows), device=logits.device)
        of_next = logits[:, rows, batch.prompt_length - 1]
        yield frame.index.get_indexer(batch.rows), places, activations.finite(of_next, "the logits")


def first_tokens(subject: Subject, frame: pd.DataFrame, site: str, shifts: Sequence[Tensor]) -> np.ndarray:
    """The first token of the greedy answer under each shift [n_layer, d]: ids [shift, input]."""
    tokens = np.zeros((len(shifts), len(frame)), dtype=int)
    for inputs, places, logits in next_tokens(subject, frame, site, shifts):
        tokens[np.array(places)[:, None], inputs] = logits.argmax(-1).cpu()
    return tokens


def shares(
    subject: Subject, frame: pd.DataFrame, labels: pd.Series, interventions: Mapping[str, Intervention]
) -> pd.DataFrame:
    """The share of each :func:`category`: `method, target, category, value, ci_low, ci_high, n`.

    Method ``none``: all conflicts of a frame without a shift. Others: those whose behaviour (`labels`) was the opposite
    of the target.
    """
    tokens = subject.tokenizer.convert_ids_to_tokens
    prompts = [set(map(str, tokens(ids.tolist()))) for ids in frame.input_ids]
    memorized, inferred = (
        [{str(tokens(answer[0])) for answer in options} for options in behavior.alternatives(subject, column)]
        for column in (frame.answer_memorization, frame.answer_generalization)
    )
    answers = set().union(*memorized, *inferred)
    shifts: dict[str, dict[tuple[str, int], Tensor]]
    shifts = {"resid_post": {("none", OTHER): torch.zeros(subject.shape("resid_post"))}}
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        shifts.setdefault(intervention.site, {})[method, target] = intervention.shift(target)
    # The shifts of a site run together: what they have in common is most of the work.
    given: dict[tuple[str, int], np.ndarray] = {}
    for site, of_site in shifts.items():
        given |= dict(zip(of_site, first_tokens(subject, frame, site, list(of_site.values())), strict=True))
    parts = []
    for method, target in [("none", OTHER), *itertools.product(interventions, TARGETS)]:
        inputs = zip(map(str, tokens(given[method, target].tolist())), prompts, memorized, inferred, strict=True)
        kinds = pd.Series([category(*one, answers) for one in inputs], frame.index)
        if target != OTHER:
            kinds = kinds[labels[frame.index] == -target]
        about = {"method": method, "target": NAMES[target] if target != OTHER else None}
        is_kind = pd.get_dummies(kinds).astype(float).assign(group=frame.group[kinds.index], **about)
        parts.append(is_kind.melt(["group", *about], var_name="category"))
    return intervals.estimate_by(pd.concat(parts), ["method", "target", "category"])
