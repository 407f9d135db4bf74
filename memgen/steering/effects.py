"""What a shift does beyond moving the behaviour: damage elsewhere, and a network without behaviour."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import behavior, intervals
from memgen.behavior import NAMES, RIGHT_ANSWER, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering.controls import controls
from memgen.steering.fitting import NeuronSet, fit
from memgen.steering.interventions import Intervention
from memgen.steering.outcomes import GENERATORS
from memgen.steering.passes import cache_residuals, passes, run_side_by_side
from memgen.steering.trials import Trials, by_group
from memgen.subject import Subject

MakeRng = Callable[[str], np.random.Generator]


def lost(subject: Subject, frame: pd.DataFrame, interventions: Mapping[str, Intervention]) -> pd.DataFrame:
    """Accuracy that shifts cost on inputs with one right answer, paired by input: `method, target, inputs, value, ...`.

    `inputs` is the kind of input, of those that `frame` has.
    """
    rows = []
    for kind, label in RIGHT_ANSWER.items():
        if not (frame.kind == kind).any():
            continue
        trials = Trials.on(subject, frame[frame.kind == kind])
        for method, intervention in interventions.items():
            losses = trials.lost(intervention.site, [intervention.shift(target) for target in TARGETS], label)
            for target, loss in zip(TARGETS, losses, strict=True):
                rows.append({"method": method, "target": NAMES[target], "inputs": kind, **loss._asdict()})
    return pd.DataFrame(rows)


def cut_before_answers(subject: Subject, frame: pd.DataFrame) -> list[behavior.Batch]:
    """The prompts without their last token, where what comes next is no answer but that token."""
    cut = pd.DataFrame({"input_ids": [ids[:-1] for ids in frame.input_ids]}, index=frame.index)
    cut["answer_memorization"] = [subject.tokenizer.decode([int(ids[-1])]) for ids in frame.input_ids]
    cut["answer_generalization"] = None
    return behavior.prepare(subject, cut, prefix=True)


@torch.no_grad()
def divergence(subject: Subject, batches: Sequence[behavior.Batch], site: str, shifts: Sequence[Tensor]) -> np.ndarray:
    """KL(unsteered || steered) of the next token after each prompt, in nats [shift, input], in the batches' order."""
    parts = []
    for cached in cache_residuals(subject, batches):
        part = np.zeros((len(shifts), len(cached.batch.rows)))
        for places, start in passes(shifts):
            unsteered = torch.zeros_like(shifts[0])
            together = torch.stack([unsteered, *(shifts[place] for place in places)]).to(subject.device)
            logits = run_side_by_side(subject, cached, site, together, start)
            rows = torch.arange(logits.shape[1], device=logits.device)
            log_p = logits[:, rows, cached.batch.prompt_length - 1].double().log_softmax(-1)
            part[places] = (log_p[0].exp() * (log_p[0] - log_p[1:])).sum(-1).cpu().numpy()
        parts.append(part)
    return np.concatenate(parts, axis=1)


def divergences(
    subject: Subject,
    frame: pd.DataFrame,
    interventions: Mapping[str, Intervention],
    table: pd.DataFrame,
    config: AnalysisConfig,
    make_rng: MakeRng,
) -> pd.DataFrame:
    """The mean :func:`divergence` under every intervention and its first control, where the next token is no answer.

    On ``config.sweep_rows`` inputs of `frame`; `table` is that of neurons, for controls that need it. The columns are
    `method, control, target, value, ci_low, ci_high` (nats)`, n`.
    """
    inputs = by_group(frame, config.sweep_rows, make_rng("unrelated"))
    batches = cut_before_answers(subject, inputs)
    groups = inputs.group[np.concatenate([batch.rows.to_numpy() for batch in batches])]
    rows = []
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        rng, shift = make_rng(f"unrelated {GENERATORS[method]} {target}"), intervention.shift(target)
        control, draw = next(iter(controls(method, table, intervention.site).items()))
        drawn = [draw(shift, rng) for _ in range(config.random_draws)]
        found = divergence(subject, batches, intervention.site, [shift, *drawn])
        for name, values in ((None, found[0]), (control, found[1:].mean(0))):
            about = {"method": method, "control": name, "target": NAMES[target]}
            rows.append(about | intervals.mean(values, groups)._asdict())
    return pd.DataFrame(rows)


def on_untrained(
    subject: Subject, train: pd.DataFrame, test: pd.DataFrame, site: str, config: AnalysisConfig, make_rng: MakeRng
) -> pd.DataFrame:
    """The share of all conflicts that a vector reaches which was fitted on all layers of a network with random weights.

    There is no behaviour to start from, so every conflict of `test` counts. The seed of the weights is drawn: the run's
    seed would give those that the trained model started from. The result has the columns `target, value, ..., n`.
    """
    untrained = subject.untrained(int(make_rng("untrained").integers(2**31)))
    inputs = by_group(train, config.fit_rows, make_rng("untrained"))
    trials = Trials.on(untrained, test)
    mask = torch.ones(subject.shape(site), dtype=torch.bool)
    everywhere = NeuronSet("untrained", "all", mask, config.norm_penalties[0])
    rows = []
    for target in TARGETS:
        (fitted,) = fit(untrained, inputs, site, [everywhere], target, config)
        (after,) = trials.run(site, [fitted.shift])
        estimate = intervals.share(after.behavior == target, trials.groups[after.index])
        rows.append({"target": NAMES[target], **estimate._asdict()})
    return pd.DataFrame(rows)
