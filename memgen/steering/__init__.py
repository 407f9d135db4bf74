"""Steer the behaviour at inference time: add a vector to the activations, leave every parameter alone.

An intervention is, for each target behaviour, one vector a layer that is added at one site to the activations of the
prompt's last tokens and of the answer. The study's own takes the N neurons of largest `|r|` and shifts each by
``alpha * sign(r) * |NMD|``. The gradient-guided one is fitted: gradient descent on the log-probability of the target
answer, averaged over training groups, with a penalty on its norm. Each is tried beside controls of the same norm, many
trials in one pass (`passes`).
"""

from memgen.steering.effects import (
    ablated,
    cut_before_answers,
    divergence,
    dose_response,
    losses,
    mean_divergence,
    on_test,
    rates_of,
)
from memgen.steering.examples import ALPHAS, answer_probabilities, first_of_levels
from memgen.steering.fitting import fit_shift, fit_shifts
from memgen.steering.interventions import (
    TARGETS,
    Control,
    Intervention,
    adding,
    controls,
    largest,
    least_correlated,
    mean_difference,
    random_direction,
    random_mask,
    random_neurons,
    study_shift,
    top_neurons,
)
from memgen.steering.outcomes import (
    beside_best_controls,
    best_controls,
    by_answer,
    mean_of_lowest,
    net_effect,
    opposite,
    outcomes,
    preference,
    rates,
    rates_in_columns,
    shares,
    summarize,
    what_happened,
    worst_answers,
    worst_groups,
)
from memgen.steering.passes import Inputs, keep, run_side_by_side
from memgen.steering.sweeps import (
    SMALL_SHARE,
    choose,
    decide,
    layer_candidates,
    mask_candidates,
    sweep_fitted,
    sweep_means,
    sweep_study,
)
from memgen.steering.trials import Trials, by_group, opposite_trials, to_fit

__all__ = [
    "ALPHAS",
    "SMALL_SHARE",
    "TARGETS",
    "Control",
    "Inputs",
    "Intervention",
    "Trials",
    "ablated",
    "adding",
    "answer_probabilities",
    "beside_best_controls",
    "best_controls",
    "by_answer",
    "by_group",
    "choose",
    "controls",
    "cut_before_answers",
    "decide",
    "divergence",
    "dose_response",
    "first_of_levels",
    "fit_shift",
    "fit_shifts",
    "keep",
    "largest",
    "layer_candidates",
    "least_correlated",
    "losses",
    "mask_candidates",
    "mean_difference",
    "mean_divergence",
    "mean_of_lowest",
    "net_effect",
    "on_test",
    "opposite",
    "opposite_trials",
    "outcomes",
    "preference",
    "random_direction",
    "random_mask",
    "random_neurons",
    "rates",
    "rates_in_columns",
    "rates_of",
    "run_side_by_side",
    "shares",
    "study_shift",
    "summarize",
    "sweep_fitted",
    "sweep_means",
    "sweep_study",
    "to_fit",
    "top_neurons",
    "what_happened",
    "worst_answers",
    "worst_groups",
]
