"""Every figure: valid, in the agreed colours, with tooltips, fit for light, dark and small pages."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import vl_convert

from memgen.figures import data, localization, prediction, steering, synthesis, theme, training

SITES = ["resid_post", "mlp_out"]
TARGETS = list(theme.TARGETS)


def rows(**columns):
    """A frame with a row for each combination, and numbers in whatever column a figure may want."""
    frame = pd.DataFrame(list(itertools.product(*columns.values())), columns=list(columns))
    numbers = np.random.default_rng(0).random((len(frame), 2))
    for name in ("value", "accuracy", "share", "rate", "log_odds"):
        frame[name] = numbers[:, 0]
    return frame.assign(nmd=numbers[:, 1] - 0.5, r=numbers[:, 1] - 0.5, low=frame.value - 0.1, high=frame.value + 0.1)


PROBES = rows(site=SITES, layer=[0, 1, 2], probe=["linear probe"])
BASELINES = rows(site=[None], layer=[None], probe=["input only", "majority"])
BY_LAYER = pd.concat([PROBES, BASELINES], ignore_index=True)
METHODS = ["none", "top |r|"]
SIZES = {"number": [0.01, 0.1, 1.0], "direction": TARGETS}
RANKED = rows(site=SITES, ranking=["r", "nmd"], end=["top", "bottom"], **SIZES)
RANDOM = rows(site=SITES, ranking=["random"], end=["random"], **SIZES)
UNITS = pd.concat([RANKED, RANDOM], ignore_index=True)
UNITS["share"] = UNITS.number
CURVE = rows(site=SITES, measure=["pairs", "chance"], number=[0.0, 0.5, 1.0])
CURVE["share"] = CURVE.number
HEADLINE = rows(task=["inference", "addition"], measure=["accuracy", "steered"], seed=[0, 1])

PATCHED = rows(site=SITES, layer=[0, 1, 2], direction=TARGETS)
NEURONS = rows(site=SITES, layer=[0, 1], rank=range(8)).assign(neuron=3, n=9)
NEURONS[list(localization.QUANTILES)] = np.arange(10.0)
SWEEP = rows(n=[1, 10], alpha=[1.0, 4.0, 16.0], target=TARGETS, method=["study"])
SWEEP = SWEEP.assign(to_other=0.1, control=np.where((SWEEP.n == 10) & (SWEEP.alpha == 4), -9.0, 0.2), inputs=84)
TRIALS = rows(method=["study"], candidate=["top 1", "top 10"], strength=[1.0, 4.0], target=TARGETS)
TRIALS = TRIALS.assign(to_target=TRIALS.value, to_other=0.1, control=0.2, inputs=84)

BEHAVIORS = {theme.MEMORIZATION, theme.GENERALIZATION}
CHARTS = {  # name: chart, colours that must be in it
    "make_up": (
        lambda: data.make_up(rows(split=["train", "test"], kind=list(data.KIND_COLORS)).assign(n=10)),
        BEHAVIORS,
    ),
    "trajectory": (
        lambda: training.trajectory(rows(step=[0, 50, 100], measure=list(training.MEASURES)), chosen=50),
        BEHAVIORS | {theme.OTHER},
    ),
    "loss": (lambda: training.loss(rows(step=[0, 50, 100]).assign(loss=[3.0, 2.0, 1.0])), set()),
    "heat_map": (lambda: localization.heat_map(rows(site=SITES, layer=[0, 1], rank=range(8))), BEHAVIORS),
    "heat_map of one site": (
        lambda: localization.heat_map(rows(site=SITES[:1], layer=[0, 1], rank=range(8))),
        BEHAVIORS,
    ),
    "heat_map with neurons": (lambda: localization.heat_map(NEURONS), BEHAVIORS),
    "top_neurons": (lambda: localization.top_neurons(rows(layer=[0, 1], neuron=[3, 4, 5])), BEHAVIORS),
    "depth_profile": (
        lambda: localization.depth_profile(rows(site=SITES, layer=[0, 1, 2], measure=["mean |NMD|", "share"])),
        set(),
    ),
    "patching": (
        lambda: localization.patching(rows(site=SITES, layer=[0, 1, 2], direction=TARGETS)),
        BEHAVIORS,
    ),
    "units": (
        lambda: localization.units(UNITS, title="share that takes over the behaviour"),
        set(theme.CONTROLS[:3]),
    ),
    "stability": (
        lambda: localization.stability(rows(site=SITES, ranking=["r", "nmd"], measure=["pairs", "chance"])),
        set(theme.CONTROLS[:2]),
    ),
    "concentration": (
        lambda: localization.concentration(CURVE),
        set(theme.CONTROLS[:2]),
    ),
    "by_layer": (lambda: prediction.by_layer(BY_LAYER), set()),
    "by_layer with controls": (lambda: prediction.by_layer(BY_LAYER, controls=["linear probe"]), set()),
    "by_layer without baselines": (lambda: prediction.by_layer(PROBES), set()),
    "by_pairs": (lambda: prediction.by_pairs(rows(n_pairs=[8, 16, 32])), set()),
    "outcomes": (
        lambda: steering.outcomes(rows(method=METHODS, target=TARGETS, behavior=[*TARGETS, "other"])),
        BEHAVIORS | {theme.OTHER},
    ),
    "sweep": (
        lambda: steering.sweep(rows(n=[1, 10], alpha=[1.0, 4.0], target=TARGETS, method=METHODS)),
        BEHAVIORS,
    ),
    "sweep with sliders": (lambda: steering.sweep(SWEEP), BEHAVIORS),
    "trials": (lambda: steering.trials(TRIALS), set()),
    "dose": (lambda: steering.dose(rows(alpha=[0.0, 1.0, 2.0], target=TARGETS)), BEHAVIORS),
    "dose by method": (
        lambda: steering.dose(rows(alpha=[0.0, 1.0], target=TARGETS, method=METHODS)),
        BEHAVIORS,
    ),
    "dose_shares": (
        lambda: steering.dose_shares(
            rows(alpha=[0.0, 1.0], target=TARGETS, method=METHODS, measure=["to_target", "wrong_way"])
        ),
        BEHAVIORS,
    ),
    "parts": (
        lambda: steering.parts(
            rows(part=["whole", "layer 0 alone"], target=TARGETS).assign(to_target=0.5, norm=2, n=9)
        ),
        BEHAVIORS,
    ),
    "by_answer": (
        lambda: steering.by_answer(rows(answer=["red", "teal"], target=TARGETS).assign(n=9)),
        BEHAVIORS,
    ),
    "headline": (lambda: synthesis.headline(HEADLINE), set()),
    "depth": (
        lambda: synthesis.depth(rows(task=["inference", "addition"], seed=[0, 1], layer=[0, 1]).assign(ratio=2.0)),
        set(),
    ),
    "steering over seeds": (
        lambda: synthesis.steering(
            rows(task=["inference", "addition"], method=METHODS, target=TARGETS).assign(control=0.1)
        ),
        BEHAVIORS,
    ),
    "headline with intervals": (lambda: synthesis.headline(HEADLINE, HEADLINE.drop(columns="seed")), set()),
}


@pytest.fixture(params=CHARTS)
def name(request):
    return request.param


def parts(content, key):
    """Every value of `key`, at any depth."""
    if isinstance(content, dict):
        yield from (content[key] for _ in range(key in content))
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from parts(part, key)


def test_valid_with_tooltip_theme_and_colors(name):
    make, colors = CHARTS[name]
    specification = make().to_dict()  # checks it against Vega-Lite's schema
    text = json.dumps(specification)
    assert list(parts(specification, "tooltip"))
    assert all(color in text for color in colors)
    assert specification["config"]["background"] == "transparent"
    assert specification["config"]["axis"]["labelColor"] == theme.INK
    assert "http" not in text.replace(specification["$schema"], "")


def test_fits_a_small_page(name):
    """One view takes the width of its column; facets are ones that can wrap."""
    specification = CHARTS[name][0]().to_dict()
    for part in specification.get("vconcat", [specification]):
        if "facet" in part:
            assert part["columns"] * part["spec"]["width"] <= theme.FACETS_WIDTH
        else:
            assert part["width"] == (theme.FACETS_WIDTH if "vconcat" in specification else "container")


def controls(specification):
    """The parameters that have a control, by name: what the control is."""
    return {one["name"]: one["bind"] for one in parts_of(specification, "params") if "bind" in one}


def parts_of(specification, key):
    """The entries of all lists named `key`."""
    return [entry for found in parts(specification, key) for entry in found]


def test_sliders_step_through_every_n_and_alpha_and_start_at_the_best():
    specification = steering.sweep(SWEEP).to_dict()
    found = controls(specification)
    assert {name: (one["input"], one["min"], one["max"]) for name, one in found.items()} == {
        "at_n": ("range", 0, 1),
        "at_alpha": ("range", 0, 2),
    }
    assert specification["usermeta"]["steps"] == {"at_n": ["1", "10"], "at_alpha": ["1", "4", "16"]}
    assert {one["name"]: one["value"] for one in specification["params"]} == {"at_n": 1, "at_alpha": 1}


def test_what_sliders_choose_is_the_row_of_the_sweep():
    specification = steering.sweep(SWEEP).to_dict()
    _, bars = specification["vconcat"]
    shown = [row for row in specification["datasets"][bars["data"]["name"]] if (row["at_n"], row["at_alpha"]) == (0, 2)]
    expected = SWEEP[(SWEEP.n == 1) & (SWEEP.alpha == 16)].set_index("target")
    assert len(shown) == 2 * 3  # targets, outcomes
    for row in shown:
        column = {words: name for name, words in steering.OUTCOMES.items()}[row["outcome"]]
        assert row["share"] == expected.loc[row["target"], column]
        assert row["inputs"] == 84


def test_one_n_alone_needs_no_slider():
    assert set(controls(steering.sweep(SWEEP[SWEEP.n == 10]).to_dict())) == {"at_alpha"}


def test_every_neuron_can_be_chosen_and_the_first_is_the_one_that_differs_most():
    frame = NEURONS.assign(nmd=np.where(NEURONS.index == 13, 7.0, 0.1))
    specification = localization.heat_map(frame).to_dict()
    found = controls(specification)
    assert found["at_site"]["options"] == SITES
    assert (found["at_layer"]["max"], found["at_rank"]["max"]) == (1, 7)
    start = {one["name"]: one["value"] for one in specification["params"]}
    assert start == {"at_site": frame.site[13], "at_layer": frame.layer[13], "at_rank": frame["rank"][13]}
    assert set(specification["usermeta"]["pick"]) == set(start)
    _, detail = specification["vconcat"]
    told = specification["datasets"][detail["data"]["name"]]
    assert len(told) == 2 * len(frame)
    (row,) = [
        one
        for one in told
        if one["behavior"] == "generalization" and (one["site"], one["layer"], one["rank"]) == (SITES[1], 0, 2)
    ]
    assert [row[f"q{q}"] for q in localization.SHOWN_QUANTILES] == [5, 6, 7, 8, 9]
    assert row["last"] == 7


def test_every_candidate_can_be_chosen():
    specification = steering.trials(TRIALS).to_dict()
    assert controls(specification)["at_name"]["options"] == ["study: top 1", "study: top 10"]


@pytest.mark.parametrize("chart", ["sweep with sliders", "trials"])
def test_controls_stand_at_the_top_where_all_views_see_them(chart):
    specification = CHARTS[chart][0]().to_dict()
    assert specification["params"]
    assert len(parts_of(specification, "params")) == len(specification["params"])


def test_n_is_told_where_it_is_known():
    with_n, without = (json.dumps(localization.patching(frame).to_dict()) for frame in (PATCHED.assign(n=12), PATCHED))
    assert '"field": "n"' in with_n
    assert '"field": "n"' not in without


def test_frames_are_left_alone():
    frame = rows(site=SITES, layer=[0, 1], rank=range(4))
    before = frame.copy()
    localization.heat_map(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_missing_column_is_named():
    with pytest.raises(ValueError, match="needs the columns loss; the frame has step"):
        training.loss(pd.DataFrame({"step": [1]}))


def test_unknown_measure_is_named():
    with pytest.raises(ValueError, match="not accuracy"):
        training.trajectory(pd.DataFrame({"step": [1], "measure": ["accuracy"], "rate": [1.0]}))


def test_random_sets_of_units_stand_in_every_panel_of_their_site():
    specification = localization.units(UNITS).to_dict()
    (data_rows,) = specification["datasets"].values()
    panels = {row["panel"] for row in data_rows}
    assert panels == {f"{site}, |{ranking}|" for site in SITES for ranking in ("r", "nmd")}
    for panel in panels:
        own = [row for row in data_rows if row["panel"] == panel and row["end"] == "random"]
        assert [row["value"] for row in own] == UNITS[
            (UNITS.site == panel.split(",")[0]) & (UNITS.end == "random")
        ].value.to_list()
    assert len(data_rows) == 2 * 2 * 3 * 3 * 2  # sites, rankings, ends, sizes, directions


def test_heat_map_is_centred_on_zero():
    frame = rows(site=SITES, layer=[0], rank=range(4)).assign(nmd=[4.0, 1.0, 0.0, -1.0, 0.1, 0.0, 0.0, -0.2])
    specification = localization.heat_map(frame).to_dict()
    (data_rows,) = specification["datasets"].values()
    assert [row["scaled"] for row in data_rows] == [1, 0.25, 0, -0.25, 0.5, 0, 0, -1]
    assert specification["spec"]["encoding"]["color"]["scale"]["domain"] == [-1, 0, 1]


def test_baselines_stand_in_every_site():
    (data_rows,) = prediction.by_layer(BY_LAYER).to_dict()["datasets"].values()
    baselines = [(row["site"], row["probe"]) for row in data_rows if row["layer"] is None]
    assert sorted(baselines) == sorted(itertools.product(SITES, ["input only", "majority"]))


def test_controls_are_dashed_and_baselines_are_told_apart():
    def layers(**more):
        return prediction.by_layer(BY_LAYER, **more).to_dict()["spec"]["layer"]

    lines = [layer["mark"] for layer in layers(controls=["linear probe"]) if layer["mark"]["type"] == "line"]
    assert [("strokeDash" in line) for line in lines] == [False, True]
    assert not any("strokeDash" in layer["mark"] for layer in layers())
    (rule,) = [layer for layer in layers() if layer["mark"]["type"] == "rule"]
    scale = rule["encoding"]["strokeDash"]["scale"]
    assert scale["domain"] == ["input only", "majority"]
    assert scale["range"][0] != scale["range"][1]


def test_colors_can_be_told_apart():
    shades = [theme.MEMORIZATION, theme.GENERALIZATION, theme.OTHER, *theme.CONTROLS]
    assert (theme.MEMORIZATION, theme.GENERALIZATION, theme.OTHER) == ("#0072B2", "#E69F00", "#777777")
    assert len(set(shades)) == len(shades)


@pytest.mark.parametrize("page", ["#FFFFFF", "#121212"])
def test_text_is_readable_on_light_and_dark_pages(page):
    def luminance(color):
        channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    lighter, darker = sorted([luminance(theme.INK), luminance(page)], reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) > 4  # the WCAG contrast; the book's script takes the page's own ink


def test_intervals_of_shares_are_wilsons():
    """As scipy computes them, with the digits that a tooltip shows."""
    counts = [(0, 5), (3, 7), (40, 40), (999, 2000)]
    frame = pd.DataFrame({"share": [k / n for k, n in counts], "n": [n for _, n in counts], "row": range(4)})
    chart, told = theme.with_interval(frame, "share", "n")
    assert [shown.to_dict()["title"] for shown in told] == ["95 % (Wilson)", "n"]
    drawing = vl_convert.vegalite_to_svg(chart.mark_text().encode(y="row:O", text="interval:N").to_dict())
    shown = re.findall(r">([^<]*% to [^<]*%)</text>", drawing)
    expected = [scipy.stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in counts]
    assert shown == [f"{interval.low:.1%} to {interval.high:.1%}" for interval in expected]
