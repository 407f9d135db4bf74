"""Estimates that respect groups, and tests on paired differences; thin over scipy.

Rows that share a group (a bound name, an unordered pair of addends) are not independent. So intervals
resample whole groups and permutations flip whole groups (errors clustered by entity: Miller 2024,
arXiv 2411.00640).
Generators are passed in and never global.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

BATCH = 2**22  # numbers held at a time while resampling: 32 MiB


class Estimate(NamedTuple):
    """A value, its interval (NaN where there is none) and the number of rows or seeds behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def clustered_mean(
    values: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the mean of rows with a percentile bootstrap interval that resamples groups.

    Parameters
    ----------
    values : array of shape (rows,)
        Numbers or truth values, one a row.
    groups : array of shape (rows,)
        The group of each row.
    rng : numpy.random.Generator
        Where the resamples come from.

    Returns
    -------
    Estimate
        The mean over rows; `n` counts rows. One group alone has no interval, and no rows have no mean: NaN.

    Notes
    -----
    A resample's mean is the sum over its rows divided by their number (the ratio estimator), so that large
    groups weigh as much as they do in the value itself. Efron & Tibshirani (1993), chapters 8 and 13.
    """
    values, codes = _rows(values, groups)
    if len(values) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    low, high = _percentiles(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        rng,
        n_resamples,
        confidence,
        True,
    )
    return Estimate(float(values.mean()), low, high, len(values))


def clustered_statistic(
    function: Callable[..., float],
    arrays: Sequence[ArrayLike],
    groups: ArrayLike,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate any statistic of rows, such as :func:`auroc`, with an interval that resamples groups.

    Parameters
    ----------
    function : callable
        Takes the arrays, row for row, and returns one number.
    arrays : sequence of arrays of shape (rows, ...)
        What `function` takes, in its order.

    Notes
    -----
    Resamples for which the statistic is undefined (NaN, such as the AUROC of one class) are left out; where
    they are more than half, there is no interval.
    """
    columns = [np.asarray(array) for array in arrays]
    _, codes = _rows(np.zeros(len(columns[0])), groups)
    if any(len(column) != len(codes) for column in columns):
        raise ValueError(f"arrays must have one entry for each of the {len(codes)} rows.")
    if len(codes) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])

    def of_groups(sampled: NDArray) -> float:
        rows = np.concatenate([members[group] for group in sampled])
        return float(function(*(column[rows] for column in columns)))

    value = float(function(*columns))
    low, high = _percentiles((np.arange(len(members)),), of_groups, rng, n_resamples, confidence, False)
    return Estimate(value, low, high, len(codes))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the ROC curve from ranks; NaN where one class is absent.

    Labels above 0 are the positive class. The result is that of :func:`sklearn.metrics.roc_auc_score`, fast
    enough to resample thousands of times.
    """
    positive = np.asarray(labels) > 0
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return np.nan
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def clustered_auroc(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the AUROC with an interval that resamples groups: `clustered_statistic` of :func:`auroc`, but fast.

    Notes
    -----
    Of each pair of groups it is counted once how often a positive row of the one lies above a negative row of the
    other (ties count a half). A resample that takes group g `c_g` times weighs that count by `c_g c_h`.
    """
    positive = np.asarray(labels) > 0
    scores, codes = _rows(scores, groups)
    if positive.shape != scores.shape:
        raise ValueError(f"labels and scores must be of one length, not {positive.shape} and {scores.shape}.")
    if len(codes) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    n_groups = int(codes.max()) + 1
    above = np.zeros((n_groups, n_groups))
    for group in range(n_groups):
        negative = np.sort(scores[~positive & (codes == group)])
        wins = np.searchsorted(negative, scores[positive], "left") + np.searchsorted(
            negative, scores[positive], "right"
        )
        above[:, group] = np.bincount(codes[positive], weights=wins / 2, minlength=n_groups)
    n_positive, n_negative = (np.bincount(codes[own], minlength=n_groups) for own in (positive, ~positive))

    def of_groups(sampled: NDArray, axis: int = -1) -> NDArray:
        drawn = sampled.reshape(-1, n_groups)
        places = drawn + n_groups * np.arange(len(drawn))[:, None]
        times = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
        pairs = (times @ n_positive) * (times @ n_negative)
        area = np.divide(((times @ above) * times).sum(1), pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
        return area.reshape(sampled.shape[:-1])

    low, high = _percentiles((np.arange(n_groups),), of_groups, rng, n_resamples, confidence, True)
    return Estimate(auroc(positive, scores), low, high, len(codes))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the mean of ``a - b`` over rows that stand for the same input, as `clustered_mean` does."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"a and b must be paired row for row, but their shapes are {a.shape} and {b.shape}.")
    return clustered_mean(a - b, groups, rng, n_resamples, confidence)


def sign_flip_p(
    differences: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    n_permutations: int = 1000,
) -> NDArray[np.float64]:
    """Test each unit's mean paired difference against zero by flipping the signs of whole groups.

    Under the null hypothesis the two sides of a pair are exchangeable, so each group's differences are as
    likely with the opposite sign. All units share the flips, which keeps their dependence.

    Parameters
    ----------
    differences : array of shape (pairs, units) or (pairs,)
        Memorization minus generalization, one row a pair.
    groups : array of shape (pairs,)
        The group of each pair.

    Returns
    -------
    array of shape (units,), or a number for a flat array
        Two-sided p-values ``(b + 1) / (m + 1)``, where b of the m flips lie at least as far from zero
        (Phipson & Smyth 2010).
    """
    differences = np.asarray(differences, dtype=float)
    rows = differences.reshape(len(differences), -1)
    _, codes = _rows(np.zeros(len(rows)), groups)
    if len(rows) == 0:
        raise ValueError("differences must have at least one pair.")
    if not np.isfinite(rows).all():
        raise ValueError("differences must be finite numbers.")
    sums = np.zeros((codes.max() + 1, rows.shape[1]))
    np.add.at(sums, codes, rows)
    bar = np.abs(sums.sum(axis=0)) * (1 - 1e-9)  # a flip that gives the same sum must count, whatever the rounding
    exceeding = np.zeros(rows.shape[1])
    done, step = 0, max(1, BATCH // max(sums.shape))
    while done < n_permutations:
        size = min(step, n_permutations - done)
        signs = rng.choice([-1.0, 1.0], size=(size, len(sums)))
        exceeding += (np.abs(signs @ sums) >= bar).sum(axis=0)
        done += size
    p = (exceeding + 1) / (n_permutations + 1)
    return p.reshape(differences.shape[1:])[()]


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Return Benjamini-Hochberg q-values over all entries of `p`, in its shape."""
    p = np.asarray(p, dtype=float)
    return scipy.stats.false_discovery_control(p.ravel(), method="bh").reshape(p.shape)


def over_seeds(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Estimate the mean over seeds with Student's t interval; one seed has none.

    Seeds without a value (NaN) are left out, and `n` counts the others.
    """
    numbers = np.asarray(values, dtype=float).ravel()
    numbers = numbers[~np.isnan(numbers)]
    n = len(numbers)
    if n < 2:
        return Estimate(float(numbers[0]) if n else np.nan, np.nan, np.nan, n)
    mean = float(numbers.mean())
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * scipy.stats.sem(numbers))
    return Estimate(mean, mean - half, mean + half, n)


def _rows(values: ArrayLike, groups: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Check rows; return values as numbers and groups as codes 0, 1, ..."""
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    if values.ndim != 1 or groups.shape != values.shape:
        raise ValueError(f"values and groups must be flat and of one length, not {values.shape} and {groups.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite numbers.")
    return values, np.unique(groups, return_inverse=True)[1]


def _percentiles(
    data: tuple[NDArray, ...],
    statistic: Callable[..., NDArray | float],
    rng: np.random.Generator,
    n_resamples: int,
    confidence: float,
    vectorized: bool,
) -> tuple[float, float]:
    """Resample the entries of `data`, taken together, for a percentile interval of `statistic`."""
    n_groups = len(data[0])
    if n_groups < 2:
        return np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # undefined resamples are counted below
        result = scipy.stats.bootstrap(
            data,
            statistic,
            n_resamples=n_resamples,
            batch=max(1, BATCH // n_groups),
            paired=True,
            vectorized=vectorized,
            method="percentile",
            rng=rng,
        )
    drawn = result.bootstrap_distribution
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < n_resamples / 2:
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
