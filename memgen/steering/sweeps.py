"""Try shifts on validation groups, each beside its controls, and choose."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import activations, behavior
from memgen.behavior import NAMES
from memgen.config import AnalysisConfig, InputError
from memgen.steering.fitting import fit_shifts
from memgen.steering.interventions import TARGETS, Control, Intervention, study_shift
from memgen.steering.trials import Trials

SMALL_SHARE = 0.1  # of all neurons of a site: the small set


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
