"""Numbers of many runs beside one another, done by hand."""

import numpy as np
import pandas as pd
import pytest

from memgen.carryover import tables
from memgen.config import InputError


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
