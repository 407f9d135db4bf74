"""Try shifts on inputs, each beside controls of the same norm: for steering and for what carries over.

::

    trials = Trials.make(subject, frame, labels, target, config, rng)    # inputs of the opposite behaviour
    tried = trials.compare(site, shifts, target, controls, rng)          # tidy: one row a shift, control and measure

`frame` holds conflict inputs and inputs with one right answer, `labels` the behaviour on its conflicts. Rates are
shares of the inputs whose behaviour was the opposite of the target. :mod:`memgen.steering.sweep` tries candidates in
several doses and chooses.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.special import expit
from torch import Tensor

from memgen import behavior, intervals
from memgen.behavior import OTHER, RIGHT_ANSWER
from memgen.config import AnalysisConfig
from memgen.intervals import Estimate
from memgen.steering.controls import Control
from memgen.steering.passes import cache_residuals, passes, run_side_by_side
from memgen.subject import Subject

RATES = ["reached", "stayed", "other", "wrong_way"]
TOLERANCE = 1e-3  # nats: a smaller change of the log-odds may be rounding, and counts as none


def by_group(frame: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most `n` rows at random, as evenly over the groups as can be, by their index."""
    shuffled = frame.sample(frac=1, random_state=rng)
    turn = shuffled.groupby("group", sort=False).cumcount()
    return frame.loc[turn.sort_values(kind="stable").index[:n].sort_values()]


def showing_opposite(frame: pd.DataFrame, labels: pd.Series, target: int) -> pd.DataFrame:
    """The conflicts of a frame whose behaviour (`labels`) is the opposite of `target`."""
    conflicts = frame[frame.kind == "conflict"]
    return conflicts[labels[conflicts.index] == -target]


def effects(before: pd.DataFrame, after: pd.DataFrame, target: ArrayLike) -> pd.DataFrame:
    """What a shift towards `target` did to inputs of the opposite behaviour, row for row.

    Parameters
    ----------
    before, after
        `behavior` and `log_odds` without and with the shift.

    Returns
    -------
    pandas.DataFrame
        `reached, stayed, other`: did the behaviour become the target, stay the opposite, or become neither (0 or 1)?
        `wrong_way`: did the log-odds move away from the target (0 or 1)? `preference`: the probability of the target's
        answer among the two, which moves where a greedy answer does not. `log_odds` (nats).
    """
    away = (after.log_odds - before.log_odds) * target < -TOLERANCE
    shows = {"reached": target, "stayed": -np.asarray(target), "other": OTHER}
    happened = {name: after.behavior == label for name, label in shows.items()} | {"wrong_way": away}
    columns = {name: values.astype(float) for name, values in happened.items()}
    return pd.DataFrame(columns | {"preference": expit(target * after.log_odds), "log_odds": after.log_odds})


@dataclasses.dataclass(frozen=True)
class Trials:
    """Inputs on which shifts are tried.

    Attributes
    ----------
    batches, before
        The inputs, and what the unsteered model does on them.
    groups
        The group of each input.
    n_draws
        How often each kind of control is drawn for each shift.
    single_answer
        The same for each kind of input with one right answer: what shifts cost there.
    """

    subject: Subject
    batches: list[behavior.Batch]
    before: pd.DataFrame
    groups: pd.Series
    n_draws: int = 1
    single_answer: Mapping[str, "Trials"] = dataclasses.field(default_factory=dict)

    @classmethod
    def on(cls, subject: Subject, frame: pd.DataFrame, n_draws: int = 1) -> Self:
        """Trials on all inputs of a frame."""
        batches = behavior.prepare(subject, frame, prefix=True)
        return cls(subject, batches, behavior.measure(subject, batches), frame.group, n_draws)

    @classmethod
    def make(
        cls,
        subject: Subject,
        frame: pd.DataFrame,
        labels: pd.Series,
        target: int,
        config: AnalysisConfig,
        rng: np.random.Generator,
    ) -> Self:
        """Trials on at most ``config.sweep_rows`` conflicts whose behaviour (`labels`) is the opposite of `target`.

        Groups give as many inputs each as they can. All inputs of `frame` with one right answer stand beside them.
        """
        conflicts = by_group(showing_opposite(frame, labels, target), config.sweep_rows, rng)
        single_answer = {kind: frame[frame.kind == kind] for kind in RIGHT_ANSWER}
        beside = {kind: cls.on(subject, rows) for kind, rows in single_answer.items() if len(rows)}
        return dataclasses.replace(cls.on(subject, conflicts, config.sweep_draws), single_answer=beside)

    @torch.no_grad()
    def run(self, site: str, shifts: Sequence[Tensor]) -> list[pd.DataFrame]:
        """`behavior` and `log_odds` of the inputs under each shift [n_layer, d], in the order of `before`."""
        shape, index = (len(shifts), len(self.before)), self.before.index
        names = [behavior.NAMES[target] for target in behavior.TARGETS]
        log_p, greedy = ({name: np.full(shape, empty) for name in names} for empty in (np.nan, False))
        cached = cache_residuals(self.subject, self.batches)
        for places, start in passes(shifts):
            together = torch.stack([shifts[place] for place in places]).to(self.subject.device)
            for inputs in cached:
                logits = run_side_by_side(self.subject, inputs, site, together, start)
                columns = index.get_indexer(inputs.batch.rows)
                for place, of_trial in zip(places, logits, strict=True):
                    for name, (score, is_greedy) in behavior.score(of_trial, inputs.batch).items():
                        log_p[name][place, columns], greedy[name][place, columns] = score.cpu(), is_greedy.cpu()
        label = behavior.label(*(greedy[name] for name in names))
        odds = log_p["memorization"] - log_p["generalization"]
        return [pd.DataFrame({"behavior": b, "log_odds": o}, index) for b, o in zip(label, odds, strict=True)]

    def compare(
        self,
        site: str,
        shifts: Sequence[Tensor],
        target: int,
        controls: Mapping[str, Control],
        rng: np.random.Generator,
    ) -> pd.DataFrame:
        """Try shifts towards `target`, each beside its controls, whose draws are averaged.

        Returns
        -------
        pandas.DataFrame
            `trial` (the place of the shift)`, norm, control` (None for the shift itself)`, measure, value, ci_low,
            ci_high, n`. Measures of shifts and controls are `RATES` and the mean `log_odds` (nats). Of shifts alone,
            where there are controls: `best_control` (the share that reaches the target under the kind of control that
            brings most there), `net` (`reached` minus that) and `preferred` (the same difference of the mean
            probability of the target's answer among the two); and the accuracy lost on each kind of input with one
            right answer that there is, such as `lost_memorized_only`.
        """
        draws = [[make(shift, rng) for make in controls.values() for _ in range(self.n_draws)] for shift in shifts]
        before = self.before[self.before.behavior == -target]
        after = self.run(site, [*shifts, *itertools.chain(*draws)])
        moved = [effects(before, outcome.loc[before.index], target) for outcome in after]
        of_controls = iter(moved[len(shifts) :])
        lost = {kind: trials.lost(site, shifts, RIGHT_ANSWER[kind]) for kind, trials in self.single_answer.items()}
        rows: list[dict[str, Any]] = []
        for trial, shift in enumerate(shifts):
            outcomes: dict[str | None, list[pd.DataFrame]] = {None: [moved[trial]]}
            outcomes |= {name: [next(of_controls) for _ in range(self.n_draws)] for name in controls}
            found = self._estimates(outcomes)
            found |= {(None, f"lost_{kind}"): losses[trial] for kind, losses in lost.items()}
            for (name, measure), estimate in found.items():
                about = {"trial": trial, "norm": float(shift.norm()), "control": name, "measure": measure}
                rows.append(about | estimate._asdict())
        return pd.DataFrame(rows)

    def lost(self, site: str, shifts: Sequence[Tensor], right: int) -> list[Estimate]:
        """The accuracy lost under each shift on these inputs, whose right answer is that of the behaviour `right`."""
        before, groups = (self.before.behavior == right).astype(float), self.groups[self.before.index]
        after = [(outcome.behavior == right).astype(float) for outcome in self.run(site, shifts)]
        return [intervals.difference(before, steered, groups) for steered in after]

    def _estimates(self, moved: Mapping[str | None, list[pd.DataFrame]]) -> dict[tuple[str | None, str], Estimate]:
        """By control and measure, from the :func:`effects` of a shift (None) and of each draw of its controls.

        Values are means over draws of means over inputs; for intervals, draws are averaged input by input.
        """
        mean = {name: sum(draws) / len(draws) for name, draws in moved.items()}
        value = {name: pd.DataFrame([draw.mean() for draw in draws]).mean() for name, draws in moved.items()}
        groups, found = self.groups[mean[None].index], {}
        for name in moved:
            for measure in RATES:
                share = intervals.share(mean[name][measure], groups)
                found[name, measure] = share._replace(value=value[name][measure])
            found[name, "log_odds"] = intervals.mean(mean[name].log_odds, groups)
        for measure, difference in {"reached": "net", "preference": "preferred"}.items():
            best = max(filter(None, moved), key=lambda name: value[name][measure], default=None)  # the first of equals
            if best is not None:
                net = intervals.difference(mean[None][measure], mean[best][measure], groups)
                found[None, difference] = net._replace(value=value[None][measure] - value[best][measure])
                found.setdefault((None, "best_control"), found[best, "reached"])
        return found
