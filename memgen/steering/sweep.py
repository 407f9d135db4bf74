"""Try candidates on validation groups in several doses, each beside its controls, and choose.

One rule chooses everywhere: :data:`RULE`, in :func:`best_trials`.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from memgen.behavior import NAMES, RIGHT_ANSWER, TARGETS
from memgen.config import InputError
from memgen.steering import outcomes, trials
from memgen.steering.controls import Control
from memgen.steering.interventions import Intervention
from memgen.steering.shifts import Candidate
from memgen.steering.trials import Trials

RULE = (
    "the largest net effect on validation groups; of equals, the largest gain in the mean probability of the target's "
    "answer over the best control, then the first"
)
KEYS = ["method", "target", "trial", "candidate", "n_neurons", "alpha", "penalty", "dose", "norm"]
COSTS = ["best_control", "other", *(f"lost_{kind}" for kind in RIGHT_ANSWER)]  # those of kinds that there are
ROUNDING = 12  # digits: shares that differ by rounding alone are equal


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What was tried at a site, and the shift of each trial, by the target's name and the trial.

    `tried` has the columns `KEYS` (`trial`: the place in the grid of a target) and those of
    :func:`memgen.steering.outcomes.summary`. Among its measures is the accuracy lost on each kind of input with one
    right answer that there is, such as `lost_aligned`.
    """

    site: str
    n_tokens: int
    tried: pd.DataFrame
    shifts: Mapping[tuple[str, int], Tensor]

    def intervention(self, method: str) -> Intervention:
        """The trials of a method that :func:`choose` picks for each target."""
        tried = self.tried[self.tried.method == method]
        chosen = pd.DataFrame({NAMES[target]: choose(tried, target) for target in TARGETS})  # a row a key or measure
        keys = ["candidate", "n_neurons", "alpha", "penalty", "dose", "norm"]
        how = chosen.loc[keys].dropna(how="all").T.to_dict()
        validation = chosen.loc[["reached", "best_control", "net"]].to_dict()
        vectors = {name: self.shifts[name, trial] for name, trial in chosen.loc["trial"].items()}
        about = {"method": method, **how, "validation": validation, "chosen": RULE}
        return Intervention(self.site, self.n_tokens, **vectors, how=about)


def sweep(
    tried_on: Mapping[int, Trials],
    candidates: Mapping[int, Sequence[Candidate]],
    site: str,
    controls: Mapping[str, Control],
    rng: np.random.Generator,
    doses: Sequence[float] = (1.0,),
) -> Sweep:
    """Try every candidate of each target, times every dose, beside the controls."""
    parts: list[pd.DataFrame] = []
    by_trial: dict[tuple[str, int], Tensor] = {}
    for target, of_target in tried_on.items():
        grid = list(itertools.product(candidates[target], doses))
        shifts = [dose * candidate.shift for candidate, dose in grid]
        about = pd.DataFrame([candidate for candidate, _ in grid]).rename(columns={"name": "candidate"})
        about = about.drop(columns="shift").assign(target=NAMES[target], trial=range(len(grid)))
        about["dose"], about["norm"] = [dose for _, dose in grid], [float(shift.norm()) for shift in shifts]
        about["n_neurons"] = [int((shift != 0).sum()) for shift in shifts]
        (compared,) = of_target.compare(site, [(shifts, target, controls, rng)])
        found = outcomes.summary(compared, ["trial"])
        lost = trials.lost(of_target.single_answer, site, shifts)
        found = pd.concat([found[found.control != "best"], lost.assign(measure="lost_" + lost.inputs)])
        parts.append(about.merge(found, on="trial"))
        by_trial |= {(NAMES[target], trial): shift for trial, shift in enumerate(shifts)}
    tried = pd.concat(parts, ignore_index=True)
    n_tokens = next(iter(tried_on.values())).subject.n_tokens
    columns = [*KEYS, "control", "measure", "value", "ci_low", "ci_high", "n"]
    return Sweep(site, n_tokens, tried[columns], by_trial)


def best_trials(tried: pd.DataFrame) -> pd.DataFrame:
    """The trial of each method and target that `RULE` prefers: its `KEYS`, and the value of each measure."""
    shifts, index = tried[tried.control.isna()], ["method", "target", "trial"]
    values = shifts.pivot(index=index, columns="measure", values="value").reset_index()
    table = shifts[KEYS].drop_duplicates().merge(values, on=index).dropna(subset="net")
    ranked = table.assign(**table[["net", "preferred"]].round(ROUNDING))
    ranked = ranked.sort_values(["net", "preferred"], ascending=False, kind="stable").drop_duplicates(index[:2])
    return table.loc[ranked.index.sort_values()]


def choose(tried: pd.DataFrame, target: int) -> pd.Series:
    """The row of :func:`best_trials` towards `target`, of the one method that was tried.

    An InputError says that no input showed the opposite behaviour, so that nothing could be tried.
    """
    towards = tried[tried.target == NAMES[target]]
    if not (towards.measure == "net").any():
        raise InputError(
            f"No input showed {NAMES[-target]}, so nothing can be chosen that leads to {NAMES[target]}: "
            "train the model on other data, or choose another checkpoint."
        )
    return best_trials(towards).iloc[0]


def frontier(tried: pd.DataFrame) -> pd.DataFrame:
    """What every trial reaches, against each of its costs.

    `KEYS, value, ci_low, ci_high, n` (of `reached`), `cost` (of `COSTS`, if measured), `cost_value, cost_low,
    cost_high, is_chosen` (by `RULE`), `is_frontier` (no other trial of the method reaches as much for as little).
    """
    shifts = tried[tried.control.isna()]
    reached = shifts[shifts.measure == "reached"].drop(columns=["control", "measure"])
    costs = shifts[shifts.measure.isin(COSTS)].drop(columns=["control", "n"])
    names = {"measure": "cost", "value": "cost_value", "ci_low": "cost_low", "ci_high": "cost_high"}
    trial = ["method", "target", "trial"]
    table = reached.merge(costs.rename(columns=names)[[*trial, *names.values()]], on=trial)
    chosen = best_trials(tried)[trial].assign(is_chosen=True)
    table = table.merge(chosen, on=trial, how="left")
    table["is_chosen"] = table.is_chosen.eq(True)
    ranked = table.sort_values(["cost_value", "value"], ascending=[True, False])
    best_below = ranked.groupby(["method", "target", "cost"]).value.transform(lambda v: v.cummax().shift(fill_value=-1))
    return table.assign(is_frontier=(ranked.value > best_below).reindex(table.index))
