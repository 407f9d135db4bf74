"""Probes: equal to scikit-learn's own fit, honest about groups, and open to any classifier."""

import functools

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from memgen import prediction
from memgen.prediction import probes
from memgen.prediction.controls import halves_of_groups
from tests.prediction.conftest import WIDTH


def noisy(rng, n=120, n_groups=12):
    """Features that tell the label in part, so that the strength of the regularization matters."""
    labels, groups = np.resize([1, -1], n), np.repeat(np.arange(n_groups), n // n_groups)
    features = rng.standard_normal((n, WIDTH)) * [1, 10, 1, 1, 1, 100] + 5
    features[:, 0] += 0.8 * labels
    return features, labels, groups


def test_probe_is_scikit_learns_fit_at_the_best_strength(rng):
    features, labels, groups = noisy(rng)
    probe = prediction.fit_probe(features, labels, groups)
    losses = []
    for strength in probes.STRENGTHS:
        of_folds = []
        for train, held_out in GroupKFold(4).split(features, labels, groups):
            assert not set(groups[train]) & set(groups[held_out])
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
            classifier.fit(features[train], labels[train])
            of_folds.append(log_loss(labels[held_out], classifier.predict_proba(features[held_out])))
        losses.append(np.mean(of_folds))
    chosen = probes.STRENGTHS[np.argmin(losses)]
    assert probe.best_params_ == {"logisticregression__C": chosen}
    direct = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=1000)).fit(features, labels)
    np.testing.assert_allclose(probe.predict_proba(features), direct.predict_proba(features), rtol=1e-9)


def test_groups_are_never_divided_between_folds(rng):
    """Features that name the group: only rows of the same group in training could tell its label."""
    groups = np.repeat(np.arange(20), 10)
    labels = rng.permutation(np.resize([1, -1], 20))[groups]
    probe = prediction.fit_probe(np.eye(20)[groups], labels, groups)
    assert probe.best_params_ == {"logisticregression__C": min(probes.STRENGTHS)}
    assert probe.best_score_ <= -np.log(2)  # no fold did better than guessing
    other = prediction.fit_probe(np.eye(20)[groups], labels, rng.permutation(groups))
    assert other.best_params_ == {"logisticregression__C": max(probes.STRENGTHS)}


@pytest.mark.parametrize("n_groups", [2, 3, 50])
def test_few_groups_make_few_folds(rng, n_groups):
    features, labels, _ = noisy(rng)
    groups = np.resize(np.arange(n_groups), len(labels)).repeat(2)[: len(labels)]
    assert prediction.fit_probe(features, labels, groups).n_splits_ == min(n_groups, probes.FOLDS)


@pytest.mark.filterwarnings("error")
def test_a_fold_of_a_single_label_is_no_obstacle(rng):
    """Bound pairs mostly keep one behaviour; a fold of such groups has a single label."""
    features, labels, _ = noisy(rng)
    features[:, 0] += 2 * labels
    groups = np.where(labels == 1, 0, np.resize(np.arange(4), len(labels)))
    groups[:4] = np.arange(4)
    probe = prediction.fit_probe(features, labels, groups)
    assert np.isfinite(probe.cv_results_["mean_test_score"]).all()
    assert probe.score(features, labels) > -0.3


@pytest.mark.parametrize(("labels", "groups"), [([1, 1, 1, 1], [0, 0, 1, 1]), ([1, -1, 1, -1], [0, 0, 0, 0])])
def test_nothing_to_learn_from(labels, groups):
    with pytest.raises(ValueError, match="two groups and two labels"):
        prediction.fit_probe(np.zeros((4, 2)), np.array(labels), np.array(groups))


def test_squares_tell_what_no_direction_tells(rng):
    """Under one behaviour each input has a direction of its own: large states, and a mean of zero."""
    labels, groups = np.resize([1, -1], 400), np.arange(400) // 10
    features = rng.standard_normal((400, WIDTH)) * np.where(labels == 1, 3, 1)[:, None] + 100
    accuracy = {}
    for squares in (False, True):
        probe = prediction.fit_probe(features[:200], labels[:200], groups[:200], squares=squares)
        accuracy[squares] = (probe.predict(features[200:]) == labels[200:]).mean()
    assert accuracy[False] < 0.65 < 0.9 < accuracy[True]


@pytest.mark.parametrize("make_probe", [SVC, lambda: RandomForestClassifier(random_state=0)])
def test_any_classifier_is_a_probe(planted_datasets, make_probe):
    """Also one that needs scaled features, and one that has probabilities but no decision function."""
    for dataset in planted_datasets.values():
        dataset.states["resid_post"][:, :, 0] *= 1e6  # noise that hides all else from an SVM of unscaled features
    fitted = prediction.fit_probes(planted_datasets["train"], make_probe=make_probe)
    test = planted_datasets["test"]
    for probe in fitted:
        correct = probe.correct(test).mean()
        assert (correct > 0.95) if probe.layer == 1 else (correct < 0.7)
        assert np.isfinite(probe.score(test)).all()
    table = prediction.evaluate(fitted, planted_datasets, "conflicts")
    assert prediction.best_probe(table).layer == 1


def test_the_studys_probe_finds_a_planted_label_and_nothing_in_noise(planted_datasets):
    make_probe = functools.partial(prediction.StudyProbe, WIDTH, 0)
    fitted, again = (
        prediction.fit_probes(planted_datasets["train"], make_probe, sees=["hidden states"]) for _ in range(2)
    )
    test = planted_datasets["test"]
    assert fitted[1].correct(test).mean() > 0.95
    assert fitted[0].correct(test).mean() < 0.65
    np.testing.assert_array_equal(fitted[1].score(test), again[1].score(test))


def test_the_studys_probe_tells_what_no_direction_tells(rng):
    """The behaviour is whether two neurons have the same sign."""
    features = rng.standard_normal((1200, WIDTH))
    labels, groups = np.sign(features[:, 0] * features[:, 1]), np.arange(1200) // 10
    accuracy = {}
    for make_probe in (prediction.logistic, functools.partial(prediction.StudyProbe, WIDTH, 0)):
        probe = prediction.fit_probe(features[:800], labels[:800], groups[:800], make_probe)
        accuracy[make_probe] = (probe.predict(features[800:]) == labels[800:]).mean()
    linear, mlp = accuracy.values()
    assert linear < 0.6 < 0.85 < mlp


def test_the_studys_probe_does_as_well_as_the_mlp_of_scikit_learn(rng):
    features = rng.standard_normal((1500, WIDTH))
    labels = np.sign(features[:, 0] * features[:, 1] + 0.3 * rng.standard_normal(1500))
    mlp = MLPClassifier((2 * WIDTH, 2 * WIDTH), batch_size=32, early_stopping=True, n_iter_no_change=30, random_state=0)
    correct = [
        (probe.fit(features[:1000], labels[:1000]).predict(features[1000:]) == labels[1000:]).mean()
        for probe in (prediction.StudyProbe(WIDTH, 0), mlp)
    ]
    assert min(correct) > 0.7
    assert abs(correct[0] - correct[1]) < 0.05


def test_the_studys_probe_says_the_same_in_three_ways(rng):
    features, labels, _ = noisy(rng, n=40, n_groups=4)
    probe = prediction.StudyProbe(WIDTH, 0).fit(features, labels)
    log_odds, p = probe.decision_function(features), probe.predict_proba(features)
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), log_odds, rtol=1e-6)
    np.testing.assert_array_equal(probe.predict(features), np.where(log_odds > 0, 1, -1))


def test_several_threads_fit_the_same_probes(planted_datasets):
    train, test = planted_datasets["train"], planted_datasets["test"]
    n_threads, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append([probe.score(test) for probe in prediction.fit_probes(train, sites=["resid_post"])])
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(*found)


def test_the_studys_probe_can_be_fitted_to_few_rows(rng):
    """A held-out row of each label is there to stop by, even of four pairs."""
    features, labels, groups = noisy(rng, n=8, n_groups=4)
    probe = prediction.fit_probe(features, labels, groups, functools.partial(prediction.StudyProbe, WIDTH, 0))
    assert set(probe.predict(features)) <= {-1, 1}


def test_score_of_probabilities_is_the_log_odds():
    class Certain:
        def predict_proba(self, features):
            return np.array([[0.25, 0.75], [1.0, 0.0]])

    assert probes.scores(Certain(), None)[0] == pytest.approx(np.log(3))
    assert -1000 < probes.scores(Certain(), None)[1] < -100  # finite where a probability is 0


def test_probes_are_fitted_where_they_are_asked_for(planted_datasets):
    def places(**arguments):
        fitted = prediction.fit_probes(planted_datasets["train"], **arguments)
        return [(probe.probe, probe.site, probe.layer) for probe in fitted]

    assert places() == [
        (seen, "resid_post", layer) for layer in (0, 1) for seen in ("hidden states", "hidden states and squares")
    ]
    expected = [("hidden states", "resid_post", layer) for layer in (0, 1)]
    assert places(sites=["resid_post"], sees=["hidden states"]) == expected


def test_halves_of_groups(graded_sums, graded_stories, rng):
    for dataset in (graded_sums["train"], graded_stories["train"]):
        fit, held_out = halves_of_groups(dataset.groups, rng)
        assert not set(fit) & set(held_out)
        for group in np.unique(dataset.groups):
            n_rows = (dataset.groups == group).sum()
            for rows in (fit, held_out):
                assert (dataset.groups[rows] == group).sum() == n_rows // 2
                assert len(set(rows)) == len(rows)


def test_halves_of_odd_groups(rng):
    groups = np.array(["a"] * 3 + ["b"])
    fit, held_out = halves_of_groups(groups, rng)
    assert [groups[rows].tolist() for rows in (fit, held_out)] == [["a"], ["a"]]
