"""Apply to one part of the inputs what was fitted on another: shifts and probes.

A *part* is a form of the bound answers or a task; all parts are inputs of one model. Everything is fitted on a part's
training groups and chosen on its validation groups; the test groups are those of the part that it is applied to.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior, prediction, statistics, steering
from memgen.behavior import NAMES, OTHER
from memgen.carryover import matching
from memgen.config import AnalysisConfig

SITE = "mlp.hook_post"  # of the shifts: the hidden layers of the MLPs
PROBE_SITE = "resid_post"

#: For each split the conflict inputs of a part, with their `behavior`.
Part = Mapping[str, pd.DataFrame]


def _everywhere(model: PreTrainedModel) -> Tensor:
    """All neurons at `SITE`: boolean [n_layer, d]."""
    return torch.ones(len(activations.blocks(model)), activations.width(model, SITE), dtype=torch.bool)


def _learn(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> dict[int, list[behavior.Batch]]:
    """For each target that has any, prepared inputs of the opposite behaviour to fit on."""
    result = {}
    for target in steering.TARGETS:
        rows = steering.by_group(frame[frame.behavior == -target], analysis.fit_rows, rng)
        if len(rows):
            result[target] = behavior.prepare(model, rows, tokenizer, analysis.fit_batch_size, keep=analysis.n_tokens)
    return result


def fit_shifts(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> dict[int, Tensor]:
    """The gradient-guided shift [n_layer, d] of all neurons at `SITE` to each target; nothing is chosen.

    It is fitted on inputs of the opposite behaviour with the first of the norm penalties; a target without any such
    input is left out.
    """
    steps = (analysis.fit_steps, analysis.fit_learning_rate, analysis.norm_penalties[0])
    return {
        target: steering.fit_shift(model, learn, SITE, _everywhere(model), target, analysis.n_tokens, *steps)
        for target, learn in _learn(model, frame, tokenizer, analysis, rng).items()
    }


def choose_shifts(
    model: PreTrainedModel,
    part: Part,
    tokenizer: PreTrainedTokenizerFast,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> dict[int, Tensor]:
    """The gradient-guided shift [n_layer, d] to each target: norm penalty and strength are chosen on validation groups.

    The rule is that of :func:`memgen.steering.choose`. A target whose opposite no training or no validation input shows
    is left out.
    """
    candidates = steering.mask_candidates({"all": _everywhere(model)}, analysis.norm_penalties)
    result, validation = {}, part["validation"]
    for target, learn in _learn(model, part["train"], tokenizer, analysis, rng).items():
        if not (validation.behavior == -target).any():
            continue
        trials = steering.opposite_trials(model, validation, validation.behavior, target, tokenizer, analysis, rng)
        controls = {"random control": steering.random_direction}
        tried, shifts = steering.sweep_fitted(
            {target: trials}, {target: learn}, SITE, {target: candidates}, analysis, controls, rng
        )
        best = steering.choose(tried, target, analysis)
        result[target] = best.strength * shifts[target, best.candidate]
    return result


class _Inputs:
    """Inputs of the behaviour opposite to a target, run under shifts."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: pd.DataFrame,
        target: int,
        tokenizer: PreTrainedTokenizerFast,
        analysis: AnalysisConfig,
    ):
        self.model, self.rows, self.target, self.n_tokens = model, rows, target, analysis.n_tokens
        self.prepared = behavior.prepare(model, rows, tokenizer, analysis.batch_size, keep=analysis.n_tokens)

    def run(self, shift: Tensor) -> pd.DataFrame:
        """Whether the behaviour becomes the target or another: `to_target, to_other`, 0 or 1 for each row."""
        context = steering.adding(self.model, SITE, shift.to(self.model.device), self.n_tokens)
        after = behavior.measure(self.model, self.prepared, context).behavior[self.rows.index]
        return pd.DataFrame({"to_target": after == self.target, "to_other": after == OTHER}).astype(float)

    def control(self, shift: Tensor, draws: int, rng: np.random.Generator) -> np.ndarray:
        """How often each input [rows] reaches the target under random directions of the shift's norm in each layer."""
        drawn = [self.run(steering.random_direction(shift, rng)).to_target for _ in range(draws)]
        return np.mean(drawn, axis=0)


def apply_shifts(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    shifts: Mapping[int, Tensor],
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """What shifts do to the inputs of a frame that show the opposite behaviour.

    Returns
    -------
    pandas.DataFrame
        For each target that has such inputs: `target` (name)`, value` (share that reaches it)`, low, high` (clustered
        by group)`, n, to_other, control` (share under random directions of the same norm)`, net`.
    """
    rows = []
    for target, shift in shifts.items():
        own = frame[frame.behavior == -target]
        if own.empty:
            continue
        inputs = _Inputs(model, own, target, tokenizer, analysis)
        moved = inputs.run(shift)
        reached = statistics.clustered_mean(moved.to_target, own.group, rng, n_resamples=analysis.n_resamples)
        control = float(inputs.control(shift, analysis.random_draws, rng).mean())
        about = {"target": NAMES[target], **reached._asdict(), "to_other": moved.to_other.mean()}
        rows.append(about | {"control": control, "net": reached.value - control})
    return pd.DataFrame(rows, columns=["target", "value", "low", "high", "n", "to_other", "control", "net"])


def shift_matrix(
    model: PreTrainedModel,
    parts: Mapping[str, Part],
    tokenizer: PreTrainedTokenizerFast,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Shifts fitted and chosen on each part, applied to each: `source, destination`, and as of :func:`apply_shifts`."""
    tables = []
    for source, part in parts.items():
        shifts = choose_shifts(model, part, tokenizer, analysis, rng)
        for destination, other in parts.items():
            told = apply_shifts(model, other["test"], tokenizer, shifts, analysis, rng)
            told.insert(0, "source", source)
            told.insert(1, "destination", destination)
            tables.append(told)
    return pd.concat(tables, ignore_index=True)


def probe_matrix(
    model: PreTrainedModel,
    parts: Mapping[str, Part],
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
    n_resamples: int,
    n_rows: int = 1024,
) -> pd.DataFrame:
    """Probes of the residual stream fitted on each part, tested on each, on at most `n_rows` inputs of each split.

    Returns
    -------
    pandas.DataFrame
        `source, destination, layer, kind` (of the probe that is best on the source's validation groups)`, majority`
        (the share of the destination's more frequent behaviour)`, n, accuracy, auroc` and their intervals, as from
        :func:`memgen.prediction.evaluate`.
    """
    inputs = {
        name: {split: _read(model, frame, tokenizer, n_rows, rng) for split, frame in part.items()}
        for name, part in parts.items()
    }
    rows = []
    for source, own in inputs.items():
        if not own["train"].can_be_probed():
            continue
        probes = prediction.fit_probes(own["train"])
        best = max(probes, key=lambda probe: probe.right(own["validation"]).mean())  # the first of equals
        for destination, other in inputs.items():
            test = other["test"]
            about = {"source": source, "destination": destination, "layer": best.layer, "kind": best.baseline}
            about["majority"] = max((test.labels == target).mean() for target in steering.TARGETS)
            rows.append(about | prediction.evaluate(best.score(test), test.labels, test.groups, rng, n_resamples))
    return pd.DataFrame(rows)


def _read(
    model: PreTrainedModel, frame: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, n: int, rng: np.random.Generator
) -> prediction.Inputs:
    """At most `n` inputs that show one of the two behaviours, with their states."""
    own = frame[frame.behavior != OTHER]
    own = own.sample(min(n, len(own)), random_state=rng)
    return prediction.Inputs(own, matching.states(model, own, tokenizer, [PROBE_SITE]))
