"""Where the two behaviours differ: statistics of every neuron over pairs, and causal tests of what they find.

A *neuron* is one dimension of a site (:mod:`memgen.activations`) in one layer, read at the prompt's last token. With
`h+` its activation in a pair's memorized member and `h-` in the generalized one, means over pairs give:

- NMD, the neuron-wise mean difference: the mean of `h+ - h-`.
- `r`, Pearson's correlation of the activation with the label (+1, -1) over all members of pairs.
- attribution: the mean of `(h+ - h-) (g+ + g-) / 2` with `g` the gradient of the log-odds, a first-order estimate of
  the effect of patching the neuron (nats).

Activation patching measures the effect itself, of a layer, an attention head, a part of the prompt or a set of neurons;
mean ablation measures the accuracy that remains without a set of neurons. Statistics of labels have a null distribution
from group sign flips; distances within pairs that flip stand beside those within pairs that do not.
"""
