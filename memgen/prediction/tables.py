"""Many probes in one table, beside their baselines, and which of them is best."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from memgen import statistics
from memgen.prediction.probes import INPUT_BASELINES, LINEAR, PROBES, SQUARES, InputFeatures, fit_probe

MAJORITY = "majority"
NUMBERS = ["n", "accuracy", "auroc", "ci_low", "ci_high", "auroc_low", "auroc_high"]
COLUMNS = ["site", "layer", "probe", "baseline", "split", *NUMBERS]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of one split: what a probe may see of them, and what it shall say.

    Attributes
    ----------
    frame
        `input_ids` (prompts of one length), `behavior` (+1, -1), `group`.
    states
        For each site the activations [rows, layer, neuron], in the order of the frame.
    """

    frame: pd.DataFrame
    states: Mapping[str, np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        """The behaviour of each row."""
        return self.frame.behavior.to_numpy()

    @property
    def groups(self) -> np.ndarray:
        """The group of each row."""
        return self.frame.group.to_numpy(dtype=str)

    @property
    def ids(self) -> np.ndarray:
        """The prompts [rows, pos]."""
        return np.stack(self.frame.input_ids.to_list())

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, chosen: np.ndarray) -> "Inputs":
        """Only some rows: `chosen` is a mask [rows], or row numbers."""
        return Inputs(self.frame.iloc[chosen], {site: state[chosen] for site, state in self.states.items()})

    def can_be_probed(self) -> bool:
        """Whether there are two groups and both behaviours."""
        return len(np.unique(self.groups)) > 1 and len(np.unique(self.labels)) > 1


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was fitted: `score` gives each row of inputs a number, above 0 for memorization (log-odds, nats)."""

    site: str | None
    layer: int | None
    baseline: str
    score: Callable[[Inputs], np.ndarray]

    def right(self, inputs: Inputs) -> np.ndarray:
        """Whether each row is told right [rows], 0 or 1."""
        return ((self.score(inputs) > 0) == (inputs.labels > 0)).astype(float)


def fit_probes(
    train: Inputs, kinds: Iterable[str] = PROBES, called: str | None = None, sites: Iterable[str] | None = None
) -> list[Probe]:
    """A probe of each kind for each layer of each site.

    Parameters
    ----------
    kinds
        Of ``PROBES``: on the states alone, or with their squares.
    called
        The name of the probes in the column `baseline`; their kind, if not given.
    """

    def fitted(site: str, layer: int, kind: str) -> Probe:
        probe = fit_probe(train.states[site][:, layer], train.labels, train.groups, squares=kind == SQUARES)
        return Probe(site, layer, called or kind, lambda own: probe.decision_function(own.states[site][:, layer]))

    return [
        fitted(site, layer, kind)
        for site in (train.states if sites is None else sites)
        for layer in range(train.states[site].shape[1])
        for kind in kinds
    ]


def fit_baselines(train: Inputs) -> list[Probe]:
    """The probes that see the input alone, and the majority, which sees nothing."""

    def fitted(baseline: str) -> Probe:
        encoder = InputFeatures(baseline).fit(train.ids)
        probe = fit_probe(encoder.transform(train.ids), train.labels, train.groups, sparse=True)
        return Probe(None, None, baseline, lambda own: probe.decision_function(encoder.transform(own.ids)))

    more = float((train.labels > 0).mean() - (train.labels < 0).mean())
    return [*map(fitted, INPUT_BASELINES), Probe(None, None, MAJORITY, lambda own: np.full(len(own), more))]


def evaluate(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator, n_resamples: int
) -> dict[str, float]:
    """Accuracy and AUROC (nan for a single label), each with its interval clustered by group, and n."""
    right = ((scores > 0) == (labels > 0)).astype(float)
    estimate = statistics.clustered_mean(right, groups, rng, n_resamples=n_resamples)
    area = statistics.clustered_auroc(labels, scores, groups, rng, n_resamples=n_resamples)
    numbers = (len(labels), estimate.value, area.value, estimate.low, estimate.high, area.low, area.high)
    return dict(zip(NUMBERS, numbers, strict=True))


def probe_table(
    probes: Iterable[Probe],
    inputs: Mapping[str, Inputs],
    population: str,
    rng: np.random.Generator,
    n_resamples: int,
    splits: Iterable[str] = ("validation", "test"),
) -> pd.DataFrame:
    """How well each probe does on each split.

    Parameters
    ----------
    inputs
        By split.
    population
        Which inputs these are; written in the column `probe`.

    Returns
    -------
    pandas.DataFrame
        `site, layer` (None for what has none)`, probe, baseline` (``hidden states`` for linear probes)`, split, n,
        accuracy, auroc, ci_low, ci_high` (of the accuracy)`, auroc_low, auroc_high`; one row a probe and split.
    """
    rows = []
    for probe in probes:
        about = {"site": probe.site, "layer": probe.layer, "probe": population, "baseline": probe.baseline}
        for split in splits:
            own = inputs[split]
            numbers = evaluate(probe.score(own), own.labels, own.groups, rng, n_resamples)
            rows.append({**about, "split": split, **numbers})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})


def find(probes: Iterable[Probe], row: pd.Series) -> Probe:
    """The probe that a row of the table is about."""
    site, layer = (None if pd.isna(row[name]) else row[name] for name in ("site", "layer"))
    (found,) = [probe for probe in probes if (probe.site, probe.layer, probe.baseline) == (site, layer, row.baseline)]
    return found


def best_probe(table: pd.DataFrame) -> pd.Series:
    """The test row of the probe (site, layer, kind) of the highest AUROC on validation groups, the first of equals.

    AUROC, for the accuracy on few inputs moves in steps that are coarser than what tells probes apart.
    """
    return _best(table[table.baseline.isin(PROBES)], "auroc")


def best_control(table: pd.DataFrame, called: str) -> pd.Series:
    """The test row of the control of this name, chosen like :func:`best_probe`."""
    return _best(table[table.baseline == called], "auroc")


def best_input_baseline(table: pd.DataFrame) -> pd.Series:
    """The test row of the input-only baseline or majority of the highest accuracy on validation groups."""
    return _best(table[table.baseline.isin([*INPUT_BASELINES, MAJORITY])], "accuracy")


def _best(table: pd.DataFrame, measure: str) -> pd.Series:
    keys = ["site", "layer", "baseline"]
    by_split = {split: table[table.split == split].reset_index(drop=True) for split in ("validation", "test")}
    assert by_split["validation"][keys].equals(by_split["test"][keys])
    return by_split["test"].loc[by_split["validation"][measure].idxmax()]


def gain(
    probe: Probe, baseline: Probe, test: Inputs, rng: np.random.Generator, n_resamples: int
) -> statistics.Estimate:
    """How much more of the test inputs the probe tells right than the baseline, row by row (accuracy)."""
    return statistics.paired_difference(probe.right(test), baseline.right(test), test.groups, rng, n_resamples)


def by_number_of_pairs(
    states: Mapping[str, np.ndarray],
    pairs: Mapping[str, pd.DataFrame],
    sizes: list[int],
    rng: np.random.Generator,
    n_resamples: int,
    kind: str = LINEAR,
) -> pd.DataFrame:
    """Accuracy on the test pairs' members against the number of pairs that the probe is fitted on.

    Parameters
    ----------
    states
        For ``train`` and ``test``: one layer's activations [2 pairs, neuron], a pair's members one after the other,
        the one with memorization first.
    pairs
        For ``train`` and ``test``: `group`, one row a pair.

    Returns
    -------
    pandas.DataFrame
        `n_pairs, n, accuracy, auroc, ci_low, ci_high, auroc_low, auroc_high`.
    """
    label = {split: np.tile([1, -1], len(own)) for split, own in pairs.items()}
    group = {split: np.repeat(own.group.to_numpy(dtype=str), 2) for split, own in pairs.items()}
    order = rng.permutation(len(pairs["train"]))
    rows = []
    for size in sizes:
        members = (2 * order[:size, None] + np.arange(2)).ravel()
        if len(np.unique(group["train"][members])) < 2:
            continue
        learned = (states["train"][members], label["train"][members], group["train"][members])
        scores = fit_probe(*learned, squares=kind == SQUARES).decision_function(states["test"])
        rows.append({"n_pairs": size, **evaluate(scores, label["test"], group["test"], rng, n_resamples)})
    return pd.DataFrame(rows)
