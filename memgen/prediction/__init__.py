"""Tell the behaviour from the hidden states, from the input alone, and from controls.

A probe of the hidden states is of interest only as far as it beats the best predictor that sees the input alone
(`baselines`), and it shows what training put there only as far as it beats the controls (`controls`).
"""

# ruff: noqa: F401 -- what the notebooks call
from memgen.prediction.baselines import fit_baselines
from memgen.prediction.controls import control_task, reading_probes, readouts, sparse_accuracy
from memgen.prediction.datasets import ALL_LAYERS, Dataset, read_states
from memgen.prediction.probes import FittedProbe, StudyProbe, fit_probe, fit_probes, logistic
from memgen.prediction.tables import best_baseline, best_probe, estimates, evaluate, find, gain
