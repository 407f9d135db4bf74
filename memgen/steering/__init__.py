"""Steer the behaviour at inference time: add a vector to the activations, leave every parameter alone.

An intervention is, for each target behaviour, one vector a layer that is added at one site to the activations of the
prompt's last tokens and of the answer. The study's own takes the N neurons of largest `|r|` and shifts each by
``alpha * sign(r) * |NMD|``. The gradient-guided one is fitted: gradient descent on the log-probability of the target
answer, averaged over training groups, with a penalty on its norm.
"""

from memgen.steering.interventions import (
    TARGETS,
    Intervention,
    adding,
    fit_shift,
    random_direction,
    random_neurons,
    study_shift,
    top_neurons,
)
from memgen.steering.outcomes import (
    mean_log_odds,
    moved,
    net_effect,
    outcomes,
    rates,
    shares,
    summarize,
)
from memgen.steering.sweeps import (
    STRENGTHS,
    Trials,
    choose,
    sweep_fitted,
    sweep_study,
)

__all__ = [
    "STRENGTHS",
    "TARGETS",
    "Intervention",
    "Trials",
    "adding",
    "choose",
    "fit_shift",
    "mean_log_odds",
    "moved",
    "net_effect",
    "outcomes",
    "random_direction",
    "random_neurons",
    "rates",
    "shares",
    "study_shift",
    "summarize",
    "sweep_fitted",
    "sweep_study",
    "top_neurons",
]
