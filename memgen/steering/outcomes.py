"""What becomes of inputs under shifts and their controls, with intervals clustered by group.

An outcome is a row: an input under a shift (`control` is missing), or under a draw of one of its controls, as
:meth:`memgen.steering.trials.Trials.compare` gives it and ``outcomes.parquet`` keeps it: `input, group, control, draw,
norm, target` (name), `behavior_before, behavior_after, log_odds_before, log_odds_after`. Rates are shares of the inputs
whose behaviour was the opposite of the target.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from memgen import behavior, intervals
from memgen.behavior import LABELS, NAMES, OTHER, TARGETS
from memgen.intervals import Estimate
from memgen.steering.controls import BASELINES, controls
from memgen.steering.interventions import Intervention
from memgen.steering.trials import Comparison, Trials, by_group

OUTCOMES = ["reached", "stayed", "other"]
RATES = [*OUTCOMES, "wrong_way"]
NET = {"reached": "net", "preference": "preferred"}  # what a shift does beyond its best control
TOLERANCE = 1e-3  # nats: a smaller change of the log-odds may be rounding, and counts as none
LEAST_INPUTS = 5  # of an answer whose rate is reported
SHIFT = ["population", "method", "target"]
#: The names of random generators, those of the first edition, so that its draws can be made again.
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
    """At most `n` conflicts of a frame, half of either behaviour, and all members of flip pairs.

    `labels` is the behaviour on them; groups give as many each as they can. `in_sample` and `in_flip_pair` tell why a
    row was taken.
    """
    pairs = behavior.flip_pairs(frame, labels)
    members = frame.index.isin(pd.concat([pairs.memorization, pairs.generalization]))
    sample = pd.concat([by_group(frame[labels[frame.index] == target], n // 2, rng) for target in TARGETS])
    frame = frame.assign(in_sample=frame.index.isin(sample.index), in_flip_pair=members)
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
    by_site: dict[str, dict[tuple[str, int], Comparison]] = {}
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        kinds = controls(method, table, intervention.site) if method in controlled else {}
        kinds |= BASELINES if kinds and method == "study" else {}
        rng = make_rng(f"controls of {GENERATORS[method]} {target}")
        of_site = by_site.setdefault(intervention.site, {})
        of_site[method, target] = [intervention.shift(target)], target, kinds, rng
    compared: dict[tuple[str, int], pd.DataFrame] = {}
    for site, of_site in by_site.items():
        compared |= dict(zip(of_site, trials.compare(site, list(of_site.values())), strict=True))
    in_order = itertools.product(interventions, TARGETS)
    parts = [compared[method, target].drop(columns="trial").assign(method=method) for method, target in in_order]
    return pd.concat(parts, ignore_index=True)


def by_population(outcomes: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """The outcomes of the sample of all conflicts, and those of the members of flip pairs: `population`."""
    conflicts = outcomes[outcomes.in_sample].assign(population=f"{prefix}conflicts")
    members = outcomes[outcomes.in_flip_pair].assign(population=f"{prefix}flip_pairs")
    return pd.concat([conflicts, members], ignore_index=True)


def opposite(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The rows of inputs whose behaviour was the opposite of the target, with what became of them.

    `reached, stayed, other`: did the behaviour become the target, stay the opposite, or become neither (0 or 1)?
    `wrong_way`: did the log-odds move away from the target (0 or 1)? `preference`: the probability of the target's
    answer among the two, which moves where a greedy answer does not. `log_odds`: those after (nats).
    """
    target = outcomes.target.map(LABELS).astype(int)
    rows = outcomes[outcomes.behavior_before == -target].reset_index(drop=True)
    target = rows.target.map(LABELS).astype(int)
    happened = {
        "reached": rows.behavior_after == target,
        "stayed": rows.behavior_after == -target,
        "other": rows.behavior_after == OTHER,
        "wrong_way": (rows.log_odds_after - rows.log_odds_before) * target < -TOLERANCE,
    }
    rows = rows.assign(**{name: values.astype(float) for name, values in happened.items()})
    return rows.assign(preference=expit(target * rows.log_odds_after), log_odds=rows.log_odds_after)


def summary(outcomes: pd.DataFrame, keys: Sequence[str] = SHIFT) -> pd.DataFrame:
    """Rates of each combination of `keys`, under the shift and its controls, and the net effect of the shift.

    Values are means over inputs and draws; for intervals, the draws of a control are averaged input by input. The
    columns are `keys, control` (missing for the shift itself), `measure, value, ci_low, ci_high, n`.

    Measures are `RATES` and the mean `log_odds` (nats). The rates of the control that brings most inputs to the target,
    which a baseline cannot be, stand once more as those of the control ``best``. Of shifts alone, where there are
    controls: `best_control` (the share that reaches the target under it), `net` (`reached` minus that, paired by input)
    and `preferred` (the same difference of the mean `preference`, with the control that is best in that).
    """
    measures, rows = [*RATES, "log_odds", "preference"], []
    for key, part in opposite(outcomes).groupby(list(keys), sort=False):
        groups, value, mean, found = part.groupby("input").group.first(), {}, {}, {}
        for name, draws in part.groupby("control", sort=False, dropna=False):
            control = None if pd.isna(name) else name
            value[control], mean[control] = draws[measures].mean(), draws.groupby("input")[measures].mean()
            for measure in RATES:
                share = intervals.share(mean[control][measure], groups)
                found[control, measure] = share._replace(value=value[control][measure])
            found[control, "log_odds"] = intervals.mean(mean[control].log_odds, groups)
        kinds = [control for control in value if control not in (None, *BASELINES)]
        for measure, name in NET.items() if kinds else ():
            best = max(kinds, key=lambda control: value[control][measure])  # the first of equals
            found[None, name] = intervals.difference(mean[None][measure], mean[best][measure], groups)
            if measure == "reached":
                found |= {("best", rate): found[best, rate] for rate in RATES}
                found[None, "best_control"] = found[best, "reached"]
        rows += [[*key, *what, *estimate] for what, estimate in found.items()]
    return pd.DataFrame(rows, columns=[*keys, "control", "measure", *Estimate._fields])


def strongest(summary: pd.DataFrame) -> pd.DataFrame:
    """The control that :func:`summary` has as ``best``: `SHIFT, strongest` (its name), `value, ci_low, ci_high, n`."""
    named = summary.control.notna() & ~summary.control.isin(["best", *BASELINES])
    reached = summary[named & (summary.measure == "reached")].drop(columns="measure")
    best = reached.loc[reached.groupby(SHIFT, sort=False).value.idxmax()]  # the first of equals
    return best.rename(columns={"control": "strongest"}).reset_index(drop=True)


def by_answer(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The share that reaches the target for each answer with at least `LEAST_INPUTS` inputs.

    Rates with the columns `method, target, behavior` (whose answer: the memorized or the inferred one), `answer`. A
    memorized answer with alternatives is no single answer, and left out.
    """
    rows, keys = opposite(outcomes[outcomes.control.isna()]), ["method", "target", "behavior", "answer"]
    parts = [rows.assign(behavior=name, answer=rows[f"answer_{name}"]) for name in map(NAMES.get, TARGETS)]
    single = pd.concat(parts)
    single = single[~single.answer.str.contains("|", regex=False).astype(bool)]
    table = intervals.estimate_by(single, keys, value="reached")
    return table[table.n >= LEAST_INPUTS].reset_index(drop=True)
