"""The table of predictors finds what is planted and nothing else; what is chosen is chosen on validation groups."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from memgen import prediction
from memgen.prediction.tables import COLUMNS, IDENTITY
from tests.prediction.conftest import ROWS, planted


def table_of(datasets, name="conflicts", **arguments):
    """The table of linear probes; both kinds of probes take longer."""
    probes = prediction.fit_probes(datasets["train"], sees=["hidden states"])
    return prediction.evaluate(probes, datasets, name, **arguments)


def accuracy(table, **coordinates):
    for column, value in coordinates.items():
        table = table[table[column] == value]
    (number,) = table.accuracy
    return number


def test_table_finds_what_is_planted_and_nothing_else(rng):
    table = table_of(planted(rng, sites=("resid_post", "mlp_out")))
    assert list(table) == COLUMNS
    assert set(table.split) == {"validation", "test"}  # nothing is reported on what was fitted
    assert (table.n == table.split.map(ROWS)).all()
    assert set(table.population) == {"conflicts"}
    assert table[IDENTITY].drop_duplicates().shape[0] * 2 == len(table) == 8
    for row in table.itertuples():
        assert 0 <= row.accuracy_low <= row.accuracy <= row.accuracy_high <= 1
        assert 0 <= row.auroc_low <= row.auroc <= row.auroc_high <= 1
        if (row.site, row.layer) == ("resid_post", 1):
            assert min(row.accuracy, row.auroc) > 0.98
        else:
            assert abs(row.accuracy - 0.5) < 0.19  # four standard errors of 120 coins
            assert abs(row.auroc - 0.5) < 0.19
    assert prediction.best_probe(table).accuracy == accuracy(table, site="resid_post", layer=1, split="test")


def test_probes_of_the_table_are_scikit_learns(planted_datasets):
    """Numbers of the table, computed anew from `fit_probe` and scikit-learn's metrics."""
    train, test = planted_datasets["train"], planted_datasets["test"]
    probes = prediction.fit_probes(train)
    table = prediction.evaluate(probes, planted_datasets, "conflicts", ["test"])
    for row, squares in zip(table.itertuples(), (False, True) * 2, strict=True):
        learned, asked = (data.states["resid_post"][:, row.layer] for data in (train, test))
        direct = prediction.fit_probe(learned, train.labels, train.groups, squares=squares)
        assert row.accuracy == (direct.predict(asked) == test.labels).mean()
        assert row.auroc == pytest.approx(roc_auc_score(test.labels, direct.predict_proba(asked)[:, 1]))
        assert prediction.find(probes, table.loc[row.Index]).correct(test).mean() == row.accuracy


def test_table_is_reproducible_and_can_be_saved(tmp_path):
    first, same = (table_of(planted(np.random.default_rng(1))) for _ in range(2))
    pd.testing.assert_frame_equal(first, same, check_exact=True)
    first.to_parquet(tmp_path / "probes.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "probes.parquet"), first)


def test_shuffled_labels_are_not_found(rng, planted_datasets):
    for dataset in planted_datasets.values():
        dataset.frame["behavior"] = rng.permutation(dataset.labels)
    assert (abs(table_of(planted_datasets).accuracy - 0.5) < 0.19).all()


def test_a_single_label_has_no_auroc(planted_datasets):
    datasets = planted_datasets | {"test": planted_datasets["test"].query("behavior == 1")}
    assert table_of(datasets, splits=["test"]).auroc.isna().all()


def chosen_from(**columns):
    """A table of two predictors with numbers of their validation and test rows."""
    rows = [("resid_post", layer, split) for layer in (0, 1) for split in ("validation", "test")]
    table = pd.DataFrame(rows, columns=["site", "layer", "split"])
    return table.assign(kind="hidden states", probe="hidden states", **columns)


def test_best_probe_has_the_highest_auroc_on_validation_groups():
    table = chosen_from(auroc=[0.8, 0.9, 0.9, 0.8], accuracy=[0.9, 0.9, 0.5, 0.4])
    best = prediction.best_probe(table)
    assert (best.layer, best.split, best.auroc) == (1, "test", 0.8)
    assert prediction.best_probe(table, "validation").auroc == 0.9
    assert prediction.best_probe(table[table.split == "validation"], "validation").layer == 1


def test_best_probe_is_the_first_of_equals_and_ignores_other_kinds():
    table = chosen_from(auroc=1.0)
    assert prediction.best_probe(table).layer == 0
    table.loc[table.layer == 0, "kind"] = "reading"
    assert prediction.best_probe(table).layer == 1
    assert prediction.best_probe(table, kind="reading").layer == 0


def test_best_baseline_has_the_highest_accuracy_on_validation_groups():
    table = chosen_from(auroc=[0.9, 0.9, 0.5, 0.5], accuracy=[0.8, 0.9, 0.9, 0.8])
    table["kind"] = np.repeat(["input alone", "oracle"], 2)
    assert prediction.best_baseline(table).kind == "oracle"


def test_gain_is_the_paired_difference_of_accuracies(planted_datasets):
    test = planted_datasets["test"]
    probe, same = (prediction.FittedProbe("k", "p", None, None, lambda data: data.labels) for _ in range(2))
    wrong = prediction.FittedProbe("k", "p", None, None, lambda data: -data.labels)
    assert prediction.gain(probe, wrong, test).value == 1
    estimate = prediction.gain(probe, same, test)
    assert estimate.value == 0
    assert estimate.ci_low < 0 < estimate.ci_high


def test_estimates_are_one_number_with_its_interval(planted_datasets):
    table = table_of(planted_datasets)
    auroc = prediction.estimates(table, "auroc")
    assert auroc.value.tolist() == table.auroc.tolist()
    assert auroc.ci_low.tolist() == table.auroc_low.tolist()
    assert not {"accuracy", "auroc", "accuracy_low"} & set(auroc)
