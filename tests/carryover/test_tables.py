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
    runs = [run(range(3)), run(range(3), model="llama-3x64"), run(range(3), task="addition")]
    metrics = pd.concat(runs, ignore_index=True)
    numbers = tables.differing(summary.headline(metrics), "model", ["base_task"])
    assert set(numbers.base_task) == {"inference"}
    assert numbers.model.drop_duplicates().tolist() == ["gpt2-3x64", "llama-3x64"]
    assert numbers.quantity.iloc[0] == "memorized-only accuracy"
    assert tables.differing(summary.headline(metrics), "conflicts", ["base_task", "model"]).empty
    half = pd.concat([metrics, run(range(3)).assign(conflicts="half")], ignore_index=True)
    numbers = tables.differing(summary.headline(half), "conflicts", ["base_task", "model"])
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
    """Published results that have a single table."""

    label = "Published results of the profile full"

    def table(self, stage, name, run=""):
        if (stage, name) != ("carryover", "seeds"):
            raise InputError(f"no {name}")
        return pd.DataFrame({"value": [1.0]})


def test_published_results_stand_in_where_a_profile_has_none():
    rows, none = pd.DataFrame({"value": [0.5]}), pd.DataFrame()
    assert tables.or_published(rows, Shelf(), "seeds") == (rows, "")
    found, note = tables.or_published(none, Shelf(), "seeds")
    assert (found.value.tolist(), note) == ([1.0], " Published results of the profile full.")
    for shelf, name in ((None, "seeds"), (Shelf(), "sizes")):
        found, note = tables.or_published(none, shelf, name)
        assert (found.empty, note) == (True, "")
