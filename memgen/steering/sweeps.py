"""Try shifts on validation groups, each beside its controls, and choose."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from memgen import activations, behavior
from memgen.behavior import NAMES
from memgen.config import AnalysisConfig, InputError
from memgen.steering.interventions import TARGETS, adding, fit_shift, random_direction, random_neurons, study_shift
from memgen.steering.outcomes import rates

STRENGTHS = (0.5, 0.75, 1.0)  # at which a fitted shift is tried: the dose is chosen, too

#: Makes a control from a shift.
Control = Callable[[Tensor, np.random.Generator], Tensor]


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
        How many random controls each shift is compared with.
    """

    model: PreTrainedModel
    prepared: list[behavior.Batch]
    before: pd.DataFrame
    n_tokens: int
    n_controls: int

    def run(self, site: str, shift: Tensor) -> pd.DataFrame:
        """What the model does on the inputs under a shift [n_layer, d]."""
        context = adding(self.model, site, shift.to(self.model.device), self.n_tokens)
        return behavior.measure(self.model, self.prepared, context)

    def compare(self, site: str, shift: Tensor, target: int, control: Control, rng: np.random.Generator) -> dict:
        """The rates under the shift, `control` (the mean share that its controls bring to the target) and `net`."""
        own = rates(self.before, self.run(site, shift), target)
        drawn = [self.run(site, control(shift, rng)) for _ in range(self.n_controls)]
        by_chance = float(np.mean([rates(self.before, after, target)["to_target"] for after in drawn]))
        return own | {"control": by_chance, "net": own["to_target"] - by_chance, "norm": float(shift.norm())}


def sweep_study(
    trials: Trials,
    table: pd.DataFrame,
    site: str,
    counts: Sequence[int],
    alphas: Sequence[float],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Try the study's shift with every N and alpha: `target, n, alpha` and what :meth:`Trials.compare` tells."""
    shape = (len(activations.blocks(trials.model)), activations.width(trials.model, site))
    rows = []
    for target in TARGETS:
        for n in counts:
            for alpha in alphas:
                shift = target * study_shift(table, site, n, alpha, shape)
                told = trials.compare(site, shift, target, random_neurons, rng)
                rows.append({"target": target, "n": n, "alpha": alpha, **told})
    return pd.DataFrame(rows)


def sweep_fitted(
    trials: Trials,
    learn: Mapping[int, Sequence[behavior.Batch]],
    site: str,
    config: AnalysisConfig,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, dict[tuple[int, str], Tensor]]:
    """Fit a shift for each layer alone and one for all together, and try each at several strengths.

    Parameters
    ----------
    learn
        For each target the prepared inputs to fit on.

    Returns
    -------
    table, shifts
        `target, layers, strength` and what :meth:`Trials.compare` tells; the fitted shifts by (target, layers).
    """
    shape = (len(activations.blocks(trials.model)), activations.width(trials.model, site))
    choices = {f"layer {layer}": [layer] for layer in range(shape[0])} | {"all": list(range(shape[0]))}
    rows, shifts = [], {}
    for target in TARGETS:
        for name, layers in choices.items():
            allowed = torch.zeros(shape, dtype=torch.bool)
            allowed[layers] = True
            shift = fit_shift(
                trials.model,
                learn[target],
                site,
                allowed,
                target,
                trials.n_tokens,
                config.fit_steps,
                config.fit_learning_rate,
                config.norm_penalty,
            )
            shifts[target, name] = shift
            for strength in STRENGTHS:
                told = trials.compare(site, strength * shift, target, random_direction, rng)
                rows.append({"target": target, "layers": name, "strength": strength, **told})
    return pd.DataFrame(rows), shifts


def choose(tried: pd.DataFrame, target: int, max_other: float) -> pd.Series:
    """The row with the largest net effect on `target` and at most `max_other` other answers (0-1), first of equals.

    Where none keeps to that, the one with the fewest other answers.

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
    allowed = own[own.to_other <= max_other]
    if allowed.empty:
        allowed = own[own.to_other == own.to_other.min()]
    return allowed.loc[allowed.net.idxmax()]
