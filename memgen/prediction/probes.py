"""Probes of hidden states: any scikit-learn classifier, a logistic regression by default."""

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from memgen.prediction.datasets import Dataset

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
FOLDS = 4
EPOCHS, EPOCHS_IN_VAIN = 100, 30  # of the study's probe, at most
STATES, SQUARES = "hidden states", "hidden states and squares"  # what a probe sees
MakeProbe = Callable[[], BaseEstimator]


def logistic() -> LogisticRegression:
    """The default probe; :func:`fit_probe` chooses the C of a logistic regression."""
    return LogisticRegression(max_iter=1000)


def train_early(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int,
    epochs: int,
    patience: int,
    badness: Callable[[nn.Module], float],
) -> None:
    """Train a network that gives log-odds [rows] on labels of 0 and 1; it ends as it was in its least bad epoch.

    `badness` is asked after every epoch; of equals the first counts, and after `patience` epochs in vain it is over.
    """
    least, best_epoch, best = np.inf, 0, network.state_dict()
    for epoch in range(epochs):
        network.train()
        for rows in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(network(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            bad = badness(network)
        if bad < least:
            least, best_epoch, best = bad, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= patience:
            break
    network.load_state_dict(best)


class StudyProbe(ClassifierMixin, BaseEstimator):
    """The study's probe of a layer of `width` neurons: an MLP that stops early by the accuracy on a fifth of its rows.

    scikit-learn's ``MLPClassifier`` with two hidden layers of twice the width, Adam and batches of 32, on any `device`:
    on a CPU a layer of a thousand neurons takes minutes. Its learning rate is 1e-3: the study's 1e-5 is for thousands
    of pairs, and would leave an MLP of hundreds as it began. For the same reason it waits for 30 epochs in vain, which
    are few steps.
    """

    def __init__(self, width: int, seed: int, device: str = "cpu"):
        self.width, self.seed, self.device = width, seed, device

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit on features [rows, d] and two labels [rows]; of equals the earlier epoch counts."""
        self.classes_, target = np.unique(y, return_inverse=True)
        split = train_test_split(np.arange(len(target)), test_size=0.2, stratify=target, random_state=self.seed)
        states, labels = self._tensor(X), self._tensor(target)
        fitted, held_out = map(torch.from_numpy, split)
        hidden = 2 * self.width

        def badness(network: nn.Module) -> float:
            return float(((network(states[held_out]) > 0) != (labels[held_out] > 0)).float().mean())

        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self.seed)
            linear = [nn.Linear(*shape) for shape in ((states.shape[1], hidden), (hidden, hidden), (hidden, 1))]
            network = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2], nn.Flatten(0))
            self.network_ = network.to(self.device)
            optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
            train_early(network, optimizer, states[fitted], labels[fitted], 32, EPOCHS, EPOCHS_IN_VAIN, badness)
        return self

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32).to(self.device)

    @torch.no_grad()
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """The log-odds (nats) of the second label [rows]."""
        return self.network_(self._tensor(X)).cpu().double().numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The more probable label [rows]."""
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The probability of each label [rows, 2]."""
        p = expit(self.decision_function(X))
        return np.column_stack([1 - p, p])


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
    sites = list(train.states if sites is None else sites)
    places = [(site, layer, seen) for site in sites for layer in range(train.states[site].shape[1]) for seen in sees]
    # Several threads fit a probe each: of a single fit they would make little use.
    n_threads = 1 if make_probe is not logistic else min(torch.get_num_threads(), len(places))
    with parallel_config("loky", n_jobs=n_threads, inner_max_num_threads=1 if n_threads > 1 else None):
        classifiers = Parallel()(
            delayed(fit_probe)(
                train.states[site][:, layer], train.labels, train.groups, make_probe, squares=seen == SQUARES
            )
            for site, layer, seen in places
        )

    def fitted(classifier: BaseEstimator, site: str, layer: int, seen: str) -> FittedProbe:
        return FittedProbe(STATES, seen, site, layer, lambda data: scores(classifier, data.states[site][:, layer]))

    return [fitted(classifier, *place) for classifier, place in zip(classifiers, places, strict=True)]
