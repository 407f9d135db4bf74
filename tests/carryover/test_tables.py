"""Published results stand in where a profile has none."""

import pandas as pd
import pytest

from memgen.carryover import tables
from memgen.config import InputError


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
