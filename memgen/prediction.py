"""Tell the behaviour from the hidden states, and from the input alone.

Every probe is the same logistic regression, its regularisation chosen by cross-validation over groups of the training
split. What differs is what it sees: the hidden states of one layer, or nothing but the input (its words, or its words
with their positions). A hidden-state probe is interesting only as far as it beats the input.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler

from memgen import statistics

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 4
INPUT_BASELINES = ("words", "words and positions")


def fit_probe(features, labels: np.ndarray, groups: np.ndarray, sparse: bool = False) -> GridSearchCV:
    """Fit a logistic regression, its regularisation chosen by grouped cross-validation.

    Parameters
    ----------
    features
        [rows, d], dense or sparse.
    labels
        +1 or -1.
    groups
        Rows of one group are never divided between folds.
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2 or len(np.unique(labels)) < 2:
        raise ValueError(f"A probe needs two groups and two labels or more, not {n_groups} groups of {set(labels)}.")
    # Sparse columns keep their zeros: they are scaled, not centred.
    scaler = MaxAbsScaler() if sparse else StandardScaler()
    classifier = make_pipeline(scaler, LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": list(STRENGTHS)}
    # The labels are named because a fold of few groups may have only one of them.
    loss = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba", labels=np.unique(labels))
    search = GridSearchCV(classifier, grid, cv=GroupKFold(min(FOLDS, n_groups)), scoring=loss)
    return search.fit(features, labels, groups=groups)


class InputFeatures:
    """What can be read from the input alone, for a linear probe.

    Parameters
    ----------
    baseline
        ``words``: how often each token comes; ``words and positions``: which token stands at each position.
    """

    def __init__(self, baseline: str):
        if baseline not in INPUT_BASELINES:
            raise ValueError(f"The baseline {baseline!r} is unknown; allowed are {', '.join(INPUT_BASELINES)}.")
        self.baseline = baseline

    def fit(self, input_ids: np.ndarray) -> "InputFeatures":
        """Learn which tokens there are, from prompts [rows, pos]."""
        self.n_tokens_ = int(input_ids.max()) + 1
        self.encoder_ = OneHotEncoder(handle_unknown="ignore", dtype=np.float32).fit(input_ids)
        return self

    def transform(self, input_ids: np.ndarray):
        """Features [rows, columns], sparse where they are positions."""
        if self.baseline == "words and positions":
            return self.encoder_.transform(input_ids)
        known = input_ids < self.n_tokens_
        counts = np.zeros((len(input_ids), self.n_tokens_), dtype=np.float32)
        rows = np.repeat(np.arange(len(input_ids)), input_ids.shape[1]).reshape(input_ids.shape)
        np.add.at(counts, (rows[known], input_ids[known]), 1.0)
        return counts


def evaluate(
    classifier, features, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator, n_resamples: int
) -> dict[str, float]:
    """Accuracy with its interval (clustered by group), AUROC (nan for a single label) and n."""
    right = (classifier.predict(features) == labels).astype(float)
    estimate = statistics.clustered_mean(right, groups, rng, n_resamples=n_resamples)
    both = len(np.unique(labels)) == 2
    auroc = roc_auc_score(labels, classifier.predict_proba(features)[:, 1]) if both else np.nan
    return {
        "n": len(labels),
        "accuracy": estimate.value,
        "auroc": float(auroc),
        "ci_low": estimate.low,
        "ci_high": estimate.high,
    }


def majority(labels: np.ndarray) -> DummyClassifier:
    """The classifier that always says the most frequent label."""
    return DummyClassifier(strategy="prior").fit(np.zeros((len(labels), 1)), labels)


def probe_table(
    states: Mapping[str, Mapping[str, np.ndarray]],
    frames: Mapping[str, pd.DataFrame],
    population: str,
    rng: np.random.Generator,
    n_resamples: int,
) -> pd.DataFrame:
    """Probes on every layer of every site, the input-only baselines and the majority, in one table.

    Parameters
    ----------
    states
        For each split: site -> activations [rows, layer, neuron], in the order of the frame.
    frames
        For each split: `input_ids` (prompts of one length), `behavior` (+1, -1), `group`. All is fitted on ``train``.
    population
        Which inputs these are; written in the column `probe`.

    Returns
    -------
    pandas.DataFrame
        `site, layer` (None for baselines)`, probe, baseline` (``hidden states`` for probes)`, split, n, accuracy,
        auroc, ci_low, ci_high`; one row for each split but ``train``.
    """
    label = {split: frame.behavior.to_numpy() for split, frame in frames.items()}
    group = {split: frame.group.to_numpy(dtype=str) for split, frame in frames.items()}
    ids = {split: np.stack(frame.input_ids.to_list()) for split, frame in frames.items()}
    rows = []

    def add(classifier, features, **about) -> None:
        for split in frames:
            if split != "train":
                numbers = evaluate(classifier, features[split], label[split], group[split], rng, n_resamples)
                rows.append({"probe": population, "split": split, **about, **numbers})

    for site, layers in states["train"].items():
        for layer in range(layers.shape[1]):
            own = {split: states[split][site][:, layer] for split in frames}
            probe = fit_probe(own["train"], label["train"], group["train"])
            add(probe, own, site=site, layer=layer, baseline="hidden states")
    for baseline in INPUT_BASELINES:
        encoder = InputFeatures(baseline).fit(ids["train"])
        own = {split: encoder.transform(ids[split]) for split in frames}
        probe = fit_probe(own["train"], label["train"], group["train"], sparse=True)
        add(probe, own, site=None, layer=None, baseline=baseline)
    nothing = {split: np.zeros((len(label[split]), 1)) for split in frames}
    add(majority(label["train"]), nothing, site=None, layer=None, baseline="majority")
    columns = ["site", "layer", "probe", "baseline", "split", "n", "accuracy", "auroc", "ci_low", "ci_high"]
    table = pd.DataFrame(rows)[columns]
    table["layer"] = table.layer.astype("Int64")
    return table


def best_layer(table: pd.DataFrame) -> pd.Series:
    """The test row of the probe whose accuracy on validation groups is highest (the earlier layer of equals)."""
    probes = table[table.baseline == "hidden states"]
    chosen = probes.loc[probes[probes.split == "validation"].accuracy.idxmax()]
    own = probes[(probes.split == "test") & (probes.site == chosen.site) & (probes.layer == chosen.layer)]
    return own.iloc[0]


def best_input_baseline(table: pd.DataFrame) -> pd.Series:
    """The test row of the strongest input-only baseline or majority: chosen on test, in the baseline's favour."""
    baselines = table[(table.baseline != "hidden states") & (table.split == "test")]
    return baselines.loc[baselines.accuracy.idxmax()]


def by_number_of_pairs(
    states: Mapping[str, np.ndarray],
    pairs: Mapping[str, pd.DataFrame],
    sizes: list[int],
    rng: np.random.Generator,
    n_resamples: int,
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
        `n_pairs, n, accuracy, auroc, ci_low, ci_high`.
    """
    label = {split: np.tile([1, -1], len(own)) for split, own in pairs.items()}
    group = {split: np.repeat(own.group.to_numpy(dtype=str), 2) for split, own in pairs.items()}
    order = rng.permutation(len(pairs["train"]))
    rows = []
    for size in sizes:
        members = (2 * order[:size, None] + np.arange(2)).ravel()
        if len(np.unique(group["train"][members])) < 2:
            continue
        probe = fit_probe(states["train"][members], label["train"][members], group["train"][members])
        numbers = evaluate(probe, states["test"], label["test"], group["test"], rng, n_resamples)
        rows.append({"n_pairs": size, **numbers})
    return pd.DataFrame(rows)


def most_balanced(frame: pd.DataFrame, column: str) -> int:
    """The value of `column` at which the rarer `behavior` is most frequent."""
    rarer = frame.groupby(column).behavior.agg(lambda b: min((b == 1).sum(), (b == -1).sum()))
    return int(rarer.idxmax())
