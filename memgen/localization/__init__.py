"""Where the two behaviours differ: statistics of every neuron over pairs, and two causal yardsticks.

A *neuron* is one dimension of a site (:mod:`memgen.activations`) in one layer, read at the prompt's last token. Over
pairs, with `h+` its activation under memorization and `h-` under generalization:

- NMD, the neuron-wise mean difference: the mean of `h+ - h-`.
- `r`, Pearson's correlation of the activation with the label (+1, -1) over all members of pairs.
- attribution: the mean of `(h+ - h-) (g+ + g-) / 2` with `g` the gradient of the log-odds, a first-order estimate of
  what patching the neuron does (attribution patching; nats).
- patching: what a whole layer really does when one member's activations are put into the other's run.

All statistics are accumulated batch by batch: memory grows with the number of groups, not with that of pairs.
"""

from memgen.localization.causal import (
    attribution,
    log_odds_gradients,
    patch_layers,
    summarize_patching,
)
from memgen.localization.differences import (
    PairStatistics,
    accumulate,
    agreement,
    depth_profile,
    neuron_table,
    ranked,
    read_states,
)

__all__ = [
    "PairStatistics",
    "accumulate",
    "agreement",
    "attribution",
    "depth_profile",
    "log_odds_gradients",
    "neuron_table",
    "patch_layers",
    "ranked",
    "read_states",
    "summarize_patching",
]
