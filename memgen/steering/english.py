"""What a shift or an adapter does to plain English, which has nothing to do with the tasks.

Only a pretrained model reads English. Every token of a sentence is steered, as if it were an answer's.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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

#: Written for this purpose, one sentence a line: no model has read them.
SENTENCES = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()


class _Condition(NamedTuple):
    """A model, and what steers it: nothing, or some interventions in turn, of which the mean counts."""

    method: str
    control: str | None
    target: str | None
    model: PreTrainedModel
    interventions: Sequence[Intervention | None] = (None,)

    def log_p(self, ids: Tensor) -> list[Tensor]:
        """The log-probabilities of the next token at all positions but the last [pos vocabulary], for each in turn."""
        found = []
        for intervention in self.interventions:
            with contextlib.ExitStack() as steered:
                if intervention and self.target:  # at all tokens
                    steered.enter_context(intervention.apply(self.model, self.target, 1.0, intervention.n_tokens))
                found.append(self.model(ids).logits[0, :-1].float().log_softmax(-1))
        return found


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

    The columns are `method` (``none``: unsteered; ``adapter off``; an intervention)`, control, target, measure, value,
    ci_low, ci_high, n` (sentences). Means over sentences of nats a token: `english_loss`, the mean of ``-log p(next
    token)``, and, of all but the unsteered model, `english_kl`, KL(unsteered || this).
    """
    conditions = [_Condition("none", None, None, subject.model)]
    if base is not None:
        conditions.append(_Condition("adapter off", None, None, base))
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        rng, shift, goal = make_rng(f"english {GENERATORS[method]} {target}"), intervention.shift(target), NAMES[target]
        control, draw = next(iter(controls(method, table, intervention.site).items()))
        shifts = [{goal: draw(shift, rng)} for _ in range(config.random_draws)]
        drawn = [dataclasses.replace(intervention, **changed) for changed in shifts]  # type: ignore[arg-type]
        conditions.append(_Condition(method, None, goal, subject.model, [intervention]))
        conditions.append(_Condition(method, control, goal, subject.model, drawn))
    found = np.zeros((2, len(conditions), len(SENTENCES)))
    for place, sentence in enumerate(SENTENCES):
        ids = torch.tensor([subject.tokenizer(sentence).input_ids], device=subject.device)
        after = [condition.log_p(ids) for condition in conditions]
        ((unsteered,), *_) = after
        for i, draws in enumerate(after):
            found[0, i, place] = np.mean([-log_p.gather(1, ids[0, 1:, None]).mean().item() for log_p in draws])
            kl = [(unsteered.exp() * (unsteered - log_p)).sum(1).mean().item() for log_p in draws]
            found[1, i, place] = np.mean(kl)
    groups, rows = np.arange(len(SENTENCES)), []
    for measure, values in zip(("english_loss", "english_kl"), found, strict=True):
        for condition, of_sentences in zip(conditions, values, strict=True):
            if measure == "english_loss" or condition.method != "none":
                about = {name: getattr(condition, name) for name in ("method", "control", "target")}
                rows.append(about | {"measure": measure} | intervals.mean(of_sentences, groups)._asdict())
    return pd.DataFrame(rows)
