"""Try shifts on validation groups, each beside its controls, and choose."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior
from memgen.behavior import NAMES
from memgen.config import AnalysisConfig, InputError
from memgen.steering import passes
from memgen.steering.fitting import fit_shifts
from memgen.steering.interventions import TARGETS, Control, Intervention, study_shift
from memgen.steering.outcomes import preference, rates

#: The kind of input with one right answer, by the behaviour that gives it.
ONE_ANSWER = {behavior.MEMORIZATION: "memorized_only", behavior.GENERALIZATION: "inferred_only"}
KEPT_SHARE = 0.5  # of the inputs to turn: as many that shall stay as they are are fitted on beside them, at most
SMALL_SHARE = 0.1  # of all neurons of a site: the small set


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


#: The vectors that were tried, at strength 1 [n_layer, d], by target and candidate.
Shifts = dict[tuple[int, str], Tensor]


def sweep_study(
    trials: Mapping[int, Trials],
    table: pd.DataFrame,
    site: str,
    counts: Sequence[int],
    alphas: Sequence[float],
    controls: Mapping[str, Control],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, Shifts]:
    """Try the study's shift with every N and alpha, as :func:`sweep_fitted` does; the table has `n, alpha`, too."""
    parts, shifts = [], Shifts()
    names = {f"top {n}": n for n in counts}
    for target, own in trials.items():
        shape = (len(activations.blocks(own.model)), activations.width(own.model, site))
        candidates = {name: target * study_shift(table, site, n, 1.0, shape) for name, n in names.items()}
        shifts |= {(target, name): shift for name, shift in candidates.items()}
        parts.append(_at_strengths(own, site, candidates, target, alphas, controls, rng))
    tried = pd.concat(parts, ignore_index=True)
    return tried.assign(n=tried.candidate.map(names), alpha=tried.strength), shifts


#: What a candidate is called -> the neurons that it may change (boolean [n_layer, d]) and its penalty on the norm.
Candidates = Mapping[str, tuple[Tensor, float]]


def layer_sets(n_layer: int) -> dict[str, list[int]]:
    """Each layer alone, and all of them."""
    return {f"layer {layer}": [layer] for layer in range(n_layer)} | {"all": list(range(n_layer))}


def layer_candidates(shape: tuple[int, int], penalties: Sequence[float]) -> dict[str, tuple[Tensor, float]]:
    """All neurons of each layer alone, with the first penalty, and those of all layers, with each."""
    result = {}
    for name, layers in layer_sets(shape[0]).items():
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[layers] = True
        for penalty in penalties if name == "all" else penalties[:1]:
            result[f"{name}, penalty {penalty:g}"] = (mask, penalty)
    return result


def mask_candidates(masks: Mapping[str, Tensor], penalties: Sequence[float]) -> dict[str, tuple[Tensor, float]]:
    """Each set of neurons [n_layer, d] with each penalty."""
    return {f"{name}, penalty {p:g}": (mask, p) for name, mask in masks.items() for p in penalties}


def sweep_fitted(
    trials: Mapping[int, Trials],
    learn: Mapping[int, Sequence[behavior.Batch]],
    site: str,
    candidates: Mapping[int, Candidates],
    config: AnalysisConfig,
    controls: Mapping[str, Control],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, Shifts]:
    """Fit every candidate for each target, and try each at several strengths.

    Parameters
    ----------
    learn
        For each target the prepared inputs to fit on.
    candidates
        For each target what to fit.

    Returns
    -------
    table, shifts
        `target, candidate, strength` and what :meth:`Trials.compare` tells; the fitted shifts by (target, candidate).
    """
    parts, shifts = [], Shifts()
    for target, own in trials.items():
        masks, penalties = zip(*candidates[target].values(), strict=True)
        fitted = fit_shifts(
            own.model,
            learn[target],
            site,
            masks,
            penalties,
            target,
            own.n_tokens,
            config.fit_steps,
            config.fit_learning_rate,
        )
        by_name = dict(zip(candidates[target], fitted, strict=True))
        shifts |= {(target, name): shift for name, shift in by_name.items()}
        parts.append(_at_strengths(own, site, by_name, target, config.strengths, controls, rng))
    return pd.concat(parts, ignore_index=True), shifts


def sweep_means(
    trials: Mapping[int, Trials],
    difference: Tensor,
    site: str,
    alphas: Sequence[float],
    controls: Mapping[str, Control],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, Shifts]:
    """Try a difference in means [n_layer, d] in each layer alone and in all, as :func:`sweep_fitted` does."""
    parts, shifts = [], Shifts()
    for target, own in trials.items():
        candidates = {}
        for name, layers in layer_sets(len(difference)).items():
            candidates[name] = torch.zeros_like(difference)
            candidates[name][layers] = target * difference[layers]
        shifts |= {(target, name): shift for name, shift in candidates.items()}
        parts.append(_at_strengths(own, site, candidates, target, alphas, controls, rng))
    return pd.concat(parts, ignore_index=True), shifts


def _at_strengths(
    trials: Trials,
    site: str,
    candidates: Mapping[str, Tensor],
    target: int,
    strengths: Sequence[float],
    controls: Mapping[str, Control],
    rng: np.random.Generator,
) -> pd.DataFrame:
    grid = list(itertools.product(candidates, strengths))
    shifts = [strength * candidates[name] for name, strength in grid]
    rows = pd.DataFrame(grid, columns=["candidate", "strength"])
    rows.insert(0, "target", target)
    return rows.join(trials.compare(site, shifts, target, controls, rng))


def choose(tried: pd.DataFrame, target: int, config: AnalysisConfig) -> pd.Series:
    """The row with the largest `preferred` towards `target` that keeps all limits, first of equals.

    The limits: at most ``config.max_other`` other answers, a best control that brings at most ``config.max_control``
    to the target, and at most ``config.max_loss`` of accuracy `lost` (shares 0-1). Where no row keeps them all, those
    count that exceed them least (the excesses added).

    Raises
    ------
    InputError
        If no input showed the opposite behaviour, so that nothing could be tried.
    """
    own = tried[(tried.target == target) & tried.net.notna()]
    if own.empty:
        raise InputError(
            f"No input showed {NAMES[-target]}, so nothing can be chosen that leads to {NAMES[target]}: "
            "train the model on other data, or choose another checkpoint."
        )
    limits = {"to_other": config.max_other, "control": config.max_control, "lost": config.max_loss}
    excess = sum((own[name] - limit).clip(lower=0) for name, limit in limits.items())
    return own.loc[own.preferred[excess == excess.min()].idxmax()]


def decide(tried: pd.DataFrame, shifts: Shifts, site: str, method: str, config: AnalysisConfig) -> Intervention:
    """Make the intervention that :func:`choose` picks for each target; `method` says in words how it was made."""
    vectors, chosen = {}, {}
    for target in TARGETS:
        row = choose(tried, target, config)
        vectors[NAMES[target]] = row.strength * shifts[target, row.candidate]
        chosen[NAMES[target]] = row
    how = {
        "method": method,
        "candidate": {name: row.candidate for name, row in chosen.items()},
        "N": {name: int((vector != 0).sum()) for name, vector in vectors.items()},
        "alpha": {name: float(row.strength) for name, row in chosen.items()},
        "validation": {
            name: {key: float(row[key]) for key in ("to_target", "control")} for name, row in chosen.items()
        },
        "chosen": "on validation groups, the largest mean probability of the target's answer among the two, minus that "
        f"under the best control, with at most {config.max_other:.0%} other answers, {config.max_control:.0%} under "
        f"the best control, and {config.max_loss:.0%} of accuracy lost where the target is right",
    }
    return Intervention(site, config.n_tokens, **vectors, how=how)
