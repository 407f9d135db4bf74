"""The figures of the localization chapter."""

import json

import pandas as pd
import pytest

from memgen.figures import localization, theme
from tests.figures import data_of, rows

SITES, TARGETS = ["resid_post", "mlp.hook_post"], ["memorization", "generalization"]
LABELS = ["observed", "null (group sign flips)"]
SETS = pd.concat(
    [
        rows(site=SITES, ranking=["r", "nmd"], end=["top", "bottom"], share=[0.1, 1.0], target=TARGETS),
        rows(site=SITES, ranking=["random"], end=["random"], share=[0.1, 1.0], target=TARGETS).assign(value=0.2),
    ],
    ignore_index=True,
)
CHARTS = {
    "heat_map": lambda: localization.heat_map(rows(site=SITES, layer=[0, 1], rank=range(8)).assign(nmd=0.1)),
    "patched heads": lambda: localization.patched(
        rows(part=["a", "b"], layer=[0, 1], head=range(4), target=TARGETS), "head", "share"
    ),
    "patched parts": lambda: localization.patched(rows(layer=[0], part=["a", "b"], target=TARGETS), "part", "share"),
    "by_layer": lambda: localization.by_layer(rows(site=SITES, layer=[0, 1], labels=LABELS), "mean |r|"),
    "by_layer of targets": lambda: localization.by_layer(rows(site=SITES, layer=[0], target=TARGETS), "s", "target"),
    "by_layer of parts": lambda: localization.by_layer(
        rows(p=["a", "b"], layer=[0], target=TARGETS), "s", "target", "p"
    ),
    "projections": lambda: localization.projections(
        rows(projection=["q_proj"], part=["base", "adapter"], layer=[0, 1])
    ),
    "patched_sets": lambda: localization.patched_sets(SETS, "share"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_has_words_and_shows_the_tables_intervals(name):
    chart = CHARTS[name]()
    assert chart.description
    if name not in ("heat_map", "projections"):  # of single neurons, and means over the neurons of a layer
        assert {row["interval"] for row in data_of(chart)} == {"0.400 to 0.600"}
        assert '"field": "n"' in json.dumps(chart.to_dict())


def test_heat_map_is_centred_on_zero():
    frame = rows(site=SITES, layer=[0], rank=range(4)).assign(nmd=[4.0, 1.0, 0.0, -1.0, 0.1, 0.0, 0.0, -0.2])
    before = frame.copy()
    chart = localization.heat_map(frame)
    assert [row["scaled"] for row in data_of(chart)] == [1, 0.25, 0, -0.25, 0.5, 0, 0, -1]
    assert chart.to_dict()["spec"]["encoding"]["color"]["scale"]["domain"] == [-1, 0, 1]
    pd.testing.assert_frame_equal(frame, before)


def test_random_sets_stand_in_every_panel_of_their_site():
    shown = pd.DataFrame(data_of(localization.patched_sets(SETS, "share")))
    panels = shown[shown.end == "random"].groupby("panel").value.agg(["size", "mean"])
    assert set(panels.index) == {f"{theme.SITE_NAMES[site]}, |{ranking}|" for site in SITES for ranking in ("r", "NMD")}
    assert (panels["size"] == 2 * 2).all()  # sizes, targets
    assert panels["mean"].to_list() == pytest.approx([0.2] * 4)


def test_panels_of_heads_have_a_row_for_each_part():
    frame = rows(target=TARGETS, part=["whole", "end"], layer=[0], head=[0, 1])
    shown = pd.DataFrame(data_of(localization.patched(frame, "head", "share")))
    assert list(shown.panel.unique()) == [f"{part}, to {target}" for part in ("whole", "end") for target in TARGETS]


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="needs the columns labels; the frame has site"):
        localization.by_layer(rows(site=SITES, layer=[0]), "x")
