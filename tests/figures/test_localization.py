"""The figures of the localization chapter."""

import json

import numpy as np
import pandas as pd
import pytest

from memgen.figures import localization
from tests.figures import data_of, rows

SITES, TARGETS = ["resid_post", "mlp.hook_post"], ["memorization", "generalization"]
LABELS = ["observed", "null (group sign flips)"]
NEURONS = rows(site=SITES, layer=[0, 1], rank=range(8)).assign(neuron=3, nmd=0.1)
NEURONS[list(localization.QUANTILES)] = np.arange(10.0)
SETS = pd.concat(
    [
        rows(site=SITES, ranking=["r", "nmd"], end=["top", "bottom"], share=[0.1, 1.0], target=TARGETS),
        rows(site=SITES, ranking=["random"], end=["random"], share=[0.1, 1.0], target=TARGETS).assign(value=0.2),
    ],
    ignore_index=True,
)
CHARTS = {
    "heat_map": lambda: localization.heat_map(NEURONS),
    "by_layer": lambda: localization.by_layer(rows(site=SITES, layer=[0, 1], labels=LABELS), "mean |r|"),
    "by_layer of targets": lambda: localization.by_layer(rows(site=SITES, layer=[0], target=TARGETS), "s", "target"),
    "by_category": lambda: localization.by_category(rows(site=SITES, ranking=["r"], labels=LABELS), "ranking", "x"),
    "patched_sets": lambda: localization.patched_sets(SETS, "share"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_has_words_and_shows_the_tables_intervals(name):
    chart = CHARTS[name]()
    assert chart.description
    if name != "heat_map":
        assert {row["interval"] for row in data_of(chart)} == {"0.400 to 0.600"}
        assert '"field": "n"' in json.dumps(chart.to_dict())


def test_heat_map_is_centred_on_zero():
    frame = rows(site=SITES, layer=[0], rank=range(4)).assign(nmd=[4.0, 1.0, 0.0, -1.0, 0.1, 0.0, 0.0, -0.2])
    before = frame.copy()
    chart = localization.heat_map(frame)
    assert [row["scaled"] for row in data_of(chart)] == [1, 0.25, 0, -0.25, 0.5, 0, 0, -1]
    assert chart.to_dict()["spec"]["encoding"]["color"]["scale"]["domain"] == [-1, 0, 1]
    pd.testing.assert_frame_equal(frame, before)


def test_every_neuron_can_be_chosen_and_the_chart_begins_with_the_largest_difference():
    frame = NEURONS.assign(nmd=np.where(NEURONS.index == 13, 7.0, 0.1))
    specification = localization.heat_map(frame).to_dict()
    binds = {parameter["name"]: parameter.get("bind", {}) for parameter in specification["params"]}
    assert binds["at_site"]["options"] == SITES
    assert (binds["at_layer"]["max"], binds["at_rank"]["max"]) == (1, 7)
    start = {parameter["name"]: parameter["value"] for parameter in specification["params"]}
    assert start == {"at_site": frame.site[13], "at_layer": frame.layer[13], "at_rank": frame["rank"][13]}
    assert set(specification["usermeta"]["pick"]) == set(start)
    shown = pd.DataFrame(specification["datasets"][specification["vconcat"][1]["data"]["name"]])
    assert len(shown) == 2 * len(frame)
    (row,) = shown.query("behavior == 'generalization' and site == @SITES[1] and layer == 0 and rank == 2").itertuples()
    assert [row.q10, row.q25, row.q50, row.q75, row.q90] == [5, 6, 7, 8, 9]


def test_random_sets_stand_in_every_panel_of_their_site():
    shown = pd.DataFrame(data_of(localization.patched_sets(SETS, "share")))
    panels = shown[shown.end == "random"].groupby("panel").value.agg(["size", "mean"])
    assert set(panels.index) == {f"{site}, |{ranking}|" for site in SITES for ranking in ("r", "nmd")}
    assert (panels["size"] == 2 * 2).all()  # sizes, targets
    assert panels["mean"].to_list() == pytest.approx([0.2] * 4)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="needs the columns labels; the frame has site"):
        localization.by_layer(rows(site=SITES, layer=[0]), "x")
