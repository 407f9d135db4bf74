"""The questions to a model, asked of its earlier checkpoints."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from memgen import behavior, intervals
from memgen.behavior import NAMES, TARGETS
from memgen.carryover.matching import top_overlap
from memgen.carryover.transfer import SITE, apply_shifts, fit_candidates
from memgen.config import AnalysisConfig
from memgen.intervals import Estimate
from memgen.localization import differences
from memgen.subject import Subject

LEAST_INPUTS = 10  # behind a rate of steering
LEAST_PAIRS = 4  # behind a correlation


def neuron_correlations(subject: Subject, frame: pd.DataFrame, site: str) -> np.ndarray | None:
    """Pearson's r of each neuron with the behaviour, over the members of flip pairs: [neurons], layer by layer.

    None where there are fewer than `LEAST_PAIRS` pairs. The frame has the column `behavior`.
    """
    pairs = behavior.flip_pairs(frame, frame.behavior)
    if len(pairs) < LEAST_PAIRS:
        return None
    return differences.accumulate(subject, frame, pairs, [site])[site].nmd_and_r()["r"]


def at_checkpoint(
    subject: Subject,
    frames: Mapping[str, pd.DataFrame],
    final_r: np.ndarray | None,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Behaviour, steering and top neurons of a checkpoint.

    `frames` are the inputs of ``train`` and ``validation``; `final_r` are the correlations of the neurons of the
    analysed checkpoint (:func:`neuron_correlations`), None if it has none.

    The result is `measure, behavior, target, control, value, ci_low, ci_high, n`. `checkpoint_behavior_share`: of
    validation conflicts. `checkpoint_reached`: of those of the opposite behaviour, the share that a shift fitted here
    brings to `target`, and its `control` random_direction; left out for fewer than `LEAST_INPUTS` inputs.
    `checkpoint_top_shared`: the share of the analysed checkpoint's top neurons that are top neurons here.
    """
    measured = {}
    for split, frame in frames.items():
        conflicts = frame[frame.kind == "conflict"]
        labels = behavior.measure(subject, behavior.prepare(subject, conflicts)).behavior
        measured[split] = frame.assign(behavior=labels)
    shown = measured["validation"].dropna(subset="behavior")
    rows = []
    for label, name in NAMES.items():
        estimate = intervals.share(shown.behavior == label, shown.group)
        rows.append({"measure": "checkpoint_behavior_share", "behavior": name, **estimate._asdict()})
    shifts = {}  # with the first penalty: nothing is chosen
    for target in TARGETS:
        for candidate in fit_candidates(subject, measured["train"], target, analysis.norm_penalties[:1], analysis, rng):
            shifts[target] = candidate.shift
    steered = apply_shifts(subject, measured["validation"], shifts, analysis, rng)
    for row in steered.to_dict("records"):
        if row["n"] >= LEAST_INPUTS:
            reached = row | {"measure": "checkpoint_reached"}
            control = {"control": "random_direction", "value": row["best_control"], "ci_low": np.nan, "ci_high": np.nan}
            rows += [reached, reached | control]
    r = neuron_correlations(subject, measured["train"], SITE)
    if r is not None and final_r is not None:
        rows.append({"measure": "checkpoint_top_shared", "value": top_overlap(final_r, r), "n": len(r)})
    columns = ["measure", "behavior", "target", "control", *Estimate._fields]
    return pd.DataFrame(rows).reindex(columns=columns).astype({"n": int})
