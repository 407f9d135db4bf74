"""The figures of steering: valid, with their intervals, and with controls that start where the rule says."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from memgen.figures import steering, theme
from memgen.steering.sweep import COSTS
from tests.figures import entries

TARGETS = list(theme.TARGETS)
STUDY = {"memorization": 0.4, "generalization": 0.8}


def rows(**columns):
    """A row for each combination, with an estimate."""
    frame = pd.DataFrame(list(itertools.product(*columns.values())), columns=list(columns))
    value = np.random.default_rng(0).random(len(frame))
    return frame.assign(value=value, ci_low=value - 0.1, ci_high=value + 0.1, n=84)


RATES = rows(
    method=["study", "fitted_mlp"], control=[None, "best"], target=TARGETS, measure=["reached", "stayed", "other"]
)
GRID = rows(
    n_neurons=[1, 10], alpha=[1.0, 4.0, 16.0], target=TARGETS, measure=["reached", "other", "best_control", "net"]
)
GRID.loc[(GRID.n_neurons == 10) & (GRID.alpha == 4) & (GRID.measure == "net"), "value"] = 9.0
FRONTIER = rows(method=["study", "fitted_mlp"], target=TARGETS, candidate=["all"], alpha=[1.0, 2.0], cost=COSTS).assign(
    dose=1.0, cost_value=0.2, cost_low=0.1, cost_high=0.3, is_chosen=False, is_frontier=True
)
FRONTIER.loc[FRONTIER.alpha == 2, "is_chosen"] = True
DOSES = rows(dose=[0.0, 1.0], target=TARGETS, candidate=["shift", "random direction"], measure=["reached", "wrong_way"])
CHARTS = {
    "outcomes": (steering.outcomes, (RATES,)),
    "outcomes beside the study's": (steering.outcomes, (RATES, STUDY)),
    "sweep": (steering.sweep, (GRID,)),
    "frontier": (steering.frontier, (FRONTIER, STUDY)),
    "frontier of another task": (steering.frontier, (FRONTIER, {})),
    "collateral": (steering.collateral, (FRONTIER[FRONTIER.cost.str.startswith("lost")],)),
    "dose": (steering.dose, (DOSES,)),
    "log-odds by dose": (steering.dose, (DOSES.assign(measure="log_odds"),)),
}


@pytest.fixture(params=CHARTS)
def chart(request):
    draw, arguments = CHARTS[request.param]
    return draw(*arguments)


def data(chart):
    return pd.DataFrame([row for part in chart.to_dict()["datasets"].values() for row in part])


def test_valid_with_theme_and_alternative_text(chart):
    specification = chart.to_dict()  # checks it against Vega-Lite's schema
    assert chart.description
    assert specification["config"]["axis"]["labelColor"] == theme.INK
    assert "http" not in json.dumps(specification).replace(specification["$schema"], "")
    for part in specification.get("vconcat", [specification]):
        if "facet" in part:
            assert part["columns"] * part["spec"]["width"] <= theme.FACETS_WIDTH


def test_every_share_is_shown_with_the_interval_of_its_row(chart):
    """No interval is computed where the chart is drawn."""
    assert "sqrt" not in json.dumps(chart.to_dict())
    for tooltip in entries(chart.to_dict(), "tooltip"):
        assert {"value", "interval", "n"} <= {entry["field"] for entry in tooltip}
    for row in data(chart).itertuples():
        low, high = (float(bound.strip("%")) for bound in row.interval.split(" to "))
        scale = 100 if "%" in row.interval else 1
        assert [low, high] == pytest.approx([scale * row.ci_low, scale * row.ci_high], abs=0.06)


@pytest.mark.parametrize("name", CHARTS)
def test_a_missing_column_is_named_and_the_frame_left_alone(name):
    draw, (frame, *rest) = CHARTS[name]
    before = frame.copy()
    draw(frame, *rest).to_dict()
    pd.testing.assert_frame_equal(frame, before)
    for column in ("ci_low", "target"):
        with pytest.raises(ValueError, match=f"needs the columns {column}"):
            draw(frame.drop(columns=column), *rest)


def test_bars_say_what_inputs_become():
    bars = data(steering.outcomes(RATES)).set_index(["target", "measure"]).behavior
    assert set(bars["memorization", "reached"]) == set(bars["generalization", "stayed"]) == {"memorization"}
    assert set(bars["generalization", "reached"]) == set(bars["memorization", "stayed"]) == {"generalization"}
    assert set(bars["memorization", "other"]) == {"other"}


def sliders(chart):
    bound = [entry for params in entries(chart.to_dict(), "params") for entry in params if "bind" in entry]
    return {entry["name"]: entry for entry in bound}


def test_sliders_step_through_every_n_and_alpha_and_start_at_the_largest_net_effect():
    chart = steering.sweep(GRID)
    assert {
        name: (entry["bind"]["min"], entry["bind"]["max"], entry["value"]) for name, entry in sliders(chart).items()
    } == {
        "at_n": (0, 1, 1),
        "at_alpha": (0, 2, 1),
    }
    assert chart.to_dict()["usermeta"]["steps"] == {"at_n": ["1", "10"], "at_alpha": ["1", "4", "16"]}


def test_what_sliders_choose_is_the_row_of_the_sweep():
    specification = steering.sweep(GRID).to_dict()
    _, bars = specification["vconcat"]
    shown = pd.DataFrame(specification["datasets"][bars["data"]["name"]]).query("at_n == 0 and at_alpha == 2")
    expected = GRID.query("n_neurons == 1 and alpha == 16 and measure != 'net'")
    keys = ["target", "measure"]
    assert shown.set_index(keys).value.to_dict() == expected.set_index(keys).value.to_dict()


def test_one_n_alone_needs_no_slider():
    assert set(sliders(steering.sweep(GRID[GRID.n_neurons == 10]))) == {"at_alpha"}


def test_diamonds_are_the_shares_that_the_study_reports_for_its_shift():
    shown = data(steering.outcomes(RATES, STUDY)).dropna(subset="reported")
    assert set(shown.method) == {"study"}
    assert shown.measure.tolist() == ["reached"] * 2
    assert dict(zip(shown.target, shown.reported, strict=True)) == STUDY
    assert data(steering.outcomes(RATES)).reported.isna().all()


def test_the_frontier_sets_the_study_against_its_strongest_control():
    shown = data(steering.frontier(FRONTIER, STUDY)).dropna(subset="method")
    assert (set(shown.method), set(shown.cost)) == ({"study"}, {"best_control"})
    assert shown.set_index("target").reported.to_dict() == STUDY


def test_collateral_has_a_panel_for_each_target_and_kind_and_marks_the_chosen():
    lost = FRONTIER[FRONTIER.cost.str.startswith("lost")]
    specification = steering.collateral(lost).to_dict()
    shown = pd.DataFrame(next(iter(specification["datasets"].values())))
    assert shown.title.nunique() == 2 * lost.cost.nunique()
    filters = [step["filter"] for steps in entries(specification, "transform") for step in steps]
    assert "datum.is_chosen" in filters
    assert len(set(entries(specification["spec"], "range").__next__())) == 2  # a colour for each method
