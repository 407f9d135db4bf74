"""The study's cells with ours beside them."""

import numpy as np
import pandas as pd
import pytest

from memgen import intervals, study
from memgen.synthesis import cells
from tests.synthesis.runs import plant, run

NEW = range(10, 14)
TO_MEMORIZATION = {"task": "addition", "target": "memorization"}


def cell(table, **where):
    """The one row of a table with these values."""
    (row,) = table[(table[list(where)] == pd.Series(where)).all(axis=1)].itertuples()
    return row


def test_the_same_model_over_seeds():
    values = [0.1, 0.2, 0.4, 0.3]
    here = "measure == 'reached' and method == 'study' and target == 'memorization' and population == 'conflicts'"
    metrics = plant(run(NEW), f"{here} and control.isna()", values)
    table = cells.same_model(pd.concat([metrics, run(NEW, "matched")], ignore_index=True))
    assert list(table) == cells.COLUMNS
    row = cell(table, **TO_MEMORIZATION, outcome="reached", ours=cells.POPULATIONS["conflicts"])
    assert (row.setting, row.value, row.ci_low, row.ci_high, row.n) == ("scratch", *intervals.over_seeds(values))
    on_seen = cell(table, **TO_MEMORIZATION, outcome="reached", ours=cells.POPULATIONS["seen_flip_pairs"])
    assert on_seen.value == pytest.approx(0.6, abs=0.01)
    random = {
        outcome: cell(table, **TO_MEMORIZATION, setting="random", outcome=outcome).value
        for outcome in ("reached", "other")
    }
    assert random == pytest.approx({"reached": 0.5, "other": 0.7}, abs=0.01)
    assert not table.duplicated([*cells.CELL, "ours"]).any()


def test_adapters_stand_by_themselves_with_the_interval_of_their_run():
    values = [0.1, 0.2]
    here = "measure == 'reached' and method == 'study' and target == 'memorization' and population == 'conflicts'"
    metrics = plant(run([20, 21], task="inference"), f"{here} and control.isna()", values)
    metrics.loc[metrics.query(f"{here} and control.isna()").index, ["ci_low", "ci_high", "n"]] = [0.05, 0.3, 77]
    table = cells.adapters(metrics)
    assert list(table) == cells.COLUMNS
    assert not table.duplicated([*cells.CELL, "ours"]).any()
    to_memorization = TO_MEMORIZATION | {"task": "inference"}
    for seed, value in zip((20, 21), values, strict=True):
        row = cell(table, **to_memorization, outcome="reached", ours=f"{cells.POPULATIONS['conflicts']}, seed {seed}")
        assert (row.setting, row.value, row.ci_low, row.ci_high, row.n) == ("lora", value, 0.05, 0.3, 77)
    of_lora = [row for row in study.STEERING if "LoRA" in row["model"]]
    beside = cells.beside(of_lora, table)
    assert cell(beside, **to_memorization, setting="lora", outcome="reached", ours=row.ours).study == 0.509


CARRIED = pd.DataFrame(
    [
        {"measure": "reached", "match": match, "control": control, "value": value}
        for match, control, value in [
            ("own", None, 0.9),
            ("index", None, 0.1),
            ("index", "random_neurons", 0.05),
            ("matched", None, 0.5),
            ("matched", "random_neurons", 0.06),
        ]
    ]
).assign(**TO_MEMORIZATION, ci_low=np.nan, ci_high=np.nan, n=3)


def test_a_retrained_model_has_two_matches_and_a_control():
    elsewhere = pd.DataFrame({"measure": ["overlap_across_seeds"], "match": ["index"], "value": [0.3]})
    table = cells.retrained_model(pd.concat([CARRIED, elsewhere], ignore_index=True))
    assert dict(zip(table.ours, table.value, strict=True)) == {
        "same index": 0.1,
        "matched by correlation": 0.5,
        "random neurons, equal norm": 0.05,
    }
    assert set(table.setting) == {"retrained"}
    assert cells.retrained_model(elsewhere.drop(columns="match")).empty


def test_the_other_task_is_where_a_shift_was_applied():
    transferred = pd.DataFrame(
        {
            "source": ["graded_inference", "graded_inference"],
            "destination": ["graded_inference", "graded_addition"],
            "target": "memorization",
            "value": [1.0, 0.2],
            "other": [0.0, 0.5],
            "ci_low": 0.1,
            "ci_high": 0.3,
            "n": 5,
        }
    )
    table = cells.other_task(transferred, "fitted shift").set_index("outcome")
    assert table.value.to_dict() == pytest.approx({"reached": 0.2, "stayed": 0.3, "other": 0.5})
    assert set(table.task) == {"addition"}
    assert table.ci_low.notna().to_dict() == {"reached": True, "stayed": False, "other": False}


def test_every_cell_of_the_study_is_there_once_for_each_of_our_numbers():
    table = cells.beside(study.STEERING, cells.retrained_model(CARRIED))
    of_study = pd.DataFrame(study.STEERING).drop_duplicates(["setting", "task", "target"])
    assert len(table.drop_duplicates(cells.CELL)) == 3 * len(of_study)
    ours = table[(table.setting == "retrained") & (table.target == "memorization") & (table.task == "addition")]
    ours = ours[ours.outcome == "reached"]
    assert ours.ours.tolist() == ["same index", "matched by correlation", "random neurons, equal norm"]
    assert ours.study.tolist()[:2] == [0.574, 0.574]
    assert np.isnan(ours.study.iloc[2])  # of a control that the study does not have
    rest = table.drop(ours.index)
    assert set(rest.ours) == {cells.NOT_MEASURED}
    assert (rest.n == 0).all()
    assert rest.value.isna().all()


def test_cells_in_percent():
    reported = [{"setting": "retrained", "model": "m", **TO_MEMORIZATION, "reached": 0.7, "stayed": 0.2, "other": 0.1}]
    carried = CARRIED.assign(ci_low=0.05, ci_high=0.6)
    table = cells.in_percent(cells.beside(reported, cells.retrained_model(carried)))
    matched = table[table.ours == "matched by correlation"].iloc[0]
    assert matched[["n", "reached, study", "reached, ours"]].tolist() == [3, "70.0", "50.0 [5.0, 60.0]"]
    nothing = cells.in_percent(cells.beside(reported, cells.retrained_model(carried[:0]))).iloc[0]
    assert nothing[["ours", "other, study", "other, ours"]].tolist() == ["not measured", "10.0", ""]


def test_the_study_stands_beside_its_own_random_baseline_alone():
    baseline = cells.adapters(run(NEW)).query("setting == 'random'")
    assert baseline.ours.str.startswith(cells.CONTROLS["uniform"]).all()
    control = baseline.assign(ours=baseline.ours.str.replace(*cells.CONTROLS.values()))  # of equal norm
    table = cells.beside(study.STEERING, pd.concat([baseline, control], ignore_index=True))
    reported = table[(table.setting == "random") & (table.outcome == "other")].groupby("ours").study.max()
    assert (reported[baseline.ours.unique()] == 1).all()
    assert reported[control.ours.unique()].isna().all()
