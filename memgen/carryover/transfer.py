"""Apply to one part of the inputs a shift that was made on another: fitted, or by the study's formula.

A *part* is a form of the bound answers or a task; all parts are inputs of one model. Everything is made on a part's
training groups and chosen on its validation groups, as in steering, by the same functions; the test groups are those of
the part that it is applied to.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import behavior
from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig, fraction_to_count
from memgen.intervals import Estimate
from memgen.localization import differences
from memgen.steering.controls import Control, random_direction, random_neurons
from memgen.steering.fitting import NeuronSet, fit, inputs_to_fit
from memgen.steering.shifts import Candidate, study_candidates
from memgen.steering.sweep import choose, sweep
from memgen.steering.trials import Trials, showing_opposite
from memgen.subject import Subject

SITE = "mlp.hook_post"
METHOD = "fitted_mlp"
CONTROLS = {"random_direction": random_direction}
STUDY_SITE = "resid_post"
STUDY_CONTROLS = {"random_neurons": random_neurons} | CONTROLS
LEAST_PAIRS = 4  # behind the study's shift

#: For each split the inputs of a part with their `behavior`, both conflicts and inputs with one right answer.
Part = Mapping[str, pd.DataFrame]


def parts_by(frames: Part, column: str) -> dict[str, Part]:
    """The parts that a column names. Rows without a name, as those without a bound entity, belong to every part."""
    names = sorted(frames["train"][column].dropna().unique(), reverse=True)
    return {
        name: {split: frame[(frame[column] == name) | frame[column].isna()] for split, frame in frames.items()}
        for name in names
    }


def fit_candidates(
    subject: Subject,
    frame: pd.DataFrame,
    target: int,
    penalties: Sequence[float],
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> list[Candidate]:
    """Fit a shift of all neurons at `SITE` with each norm penalty; none where no input shows the opposite behaviour."""
    if showing_opposite(frame, frame.behavior, target).empty:
        return []
    everywhere = torch.ones(subject.shape(SITE), dtype=torch.bool)
    sets = [NeuronSet(METHOD, "all", everywhere, penalty) for penalty in penalties]
    inputs = inputs_to_fit(frame, frame.behavior, target, analysis.fit_rows, rng)
    return fit(subject, inputs, SITE, sets, target, analysis)


def choose_shifts(
    subject: Subject, part: Part, analysis: AnalysisConfig, rng: np.random.Generator
) -> dict[int, Tensor]:
    """Fit a shift [n_layer, d] to each target; penalty and dose are :func:`memgen.steering.sweep.choose`'s choice.

    It decides on the part's validation groups. A target whose opposite no training or no validation input shows is left
    out.
    """
    shifts = {}
    validation = part["validation"]
    for target in TARGETS:
        candidates = fit_candidates(subject, part["train"], target, analysis.norm_penalties, analysis, rng)
        if candidates and len(showing_opposite(validation, validation.behavior, target)):
            trials = Trials.make(subject, validation, validation.behavior, target, analysis, rng)
            result = sweep({target: trials}, {target: candidates}, SITE, CONTROLS, rng, analysis.doses)
            shifts[target] = result.shifts[NAMES[target], choose(result.tried, target).trial]
    return shifts


def study_shifts(subject: Subject, part: Part, analysis: AnalysisConfig, rng: np.random.Generator) -> dict[int, Tensor]:
    """The study's shift [n_layer, d] to each target, from the part's flip pairs; N and alpha by steering's rule.

    They are chosen beside `STUDY_CONTROLS`. There is none for fewer than `LEAST_PAIRS` pairs, nor to a target whose
    opposite no validation input shows.
    """
    train, validation, shifts = part["train"], part["validation"], {}
    pairs = behavior.flip_pairs(train, train.behavior)
    if len(pairs) < LEAST_PAIRS:
        return {}
    statistics = differences.accumulate(subject, train, pairs, [STUDY_SITE])[STUDY_SITE]
    neurons = differences.by_neuron(STUDY_SITE, subject.n_layer, statistics.nmd_and_r())
    counts = sorted({fraction_to_count(fraction, len(neurons)) for fraction in analysis.top_fractions})
    for target in TARGETS:
        if len(showing_opposite(validation, validation.behavior, target)):
            trials = Trials.make(subject, validation, validation.behavior, target, analysis, rng)
            shape = subject.shape(STUDY_SITE)
            candidates = study_candidates(neurons, STUDY_SITE, counts, analysis.alphas, shape, target)
            result = sweep({target: trials}, {target: candidates}, STUDY_SITE, STUDY_CONTROLS, rng)
            shifts[target] = result.shifts[NAMES[target], choose(result.tried, target).trial]
    return shifts


def apply_shifts(
    subject: Subject,
    frame: pd.DataFrame,
    shifts: Mapping[int, Tensor],
    analysis: AnalysisConfig,
    rng: np.random.Generator,
    site: str = SITE,
    controls: Mapping[str, Control] = CONTROLS,
) -> pd.DataFrame:
    """What shifts do to all inputs of a frame that show the opposite behaviour.

    For each target that has such inputs: `target` (name), `value, ci_low, ci_high, n` (the share that reaches it), and
    the other measures of :class:`memgen.steering.sweep.Sweep`.
    """
    all_rows = analysis.model_copy(update={"sweep_rows": len(frame), "sweep_draws": analysis.random_draws})
    parts = []
    for target, shift in shifts.items():
        if len(showing_opposite(frame, frame.behavior, target)):
            trials = Trials.make(subject, frame, frame.behavior, target, all_rows, rng)
            candidate = Candidate(METHOD, "applied", shift)
            tried = sweep({target: trials}, {target: [candidate]}, site, controls, rng).tried
            parts.append(tried[tried.control.isna()])
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts)
    reached = rows.loc[rows.measure == "reached", ["target", *Estimate._fields]]
    others = rows[rows.measure != "reached"].pivot(index="target", columns="measure", values="value")
    return reached.merge(others, on="target")


def shift_matrix(
    subject: Subject,
    parts: Mapping[str, Part],
    analysis: AnalysisConfig,
    rng: np.random.Generator,
    make_shifts: Callable[..., dict[int, Tensor]] = choose_shifts,
) -> pd.DataFrame:
    """Shifts made on each part, applied to each: `source, destination`, and the columns of :func:`apply_shifts`.

    `make_shifts` is :func:`choose_shifts` or :func:`study_shifts`.
    """
    where = (STUDY_SITE, STUDY_CONTROLS) if make_shifts is study_shifts else (SITE, CONTROLS)
    tables = []
    for source, part in parts.items():
        shifts = make_shifts(subject, part, analysis, rng)
        for destination, other in parts.items():
            applied = apply_shifts(subject, other["test"], shifts, analysis, rng, *where)
            tables.append(applied.assign(source=source, destination=destination))
    return pd.concat(tables, ignore_index=True)
