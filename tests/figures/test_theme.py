"""The look that all figures share, and what a pointer over a mark shows."""

import altair as alt
import numpy as np
import pandas as pd
import pytest

from memgen import behavior
from memgen.figures import theme
from memgen.tasks.common import KINDS
from tests.figures import rows, tooltips


def test_a_finished_chart_has_its_text_alternative_and_the_theme():
    chart = alt.Chart(rows(layer=[0, 1])).mark_point().encode(x="layer", y="value")
    content = theme.finish(chart, "Points rise.", labels=90, pick={"at_layer": "layer"}).to_dict()
    assert content["description"] == "Points rise."
    assert content["usermeta"] == {"labels": 90, "pick": {"at_layer": "layer"}}
    assert (content["width"], content["height"]) == ("container", theme.HEIGHT)
    assert "description" not in chart.to_dict()


def shown(frame, labels):
    """The fields that a pointer over a mark shows."""
    return tooltips(alt.Chart(frame).mark_point().encode(tooltip=theme.tooltip(frame, labels)).to_dict())


def test_tooltips_have_the_intervals_of_the_frame():
    frame = pd.DataFrame(
        {
            "method": ["study", "other"],
            "value": [0.4351, -0.5],
            "ci_low": [0.3876, np.nan],
            "ci_high": [0.5474, np.nan],
            "n": [84, 1],
        }
    )
    assert shown(frame, ["method"]) == {"method", "value", "interval", "n"}
    assert list(frame.interval) == ["0.388 to 0.547", "none"]
    theme.tooltip(frame, ["method"], form=".1%")
    assert list(frame.interval) == ["38.8% to 54.7%", "none"]


@pytest.mark.parametrize("missing", [["ci_low", "ci_high"], ["n"], []])
def test_tooltips_show_what_is_known(missing):
    frame = pd.DataFrame({"value": [0.5], "ci_low": [np.nan], "ci_high": [np.nan], "n": [3]}).drop(columns=missing)
    assert shown(frame, []) == {"value"} | ({"n"} if "n" in frame else set())  # too few seeds for an interval


def test_a_missing_column_is_named_and_frames_are_copied():
    frame = pd.DataFrame({"step": [1]})
    with pytest.raises(ValueError, match="needs the columns loss; the frame has step"):
        theme.require(frame, "step", "loss")
    copy = theme.require(frame, "step")
    copy["loss"] = 1.0
    assert list(frame) == ["step"]


def test_everything_that_tables_name_has_a_name_for_readers():
    assert set(theme.BEHAVIOR_COLORS) == set(behavior.LABELS)
    assert set(theme.KIND_NAMES) == set(theme.KIND_COLORS) == set(KINDS)
    for names in (theme.METHOD_NAMES, theme.CONTROL_NAMES, theme.POPULATION_NAMES, theme.KIND_NAMES):
        assert len(set(names.values())) == len(names)


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
    assert (lighter + 0.05) / (darker + 0.05) > 4  # the WCAG contrast; the book's script takes the page's ink
