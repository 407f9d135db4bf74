"""Steer the behaviour at inference time: add a vector to the activations, leave every parameter alone.

An intervention is, for each target behaviour, a vector for each layer that is added at a site to the activations of the
prompt's last tokens and of the answer. Its vectors are *candidates* (`shifts`, `fitting`) that were tried on validation
groups beside controls of the same norm (`controls`, `trials`, `sweep`). What it does on test groups: `outcomes`,
`answers` and `effects`. No fixed vector, but a direction that carries the behaviour from input to input: `das`.
"""

from memgen.steering.interventions import load as load
