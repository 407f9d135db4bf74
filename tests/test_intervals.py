"""Intervals: coverage by simulation, other implementations, bounds, and never a point.

Coverage is that of 300 seeded data sets for each case, so that a true coverage of 95 % shows as 92.5 to 97.5 %.
"""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from memgen import intervals

N_DATA_SETS = 300
N_GROUPS = [3, 10, 20, 60]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rows_in_groups(rng, n_groups, most=24):
    """The group of each row; groups have 4 rows or more, of different numbers."""
    return np.repeat(np.arange(n_groups), rng.integers(4, most, n_groups))


def beta_binomial(rng, groups, rate, icc):
    """Truth values of this rate whose correlation within groups is `icc`."""
    if icc == 0 or rate in (0, 1):
        return rng.random(len(groups)) < rate
    precision = 1 / icc - 1
    return rng.random(len(groups)) < rng.beta(rate * precision, (1 - rate) * precision, groups.max() + 1)[groups]


def correlated_normals(rng, groups, icc):
    """Standard normal numbers whose correlation within groups is `icc`."""
    shared = rng.normal(size=groups.max() + 1)[groups]
    return np.sqrt(icc) * shared + np.sqrt(1 - icc) * rng.normal(size=len(groups))


def coverage(draw, truth, n_data_sets=N_DATA_SETS):
    """The share of intervals of `draw()` that hold the truth; each must have width."""
    found = [draw() for _ in range(n_data_sets)]
    assert all(estimate.ci_low < estimate.ci_high for estimate in found)
    return np.mean([estimate.ci_low <= truth <= estimate.ci_high for estimate in found])


# shares


@pytest.mark.parametrize("n_groups", N_GROUPS)
@pytest.mark.parametrize("rate", [0, 0.02, 0.5, 0.98, 1])
@pytest.mark.parametrize("icc", [0, 0.2])
def test_a_share_is_covered(rng, n_groups, rate, icc):
    def draw():
        groups = rows_in_groups(rng, n_groups)
        return intervals.share(beta_binomial(rng, groups, rate, icc), groups)

    assert coverage(draw, rate) >= 0.93


@pytest.mark.parametrize("n_groups", N_GROUPS)
def test_a_rare_event_is_covered_where_groups_are_nearly_all_alike(rng, n_groups):
    """The hardest case: most data sets have hits in a group or two, and these look independent."""

    def draw():
        groups = rows_in_groups(rng, n_groups, most=40)
        return intervals.share(beta_binomial(rng, groups, 0.02, 0.5), groups)

    assert coverage(draw, 0.02) >= 0.93


@pytest.mark.parametrize("hits", [0, 1, 7, 25, 49, 50])
def test_a_share_of_independent_rows_has_the_exact_binomial_interval(hits):
    estimate = intervals.share(np.arange(50) < hits, np.arange(50))
    exact = scipy.stats.binomtest(hits, 50).proportion_ci(0.95, "exact")
    assert estimate == pytest.approx((hits / 50, exact.low, exact.high, 50))


@pytest.mark.parametrize("values", [np.zeros(120), np.ones(120), np.full(120, 0.3), np.tile([0.0, 1.0], 60)])
def test_a_share_is_never_a_point_and_stays_between_0_and_1(values):
    """Where the groups agree, each counts as no more than its rows and, without any hit or miss, as one row."""
    estimate = intervals.share(values, np.arange(120) // 6)
    assert 0 <= estimate.ci_low <= estimate.value <= estimate.ci_high <= 1
    assert estimate.ci_high - estimate.ci_low > 0.1
    if values[0] == values[-1] == 0:
        assert estimate.ci_high == pytest.approx(scipy.stats.binomtest(0, 20).proportion_ci().high)


def test_a_single_miss_does_not_make_an_interval_narrow():
    """No miss tells nothing of how alike rows are, and a single one tells hardly more."""
    groups = np.arange(1000) // 50
    widths = [np.ptp(intervals.share(np.arange(1000) >= misses, groups)[1:3]) for misses in (0, 1, 2)]
    assert widths[0] > widths[1] > widths[2] > widths[0] / 3


def test_rows_that_repeat_others_of_their_group_tell_nothing_new(rng):
    hits, labels, scores = rng.random(80) < 0.3, rng.random(80) < 0.5, rng.normal(size=80)
    groups, twice = np.arange(80), np.repeat(np.arange(80), 2)
    for once, repeated in (
        (intervals.share(hits, groups), intervals.share(hits[twice], twice)),
        (intervals.auroc(labels, scores, groups), intervals.auroc(labels[twice], scores[twice], twice)),
        (intervals.mean(scores, groups), intervals.mean(scores[twice], twice)),
        (intervals.difference(hits, labels, groups), intervals.difference(hits[twice], labels[twice], twice)),
    ):
        assert (repeated.n, repeated.value) == (160, pytest.approx(once.value))
        assert repeated[1:3] == pytest.approx(once[1:3], abs=0.01)


def test_means_over_draws_are_shares_too(rng):
    groups = rows_in_groups(rng, 20)
    draws = rng.random((len(groups), 5)) < 0.3
    averaged = intervals.share(draws.mean(1), groups)
    assert averaged.value == pytest.approx(draws.mean())
    assert np.ptp(averaged[1:3]) <= np.ptp(intervals.share(draws[:, 0], groups)[1:3]) + 0.01


# differences


@pytest.mark.parametrize("n_groups", N_GROUPS)
@pytest.mark.parametrize(
    ("rates", "dependence"),
    [((0.5, 0.5), 0.5), ((0.98, 0.02), 0), ((0.98, 0.95), 0.5), ((0.3, 0.25), 0.8), ((1, 0), 0)],
)
def test_a_difference_is_covered(rng, n_groups, rates, dependence):
    thresholds = scipy.stats.norm.ppf(rates)

    def draw():
        groups = rows_in_groups(rng, n_groups, most=16)
        shared, *rest = (correlated_normals(rng, groups, 0.2) for _ in range(3))
        a, b = (
            np.sqrt(dependence) * shared + np.sqrt(1 - dependence) * part < threshold
            for part, threshold in zip(rest, thresholds, strict=True)
        )
        return intervals.difference(a, b, groups)

    assert coverage(draw, rates[0] - rates[1], 200) >= 0.93


def test_a_difference_has_width_where_no_row_differs():
    for both in (np.zeros(100), np.ones(100), np.arange(100) % 2):
        estimate = intervals.difference(both, both, np.arange(100) // 10)
        assert estimate.value == 0
        assert -1 <= estimate.ci_low < -0.1 < 0.1 < estimate.ci_high <= 1
    always = intervals.difference(np.ones(100), np.zeros(100), np.arange(100) // 10)
    assert always.ci_high == 1 > always.ci_low > 0


def test_a_difference_agrees_with_the_paired_t_interval(rng):
    a, b = rng.random(2000) < 0.6, rng.random(2000) < 0.4
    estimate = intervals.difference(a, b, np.arange(2000))
    other = scipy.stats.ttest_rel(a.astype(float), b.astype(float)).confidence_interval()
    assert estimate.value == pytest.approx(a.mean() - b.mean())
    assert estimate[1:3] == pytest.approx((other.low, other.high), abs=0.003)
    reversed_ = intervals.difference(b, a, np.arange(2000))
    assert (-reversed_.ci_high, -reversed_.ci_low) == pytest.approx(estimate[1:3])
    with pytest.raises(ValueError, match="row for row"):
        intervals.difference(a, b[:-1], np.arange(2000))


# AUROC


def test_the_auroc_is_that_of_scikit_learn(rng):
    labels, scores = rng.integers(0, 2, 200), rng.integers(0, 10, 200)  # with ties
    for code in (labels, 2 * labels - 1, labels > 0):
        assert intervals.auroc_value(code, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert intervals.auroc(labels, scores, np.arange(200)).value == intervals.auroc_value(labels, scores)
    assert np.isnan(intervals.auroc_value([1, 1], [0.2, 0.3]))


@pytest.mark.parametrize("n_groups", N_GROUPS[1:])  # of three, a class may have one alone
@pytest.mark.parametrize(("distance", "icc"), [(0, 0), (1, 0.3), (2.2, 0.3), (3.3, 0.3), (50, 0)])
def test_an_auroc_is_covered(rng, n_groups, distance, icc):
    """True values of .5, .76, .94, .99 and 1; groups differ in their share of positive rows."""

    def draw():
        groups = rows_in_groups(rng, n_groups, most=16)
        labels = rng.random(len(groups)) < rng.uniform(0.2, 0.8, n_groups)[groups]
        return intervals.auroc(labels, distance * labels + correlated_normals(rng, groups, icc), groups)

    assert coverage(draw, scipy.stats.norm.cdf(distance / np.sqrt(2)), 200) >= 0.93


def test_the_variance_of_the_auroc_is_delongs(rng):
    labels = np.arange(1500) < 600
    scores = labels + rng.normal(size=1500)
    beats = scores[labels][:, None] > scores[~labels]
    variance = beats.mean(1).var(ddof=1) / 600 + beats.mean(0).var(ddof=1) / 900
    estimate = intervals.auroc(labels, scores, np.arange(1500))
    assert np.ptp(estimate[1:3]) == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.02)


def test_a_perfect_auroc_has_width_and_a_class_of_a_single_group_no_interval():
    labels, groups = np.arange(60) % 2, np.arange(60) // 6
    for sign, bound in ((1, "ci_high"), (-1, "ci_low")):
        estimate = intervals.auroc(labels, sign * labels, groups)
        assert getattr(estimate, bound) == estimate.value == (sign > 0)
        assert np.ptp(estimate[1:3]) > 0.2
    assert np.isnan(intervals.auroc(groups == 0, groups, groups)[1:3]).all()
    assert np.isnan(intervals.auroc([1, 1], [0.1, 0.2], [0, 1])[:3]).all()
    with pytest.raises(ValueError, match="one length"):
        intervals.auroc([1, -1, 1], [0.2, 0.1], [0, 0])


# means


@pytest.mark.parametrize("n_groups", N_GROUPS)
def test_a_mean_is_covered(rng, n_groups):
    """Intervals of rows taken as independent would hold the mean far too seldom."""

    def draw(by_row=False):
        groups = rows_in_groups(rng, n_groups, most=12)
        values = 2 + correlated_normals(rng, groups, 0.5)
        return intervals.mean(values, np.arange(len(groups)) if by_row else groups)

    assert 0.925 <= coverage(draw, 2) <= 0.985
    assert coverage(lambda: draw(by_row=True), 2) < 0.8


def test_the_mean_of_independent_rows_has_the_t_interval(rng):
    values = rng.exponential(size=40)
    other = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert intervals.mean(values, np.arange(40)) == pytest.approx((values.mean(), other.low, other.high, 40))


def test_a_mean_that_no_group_moves_has_no_interval():
    assert np.isnan(intervals.mean(np.full(9, 1.5), np.arange(9))[1:3]).all()
    assert np.isnan(intervals.mean([1.0, 2.0], [0, 0])[1:3]).all()


# over seeds


@pytest.mark.parametrize("n_seeds", [4, 5, 8])
@pytest.mark.parametrize(("rate", "precision"), [(0.5, 5), (0.9, 20), (0.98, 100), (0.98, 1000)])
def test_the_mean_over_seeds_is_covered(rng, n_seeds, rate, precision):
    """Shares of 100 inputs, whose scatter between seeds is .2, .07, .014 and .004.

    Not held where most seeds are at a bound and a few far from it (scatter .06 at .98): that takes more seeds.
    """

    def draw():
        rates = rng.beta(rate * precision, (1 - rate) * precision, n_seeds)
        return intervals.over_seeds(rng.binomial(100, rates) / 100)

    assert coverage(draw, rate, 500) >= 0.93


def test_over_seeds_stays_within_its_bounds():
    values = [0.7, 1.0, 1.0, 1.0, 0.9, 1.0, 0.8, 1.0]
    plain = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert plain.high > 1
    estimate = intervals.over_seeds(values)
    assert 0 < estimate.ci_low < estimate.value < estimate.ci_high <= 1
    doubled = intervals.over_seeds(2 * np.array(values) - 1, bounds=(-1, 1))
    assert (np.array(doubled[:3]) + 1) / 2 == pytest.approx(intervals.over_seeds(values)[:3])
    with pytest.raises(ValueError, match="must be from 0"):
        intervals.over_seeds([0.5, 0.5, 1.2, 0.5])


def test_over_few_seeds_there_is_no_interval():
    for values in ([], [0.5], [0.5, 0.6, 0.7], [0.5, np.nan, 0.6, 0.7]):
        estimate = intervals.over_seeds(values)
        assert np.isnan(estimate[1:3]).all()
        assert estimate.n == np.isfinite(values).sum()
    assert np.isfinite(intervals.over_seeds([0.5, 0.6, 0.7, 0.8])[1:3]).all()


def test_seeds_that_agree_leave_room_for_seeds_that_do_not():
    for value in (0.0, 0.4, 1.0):
        estimate = intervals.over_seeds([value] * 8)
        assert 0 <= estimate.ci_low <= value <= estimate.ci_high <= 1
        assert np.ptp(estimate[1:3]) == pytest.approx(1 - 0.025 ** (1 / 8))


# tables


def test_estimates_by_keys(rng):
    frame = pd.DataFrame({"method": np.repeat(["b", "a"], 60), "layer": np.tile([1, 2], 60)})
    frame["value"], frame["group"] = rng.random(120) < 0.4, rng.integers(0, 9, 120)
    table = intervals.estimate_by(frame, ["method", "layer"])
    assert table.columns.tolist() == ["method", "layer", "value", "ci_low", "ci_high", "n"]
    assert table[["method", "layer"]].values.tolist() == [["b", 1], ["b", 2], ["a", 1], ["a", 2]]
    rows = frame.query("method == 'a' and layer == 1")
    assert tuple(table.iloc[2, 2:]) == pytest.approx(intervals.share(rows.value, rows.group))
    means = intervals.estimate_by(frame.assign(nats=rng.normal(size=120)), ["method"], "nats", kind="mean")
    assert (means.n == 60).all()


def test_draws_of_an_input_are_averaged_first(rng):
    frame = pd.DataFrame({"input": np.repeat(np.arange(40), 5), "control": None, "value": rng.random(200) < 0.3})
    frame["group"] = frame.input // 4
    table = intervals.estimate_by(frame, ["control"], inputs="input")
    by_input = frame.groupby("input").agg(value=("value", "mean"), group=("group", "first"))
    assert tuple(table.iloc[0, 1:]) == pytest.approx(intervals.share(by_input.value, by_input.group))
    assert table.n.tolist() == [40]


def test_seeds_by_keys():
    frame = pd.DataFrame({"task": np.repeat(["x", "y"], 5), "value": [0.1, 0.2, 0.3, 0.2, 0.1, *[-0.5] * 3, 0.1, 0.0]})
    table = intervals.seeds_by(frame, ["task"], bounds=(-1, 1))
    assert tuple(table.iloc[0, 1:]) == pytest.approx(intervals.over_seeds(frame.value[:5], (-1, 1)))
    assert table.n.tolist() == [5, 5]


# what is refused, and what is too little


@pytest.mark.parametrize("estimator", [intervals.share, intervals.mean])
def test_too_little_for_an_interval(estimator):
    assert estimator([], []).n == 0
    assert np.isnan(estimator([], [])[:3]).all()
    alone = estimator([1.0, 0.0], ["a", "a"])
    assert (alone.value, alone.n) == (0.5, 2)
    assert np.isnan(alone[1:3]).all()
    assert np.isnan(intervals.difference([], [], [])[:3]).all()
    assert intervals.difference([1, 1], [0, 1], ["a", "a"])[0] == 0.5


@pytest.mark.parametrize("estimator", [intervals.share, intervals.mean])
@pytest.mark.parametrize(("values", "groups"), [([1.0, np.nan], [0, 1]), ([1.0, 0.0], [0]), ([[1.0]], [[0]])])
def test_bad_rows_are_refused(estimator, values, groups):
    with pytest.raises(ValueError, match="must be"):
        estimator(values, groups)


def test_a_share_beyond_its_bounds_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        intervals.share([0.5, 1.5], [0, 1])


def test_order_of_rows_and_names_of_groups_do_not_matter(rng):
    groups = rows_in_groups(rng, 15)
    values, labels, order = rng.random(len(groups)), rng.integers(0, 2, len(groups)), rng.permutation(len(groups))
    names = np.array([f"name {group:03d}" for group in groups])
    for estimator, columns in (
        (intervals.share, [values]),
        (intervals.mean, [values]),
        (intervals.difference, [values, labels]),
        (intervals.auroc, [labels, values]),
    ):
        other = estimator(*(column[order] for column in columns), names[order])
        assert estimator(*columns, groups) == pytest.approx(other)


# permutations and multiplicity


def group_sums(differences, groups):
    """The differences [pairs, units] summed by group."""
    return pd.DataFrame(differences).groupby(groups).sum().to_numpy()


def test_sign_flips_draw_the_same_numbers_as_ever():
    """P-values of earlier versions, to the last digit."""
    differences = np.random.default_rng(5).normal(0.2, size=(40, 4))
    p = intervals.sign_flip_p(group_sums(differences, np.arange(40) // 2), np.random.default_rng(7), 999)
    assert p.tolist() == [0.195, 0.484, 0.245, 0.402]


def test_sign_flips_agree_with_scipy(rng):
    differences = rng.normal(0.25, size=(60, 2))
    ours = intervals.sign_flip_p(differences, rng, n_permutations=20_000)
    for unit, p in enumerate(ours):
        theirs = scipy.stats.permutation_test(
            (differences[:, unit],), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng
        ).pvalue
        assert p == pytest.approx(theirs, abs=0.012)
        assert p == pytest.approx(scipy.stats.ttest_1samp(differences[:, unit], 0).pvalue, abs=0.02)


def test_sign_flips_find_the_planted_unit_and_no_other(rng):
    differences = rng.normal(size=(240, 100))
    differences[:, 17] += 1.0
    p = intervals.sign_flip_p(group_sums(differences, np.repeat(np.arange(80), 3)), rng, n_permutations=5000)
    assert p[17] == 1 / 5001
    assert np.flatnonzero(scipy.stats.false_discovery_control(p) < 0.05).tolist() == [17]


def test_sign_flips_are_uniform_under_the_null(rng):
    """Where rows of a group agree, flipping rows alone would give far too many small p-values."""
    groups = np.repeat(np.arange(40), 5)
    shared = rng.normal(size=(40, 500))[groups] + 0.3 * rng.normal(size=(200, 500))
    by_group = intervals.sign_flip_p(group_sums(shared, groups), rng)
    by_row = intervals.sign_flip_p(shared, rng)
    assert scipy.stats.kstest(by_group, "uniform").pvalue > 0.01
    assert (by_group < 0.05).mean() < 0.08
    assert (by_row < 0.05).mean() > 0.2


def test_sign_flip_extremes(rng):
    assert intervals.sign_flip_p(np.zeros((2, 1)), rng) == 1.0
    assert intervals.sign_flip_p(np.ones((30, 1)), rng, n_permutations=99) == pytest.approx(0.01)
    # One group alone: both flips are as far from zero as what was observed.
    assert intervals.sign_flip_p(np.full((1, 1), 5.0), rng) == 1.0


def test_sign_flips_do_not_depend_on_the_batch(rng, monkeypatch):
    sums = rng.normal(size=(25, 7))
    whole = intervals.sign_flip_p(sums, np.random.default_rng(4))
    monkeypatch.setattr(intervals, "BATCH", 100)
    assert np.array_equal(whole, intervals.sign_flip_p(sums, np.random.default_rng(4)))
    labels = rng.choice([-1.0, 1.0], (2, 25))  # several at once, as each alone
    drawn = intervals.sign_flip_p(sums, np.random.default_rng(4), labels=labels)
    for p, exchanged in zip(drawn, labels, strict=True):
        alone = intervals.sign_flip_p(sums, np.random.default_rng(4), labels=exchanged[None])
        assert np.array_equal(p, alone[0])


def test_holm():
    """By hand, as ``p.adjust(..., "holm")`` of R gives; at least Benjamini-Hochberg's, at most Bonferroni's."""
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert intervals.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert (scipy.stats.false_discovery_control(p) <= intervals.holm(p)).all()
    assert (intervals.holm(p) <= 4 * p).all()
