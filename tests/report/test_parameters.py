"""Wrong parameters end with one sentence before anything is touched."""

import pandas as pd
import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import parameters
from tests.report.stage_runs import make, namespace, snapshot


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"sed": 1},
            "The parameter 'sed' is unknown; this notebook has profile, task, model, seed, results.",
        ),
        ({"seed": "x"}, "The parameter seed must be a whole number, not 'x'."),
        ({"seed": True}, "The parameter seed must be a whole number, not True."),
        ({"seed": 1.0}, "The parameter seed must be a whole number, not 1.0."),
        ({"seed": -1}, "The parameter seed must be 0 or more, not -1."),
        ({"task": 3}, "The parameter task must be text, not 3."),
        ({"task": "chess"}, "chess"),
        ({"model": "bert"}, "bert"),
        ({"profile": "huge"}, "huge"),
    ],
)
def test_bad_parameters_touch_nothing(project, given, message):
    before = snapshot(make("data").parent)
    with pytest.raises(InputError) as error:
        report.begin("data", namespace(**given))
    assert message in str(error.value)
    assert snapshot(project / "results/tiny/inference/gpt2-2x32/seed0") == before


def test_parameters_of_interactive_and_scripted_runs():
    cell = 'profile: str = "tiny"\nresults: str = "results"  # where\nrate: float = 0.5\n'
    values = {"profile": "tiny", "results": "results", "rate": 1}
    # Edited and run again in Jupyter: the last parameters cell counts, whatever came before and after.
    history = [
        "",
        "# Parameters\nold = 1",
        "get_ipython().magic('x')\n%oops",
        cell.replace("rate", "old"),
        cell,
        "n: int = 3",
    ]
    assert parameters.read({**values, "n": 3, "In": history}) == values
    # An executed copy, opened and run again, holds papermill's cell.
    with pytest.raises(InputError, match="'old' is unknown"):
        parameters.read({**values, "In": [*history, "# Parameters\nold = 1\n"]})
    # python notebooks/training.py
    annotations = {"profile": str, "results": "str", "rate": float, "frame": pd.DataFrame}
    assert parameters.read({**values, "__annotations__": annotations}) == values
    with pytest.raises(ValueError, match="must annotate its parameters"):
        parameters.read(values)


def test_unknown_stage():
    with pytest.raises(ValueError, match="stage must be one of data, training"):
        report.begin("trainin", namespace())
