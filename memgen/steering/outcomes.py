"""What becomes of test inputs under interventions and their controls, with intervals clustered by group.

A row of ``outcomes.parquet`` is an input under the shift of a method (`control` is missing), or under a draw of one of
its controls: `input, method, control, draw, norm, target` (name)`, behavior_before, behavior_after, log_odds_before,
log_odds_after`. Rates are shares of the inputs whose behaviour was the opposite of the target.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from memgen import behavior, intervals
from memgen.behavior import LABELS, NAMES, TARGETS
from memgen.steering.controls import BASELINES, controls
from memgen.steering.interventions import Intervention
from memgen.steering.trials import RATES, Trials, by_group, effects

LEAST_INPUTS = 5  # of an answer whose rate is reported
WORST_SHARE = 0.1  # of the groups: those with the lowest rates
SHIFT = ["population", "method", "target"]
#: The names of random generators: those of the first edition, so that its draws can be made again.
GENERATORS = {
    "study": "study",
    "study_shuffled": "shuffled NMD",
    "mean_difference": "difference in means",
    "fitted_resid": "gradient-guided",
    "fitted_mlp": "gradient-guided MLP",
    "fitted_mlp_tenth": "gradient-guided MLP 10%",
    "fitted_random_tenth": "fitted on random neurons",
}


def to_test(frame: pd.DataFrame, labels: pd.Series, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most `n` conflicts of a frame, as evenly from the groups as can be, and all members of flip pairs.

    `labels` is the behaviour on them. `in_sample` and `in_flip_pair` tell why a row was taken.
    """
    pairs = behavior.flip_pairs(frame, labels)
    members = frame.index.isin(pd.concat([pairs.memorization, pairs.generalization]))
    frame = frame.assign(in_sample=frame.index.isin(by_group(frame, n, rng).index), in_flip_pair=members)
    return frame[frame.in_sample | frame.in_flip_pair]


def on_test(
    trials: Trials,
    interventions: Mapping[str, Intervention],
    controlled: Collection[str],
    table: pd.DataFrame,
    make_rng: Callable[[str], np.random.Generator],
) -> pd.DataFrame:
    """Outcomes of every intervention and, for the `controlled` methods, of each draw of their controls.

    The study's shift has its random baseline beside them. `table` is that of neurons, for the least correlated ones.
    """
    parts = []
    for method, intervention in interventions.items():
        kinds = controls(method, table, intervention.site) if method in controlled else {}
        kinds |= BASELINES if kinds and method == "study" else {}
        for target in TARGETS:
            rng, shift = make_rng(f"controls of {GENERATORS[method]} {target}"), intervention.shift(target)
            drawn = [(name, draw, make(shift, rng)) for name, make in kinds.items() for draw in range(trials.n_draws)]
            shifts = [(None, 0, shift), *drawn]
            after = trials.run(intervention.site, [vectors for _, _, vectors in shifts])
            for (name, draw, vectors), outcome in zip(shifts, after, strict=True):
                about = {"method": method, "control": name, "draw": draw, "norm": float(vectors.norm())}
                parts.append(_rows(trials.before, outcome).assign(**about, target=NAMES[target]))
    return pd.concat(parts, ignore_index=True)


def _rows(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    columns = ["behavior", "log_odds"]
    both = before[columns].add_suffix("_before").join(after[columns].add_suffix("_after"))
    return both.rename_axis("input").reset_index()


def by_population(outcomes: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """The outcomes of the sample of all conflicts, and those of the members of flip pairs: `population`."""
    conflicts = outcomes[outcomes.in_sample].assign(population=f"{prefix}conflicts")
    members = outcomes[outcomes.in_flip_pair].assign(population=f"{prefix}flip_pairs")
    return pd.concat([conflicts, members], ignore_index=True)


def opposite(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The rows of inputs whose behaviour was the opposite of the target, with their :func:`effects`."""
    rows = outcomes[outcomes.behavior_before == -outcomes.target.map(LABELS)].reset_index(drop=True)
    before, after = (
        pd.DataFrame({name: rows[f"{name}_{when}"] for name in ("behavior", "log_odds")})
        for when in ("before", "after")
    )
    return rows.join(effects(before, after, rows.target.map(LABELS).astype(int)))


def rates(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Rates with intervals: `SHIFT, control, measure` (of `RATES`)`, value, ci_low, ci_high, n`."""
    keys = [*SHIFT, "control", "measure"]
    rows = opposite(outcomes).melt([*SHIFT, "control", "input", "group"], RATES, "measure", "value")
    plain = rows.groupby(keys, sort=False, dropna=False).value.mean()  # without the rounding of means over draws
    return intervals.estimate_by(rows, keys, inputs="input").assign(value=plain.to_numpy())


def with_best_control(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcomes, with those under the control that brings most inputs to the target once more, as control `best`."""
    rows = opposite(outcomes).dropna(subset="control")
    of_controls = rows[~rows.control.isin(BASELINES)]
    reached = of_controls.groupby([*SHIFT, "control"], sort=False).reached.mean()
    best = reached[reached.groupby(SHIFT, sort=False).idxmax()].index.to_frame(index=False)
    return pd.concat([outcomes, outcomes.merge(best).assign(control="best")], ignore_index=True)


def net(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Share that reaches the target minus that under the control `best`, paired by input: `SHIFT, value, ..., n`.

    Methods without controls are left out.
    """
    rows = []
    for key, part in opposite(outcomes).groupby(SHIFT, sort=False):
        reached = part.assign(control=part.control.fillna("shift"))
        reached = reached.pivot_table(index=["input", "group"], columns="control", values="reached")  # mean over draws
        if "best" in reached:
            groups = reached.index.get_level_values("group")
            rows.append([*key, *intervals.difference(reached["shift"], reached["best"], groups)])
    return pd.DataFrame(rows, columns=[*SHIFT, *intervals.Estimate._fields])


def by_answer(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The share that reaches the target for each answer with at least `LEAST_INPUTS` inputs.

    Rates with the columns `method, target, behavior` (whose answer: the memorized or the inferred one)`, answer`. A
    memorized answer with alternatives is no single answer, and left out.
    """
    rows, keys = opposite(outcomes[outcomes.control.isna()]), ["method", "target", "behavior", "answer"]
    parts = [rows.assign(behavior=name, answer=rows[f"answer_{name}"]) for name in map(NAMES.get, TARGETS)]
    single = pd.concat(parts)
    single = single[~single.answer.str.contains("|", regex=False).astype(bool)]
    table = intervals.estimate_by(single, keys, value="reached")
    return table[table.n >= LEAST_INPUTS].reset_index(drop=True)


def worst_answers(answers: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`by_answer` the lowest rate of each method and target.

    The lowest of several estimates lies below the lowest of what they estimate, the more so the fewer inputs they have.
    """
    return answers.loc[answers.groupby(["method", "target"], sort=False).value.idxmin()].reset_index(drop=True)


def worst_groups(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The mean rate of the lowest tenth of the groups: `method, target, value, ci_low, ci_high, n` (of groups)."""
    rows = []
    of_shifts = opposite(outcomes[outcomes.control.isna()])
    for (method, target), part in of_shifts.groupby(["method", "target"], sort=False):
        reached = part.groupby("group").reached.mean().to_numpy()

        def lowest(weights: NDArray, reached: NDArray = reached) -> NDArray:
            return np.array([mean_of_lowest(reached[weight > 0]) for weight in weights])

        estimate = intervals.jackknife(lowest, len(reached), bounds=(0.0, 1.0))
        rows.append({"method": method, "target": target, **estimate._asdict()})
    return pd.DataFrame(rows, columns=["method", "target", *intervals.Estimate._fields])


def mean_of_lowest(values: NDArray) -> float:
    """The mean of the lowest tenth (`WORST_SHARE`, at least one)."""
    return float(np.sort(values)[: max(1, round(WORST_SHARE * len(values)))].mean())
