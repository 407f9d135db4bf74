"""Many predictors in one table, and the rules by which one of them is chosen."""

import itertools
from collections.abc import Iterable, Mapping

import pandas as pd

from memgen import intervals
from memgen.prediction.datasets import Dataset
from memgen.prediction.probes import STATES, FittedProbe

IDENTITY = ["kind", "probe", "site", "layer"]  # the fields of a fitted probe that say which it is
NUMBERS = ["n", "accuracy", "accuracy_low", "accuracy_high", "auroc", "auroc_low", "auroc_high"]
COLUMNS = ["population", *IDENTITY, "split", *NUMBERS]


def evaluate(
    probes: Iterable[FittedProbe],
    datasets: Mapping[str, Dataset],
    population: str,
    splits: Iterable[str] = ("validation", "test"),
) -> pd.DataFrame:
    """How well each probe does on each split of the inputs that `population` names.

    One row a probe and split: `population, kind, probe, site, layer` (the last two missing for a predictor that sees
    the input alone), `split, n, accuracy, auroc` (nan for a single label) and their intervals, clustered by group:
    `accuracy_low, accuracy_high, auroc_low, auroc_high`.
    """
    rows = []
    for probe, split in itertools.product(probes, splits):
        dataset, scores = datasets[split], probe.score(datasets[split])
        accuracy = intervals.share((scores > 0) == (dataset.labels > 0), dataset.groups)
        auroc = intervals.auroc(dataset.labels, scores, dataset.groups)
        identity = (getattr(probe, name) for name in IDENTITY)
        rows.append([population, *identity, split, len(dataset), *accuracy[:3], *auroc[:3]])
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})


def estimates(table: pd.DataFrame, number: str) -> pd.DataFrame:
    """The table with one of its numbers, ``accuracy`` or ``auroc``, as `value, ci_low, ci_high`."""
    names = {number: "value", f"{number}_low": "ci_low", f"{number}_high": "ci_high"}
    return table.drop(columns=[name for name in NUMBERS[1:] if name not in names]).rename(columns=names)


def best_probe(table: pd.DataFrame, split: str = "test", kind: str = STATES) -> pd.Series:
    """The row of `split` of the probe (site, layer, what it sees) with the highest AUROC on validation groups.

    The first of equals. AUROC, for accuracy on few inputs moves in steps coarser than what distinguishes probes.
    """
    return _best(table[table.kind == kind], "auroc", split)


def best_baseline(table: pd.DataFrame, split: str = "test") -> pd.Series:
    """The row of `split` of the baseline with the highest accuracy on validation groups, the first of equals."""
    return _best(table[table.kind.isin(["input alone", "oracle"])], "accuracy", split)


def _best(table: pd.DataFrame, number: str, split: str) -> pd.Series:
    validation, wanted = (table[table.split == name].reset_index(drop=True) for name in ("validation", split))
    assert validation[IDENTITY].equals(wanted[IDENTITY])
    return wanted.loc[validation[number].idxmax()]


def find(probes: Iterable[FittedProbe], row: pd.Series) -> FittedProbe:
    """The fitted probe that a row of the table is about."""
    wanted = tuple(None if pd.isna(row[name]) else row[name] for name in IDENTITY)
    (found,) = [probe for probe in probes if tuple(getattr(probe, name) for name in IDENTITY) == wanted]
    return found


def gain(probe: FittedProbe, baseline: FittedProbe, dataset: Dataset) -> intervals.Estimate:
    """The accuracy of the probe minus that of the baseline on the same inputs, paired input by input."""
    return intervals.difference(probe.correct(dataset), baseline.correct(dataset), dataset.groups)
