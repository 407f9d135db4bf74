"""Probes of hidden states: any scikit-learn classifier, a logistic regression by default."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler

from memgen.prediction.datasets import Dataset

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
FOLDS = 4
STATES, SQUARES = "hidden states", "hidden states and squares"  # what a probe sees
MakeProbe = Callable[[], BaseEstimator]


def logistic() -> LogisticRegression:
    """The default probe; :func:`fit_probe` chooses the C of a logistic regression."""
    return LogisticRegression(max_iter=1000)


def study_probe(width: int, seed: int) -> MLPClassifier:
    """The study's probe of a layer of `width` neurons: an MLP that stops early by the accuracy on a fifth of its rows.

    Its learning rate is 1e-3: the study's 1e-5 is for 80,000 pairs, and would leave an MLP of hundreds as it began. For
    the same reason it waits for 30 epochs in vain, which are few steps.
    """
    return MLPClassifier(
        (2 * width, 2 * width),
        batch_size=32,
        learning_rate_init=1e-3,
        max_iter=100,
        early_stopping=True,
        n_iter_no_change=30,
        validation_fraction=0.2,
        random_state=seed,
    )


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """A fitted predictor of the behaviour, and where it reads.

    Attributes
    ----------
    kind
        ``hidden states``, ``input alone``, ``oracle`` (of the design), ``reading`` or ``control``.
    probe
        Its name, such as ``hidden states and squares`` or ``majority``.
    site, layer
        None for a predictor that sees the input alone.
    score
        Gives each row of a dataset a number, above 0 for memorization: log-odds (nats) or a signed distance.
    """

    kind: str
    probe: str
    site: str | None
    layer: int | None
    score: Callable[[Dataset], np.ndarray]

    def correct(self, dataset: Dataset) -> np.ndarray:
        """Whether each row is classified correctly [rows], 0 or 1."""
        return ((self.score(dataset) > 0) == (dataset.labels > 0)).astype(float)


def fit_probe(
    features: Any,
    labels: np.ndarray,
    groups: np.ndarray,
    make_probe: MakeProbe = logistic,
    squares: bool = False,
    sparse: bool = False,
) -> BaseEstimator:
    """Scale the features [rows, d], dense or sparse, and fit a classifier of the labels, +1 or -1.

    Parameters
    ----------
    groups
        Of a logistic regression, C is chosen by cross-validation that never divides a group, on folds that leave both
        labels to learn from (the least C where no fold does); other classifiers do not see the groups.
    make_probe
        Makes an unfitted scikit-learn classifier, such as ``sklearn.svm.SVC``.
    squares
        Whether the probe also sees the square of each standardized feature. Where each answer has a direction of its
        own, the behaviours may differ in how large the states are along many directions, and in the mean along none.
    sparse
        Whether zeros stay zeros: features are divided by their largest magnitude instead of standardized.
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2 or len(np.unique(labels)) < 2:
        raise ValueError(f"A probe needs two groups and two labels or more, not {n_groups} groups of {set(labels)}.")
    steps = [MaxAbsScaler() if sparse else StandardScaler()]
    if squares:
        steps += [FunctionTransformer(_with_squares), StandardScaler()]
    classifier = make_probe()
    pipeline = make_pipeline(*steps, classifier)
    if not isinstance(classifier, LogisticRegression):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # how long an MLP is trained is a setting
            warnings.filterwarnings("ignore", "Got .batch_size.")  # of fewer rows than a batch
            return pipeline.fit(features, labels)
    # With few groups a fold may leave a single label to learn from; where it is asked for one, the labels are named.
    folds = GroupKFold(min(FOLDS, n_groups)).split(features, labels, groups)
    folds = [(fit, asked) for fit, asked in folds if len(np.unique(labels[fit])) > 1]
    if not folds:
        classifier.set_params(C=STRENGTHS[0])
        return pipeline.fit(features, labels)
    loss = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba", labels=np.unique(labels))
    grid = {"logisticregression__C": list(STRENGTHS)}
    return GridSearchCV(pipeline, grid, cv=folds, scoring=loss).fit(features, labels)


def _with_squares(features: np.ndarray) -> np.ndarray:
    return np.hstack([features, features**2])


def scores(classifier: Any, features: Any) -> np.ndarray:
    """The decision function of a classifier of -1 and +1, or its log-odds (nats) where it has none [rows]."""
    if hasattr(classifier, "decision_function"):
        return classifier.decision_function(features)
    tiny = np.finfo(float).tiny
    log_p = np.log(np.maximum(classifier.predict_proba(features), tiny))
    return log_p[:, 1] - log_p[:, 0]


def fit_probes(
    train: Dataset,
    make_probe: MakeProbe = logistic,
    sites: Iterable[str] | None = None,
    sees: Iterable[str] = (STATES, SQUARES),
) -> list[FittedProbe]:
    """Fit probes of each layer of each site (by default of all that the dataset has), with and without squares.

    `make_probe` makes an unfitted scikit-learn classifier, whose features are standardized first.
    """

    def fitted(site: str, layer: int, seen: str) -> FittedProbe:
        state = train.states[site][:, layer]
        classifier = fit_probe(state, train.labels, train.groups, make_probe, squares=seen == SQUARES)
        return FittedProbe(STATES, seen, site, layer, lambda data: scores(classifier, data.states[site][:, layer]))

    return [
        fitted(site, layer, seen)
        for site in (train.states if sites is None else sites)
        for layer in range(train.states[site].shape[1])
        for seen in sees
    ]
