"""What a shift or an adapter does to plain English, which has nothing to do with the tasks.

Only a pretrained model reads English. Every token of a sentence is steered, as if it were an answer's.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from memgen import intervals
from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering.controls import controls
from memgen.steering.interventions import Intervention
from memgen.steering.outcomes import GENERATORS
from memgen.subject import Subject

#: Written for this purpose, one sentence a line, so that no model has read them.
SENTENCES = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()


def _log_p(model: PreTrainedModel, ids: Tensor, target: str = "", intervention: Intervention | None = None) -> Tensor:
    """The log-probabilities of the next token at all positions but the last [pos vocabulary], steered at all tokens."""
    with intervention.apply(model, target, 1.0, intervention.n_tokens) if intervention else contextlib.nullcontext():
        return model(ids).logits[0, :-1].float().log_softmax(-1)


@torch.no_grad()
def collateral(
    subject: Subject,
    base: PreTrainedModel | None,
    interventions: Mapping[str, Intervention],
    table: pd.DataFrame,
    config: AnalysisConfig,
    make_rng: Callable[[str], np.random.Generator],
) -> pd.DataFrame:
    """How well `SENTENCES` are predicted: unsteered, without the adapter, under each shift and its first control.

    `base` is the model without its adapter, if it has one; `table` that of neurons, for controls that need it.

    The columns are `method` (``none``: unsteered; ``adapter off``; an intervention), `control, target, measure, value,
    ci_low, ci_high, n` (sentences). Means over sentences of nats a token: `english_loss`, the mean of ``-log p(next
    token)``, and, of all but the unsteered model, `english_kl`, KL(unsteered || this).
    """
    # Under each method, control and target some passes, of which the mean counts.
    conditions: dict[tuple[str, str | None, str | None], list[functools.partial[Tensor]]]
    conditions = {("none", None, None): [functools.partial(_log_p, subject.model)]}
    if base is not None:
        conditions["adapter off", None, None] = [functools.partial(_log_p, base)]
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        rng, shift, goal = make_rng(f"english {GENERATORS[method]} {target}"), intervention.shift(target), NAMES[target]
        control, draw = next(iter(controls(method, table, intervention.site).items()))
        shifts = [{goal: draw(shift, rng)} for _ in range(config.random_draws)]
        drawn = [dataclasses.replace(intervention, **changed) for changed in shifts]  # type: ignore[arg-type]
        for name, made in ((None, [intervention]), (control, drawn)):
            passes = [functools.partial(_log_p, subject.model, target=goal, intervention=one) for one in made]
            conditions[method, name, goal] = passes
    found = np.zeros((2, len(conditions), len(SENTENCES)))
    for place, sentence in enumerate(SENTENCES):
        ids = torch.tensor([subject.tokenizer(sentence).input_ids], device=subject.device)
        after = [[log_p(ids) for log_p in passes] for passes in conditions.values()]
        ((unsteered,), *_) = after
        for i, draws in enumerate(after):
            found[0, i, place] = np.mean([-log_p.gather(1, ids[0, 1:, None]).mean().item() for log_p in draws])
            kl = [(unsteered.exp() * (unsteered - log_p)).sum(1).mean().item() for log_p in draws]
            found[1, i, place] = np.mean(kl)
    groups, rows = np.arange(len(SENTENCES)), []
    for measure, values in zip(("english_loss", "english_kl"), found, strict=True):
        for condition, of_sentences in zip(conditions, values, strict=True):
            if measure == "english_loss" or condition[0] != "none":
                rows.append([*condition, measure, *intervals.mean(of_sentences, groups)])
    return pd.DataFrame(rows, columns=["method", "control", "target", "measure", *intervals.Estimate._fields])
