"""What the input alone tells: as much as there is to tell, on groups that no predictor has seen."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import prediction
from memgen.prediction import baselines
from tests.prediction.conftest import datasets

SEED = 3


@pytest.fixture
def quick(monkeypatch):
    """Without the transformer, which has tests of its own."""
    monkeypatch.setattr(baselines, "fit_transformer", lambda train, validation, seed: lambda data: np.zeros(len(data)))


def accuracies(splits: dict[str, prediction.Dataset]) -> pd.Series:
    fitted = prediction.fit_baselines(splits["train"], splits["validation"], SEED)
    return pd.Series({probe.probe: probe.correct(splits["test"]).mean() for probe in fitted})


def with_behavior(dataset: prediction.Dataset, behavior: np.ndarray) -> prediction.Dataset:
    return dataclasses.replace(dataset, frame=dataset.frame.assign(behavior=np.where(behavior, 1, -1)))


def test_the_best_baseline_knows_what_a_bag_of_words_cannot_express(quick):
    """In stories the grade follows from where the asked kind stands: equal tokens, of no name in particular.

    The behaviour has the shares of the design, so that the oracle's accuracy is the most that can be had.
    """
    accuracy = accuracies(datasets("full", "inference"))
    assert accuracy.grade > 0.85
    assert accuracy.grade - accuracy["gradient boosting"] < 0.03
    assert accuracy.grade - accuracy.MLP < 0.08
    assert max(accuracy.words, accuracy["words and positions"], accuracy.majority) < 0.6


def test_the_grade_of_sums_is_no_property_of_the_input(quick):
    """What is bound cannot be told from digits: only the oracle knows, and it knows the share of each grade."""
    splits = datasets("full", "addition")
    accuracy = accuracies(splits)
    assert accuracy.grade > 0.7
    assert (accuracy.drop("grade") < accuracy.grade - 0.1).all()


def test_baselines_have_names_and_kinds(quick, graded_sums):
    fitted = prediction.fit_baselines(graded_sums["train"], graded_sums["validation"], SEED)
    kinds = {probe.probe: probe.kind for probe in fitted}
    assert list(kinds) == [
        *("words", "words and positions", "majority", "gradient boosting", "MLP", "transformer", "grade")
    ]
    assert [name for name, kind in kinds.items() if kind == "oracle"] == ["grade"]
    assert all(probe.site is None and probe.layer is None for probe in fitted)
    ungraded = {
        split: dataclasses.replace(data, frame=data.frame.assign(memorized_share=np.nan))
        for split, data in graded_sums.items()
    }
    others = prediction.fit_baselines(ungraded["train"], ungraded["validation"], SEED)
    assert [probe.probe for probe in others] == list(kinds)[:-1]


def test_unknown_tokens_are_no_obstacle(quick, graded_sums):
    frame = graded_sums["test"].frame
    unseen = prediction.Dataset(frame.assign(input_ids=[np.full(len(ids), 99) for ids in frame.input_ids]))
    for probe in prediction.fit_baselines(graded_sums["train"], graded_sums["validation"], SEED):
        assert np.isfinite(probe.score(unseen)).all()


def test_linear_baselines_are_fits_of_counts_and_of_positions(quick, graded_sums):
    train, test = graded_sums["train"], graded_sums["test"]
    fitted = {probe.probe: probe for probe in prediction.fit_baselines(train, graded_sums["validation"], SEED)}
    n_tokens = train.token_ids.max() + 1
    counts, positions = [], []
    for dataset in (train, test):
        ids = dataset.token_ids
        counts.append(np.stack([np.bincount(row, minlength=n_tokens) for row in ids]).astype(np.float32))
        places = [np.eye(n_tokens, dtype=np.float32)[ids[:, i]] for i in range(ids.shape[1])]
        positions.append(np.hstack(places))
    for name, (learned, asked) in {"words": counts, "words and positions": positions}.items():
        probe = prediction.fit_probe(learned, train.labels, train.groups, sparse=True)
        np.testing.assert_allclose(fitted[name].score(test), probe.decision_function(asked), atol=1e-4)


@pytest.mark.parametrize(("labels", "accuracy"), [([-1, 1, 1], 0.75), ([-1, -1, 1], 0.25)])
def test_majority_says_the_label_that_is_frequent_in_training(quick, labels, accuracy):
    frame = pd.DataFrame({"input_ids": [np.array([3, 4])] * 3, "behavior": labels}).loc[[0, 1, 2] * 4]
    frame = frame.assign(group=np.repeat(list("abcd"), 3), memorized_share=np.nan, evidence=1)
    train = prediction.Dataset(frame)
    (always,) = [probe for probe in prediction.fit_baselines(train, train, SEED) if probe.probe == "majority"]
    others = prediction.Dataset(pd.DataFrame({"behavior": [1, 1, 1, -1], "group": list("abcd")}))
    assert always.correct(others).mean() == accuracy


def test_a_grade_that_training_lacks_gets_the_overall_majority(quick, graded_sums):
    train = graded_sums["train"].query("memorized_share > 0.5")
    train = with_behavior(train, np.arange(len(train)) % 3 > 0)
    (grade,) = [probe for probe in prediction.fit_baselines(train, train, SEED) if probe.kind == "oracle"]
    assert (grade.score(graded_sums["test"].query("memorized_share < 0.5")) > 0).all()


def test_equal_positions():
    equal = baselines.equal_positions(np.array([[5, 5, 7], [1, 2, 1]]))
    assert equal.tolist() == [[True, False, False], [False, True, False]]  # of (1, 0), (2, 0), (2, 1)


# --- the transformer


def matching(rng, n, tokens):
    """Whether the first token comes again: of words that no other split has."""
    ids = np.stack([rng.choice(tokens, 4, replace=False) for _ in range(n)])
    again = rng.random(n) < 0.5
    ids[again, 3] = ids[again, 0]
    frame = pd.DataFrame({"input_ids": list(ids), "behavior": np.where(again, 1, -1)})
    return prediction.Dataset(frame.assign(group=np.arange(n) // 4))


@pytest.fixture(scope="module")
def reader():
    rng = np.random.default_rng(0)
    splits = {
        "train": matching(rng, 1500, np.arange(0, 40)),
        "validation": matching(rng, 200, np.arange(40, 60)),
        "test": matching(rng, 200, np.arange(60, 80)),
    }
    before = torch.get_rng_state()
    score = baselines.fit_transformer(splits["train"], splits["validation"], SEED, epochs=8)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    return splits, score


def test_transformer_learns_a_relation_and_uses_it_on_unseen_words(reader):
    splits, score = reader
    accuracy = {split: ((score(data) > 0) == (data.labels > 0)).mean() for split, data in splits.items()}
    assert accuracy["validation"] > 0.9
    assert score(splits["test"]).shape == (200,)
    again = score(splits["validation"].take(np.arange(199, -1, -1)))
    np.testing.assert_allclose(again[::-1], score(splits["validation"]), atol=1e-5)  # row by row


def test_transformer_is_reproducible():
    rng = np.random.default_rng(1)
    train, validation = matching(rng, 100, np.arange(20)), matching(rng, 50, np.arange(20, 30))
    first, same, other = (
        baselines.fit_transformer(train, validation, seed, epochs=2)(validation) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_transformer_keeps_the_epoch_that_is_best_on_validation_groups():
    """With validation labels that contradict training, that is one of the first epochs."""
    rng = np.random.default_rng(2)
    train, validation = (matching(rng, n, np.arange(20)) for n in (300, 100))
    contrary = with_behavior(validation, validation.labels < 0)

    def loss(score):
        return np.logaddexp(0, -score(contrary) * contrary.labels).mean()

    early, late = (baselines.fit_transformer(train, contrary, SEED, epochs=epochs) for epochs in (2, 12))
    assert loss(late) <= loss(early) + 1e-6
