"""What every figure must be: valid, with tooltips that have data, in words, fit for light, dark and small pages."""

import itertools
import json
import re

import pandas as pd

from memgen.figures import theme


def rows(**columns):
    """A frame with a row for each combination, with a value and an interval."""
    frame = pd.DataFrame(list(itertools.product(*columns.values())), columns=list(columns))
    return frame.assign(value=0.5, ci_low=0.4, ci_high=0.6, n=8)


def entries(content, key):
    """Every value of `key` in a specification, at any depth."""
    if isinstance(content, dict):
        yield from (content[key] for _ in range(key in content))
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from entries(part, key)


def flat(values):
    """Values, and those in lists among them."""
    return [part for value in values for part in (value if isinstance(value, list) else [value])]


def tooltips(content):
    """The fields of all tooltips of a specification."""
    return {shown["field"] for shown in flat(entries(content, "tooltip")) if "field" in shown}


def data_of(chart):
    """All rows of a chart's data."""
    return flat(chart.to_dict()["datasets"].values())


def check(chart, colors=()):
    """Assert what holds for every figure, whatever it shows."""
    content = chart.to_dict()  # checked against Vega-Lite's schema
    text = json.dumps(content)
    assert all(color in text for color in colors)
    assert content["config"]["background"] == "transparent"
    assert content["config"]["axis"]["labelColor"] == theme.INK
    assert "http" not in text.replace(content["$schema"], "")
    assert re.search(r"\w+ \w+ \w+", content["description"])
    shown, known = tooltips(content), {*flat(entries(content, "as"))}.union(*data_of(chart))
    assert shown
    assert shown <= known, f"tooltips without data: {shown - known}"
    for part in content.get("vconcat", [content]):
        if "facet" in part:
            assert part["columns"] * part["spec"]["width"] <= theme.FACETS_WIDTH
        else:
            assert part["width"] == (theme.FACETS_WIDTH if "vconcat" in content else "container")
