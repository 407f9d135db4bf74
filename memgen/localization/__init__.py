"""Where the two behaviours differ: statistics of every neuron over pairs, and two causal yardsticks.

A *neuron* is one dimension of a site (:mod:`memgen.activations`) in one layer, read at the prompt's last token. Over
pairs, with `h+` its activation under memorization and `h-` under generalization:

- NMD, the neuron-wise mean difference: the mean of `h+ - h-`.
- `r`, Pearson's correlation of the activation with the label (+1, -1) over all members of pairs.
- attribution: the mean of `(h+ - h-) (g+ + g-) / 2` with `g` the gradient of the log-odds, a first-order estimate of
  what patching the neuron does (attribution patching; nats).
- patching: what putting one member's activations into the other's run really does: a whole layer's, or those of an
  exact set of neurons.
- ablation: what remains of the model's accuracy when neurons are set to their mean.

All statistics are accumulated batch by batch: memory grows with the number of groups, not with that of pairs.
"""

from memgen.localization.ablation import ablate, mean_states, summarize_ablation
from memgen.localization.causal import attribution, attribution_table, group_attributions, log_odds_gradients
from memgen.localization.chance import (
    CONCENTRATION,
    around_values,
    concentration,
    depth_profile,
    null_discoveries,
    stability,
)
from memgen.localization.differences import PairStatistics, accumulate, neuron_table, read_states, shuffled
from memgen.localization.patching import (
    main_units,
    patch_layers,
    patch_units,
    replacing,
    summarize_patching,
    summarize_units,
    units_for_half,
)
from memgen.localization.rankings import RANKINGS, Units, agreement, choose_units, ranked, sets_of_units
from memgen.localization.spread import neuron_spread

__all__ = [
    "CONCENTRATION",
    "RANKINGS",
    "PairStatistics",
    "Units",
    "ablate",
    "accumulate",
    "agreement",
    "around_values",
    "attribution",
    "attribution_table",
    "choose_units",
    "concentration",
    "depth_profile",
    "group_attributions",
    "log_odds_gradients",
    "main_units",
    "mean_states",
    "neuron_spread",
    "neuron_table",
    "null_discoveries",
    "patch_layers",
    "patch_units",
    "ranked",
    "read_states",
    "replacing",
    "sets_of_units",
    "shuffled",
    "stability",
    "summarize_ablation",
    "summarize_patching",
    "summarize_units",
    "units_for_half",
]
