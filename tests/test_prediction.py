"""Probes: equal to scikit-learn's own fit, honest about groups, and no better than what is planted."""

import types

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memgen import prediction

COLUMNS = ["site", "layer", "probe", "baseline", "split", "n", "accuracy", "auroc", "ci_low", "ci_high"]
SPLITS = {"train": 240, "validation": 120, "test": 120}
WIDTH = 6


def noisy(rng, n=120, n_groups=12):
    """Features that tell the label in part, so that the strength of the regularisation matters."""
    labels, groups = np.resize([1, -1], n), np.repeat(np.arange(n_groups), n // n_groups)
    features = rng.standard_normal((n, WIDTH)) * [1, 10, 1, 1, 1, 100] + 5
    features[:, 0] += 0.8 * labels
    return features, labels, groups


# --- one probe


def test_probe_is_scikit_learns_fit_at_the_best_strength(rng):
    features, labels, groups = noisy(rng)
    probe = prediction.fit_probe(features, labels, groups)
    losses = []
    for strength in prediction.STRENGTHS:
        own = []
        for train, held_out in GroupKFold(4).split(features, labels, groups):
            assert not set(groups[train]) & set(groups[held_out])
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
            classifier.fit(features[train], labels[train])
            own.append(log_loss(labels[held_out], classifier.predict_proba(features[held_out])))
        losses.append(np.mean(own))
    chosen = prediction.STRENGTHS[np.argmin(losses)]
    assert probe.best_params_ == {"logisticregression__C": chosen}
    direct = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=1000)).fit(features, labels)
    np.testing.assert_allclose(probe.predict_proba(features), direct.predict_proba(features), rtol=1e-9)


def test_groups_are_never_divided_between_folds(rng):
    """Features that name the group: only rows of the same group in training could tell its label."""
    groups = np.repeat(np.arange(20), 10)
    labels = rng.permutation(np.resize([1, -1], 20))[groups]
    probe = prediction.fit_probe(np.eye(20)[groups], labels, groups)
    assert probe.best_params_ == {"logisticregression__C": min(prediction.STRENGTHS)}
    assert probe.best_score_ <= -np.log(2)  # no fold did better than guessing
    other = prediction.fit_probe(np.eye(20)[groups], labels, rng.permutation(groups))
    assert other.best_params_ == {"logisticregression__C": max(prediction.STRENGTHS)}


@pytest.mark.parametrize("n_groups", [2, 3, 50])
def test_few_groups_make_few_folds(rng, n_groups):
    features, labels, _ = noisy(rng)
    probe = prediction.fit_probe(features, labels, np.resize(np.arange(n_groups), len(labels)).repeat(2)[: len(labels)])
    assert probe.n_splits_ == min(n_groups, prediction.FOLDS)


@pytest.mark.filterwarnings("error")
def test_a_fold_of_one_label_is_no_obstacle(rng):
    """Bound pairs mostly keep one behaviour; a fold of such groups has one label only."""
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


# --- what the input alone tells


def test_words_are_counted():
    words = prediction.InputFeatures("words").fit(np.array([[3, 4, 3], [5, 3, 1]]))
    expected = [[0, 0, 0, 2, 0, 1], [1, 0, 0, 1, 0, 0]]  # tokens 0 to 5; 6 and 9 are unknown
    np.testing.assert_array_equal(words.transform(np.array([[3, 5, 3], [9, 0, 3]])), expected)
    np.testing.assert_array_equal(words.transform(np.array([[6, 6, 6]])), np.zeros((1, 6)))


def test_positions_are_one_hot():
    places = prediction.InputFeatures("words and positions").fit(np.array([[3, 4], [5, 4], [3, 6]]))
    # Columns: 3 or 5 at the first position, 4 or 6 at the second.
    ids = np.array([[3, 6], [5, 4], [4, 4], [9, 9]])
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(places.transform(ids).toarray(), expected)


def test_unknown_baseline():
    with pytest.raises(ValueError, match=r"'letters'.*words, words and positions"):
        prediction.InputFeatures("letters")


# --- many probes in a table


def planted(rng, position=False, sites=("resid_post",)):
    """Frames and states of every split: layer 1 of the first site holds the label, all else is noise.

    Prompts are orders of the same words; `position`: which word comes first follows the label.
    """
    frames, states = {}, {}
    for i, (split, n) in enumerate(SPLITS.items()):
        labels = rng.permutation(np.resize([1, -1], n))
        words = rng.permuted(np.tile(np.arange(3, 3 + WIDTH), (n, 1)), axis=1)
        if position:
            words[:, 0] = np.where(labels == 1, 3, 4)
            words[:, 1] = 7 - words[:, 0]
            words[:, 2:] = rng.permuted(np.tile(np.arange(5, 3 + WIDTH), (n, 1)), axis=1)
        groups = [f"{split}{g}" for g in np.resize(np.arange(n // 10), n)]
        frames[split] = pd.DataFrame(
            {"input_ids": list(words), "behavior": labels, "group": groups}, index=np.arange(n) + i
        )
        states[split] = {site: rng.standard_normal((n, 2, WIDTH)) for site in sites}
        states[split][sites[0]][:, 1, 2] += 4 * labels
    return frames, states


def accuracy(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.accuracy.iloc[0]


def test_table_finds_what_is_planted_and_nothing_else(rng):
    frames, states = planted(rng, sites=("resid_post", "mlp_out"))
    table = prediction.probe_table(states, frames, "all conflicts", rng, 50)
    assert list(table) == COLUMNS
    assert set(table.split) == {"validation", "test"}  # nothing is reported on what was fitted
    assert (table.n == table.split.map(SPLITS)).all()
    assert set(table.probe) == {"all conflicts"}
    probes, baselines = table[table.baseline == "hidden states"], table[table.baseline != "hidden states"]
    expected = {
        (site, layer, split) for site in ("resid_post", "mlp_out") for layer in (0, 1) for split in list(SPLITS)[1:]
    }
    assert set(probes[["site", "layer", "split"]].itertuples(index=False, name=None)) == expected
    assert len(probes) == len(expected)
    assert sorted(baselines[baselines.split == "test"].baseline) == [
        "majority",
        "words",
        "words and positions",
    ]
    assert baselines[["site", "layer"]].isna().all(axis=None)
    for row in table.itertuples():
        assert row.ci_low <= row.accuracy <= row.ci_high
        if (row.site, row.layer) == ("resid_post", 1):
            assert min(row.accuracy, row.auroc) > 0.98
        else:
            assert abs(row.accuracy - 0.5) < 0.15  # three standard errors of 120 coins
            assert abs(row.auroc - 0.5) < 0.15
    majority = table[table.baseline == "majority"]
    assert (majority.auroc == 0.5).all()
    assert prediction.best_layer(table).accuracy == accuracy(table, site="resid_post", layer=1, split="test")


def test_table_tells_what_the_input_gives_away(rng):
    frames, states = planted(rng, position=True)
    table = prediction.probe_table({split: {} for split in states}, frames, "flip pairs", rng, 50)
    assert accuracy(table, baseline="words and positions", split="test") == 1.0
    assert abs(accuracy(table, baseline="words", split="test") - 0.5) < 0.15
    best = prediction.best_input_baseline(table)
    assert (best.baseline, best.split, best.accuracy) == ("words and positions", "test", 1.0)


def test_table_is_reproducible_and_can_be_saved(tmp_path):
    one, same = (
        prediction.probe_table(*planted(np.random.default_rng(1))[::-1], "x", np.random.default_rng(2), 50)
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    one.to_parquet(tmp_path / "probes.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "probes.parquet"), one)


def test_shuffled_labels_are_not_found(rng):
    frames, states = planted(rng)
    for frame in frames.values():
        frame["behavior"] = rng.permutation(frame.behavior)
    table = prediction.probe_table(states, frames, "shuffled", rng, 50)
    assert (abs(table.accuracy - 0.5) < 0.15).all()


def test_best_layer_is_chosen_on_validation(rng):
    """Layer 0 is best on test, layer 1 on validation: layer 1 is taken, with its test accuracy."""
    frames, states = planted(rng)
    for split, frame in frames.items():
        labels, state = frame.behavior.to_numpy(), states[split]["resid_post"]
        state[:, 0, 4] += 4 * (labels if split != "validation" else rng.permutation(labels))
        state[:, 1, 2] -= (
            0 if split != "test" else 4 * (labels - np.where(rng.random(len(labels)) < 0.3, -labels, labels))
        )
    table = prediction.probe_table(states, frames, "x", rng, 50)
    assert accuracy(table, layer=0, split="test") > 0.98 > accuracy(table, layer=0, split="validation")
    best = prediction.best_layer(table)
    assert (best.layer, best.split) == (1, "test")
    assert best.accuracy == accuracy(table, layer=1, split="test") < 0.85


def test_best_layer_takes_the_earlier_of_equals():
    rows = [("resid_post", layer, "hidden states", split, 1.0) for layer in (0, 1) for split in ("validation", "test")]
    table = pd.DataFrame(rows, columns=["site", "layer", "baseline", "split", "accuracy"])
    assert prediction.best_layer(table).layer == 0


def test_best_input_baseline_is_the_strongest_on_test():
    rows = [
        ("hidden states", "test", 0.99),
        ("words", "test", 0.6),
        ("words", "validation", 0.9),
        ("words and positions", "test", 0.8),
        ("majority", "test", 0.85),
    ]
    table = pd.DataFrame(rows, columns=["baseline", "split", "accuracy"])
    assert prediction.best_input_baseline(table).baseline == "majority"


# --- numbers


def test_evaluate_counts_what_is_right(rng):
    features, labels, groups = noisy(rng)
    probe = prediction.fit_probe(features, labels, groups)
    numbers = prediction.evaluate(probe, features, labels, groups, rng, 200)
    assert numbers["n"] == len(labels)
    assert numbers["accuracy"] == (probe.predict(features) == labels).mean()
    assert numbers["auroc"] == roc_auc_score(labels, probe.predict_proba(features)[:, 1]) > 0.6
    assert 0 < numbers["ci_low"] < numbers["accuracy"] < numbers["ci_high"] < 1
    one_label = prediction.evaluate(probe, features[:10:2], labels[:10:2], groups[:10:2], rng, 10)
    assert np.isnan(one_label["auroc"])


def test_majority():
    always = prediction.majority(np.array([-1, 1, 1]))
    assert always.predict(np.zeros((2, 1))).tolist() == [1, 1]


def test_most_balanced():
    frame = pd.DataFrame({"evidence": [1] * 6 + [2] * 4, "behavior": [1, 1, 1, 1, 1, -1, 1, 1, -1, -1]})
    assert prediction.most_balanced(frame, "evidence") == 2


# --- how many pairs


def pairs_with_states(rng, n, split):
    """Pairs whose members differ, weakly, along one direction among the pair's own large content."""
    content = rng.standard_normal((n, 1, 40))
    states = content + 0.5 * rng.standard_normal((n, 2, 40))
    states[:, :, 7] += np.array([2.5, -2.5])
    return states.reshape(2 * n, 40), pd.DataFrame({"group": [f"{split}{i // 2}" for i in range(n)]})


def test_by_number_of_pairs(rng, monkeypatch):
    made = {split: pairs_with_states(rng, n, split) for split, n in (("train", 100), ("test", 50))}
    states = {split: one[0] for split, one in made.items()}
    pairs = {split: one[1] for split, one in made.items()}
    seen = []

    def spy(features, labels, groups):
        seen.append(types.SimpleNamespace(features=features, labels=labels, groups=groups))
        return real(features, labels, groups)

    real = prediction.fit_probe
    monkeypatch.setattr(prediction, "fit_probe", spy)
    curve = prediction.by_number_of_pairs(states, pairs, [1, 4, 20, 100], rng, 50)
    assert list(curve) == ["n_pairs", "n", "accuracy", "auroc", "ci_low", "ci_high"]
    assert curve.n_pairs.tolist() == [4, 20, 100]  # a single pair has a single group: no probe
    assert (curve.n == 100).all()
    assert curve.accuracy.iloc[-1] > 0.9
    assert curve.auroc.iloc[0] < curve.auroc.iloc[-1]
    place = {tuple(row): i for i, row in enumerate(states["train"])}
    for one, size in zip(seen, (4, 20, 100), strict=True):
        rows = np.array([place[tuple(row)] for row in one.features]).reshape(size, 2)
        assert (rows[:, 1] == rows[:, 0] + 1).all()  # both members of each pair
        assert (rows[:, 0] % 2 == 0).all()
        assert len(set(rows[:, 0])) == size
        assert one.labels.tolist() == [1, -1] * size
        np.testing.assert_array_equal(
            one.groups.reshape(size, 2)[:, 0], pairs["train"].group.to_numpy()[rows[:, 0] // 2]
        )
