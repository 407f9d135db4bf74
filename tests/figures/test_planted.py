"""The figure of planted memory."""

import pandas as pd

from memgen.figures import planted

from . import data_of

BLOCKS = ["attention 0", "attention 1", "MLP 0", "MLP 1"]


def test_a_point_says_what_was_planted_and_what_was_found():
    frame = pd.DataFrame(
        {"block": BLOCKS * 2, "found_block": [*BLOCKS, *["MLP 1"] * 4], "ranking": ["r"] * 4 + ["nmd"] * 4}
    )
    frame = frame.assign(rank=4, found=(frame.block == frame.found_block).astype(int))
    chart = planted.found(frame)
    shown = pd.DataFrame(data_of(chart))
    assert shown["is"].tolist() == ["the planted block"] * 4 + ["another block"] * 3 + ["the planted block"]
    assert shown.panel.unique().tolist() == ["|r|", "|NMD|"]
    specification = chart.to_dict()
    assert "62%" in " ".join(specification["title"])
    encoding = specification["spec"]["encoding"]
    assert encoding["x"]["scale"]["domain"] == BLOCKS == encoding["y"]["scale"]["domain"][::-1]


def test_bars_are_whole_and_in_the_order_of_the_plantings():
    shares = {"memorization": 0.5, "generalization": 0.3, "other": 0.2}
    rows = [(block, 4, name, value) for block in BLOCKS for name, value in shares.items()]
    chart = planted.behaviors(pd.DataFrame(rows, columns=["block", "rank", "behavior", "value"]))
    shown = pd.DataFrame(data_of(chart))
    assert (shown.groupby("planted").value.sum().round(9) == 1).all()
    assert chart.to_dict()["encoding"]["y"]["sort"] == [f"{block}, rank 4" for block in BLOCKS]
