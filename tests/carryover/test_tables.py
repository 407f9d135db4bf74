"""Numbers of many runs beside one another, done by hand."""

import numpy as np
import pandas as pd
import pytest

from memgen import intervals
from memgen.carryover import tables
from memgen.config import InputError
from memgen.synthesis import summary
from tests.synthesis.runs import run


def test_differing_runs():
    runs = [
        run(range(3), task="inference"),
        run(range(3), task="inference", model="llama-3x64"),
        run(range(3)),
    ]
    metrics = pd.concat(runs, ignore_index=True)
    numbers = tables.differing(summary.headline(metrics), "model", ["base_task"])
    assert set(numbers.base_task) == {"inference"}
    assert numbers.model.drop_duplicates().tolist() == ["gpt2-3x64", "llama-3x64"]
    assert numbers.quantity.iloc[0] == "memorized-only accuracy"
    assert tables.differing(summary.headline(metrics), "task", ["base_task", "model"]).empty
    half = pd.concat([metrics, run(range(3)).assign(task="addition-half")], ignore_index=True)
    numbers = tables.differing(summary.headline(half), "task", ["base_task", "model"])
    assert set(numbers.model) == {"gpt2-3x64"}


def test_means_stand_beside_the_estimate():
    frame = pd.DataFrame(
        {"task": "t", "source": "a", "seed": range(4), "value": [0.2, 0.4, 0.3, 0.3], "other": [0.0, 0.0, 0.0, 0.2]}
    )
    row = tables.with_means(frame, ["task", "source"], "value", ["other"]).iloc[0]
    assert row[["task", "source", "n"]].tolist() == ["t", "a", 4]
    assert (row.value, row.other) == (pytest.approx(0.3), pytest.approx(0.05))
    assert (row.ci_low, row.ci_high) == intervals.over_seeds(frame.value)[1:3]


def test_last_layer():
    rows = [
        {"base_task": "t", "form": form, "seed": seed, "layer": layer, "value": auroc if layer == 2 else 0.99}
        for form, auroc in (("study", 0.9), ("matched", 0.6))
        for seed in range(4)
        for layer in (0, 1, 2)
    ]
    table = tables.last_layer(pd.DataFrame(rows)).set_index("form")
    assert table.value.to_dict() == pytest.approx({"study": 0.9, "matched": 0.6})
    assert table.left["matched"] == pytest.approx(0.25)
    assert np.isnan(table.left["study"])
    alone = tables.last_layer(pd.DataFrame(rows).query("form == 'matched'"))
    assert alone.left.isna().all()


class Shelf:
    """Published results that have a single table and a single number."""

    def __init__(self, label, name):
        self.label, self.name = label, name
        self.metrics = pd.DataFrame({"measure": [name], "value": [1.0]})

    def table(self, stage, name, run=""):
        if (stage, name) != ("carryover", self.name):
            raise InputError(f"no {name}")
        return pd.DataFrame({"value": [1.0]})


SHELVES = [Shelf("Published of full", "seeds"), Shelf("Published of graded", "mixes")]


@pytest.mark.parametrize(
    ("name", "note"), [("seeds", " Published of full."), ("mixes", " Published of graded."), ("sizes", "")]
)
def test_published_results_stand_in_where_a_profile_has_none(name, note):
    rows, none = pd.DataFrame({"measure": [name], "value": [0.5]}), pd.DataFrame(columns=["measure", "value"])

    def select(numbers):
        return numbers[numbers.measure == name]

    for find in (lambda shelf: shelf.table("carryover", name), lambda shelf: select(shelf.metrics)):
        assert tables.or_published(rows, SHELVES, find) == (rows, "")
        found, why = tables.or_published(none, SHELVES, find)
        assert (found.value.tolist(), why) == ([1.0] if note else [], note)
        assert tables.or_published(none, [], find) == (none, "")
