"""What a shift does beyond moving the behaviour: damage elsewhere, and a network without behaviour."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import intervals
from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering import trials
from memgen.steering.answers import next_tokens
from memgen.steering.controls import controls
from memgen.steering.fitting import NeuronSet, fit
from memgen.steering.interventions import Intervention
from memgen.steering.outcomes import GENERATORS
from memgen.steering.trials import Trials, by_group, on_single_answers
from memgen.subject import Subject

MakeRng = Callable[[str], np.random.Generator]


def lost(subject: Subject, frame: pd.DataFrame, interventions: Mapping[str, Intervention]) -> pd.DataFrame:
    """Accuracy that shifts cost on inputs with one right answer, paired by input: `method, target, inputs, value, ...`.

    `inputs` is the kind of input, of those that `frame` has.
    """
    single_answer, parts = on_single_answers(subject, frame), []
    for method, intervention in interventions.items():
        losses = trials.lost(single_answer, intervention.site, [intervention.shift(target) for target in TARGETS])
        parts.append(losses.assign(method=method, target=[NAMES[TARGETS[trial]] for trial in losses.trial]))
    return pd.concat(parts, ignore_index=True).drop(columns="trial")


def divergence(subject: Subject, frame: pd.DataFrame, site: str, shifts: Sequence[Tensor]) -> np.ndarray:
    """KL(unsteered || steered) of the prompts' own last token, where no answer is due: nats [shift, input]."""
    cut = frame.assign(input_ids=[ids[:-1] for ids in frame.input_ids])
    found = np.zeros((len(shifts), len(frame)))
    for inputs, places, logits in next_tokens(subject, cut, site, shifts, unsteered=True):
        log_p = logits.cpu().double().log_softmax(-1)  # not every device has double precision
        found[np.array(places)[:, None], inputs] = (log_p[0].exp() * (log_p[0] - log_p[1:])).sum(-1)
    return found


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
    `method, control, target, value, ci_low, ci_high` (nats), `n`.
    """
    inputs = by_group(frame, config.sweep_rows, make_rng("unrelated"))
    rows = []
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        rng, shift = make_rng(f"unrelated {GENERATORS[method]} {target}"), intervention.shift(target)
        control, draw = next(iter(controls(method, table, intervention.site).items()))
        drawn = [draw(shift, rng) for _ in range(config.random_draws)]
        found = divergence(subject, inputs, intervention.site, [shift, *drawn])
        for name, values in ((None, found[0]), (control, found[1:].mean(0))):
            about = {"method": method, "control": name, "target": NAMES[target]}
            rows.append(about | intervals.mean(values, inputs.group)._asdict())
    return pd.DataFrame(rows)


def on_untrained(
    subject: Subject, train: pd.DataFrame, test: pd.DataFrame, site: str, config: AnalysisConfig, make_rng: MakeRng
) -> pd.DataFrame:
    """The share of all conflicts that a vector reaches which was fitted on all layers of a network with random weights.

    There is no behaviour to start from, so conflicts of `test` count whatever they show, at most ``config.test_rows``.
    The seed of the weights is drawn: the run's seed would give those that the trained model started from. The result
    has the columns `target, value, ..., n`.
    """
    untrained = subject.untrained(int(make_rng("untrained").integers(2**31)))
    inputs = by_group(train, config.fit_rows, make_rng("untrained"))
    on_test = Trials.on(untrained, by_group(test, config.test_rows, make_rng("untrained test")))
    mask = torch.ones(subject.shape(site), dtype=torch.bool)
    everywhere = NeuronSet("untrained", "all", mask, config.norm_penalties[0])
    fitted = [fit(untrained, inputs, site, [everywhere], target, config)[0].shift for target in TARGETS]
    rows = []
    for target, after in zip(TARGETS, on_test.run(site, fitted), strict=True):
        estimate = intervals.share(after.behavior == target, test.group[after.index])
        rows.append({"target": NAMES[target], **estimate._asdict()})
    return pd.DataFrame(rows)
