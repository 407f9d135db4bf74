"""One probe: a logistic regression, and what it may see."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, OneHotEncoder, StandardScaler

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 4
LINEAR, SQUARES = "hidden states", "hidden states and squares"
PROBES = (LINEAR, SQUARES)
INPUT_BASELINES = ("words", "words and positions")


def fit_probe(
    features, labels: np.ndarray, groups: np.ndarray, sparse: bool = False, squares: bool = False
) -> GridSearchCV:
    """Fit a logistic regression, its regularisation chosen by grouped cross-validation.

    Parameters
    ----------
    features
        [rows, d], dense or sparse.
    labels
        +1 or -1.
    groups
        Rows of one group are never divided between folds.
    squares
        Whether the probe also sees the square of each (standardized) feature. Where each input has an answer of its
        own, the behaviours may differ in how large the states are along many directions, and in the mean along none.
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2 or len(np.unique(labels)) < 2:
        raise ValueError(f"A probe needs two groups and two labels or more, not {n_groups} groups of {set(labels)}.")
    # Sparse columns keep their zeros: they are scaled, not centred.
    steps = [MaxAbsScaler() if sparse else StandardScaler()]
    if squares:
        steps += [FunctionTransformer(_with_squares), StandardScaler()]
    classifier = make_pipeline(*steps, LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": list(STRENGTHS)}
    # The labels are named because a fold of few groups may have only one of them.
    loss = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba", labels=np.unique(labels))
    search = GridSearchCV(classifier, grid, cv=GroupKFold(min(FOLDS, n_groups)), scoring=loss)
    return search.fit(features, labels, groups=groups)


def _with_squares(features: np.ndarray) -> np.ndarray:
    return np.hstack([features, features**2])


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
