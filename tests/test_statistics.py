"""Estimates and tests against other implementations, known coverage and planted effects."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from memgen import statistics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def grouped_normals(rng, n_groups, spread=1.0, mean=0.0):
    """Rows that share half of their variance within groups of different sizes."""
    sizes = rng.integers(1, 8, n_groups)
    groups = np.repeat(np.arange(n_groups), sizes)
    return mean + spread * (rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups))), groups


def test_singleton_groups_give_the_plain_bootstrap(rng):
    values = rng.exponential(size=80)
    ours = statistics.clustered_mean(values, np.arange(80), np.random.default_rng(1), n_resamples=20_000)
    plain = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=0.01)
    assert ours.n == 80


def test_clustered_mean_is_the_mean_of_rows_and_widens_with_groups(rng):
    values, groups = grouped_normals(rng, 60)
    grouped = statistics.clustered_mean(values, groups, rng)
    by_row = statistics.clustered_mean(values, np.arange(len(values)), rng)
    assert grouped.value == by_row.value == pytest.approx(values.mean())
    assert grouped.high - grouped.low > 1.3 * (by_row.high - by_row.low)


def test_clustered_mean_equals_clustered_statistic_of_the_mean(rng):
    values, groups = grouped_normals(rng, 40)
    one = statistics.clustered_mean(values, groups, np.random.default_rng(3), n_resamples=500)
    other = statistics.clustered_statistic(np.mean, [values], groups, np.random.default_rng(3), n_resamples=500)
    assert one == pytest.approx(other)


def test_clustered_interval_covers_the_truth(rng):
    """Of 300 intervals of 95 %, about 285 hold the mean; rows taken as independent would hold far fewer."""
    covered = {"groups": 0, "rows": 0}
    for _ in range(300):
        values, groups = grouped_normals(rng, 60, mean=2.0)
        for name, clusters in (("groups", groups), ("rows", np.arange(len(values)))):
            estimate = statistics.clustered_mean(values, clusters, rng, n_resamples=400)
            covered[name] += estimate.low <= 2.0 <= estimate.high
    assert 0.90 <= covered["groups"] / 300 <= 0.98
    assert covered["rows"] / 300 < 0.85


def test_the_generator_decides_the_interval(rng):
    values, groups = grouped_normals(rng, 30)
    first, again = (statistics.clustered_mean(values, groups, np.random.default_rng(7)) for _ in range(2))
    other = statistics.clustered_mean(values, groups, np.random.default_rng(8))
    assert first == again != other


def test_order_of_rows_and_names_of_groups_do_not_matter(rng):
    values, groups = grouped_normals(rng, 30)
    order = rng.permutation(len(values))
    names = np.array([f"name {group:03d}" for group in groups])
    first = statistics.clustered_mean(values, groups, np.random.default_rng(7))
    assert first == pytest.approx(statistics.clustered_mean(values[order], names[order], np.random.default_rng(7)))


@pytest.mark.parametrize(("values", "groups", "n"), [([], [], 0), ([1.0, 3.0], ["a", "a"], 2)])
def test_too_little_for_an_interval(rng, values, groups, n):
    estimate = statistics.clustered_mean(values, groups, rng)
    assert estimate.n == n
    assert np.isnan([estimate.low, estimate.high]).all()
    assert (n == 0) == np.isnan(estimate.value)


@pytest.mark.parametrize(("values", "groups"), [([1.0, np.nan], [0, 1]), ([1.0, 2.0], [0]), ([[1.0]], [[0]])])
def test_bad_rows_are_refused(rng, values, groups):
    with pytest.raises(ValueError, match="must be"):
        statistics.clustered_mean(values, groups, rng)


def test_auroc_equals_scikit_learn(rng):
    labels, scores = rng.integers(0, 2, 200), rng.integers(0, 10, 200)  # with ties
    assert statistics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert statistics.auroc(2 * labels - 1, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(statistics.auroc([1, 1], [0.2, 0.3]))


def test_clustered_auroc(rng):
    labels = rng.integers(0, 2, 300)
    scores, groups = labels + rng.normal(size=300), rng.integers(0, 50, 300)
    estimate = statistics.clustered_statistic(statistics.auroc, [labels, scores], groups, rng, n_resamples=300)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.value == pytest.approx(roc_auc_score(labels, scores))


@pytest.mark.parametrize("n_groups", [3, 50, 300])
def test_clustered_auroc_is_the_statistic_of_the_same_resamples(rng, n_groups):
    """Sizes of groups differ, scores have ties, and at three groups some resamples have one class."""
    labels, groups = rng.choice([-1, 1], 300), rng.integers(0, n_groups, 300)
    if n_groups == 3:
        labels = np.where(groups == 0, 1, -1)
    scores = np.round(labels + rng.normal(size=300), 1)
    fast = statistics.clustered_auroc(labels, scores, groups, np.random.default_rng(5), n_resamples=200)
    slow = statistics.clustered_statistic(
        statistics.auroc, [labels, scores], groups, np.random.default_rng(5), n_resamples=200
    )
    assert fast == pytest.approx(slow)


def test_clustered_auroc_of_too_little(rng):
    assert np.isnan(statistics.clustered_auroc([1, 1], [0.1, 0.2], [0, 1], rng)[:3]).all()
    assert statistics.clustered_auroc([], [], [], rng).n == 0
    alone = statistics.clustered_auroc([1, -1], [0.2, 0.1], [0, 0], rng)
    assert alone.value == 1.0 and np.isnan(alone.low)
    with pytest.raises(ValueError, match="one length"):
        statistics.clustered_auroc([1, -1, 1], [0.2, 0.1], [0, 0], rng)


def test_statistic_that_is_mostly_undefined_has_no_interval(rng):
    labels, scores, groups = [1, 0, 0, 0, 0], [0.5, 0.4, 0.3, 0.2, 0.1], [0, 1, 2, 3, 4]

    def only_with_all(labels, scores):
        return statistics.auroc(labels, scores) if len(set(scores)) == 5 else np.nan

    estimate = statistics.clustered_statistic(only_with_all, [labels, scores], groups, rng, n_resamples=200)
    assert estimate.value == 1.0
    assert np.isnan([estimate.low, estimate.high]).all()
    usual = statistics.clustered_statistic(statistics.auroc, [labels, scores], groups, rng, n_resamples=200)
    assert usual == (1.0, 1.0, 1.0, 5)


def test_paired_difference_agrees_with_the_t_interval(rng):
    a = rng.normal(1.0, size=400)
    b = a - 0.3 + rng.normal(scale=0.5, size=400)
    ours = statistics.paired_difference(a, b, np.arange(400), rng, n_resamples=5000)
    theirs = scipy.stats.ttest_rel(a, b).confidence_interval()
    assert ours.value == pytest.approx((a - b).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    with pytest.raises(ValueError, match="row for row"):
        statistics.paired_difference(a, b[:-1], np.arange(400), rng)


def test_sign_flips_agree_with_scipy(rng):
    differences = rng.normal(0.25, size=(60, 3))
    ours = statistics.sign_flip_p(differences, np.arange(60), rng, n_permutations=20_000)
    for unit, p in enumerate(ours):
        theirs = scipy.stats.permutation_test(
            (differences[:, unit],), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng
        ).pvalue
        assert p == pytest.approx(theirs, abs=0.012)
        assert p == pytest.approx(scipy.stats.ttest_1samp(differences[:, unit], 0).pvalue, abs=0.02)


def test_sign_flips_find_the_planted_unit_and_no_other(rng):
    groups = np.repeat(np.arange(80), 3)
    differences = rng.normal(size=(240, 100))
    differences[:, 17] += 1.0
    p = statistics.sign_flip_p(differences, groups, rng, n_permutations=5000)
    assert p[17] == 1 / 5001
    assert np.flatnonzero(statistics.benjamini_hochberg(p) < 0.05).tolist() == [17]


def test_sign_flips_are_uniform_under_the_null(rng):
    """Where rows of a group agree, flipping rows alone would give far too many small p-values."""
    groups = np.repeat(np.arange(40), 5)
    shared = rng.normal(size=(40, 500))[groups] + 0.3 * rng.normal(size=(200, 500))
    by_group = statistics.sign_flip_p(shared, groups, rng)
    by_row = statistics.sign_flip_p(shared, np.arange(200), rng)
    assert scipy.stats.kstest(by_group, "uniform").pvalue > 0.01
    assert (by_group < 0.05).mean() < 0.08
    assert (by_row < 0.05).mean() > 0.2


def test_sign_flip_extremes(rng):
    assert statistics.sign_flip_p([[0.0], [0.0]], [0, 1], rng) == 1.0
    assert statistics.sign_flip_p(np.ones(30), np.arange(30), rng, n_permutations=99) == pytest.approx(0.01)
    # One group alone: both flips are as far from zero as what was observed.
    assert statistics.sign_flip_p(np.ones(5), np.zeros(5), rng) == 1.0
    with pytest.raises(ValueError, match="finite"):
        statistics.sign_flip_p([[np.nan]], [0], rng)


def test_sign_flips_do_not_depend_on_the_batch(rng, monkeypatch):
    differences, groups = rng.normal(size=(50, 7)), np.arange(50) // 2
    whole = statistics.sign_flip_p(differences, groups, np.random.default_rng(4))
    monkeypatch.setattr(statistics, "BATCH", 100)
    assert np.array_equal(whole, statistics.sign_flip_p(differences, groups, np.random.default_rng(4)))


def test_benjamini_hochberg_keeps_shape_and_order(rng):
    p = rng.random((6, 5))
    q = statistics.benjamini_hochberg(p)
    assert q.shape == (6, 5)
    assert np.array_equal(q.ravel(), scipy.stats.false_discovery_control(p.ravel()))
    # By hand: with m = 4, q(i) is the least p(j) m / j over j >= i.
    assert statistics.benjamini_hochberg([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.04, 0.04, 0.5])


def test_over_seeds_is_the_t_interval():
    values = [0.8, 0.9, 0.85]
    estimate = statistics.over_seeds(values)
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert estimate == pytest.approx((np.mean(values), interval.low, interval.high, 3))
    assert statistics.over_seeds([0.5, 0.5]) == (0.5, 0.5, 0.5, 2)
    assert statistics.over_seeds([0.5, np.nan])[::3] == (0.5, 1)
    assert np.isnan(statistics.over_seeds([0.5])[1:3]).all()
    assert str(estimate).startswith("0.850 [0.7")
