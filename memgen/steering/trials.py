"""Which inputs shifts are fitted and tried on, and what becomes of them under a shift and its controls."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import behavior
from memgen.config import AnalysisConfig
from memgen.steering import passes
from memgen.steering.interventions import Control
from memgen.steering.outcomes import preference, rates

#: The kind of input with one right answer, by the behaviour that gives it.
ONE_ANSWER = {behavior.MEMORIZATION: "memorized_only", behavior.GENERALIZATION: "inferred_only"}
KEPT_SHARE = 0.5  # of the inputs to turn: as many that shall stay as they are are fitted on beside them, at most


@dataclasses.dataclass(frozen=True)
class Trials:
    """Tries shifts on one set of inputs, each beside controls of the same norm.

    Attributes
    ----------
    prepared, before
        The inputs, and what the unsteered model does on them.
    n_tokens
        Shifts are added at the last `n_tokens` prompt tokens and after.
    n_controls
        How often each kind of control is drawn for each shift.
    kept
        The same for inputs with one right answer, which a shift towards the behaviour that gives it shall leave alone.
    """

    model: PreTrainedModel
    prepared: list[behavior.Batch]
    before: pd.DataFrame
    n_tokens: int
    n_controls: int
    kept: "Trials | None" = None

    @functools.cached_property
    def inputs(self) -> list[passes.Inputs]:
        """The inputs with what shifts leave alone."""
        return passes.keep(self.model, self.prepared)

    @torch.no_grad()
    def run_many(self, site: str, shifts: Sequence[Tensor]) -> list[pd.DataFrame]:
        """`behavior` and `log_odds` of the inputs under each shift [n_layer, d], in the order of `before`."""
        log_p = {name: np.full((len(shifts), len(self.before)), np.nan) for name in ("memorization", "generalization")}
        said = {name: np.zeros((len(shifts), len(self.before)), dtype=bool) for name in log_p}
        for which, start in passes.chunks(shifts):
            together = torch.stack([shifts[i] for i in which]).to(self.model.device)
            for one in self.inputs:
                logits = passes.run_side_by_side(self.model, one, site, together, self.n_tokens, start)
                columns = self.before.index.get_indexer(one.batch.rows)
                for row, own in zip(which, logits, strict=True):
                    for name, (score, greedy) in behavior.score(own, one.batch).items():
                        log_p[name][row, columns], said[name][row, columns] = score.cpu(), greedy.cpu()
        label = np.select(list(said.values()), [behavior.MEMORIZATION, behavior.GENERALIZATION], behavior.OTHER)
        odds = log_p["memorization"] - log_p["generalization"]
        index = self.before.index
        return [pd.DataFrame({"behavior": b, "log_odds": o}, index) for b, o in zip(label, odds, strict=True)]

    def run(self, site: str, shift: Tensor) -> pd.DataFrame:
        """What the model does on the inputs under one shift [n_layer, d]."""
        return self.run_many(site, [shift])[0]

    def compare(
        self,
        site: str,
        shifts: Sequence[Tensor],
        target: int,
        controls: Mapping[str, Control],
        rng: np.random.Generator,
    ) -> pd.DataFrame:
        """Try shifts towards `target`, each beside its controls.

        Returns
        -------
        pandas.DataFrame
            One row a shift: its rates; for each kind of control the mean share that its draws bring to the target;
            `control`, the largest of these; `net`, the share under the shift minus that; `preferred`, the same
            difference of the mean probability of the target's answer among the two; `lost`, the accuracy lost on the
            inputs that shall be kept (0 where there are none); and the shift's `norm`.
        """
        drawn = [[make(shift, rng) for make in controls.values() for _ in range(self.n_controls)] for shift in shifts]
        ended = self.run_many(site, [*shifts, *itertools.chain(*drawn)])
        told = [rates(self.before, after, target) for after in ended]
        shape = (len(shifts), len(controls), self.n_controls)
        reached = np.array([one["to_target"] for one in told[len(shifts) :]]).reshape(shape).mean(2)
        likely = np.array([preference(self.before, after, target) for after in ended])
        table = pd.DataFrame(told[: len(shifts)])
        table[list(controls)] = reached
        table["control"] = reached.max(1)
        table["net"] = table.to_target - table.control
        table["preferred"] = likely[: len(shifts)] - likely[len(shifts) :].reshape(shape).mean(2).max(1)
        table["lost"] = 0.0 if self.kept is None else self.kept.lost(site, shifts, target)
        return table.assign(norm=[float(shift.norm()) for shift in shifts])

    def lost(self, site: str, shifts: Sequence[Tensor], target: int) -> list[float]:
        """The share of the inputs that show `target`, which is right here, minus that under each shift."""
        before = (self.before.behavior == target).mean()
        return [float(before - (after.behavior == target).mean()) for after in self.run_many(site, shifts)]


def opposite_trials(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    before: pd.Series,
    target: int,
    tokenizer: PreTrainedTokenizerFast,
    config: AnalysisConfig,
    rng: np.random.Generator,
) -> Trials:
    """Trials for a sweep: at most ``config.sweep_rows`` of the conflicts whose behaviour is the opposite of `target`.

    A rate looks at no other inputs. Groups give as many inputs each as they can. Inputs of the frame with one right
    answer, which `target` gives, are those that shall be kept.

    Parameters
    ----------
    before
        The behaviour on the conflicts of the frame.
    """
    rows = by_group(_to_turn(frame, before, target), config.sweep_rows, rng)
    one_answer = frame[frame.kind == ONE_ANSWER[target]]

    def trials(own: pd.DataFrame, kept: Trials | None) -> Trials:
        prepared = behavior.prepare(model, own, tokenizer, config.batch_size, keep=config.n_tokens)
        return Trials(model, prepared, behavior.measure(model, prepared), config.n_tokens, config.sweep_draws, kept)

    return trials(rows, trials(one_answer, None) if len(one_answer) else None)


def _to_turn(frame: pd.DataFrame, before: pd.Series, target: int) -> pd.DataFrame:
    """The conflicts whose behaviour is the opposite of `target`."""
    conflicts = frame[frame.kind == "conflict"]
    return conflicts[before[conflicts.index] == -target]


def to_fit(
    frame: pd.DataFrame, before: pd.Series, target: int, n: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a shift is fitted on: inputs to turn, and inputs with one right answer that it shall leave right.

    Parameters
    ----------
    frame
        Inputs of the training split.
    before
        The behaviour on its conflicts.
    n
        The largest number of inputs to turn, those of the opposite behaviour.

    Returns
    -------
    to_turn, kept
        Of the latter at most the share `KEPT_SHARE` of the former. Both have the target's answer.
    """
    turned = by_group(_to_turn(frame, before, target), n, rng)
    one_answer = frame[frame.kind == ONE_ANSWER[target]]
    return turned, by_group(one_answer, int(KEPT_SHARE * len(turned)), rng)


def by_group(frame: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most `n` rows at random, as evenly over the groups as can be, by their index."""
    shuffled = frame.sample(frac=1, random_state=rng)
    turn = shuffled.groupby("group", sort=False).cumcount()
    return frame.loc[turn.sort_values(kind="stable").index[:n].sort_values()]
