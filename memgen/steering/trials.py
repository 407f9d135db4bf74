"""Try shifts on inputs, each beside controls of the same norm: for steering and for what carries over.

`frame` holds conflict inputs and inputs with one right answer, `labels` the behaviour on its conflicts.
:mod:`memgen.steering.outcomes` has their rates; :mod:`memgen.steering.sweep` tries candidates in several doses and
chooses.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
from torch import Tensor

from memgen import behavior, intervals
from memgen.behavior import NAMES, RIGHT_ANSWER
from memgen.config import AnalysisConfig
from memgen.steering.controls import Control
from memgen.steering.passes import each_pass
from memgen.subject import Subject

#: Shifts, the target that they lead to, the kinds of controls beside them, and the generator that draws these.
Comparison = tuple[Sequence[Tensor], int, Mapping[str, Control], np.random.Generator]


def by_group(frame: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most `n` rows at random, as evenly over the groups as can be, by their index."""
    shuffled = frame.sample(frac=1, random_state=rng)
    turn = shuffled.groupby("group", sort=False).cumcount()
    return frame.loc[turn.sort_values(kind="stable").index[:n].sort_values()]


def showing_opposite(frame: pd.DataFrame, labels: pd.Series, target: int) -> pd.DataFrame:
    """The conflicts of a frame whose behaviour (`labels`) is the opposite of `target`."""
    conflicts = frame[frame.kind == "conflict"]
    return conflicts[labels[conflicts.index] == -target]


@dataclasses.dataclass(frozen=True)
class Trials:
    """Inputs on which shifts are tried.

    Attributes
    ----------
    frame, before
        The inputs, and what the unsteered model does on them.
    n_draws
        How often each kind of control is drawn for each shift.
    single_answer
        The same for each kind of input with one right answer: what shifts cost there.
    """

    subject: Subject
    frame: pd.DataFrame
    before: pd.DataFrame
    n_draws: int = 1
    single_answer: Mapping[str, "Trials"] = dataclasses.field(default_factory=dict)

    @classmethod
    def on(cls, subject: Subject, frame: pd.DataFrame, n_draws: int = 1) -> Self:
        """Trials on all inputs of a frame."""
        return cls(subject, frame, behavior.measure(subject, behavior.batches(subject, frame)), n_draws)

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

        Groups give as many inputs each as they can. As many inputs of `frame` with one right answer stand beside them,
        of each kind.
        """
        conflicts = by_group(showing_opposite(frame, labels, target), config.sweep_rows, rng)
        on_conflicts = cls.on(subject, conflicts, config.sweep_draws)
        of_kinds = frame.sample(frac=1, random_state=rng).groupby("kind").head(config.sweep_rows).sort_index()
        return dataclasses.replace(on_conflicts, single_answer=on_single_answers(subject, of_kinds))

    def run(self, site: str, shifts: Sequence[Tensor]) -> list[pd.DataFrame]:
        """`behavior` and `log_odds` of the inputs under each shift [n_layer, d], in the order of `before`."""
        shape, index = (len(shifts), len(self.before)), self.before.index
        names = [NAMES[target] for target in behavior.TARGETS]
        log_p, greedy = ({name: np.full(shape, empty) for name in names} for empty in (np.nan, False))
        batches = behavior.batches(self.subject, self.frame, prefix=True)
        for batch, places, logits in each_pass(self.subject, batches, site, shifts):
            columns = index.get_indexer(batch.rows)
            for place, of_trial in zip(places, logits, strict=True):
                for name, (score, is_greedy) in behavior.score(of_trial, batch).items():
                    log_p[name][place, columns], greedy[name][place, columns] = score.cpu(), is_greedy.cpu()
        label = behavior.label(*(greedy[name] for name in names))
        odds = log_p["memorization"] - log_p["generalization"]
        return [pd.DataFrame({"behavior": b, "log_odds": o}, index) for b, o in zip(label, odds, strict=True)]

    def compare(self, site: str, comparisons: Sequence[Comparison]) -> list[pd.DataFrame]:
        """Try the shifts of each comparison, and for each shift all draws of its controls; all are run together.

        Gives for each comparison a row for each input under each of them, as :mod:`memgen.steering.outcomes` describes
        it, with `trial`, the place of the shift.
        """
        vectors: list[Tensor] = []
        tried = []
        for shifts, _, controls, rng in comparisons:
            draws = [(trial, name, n) for trial in range(len(shifts)) for name in controls for n in range(self.n_draws)]
            drawn = [*shifts, *(controls[name](shifts[trial], rng) for trial, name, _ in draws)]
            itself = [(trial, None, 0) for trial in range(len(shifts))]
            about = pd.DataFrame([*itself, *draws], columns=["trial", "control", "draw"])
            tried.append(about.assign(norm=[float(vector.norm()) for vector in drawn]))
            vectors += drawn
        after, tables = iter(self.run(site, vectors)), []
        before = self.before[["behavior", "log_odds"]].add_suffix("_before").assign(group=self.frame.group)
        for (_, target, *_), about in zip(comparisons, tried, strict=True):
            shown = pd.concat([next(after) for _ in about.index], keys=about.index, names=["place", "input"])
            of_target = before.assign(target=NAMES[target])
            table = shown.add_suffix("_after").join(of_target, on="input").join(about, on="place")
            tables.append(table.reset_index().drop(columns="place"))
        return tables


def on_single_answers(subject: Subject, frame: pd.DataFrame) -> dict[str, Trials]:
    """Trials on the inputs of a frame with one right answer, for each kind that it has."""
    return {kind: Trials.on(subject, frame[frame.kind == kind]) for kind in RIGHT_ANSWER if (frame.kind == kind).any()}


def lost(single_answer: Mapping[str, Trials], site: str, shifts: Sequence[Tensor]) -> pd.DataFrame:
    """Accuracy lost under each shift, paired by input: `trial, inputs` (their kind), `value, ci_low, ci_high, n`."""
    rows = []
    for kind, trials in single_answer.items():
        before, *after = (
            (shown.behavior == RIGHT_ANSWER[kind]).astype(float) for shown in (trials.before, *trials.run(site, shifts))
        )
        estimates = [intervals.difference(before, steered, trials.frame.group[before.index]) for steered in after]
        rows += [{"trial": trial, "inputs": kind, **loss._asdict()} for trial, loss in enumerate(estimates)]
    table = pd.DataFrame(rows, columns=["trial", "inputs", *intervals.Estimate._fields])
    return table.astype({"value": float, "ci_low": float, "ci_high": float, "n": int})  # where there are no rows, too
