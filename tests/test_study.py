"""The numbers of the study: whole, and of the order that its text reports."""

import pandas as pd
import pytest

from memgen.study import PROBE, STEERING


def test_every_setting_has_both_directions_and_its_shares_are_whole():
    frame = pd.DataFrame(STEERING)
    assert (frame.groupby(["setting", "model", "task"]).target.nunique() == 2).all()
    assert not frame.duplicated(["setting", "model", "task", "target"]).any()
    assert frame[["reached", "stayed", "other"]].sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-9)
    assert set(frame.setting) == {"scratch", "lora", "retrained", "other_task", "random"}


def test_it_is_easier_to_steer_to_generalization_and_random_shifts_reach_nothing():
    reached = pd.DataFrame(STEERING).pivot(index=["setting", "model", "task"], columns="target", values="reached")
    real = reached.drop(index="random")
    assert (real.generalization > real.memorization).all()
    assert (reached.loc["random"] == 0).all(axis=None)


def test_probes_rise_with_depth():
    for _, rows in pd.DataFrame(PROBE).groupby(["model", "task"]):
        assert rows.layer.is_monotonic_increasing
        assert rows.accuracy.is_monotonic_increasing
        assert (rows.layer <= rows.n_layers).all()
        assert rows.accuracy.between(0.5, 0.9).all()
