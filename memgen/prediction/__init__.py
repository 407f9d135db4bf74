"""Tell the behaviour from the hidden states, from the input alone, and from controls.

Every probe is a logistic regression, its regularisation chosen by cross-validation over groups of the training split.
What differs is what it sees: the hidden states of one layer and site (alone, or with their squares), the same states of
an untrained network, or nothing but the input (its words, or its words with their positions). A hidden-state probe is
interesting only as far as it beats the input, and it shows what was learned only as far as it beats the controls.
"""

from memgen.prediction.controls import (
    CONTROL,
    UNTRAINED,
    control_task,
    direct_reading,
    readout,
    transfer,
    within_groups,
)
from memgen.prediction.populations import middle_shares, most_balanced
from memgen.prediction.probes import INPUT_BASELINES, PROBES, InputFeatures, fit_probe
from memgen.prediction.tables import (
    Inputs,
    Probe,
    best_control,
    best_input_baseline,
    best_probe,
    by_number_of_pairs,
    evaluate,
    find,
    fit_baselines,
    fit_probes,
    gain,
    probe_table,
)

__all__ = [
    "CONTROL",
    "INPUT_BASELINES",
    "PROBES",
    "UNTRAINED",
    "InputFeatures",
    "Inputs",
    "Probe",
    "best_control",
    "best_input_baseline",
    "best_probe",
    "by_number_of_pairs",
    "control_task",
    "direct_reading",
    "evaluate",
    "find",
    "fit_baselines",
    "fit_probe",
    "fit_probes",
    "gain",
    "middle_shares",
    "most_balanced",
    "probe_table",
    "readout",
    "transfer",
    "within_groups",
]
