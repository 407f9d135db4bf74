"""Does it carry over? What was found in one model, asked of others: seeds, forms, tasks, checkpoints, mixes of texts.

- `matching` pairs the neurons of two models by what they do, not by their index, and compares rankings along the match;
- `transfer` applies to one part of the inputs (a form, a task) what was fitted on another;
- `checkpoints` asks one model's questions of its earlier states;
- `tables` sets the numbers of runs beside one another.
"""

from memgen.carryover.checkpoints import at_checkpoint, evenly, neuron_correlations, overlap_of_tops
from memgen.carryover.matching import (
    carried,
    common_prompts,
    compare_models,
    correlations,
    one_to_one,
    rotated,
    same_vocabulary,
    site_correlations,
    states,
    top,
)
from memgen.carryover.tables import (
    COLUMNS,
    HEADLINE,
    compare_runs,
    late_layer,
    matrices_over_seeds,
    mixes,
    or_published,
    over_pairs,
    over_seeds,
    sizes,
)
from memgen.carryover.transfer import (
    SITE,
    apply_shifts,
    choose_shifts,
    fit_shifts,
    probe_matrix,
    shift_matrix,
)

__all__ = [
    "COLUMNS",
    "HEADLINE",
    "SITE",
    "apply_shifts",
    "at_checkpoint",
    "carried",
    "choose_shifts",
    "common_prompts",
    "compare_models",
    "compare_runs",
    "correlations",
    "evenly",
    "fit_shifts",
    "late_layer",
    "matrices_over_seeds",
    "mixes",
    "neuron_correlations",
    "one_to_one",
    "or_published",
    "over_pairs",
    "over_seeds",
    "overlap_of_tops",
    "probe_matrix",
    "rotated",
    "same_vocabulary",
    "shift_matrix",
    "site_correlations",
    "sizes",
    "states",
    "top",
]
