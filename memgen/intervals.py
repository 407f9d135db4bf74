"""Every interval of the book: 95 %, bounded, clustered by group, and never narrower than the data can tell.

Rows that share a group (a bound name, an unordered pair of addends) are not independent, so the variance of an estimate
comes from the sums of whole groups, and permutations flip whole groups (errors clustered by entity: Miller 2024,
arXiv 2411.00640). Only :func:`sign_flip_p` draws random numbers.

- Shares and AUROC: the exact binomial (Clopper-Pearson) interval at the *effective* number of rows, which is the number
  over the design effect, corrected for the number of groups (Korn & Graubard 1998, Survey Methodology 24, 193-201).
- Means: the delete-one-group jackknife with Student's t (Efron & Tibshirani 1993, chapter 11).
- Over seeds: Student's t on the logit scale of the bounds; none for three seeds or fewer.

``tests/test_intervals.py`` simulates coverage at 3, 10, 20 and 60 groups, at rates from 0 to 1, and over 4 to 8 seeds.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

UPPER_TAIL = 0.975
LEAST_SEEDS = 4  # Student's t with 2 degrees of freedom or fewer says nothing of use
ROUNDING = 1e-12  # what differs by less, on its scale, is the same
BATCH = 2**22  # numbers held at a time while permuting: 32 MiB
Bounds = tuple[float, float]


class Estimate(NamedTuple):
    """A value, its 95 % interval (NaN where there is none) and the number of rows, groups or seeds behind it."""

    value: float
    ci_low: float
    ci_high: float
    n: int


def share(values: ArrayLike, groups: ArrayLike) -> Estimate:
    """Estimate the mean of rows [rows]: truth values, or numbers from 0 to 1 such as means over a control's draws.

    `groups` [rows] has the group of each. `n` counts rows; one group alone has no interval, and no rows no mean: NaN.
    """
    values, codes = _rows(values, groups)
    if len(values) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"values of a share must be from 0 to 1, not from {values.min()} to {values.max()}.")
    value = float(values.mean())
    residuals = np.bincount(codes, weights=values - value) / len(values)
    variance = _covariance(residuals, residuals, len(residuals))
    return Estimate(value, *_clopper_pearson(value, variance, np.bincount(codes), len(values)), len(values))


def difference(a: ArrayLike, b: ArrayLike, groups: ArrayLike) -> Estimate:
    """Estimate the mean of ``a - b`` over rows that stand for the same input; both are numbers from 0 to 1.

    The difference is the share by which rows rise minus the share by which rows fall. The intervals of these two are
    combined with their covariance between groups (MOVER: Newcombe 1998, Statistics in Medicine 17, 2635-2650; Zou 2007,
    Psychological Methods 12, 399-413), so that there is width where no row differs.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"a and b must be paired row for row, but their shapes are {a.shape} and {b.shape}.")
    change, codes = _rows(a - b, groups)
    parts = [change.clip(min=0), (-change).clip(min=0)]
    rise, fall = (share(part, codes) for part in parts)
    value = float(change.mean()) if len(change) else np.nan
    if np.isnan(rise.ci_low):
        return rise._replace(value=value)
    residuals = [np.bincount(codes, weights=part - part.mean()) for part in parts]
    norms = np.prod([np.linalg.norm(part) for part in residuals])
    correlation = residuals[0] @ residuals[1] / norms if norms > 0 else 0.0

    def distance(of_rise: float, of_fall: float) -> float:
        return float(np.sqrt(max(of_rise**2 + of_fall**2 - 2 * correlation * of_rise * of_fall, 0.0)))

    low = value - distance(rise.value - rise.ci_low, fall.ci_high - fall.value)
    high = value + distance(rise.ci_high - rise.value, fall.value - fall.ci_low)
    return Estimate(value, max(low, -1.0), min(high, 1.0), len(change))


def mean(values: ArrayLike, groups: ArrayLike) -> Estimate:
    """Estimate the mean of unbounded rows (nats, activations) by leaving out each group in turn; `n` counts rows.

    No interval for one group, or where the mean is the same without any of them.
    """
    values, codes = _rows(values, groups)
    if len(values) == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value, n_groups = float(values.mean()), codes.max() + 1
    if n_groups < 2:
        return Estimate(value, np.nan, np.nan, len(values))
    others = 1 - np.eye(n_groups)
    without = (others @ np.bincount(codes, weights=values)) / (others @ np.bincount(codes))
    half = float(scipy.special.stdtrit(n_groups - 1, UPPER_TAIL) * np.sqrt((n_groups - 1) * without.var()))
    low, high = (value - half, value + half) if half > ROUNDING * abs(value) else (np.nan, np.nan)
    return Estimate(value, low, high, len(values))


def auroc_value(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the ROC curve; labels above 0 are the positive class. NaN where a class is absent."""
    positive = np.asarray(labels) > 0
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return np.nan
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auroc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> Estimate:
    """Estimate the AUROC with the clustered variance of its structural components and the interval of a share.

    Obuchowski (1997), Biometrics 53, 567-578; with every row its own group the variance is DeLong's (1988). The rows of
    the class with fewer groups count as the rows of a share; `n` counts all. No interval where a class is of one group.
    """
    positive = np.asarray(labels) > 0
    scores, codes = _rows(scores, groups)
    if positive.shape != scores.shape:
        raise ValueError(f"labels and scores must be of one length, not {positive.shape} and {scores.shape}.")
    value = auroc_value(positive, scores)
    if np.isnan(value):
        return Estimate(np.nan, np.nan, np.nan, len(scores))
    residuals, sizes = [], []
    for rows, sign in ((positive, 0.5), (~positive, -0.5)):
        other = np.sort(scores[~rows])
        below = sum(np.searchsorted(other, scores[rows], side) for side in ("left", "right")) / len(other)
        component = 0.5 + sign * (below - 1)  # the share of the other class that a row beats
        residuals.append(np.bincount(codes[rows], weights=component - value, minlength=codes.max() + 1) / rows.sum())
        sizes.append(np.unique(codes[rows], return_counts=True)[1])
    variance = sum(_covariance(part, part, len(size)) for part, size in zip(residuals, sizes, strict=True))
    variance += 2 * _covariance(residuals[0], residuals[1], len(residuals[0]))
    scarcer = min(sizes, key=lambda size: (len(size), size.sum()))
    return Estimate(value, *_clopper_pearson(value, variance, scarcer, len(scores)), len(scores))


def estimate_by(
    frame: pd.DataFrame,
    keys: Sequence[str],
    value: str = "value",
    kind: Literal["share", "mean"] = "share",
    inputs: str | None = None,
) -> pd.DataFrame:
    """Estimate :func:`share` or :func:`mean` of a column for each combination of `keys`, in order of appearance.

    Rows that agree in the column `inputs`, such as the draws of a control for one input, are first averaged. The column
    `group` holds the groups. Returns `keys`, `value`, `ci_low`, `ci_high`, `n`.
    """
    estimator, rows = {"share": share, "mean": mean}[kind], []
    for key, part in frame.groupby(list(keys), sort=False, dropna=False):
        if inputs is not None:
            part = part.groupby(inputs).agg({value: "mean", "group": "first"})
        rows.append([*key, *estimator(part[value], part.group)])
    return pd.DataFrame(rows, columns=[*keys, *Estimate._fields])


def over_seeds(values: ArrayLike, bounds: Bounds = (0.0, 1.0)) -> Estimate:
    """Estimate the mean over seeds, with Student's t interval on the logit scale between `bounds`.

    Seeds without a value (NaN) are left out, and `n` counts the others: three or fewer have no interval.
    """
    numbers = np.asarray(values, dtype=float).ravel()
    numbers = numbers[~np.isnan(numbers)]
    if ((numbers < bounds[0]) | (numbers > bounds[1])).any():
        raise ValueError(f"values must be from {bounds[0]} to {bounds[1]}, not {numbers.min()} to {numbers.max()}.")
    n, value = len(numbers), float(numbers.mean()) if len(numbers) else np.nan
    if n < LEAST_SEEDS:
        return Estimate(value, np.nan, np.nan, n)
    return Estimate(value, *_student(value, float(scipy.stats.sem(numbers)), n, bounds), n)


def seeds_by(frame: pd.DataFrame, keys: Sequence[str], bounds: Bounds = (0.0, 1.0)) -> pd.DataFrame:
    """Estimate :func:`over_seeds` of `value` for each combination of `keys`; columns as of :func:`estimate_by`."""
    parts = frame.groupby(list(keys), sort=False, dropna=False).value
    rows = [[*key, *over_seeds(values, bounds)] for key, values in parts]
    return pd.DataFrame(rows, columns=[*keys, *Estimate._fields])


def sign_flip_p(
    sums: NDArray, rng: np.random.Generator, n_permutations: int = 1000, labels: NDArray | None = None
) -> NDArray[np.float64]:
    """Test each unit's mean paired difference against zero by flipping the signs of whole groups.

    Under the null hypothesis the two sides of a pair are exchangeable, so each group's differences are as likely with
    the opposite sign. All units share the flips, which keeps their dependence.

    Parameters
    ----------
    sums : array of shape (groups, units)
        Memorization minus generalization, summed over each group's pairs: a group's sum flips as a whole.
    labels : array of shape (draws, groups), optional
        +1, or -1 where the labels of a group are exchanged, to test each draw of labels by the same flips.

    Returns
    -------
    array of shape (units,) or (draws, units)
        Two-sided p-values ``(b + 1) / (m + 1)``, where b of the m flips lie at least as far from zero (Phipson & Smyth
        2010).
    """
    observed = np.abs(sums.sum(axis=0, keepdims=True) if labels is None else labels @ sums)
    bars = observed * (1 - 1e-9)  # a flip that gives the same sum must count, whatever the rounding
    exceeding = np.zeros_like(bars)
    step = max(1, BATCH // max(sums.shape))
    for start in range(0, n_permutations, step):
        signs = rng.choice([-1.0, 1.0], size=(min(step, n_permutations - start), len(sums)))
        flipped = np.abs(signs @ sums)
        for count, bar in zip(exceeding, bars, strict=True):
            count += (flipped >= bar).sum(axis=0)
    p = (exceeding + 1) / (n_permutations + 1)
    return p[0] if labels is None else p


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's p-values over a flat array, adjusted for all of its tests, whatever their dependence."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return adjusted


def _rows(values: ArrayLike, groups: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Check rows; return values as numbers and groups as codes 0, 1, ..."""
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    if values.ndim != 1 or groups.shape != values.shape:
        raise ValueError(f"values and groups must be flat and of one length, not {values.shape} and {groups.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite numbers.")
    return values, np.unique(groups, return_inverse=True)[1]


def _covariance(a: NDArray, b: NDArray, n_groups: int) -> float:
    """Return the covariance of two sums over groups from their residuals by group."""
    return float(a @ b) * n_groups / max(n_groups - 1, 1)


def _clopper_pearson(value: float, variance: float, sizes: NDArray, n_rows: int) -> tuple[float, float]:
    """Return the exact interval of a share at the effective number of the rows that groups of these `sizes` have.

    Few hits (or few misses) tell little about how alike the rows of a group are: their groups seldom have a second one.
    So the design effect is averaged over the hits and one imagined hit, whose group consists of hits alone. Where there
    is none but that, each group counts as one row.
    """
    if len(sizes) < 2:
        return np.nan, np.nan
    n, largest_effect = sizes.sum(), sizes @ sizes / sizes.sum()
    binomial = value * (1 - value) / (n - 1)
    hits = n * min(value, 1 - value)
    effect = ((hits * variance / binomial if binomial > 0 else 0.0) + largest_effect) / (hits + 1)
    if variance > 0:  # it was estimated from few groups
        effect *= (scipy.special.stdtrit(len(sizes) - 1, UPPER_TAIL) / scipy.special.stdtrit(n - 1, UPPER_TAIL)) ** 2
    effective = min(n / effect, n_rows)
    hits, misses = value * effective, (1 - value) * effective
    low = scipy.special.betaincinv(hits, misses + 1, 1 - UPPER_TAIL) if hits > 0 else 0.0
    high = scipy.special.betaincinv(hits + 1, misses, UPPER_TAIL) if misses > 0 else 1.0
    return float(low), float(high)


def _student(value: float, error: float, n: int, bounds: Bounds) -> tuple[float, float]:
    """Return Student's t interval with n - 1 degrees of freedom, on the logit scale between the bounds.

    Where the error is 0, n observations were the same. With 95 % confidence those that are not make up less than
    ``1 - .025 ** (1 / n)``, and these may lie anywhere between the bounds.
    """
    half = float(scipy.special.stdtrit(n - 1, UPPER_TAIL)) * error
    width = bounds[1] - bounds[0]
    scaled, others = (value - bounds[0]) / width, 1 - (1 - UPPER_TAIL) ** (1 / n)
    low, high = scaled * (1 - others), scaled * (1 - others) + others
    if error > ROUNDING * width and 0 < scaled < 1:
        logit, half = scipy.special.logit(scaled), half / width / (scaled * (1 - scaled))
        low, high = float(scipy.special.expit(logit - half)), float(scipy.special.expit(logit + half))
    return bounds[0] + low * width, bounds[0] + high * width
