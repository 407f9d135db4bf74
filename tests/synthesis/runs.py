"""Metrics of runs that never were: whatever a test plants, in the columns of `run.metrics`."""

import itertools

import numpy as np
import pandas as pd

TARGETS = ("memorization", "generalization")
#: stage, measure, coordinates, value of a run in which every claim holds
HOLDING = [
    ("training", "accuracy", {"inputs": "memorized_only"}, 1.0),
    ("training", "accuracy", {"inputs": "inferred_only"}, 0.99),
    ("training", "accuracy", {"inputs": "aligned"}, 0.98),
    ("training", "behavior_share", {"behavior": "memorization"}, 0.4),
    ("training", "behavior_share", {"behavior": "generalization"}, 0.6),
    ("training", "behavior_share", {"behavior": "other"}, 0.0),
    ("training", "behavior_share", {"behavior": "generalization", "split": "seen"}, 0.01),  # not on new groups
    ("training", "accuracy", {"inputs": "inferred_only", "population": "seen"}, 0.01),
    ("training", "flip_rate", {}, 0.1),
    ("localization", "pair_auroc", {"site": "resid_post", "layer": 0}, 0.5),
    ("localization", "pair_auroc", {"site": "resid_post", "layer": 2}, 0.55),
    ("localization", "pair_auroc", {"site": "resid_post", "layer": 10}, 0.8),
    ("localization", "pair_auroc", {"site": "mlp.hook_post", "layer": 11}, 0.1),
    ("prediction", "accuracy", {"population": "conflicts"}, 0.95),
    ("prediction", "best_baseline_accuracy", {"population": "conflicts"}, 0.55),
    ("prediction", "accuracy", {"population": "flip_pairs"}, 0.9),
    ("prediction", "best_baseline_accuracy", {"population": "flip_pairs"}, 0.5),
]
for _target, _method in itertools.product(TARGETS, ("study", "fitted_mlp")):
    _steered = {"method": _method, "target": _target, "population": "conflicts"}
    HOLDING += [
        ("steering", "reached", _steered, 0.95),
        ("steering", "reached", _steered | {"control": "best"}, 0.05),
        ("steering", "reached", _steered | {"control": "random_direction"}, 0.04),
        ("steering", "reached", _steered | {"control": "least_correlated"}, 0.05),
        ("steering", "reached", _steered | {"control": "uniform"}, 0.5),
        ("steering", "net", _steered, 0.9),
        ("steering", "stayed", _steered, 0.04),
        ("steering", "other", _steered, 0.0),
        ("steering", "other", _steered | {"control": "uniform"}, 0.7),
        ("steering", "reached", _steered | {"population": "seen_flip_pairs"}, 0.6),
        ("steering", "net", _steered | {"population": "flip_pairs"}, 0.1),
        ("steering", "net", _steered | {"population": "seen_conflicts"}, 0.1),
        ("steering", "lost", {"method": _method, "target": _target, "inputs": "memorized_only"}, 0.02),
        ("steering", "lost", {"method": _method, "target": _target, "inputs": "inferred_only"}, 0.0),
    ]
for _target in TARGETS:
    HOLDING.append(("steering", "worst_answer", {"method": "fitted_mlp", "target": _target}, 0.8))
    _patched = {"site": "mlp.hook_post", "target": _target}
    HOLDING += [
        (
            "localization",
            "patched_units",
            _patched | {"ranking": "attribution", "end": "top", "share": 0.1},
            0.7,
        ),
        (
            "localization",
            "patched_units",
            _patched | {"ranking": "attribution", "end": "bottom", "share": 0.1},
            0.0,
        ),
        ("localization", "patched_units", _patched | {"ranking": "r", "end": "top", "share": 0.1}, 0.3),
        (
            "localization",
            "patched_units",
            _patched | {"ranking": "random", "end": "random", "share": 0.1},
            0.1,
        ),
        ("localization", "patched_units", _patched | {"ranking": "attribution", "end": "top", "share": 1.0}, 0.8),
    ]


def run(seeds, form="study", task="addition", model="gpt2-3x64", scatter=0.01) -> pd.DataFrame:
    """Metrics of a run whose claims hold, with the same small scatter over seeds in every number between 0 and 1."""
    name = task if form == "study" else f"{task}-{form}"
    about = {"task": name, "base_task": task, "model": model, "form": form, "conflicts": "none", "split": None}
    offsets = scatter * np.resize([1.0, -1.0, 0.5, -0.5], len(seeds))
    rows = [
        about
        | {"seed": seed, "stage": stage, "measure": measure, "control": None, **where}
        | {"value": value + offset if 0 < value < 1 else value}
        for stage, measure, where, value in HOLDING
        for seed, offset in zip(seeds, offsets, strict=True)
    ]
    return pd.DataFrame(rows)


def plant(metrics, query, values):
    """The metrics with other values where a query selects them: a number for all seeds, or a number a seed."""
    changed, rows = metrics.copy(), metrics.query(query)
    assert len(rows), query
    order = list(metrics.seed.unique())
    by_seed = dict(zip(order, np.broadcast_to(values, len(order)), strict=True))
    changed.loc[rows.index, "value"] = rows.seed.map(by_seed)
    return changed


def without(metrics, query):
    """The metrics without the rows that a query selects."""
    return metrics.drop(metrics.query(query).index)
