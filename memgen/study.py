"""The numbers that the study reports (arXiv 2412.18497v2), to stand beside those of a run."""

from itertools import product

#: What the numbers are quoted from.
SOURCE = "arXiv 2412.18497v2"

_MEDIUM, _GPT2, _LORA = "GPT-2-medium", "GPT-2", "LLaMA-3.2-3B, LoRA"
_OUTCOMES = [  # setting, model, task, then % reached, stayed, other: to generalization, and to memorization
    ("scratch", _MEDIUM, "inference", (83.7, 4.0, 12.3), (35.8, 33.8, 30.4)),
    ("scratch", _GPT2, "addition", (70.3, 28.1, 1.6), (67.6, 14.7, 17.7)),
    ("lora", _LORA, "inference", (65.9, 19.5, 14.6), (50.9, 19.3, 29.8)),
    ("lora", _LORA, "addition", (92.3, 0.0, 7.7), (66.7, 0.0, 33.3)),
    ("retrained", _LORA, "inference", (62.5, 35.7, 1.8), (54.8, 38.1, 7.1)),
    ("retrained", _LORA, "addition", (77.1, 22.9, 0.0), (57.4, 40.7, 1.9)),
    ("other_task", _LORA, "inference", (65.9, 29.3, 4.8), (22.8, 63.2, 14.0)),
    ("other_task", _LORA, "addition", (15.4, 69.2, 15.4), (9.3, 87.0, 3.7)),
    *(("random", model, task, (0.0, 0.0, 100.0), (0.0, 0.0, 100.0))
      for model, task in ((_MEDIUM, "inference"), (_GPT2, "addition"), *product([_LORA], ["inference", "addition"]))),
]  # fmt: skip

#: Its steering, one record a setting, model, task and target, with the shares (0-1) of inputs of the opposite behaviour
#: that reach the target, stay, or do something else. The settings: ``scratch`` and ``lora`` (the model that the shift
#: was computed from), ``retrained`` (another adapter), ``other_task`` (on `task`, with the neurons of the other task)
#: and ``random`` (as many random neurons, each shifted by up to the largest shift).
#:
#: :meta hide-value:
STEERING = [
    {"setting": setting, "model": model, "task": task, "target": target}
    | {name: round(percent / 100, 3) for name, percent in zip(("reached", "stayed", "other"), percents, strict=True)}
    for setting, model, task, *of_targets in _OUTCOMES
    for target, percents in zip(("generalization", "memorization"), of_targets, strict=True)
]

#: The behaviour on conflicts (shares 0-1) at which it stopped training from scratch.
STOPPED = {
    "inference": {"memorization": 0.28, "generalization": 0.55, "other": 0.17},
    "addition": {"memorization": 0.62, "generalization": 0.38, "other": 0.0},
}

_ACCURACIES = {  # model, task, number of layers: accuracy by layer, where the study's figures let it be read
    (_MEDIUM, "inference", 24): {0: 0.58, 12: 0.58, 23: 0.88},
    (_GPT2, "addition", 12): {0: 0.50, 2: 0.79, 8: 0.84},
    (_LORA, "inference", 28): {2: 0.50, 3: 0.62, 28: 0.87},
    (_LORA, "addition", 28): {2: 0.50, 3: 0.72, 24: 0.85},
}

#: The accuracy of its probes by layer, read off its figures (to about .01), at the chance level, the rise and the best.
#: Layer 0 is the embedding, or the first layer; `n_layers` is the model's.
#:
#: :meta hide-value:
PROBE = [
    {"model": model, "task": task, "layer": layer, "n_layers": n_layers, "accuracy": accuracy}
    for (model, task, n_layers), by_layer in _ACCURACIES.items()
    for layer, accuracy in by_layer.items()
]
