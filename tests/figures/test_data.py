"""Figures of the data chapter."""

import itertools

import pandas as pd

from memgen.figures import data, theme
from tests.figures import check, data_of

COUNTS = pd.DataFrame(itertools.product(["train", "test"], ["conflict", "memorized_only"]), columns=["split", "kind"])
COUNTS["n"] = [300, 20, 150, 10]


def test_composition():
    before = COUNTS.copy()
    chart = data.composition(COUNTS)
    check(chart, {theme.MEMORIZATION, theme.CONTROLS[1]})
    assert "in test, most (150) are conflict" in chart.description
    assert {row["name"]: row["rank"] for row in data_of(chart)} == {"memorized-only": 0, "conflict": 3}
    pd.testing.assert_frame_equal(COUNTS, before)
