"""Figures of the prediction chapter."""

import itertools

import pandas as pd
import pytest

from memgen.figures import prediction

SITES = ["resid_post", "mlp.hook_post"]


def rows(kind, probe, sites, layers):
    places = pd.DataFrame(itertools.product(sites, layers), columns=["site", "layer"])
    return places.assign(kind=kind, probe=probe, value=0.6, ci_low=0.5, ci_high=0.7, n=40)


PROBES = pd.concat(
    [
        rows("hidden states", "hidden states", SITES, [0, 1, 2]),
        rows("control", "untrained network", SITES[:1], [0, 1, 2]),
    ]
)
BASELINES = pd.concat([rows("input alone", name, [None], [None]) for name in ("majority", "words")])
BY_LAYER = pd.concat([PROBES, BASELINES], ignore_index=True)


def layers_of(chart):
    return chart.to_dict()["spec"]["layer"]


@pytest.mark.parametrize("frame", [BY_LAYER, PROBES])
def test_accuracy_can_be_drawn_and_is_described(frame):
    chart = prediction.accuracy(frame)
    assert "accuracy" in chart.description
    assert chart.to_dict()["facet"]["field"] == "site"


def test_baselines_stand_in_every_panel():
    (data,) = prediction.accuracy(BY_LAYER).to_dict()["datasets"].values()
    baselines = [(row["site"], row["probe"]) for row in data if row["layer"] is None]
    assert sorted(baselines) == sorted(itertools.product(SITES, ["majority", "words"]))


def test_controls_are_dashed_and_baselines_differ():
    marks = [layer["mark"] for layer in layers_of(prediction.accuracy(BY_LAYER))]
    assert [("strokeDash" in mark) for mark in marks if mark["type"] == "line"] == [False, True]
    (rule,) = [layer for layer in layers_of(prediction.accuracy(BY_LAYER)) if layer["mark"]["type"] == "rule"]
    scale = rule["encoding"]["strokeDash"]["scale"]
    assert scale["domain"] == ["majority", "words"]
    assert scale["range"][0] != scale["range"][1]


def test_tooltips_show_the_intervals_of_the_table():
    (data,) = prediction.accuracy(BY_LAYER).to_dict()["datasets"].values()
    assert {row["interval"] for row in data} == {"0.500 to 0.700"}


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="kind"):
        prediction.accuracy(BY_LAYER.drop(columns="kind"))


def test_another_column_may_lie_across_and_another_divide_panels():
    """Also with a rule that has neither, such as a number of the study."""
    frame = BY_LAYER[BY_LAYER.kind == "hidden states"].rename(columns={"layer": "neurons", "site": "place"})
    rule = pd.DataFrame({"kind": "study", "probe": "the study's", "value": [0.88]})
    chart = prediction.accuracy(pd.concat([frame, rule]), x="neurons", panel="place", columns=2).to_dict()
    assert (chart["facet"]["field"], chart["columns"]) == ("place", 2)
    line = chart["spec"]["layer"][1]
    assert line["encoding"]["x"]["field"] == "neurons"
    (data,) = chart["datasets"].values()
    assert sorted(row["place"] for row in data if row["neurons"] is None) == sorted(SITES)
